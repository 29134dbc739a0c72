"""Result: one trial as the journal tells of it, and its trained model if the weights were kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import ConfigurationError
from .pareto import beaten
from .trial import Scalar

if TYPE_CHECKING:
    from .results import Results
    from .training.runner import Place, Recipe, State
    from .trial import Trial


Point = tuple[tuple[float, ...], int, int, int, int]
"""A report by its values: (values, turn, trial, id of the report, step)."""


class TrialError(NamedTuple):
    """A failed trial: its id, how it failed, the line that says why, and the whole traceback."""

    trial: int
    kind: str
    line: str
    traceback: str


@dataclass(frozen=True)
class Result:
    """A trial and the report it is shown with (its best one, unless another was asked for).

    `reported`: the metrics of that report. `metrics`: the same, and beside them `training_iteration`, `time_total_s` (study time
    since its launch), `trial_id`, `config` and `done`, unless the trial reported a metric of that name. `step` None: it has not
    reported yet. `state`: running, resting, completed, stopped or failed. `error`: a failed trial's traceback. `path`: its folder,
    which exists if something was written there; None for a study in memory.
    """

    trial: int
    config: dict[str, Any]
    metrics: dict[str, Any]
    reported: dict[str, Any]
    step: int | None
    state: str
    error: str | None
    path: Path | None
    _study: Results = field(repr=False, compare=False)

    def load(self) -> Any:
        """The trained nn.Module (or Trainable, or a function's checkpoint) as of this report.

        ConfigurationError if the study was opened without its trainable; CheckpointError if the weights were not kept.
        """
        recipe, trial, place, state, step = self._at_work()
        return recipe.restore(trial, place, state, step)

    def test(self) -> dict[str, Scalar]:
        """The metrics of the test set, which no search sees, for the weights of this report. Raises as `load` does."""
        recipe, trial, place, state, step = self._at_work()
        return recipe.test(trial, place, state, step)

    def export(self, path: Path | str, inputs: tuple[Any, ...] | None = None) -> list[Path]:
        """Writes the trained model into a file for others to load, and returns its path; of replicas a file for each.

        The ending says what: ".pt" and ".safetensors" its state_dict, ".onnx" the model, with the leading dimension of its inputs
        left open. `inputs`: what the model is called with, for ".onnx"; None: as `validation_step` calls it. ".safetensors" and
        ".onnx" need `torchtune-hp[export]`. Raises as `load` does.
        """
        from .handover import write  # a study is read without torch

        recipe, trial, place, state, step = self._at_work()
        found = recipe.restore(trial, place, state, step)
        seen = getattr(recipe, "inputs", None)

        def called() -> tuple[tuple[Any, ...], dict[str, Any]]:
            if inputs is None and seen is None:
                raise ConfigurationError(f"export: what a model of {recipe.name} is called with is not known. Give inputs=(x, ...).")
            return (inputs, {}) if inputs is not None else seen(trial, place, state, step)  # type: ignore[misc]

        return write(found if isinstance(found, list) else [found], path, called)

    @property
    def checkpoint(self) -> State:
        """The kept state of this report: a dict, or a folder. CheckpointError if it was not kept."""
        return self._study.vault.kept(self.trial, -1 if self.step is None else self.step)

    def _at_work(self) -> tuple[Recipe, Trial, Place, State, int]:
        recipe = self._study.recipe
        state = self.checkpoint
        return recipe, self._study.launched(self.trial), replace(self._study.place, folder=self.path), state, self.step or 0


class Chosen(list[Result]):
    """Some trials of a study, in an order: a list, and what is done with all of them."""

    def load(self) -> list[Any]:
        """What each one's `load()` gives, in this order; of a trial with replicas the model of each, one after another.

        `hp.Population(results.top(10).load()).predict(x)` is what ten models say at once. Raises as `Result.load` does: studies
        keep the weights of as many trials as `keep=` says.
        """
        found = [result.load() for result in self]
        return [model for part in found for model in (part if isinstance(part, list) else [part])]


def line_of(error: str) -> str:
    """The line of a traceback that names the exception; the first line of any other text.

    >>> line_of("Traceback (most recent call last):\\n  File ...\\nValueError: no\\nreally")
    'ValueError: no'
    """
    last = error.rpartition("Traceback (most recent call last):")[2].strip("\n")
    return next((line for line in last.splitlines() if re.match(r"\S", line)), "")


def flat(config: Mapping[str, Any], prefix: str = "config") -> dict[str, Any]:
    """Nested hyperparameters under dotted names.

    >>> flat({"lr": 0.1, "model": {"width": 8}})
    {'config.lr': 0.1, 'config.model.width': 8}
    """
    items: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value and "__repr__" not in value:
            items |= flat(value, f"{prefix}.{key}")
        else:
            items[f"{prefix}.{key}"] = value["__repr__"] if isinstance(value, dict) and "__repr__" in value else value
    return items

def front(points: Iterable[Point]) -> Iterator[Point]:
    """The points that no other dominates, in lexicographic order, in which only earlier ones can dominate."""
    kept: list[tuple[float, ...]] = []
    for point in sorted(points):
        values = point[0]
        if not beaten(kept, values):
            kept.append(values)
            yield point

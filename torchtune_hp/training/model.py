"""ModelTrainable as executors see it: the recipe that begins, restores, evaluates and tests its trials.

    hooks.py        ModelTrainable: the words and hooks of the author
    alone.py        ModelRunner: one trial trained alone
    data.py         hp.Data; feed.py: batches and their order; drain.py: other data sets as tensors
    evaluation.py   metrics over whole sets
    carried.py      checkpoints, and forks whose config differs; beside.py: what no state_dict holds
    replicas.py     a trial trained with several seeds, or on several folds or data sets (made.py, folds.py)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, ConfigurationError
from ..parts import as_int
from ..trial import Scalar, Trial
from .alone import ModelRunner
from .data import Data, Loaded
from .hooks import ModelTrainable, is_count, own_end
from .made import Made, made_of
from .replicas import Part, Replicas, Start, parts_of
from .runner import Place, State

Begin = Callable[[Callable[[], ModelRunner]], ModelRunner]

__all__ = ["Data", "ModelRecipe", "ModelRunner", "ModelTrainable"]


class ModelRecipe:
    """A ModelTrainable class with the keyword arguments of its `setup` and `data`; each gets those it names.

    A trial is one ModelRunner; or Replicas, of `seeds` seeds, of `folds` folds, and of every data set where `data` gives several.
    Fold k of n with seed s is that of scikit-learn's StratifiedKFold(n, shuffle=True, random_state=study's seed + s).

    Raises ConfigurationError for a class that lacks a hook, and for a keyword that neither names.
    """

    saves = True
    preload = "torch._dynamo"       # the first optimizer of a process imports it, in two seconds

    def __init__(
        self, cls: type[ModelTrainable], keywords: Mapping[str, Any] | None = None, seeds: int = 1, folds: int | None = None
    ) -> None:
        self.cls = cls
        self.seeds, self.folds = seeds, folds
        self.keywords = dict(keywords or {})
        _check_class(cls)
        self.name = cls.__name__
        self.max_t = own_end(cls)
        self.ends = self.max_t is not None
        setup, data = _names(cls.setup, skip=2), _names(cls.data, skip=0)
        problems = [
            f"with_parameters: setup or data must name {key!r}, but {self.name}.setup names {_listed(setup)} and data {_listed(data)}."
            for key in self.keywords
            if not (_takes(setup, key) or _takes(data, key))
        ]
        for hook, names in (("setup", setup), ("data", data)):
            missing = [key for key, needed in names.items() if needed and key not in self.keywords]
            if missing:
                problems.append(f"{self.name}.{hook} needs {_listed(missing)}. Give it: hp.with_parameters({self.name}, {missing[0]}=...).")
        if problems:
            raise ConfigurationError("\n".join(problems))
        self._setup = {key: value for key, value in self.keywords.items() if _takes(setup, key)}
        self._data = {key: value for key, value in self.keywords.items() if _takes(data, key)}

    def start(
        self, trial: Trial, place: Place, state: State | None = None, step: int = 0, begin: Begin = lambda start: start()
    ) -> ModelRunner | Replicas:
        """`begin`: is given what makes a ModelRunner, and returns it."""
        made = made_of(self.cls, self._data, torch.device(place.device))
        parts = parts_of(self.seeds, self.folds, made.names)
        data = {part: self._data_of(made, part, place.seed) for part in parts}

        def start_on(data: Loaded) -> Start[ModelRunner]:
            def start(trial: Trial, place: Place, state: Any, step: int) -> ModelRunner:
                if isinstance(state, Path):
                    raise CheckpointError(f"A {self.name} starts from a dict of tensors, but the checkpoint is the folder {state}.")
                return begin(lambda: ModelRunner(self.cls, self._setup, trial, place, data, state, step))

            return start

        if len(parts) == 1:
            return start_on(data[parts[0]])(trial, place, state, step)
        said = _cuts(self.name, data) if trial.id == 0 and step == 0 else ()
        return Replicas({part: start_on(data[part]) for part in parts}, trial, place, state, step, said)

    def restore(self, trial: Trial, place: Place, state: State, step: int) -> nn.Module | list[nn.Module]:
        """The model with the weights of `state`, in eval mode, on the place's device; of replicas a list of them."""
        runner = self.start(trial, place, state, step)
        runner.close()
        if isinstance(runner, Replicas):
            return [member.member.model.eval() for member in runner.members]
        return runner.member.model.eval()

    def evaluate(self, trial: Trial, place: Place, state: State, step: int) -> dict[str, Scalar]:
        """The metrics of the validation sets: those that were reported at `step`, bit for bit on the same machine."""
        runner = self.start(trial, place, state, step)
        try:
            return dict(runner.evaluate())
        finally:
            runner.close()

    def test(self, trial: Trial, place: Place, state: State, step: int) -> dict[str, Scalar]:
        runner = self.start(trial, place, state, step)
        try:
            return dict(runner.test())
        finally:
            runner.close()

    def inputs(self, trial: Trial, place: Place, state: State, step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What `validation_step` calls the model with first: (args, kwargs). ConfigurationError where there is no validation set."""
        runner = self.start(trial, place, state, step)
        runner.close()
        first = runner.members[0] if isinstance(runner, Replicas) else runner

        def seen(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Called(args, kwargs)

        with first.member.model.register_forward_pre_hook(seen, with_kwargs=True):
            try:
                first.evaluate()
            except _Called as call:
                return call.args[0], call.args[1]
        raise ConfigurationError(f"{self.name}.validation_step did not call the model: what it is called with is not known. Give inputs=.")

    def _data_of(self, made: Made, part: Part, seed: int) -> Loaded:
        if part.fold is None or self.folds is None:
            return made.whole(part.data)
        return made.folds(part.data, self.folds, (seed + part.seed) % 2**32)[part.fold]


class _Called(Exception):
    """(args, kwargs) of a model's call."""


def _cuts(name: str, data: Mapping[Part, Loaded]) -> tuple[str, ...]:
    """How the data of each name is cut into folds."""
    count = 1 + max(part.fold or 0 for part in data)
    lines = (f"{name}: {count} folds{f' of {part.data!r}' if part.data else ''}, {of.cut[1]}." for part, of in data.items() if of.cut)
    return tuple(dict.fromkeys(lines))


def _check_class(cls: type[ModelTrainable]) -> None:
    name, problems = cls.__name__, []
    for hook in ("setup", "data", "training_step"):
        if inspect.getattr_static(cls, hook) is inspect.getattr_static(ModelTrainable, hook):
            problems.append(f"{name}.{hook} must be written.")
    if not isinstance(inspect.getattr_static(cls, "data"), (classmethod, staticmethod)):
        problems.append(f"{name}.data is called on the class, once for all trials: write @classmethod above it.")
    if cls.iteration != "epoch" and not is_count(as_int(cls.iteration)):
        problems.append(f'{name}.iteration must be "epoch" or a number of updates, at least 1, but is {cls.iteration!r}.')
    if own_end(cls) is not None and not is_count(own_end(cls)):
        problems.append(f"{name}.max_t: `max_t >= 1` must hold, but is {own_end(cls)!r}.")
    if problems:
        raise ConfigurationError("\n".join(problems))


def _names(hook: Callable[..., Any], skip: int) -> dict[str, bool]:
    """The keywords a hook names, and whether it needs each; "**": it takes any."""
    parameters = list(inspect.signature(hook).parameters.values())
    named: dict[str, bool] = {}
    for position, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_KEYWORD:
            named["**"] = False
        elif parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD) and position >= skip:
            named[parameter.name] = parameter.default is parameter.empty
    return named


def _takes(names: Mapping[str, bool], key: str) -> bool:
    return key in names or "**" in names


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"

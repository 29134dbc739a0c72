"""A trial that is trained several times: with several seeds, on several folds, on several data sets. Each training is a replica.

Laws:
1. A replica is trained as a trial of its own seed would be, on its own part of the data; no replica knows of another.
2. All replicas take a step before the trial has taken it. What the trial reports is the mean of each number over its replicas, and
   "<metric>_std", their standard deviation (divided by their number, as scikit-learn's `std_test_score`); of several data sets
   "<data set>/<metric>" besides. What is no number is reported where all agree in it.
3. A replica that fails fails its trial, with its kind of failure; the error says which one it was.
4. Schedulers, searchers and the journal know of none of this: there it is one trial in one slot.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CheckpointError, ConfigurationError, TrialFinishedError
from ..seeds import derive
from ..trial import Scalar, Trial
from .reported import Cleaner
from .runner import Look, Place, Recipe, Runner, State
from .states import fresh_folder

R = TypeVar("R", bound=Runner)
Start = Callable[[Trial, Place, State | None, int], R]

STD = "_std"
_FILE = "replicas.json"


@dataclass(frozen=True)
class Part:
    """Which replica it is. `seed` and `fold` count from 0; `fold` None: the data is not cut; `data`: "" where there is one data set."""

    seed: int = 0
    fold: int | None = None
    data: str = ""

    def __str__(self) -> str:
        words = [f"seed {self.seed}", "" if self.fold is None else f"fold {self.fold}", f"data {self.data!r}" if self.data else ""]
        return ", ".join(filter(None, words))


def parts_of(seeds: int, folds: int | None, names: Sequence[str] = ("",)) -> list[Part]:
    """All there are of a trial, in the order of its replicas."""
    return [Part(seed, fold, name) for seed in range(seeds) for name in names for fold in ([None] if folds is None else range(folds))]


class Replicas:
    """The replicas of a live trial; the laws are Runner's.

    `starts`: for each part what begins or restores it. `said`: what is noted at the trial's first look.
    """

    def __init__(
        self, starts: Mapping[Part, Start[Any]], trial: Trial, place: Place, state: State | None = None, step: int = 0,
        said: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.step, self.parts = step, tuple(starts)
        self.members: list[Any] = []
        self._trial, self._place, self._said = trial, place, tuple(said)
        self._cleaned = Cleaner(trial.id, place.metrics)
        self._left_out: set[str] = set()
        known = [None] * len(starts) if state is None else _read(state)
        if len(known) != len(starts):
            raise CheckpointError(f"Trial {trial.id} has {len(starts)} replicas, but its checkpoint is of {len(known)}.")
        self._ended: list[Look | None] = [None if one is None else one.ended for one in known]
        try:
            for number, ((part, start), one) in enumerate(zip(starts.items(), known)):
                given = (None, step) if one is None else (one.state, one.step)
                own = Trial(trial.id, trial.x, trial.config, derive(trial.seed, "replica", str(part)), trial.tag, trial.parent)
                with _of(part):
                    self.members.append(start(own, self._its(number), *given))
        except BaseException:
            self.close()
            raise

    def advance(self) -> Look:
        if all(self._ended):
            raise TrialFinishedError(f"Trial {self._trial.id} has ended and cannot be advanced any more.")
        found: list[Look] = []
        for part, member, ended in zip(self.parts, self.members, self._ended):
            with _of(part):
                found.append(ended or member.advance())
        return self.looked(found)

    def looked(self, found: Sequence[Look]) -> Look:
        """The trial's look, of one look at each replica."""
        self._ended = [look if look.done else None for look in found]
        self.step = max(look.step for look in found)
        metrics, left_out = merged([look.metrics for look in found], [part.data for part in self.parts])
        clean, notes = self._cleaned(metrics, "the mean over replicas")
        new = [name for name in left_out if name not in self._left_out]
        self._left_out.update(new)
        own = dict.fromkeys(note for look in found for note in look.notes)
        dropped = [f"Trial {self._trial.id}: the metric {name!r} was dropped: {self._why(name, found)}." for name in new]
        said, self._said = self._said, ()
        return Look(self.step, clean, all(look.done for look in found), (*said, *own, *dropped, *self._not_a_number(found), *notes))

    def _why(self, name: str, found: Sequence[Look]) -> str:
        missing = [part for part, look in zip(self.parts, found) if name not in look.metrics]
        return f"not reported by the replica with {missing[0]}" if missing else "replicas differ in it, and it is no number"

    def _not_a_number(self, found: Sequence[Look]) -> list[str]:
        """Of the metrics that the study needs, in which replica one is NaN."""
        return [
            f"Trial {self._trial.id}: {name} is nan at step {look.step} in the replica with {part}."
            for name in self._place.metrics for part, look in zip(self.parts, found) if look.metrics.get(name) != look.metrics.get(name)
        ]  # fmt: skip

    def evaluate(self) -> dict[str, Scalar]:
        return self._over([member.evaluate() for member in self.members])

    def test(self) -> dict[str, Scalar]:
        return self._over([member.test() for member in self.members])

    def save(self, save: Callable[[Any], State | None] = lambda member: member.save()) -> State | None:
        """`save`: gives the checkpoint of a member."""
        saved = []
        for part, member, ended in zip(self.parts, self.members, self._ended):
            with _of(part):
                saved.append(_Saved(save(member), member.step, ended))
        return _written(saved, self._place.under, self._trial)

    def close(self) -> None:
        members, self._ended = self.members, [Look(self.step, {}, done=True) for _ in self.parts]
        errors = []
        for member in members:
            try:
                member.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _over(self, metrics: Sequence[Mapping[str, Scalar]]) -> dict[str, Scalar]:
        return merged(metrics, [part.data for part in self.parts])[0]

    def _its(self, number: int) -> Place:
        """A folder of its own, and the metrics that each replica has to report."""
        folder = None if self._place.folder is None else self._place.folder / f"replica-{number}"
        sets = tuple(f"{part.data}/" for part in self.parts if part.data)
        own = tuple(name for name in self._place.metrics if not name.endswith(STD) and not name.startswith(sets))
        return replace(self._place, folder=folder, metrics=own)


class Reseeded:
    """The recipe of a trainable of which each trial is trained with several seeds."""

    def __init__(self, recipe: Recipe, seeds: int) -> None:
        self.recipe, self.seeds = recipe, seeds
        self.name, self.saves, self.max_t, self.ends = recipe.name, recipe.saves, recipe.max_t, recipe.ends

    def start(self, trial: Trial, place: Place, state: State | None = None, step: int = 0) -> Replicas:
        return Replicas(dict.fromkeys(parts_of(self.seeds, None), self.recipe.start), trial, place, state, step)

    def restore(self, trial: Trial, place: Place, state: State, step: int) -> list[Any]:
        """What `load()` gives of each replica."""
        return [self.recipe.restore(trial, place, one.state, one.step) for one in _read(state)]

    def test(self, trial: Trial, place: Place, state: State, step: int) -> dict[str, Scalar]:
        """Raises: what is no ModelTrainable has no test set, and its recipe says what to do instead."""
        return self.recipe.test(trial, place, state, step)


def of_one_training(recipe: Recipe) -> Recipe:
    """The recipe of a replica."""
    return recipe.recipe if isinstance(recipe, Reseeded) else recipe


# Metrics ---------------------------------------------------------------------------------------------------------------------


def merged(metrics: Sequence[Mapping[str, Scalar]], sets: Sequence[str]) -> tuple[dict[str, Scalar], list[str]]:
    """Means and standard deviations over replicas; and the names of what was left out, for replicas differ and it is no number.

    `sets`: of each replica the data set; where they differ, there is a mean for each.
    """
    first, *others = metrics
    shared = [name for name in first if all(name in other for other in others)]
    means: dict[str, Scalar] = {}
    spreads: dict[str, Scalar] = {}
    apart: dict[str, Scalar] = {}
    left_out = [name for each in metrics for name in each if name not in shared]
    for name in shared:
        values = [each[name] for each in metrics]
        numbers = [float(value) for value in values if isinstance(value, (int, float))]
        if len(numbers) < len(values):
            if all(value == values[0] for value in values):
                means[name] = values[0]
            else:
                left_out.append(name)
            continue
        means[name], spreads[f"{name}{STD}"] = _mean(numbers), _std(numbers)
        for each in dict.fromkeys(sets) if len(set(sets)) > 1 else ():
            apart[f"{each}/{name}"] = _mean([number for number, of in zip(numbers, sets) if of == each])
    taken = (means.keys() & spreads.keys()) | (means.keys() & apart.keys())
    if taken:
        raise ConfigurationError(
            f"{', '.join(map(repr, sorted(taken)))}: replicas report it themselves, but it is what their mean or spread is called "
            f'("<metric>{STD}", "<data set>/<metric>"). Give the metric another name.'
        )
    return {**means, **spreads, **apart}, list(dict.fromkeys(left_out))


def _mean(numbers: Sequence[float]) -> float:
    least, most = min(numbers), max(numbers)
    if not all(map(math.isfinite, numbers)) or math.isinf(most - least):        # NaN and infinity are contagious
        return sum(number / len(numbers) for number in numbers)
    return least + math.fsum(number - least for number in numbers) / len(numbers)       # equal numbers are their own mean


def _std(numbers: Sequence[float]) -> float:
    mean = _mean(numbers)
    far = [number - mean for number in numbers]
    return math.hypot(*far) / math.sqrt(len(far)) if all(map(math.isfinite, far)) else math.nan


# Checkpoints -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Saved:
    """Of one replica. `state`: a State; None: it cannot be saved. `ended`: its last look, if it takes no further step."""

    state: Any
    step: int
    ended: Look | None


def _written(saved: Sequence[_Saved], under: Path | None, trial: Trial) -> State | None:
    """One checkpoint of all; None where one of them cannot be saved."""
    if any(one.state is None for one in saved):
        return None
    facts = [
        {"step": one.step, "ended": one.ended is not None, "metrics": {} if one.ended is None else dict(one.ended.metrics)} for one in saved
    ]
    folders = [one.state for one in saved if isinstance(one.state, Path)]
    if not folders:
        return {"replicas": [{**fact, "state": one.state} for fact, one in zip(facts, saved)]}
    whole = fresh_folder(under, "replicas")
    if len(folders) < len(saved):
        for folder in (*folders, whole):
            shutil.rmtree(folder, ignore_errors=True)
        raise CheckpointError(f"Trial {trial.id}: save_checkpoint must return a dict in all replicas or write files in all, but did both.")
    for number, folder in enumerate(folders):
        shutil.move(folder, whole / str(number))
    (whole / _FILE).write_text(json.dumps(facts))
    return whole


def _read(state: State) -> list[_Saved]:
    if isinstance(state, Path):
        if not (state / _FILE).is_file():
            raise CheckpointError(f"The checkpoint {state} is not of replicas: the trial was trained once when it was saved.")
        facts = json.loads((state / _FILE).read_text())
        return [_saved(fact, state / str(number)) for number, fact in enumerate(facts)]
    if "replicas" not in state:
        raise CheckpointError("The checkpoint is not of replicas: the trial was trained once when it was saved.")
    return [_saved(fact, fact["state"]) for fact in state["replicas"]]


def _saved(fact: Mapping[str, Any], state: State) -> _Saved:
    return _Saved(state, fact["step"], Look(fact["step"], dict(fact["metrics"]), done=True) if fact["ended"] else None)


@contextmanager
def _of(part: Part) -> Iterator[None]:
    """What is raised within says which replica raised it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        failed(part, error)
        raise


def failed(part: Part, error: BaseException) -> BaseException:
    """The error of a replica, which says whose it is."""
    error.add_note(f"It is the replica with {part}.")
    return error

"""Tuner: one call that runs a study, and one that goes on with it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .arguments import refuse_foreign
from .errors import ConfigurationError, SpaceError, StudyExistsError
from .journal import Journal
from .journal_file import BESIDE, NAME as STUDY
from .lock import DriverLock
from .parts import as_int
from .plan import Plan, make_plan
from .results import Results
from .resuming import resumed_arguments
from .scripts import check_may_fit, how_to_resume
from .session import Session
from .training.function import TrainFunction
from .training.recipe import WithParameters
from .trial import Note

if TYPE_CHECKING:
    from .executors.base import Executor
    from .observers.base import Observer
    from .schedulers.base import Scheduler
    from .searchers.base import Searcher
    from .space import Space

Init = TypeVar("Init", bound=Callable[..., None])


def _knowing_what_was_passed(init: Init) -> Init:
    """Keeps the names of the arguments that were passed: one that equals its default was meant, too."""

    @functools.wraps(init)
    def knowing(self: Tuner, /, *args: Any, **keywords: Any) -> None:
        self._passed = frozenset((*ARGUMENTS[: len(args)], *keywords))
        init(self, *args, **keywords)

    return knowing  # type: ignore[return-value]


class Tuner:
    """Searches the space of a trainable; `fit` runs the study and returns its `Results`.

    Args:
        trainable: a decorated or plain train function, a generator function, a `Trainable` or `ModelTrainable` class.
        space: a `Space`, or a dict of domains. This, `metric`, `mode` and any other argument may come from the decorator;
            what is passed here goes before it.
        metric, mode: what is optimized ("min" or "max"); lists of both for several objectives.
        trials, time_budget, target: when the study ends: so many trials in all, so many seconds, this value of the first
            metric; whichever comes first. At least one, unless the searcher has an end of its own (a grid, rows).
        stop: ends single trials: {"accuracy": 0.95}, `hp.Plateau(patience)`, `hp.MaxSteps(n)`, a function of (trial, metrics).
        points: configs tried first. outcome_constraints: "params <= 50_000", or a list of such; a report that violates one ranks last.
        warm_start: folders of earlier studies of the same metric, in any order: `GPSearch` learns from their trials what it can.
        searcher: default `GPSearch`, or `GridSearch` if the space has a `grid_search` axis.
        scheduler: default `FullRuns()`. executor: "auto" is `Fused()` for a ModelTrainable or hp.Trainer,
            `Processes()` for the rest.
        observers: told of every turn (see `observers.base.Observer`). keep: how many best trials keep their weights; with
            several objectives every report on the front does.
        seed: the one seed of everything. seeds, folds: each trial is trained with so many seeds, on so many folds of the training
            set (a ModelTrainable's); it reports the mean of each metric, and "<metric>_std" (docs/replicas.md).
        storage: the folder of studies, from where the Tuner is made; None: in memory.
        name: the study's name; default <trainable>-<n>. resume: "never", or "auto": go on if the study exists.
        verbose: 1: progress; 0: silent. look_every: steps between looks, or "grant".
        checkpoint_every: seconds of training that a crash may cost; 0: every look is saved.

    Raises:
        ConfigurationError: says of every argument that cannot be, why. SpaceError: a space that cannot be searched.
        TypeError: an argument as another library calls it, with our word for it.
    """

    _passed: frozenset[str]

    @_knowing_what_was_passed
    def __init__(
        self,
        trainable: Any,
        space: Space | Mapping[str, Any] | None = None,
        *,
        metric: str | Sequence[str] | None = None,
        mode: str | Sequence[str] | None = None,
        trials: int | None = None,
        time_budget: float | None = None,
        target: float | None = None,
        stop: Any = None,
        points: Sequence[Mapping[str, Any]] = (),
        outcome_constraints: str | Sequence[str] = (),
        warm_start: Sequence[str | Path] = (),
        searcher: Searcher | None = None,
        scheduler: Scheduler | None = None,
        executor: Executor | Literal["auto"] = "auto",
        observers: Sequence[Observer] = (),
        keep: int = 1,
        seed: int = 0,
        seeds: int = 1,
        folds: int | None = None,
        storage: str | Path | None = "runs",
        name: str | None = None,
        resume: Literal["never", "auto"] = "never",
        verbose: int = 1,
        look_every: int | Literal["grant"] = 1,
        checkpoint_every: float = 60.0,
        **foreign: Any,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in ARGUMENTS}
        refuse_foreign("Tuner", foreign, ARGUMENTS)
        self._given = _with_defaults(given, self._passed)
        self._folder: Path | None = None        # of a study to go on with; absolute, as a trial may change the working directory
        self._shown: Path | None = None         # the same as it was given
        self._plan = make_plan(self._given)

    def fit(self) -> Results:
        """Runs the study to its end, and returns what came of it.

        Raises:
            ConfigurationError, SpaceError: what cannot be seen before it is tried, such as an executor that does not train this; where
                that is before the first turn, nothing is left on disk.
            StudyExistsError: there is a study of this name, and `resume` is "never". StudyLockedError: it is being driven.
            StudyFailedError: trials failed one after another; the journal is kept.
            StudyInterrupted: Ctrl-C or SIGTERM came; all there is was saved, and the message says how to go on.
        """
        check_may_fit()
        plan = self._plan
        if self._folder is not None:
            return self._go_on(self._folder)
        if plan.storage is None:
            return Session(plan, None, _learned(plan, Journal.create(None, plan.header() | {"name": plan.name or plan.recipe.name}))).run()
        folder = plan.storage / plan.name if plan.name else _next_folder(plan.storage, plan.recipe.name)
        shown = Path(self._given["storage"]).expanduser() / folder.name
        if (folder / "study.db").exists():
            if plan.resume == "auto":
                return Tuner._resumed(folder, shown, self._given).fit()
            raise StudyExistsError(
                f"there is a study at {shown} already. To go on with it: {how_to_resume(shown)}, "
                f'or Tuner(..., resume="auto"). For a new one, choose another name=.'
            )
        if self._given["warm_start"] and not plan.sources:      # the study that had its own record of them is gone since
            plan = self._plan = make_plan(self._given)
        header = plan.header() | {"name": folder.name}
        before = {path for path in _places(folder) if plan.name and path.exists()}      # an unnamed study's folder was made for it
        with DriverLock(folder) as lock, Journal.create(folder, header, every=_every(plan)) as journal:
            journal.guard = lock.check
            try:
                Session(plan, folder, _learned(plan, journal), shown).run()
            except (ConfigurationError, SpaceError):
                if not len(journal):
                    journal.close()
                    _take_away(lock, before)
                raise
        return Results.open(folder, trainable=plan.trainable, space=plan.space)

    @classmethod
    def resume(
        cls, path: str | Path, trainable: Any = None, *, trials: int | str | None = None, allow: Sequence[str] = (), **changes: Any
    ) -> Tuner:
        """A study on disk, to go on with: `Tuner.resume("runs/digits", Digits, trials="+100").fit()`.

        Args:
            path: the study's folder. trainable: the class or function again; may be left out for a study of curves.
            trials: a new total (50) or that many more ("+50"); time_budget likewise, in seconds; target: a new value.
            allow: settings that differ on purpose, by name: "seed", "space", "searcher" or "trainable".
            changes: any argument of a Tuner: one that the journal cannot give back (the error names it), one that belongs to
                a session (executor, observers, verbose, checkpoint_every), or one named in `allow`.

        Raises:
            StudyNotFoundError: no study there. StudyChangedError: something differs; the message is the difference.
            ConfigurationError: names what has to be passed again.
        """
        mine = [name for name in ARGUMENTS if name not in ("name", "storage", "resume")]     # a study keeps its name and place
        refuse_foreign("Tuner.resume", [name for name in changes if name not in mine], mine)
        given = {**changes, "trials": trials} | ({} if trainable is None else {"trainable": trainable})
        given = {name: as_int(value) for name, value in given.items()}
        shown = Path(path).expanduser()
        return cls._resumed(shown.absolute(), shown, given, allow)

    @classmethod
    def _resumed(cls, folder: Path, shown: Path, given: Mapping[str, Any], allow: Sequence[str] = ()) -> Tuner:
        tuner = cls.__new__(cls)
        with Journal.open(folder) as journal:
            tuner._given = resumed_arguments(journal, given, allow)
        tuner._folder, tuner._shown = folder, shown
        tuner._plan = make_plan(tuner._given)
        return tuner

    def _go_on(self, folder: Path) -> Results:
        plan = self._plan
        with DriverLock(folder) as lock, Journal.open(folder, write=True, every=_every(plan)) as journal:
            journal.guard = lock.check
            Session(plan, folder, journal, self._shown).run()
        return Results.open(folder, trainable=plan.trainable, space=plan.space)


ARGUMENTS = tuple(name for name in inspect.signature(Tuner).parameters if name != "foreign")
_NEEDED = ("space", "metric", "mode")
"""None says nothing of these: there is no study without them."""


def tune(trainable: Any, space: Space | Mapping[str, Any] | None = None, **arguments: Any) -> Results:
    """`Tuner(trainable, space, ...).fit()` in one word; the arguments are a Tuner's."""
    return Tuner(trainable, space, **arguments).fit()


def defaults_of(trainable: Any) -> Mapping[str, Any]:
    """The Tuner's arguments that a decorator gave; a class's own attribute of that name is the class's."""
    return trainable.defaults if isinstance(trainable, (TrainFunction, WithParameters)) else {}


def _with_defaults(given: dict[str, Any], passed: frozenset[str]) -> dict[str, Any]:
    """What was not passed comes from the trainable's decorator, where that says it."""
    trainable = given["trainable"]
    own = defaults_of(trainable)
    refuse_foreign("trainable", [name for name in own if name not in given], given)
    mine = {name: value for name, value in own.items() if name not in passed or (name in _NEEDED and given[name] is None)}
    return {name: as_int(value) for name, value in (given | mine).items()}


def _next_folder(storage: Path, name: str) -> Path:
    """<trainable>-<n>, with the first n that is free: made, so that it is nobody else's."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "study"
    n = 0
    while True:
        n += 1
        folder = storage / f"{stem}-{n}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:         # the lock says it better
            pass
        return folder


def _places(folder: Path) -> tuple[Path, ...]:
    """The folders of a study, the innermost first."""
    return folder / "trials", folder / "checkpoints", folder


def _take_away(lock: DriverLock, before: Collection[Path]) -> None:
    """A study that was refused before its first turn leaves its name free, and nothing of its own on disk. `before`: what was there."""
    folder = lock.path.parent
    for name in (STUDY, *BESIDE):
        with suppress(OSError):
            (folder / name).unlink()
    for place in _places(folder):
        if place == folder:
            lock.remove()
        if place not in before:
            with suppress(OSError):             # not there, or holds files of somebody else's
                place.rmdir()


def _learned(plan: Plan, journal: Journal) -> Journal:
    """A new study's journal, with what was read of earlier ones."""
    for text in plan.learned:
        journal.note(Note("warm_start", text))
    return journal


def _every(plan: Plan) -> int:
    """Turns to a commit: each one is durable, but for a simulation of curves, which costs nothing to repeat."""
    return 256 if plan.pretends else 1

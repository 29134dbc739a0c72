"""The decision core without an executor, for a loop of one's own: ask where, train, tell what came of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from .arguments import Problems, check_counts, check_part, check_points, refuse_foreign
from .errors import ConfigurationError, ReportError, SeveralObjectivesError, StudyFailedError, TrialFinishedError
from .objective import VIOLATED, Objective
from .parts import as_int
from .plan import default_searcher
from .schedulers import FullRuns
from .schedulers.base import Scheduler
from .searchers.base import Searcher
from .space import Space
from .study import BREAKER, Study
from .supply import check_own
from .training.reported import Cleaner
from .trial import Command, Failed, FailKind, Launch, Limits, Reached, Scalar, Setting, Train, Trial


class AskTell:
    """Ask for a trial, tell its metrics.

    >>> import torchtune_hp as hp
    >>> study = hp.AskTell({"x": hp.uniform(-1.0, 1.0)}, metric="y", mode="min", seed=0)
    >>> for _ in range(20):
    ...     trial = study.ask()
    ...     _ = study.tell(trial, {"y": trial.config["x"] ** 2})
    >>> study.best[1]["y"] < 0.1
    True

    With a scheduler, tell every step, and train on for as long as `tell` says so:

        trial = study.ask()
        for step in range(1, max_t + 1):
            if not study.tell(trial, train_one_epoch(trial.config), step=step):
                break
    """

    def __init__(
        self,
        space: Space | Mapping[str, Any],
        searcher: Searcher | None = None,
        scheduler: Scheduler | None = None,
        *,
        metric: str | Sequence[str] | None = None,
        mode: str | Sequence[str] | None = None,
        trials: int | None = None,
        points: Sequence[Mapping[str, Any]] = (),
        outcome_constraints: str | Sequence[str] = (),
        seed: int = 0,
        **foreign: Any,
    ) -> None:
        refuse_foreign("AskTell", foreign, _ARGUMENTS)
        if metric is None:
            raise ConfigurationError('metric: what is to be optimized? Pass metric="accuracy", mode="max", say.')
        if mode is None:
            raise ConfigurationError(f'mode: is {metric!r} to be minimized or maximized? Pass mode="min" or mode="max".')
        self.space = Space.of(space)
        self.objective = Objective(metric, mode, outcome_constraints)       # type: ignore[arg-type]
        trials, seed = as_int(trials), as_int(seed)
        searcher = default_searcher(self.space) if searcher is None else searcher
        scheduler = FullRuns() if scheduler is None else scheduler
        problems = Problems()
        check_part("searcher", searcher, Searcher, "hp.RandomSearch()", problems)
        check_part("scheduler", scheduler, Scheduler, "hp.ASHA(max_t=27)", problems)
        check_counts({"trials": trials, "seed": seed}, problems)
        check_points(points, problems)
        problems.raise_any()
        check_own(self.space, points)
        setting = Setting(
            self.space.dims, self.space.feasible, len(self.objective.metrics), scheduler.max_t, 1, seed, True, self.space.rows,
            self.space.levels,
        )  # fmt: skip
        self._study = Study(self.space, searcher, scheduler, self.objective, setting, points=points, keep=0)
        self._trials = trials
        self._ready: list[Trial] = []               # what the study set running and nobody has asked for yet
        self._out: dict[int, Trial] = {}            # asked for, and not at its end
        self._steps: dict[int, int] = {}
        self._told: dict[int, dict[str, Scalar]] = {}     # the last report of each trial that goes on
        self._best: tuple[Trial, dict[str, Scalar]] | None = None
        self._known: dict[int, Trial] = {}

    def ask(self) -> Trial | None:
        """A trial to train: `trial.config`, under `trial.seed`. It may be one that rested and now goes on: `steps(trial)` says
        how far it came. None: nothing to do now; tell more first, or the study is over. StudyFailedError after five errors in
        a row."""
        if self._study.broken is not None:
            raise StudyFailedError(f"{BREAKER} trials failed in a row. The first of them: {self._study.broken}")
        if not self._ready:
            self._do((), len(self._study.running) + 1)
        if not self._ready:
            return None
        trial = self._ready.pop(0)
        self._out[trial.id] = trial
        return trial

    def tell(self, trial: Trial, metrics: Mapping[str, Any] | float, step: int | None = None) -> bool:
        """The metrics of a trial at a step (None: the trial has ended). True: train it on.

        Steps count from 1 and only go up; the last report told once more, as by a worker that did not hear the answer, changes nothing.
        Numbers are Python's, numpy's and 0-dim tensors; one alone stands for {metric: number}.
        Raises TrialFinishedError for a trial that is not asked for, or has ended; ConfigurationError for a step that does not
        go up or a metric that is missing; ReportError for a needed one that is no number, and any that is no number, bool, str or None.
        """
        self._check(trial)
        values = self._clean(trial, metrics if isinstance(metrics, Mapping) else {self.objective.metrics[0]: metrics})
        before = self._steps[trial.id]
        now = before + 1 if step is None else as_int(step)
        if type(now) is not int:
            raise ConfigurationError(f"tell: a step is a whole number, counted from 1, but trial {trial.id} got {step!r}.")
        if now == before and _same(values, self._told.get(trial.id)):
            return True
        if now <= before:
            raise ConfigurationError(f"tell: steps of a trial go up, but trial {trial.id} stands at {before} and got {step}.")
        score = self.objective.values(values)[0]
        if score < VIOLATED and (self._best is None or score < self.objective.values(self._best[1])[0]):
            self._best = (trial, values)
        self._steps[trial.id] = now
        self._told[trial.id] = values
        self._do((Reached(trial.id, now, values, 0.0, done=step is None),), len(self._study.running))
        return self._goes_on(trial)

    def fail(self, trial: Trial, error: BaseException | str, kind: FailKind = "error") -> None:
        """The trial failed; it is scored as the worst."""
        self._check(trial)
        self._do((Failed(trial.id, self._steps[trial.id] + 1, kind, str(error), 0.0),), len(self._study.running))
        self._goes_on(trial)

    def steps(self, trial: Trial) -> int:
        """The last step that was told of a trial."""
        return self._steps.get(_is_trial(trial).id, 0)

    @property
    def best(self) -> tuple[Trial, dict[str, Scalar]]:
        """The best report so far and its trial. SeveralObjectivesError where there is no single best."""
        if len(self.objective.metrics) > 1:
            raise SeveralObjectivesError(f"best: there is no single best of {list(self.objective.metrics)}.")
        if self._best is None:
            raise ConfigurationError("best: no finite report within the outcome constraints was told yet.")
        return self._best

    def _clean(self, trial: Trial, metrics: Mapping[Any, Any]) -> dict[str, Scalar]:
        missing = [name for name in self.objective.needed if name not in metrics]
        if missing:
            raise ConfigurationError(f"tell: the metrics {missing} are needed, but got {list(metrics)}.")
        values, _ = Cleaner(trial.id, self.objective.needed)(metrics, "tell()")
        dropped = [key for key in metrics if key not in values]
        if dropped:         # a study with a log drops them with a note; here there is none
            law = "a metric is a number, bool, str or None under a name"
            raise ReportError(f"Trial {trial.id}: {law}, but {dropped} are not. Leave them out.")
        return values

    def _do(self, events: Sequence[Reached | Failed], capacity: int) -> None:
        commands: list[Command] = self._study.step(events, Limits(capacity, self._trials))
        for command in commands:
            if isinstance(command, Launch):
                self._known[command.trial.id] = command.trial
                self._steps[command.trial.id] = 0
                self._ready.append(command.trial)
            elif isinstance(command, Train):
                self._ready.append(self._known[command.trial])

    def _goes_on(self, trial: Trial) -> bool:
        """Whether the study set the trial that was just told running again; it then stays with whoever told."""
        if any(ready.id == trial.id for ready in self._ready):
            self._ready = [ready for ready in self._ready if ready.id != trial.id]
            return True
        del self._out[trial.id]
        self._told.pop(trial.id, None)
        return False

    def _check(self, trial: Trial) -> None:
        if _is_trial(trial).id not in self._out:
            raise TrialFinishedError(f"trial {trial.id} is not out: it has ended, rests, or was never asked for.")


def _is_trial(given: object) -> Trial:
    if isinstance(given, Trial):
        return given
    none = " ask() gives None where there is nothing to do now: tell more first, or end." if given is None else ""
    raise ConfigurationError(f"trial: what ask() gave is needed, as in trial = study.ask(), but got {given!r}.{none}")


def _same(one: dict[str, Scalar], other: dict[str, Scalar] | None) -> bool:
    """Whether two reports are equal; a NaN is no less a NaN the second time."""
    return other is not None and one.keys() == other.keys() and all(repr(one[name]) == repr(other[name]) for name in one)


_ARGUMENTS = tuple(name for name in inspect.signature(AskTell).parameters if name != "foreign")

"""A cluster in virtual time: hundreds of workers, a clock that jumps, and the very same decisions.

Two uses. With a `curve` nothing is trained: metrics come from a function of (config, step), such as a table of learning
curves, and a million trials run on a laptop. Without one, the study's own trainable runs in this process while the clock
pretends that `workers` of them ran side by side; with equal speeds the study is the one that `workers` slots of a fused
population, or as many ordered processes, would give.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence, Set
from heapq import heapify, heappop, heappush
from numbers import Real
from typing import Any

from ..errors import ConfigurationError
from ..parts import as_int, part
from ..training.reported import Cleaner
from ..trial import Command, Drop, Event, Failed, Launch, Note, Reached, Scalar, Setting, Standing, Train, Trial
from .base import Job, failed, stamped
from .local import LocalTrials
from .serial import threads

_FLOATS = {float}
Curve = Callable[[Any, int], Mapping[str, Scalar]]


@part
class Simulated:
    """`workers` trials at once, in virtual time.

    `curve(config, step)`: the metrics of a trial at a step (steps count from 1), made plain and checked as those of a training are;
    an exception fails the trial there.
    `seconds`: virtual seconds a step takes: a number, or a function of the config. `speeds`: how fast each worker is, a
    number for each; a trial set running gets the free worker of the lowest number. `failures(config)`: the step at which a
    trial dies ("lost", an int of at least 1), or None.

    With one number for all (the default), answers come by the rules of virtual time (`ordered`); with unequal ones they
    come in their real order of arrival, which is an input of the study.
    """

    def __init__(
        self,
        workers: int = 8,
        curve: Curve | None = None,
        seconds: float | Callable[[Any], float] = 1.0,
        speeds: Sequence[float] | None = None,
        failures: Callable[[Any], int | None] | None = None,
    ) -> None:
        problems = []
        if type(workers) is not int or workers < 1:
            problems.append(f"workers: must be an int of at least 1, but got {workers!r}.")
        if curve is not None and not callable(curve):
            problems.append(f"curve: must be callable as curve(config, step), but got {curve!r}.")
        if not callable(seconds) and not (isinstance(seconds, (int, float)) and 0 < seconds < math.inf):
            problems.append(f"seconds: must be a positive number or a function of the config, but got {seconds!r}.")
        if speeds is not None and not _all_positive(speeds, workers):
            problems.append(f"speeds: one positive number for each of the {workers!r} workers is needed, but got {speeds!r}.")
        if failures is not None and not callable(failures):
            problems.append(f"failures: must be callable as failures(config), but got {failures!r}.")
        if problems:
            raise ConfigurationError("\n".join(problems))
        self.workers = workers
        self.curve = curve
        self.seconds = seconds
        self.speeds = speeds
        self.failures = failures
        self._local: LocalTrials | None = None
        self._notes: list[Note] = []
        self._collecting: tuple[int, int, int] | None = None

    @property
    def ordered(self) -> bool:
        return self.speeds is None and not callable(self.seconds)

    def prepare(self, job: Job) -> int:
        self._job = job
        return self.workers

    def begin(self, setting: Setting, standing: Standing) -> None:
        self._local = LocalTrials(self._job, standing.live) if self.curve is None else None
        self._trials: list[Trial | None] = []       # by id; None: dropped
        self._steps: list[int] = []                 # by id: the step of its newest answer
        for trial, step in standing.live:
            self._enter(trial, step)
        self._since = dict(standing.since)
        self._ticks = self.ordered
        self._end = self._job.recipe.max_t if self._job is not None else None       # where the trainable ends by itself
        self._rate = float(self.seconds) if not callable(self.seconds) else 1.0
        self._clean = Cleaner(0, () if self._job is None else self._job.place.metrics)      # of all: a table has a million trials
        self._names: Set[str] | None = None         # of an answer that was plain as it came: most others have the same
        self._notes = [] if self._local is None else self._local.notes
        self._start = standing.seconds - (standing.tick * self._rate if self._ticks else 0.0)
        self._now: float = standing.tick if self._ticks else 0.0     # in ticks if ordered, else in seconds
        self._work: list[tuple[Trial, int]] = []    # (trial, until), in order of submission; a turn's forks are of last looks
        self._due: dict[float, list[tuple[int | None, Reached | Failed]]] = {}     # when -> (worker; None: whoever is free, answer)
        self._times: list[float] = []                                # heap of the keys of `_due`
        self._plain = self._ticks and self.curve is not None and self.failures is None      # nothing but looking up
        self._free = list(range(self.workers))
        heapify(self._free)
        if self.curve is not None:
            # A million trials are a million live objects, and nothing of them is cyclic garbage: collecting at the usual
            # pace goes through them again and again, for a fifth of the time.
            self._collecting = gc.get_threshold()
            gc.set_threshold(50_000, 20, 100)

    def submit(self, command: Command) -> None:
        if isinstance(command, Drop):
            id = command.trial
            if not 0 <= id < len(self._trials) or self._trials[id] is None:
                self._known(command, id)
            self._trials[id] = None
            if self._local is not None:
                self._local.drop(command)
        elif isinstance(command, Launch):
            trial = command.trial
            if self._local is not None:
                self._local.launch(command)
                step = self._local.step(trial.id)
            else:
                step = 0 if trial.parent is None else self._steps[trial.parent]
            self._enter(trial, step)
            self._work.append((trial, command.until))
        elif isinstance(command, Train):
            if command.until is None:
                raise ConfigurationError(f"Train({command.trial}, None): an executor needs a step to train to; the study grants ENDLESS.")
            self._work.append((self._known(command, command.trial), command.until))
        elif self._local is not None:
            self._local.keep(command)

    def wait(self) -> list[Event]:
        for trial, until in self._work:
            self._run(trial, until)
        self._work.clear()
        if not self._times:
            raise RuntimeError("wait: nothing is running; submit a Launch or a Train first.")
        due = self._now = heappop(self._times)
        if self._local is not None:
            self._local.tidy({answer.trial for answers in self._due.values() for _, answer in answers})
        events: list[Event] = []
        if self._notes:
            events += [stamped(note, self._seconds(due)) for note in self._notes]
            self._notes.clear()
        for worker, answer in self._due.pop(due):
            if worker is not None:
                heappush(self._free, worker)
            events.append(answer)
        return events

    def close(self, save: bool = False) -> list[Note]:
        if self._collecting is not None:
            gc.set_threshold(*self._collecting)
            self._collecting = None
        local, self._local = self._local, None
        if local is not None:
            if save:
                local.save()
            local.close()
        notes, self._notes = self._notes, []
        return [stamped(note, self._seconds(self._now)) for note in notes]

    def _known(self, command: Command, id: int) -> Trial:
        """Law: a command names a trial that was launched and not dropped."""
        if not 0 <= id < len(self._trials):
            raise RuntimeError(f"{command}: a command names a trial that was launched, but there is no trial {id!r}. Launch it first.")
        trial = self._trials[id]
        if trial is None:
            raise RuntimeError(f"{command}: a dropped trial is never named again, and this one was dropped, or never launched.")
        return trial

    def _enter(self, trial: Trial, step: int) -> None:
        if trial.id >= len(self._trials):
            missing = trial.id + 1 - len(self._trials)
            self._trials += [None] * missing
            self._steps += [0] * missing
        self._trials[trial.id], self._steps[trial.id] = trial, step

    def _run(self, trial: Trial, until: int) -> None:
        """Works the answer out at once; it is heard when it is due."""
        id = trial.id
        step = self._steps[id]
        answer: Reached | Failed
        since = self._since.pop(id, self._now) if self._ticks else self._now
        if self._plain:
            due = since + (until - step or 1)
            answer = self._look_up(trial, until, self._start + due * self._rate)
            self._steps[id] = until
            self._answer(due, None, answer)
            return
        worker = heappop(self._free)
        lost = None if self.failures is None else self._failure_of(trial.config)
        if lost is not None and step < lost <= until:
            due = self._when(trial, since, lost - step, worker)
            answer = Failed(id, lost, "lost", f"simulated failure at step {lost}", self._seconds(due))
        elif self._local is not None:
            with threads(1):
                answer = self._local.train(id, until)
            due = self._when(trial, since, answer.step - step, worker)
            answer = stamped(answer, self._seconds(due))
        else:
            due = self._when(trial, since, until - step, worker)
            answer = self._look_up(trial, until, self._seconds(due))
        self._steps[id] = answer.step
        self._answer(due, worker, answer)

    def _answer(self, due: float, worker: int | None, answer: Reached | Failed) -> None:
        there = self._due.get(due)
        if there is None:
            self._due[due] = [(worker, answer)]
            heappush(self._times, due)
        else:
            there.append((worker, answer))

    def _look_up(self, trial: Trial, step: int, time: float) -> Reached | Failed:
        assert self.curve is not None
        try:
            metrics = self.curve(trial.config, step)
            if type(metrics) is not dict or metrics.keys() != self._names or {*map(type, metrics.values())} != _FLOATS:
                metrics = self._cleaned(trial.id, metrics)
            return Reached(trial.id, step, metrics, time, step == self._end)
        except Exception as error:
            return failed(trial.id, step, error, time)

    def _cleaned(self, trial: int, metrics: object) -> dict[str, Scalar]:
        self._clean.trial = trial
        clean, notes = self._clean(metrics, "curve(config, step)")
        self._notes += [Note("report", text, trial) for text in notes]
        if {*map(type, clean.values())} == _FLOATS:
            self._names = clean.keys()
        return clean

    def _when(self, trial: Trial, since: float, steps: int, worker: int) -> float:
        """When `steps` of work are due; work that took no step is due after one all the same."""
        return since + (steps or 1) * (1 if self._ticks else self._pace(trial, worker))

    def _pace(self, trial: Trial, worker: int) -> float:
        seconds = self._seconds_of(trial.config) if callable(self.seconds) else self.seconds
        return seconds / (1.0 if self.speeds is None else self.speeds[worker])

    def _seconds_of(self, config: Any) -> float:
        assert callable(self.seconds)
        law = "seconds: must be a positive number for each config, but"
        try:
            seconds = self.seconds(config)
        except Exception as error:
            raise ConfigurationError(f"{law} raised {error!r} for {config!r:.200}.") from error
        if not _is_positive(seconds):
            raise ConfigurationError(f"{law} is {seconds!r} for {config!r:.200}. Give the seconds that one step of it takes.")
        return float(seconds)

    def _failure_of(self, config: Any) -> int | None:
        assert self.failures is not None
        law = "failures: must be the step at which a config dies, an int of at least 1, or None, but"
        try:
            step = as_int(self.failures(config))
        except Exception as error:
            raise ConfigurationError(f"{law} raised {error!r} for {config!r:.200}.") from error
        if step is not None and (type(step) is not int or step < 1):
            raise ConfigurationError(f"{law} is {step!r} for {config!r:.200}. Give None for one that lives.")
        return step

    def _seconds(self, due: float) -> float:
        return self._start + (due * self._rate if self._ticks else due)


def _is_positive(value: object) -> bool:
    return isinstance(value, Real) and 0 < float(value) < math.inf


def _all_positive(values: Any, n: int) -> bool:
    """Whether these are `n` positive numbers."""
    return hasattr(values, "__len__") and len(values) == n and all(map(_is_positive, values))

"""One after another in this process: the plain truth that every other executor is compared with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ..errors import ConfigurationError
from ..parts import part
from ..trial import Command, Event, Failed, Keep, Launch, Note, Reached, Setting, Standing, Train
from .base import Job, stamped
from .clock import VirtualTime
from .local import LocalTrials


@part
class Serial:
    """Trains in this process, one trial at a time.

    `slots`: how many trials run at once logically (ASHA's asynchrony); they take turns. `cpus`: threads torch may use while
    a trial trains; the same as one worker of `Processes` has, so that both give the same bits.
    """

    ordered = True

    def __init__(self, slots: int = 1, cpus: int = 1) -> None:
        problems = [f"{name}: must be an int of at least 1, but got {value!r}."
                    for name, value in (("slots", slots), ("cpus", cpus)) if type(value) is not int or value < 1]
        if problems:
            raise ConfigurationError("\n".join(problems))
        self.slots = slots
        self.cpus = cpus
        self._trials: LocalTrials | None = None

    def prepare(self, job: Job) -> int:
        self._job = job
        return self.slots

    def begin(self, setting: Setting, standing: Standing) -> None:
        self._clock = VirtualTime(standing.tick)
        self._since = dict(standing.since)
        self._trials = self._made(standing)
        self._work: list[tuple[int, int]] = []          # (trial, until), in order of submission
        self._began = time.monotonic() - standing.seconds

    def submit(self, command: Command) -> None:
        trials = self._begun()
        if isinstance(command, Launch):
            trials.launch(command)
            self._queue(command.trial.id, command.until)
        elif isinstance(command, Train):
            self._queue(command.trial, command.until)
        elif isinstance(command, Keep):
            trials.keep(command)
        else:
            trials.drop(command)

    def wait(self) -> list[Event]:
        trials = self._begun()
        trials.tidy({trial for trial, _ in self._work})
        work, self._work = self._work, []
        for answer in self._trained(trials, work):
            self._clock.finish(answer)
        now = time.monotonic() - self._began
        notes = [stamped(note, now) for note in trials.notes]
        trials.notes.clear()
        return [*notes, *(stamped(answer, now) for answer in self._clock.pop())]

    def close(self, save: bool = False) -> list[Note]:
        trials, self._trials = self._trials, None
        if trials is None:
            return []
        if save:
            trials.save()
        trials.close()
        now = time.monotonic() - self._began
        return [stamped(note, now) for note in trials.notes]

    def _made(self, standing: Standing) -> LocalTrials:
        return LocalTrials(self._job, standing.live)

    def _trained(self, trials: LocalTrials, work: Sequence[tuple[int, int]]) -> Iterator[Reached | Failed]:
        """The answers, in any order; virtual time puts them in theirs."""
        with threads(self.cpus):
            for trial, until in work:
                yield trials.train(trial, until)

    def _queue(self, trial: int, until: int | None) -> None:
        if until is None:
            raise ConfigurationError(f"Train({trial}, None): an executor needs a step to train to; the study grants ENDLESS.")
        self._clock.submit(trial, self._begun().step(trial), self._since.pop(trial, None))
        self._work.append((trial, until))

    def _begun(self) -> LocalTrials:
        if self._trials is None:
            raise RuntimeError(f"{type(self).__name__}: prepare and begin come first, and close last.")
        return self._trials


class threads:
    """A block in which torch may use `count` threads."""

    __slots__ = ("_before", "_count")

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> None:
        import torch

        self._before = torch.get_num_threads()
        if self._before != self._count:
            torch.set_num_threads(self._count)

    def __exit__(self, *error: object) -> None:
        if self._before != self._count:
            import torch

            torch.set_num_threads(self._before)

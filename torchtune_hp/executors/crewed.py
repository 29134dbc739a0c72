"""What executors with worker processes share: their turns, and how they end."""

from __future__ import annotations

import time
from tempfile import TemporaryDirectory

from ..errors import ConfigurationError
from ..trial import Command, Event, Failed, Launch, Note, Reached, Setting, Standing, Train
from .base import Job, stamped
from .clock import VirtualTime
from .crew import Crew
from .remote import RemoteTrials
from .tracks import trial_of

GRACE = 5.0
"""Seconds a worker may take to finish its step and clean up, once the executor is closed."""
SAVING = 60.0
"""Seconds that states which are to be durable may take to arrive, once the executor is closed."""


class Crewed:
    """An executor whose `prepare` sets `_job` and `_crew`, and `_scratch` where a study in memory needs a folder."""

    _job: Job

    def __init__(self, ordered: bool) -> None:
        self.ordered = ordered
        self._crew: Crew | None = None
        self._scratch: TemporaryDirectory[str] | None = None
        self._whole = False

    def begin(self, setting: Setting, standing: Standing) -> None:
        if self._crew is None:
            raise RuntimeError("begin: prepare comes first.")
        self._trials = self._begun(self._job, self._crew, standing)
        self._clock = VirtualTime(standing.tick)
        self._since = dict(standing.since)
        self._began = time.monotonic() - standing.seconds
        self._whole = True

    def submit(self, command: Command) -> None:
        if isinstance(command, Train) and command.until is None:
            raise ConfigurationError(f"{command}: an executor needs a step to train to; the study grants ENDLESS.")
        trials = self._trials
        trials.submit(command)
        if self.ordered and isinstance(command, (Launch, Train)):
            trial = trial_of(command)
            self._clock.submit(trial, trials.step(trial), self._since.pop(trial, None))

    def wait(self) -> list[Event]:
        trials = self._trials
        answers: list[Reached | Failed] = []
        self._whole = False             # until this is through: after an error in it there is nothing to be settled
        trials.flush()
        if not trials.running:
            raise RuntimeError("wait: nothing is running; submit a Launch or a Train first.")
        if self.ordered:
            while not self._clock.certain(trials.passed):
                trials.listen()
                for answer in trials.answers:
                    self._clock.finish(answer)
                trials.answers = []
            answers = self._clock.pop()
        else:
            while not trials.answers:
                trials.listen()
            answers, trials.answers = trials.answers, []
        self._whole = True
        trials.said(answers)
        notes, trials.notes = trials.notes, []
        now = time.monotonic() - self._began
        return [*(stamped(note, now) for note in notes), *(stamped(answer, now) for answer in answers)]

    def close(self, save: bool = False) -> list[Note]:
        crew, self._crew = self._crew, None
        if crew is None:
            return []
        notes: list[Note] = []
        try:
            if self._whole:
                trials = self._trials
                trials.settle(save)
                now = began = time.monotonic()
                while now < began + SAVING and trials.saving(patient=now < began + GRACE):
                    trials.listen(0.2)
                    now = time.monotonic()
                notes = [stamped(note, now - self._began) for note in trials.notes]
        finally:
            try:
                crew.close(GRACE)
            finally:
                self._clean_up()
        return notes

    def _begun(self, job: Job, crew: Crew, standing: Standing) -> RemoteTrials:
        raise NotImplementedError

    def _clean_up(self) -> None:
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            scratch.cleanup()

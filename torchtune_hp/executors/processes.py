"""Worker processes of this machine, one trial at a time in each: for what cannot share a process, or would not gain by it.

A worker lives for the study and keeps the trials it began, so that going on costs one message each way. A resting trial is
saved and belongs to no worker, if it can be saved; a function that cannot waits where it stands, in its worker. A worker that
dies costs the trial it was at one retry; what else lived in it is trained again when it is next needed.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import ConfigurationError
from ..parts import part
from ..trial import Command, Event, Failed, Launch, Note, Reached, Setting, Standing, Train
from .base import Job, stamped
from .clock import VirtualTime
from .crew import Crew
from .messages import Hello
from .remote import RemoteTrials
from .server import PRELOAD
from .shares import environment, share_of, workers_for
from .tracks import trial_of
from .travel import packed

GRACE = 5.0
"""Seconds a worker may take to finish its step and clean up, once the executor is closed."""
SAVING = 60.0
"""Seconds that states which are to be durable may take to arrive, once the executor is closed."""


@part
class Processes:
    """Trains `workers` trials at once, each in a process with `cpus` threads and `gpus` GPUs (1/2: two workers share one).

    `workers="auto"`: as many as the machine's cores, and GPUs, allow. `ordered`: answers come by virtual time (`clock.py`), so
    that a study can be repeated exactly, at the price of waiting for the slowest of a tick; else as they arrive.
    """

    def __init__(self, workers: int | str = "auto", cpus: int = 1, gpus: float = 0, ordered: bool = False) -> None:
        problems = []
        if workers != "auto" and (type(workers) is not int or workers < 1):
            problems.append(f'workers: must be "auto" or an int of at least 1, but got {workers!r}.')
        if type(cpus) is not int or cpus < 1:
            problems.append(f"cpus: must be an int of at least 1, but got {cpus!r}.")
        if isinstance(gpus, bool) or not isinstance(gpus, (int, float)) or not (0 <= gpus <= 1 or float(gpus).is_integer()) or gpus < 0:
            problems.append(f"gpus: must be 0, a share of one GPU below 1, or a whole number of GPUs, but got {gpus!r}.")
        if ordered not in (True, False):
            problems.append(f"ordered: must be True or False, but got {ordered!r}.")
        if problems:
            raise ConfigurationError("\n".join(problems))
        self.workers = workers
        self.cpus = cpus
        self.gpus = gpus
        self.ordered = ordered
        self._crew: Crew | None = None
        self._scratch: TemporaryDirectory[str] | None = None
        self._whole = False

    def prepare(self, job: Job) -> int:
        self._job = job
        size, devices = workers_for(self.workers, self.cpus, self.gpus)
        place = job.place if not self.gpus else replace(job.place, device="cuda")
        recipe = packed(job.recipe)     # what cannot be sent is refused before there is anything to clean up
        if place.folder is None:        # a worker that dies removes nothing
            self._scratch = TemporaryDirectory(prefix="torchtune_hp-", ignore_cleanup_errors=True)
            place = replace(place, scratch=Path(self._scratch.name))

        def hello(number: int) -> Hello:
            share = share_of(number, self.gpus, devices)
            return Hello(recipe, place, self.cpus, share, job.checkpoint_every, self.ordered)

        preload = {PRELOAD: getattr(job.recipe, "preload", "")}
        try:
            self._crew = Crew(size, hello, environment(self.cpus) | preload)
        except BaseException:
            self._clean_up()
            raise
        return size

    def begin(self, setting: Setting, standing: Standing) -> None:
        if self._crew is None:
            raise RuntimeError("begin: prepare comes first.")
        self._trials = RemoteTrials(self._job, self._crew, standing.live)
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

    def _clean_up(self) -> None:
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            scratch.cleanup()

"""Worker processes of this machine, one trial at a time in each: for what cannot share a process, or would not gain by it.

A worker lives for the study and keeps the trials it began, so that going on costs one message each way. A resting trial is
saved and belongs to no worker, if it can be saved; a function that cannot waits where it stands, in its worker. A worker that
dies costs the trial it was at one retry; what else lived in it is trained again when it is next needed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import ConfigurationError
from ..parts import part
from ..trial import Standing
from .base import Job
from .crew import Crew, Death
from .crewed import Crewed
from .messages import Hello, Save, Work, trial_at
from .remote import SECOND_CHANCES, RemoteTrials
from .server import PRELOAD
from .shares import environment, share_of, workers_for
from .travel import packed


@part
class Processes(Crewed):
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
        super().__init__(ordered)
        self.workers = workers
        self.cpus = cpus
        self.gpus = gpus

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

    def _begun(self, job: Job, crew: Crew, standing: Standing) -> RemoteTrials:
        return WorkerTrials(job, crew, standing.live)


class WorkerTrials(RemoteTrials):
    """Runs trials in processes that do one thing at a time."""

    def _mourn(self, death: Death) -> None:
        """What the worker was at has one more chance; the rest goes elsewhere."""
        at = death.asked[0] if death.asked else None
        self._unhouse(death, None if at is None else trial_at(at))
        if isinstance(at, Work):
            track = self._tracks[at.trial]
            track.deaths += 1
            if track.deaths > SECOND_CHANCES:
                self._lose(track, death.why)
            else:
                self._give(track, at.saved)
        elif isinstance(at, Save):
            self._save_again(at, at.tries + 1)
        self._elsewhere((*death.asked[1:], *death.rest))

"""The live trials of one process: started, trained, rested, kept and dropped. `Serial` and `Simulated` stand on it."""

from __future__ import annotations

import dataclasses
import shutil
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from ..errors import CheckpointError
from ..training.runner import Look, Place, Runner, State
from ..trial import Drop, Failed, Keep, Launch, Note, Reached, Trial
from .base import Job, ended_early, failed, forget_frames

RESTING_LIVE = 16
"""Resting trials that stay as they are in this process; the longest resting beyond these are saved to the vault."""


class LocalTrials:
    """Runs trials in this process. `notes` collects what is worth logging until the executor says it, and is the same list for good.

    `passing`: hears of each look, of which trial it is.
    """

    def __init__(self, job: Job, live: Iterable[tuple[Trial, int]] = ()) -> None:
        self.job = job
        self.notes: list[Note] = []
        self.passing: Callable[[int, Look], None] | None = None
        self._trials: dict[int, Trial] = {trial.id: trial for trial, _ in live}
        self._steps: dict[int, int] = {trial.id: step for trial, step in live}
        self._runners: dict[int, Runner] = {}           # in order of their last training: the head has rested longest
        self._dirty: set[int] = set()                   # trained since their state was last durable
        self._unsaved = 0.0                             # seconds of training that a crash would cost
        self._unborn: dict[int, Exception | SystemExit] = {}        # forks whose parent's state could not be had
        self._folders: dict[int, set[Path]] = {}        # states that runners gave as folders, to be removed in the end

    def launch(self, command: Launch) -> None:
        """Takes a fork's state at once: its parent may go on, or be dropped, before the fork is trained."""
        trial, parent = command.trial, command.trial.parent
        self._trials[trial.id] = trial
        self._steps[trial.id] = 0 if parent is None else self._steps[parent]
        if parent is not None:
            try:
                state = self._state(parent)
                if state is not None:
                    self._inherit(trial.id, state)
            except (Exception, SystemExit) as error:
                self._unborn[trial.id] = error

    def place(self, trial: Trial, step: int) -> None:
        """This trial goes on here from its newest state, wherever it was before; `step`: of its last look."""
        self._close(trial.id)
        self._unborn.pop(trial.id, None)
        self._trials[trial.id], self._steps[trial.id] = trial, step

    def unborn(self, trial: int, error: Exception | SystemExit) -> None:
        """Its state could not be had: the next training of it says so."""
        self._unborn[trial] = error

    def standing(self, trial: int) -> Runner | None:
        """It as it is in this process, if it is."""
        return self._runners.get(trial)

    def step(self, trial: int) -> int:
        """The step of the trial's last look."""
        return self._steps[trial]

    def train(self, trial: int, until: int) -> Reached | Failed:
        """Trains to `until` or to the trial's own end, whichever comes first. The answer's time is 0: the caller knows it."""
        began = time.monotonic()
        at = self._steps[trial]
        try:
            runner = self._runners.pop(trial, None) or self._start(trial, until)
            self._runners[trial] = runner
            at = runner.step
            while True:
                look = runner.advance()
                at = look.step
                self._heed(trial, look)
                if look.done or look.step >= until:
                    break
        except (Exception, SystemExit) as error:
            answer: Reached | Failed = self._failed(trial, at, error)
        except BaseException:           # a second Ctrl-C: the state is half a step old, and must not be saved
            self._dirty.discard(trial)
            self._close(trial)
            raise
        else:
            answer = Reached(trial, look.step, look.metrics, 0.0, look.done)
            self._dirty.add(trial)
        self._steps[trial] = max(self._steps[trial], answer.step)
        self._unsaved += time.monotonic() - began
        return answer

    def _failed(self, trial: int, at: int, error: BaseException) -> Failed:
        """The answer of a trial that stood `at` a step when it raised this; it is closed."""
        answer = failed(trial, max(at + 1, self._steps[trial] + 1), error, 0.0)
        forget_frames(error)
        self._close(trial)
        return answer

    def _heed(self, trial: int, look: Look) -> None:
        """Notes what is new in a look. What is trained again after a state was lost was said before, and ends no earlier than it did."""
        before = self._steps[trial]
        if look.done and look.step < before:
            raise ended_early(trial, look.step, before)
        if look.done or look.step > before:
            self.notes += [Note("report", text, trial) for text in look.notes]
        if self.passing is not None:
            self.passing(trial, look)

    def keep(self, command: Keep) -> None:
        if self._put(command.trial, "keep"):
            for other in command.instead_of:
                self.job.vault.forget(other, purpose="keep")

    def drop(self, command: Drop) -> None:
        self._close(command.trial)
        for folder in self._folders.pop(command.trial, ()):
            shutil.rmtree(folder, ignore_errors=True)
        self._dirty.discard(command.trial)
        self._trials.pop(command.trial, None)
        self._steps.pop(command.trial, None)
        self._unborn.pop(command.trial, None)
        self.job.vault.forget(command.trial, purpose="resume")

    def tidy(self, busy: set[int]) -> None:
        """Between turns: saves states that a crash would cost too much of, and makes room. `busy` trials go on at once."""
        if self._dirty and self._unsaved >= self.job.checkpoint_every:
            self.save()
        if len(self._runners) > RESTING_LIVE and self.job.recipe.saves:
            resting = [trial for trial in self._runners if trial not in busy]
            for trial in resting[: max(0, len(resting) - RESTING_LIVE)]:
                try:
                    state = self._saved(trial)
                    if state is not None:
                        self.job.vault.rest(trial, self._steps[trial], state)
                        self._close(trial)
                except (Exception, SystemExit) as error:        # it stays in memory, then
                    self._not_saved(trial, error)

    def save(self) -> None:
        """Makes every state durable that can be and is not yet."""
        self._dirty = {trial for trial in sorted(self._dirty) if not self._put(trial, "resume")}
        self._unsaved = 0.0

    def close(self) -> None:
        for trial in list(self._runners):
            self._close(trial)
        for folder in (folder for folders in self._folders.values() for folder in folders):
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self, trial: int, until: int) -> Runner:
        """A runner at the trial's newest state before `until`: resting, durable, or from nothing."""
        if trial in self._unborn:
            raise self._unborn.pop(trial)
        spec, vault = self._trials[trial], self.job.vault
        found = vault.wake(trial) or vault.newest(trial, upto=until - 1)
        step, state = found or (0, None)
        return self._begun(spec, state, step)

    def _inherit(self, fork: int, state: State) -> None:
        """What a fork begins with is durable, as no later state of its parent will do; where it cannot be, it is held."""
        step = self._steps[fork]
        try:
            self.job.vault.put(fork, step, state, purpose="resume")
        except (CheckpointError, OSError) as error:
            self._not_saved(fork, error)
            self.job.vault.rest(fork, step, state)

    def _begun(self, spec: Trial, state: State | None, step: int) -> Runner:
        return self.job.recipe.start(spec, place_of(self.job, spec.id), state, step)

    def _state(self, trial: int) -> State | None:
        if trial in self._runners:
            return self._saved(trial)
        found = self.job.vault.wake(trial)
        if found is None:
            return None
        step, state = found
        self.job.vault.rest(trial, step, state)
        return state

    def _put(self, trial: int, purpose: Literal["keep", "resume"]) -> bool:
        """Makes the trial's state durable if it can be; what was durable before stays so if not, and the trial goes on."""
        try:
            state = self._state(trial)
            if state is not None:
                self.job.vault.put(trial, self._steps[trial], state, purpose=purpose)
            return state is not None
        except (Exception, SystemExit) as error:
            self._not_saved(trial, error)
            return False

    def _not_saved(self, trial: int, error: BaseException) -> None:
        text = "".join(traceback.format_exception_only(error)).strip()
        self.notes.append(Note("checkpoint", f"not saved at step {self._steps[trial]}: {text}", trial))

    def _saved(self, trial: int) -> State | None:
        state = self._runners[trial].save()
        if isinstance(state, Path):
            self._folders.setdefault(trial, set()).add(state)
        return state

    def _close(self, trial: int) -> None:
        runner = self._runners.pop(trial, None)
        if runner is None:
            return
        try:
            runner.close()
        except (Exception, SystemExit) as error:        # of the user's cleanup; the trial is closed all the same
            self.notes.append(Note("cleanup", f"the cleanup of trial {trial} raised {error!r}", trial))


def place_of(job: Job, trial: int) -> Place:
    """Where this trial lives: the study's place, with a folder of its own in it."""
    if job.place.folder is None:
        return job.place
    return dataclasses.replace(job.place, folder=job.place.folder.joinpath("trials", f"{trial:06d}"))

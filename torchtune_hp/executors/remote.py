"""The live trials of a crew of worker processes: which worker holds which, and the states on their way. See `local.py`.

A turn's commands are collected, then carried out together (`flush`): states of last looks are asked for first, what trains
on comes after, and Drops last. A worker does what it is asked in that order, so what is asked for is always still there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from ..errors import CheckpointError
from ..training.runner import State
from ..trial import Command, Drop, Failed, Keep, Launch, Note, Reached, Train, Trial
from .base import Job
from .crew import Answer, Crew, Death, Member
from .keeps import Keeps
from .messages import Close, Mark, Request, Said, Save, Saved, Step, Work
from .origins import Origin, discarded, from_saved
from .tracks import Track, trial_of
from .travel import packed

SECOND_CHANCES = 1
"""So many workers may die at a trial without its being lost."""


class RemoteTrials:
    """Runs trials in the crew's processes. `answers` and `notes` collect what is to be said.

    `passed`: the step that a trial which was sent further is known to have passed.
    """

    def __init__(self, job: Job, crew: Crew, live: Sequence[tuple[Trial, int]] = ()) -> None:
        self.answers: list[Reached | Failed] = []
        self.notes: list[Note] = []
        self.passed: dict[int, int] = {}
        self._job = job
        self._crew = crew
        self._vault = job.vault
        self._tracks = {trial.id: Track(trial.id, packed(trial), step) for trial, step in live}
        for trial, _ in live:
            # Needed by a fork that never got its parent's state: then it stands where its parent stood.
            if trial.parent is not None and trial.parent in self._tracks:
                track = self._tracks[trial.id]
                track.parent = self._tracks[trial.parent].origin()._replace(step=track.step)
        self._turn: list[Command] = []
        self._said: list[int] = []                      # the trials of the answers said last
        self._keeps = Keeps()
        self._overdue: set[int] = set()                 # to be made durable as soon as they rest, or before they go on
        self._heirs: dict[tuple[int, int], list[int]] = {}      # (parent, step) -> the forks that wait for its state
        self._forking = False
        self._unsaved = 0.0                             # seconds of training that a crash would cost

    @property
    def running(self) -> bool:
        return any(track.until is not None for track in self._tracks.values())

    def step(self, trial: int) -> int:
        """The step of the trial's last look."""
        return self._tracks[trial].step

    def submit(self, command: Command) -> None:
        self._turn.append(command)
        if isinstance(command, Launch):
            trial = command.trial
            parent = None if trial.parent is None else self._tracks.get(trial.parent)
            track = self._tracks[trial.id] = Track(trial.id, packed(trial), 0)
            if parent is not None:
                self._forking = True
                track.step, track.parent = parent.step, parent.origin()
            track.until = command.until
        elif isinstance(command, Train):
            self._tracks[command.trial].until = command.until

    def said(self, answers: Iterable[Reached | Failed]) -> None:
        """These answers were said: from now on their trials rest, unless they are sent further."""
        self._said = []
        for answer in answers:
            track = self._tracks.get(answer.trial)
            if track is not None:
                track.until, track.given = None, False
                self._said.append(answer.trial)

    def flush(self) -> None:
        """Carries out the commands of a turn."""
        turn, self._turn = self._turn, []
        sent = [trial_of(command) for command in turn if isinstance(command, (Launch, Train))]
        wanted = self._wanted(turn)
        waiting = {heir for heir in sent if self._inherits(heir, wanted)}
        for trial, why in wanted.items():
            self._want(trial, frozenset(why))
        for trial in sorted(sent, key=lambda trial: self._tracks[trial].holder is None):     # who lives somewhere goes on there
            if trial not in waiting:
                self._give(self._tracks[trial])
        for command in turn:
            if isinstance(command, Drop):
                self._drop(command.trial)
        self._crew.send()

    def listen(self, timeout: float | None = None) -> None:
        """Waits for the crew, and takes in what came."""
        for heard in self._crew.poll(timeout):
            if isinstance(heard, Death):
                self._mourn(heard)
            else:
                self._hear(heard)
        self._crew.send()

    def settle(self, save: bool) -> None:
        """Before the end: asks for what is to be kept, and with `save` for every state that is not durable yet."""
        self._turn = [command for command in self._turn if isinstance(command, (Keep, Drop))]
        self._said = []
        if save:
            self._unsaved = math.inf
        self.flush()

    def saving(self, patient: bool) -> bool:
        """Whether states are on their way; without patience, those behind a training do not count."""
        for member in self._crew.members:
            kinds = {type(request) for request in (*member.asked, *member.queue)}
            if Save in kinds and (patient or Work not in kinds):
                return True
        return False

    def _hear(self, heard: Answer) -> None:
        reply = heard.reply
        if isinstance(reply, Step):
            self.passed[reply.trial] = max(reply.step, self.passed.get(reply.trial, 0))
        elif isinstance(reply, Mark):
            self._store(reply.trial, reply.step, reply.state, "resume")
            discarded(reply.state)
        elif isinstance(reply, Said):
            self._answer(reply)
        elif isinstance(reply, Saved) and isinstance(heard.request, Save):
            origin = heard.request.origin
            if reply.error:
                self.notes.append(Note("checkpoint", f"not saved at step {origin.step}: {reply.error}", origin.trial))
            self._arrive(origin, heard.request.why, reply.state)
            discarded(reply.state)

    # What a turn needs states for ----------------------------------------------------------------------------------------

    def _wanted(self, turn: Sequence[Command]) -> dict[int, set[str]]:
        """Trial -> what its state as of the last look is wanted for: "keep", "rest", "resume"."""
        wanted: dict[int, set[str]] = {}
        said, self._said = self._said, []
        dropped = {command.trial for command in turn if isinstance(command, Drop)}
        for command in turn:
            if isinstance(command, Keep):
                self._keeps.ask(command)
                wanted.setdefault(command.trial, set()).add("keep")
        for trial in said if self._job.recipe.saves else ():
            track = self._tracks.get(trial)
            if track is not None and track.until is None and track.holder is not None and trial not in dropped:
                wanted.setdefault(trial, set()).add("rest")
        if self._unsaved >= self._job.checkpoint_every:
            self._overdue = {trial for trial, track in self._tracks.items() if track.dirty}
            self._unsaved = 0.0
        for trial in sorted(self._overdue):
            track = self._tracks.get(trial)
            if track is None or not track.dirty or trial in dropped:
                self._overdue.discard(trial)
            elif not track.given:
                self._overdue.discard(trial)
                wanted.setdefault(trial, set()).add("resume")
        return wanted

    def _inherits(self, heir: int, wanted: dict[int, set[str]]) -> bool:
        """Whether this trial is a fork that has to wait for its parent's state, which then is wanted too."""
        track = self._tracks[heir]
        if track.parent is None or track.step != track.parent.step or track.holder is not None or self._vault.newest(heir) is not None:
            return False
        parent = self._tracks.get(track.parent.trial)
        if parent is None or parent.failed or parent.step != track.parent.step:
            return False
        self._heirs.setdefault((parent.trial, parent.step), []).append(heir)
        wanted.setdefault(parent.trial, set()).add("fork")
        return True

    def _want(self, trial: int, why: frozenset[str]) -> None:
        track = self._tracks.get(trial)
        if track is None or track.failed:
            self._keeps.arrived(trial)
            return
        origin = track.origin()
        if track.holder is not None:
            self._crew.give(track.holder, Save(from_saved(origin, track.step, self._vault) if track.given else origin, why))
            return
        found = self._vault.wake(trial)
        if found is not None:
            self._vault.rest(trial, *found)
        else:
            found = self._vault.newest(trial)
        if found is not None and found[0] == track.step:
            self._arrive(origin, why, found[1])
        elif not why.isdisjoint(("keep", "fork")):
            self._crew.give(self._freest(), Save(from_saved(origin, track.step, self._vault), why))

    def _arrive(self, origin: Origin, why: frozenset[str], state: State | None) -> None:
        """The state that was wanted is here, or cannot be had."""
        trial, step = origin.trial, origin.step
        track = self._tracks.get(trial)
        if "keep" in why:
            replaced = self._keeps.arrived(trial)
            if replaced is not None and state is not None and self._store(trial, step, state, "keep"):
                for other in replaced:
                    self._vault.forget(other, purpose="keep")
        if "fork" in why:
            for heir in self._heirs.pop((trial, step), []):
                if state is not None:
                    self._store(heir, step, state, "resume")
                if heir in self._tracks:
                    self._give(self._tracks[heir])
        if track is None or state is None or track.step != step:
            return
        if "resume" in why and self._store(trial, step, state, "resume"):
            track.dirty = False
        if "rest" in why and track.until is None and track.holder is not None and self._store(trial, step, state, "rest"):
            self._crew.give(track.holder, Close(trial))
            track.holder = None

    def _store(self, trial: int, step: int, state: State, purpose: Literal["keep", "resume", "rest"]) -> bool:
        try:
            if purpose == "rest":
                self._vault.rest(trial, step, state)
            else:
                self._vault.put(trial, step, state, purpose=purpose)
        except (CheckpointError, OSError) as error:
            self.notes.append(Note("checkpoint", f"not stored at step {step}: {error}", trial))
            return False
        return True

    # Training ------------------------------------------------------------------------------------------------------------

    def _give(self, track: Track, saved: tuple[int, State] | None = None) -> None:
        """Sends the trial to `until`, in the worker where it lives, or else wherever there is room."""
        origin = None
        if track.holder is None:
            track.holder = self._freest()
            origin = self._origin(track, saved)
        track.given = True
        self._crew.give(track.holder, Work(track.trial, track.sent_to, self._forking, origin))

    def _origin(self, track: Track, saved: tuple[int, State] | None) -> Origin:
        """From where it begins in another worker: from what is known, or from `saved`, which was on its way to a worker that died, unless
        that one sent a later state home."""
        origin = track.origin()._replace(saved=None if saved is not None else self._vault.wake(track.trial))
        if origin.saved is None:    # a state at `until` itself will not do: it cannot say that step's metrics any more
            origin = from_saved(origin, track.sent_to - 1, self._vault)
        if saved is not None and (origin.saved is None or origin.saved[0] <= saved[0]):
            origin = origin._replace(saved=saved)
        return origin

    def _freest(self) -> Member:
        homes = Counter(track.holder.number for track in self._tracks.values() if track.holder is not None)
        return min(self._crew.members, key=lambda member: (member.load, homes[member.number], member.number))

    def _answer(self, said: Said) -> None:
        self.answers.append(said.event())
        self.notes += [Note(kind, text, said.trial) for kind, text in said.notes]
        self.passed.pop(said.trial, None)
        self._unsaved += said.seconds
        track = self._tracks.get(said.trial)
        if track is not None:
            if said.kind is None:
                track.step, track.dirty = said.step, True
            else:
                track.holder, track.dirty, track.failed = None, False, True

    def _drop(self, trial: int) -> None:
        track = self._tracks.pop(trial, None)
        if track is not None and track.holder is not None:
            self._crew.give(track.holder, Close(trial))
        self._vault.forget(trial, purpose="resume")

    # Deaths --------------------------------------------------------------------------------------------------------------

    def _mourn(self, death: Death) -> None:
        """What is to become of what the worker was at, and of the rest."""
        raise NotImplementedError

    def _unhouse(self, death: Death, trial: int | None) -> None:
        """What lived in it has no home now. `trial`: what it died of, if that is known."""
        for track in self._tracks.values():
            if track.holder is death.member:
                track.holder = None
        self.notes.append(Note("lost", f"{self._named(death.member)}worker died ({death.why}), restarting {death.restart}", trial))

    def _named(self, member: Member) -> str:
        """What stands before a note of it."""
        return ""

    def _lose(self, track: Track, why: str) -> None:
        self._answer(track.lost(why, self.passed.get(track.trial, 0), self._job.place.folder is not None))

    def _elsewhere(self, requests: Iterable[Request]) -> None:
        """What a worker had still to do when it died is done by others."""
        for request in requests:
            if isinstance(request, Work):
                self._give(self._tracks[request.trial], request.saved)
            elif isinstance(request, Save):
                self._save_again(request, request.tries)

    def _save_again(self, request: Save, tries: int) -> None:
        why = request.why & {"keep", "fork"}        # to rest, or to be durable, it would have to be trained first
        if tries > SECOND_CHANCES:
            self._arrive(request.origin, why, None)
        elif why:
            self._crew.give(self._freest(), Save(from_saved(request.origin, request.origin.step, self._vault), why, tries))

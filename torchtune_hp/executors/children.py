"""Several devices: a worker process for each, which trains what it is given together, by an engine of its own (engine_child.py).

Laws:
1. A study's places are those of all devices. Decisions are by virtual time (clock.py): those of one device with as many.
2. A trial stays where it is live; all others of a turn are dealt so that each device trains about as many. One that rests is saved, and
   wakes wherever there is room; a function that cannot be saved waits in its process.
3. A process that dies is replaced. Which of the trials that it trained it died of is not known: they are brought to where they stood,
   together, and that turn is repeated for each by itself. A trial at which it dies again, by itself, is lost; the others are not.
4. What is chosen by a clock is chosen once, for all devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..population.choosing import Strategy
from ..population.sizes import Size
from ..population.words import timed
from ..training.model import ModelRecipe
from ..trial import Note, Standing
from .base import Job
from .crew import Answer, Crew, Death, Member
from .crewed import Crewed
from .devices import labels
from .messages import Chose, Chosen, Hello, Measure, Measured, Request, Save, Together, Told, Work, is_alone
from .origins import Origin
from .remote import SECOND_CHANCES, RemoteTrials
from .server import PRELOAD
from .shares import environment, one_device
from .slots import fixed, measured, unmeasured
from .travel import packed


class Children(Crewed):
    """Trains on each of `devices` in a process of its own. `slots` is each one's; "auto": measured on the first, and taken for all."""

    def __init__(self, devices: Sequence[torch.device], slots: int | str, strategy: Strategy) -> None:
        super().__init__(ordered=True)
        self._devices, self._slots, self._strategy = devices, slots, strategy
        self._labels = labels(devices) if len(devices) > 1 else [""]
        self._notes: list[Note] = []        # of what was chosen before the study began

    def prepare(self, job: Job) -> int:
        self._job = job
        count = len(self._devices)
        cpus = max(1, torch.get_num_threads() // count)
        recipe = packed(job.recipe, f'hp.Fused(devices="{self._devices[0]}")')    # refused before there is anything to clean up
        place = job.place
        if place.folder is None:        # a process that dies removes nothing
            self._scratch = TemporaryDirectory(prefix="torchtune_hp-", ignore_cleanup_errors=True)
            place = replace(place, scratch=Path(self._scratch.name))

        def hello(number: int) -> Hello:
            device, share = one_device(self._devices[number])
            together = Together(self._strategy, dict(job.choices), f"devices/{number}")
            return Hello(recipe, replace(place, device=device), cpus, share, job.checkpoint_every, True, together)

        modules = f"{getattr(job.recipe, 'preload', '')} {__package__}.engine_child"
        try:
            self._crew = Crew(count, hello, environment(cpus) | {PRELOAD: modules})
            if job.capacity is not None:
                return job.capacity
            return self._each(self._crew) * count
        except BaseException:
            self.close()
            self._clean_up()
            raise

    def _each(self, crew: Crew) -> int:
        """The slots of each device; said in the log."""
        count, names = len(self._devices), " and ".join(self._labels)
        if isinstance(self._slots, int):
            if count > 1:
                self._notes = [Note("slots", f"{self._slots} on each of {names}: {self._slots * count} trials at once.")]
            return self._slots
        size = self._measured(crew)
        text = f"{size.slots}: {size.why}."
        if count > 1:
            text = f"{size.slots} on each of {names}, {size.slots * count} trials at once. Of {self._labels[0]}, {size.why}."
        self._notes = [Note("slots", f"{text} {fixed(size.slots)}")]
        return size.slots

    def _measured(self, crew: Crew) -> Size:
        """By the first device's process; where there is nothing to be measured, here."""
        job, device = self._job, str(self._devices[0])
        if not isinstance(job.recipe, ModelRecipe) or job.first is None:
            return measured(replace(job, place=replace(job.place, device=device)), self._strategy)
        try:
            first = packed(job.first())
        except Exception as error:
            return unmeasured(device, f"{type(error).__name__}: {error}")
        trials = None if job.trials is None else -(-job.trials // len(self._devices))
        crew.give(crew.members[0], Measure(first, trials))
        crew.send()
        while True:
            for heard in crew.poll():
                if isinstance(heard, Answer) and isinstance(heard.reply, Measured):
                    return Size(heard.reply.slots, heard.reply.why)
                if isinstance(heard, Death) and any(isinstance(request, Measure) for request in (*heard.asked, *heard.rest)):
                    return unmeasured(device, f"the process died ({heard.why})")
            crew.send()

    def _begun(self, job: Job, crew: Crew, standing: Standing) -> RemoteTrials:
        trials = ChildTrials(job, crew, standing, self._labels)
        trials.notes += self._notes
        self._notes = []
        return trials


class ChildTrials(RemoteTrials):
    """Runs trials in processes that train together. `labels`: what each is called in the log; "": it needs no name."""

    def __init__(self, job: Job, crew: Crew, standing: Standing, labels: Sequence[str]) -> None:
        super().__init__(job, crew, standing.live)
        self._labels = labels
        self._once: set[str] = set()        # what was said for all devices

    def _hear(self, heard: Answer) -> None:
        reply = heard.reply
        if isinstance(reply, Told):
            name = self._named(heard.member)
            told = [note for note in reply.notes if not self._of_all(note)]
            self.notes += [note if note.trial is not None else replace(note, text=name + note.text) for note in told]
        elif isinstance(reply, Chose):
            choices = self._job.choices
            if reply.what not in choices:
                choices[reply.what] = reply.chosen
            self._crew.tell(heard.member, Chosen(choices[reply.what]))
        else:
            super()._hear(heard)

    def _named(self, member: Member) -> str:
        label = self._labels[member.number]
        return f"{label}: " if label else ""

    def _of_all(self, note: Note) -> bool:
        """Whether it is of all devices, and said here, once: a clock chose for all of them."""
        if note.kind != "choice" or note.text != timed(note.text.partition(":")[0]):
            return False
        if note.text not in self._once:
            self._once.add(note.text)
            self.notes.append(note)
        return True

    def _freest(self) -> Member:
        def works(member: Member) -> int:
            return sum(isinstance(request, Work) for request in (*member.asked, *member.queue))

        return min(self._crew.members, key=lambda member: (works(member), member.number))

    # Deaths --------------------------------------------------------------------------------------------------------------

    def _mourn(self, death: Death) -> None:
        """It died of one of those that it trained, or brought to where they stood: each of them is trained by itself until it answers."""
        works = [request for request in takewhile(_is_work, death.asked) if isinstance(request, Work)]
        rest = [*death.asked[len(works) :], *death.rest]
        alone = self._tracks[works[0].trial] if len(works) == 1 else None
        self._unhouse(death, None if alone is None else alone.trial)
        for work in works:
            self._tracks[work.trial].deaths += 1
        if death.asked and isinstance(death.asked[0], Save):
            rest[0] = death.asked[0]._replace(tries=death.asked[0].tries + 1)
        if alone is not None and alone.deaths > SECOND_CHANCES:
            self._lose(alone, death.why)
            works = []
        suspects = [*works, *(request for request in rest if isinstance(request, Work) and is_alone(request))]
        on_the_way = any(isinstance(request, Save) and request.stays for request in death.asked)
        self._one_by_one(death.member, suspects, together=not on_the_way)
        self._elsewhere([request for request in rest if not is_alone(request)])

    def _one_by_one(self, member: Member, works: Sequence[Work], together: bool) -> None:
        """Sends them to this worker, a list for each. `together`: those that are to be trained again to where they stood first come there
        together, and their states come home."""
        told = []
        for work in works:
            track = self._tracks[work.trial]
            origin: Origin | None = self._origin(track, work.saved)
            assert origin is not None
            track.holder, track.given = member, True
            if together and origin.begins < origin.step:
                self._crew.give(member, Save(origin, frozenset({"resume"}), stays=True))
                origin = None
            told.append(Work(work.trial, track.sent_to, False, origin, alone=True))
        for each in told:
            self._crew.give(member, each)

    def _save_again(self, request: Save, tries: int) -> None:
        if not request.stays:       # else its Work goes by itself from where it can
            super()._save_again(request, tries)


def _is_work(request: Request) -> bool:
    return isinstance(request, Work)

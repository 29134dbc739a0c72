"""One session of a study: from the first turn, or from where the journal ends, until it is over or interrupted."""

from __future__ import annotations

import copy
import dataclasses
import gc
import reprlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import proxy

import torch

from .configs import whole_config
from .errors import ReplayError, StudyFailedError
from .executors.base import Executor, Job
from .executors.processes import Processes
from .interrupts import Interrupts, StudyInterrupted, how_to_go_on
from .journal import Journal
from .observers.base import Observers, StudyInfo
from .plan import Plan
from .recovery import Kept, recover
from .results import Results
from .scripts import how_to_resume
from .study import BREAKER, Study
from .training.function import FunctionRecipe
from .training.loading import shown_by, silent
from .training.replicas import of_one_training
from .training.runner import Place, Recipe
from .training.seeding import undisturbed
from .trial import Command, Config, Drop, Keep, Launch, Limits, Note, Trial
from .vault import Vault

if TYPE_CHECKING:
    from .observers.progress import Progress


ARRIVAL = (
    "decisions are made in the order in which processes finish, which is another one in each run; this run can be resumed all the "
    "same. Runs that repeat each other: executor=hp.Processes(ordered=True)"
)


def drive(
    study: Study,
    executor: Executor,
    journal: Journal,
    observers: Observers,
    limits: Limits,
    commands: Sequence[Command],
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """The one loop, whole. `commands`: the first step's, or `study.outstanding()`.

    Once interrupted nothing more is trained; what the turn in hand keeps and forgets, it keeps and forgets.
    """
    while True:
        stopping = interrupted()
        for command in commands:
            if not stopping or isinstance(command, (Keep, Drop)):
                executor.submit(command)
        if stopping or not study.running:
            return
        events = executor.wait()
        commands = study.step(events, limits)
        journal.append(events, limits, commands)        # durable before anything of it is done
        for note in study.notes():
            journal.note(note)
        observers.told(events, commands)


class Session:
    """Wires a plan to a journal. The caller holds the driver's lock, and closes the journal."""

    def __init__(self, plan: Plan, folder: Path | None, journal: Journal, shown: Path | None = None) -> None:
        self.plan = plan
        self.journal = journal
        self.shown = shown          # the folder, as it was given
        self.vault = Vault(folder, journal)
        name = journal.header["name"]
        place = Place(folder, "cpu", plan.max_t, plan.objective.needed, name, plan.seed)
        capacity = journal.header.get("capacity")
        first = partial(Session._first, proxy(self))        # the session holds the job
        self.job = Job(plan.recipe, place, self.vault, plan.checkpoint_every, capacity, plan.trials, first, _Choices(journal))

    def run(self) -> Results:
        """Runs the study until it is over, and returns what the journal holds of it then."""
        progress = _progress(self.plan.verbose)
        observers = Observers([*progress, *self.plan.observers], self.journal.note)
        try:
            with undisturbed(), _set_aside(), shown_by(progress[0].loading if progress else silent):
                return self._run(observers)
        finally:
            observers.close()

    def _run(self, observers: Observers) -> Results:
        plan, journal, executor = self.plan, self.journal, self.plan.executor
        interrupts = Interrupts()
        finished, notes = False, list[Note]()
        try:
            with interrupts:
                capacity = self._capacity(executor.prepare(self.job))
                study = plan.study(capacity)
                limits = plan.limits(capacity)
                before = self._replay(study)
                turns = len(journal)
                self._note_once(study)
                self._note_timed()
                self._note_arrival(capacity)
                standing, commands = study.standing(), study.outstanding()
                earlier = None if before is None else Results(journal)
                header = journal.header
                observers.begin(
                    StudyInfo(header["name"], self.shown, plan.objective, limits, plan.max_t, header, study.trials, standing, earlier)
                )
                self._write_header()
                if before != limits or study.broken is not None:
                    more = study.step((), limits)
                    journal.append((), limits, more)
                    observers.told((), more)
                    commands += more
                executor.begin(study.setting, standing)
                drive(study, executor, journal, observers, limits, commands, interrupts.requested)
                finished = not study.running
                reason = study.over(limits)
                said = [note.text for note in journal.notes("end")][-1:]
                if finished and reason is not None and (len(journal) > turns or said != [reason]):
                    journal.note(Note("end", reason, time=study.seconds))
        finally:
            notes += executor.close(save=interrupts.requested()) or ()
            for note in notes:
                journal.note(note)
            journal.flush()
        if notes:
            observers.told(notes, ())
        results = Results(journal, recipe=plan.recipe, vault=self.vault, space=plan.space)
        observers.end(results)
        if study.broken is not None:
            raise StudyFailedError(_broken(journal.header["name"], study.broken))
        if not finished:
            command = None if self.shown is None else how_to_resume(self.shown)
            raise StudyInterrupted(how_to_go_on(command, notes), interrupts.signum or 0)
        return results

    def _capacity(self, offered: int) -> int:
        """The study's logical concurrency: the executor's when it began, and the same for ever after."""
        recorded = self.journal.header.get("capacity")
        if recorded is not None:
            return int(recorded)
        self.journal.update_header(capacity=offered)
        self.journal.note(Note("choice", f"capacity: {offered} trials at once, as {type(self.plan.executor).__name__} offers"))
        for name in self.plan.space.sampled:
            self.journal.note(Note("space", f"{name} is drawn by sample_from under each trial's seed; no searcher sees it"))
        for name, value in self.plan.space.lists.items():
            whole = f"{name} is a constant: every trial gets the whole list {reprlib.repr(value)}"
            self.journal.note(Note("space", f"{whole}. To search among its items: hp.choice([...])"))
        if not self.plan.recipe.saves and self.plan.keep:
            self.journal.note(Note("keep", _unsaved(self.plan.recipe)))
        return offered

    def _note_once(self, study: Study) -> None:
        """What the searcher said at its beginning and in the replay, but for what is in the journal already."""
        said = study.notes()
        known = {note.text for note in self.journal.notes()} if said else set()
        for note in said:
            if note.text not in known:
                self.journal.note(note)

    def _note_timed(self) -> None:
        """That a clock chose, of a process that died between the choice, which is in the header before its first use, and its turn."""
        if self.journal.header.get("choices"):
            from .population.words import timed

            text = timed(self.plan.recipe.name)
            if all(note.text != text for note in self.journal.notes("choice")):
                self.journal.note(Note("choice", text))

    def _note_arrival(self, capacity: int) -> None:
        """That the order in which trials finish is an input of this study, and so another one in another run."""
        if isinstance(self.plan.executor, Processes) and not self.plan.executor.ordered and capacity > 1:
            if all(note.text != ARRIVAL for note in self.journal.notes("order")):
                self.journal.note(Note("order", ARRIVAL))

    def _first(self) -> Trial:
        """The trial that this study begins with, or would on one slot; asked of copies."""
        searcher, scheduler = copy.deepcopy((self.plan.searcher, self.plan.scheduler))
        study = dataclasses.replace(self.plan, searcher=searcher, scheduler=scheduler, stop=None).study(1)
        return next(command.trial for command in study.step((), self.plan.limits(1)) if isinstance(command, Launch))

    def _write_header(self) -> None:
        """What was changed on purpose holds from now on: the journal was replayed with it."""
        header = self.journal.header
        fixed = {key: value for key, value in self.plan.header().items() if key not in ("executor", "versions")}
        changed = {key: value for key, value in fixed.items() if header.get(key) != value}
        if changed:
            self.journal.update_header(**changed)

    def _replay(self, study: Study) -> Limits | None:
        """Goes through the journal's turns, checking each decision. Returns the limits of the last one."""
        limits: Limits | None = None
        kept = Kept(self.plan.objective)
        with _without_collecting():
            for number, (events, limits, commands) in enumerate(self.journal.turns()):
                try:
                    study.replay(events, limits, commands)
                except ReplayError as error:
                    raise ReplayError(f"turn {number} of the journal is not what would be decided now: {error}") from None
                kept.turn(events, commands)
        if limits is not None:
            study.reconfigure(self._config)
            recover(self.plan, self.job, self.journal, {trial.id for trial, _ in study.standing().live}, kept.reports.keys())
        return limits

    def _config(self, trial: Trial) -> Config:
        """The config of a recorded trial, with the objects that JSON could not hold, if its space still gives the same."""
        return whole_config(trial, self.plan.space)



class _Choices(dict[str, str]):
    """What a clock chose in this study. It is in the journal's header before anybody goes by it."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal.header.get("choices", {}))
        self._journal = journal

    def __setitem__(self, what: str, chosen: str) -> None:
        self._journal.update_header(choices={**self, what: chosen})
        super().__setitem__(what, chosen)


_first = iter([True])


@contextmanager
def _set_aside() -> Iterator[None]:
    """What was there before the process's first study, torch's own modules above all, is not looked through for cyclic garbage while that
    study lasts: one full collection took a tenth of a study of two seconds. What a study leaves may be such garbage, so before a later one
    all stays as it is; also where an accelerator's memory may be in it, and where somebody froze objects of their own, for thawing is for
    all."""
    if not next(_first, False) or gc.get_freeze_count() or torch.accelerator.is_available():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _without_collecting() -> Iterator[None]:
    """A replay of a million reports makes millions of objects and no cyclic garbage; collecting would double its time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _unsaved(recipe: Recipe) -> str:
    if isinstance(of_one_training(recipe), FunctionRecipe):
        what = "the checkpoint that its best report gives, report(..., checkpoint=...)"
        return f"{recipe.name} is a function: what is kept of a trial is {what}"
    return f"{recipe.name} has no save_checkpoint, so no weights are kept; write it and load_checkpoint, or pass keep=0"


def _broken(name: str, first: str) -> str:
    return f"{BREAKER} trials failed in a row, so the study {name!r} was stopped. The first of them:\n\n{first}"


def _progress(verbose: int) -> list[Progress]:
    if not verbose:
        return []
    from .observers.progress import Progress

    return [Progress()]

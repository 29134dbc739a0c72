"""What a process that died did not come to, done again from its journal: the Drops of its last turn, and weights that were to be kept.

Law: afterwards the kept weights are those the journal says are kept. Where some of these cannot be had, what they were to displace stays.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

from .configs import whole_config
from .executors.base import Job
from .executors.local import place_of
from .executors.serial import threads
from .journal import Journal
from .objective import Objective
from .pareto import Values, dominates
from .plan import Plan
from .training.function import FunctionRecipe
from .training.replicas import of_one_training
from .training.runner import State
from .trial import Command, Event, Keep, Note, Reached

GAVE_NONE = "again, it gave no checkpoint: there are no weights to keep"


class Kept:
    """Which weights a study's turns, one after the other, leave to be kept: those of (trial, step)."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._several = len(objective.metrics) > 1
        self.reports: dict[tuple[int, int], Values] = {}

    def turn(self, events: Sequence[Event], commands: Sequence[Command]) -> None:
        """A Keep is of a look of its own turn. With several objectives a trial's other reports stay while they are on the front."""
        for command in commands:
            if isinstance(command, Keep):
                (look,) = (event for event in events if isinstance(event, Reached) and event.trial == command.trial)
                values = self._objective.values(look.metrics)
                gone = {*command.instead_of} if self._several else {command.trial, *command.instead_of}
                self.reports = {
                    at: other for at, other in self.reports.items()
                    if at[0] not in gone and not (self._several and dominates(values, other))
                } | {(look.trial, look.step): values}  # fmt: skip


def recover(plan: Plan, job: Job, journal: Journal, live: set[int], kept: Set[tuple[int, int]]) -> None:
    """`live`: the trials that go on or rest. `kept`: (trial, step) of the weights that are to be kept."""
    vault = job.vault
    vault.sweep()
    for trial in {row.trial for row in journal.checkpoints(purpose="resume")} - live:
        vault.forget(trial)
    if not plan.pretends and _keep_again(plan, job, journal, kept):
        for trial in {row.trial for row in journal.checkpoints(purpose="keep")} - {trial for trial, _ in kept}:
            vault.forget(trial, purpose="keep")


def _keep_again(plan: Plan, job: Job, journal: Journal, kept: Set[tuple[int, int]]) -> bool:
    """Trains the trials whose weights are missing to that report once more. Whether all that is to be kept is there in the end."""
    missing = sorted(kept - _there(journal))
    if not missing:
        return True
    a_function = isinstance(of_one_training(job.recipe), FunctionRecipe)        # it may hand over a checkpoint without a word before
    if not job.recipe.saves and not a_function:
        return False
    gave_none = {(note.trial, note.text) for note in journal.notes("keep") if note.text.endswith(GAVE_NONE)}
    if gave_none and not journal.checkpoints():         # nor did any other
        return False
    for trial, step in missing:
        text = f"trained to step {step} {GAVE_NONE}"
        if (trial, text) in gave_none:
            continue
        try:
            state = _trained_again(plan, job, journal, trial, step)
            if state is not None:
                job.vault.put(trial, step, state, purpose="keep")
                text = f"the best weights of trial {trial} were not on disk; it was trained to step {step} again"
        except Exception as error:
            text = f"the best weights of trial {trial} are lost: to train it again failed with {error!r}"
        journal.note(Note("keep", text, trial))
    return kept <= _there(journal)


def _there(journal: Journal) -> set[tuple[int, int]]:
    return {(row.trial, row.step) for row in journal.checkpoints(purpose="keep")}


def _trained_again(plan: Plan, job: Job, journal: Journal, trial: int, step: int) -> State | None:
    """The state of a trial at a step, from its newest durable state before that."""
    start, state = job.vault.newest(trial, upto=step) or (0, None)
    spec = journal.trial(trial)
    spec = replace(spec, config=whole_config(spec, plan.space))
    runner = job.recipe.start(spec, place_of(job, trial), state, start)
    try:
        with threads(1):
            while runner.step < step:
                runner.advance()
        return runner.save() if runner.step > start or state is None else state
    finally:
        runner.close()

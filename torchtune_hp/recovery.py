"""What a process that died did not come to, done again from its journal: the Drops of its last turn, and weights that were to be kept.

Law: afterwards the kept weights are those the journal says are kept. Where some of these cannot be had, what they were to displace stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .configs import whole_config
from .executors.base import Job
from .executors.local import place_of
from .executors.serial import threads
from .journal import Journal
from .plan import Plan
from .training.function import FunctionRecipe
from .training.runner import State
from .trial import Note

GAVE_NONE = "again, it gave no checkpoint: there are no weights to keep"


def recover(plan: Plan, job: Job, journal: Journal, live: set[int], kept: Mapping[int, int]) -> None:
    """`live`: the trials that go on or rest. `kept`: whose weights are to be kept, and of which step."""
    vault = job.vault
    vault.sweep()
    for trial in {row.trial for row in journal.checkpoints(purpose="resume")} - live:
        vault.forget(trial)
    if not plan.pretends and _keep_again(plan, job, journal, kept):
        for trial in {row.trial for row in journal.checkpoints(purpose="keep")} - kept.keys():
            vault.forget(trial, purpose="keep")


def _keep_again(plan: Plan, job: Job, journal: Journal, kept: Mapping[int, int]) -> bool:
    """Trains the trials whose weights are missing to that report once more. Whether all that is to be kept is there in the end."""
    vault = job.vault
    missing = {trial: step for trial, step in kept.items() if vault.kept_step(trial) != step}
    if not missing:
        return True
    if not job.recipe.saves and not isinstance(job.recipe, FunctionRecipe):     # a function may hand over a checkpoint all the same
        return False
    gave_none = {(note.trial, note.text) for note in journal.notes("keep") if note.text.endswith(GAVE_NONE)}
    if gave_none and not journal.checkpoints():         # nor did any other
        return False
    for trial, step in missing.items():
        text = f"trained to step {step} {GAVE_NONE}"
        if (trial, text) in gave_none:
            continue
        try:
            state = _trained_again(plan, job, journal, trial, step)
            if state is not None:
                vault.put(trial, step, state, purpose="keep")
                text = f"the best weights of trial {trial} were not on disk; it was trained to step {step} again"
        except Exception as error:
            text = f"the best weights of trial {trial} are lost: to train it again failed with {error!r}"
        journal.note(Note("keep", text, trial))
    return all(vault.kept_step(trial) == step for trial, step in missing.items())


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

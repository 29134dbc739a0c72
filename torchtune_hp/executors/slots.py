"""How many trials a device trains at once where nobody says: measured on the study's first trial, or else a number that is said."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..population.choosing import Strategy
from ..population.room import let_go
from ..population.sizes import Size, best_size
from ..training.alone import ModelRunner
from ..training.model import ModelRecipe
from .base import Job
from .local import place_of
from .models import members_of

SLOTS = {"cpu": 32, "cuda": 128}
"""Slots where none are said, and none can be measured."""


def measured(job: Job, strategy: Strategy) -> Size:
    """What "auto" stands for, by the first trial of the job on the job's device; where that cannot be, SLOTS."""
    runner = None
    try:
        if not isinstance(job.recipe, ModelRecipe):
            raise LookupError(f"{job.recipe.name} is code of one's own")
        if job.first is None:
            raise LookupError("there is no trial to measure with")
        trial = job.first()
        runner = job.recipe.start(trial, place_of(job, trial.id))
        return _slots(members_of(runner), job.trials, strategy)
    except (Exception, SystemExit) as error:
        return unmeasured(job.place.device, let_go(error))
    finally:
        if runner is not None:
            runner.close()


def unmeasured(device: str, why: str) -> Size:
    kind = torch.device(device).type
    return Size(SLOTS.get(kind, SLOTS["cpu"]), f"as ever on a {kind}, for it could not be measured: {why}")


def fixed(slots: int) -> str:
    """What is said of a number that was measured."""
    return f"Results depend on this number, and another run may measure another: Fused(slots={slots}) fixes it."


def _slots(members: Sequence[ModelRunner], trials: int | None, strategy: Strategy) -> Size:
    """How many trials of so many members each at once."""
    each = len(members)
    size = best_size(members[0], None if trials is None else trials * each, strategy)
    if each == 1:
        return size
    return Size(-(-size.slots // each), f"{size.slots} members, and a trial has {each}; {size.why}")

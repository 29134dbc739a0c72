"""Checked, not assumed: what a padded stack computes does not depend on what is outside of its members' corners. Where members differ in
activations, that is compared likewise, though there is nothing outside.

On copies of the members whose weights are disturbed, so that nothing hides behind a zero they begin with, the units outside are made
loud: their weights and biases are noise, and only what the real units take from them is zero, as it always is. Whatever mixes along a
padded axis (a softmax, a mean, a maximum, a reshape into heads) gives other numbers then, for certain, not only on unlucky batches.
They are compared with each member alone: loss and gradients in training, the metrics in validation; and once more in silence.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ..training.alone import ModelRunner
from ..training.drain import copied
from ..training.evaluation import autocast
from .batches import Batches, Place
from .calls import Calls, alone, check_validation
from .check import FirstStep
from .held import Member
from .keys import keys_of
from .layout import parameters_of
from .per_member import of_row
from .stack import Stack

SEED = 0
"""Of the noise: it is the same for all, and in every run."""


def compared(stack: Stack, runners: Sequence[ModelRunner], calls: Calls) -> list[bool]:
    """Of each of these members whether it could be compared: what is not finite alone says nothing. They stand where they stood.

    Raises Differs, or whatever the hooks raise.
    """
    first, places = runners[0].member, [Place(runner) for runner in runners]
    copies = disturbed(stack, [(runner.member.model, runner.member.optimizer) for runner in runners])
    conclusive = [True] * len(runners)
    own = calls.own([runner.member for runner in runners])
    try:
        batches = Batches(runners)
        train, _ = batches.update(0)[0]
    finally:
        for place in places:
            place.restore()
    keys = keys_of([runner.base for runner in runners], [runner.updates for runner in runners], first.device)
    hook, look = calls.training(first, stack.model), calls.validation(first, stack.model)
    for prepare in (_silent, make_loud) if stack.outside else (_silent,):
        prepare(copies)
        for part in runners[0].data.val.values():
            batch, _ = next(iter(part.batches(runners[0].data.batch_size)))
            with autocast(first):
                found = copies.evaluate(look, copied(batch), None, keys, own)
            for row, (runner, (model, _)) in enumerate(zip(runners, copies.members)):
                check_validation(runner.member, model, batch, keys[row], of_row(found, row))
        before = copies.snapshot()
        steps = [FirstStep(copies, first.precision == "bf16", row) for row in range(len(runners))]
        with autocast(first):
            losses, extras, gradients, *_ = copies.gradients(hook, copied(train), batches.in_dims, keys, own)
        for row, (runner, step) in enumerate(zip(runners, steps)):
            step.loss(alone(runner.member, batches.of_row(row, train), keys[row], 1.0), losses, gradients, extras)
            conclusive[row] = conclusive[row] and step.conclusive
        copies.restore(before)
    return conclusive


def _silent(stack: Stack) -> None:
    """As it is in training."""


def disturbed(stack: Stack, members: Sequence[Member]) -> Stack:
    """A stack of the same program, of copies of these members with other weights."""
    made = Stack(copy.deepcopy(list(members)), stack.idle, program=stack.program)
    with torch.no_grad():
        for number, (flat, noise) in enumerate(zip(made.flats, _noise(made))):
            flat += noise
            if made.outside:
                flat.masked_fill_(made.outside[number], 0.0)
    for row in range(len(made)):
        made.dump(row)
    return made


@torch.no_grad()
def make_loud(stack: Stack) -> None:
    """The units outside give noise from now on."""
    for block, flat, noise in zip(stack.layout.blocks, stack.flats, _noise(stack)):
        for row, (model, _) in enumerate(stack.members):
            parts = zip(block.shapes, *(each.split_with_sizes(block.sizes) for each in (noise, flat[row])))
            for own, (shape, its, out) in zip(parameters_of(model, block), parts):
                if own.dim():
                    out.view(shape)[own.shape[0] :] = 4 * its.view(shape)[own.shape[0] :]


def _noise(stack: Stack) -> list[Tensor]:
    """(D,) for each block; of a weight in the size of a fresh layer's."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for block, flat in zip(stack.layout.blocks, stack.flats):
        parts = [torch.randn(shape, generator=generator) / (shape[1:].numel() if len(shape) > 1 else 16) ** 0.5 for shape in block.shapes]
        found.append(torch.cat([part.reshape(-1) for part in parts]).to(flat))
    return found

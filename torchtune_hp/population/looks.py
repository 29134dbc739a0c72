"""What an iteration of a stack gave each of its members: metrics of training and of validation, or the error that it would raise alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigurationError, TorchtuneError
from ..training.alone import ModelRunner
from ..training.evaluation import autocast, means
from ..training.losses import TAKEN, finite_mean
from .batches import of_sets, seen_by
from .calls import Calls, check_validation, compared
from .keys import batch_step, keys_of, later
from .per_member import of_row, on_host
from .stack import Stack

Metrics = dict[str, float] | BaseException
"""Of an iteration, or why there are none."""

Batches = dict[str, list[tuple[dict[str, Any], int]]]
"""What `validation_step` gave of one member: for each validation set, of each batch, and the batch's size."""


def trained(runners: Sequence[ModelRunner], losses: Tensor, extras: list[dict[str, Tensor]], weights: list[int]) -> list[Metrics]:
    """`losses`: (batches, k) float64; of a member whose are not finite, the error that it would raise alone."""
    held = {f"train_{name}": torch.stack([extra[name] for extra in extras]).cpu().double().T.tolist() for name in extras[0]}
    if "train_loss" in held:
        return [ConfigurationError(TAKEN) for _ in runners]
    own, weight = losses.T.contiguous(), torch.tensor(weights, dtype=torch.float64)
    whole, finite = ((own * weight).sum(1) / weight.sum()).tolist(), own.isfinite().all(1).tolist()
    found: list[Metrics] = []
    for row, runner in enumerate(runners):
        try:
            loss = whole[row] if finite[row] else finite_mean(own[row], weights, runner.step + 1)
            found.append({"train_loss": loss, **means({name: list(zip(values[row], weights)) for name, values in held.items()})})
        except TorchtuneError as error:
            found.append(error)
    return found


def validated(stack: Stack, runners: Sequence[ModelRunner], due: Sequence[int], calls: Calls, checked: bool) -> dict[int, Batches]:
    """Of the rows that are `due`. Unless they are `checked`, rows with different values of what is lifted are compared with alone."""
    first, member = runners[0], runners[0].member
    hook, own = calls.validation(member, stack.model), calls.own([runner.member for runner in runners])
    each: dict[int, Batches] = {row: {} for row in due}
    others = [row for row in range(len(runners)) if row not in each]
    before = {name: buffer[others].clone() for name, buffer in stack.buffers.items()} if others else {}
    standing = [batch_step(runner.step + 1, 0) for runner in runners]
    first_keys = keys_of([runner.validation_base for runner in runners], standing, member.device)
    for name in first.data.val:
        found: list[tuple[dict[str, Any], int]] = []
        for number, (batch, n, in_dims) in enumerate(of_sets([runner.data.val[name] for runner in runners], first.data.batch_size)):
            keys, rows = later(first_keys, number), compared(own, len(runners)) if number == 0 and not checked else []
            fresh = [seen_by(row, batch, in_dims) for row in rows]          # the hook may write on what it is given
            with autocast(member):
                found.append((stack.evaluate(hook, batch, in_dims, keys, own), n))
            for row, seen in zip(rows, fresh):
                check_validation(runners[row].member, stack.copy_of(row)[0], seen, keys[row], of_row(found[0][0], row))
        found = on_host(found)
        for buffer in before:       # who is not due did not call its hook
            stack.buffers[buffer][others] = before[buffer]
        for row in due:
            each[row][name] = [({name: of_row(value, row) for name, value in values.items()}, n) for values, n in found]
    return each

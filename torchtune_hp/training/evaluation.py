"""A member's metrics over whole sets: means weighted by batch size, and what is gathered for `validation_end`.

Evaluation is in eval mode, without gradients, in batches of hp.Data's own size whatever the trial's, and under a seed of its
own: it moves nothing, and the same weights give the same metrics bit for bit. `base` and `number` say whose random numbers it
draws, and of which iteration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..population.keys import batch_step, key_of
from ..population.randomness import own_randomness
from .data import Source
from .hooks import ModelTrainable
from .seeding import seeded

Weighted = dict[str, list[tuple[Any, Any]]]
"""(value, weight) pairs by name; both are numbers or 0-dim tensors."""


def evaluate(member: ModelTrainable, sets: Mapping[str, Source], size: int, seed: int, base: int, number: int) -> dict[str, float]:
    """The metrics of every set, as "<set>/<metric>", or "<metric>" where the set has no name."""
    metrics: dict[str, float] = {}
    member.model.eval()
    with seeded(seed), torch.no_grad():
        for name, part in sets.items():
            found = _evaluate(member, part, size, base, number)
            metrics.update(named(name, found))
    return metrics


def joined(member: ModelTrainable, batches: Mapping[str, Sequence[tuple[Any, int]]]) -> dict[str, float]:
    """The metrics of every set, from what `validation_step` gave of it."""
    return {key: value for name, each in batches.items() for key, value in named(name, metrics_of(member, each)).items()}


def named(name: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of one set, under the set's name if it has one."""
    return {f"{name}/{key}" if name else key: value for key, value in metrics.items()}


def _evaluate(member: ModelTrainable, part: Source, size: int, base: int, number: int) -> dict[str, float]:
    found = []
    for k, (batch, n) in enumerate(part.batches(size)):
        with autocast(member), own_randomness(key_of(base, batch_step(number, k), member.device), strict=False):
            found.append((member.validation_step(member.model, batch), n))
    return metrics_of(member, found)


def metrics_of(member: ModelTrainable, each: Sequence[tuple[Any, int]]) -> dict[str, float]:
    """From what `validation_step` gave for each batch, and the batch's size."""
    weighted: Weighted = {}
    gathered: dict[str, list[Tensor]] = {}
    for found, n in each:
        if not isinstance(found, Mapping):
            raise ConfigurationError(f"validation_step must return a dict of metrics, but it returned a {type(found).__name__}.")
        for key, value in found.items():
            if type(value) is float:        # in a stack, nearly always
                weighted.setdefault(key, []).append((value, n))
            elif isinstance(value, Tensor) and value.dim() > 0:
                if len(value) != n:
                    raise ConfigurationError(
                        f"validation_step: {key!r} must be a number, a 0-dim tensor, (value, weight), or have the batch of {n} as leading "
                        f"dimension, but has the shape {tuple(value.shape)}. Take its mean()."
                    )
                gathered.setdefault(key, []).append(value)
            else:
                weighted.setdefault(key, []).append(_pair(key, value, n))
    metrics = means(weighted)
    if gathered:
        if type(member).validation_end is ModelTrainable.validation_end:
            raise ConfigurationError(
                f"validation_step returned {', '.join(map(repr, gathered))} per sample, which is for validation_end. Write "
                "`def validation_end(self, gathered) -> dict`, or take the mean()."
            )
        found = member.validation_end({key: torch.cat(parts) for key, parts in gathered.items()})
        if not isinstance(found, Mapping):
            raise ConfigurationError(f"validation_end must return a dict of metrics, but it returned a {type(found).__name__}.")
        metrics.update(means({key: [_pair(key, value, 1)] for key, value in found.items()}))
    return metrics


def autocast(member: ModelTrainable) -> AbstractContextManager[Any]:
    """What `precision` asks for."""
    return torch.autocast(member.device.type, torch.bfloat16) if member.precision == "bf16" else nullcontext()


def means(weighted: Weighted) -> dict[str, float]:
    """The weighted mean of each name, in float64; one transfer from the device for all of them. NaN where the weights are 0."""
    parts = (part for pairs in weighted.values() for pair in pairs for part in pair)
    tensors = [part for part in parts if type(part) not in _PLAIN and isinstance(part, Tensor)]
    if tensors:
        device = tensors[0].device
        wide = torch.float32 if device.type == "mps" else torch.float64
        moved = iter(torch.stack([part.detach().to(device, wide) for part in tensors]).cpu().double().tolist())
        weighted = {
            key: [tuple(next(moved) if isinstance(part, Tensor) else part for part in pair) for pair in pairs]
            for key, pairs in weighted.items()
        }
    return {key: _mean(pairs) for key, pairs in weighted.items()}


_PLAIN = frozenset({float, int})
"""Asking a Tensor's class whether something is one takes longer."""


def _mean(pairs: list[tuple[float, float]]) -> float:
    if len(pairs) == 1 and pairs[0][1]:      # not value * weight / weight, which may round
        return float(pairs[0][0])
    total = float(sum(weight for _, weight in pairs))
    return sum(value * weight for value, weight in pairs) / total if total else float("nan")


def _pair(key: str, value: Any, n: int) -> tuple[Any, Any]:
    pair = value if isinstance(value, tuple) and len(value) == 2 else (value, n)
    if all(is_scalar(part) for part in pair):
        return pair
    raise ConfigurationError(
        f"{key!r} must be a number, a 0-dim tensor, or (value, weight), but got {value!r:.60}. Other values are no metrics: leave it out."
    )


def is_scalar(value: Any) -> bool:
    """A number (numpy's too), a bool, or a 0-dim tensor; nothing complex."""
    if isinstance(value, Tensor) and value.is_complex():
        return False
    return isinstance(value, (int, float)) or (getattr(value, "shape", None) == () and hasattr(value, "item"))

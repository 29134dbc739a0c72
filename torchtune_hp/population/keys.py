"""The numbers from which a member's random numbers come: one for each of its steps, of its seed and the step alone.

A key is mixed before anything is drawn from it, so it need not look random; it must only be another one for every member and
step. Steps lie 2**64 / golden ratio apart, modulo 2**64: no two of them meet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..seeds import derive

_APART = -7046029254386353131


def base_of(seed: int, purpose: str) -> int:
    """What the keys of one member for one purpose ("train", "validation", ...) start from."""
    return derive(seed, "own", purpose)


def keys_of(bases: Sequence[int], steps: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Base and step of each member -> (k,) int64."""
    at = torch.tensor(steps, dtype=torch.int64) * _APART
    return (torch.tensor(bases, dtype=torch.int64) + at).to(device)


def key_of(base: int, step: int, device: torch.device | None = None) -> Tensor:
    """The same for one member: 0-dim int64."""
    key = (base + step * _APART) % 2**64
    return torch.tensor(key - 2**64 if key >= 2**63 else key, dtype=torch.int64, device=device)


def batch_step(number: int, batch: int) -> int:
    """The step of a key for one batch of an evaluation in iteration `number`."""
    return number * 2**20 + batch

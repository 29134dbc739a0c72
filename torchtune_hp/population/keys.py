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
    return (torch.tensor(bases, dtype=torch.int64) + at).to(device, non_blocking=True)


def later(keys: Tensor, steps: int) -> Tensor:
    """The same members' keys so many steps later, made where they lie: an upload for each step would wait for the device."""
    return keys + _signed(steps * _APART)


def key_of(base: int, step: int, device: torch.device | None = None) -> Tensor:
    """As `keys_of`, for one member: 0-dim int64. It is filled where it lies, for an upload would wait for the device."""
    return torch.full((), _signed(base + step * _APART), dtype=torch.int64, device=device)


def _signed(whole: int) -> int:
    """Modulo 2**64, as an int64 holds it."""
    return (whole + 2**63) % 2**64 - 2**63


def batch_step(number: int, batch: int) -> int:
    """The step of a key for one batch of an evaluation in iteration `number`."""
    return number * 2**20 + batch

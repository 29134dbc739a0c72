"""Buffers that a forward pass makes larger: a cache, a history, whatever has another shape than it had when the program was made.

In a stack a buffer of all members is one tensor, so those that grow must grow in all members alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .padding import front
from .stackable import Unstackable


def larger(wide: torch.Size, own: torch.Size) -> torch.Size:
    """The shape of a row: what grew is larger than it was where the program was made."""
    return own if len(own) != len(wide) or any(mine > size for mine, size in zip(own, wide)) else wide


def of_one(row: Tensor, own: Tensor, made: torch.Size) -> Tensor:
    """A member's part of a row: its corner, and all of what forward has made of another size. `made`: the row's shape when it was read."""
    if row.shape == made:
        return front(row, own)
    if not row.dim() == own.dim() == len(made):
        return row
    return row[tuple(slice(mine if size == old else size) for size, old, mine in zip(row.shape, made, own.shape))]


def uneven(name: str, own: torch.Size, others: torch.Size) -> Unstackable:
    shapes = f"the buffer {name} of one member has the shape {tuple(own)}, that of others {tuple(others)}"
    return Unstackable(f"{shapes}: one that grows must grow in all that share a stack alike")

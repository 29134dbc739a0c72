"""What a stack gave, member by member, in as few transfers from the device as can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..training.drain import leaves, tree_map


def of_row(tree: Any, row: int) -> Any:
    """(k, ...) tensors -> one member's; of numbers on the host, Python's."""
    if type(tree) is np.ndarray:
        return tree.item(row)
    return tree_map(lambda part: part.item(row) if isinstance(part, np.ndarray) else part[row], tree)


def on_host(found: list[tuple[dict[str, Any], int]]) -> list[tuple[dict[str, Any], int]]:
    """Numbers of members, (k,) each, as float64 of numpy: one transfer from the device, where each member's own would be hundreds."""
    numbers = [leaf for tree, _ in found for leaf in leaves(tree) if isinstance(leaf, Tensor) and leaf.dim() == 1]
    if not numbers:
        return found
    moved = iter(torch.stack([leaf.to(numbers[0].device, torch.float64) for leaf in numbers]).cpu().numpy())
    return [(tree_map(lambda leaf: next(moved) if isinstance(leaf, Tensor) and leaf.dim() == 1 else leaf, tree), n) for tree, n in found]

"""Trees of tensors, and how a data set of another kind becomes one.

A tree is a tensor, or a tuple, list or dict of trees. In a data set the leading dimension of every leaf is the sample; a batch
has the same structure. A map-style Dataset is read once, item by item, into one tree: numbers become int64 or float32,
numpy arrays keep their dtype, images become uint8 tensors (channels, height, width) and stay so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from ..errors import ConfigurationError

Tree = Any
"""A Tensor, or a tuple, list or dict of trees (a recursive type, which annotations cannot say without casts at every use)."""


def tree_map(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """The tree of `function(leaf)`. Named tuples keep their type."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, (tuple, list)):
        made = [tree_map(function, part) for part in tree]
        return type(tree)(*made) if hasattr(tree, "_fields") else type(tree)(made)
    if isinstance(tree, Mapping):
        return {key: tree_map(function, part) for key, part in tree.items()}
    return function(tree)


def leaves(tree: Tree) -> Iterator[Any]:
    """The leaves, in order."""
    if isinstance(tree, (tuple, list)):
        for part in tree:
            yield from leaves(part)
    elif isinstance(tree, Mapping):
        for part in tree.values():
            yield from leaves(part)
    else:
        yield tree


def size_of(tree: Tree, where: str) -> int:
    """How many samples a tree of tensors holds. ConfigurationError where leaves differ or are no tensors."""
    sizes: dict[int, Tensor] = {}
    for leaf in leaves(tree):
        if not isinstance(leaf, Tensor):
            raise ConfigurationError(
                f"{where}: every part must be a torch.Tensor, but got {type(leaf).__name__}. Arrays become tensors by "
                "torch.as_tensor(array, dtype=...), float32 for what a model reads."
            )
        if leaf.dim() == 0:
            raise ConfigurationError(f"{where}: the leading dimension of every tensor must be the sample, but got a 0-dim tensor.")
        sizes[len(leaf)] = leaf
    if not sizes or 0 in sizes:
        raise ConfigurationError(f"{where}: at least one sample is needed, but got none.")
    if len(sizes) > 1:
        raise ConfigurationError(f"{where}: all tensors must have the same length, but got {' and '.join(map(str, sizes))} samples.")
    return next(iter(sizes))


def drain(dataset: Any, where: str) -> Tree:
    """Everything a map-style Dataset holds, as one tree of tensors."""
    if isinstance(dataset, TensorDataset):
        return dataset.tensors
    if isinstance(dataset, Subset) and isinstance(dataset.dataset, (TensorDataset, Subset)):
        index = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return tree_map(lambda leaf: leaf[index], drain(dataset.dataset, where))
    n = len(dataset)
    if n == 0:
        raise ConfigurationError(f"{where}: at least one sample is needed, but the data set is empty.")
    # One tensor per leaf, filled as items come: the set is never held twice.
    whole: Tree = None
    for i in range(n):
        item = tree_map(lambda leaf: _tensor(leaf, where), dataset[i])
        if i == 0:
            whole = tree_map(lambda leaf: torch.empty((n, *leaf.shape), dtype=leaf.dtype), item)
        parts, targets = list(leaves(item)), list(leaves(whole))
        if len(parts) != len(targets):
            raise ConfigurationError(f"{where}: every item must have the same parts, but item {i} has {len(parts)}, item 0 {len(targets)}.")
        for part, target in zip(parts, targets, strict=True):
            if part.shape != target.shape[1:] or part.dtype != target.dtype:
                raise ConfigurationError(
                    f"{where}: every item must have the same shape and dtype, but item {i} has {tuple(part.shape)} {part.dtype} and "
                    f"item 0 {tuple(target.shape[1:])} {target.dtype}. Resize, pad or convert in the data set's transform."
                )
            target[i] = part
    return whole


def _tensor(leaf: Any, where: str) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf.detach()
    if isinstance(leaf, bool):
        return torch.tensor(leaf)
    if isinstance(leaf, int):
        return torch.tensor(leaf, dtype=torch.int64)
    if isinstance(leaf, float):
        return torch.tensor(leaf, dtype=torch.float32)
    if hasattr(leaf, "__array_interface__"):        # numpy arrays and scalars, PIL images
        array = torch.from_numpy(np.array(leaf))
        if isinstance(leaf, (np.ndarray, np.generic)):
            return array
        return array.unsqueeze(0) if array.dim() == 2 else array.permute(2, 0, 1)
    raise ConfigurationError(
        f"{where}: items must hold tensors, numbers, arrays or images, but got {type(leaf).__name__}. "
        "Convert it in the data set's transform."
    )

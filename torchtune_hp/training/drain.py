"""Trees of tensors, and how a data set of another kind becomes one.

A tree is a tensor, or a tuple, list or dict of trees. In a data set the leading dimension of every leaf is the sample; a batch
has the same structure. A map-style Dataset is read once, item by item, into one tree: numbers become int64 or float32,
numpy arrays keep their dtype, images become uint8 tensors (channels, height, width) and stay so. Data sets of images that are
known are read faster (images.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from ..errors import ConfigurationError
from .loading import loading
from .seeding import generators

OFTEN = 64
"""Samples after which it is told how far the reading has come."""

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


def copied(tree: Tree) -> Tree:
    """The same tree with tensors of its own."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


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
    if type(dataset) is TensorDataset:      # a class of the user's own has items of its own
        return dataset.tensors
    if type(dataset) is Subset and type(dataset.dataset) in (TensorDataset, Subset):
        index = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return tree_map(lambda leaf: leaf[index], drain(dataset.dataset, where))
    n = len(dataset)
    rows, before = Rows(n, where), generators()
    with loading(where, n) as told:
        for i in range(n):
            rows.put(i, dataset[i], f"item {i}")
            if i % OFTEN == 0:
                told(i)
    if generators() != before:
        warnings.warn(
            f"{where}: the data set draws random numbers, but it is read once: what they make of a sample is then the same in every epoch "
            "and for every trial. Leave random transforms out of it and augment each batch: `def augment(self, batch)` with "
            "hp.random_crop, hp.random_flip, hp.cutout, hp.mixup.",
            RuntimeWarning,
            stacklevel=5,       # where hp.Data was called
        )
    return rows.whole


class Rows:
    """A set of n samples as it is read: one tensor per leaf, filled as items come, in any order; the set is never held twice."""

    def __init__(self, n: int, where: str) -> None:
        if n == 0:
            raise ConfigurationError(f"{where}: at least one sample is needed, but the data set is empty.")
        self.whole: Tree = None
        self._n, self._where, self._first = n, where, ""

    def put(self, row: int, item: Any, name: str) -> None:
        """The first call comes alone, later ones from any thread. `name`: what the item is called in an error."""
        where = self._where
        item = tree_map(lambda leaf: _tensor(leaf, where), item)
        if self.whole is None:
            self.whole = tree_map(lambda leaf: torch.empty((self._n, *leaf.shape), dtype=leaf.dtype), item)
            self._first = name
        for part, target in self._pairs(item, self.whole, name):
            if part.shape != target.shape[1:] or part.dtype != target.dtype:
                raise ConfigurationError(
                    f"{where}: every item must have the same shape and dtype, but {name} has {tuple(part.shape)} {part.dtype} and "
                    f"{self._first} {tuple(target.shape[1:])} {target.dtype}. {_mend(part, target[0])}"
                )
            target[row] = part

    def _pairs(self, item: Tree, whole: Tree, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """(leaf of the item, where it goes): by key in a dict, whatever its order, by place in a tuple or list."""
        if isinstance(item, Tensor) and isinstance(whole, Tensor):
            yield item, whole
        elif isinstance(item, dict) and isinstance(whole, dict):
            if item.keys() != whole.keys():
                raise self._other("keys", f"{name} has {list(item)}, {self._first} {list(whole)}")
            for key, part in item.items():
                yield from self._pairs(part, whole[key], name)
        elif isinstance(item, (tuple, list)) and isinstance(whole, (tuple, list)):
            if len(item) != len(whole):
                raise self._other("parts", f"{name} has {len(item)}, {self._first} {len(whole)}")
            for part, target in zip(item, whole, strict=True):
                yield from self._pairs(part, target, name)
        else:
            raise self._other("parts", f"{name} has a {_kind(item)} where {self._first} has a {_kind(whole)}")

    def _other(self, what: str, how: str) -> ConfigurationError:
        return ConfigurationError(f"{self._where}: every item must have the same {what}, but {how}. Give all items one structure.")


def _kind(tree: Tree) -> str:
    return "tensor" if isinstance(tree, Tensor) else type(tree).__name__


def _mend(part: Tensor, like: Tensor) -> str:
    if part.dim() == like.dim() == 3 and part.dtype == like.dtype and len(part) == len(like):
        size = tuple(like.shape[1:])
        return f"Give the data set a transform that makes images of one size, such as torchvision.transforms.Resize({size})."
    return "Resize, pad or convert in the data set's transform."


def _tensor(leaf: Any, where: str) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf.detach().as_subclass(Tensor)
    if isinstance(leaf, bool):
        return torch.tensor(leaf)
    if isinstance(leaf, int):
        return torch.tensor(leaf, dtype=torch.int64)
    if isinstance(leaf, float):
        return torch.tensor(leaf, dtype=torch.float32)
    # numpy arrays and scalars, PIL images; these copy their pixels whenever they are asked, hence the class first
    if hasattr(type(leaf), "__array_interface__") or hasattr(leaf, "__array_interface__"):
        array = torch.from_numpy(np.array(leaf))
        if isinstance(leaf, (np.ndarray, np.generic)):
            return array
        return array.unsqueeze(0) if array.dim() == 2 else array.permute(2, 0, 1)
    raise ConfigurationError(
        f"{where}: items must hold tensors, numbers, arrays or images, but got {type(leaf).__name__}. "
        "Convert it in the data set's transform."
    )

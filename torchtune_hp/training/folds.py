"""Cross-validation: which fold holds out which sample, as scikit-learn's StratifiedKFold and KFold cut them.

Laws:
1. Each sample is held out by one fold, and trained on by all others. Sizes of folds differ by at most one.
2. Where the targets are classes, how many of a class two folds hold out differs by at most one.
3. The same samples, number of folds and `random_state` give the same folds, those of scikit-learn with shuffle=True.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigurationError
from .drain import Tree

TARGETS = ("y", "target", "targets", "label", "labels")
"""Under one of these a data set that is a dict holds its targets; in a tuple or list they are what comes last."""


_WHERE = f"last in a tuple or under {', '.join(TARGETS[:-1])} or {TARGETS[-1]} of a dict"


def classes_of(tree: Tree) -> Tensor | None:
    """The classes (n,) of the samples, where a data set has a whole number or a bool for each; None where it has not."""
    if isinstance(tree, Mapping):
        found: Any = next((tree[name] for name in TARGETS if name in tree), None)
    else:
        found = tree[-1] if isinstance(tree, (tuple, list)) and len(tree) > 1 else None
    if isinstance(found, Tensor) and found.dim() == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if not isinstance(found, Tensor) or found.dim() != 1 or found.is_complex():
        return None
    return found if not found.is_floating_point() or bool((found == found.round()).all()) else None


def held_out(n: int, classes: Tensor | None, folds: int, random_state: int) -> tuple[np.ndarray, str]:
    """Of n samples, the fold (n,) that holds each out; and how that was decided, in words.

    `classes` (n,), or None. They are not used where every class has fewer samples than there are folds.
    """
    if n < folds:
        raise ConfigurationError(f"folds: each fold holds out a sample at least, but there are {folds} folds and {n} samples.")
    random = np.random.RandomState(random_state)
    if classes is None:
        return _plain(n, folds, random), f"not stratified, for there is no whole number for each sample, {_WHERE}"
    _, first, number = np.unique(classes.cpu().numpy(), return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[number.reshape(-1)]      # classes in the order in which they first appear
    sizes = np.bincount(number)
    if sizes.max() < folds:
        return _plain(n, folds, random), f"not stratified, for no class has {folds} samples"
    dealt = np.sort(number)
    shares = np.stack([np.bincount(dealt[fold::folds], minlength=len(sizes)) for fold in range(folds)])
    found = np.empty(n, dtype=np.int64)
    for each, share in enumerate(shares.T):
        of_class = np.repeat(np.arange(folds), share)
        random.shuffle(of_class)
        found[number == each] = of_class
    few = f"; the smallest of them has {sizes.min()} samples, too few for each fold to have one" if sizes.min() < folds else ""
    return found, f"stratified by {len(sizes)} classes{few}"


def parts(held: np.ndarray, fold: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(what is trained on, what is held out) by this fold: indices in ascending order, on the device."""
    out = held == fold
    train, val = (torch.from_numpy(np.flatnonzero(where)).to(device) for where in (~out, out))
    return train, val


def _plain(n: int, folds: int, random: np.random.RandomState) -> np.ndarray:
    order = np.arange(n)
    random.shuffle(order)
    found = np.empty(n, dtype=np.int64)
    for fold, part in enumerate(np.array_split(order, folds)):      # the first n % folds of them have one more
        found[part] = fold
    return found

"""The covariance of `gp/kernel.py`, written out pair by pair in numpy; and random points, hyperparameters and kernels to compare on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from torchtune_hp.gp.kernel import Hyper, Kernel, unpack

TREE = Kernel(
    numbers=(0, 1, 3, 4),
    categories=((2, 3), (5, 2), (6, 4)),
    conditions=((3, 2, 1), (5, 2, 1), (4, 5, 0), (6, 2, 2)),      # 3 and 5 under level 1 of 2; 4 under level 0 of 5; 6 under level 2 of 2
    fidelity=7,
)
"""Numbers, categories, a condition within a condition, a fidelity: 8 columns."""

KERNELS = {
    "matern52": Kernel((0, 1, 2)),
    "rbf": Kernel((0, 1, 2), shape="rbf"),
    "categories alone": Kernel((), ((0, 2), (2, 5))),
    "numbers and categories": Kernel((2, 0), ((1, 3),), shape="rbf"),
    "fidelity": Kernel((0, 1), fidelity=2),
    "tree": TREE,
    "warped": Kernel((0, 1, 2), warped=(0, 1, 2)),
    "warped in part": Kernel((2, 0), ((1, 3),), shape="rbf", warped=(0,)),
    "warped tree": replace(TREE, warped=(4, 0, 3)),
}


def width(kernel: Kernel) -> int:
    """How many columns the points of one of KERNELS have."""
    return 8 if kernel.fidelity == TREE.fidelity else 3


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([1, seed]).random(shape))


def raws(kernel: Kernel, *batch: int, seed: int = 0) -> Tensor:
    """Random raw: log lengthscales about -0.5, noise about 0.02."""
    size = kernel.lengthscales + 3 + kernel.decays + 2 * len(kernel.warped)
    raw = torch.from_numpy(np.random.default_rng([2, seed]).normal(-0.5, 0.4, (*batch, size)))
    raw[..., kernel.lengthscales + 1] -= 3.5
    return raw


def hypers(kernel: Kernel, *batch: int, seed: int = 0) -> Hyper:
    return unpack(kernel, raws(kernel, *batch, seed=seed))


def pair(kernel: Kernel, hyper: Hyper, a: np.ndarray, b: np.ndarray) -> float:
    """k(a, b) of two points (d,), hyper without a batch."""
    levels = dict(kernel.categories)
    parents = {column: (parent, level) for column, parent, level in kernel.conditions}

    def level(x: np.ndarray, column: int) -> int:
        return min(int(x[column] * levels[column]), levels[column] - 1)

    def exists(x: np.ndarray, column: int) -> bool:
        if column not in parents:
            return True
        parent, wanted = parents[column]
        return exists(x, parent) and level(x, parent) == wanted

    shapes = [] if hyper.warp is None else hyper.warp.T.tolist()

    def place(x: np.ndarray, column: int) -> float:
        if not exists(x, column):
            return 0.5
        if column not in kernel.warped:
            return float(x[column])
        p, q = shapes[kernel.warped.index(column)]
        return float(1 - (1 - x[column] ** p) ** q)

    square, hamming = 0.0, 0.0
    for column, scale in zip(kernel.numbers, hyper.lengthscale.tolist()):
        u, v = place(a, column), place(b, column)
        square += ((u - v) / scale) ** 2
    for (column, _), scale in zip(kernel.categories, hyper.lengthscale.tolist()[len(kernel.numbers) :]):
        u, v = (level(x, column) if exists(x, column) else None for x in (a, b))
        hamming += (u != v) / scale
    r = math.sqrt(5 * square)
    shape = math.exp(-square / 2) if kernel.shape == "rbf" else (1 + r + r * r / 3) * math.exp(-r)
    fade = 1.0
    if kernel.fidelity is not None:
        w, scale, power = hyper.decay.tolist()
        t, u = a[kernel.fidelity], b[kernel.fidelity]
        fade = (w + (scale / (scale + t + u)) ** power) / (w + (scale / (scale + 2)) ** power)
    return float(hyper.outputscale) * shape * math.exp(-hamming) * fade


def matrix(kernel: Kernel, hyper: Hyper, a: Tensor, b: Tensor) -> np.ndarray:
    return np.array([[pair(kernel, hyper, u, v) for v in b.numpy()] for u in a.numpy()]).reshape(len(a), len(b))


def element(hyper: Hyper, *index: int) -> Hyper:
    return Hyper._make(part if part is None else part[index] for part in hyper)

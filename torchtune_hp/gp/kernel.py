"""How alike two points of the unit cube are: the covariance function, and its closed-form gradient by the hyperparameters.

    k(a, b) = s * shape(r) * prod_c exp(-[a_c != b_c] / l_c) * fade(t_a, t_b)        r**2 = sum_i ((a_i - b_i) / l_i)**2

- Numbers (float, int, ordinal) meet in one distance r with a lengthscale each (ARD). shape is exp(-r**2 / 2) (RBF; Rasmussen and
  Williams 2006, eq. 4.9) or (1 + R + R**2 / 3) exp(-R) with R = sqrt(5) r (Matern-5/2; eq. 4.17).
- A number that is `warped` enters as w(a_i), which is learned too (`warp.py`): for functions that are wiggly at one end alone.
- Categories are equal or not: a factor exp(-1 / l_c) for each that differs (Hamming distance, as in SMAC; Hutter et al. 2011, LION 5).
- Conditional columns. An inactive number rests at 1/2 and an inactive category is a level of its own, whatever x holds there. So
  two points without the column do not differ in it. If one has it, the parents differ, and their factor keeps the two apart however
  near the number is to 1/2: the wedge of Horn et al. 2019 ("Surrogates for hierarchical search spaces", GECCO), whose height is the
  parent's lengthscale. No point of a Euclidean space is equally far from all of a line, so a constant would not be positive definite.
- Fidelity t in (0, 1] is the share of the budget spent. fade(t, u) = (w + D(t, u)) / (w + D(1, 1)), D(t, u) = (b / (b + t + u))**p:
  a part that stays and a part that fades as training goes on (the exponential decay kernel of Swersky et al. 2014, "Freeze-thaw",
  with b for its beta, p for its alpha, and w added). fade(1, 1) = 1, so s is the variance of a fully trained point, and what is
  said at t = 1 of a point seen at less is the extrapolation.

Laws, each a test: every covariance matrix is positive semidefinite; an inactive coordinate changes nothing; the gradient is
autograd's; a batch gives what its elements give alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from . import warp
from .fade import fade, fade_pullback

REST = 0.5
"""Where a number that does not exist is taken to be."""

TINY = 1e-30
"""The least squared distance: the square root's derivative at 0 is not finite, that of Matern-5/2 is."""


@dataclass(frozen=True)
class Kernel:
    """What each column of x is, and the shape of the covariance. Says nothing about hyperparameters: those are a `Hyper`.

    `numbers`: columns of numbers. `categories`: (column, levels n); level k of n is [k/n, (k+1)/n). `conditions`: (column, parent's
    column, level): the column exists only where its parent has this level, and exists itself; parents come before their children.
    `fidelity`: the column of t. `warped`: those of `numbers` that are. Columns that are named nowhere do not count.

    Raises ValueError for a column with two meanings, for a condition on no category or out of order, and for a warped column that is no
    number, or twice one.
    """

    numbers: tuple[int, ...]
    categories: tuple[tuple[int, int], ...] = ()
    conditions: tuple[tuple[int, int, int], ...] = ()
    fidelity: int | None = None
    shape: Literal["matern52", "rbf"] = "matern52"
    warped: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        columns = [*self.numbers, *(column for column, _ in self.categories), *([] if self.fidelity is None else [self.fidelity])]
        if twice := sorted({column for column in columns if columns.count(column) > 1}):
            raise ValueError(f"a column is a number, a category or the fidelity, but these are two at once: {twice}; name each once")
        if self.shape not in ("matern52", "rbf"):
            raise ValueError(f"shape must be 'matern52' or 'rbf', got {self.shape!r}")
        if wrong := sorted({column for column in self.warped if column not in self.numbers or self.warped.count(column) > 1}):
            raise ValueError(f"a warped column is one of `numbers`, {self.numbers}, named once; got {self.warped}: mend {wrong}")
        levels, seen = dict(self.categories), set[int]()
        for column, parent, level in self.conditions:
            if not 0 <= level < levels.get(parent, 0):
                raise ValueError(
                    f"column {column} exists under level {level} of column {parent}, which has {levels.get(parent, 0)} levels; "
                    "a parent is one of `categories`, and its levels count from 0"
                )
            if column in seen or parent in {child for child, _, _ in self.conditions} - seen:
                raise ValueError(f"column {column} has one condition, after its parent's; got {self.conditions}; sort them, parents first")
            seen.add(column)

    @property
    def lengthscales(self) -> int:
        """How many lengthscales there are: those of `numbers`, then those of `categories`."""
        return len(self.numbers) + len(self.categories)

    @property
    def decays(self) -> int:
        return 0 if self.fidelity is None else 3

    @cached_property
    def bent(self) -> tuple[int, ...] | None:
        """Where among `numbers` the warped ones stand; None: they are all of them, in order."""
        return None if self.warped == self.numbers else tuple(map(self.numbers.index, self.warped))


class Hyper(NamedTuple):
    """The hyperparameters of one Gaussian process for each element of the batch; all float64, all but `mean` positive."""

    lengthscale: Tensor     # (..., k): numbers, then categories
    outputscale: Tensor     # (...): s, the variance of the process at t = 1
    noise: Tensor           # (...): the variance of an observation
    mean: Tensor            # (...)
    decay: Tensor           # (..., 3): w, b, p of the fidelity; (..., 0) without one
    warp: Tensor | None = None      # (..., 2, m): a, b of each warped column; None without one


def pack(hyper: Hyper) -> Tensor:
    """(..., p) raw, what a fit moves freely: log lengthscale (k), log outputscale, log noise, mean, log decay (3 or 0), log a and b (m)."""
    scalars = torch.stack([hyper.outputscale.log(), hyper.noise.log(), hyper.mean], -1)
    warps = [] if hyper.warp is None else [hyper.warp.log().flatten(-2)]
    return torch.cat([hyper.lengthscale.log(), scalars, hyper.decay.log(), *warps], -1)


def unpack(kernel: Kernel, raw: Tensor) -> Hyper:
    """The inverse of `pack`. Raises ValueError where raw (..., p) is not of this kernel's p."""
    k, m = kernel.lengthscales, len(kernel.warped)
    size = (end := k + 3 + kernel.decays) + 2 * m
    if raw.shape[-1] != size:
        raise ValueError(f"raw must be (..., {size}) for this kernel, but got {tuple(raw.shape)}; see `pack` for the order")
    warps = raw[..., end:].exp().reshape(*raw.shape[:-1], 2, m) if m else None
    return Hyper(raw[..., :k].exp(), raw[..., k].exp(), raw[..., k + 1].exp(), raw[..., k + 2], raw[..., k + 3 : end].exp(), warps)


def covariance(kernel: Kernel, hyper: Hyper, a: Tensor, b: Tensor | None = None) -> Tensor:
    """(..., n, m) of the noise-free process at a (..., n, d) and b (..., m, d); without b, among the points of a: symmetric.

    Differentiable in a and b (not across a category's border) and in the hyperparameters.
    """
    first = described(kernel, hyper, a)
    second = first if b is None else described(kernel, hyper, b)
    square, factor = _square(first, second), _factor(kernel, hyper, first, second)
    if kernel.shape == "rbf":
        return torch.exp(-square) * factor
    root = square.sqrt()
    return (1 + root + square / 3) * (torch.exp(-root) * factor)


def variance(kernel: Kernel, hyper: Hyper, x: Tensor) -> Tensor:
    """(..., n): the diagonal of `covariance(kernel, hyper, x)`, without the rest of it."""
    one = x.new_ones(x.shape[:-1]) if kernel.fidelity is None else fade(hyper.decay[..., None, :], 2 * x[..., kernel.fidelity])
    return hyper.outputscale[..., None] * one


def active(kernel: Kernel, x: Tensor) -> Tensor:
    """(..., n, d) bool: whether each coordinate of x (..., n, d) exists, by the levels of its parents."""
    exists = torch.ones_like(x, dtype=torch.bool)
    levels = dict(kernel.categories)
    for column, parent, level in kernel.conditions:
        exists[..., column] = exists[..., parent] & (_level(x[..., parent], levels[parent]) == level)
    return exists


class Points(NamedTuple):
    """Points as the kernel sees them: numbers over their lengthscales, categories as one-hot rows, the fidelity."""

    scaled: Tensor          # (..., n, numbers), in units of UNIT
    norms: Tensor           # (..., n): the squares of their lengths
    one_hot: Tensor         # (..., n, sum of (levels + 1)); the last of each is "does not exist"
    time: Tensor | None     # (..., n); None without a fidelity
    plain: Tensor | None    # (..., n, m): the warped numbers as they were, 0 where they do not exist; None without one


class Compared(NamedTuple):
    """A covariance (..., n, m) and what its gradient is made of, and what was compared.

    -2 dk / d(r**2), r in units of UNIT, is SLOPE times `slope`.
    """

    value: Tensor
    slope: Tensor
    a: Points
    b: Points


Room = tuple[Tensor, Tensor, Tensor]
"""Three tensors (..., n, m), to be written over: on a CPU new memory costs more than the arithmetic that is done in it."""


def compared(kernel: Kernel, hyper: Hyper, a: Tensor | Points, b: Tensor | None = None, room: Room | None = None) -> Compared:
    """`covariance(kernel, hyper, a, b)` with its slope, for the pullbacks; in the first two of `room`, if that is given.

    What is compared with many is `described` once.
    """
    with torch.no_grad():
        first = described(kernel, hyper, a) if isinstance(a, Tensor) else a
        second = first if b is None else described(kernel, hyper, b)
        one, two, three = room or (None, None, None)
        square, factor = _square(first, second, one, three), _factor(kernel, hyper, first, second)
        if kernel.shape == "rbf":
            value = torch.mul(square.neg_().exp_(), factor, out=one)
            return Compared(value, value, first, second)
        root = torch.sqrt(square, out=two)
        fall = torch.neg(root, out=three).exp_()
        fall = torch.mul(fall, factor, out=three)
        slope = torch.mul(root.add_(1), fall, out=two)
        return Compared(torch.addcmul(slope, square, fall, value=1 / 3, out=one), slope, first, second)


def pullback(kernel: Kernel, hyper: Hyper, found: Compared, weight: Tensor, room: Tensor | None = None) -> Tensor:
    """sum_ab weight_ab dK_ab / d(raw): (..., k + 1 + 3 or 0 + 2 m), by log lengthscale, log outputscale, log decay, log a and log b.

    `found`: of points with themselves. `weight` (..., n, n) is symmetric. Costs one product of (n, n) with (n, k): no (n, n, k) is
    made. `room` (..., n, n) is written over.
    """
    bent = torch.mul(weight, found.slope, out=room)
    z, _, one_hot, time, plain = found.a
    # sum_ab M_ab (z_a - z_b)**2 = 2 sum_a (M 1)_a z_a**2 - 2 z' M z, column by column.
    apart = bent.sum(-1, keepdim=True) * z - bent @ z
    numbers = (2 * SLOPE[kernel.shape]) * (apart * z).sum(-2)
    total = (weight.flatten(-2)[..., None, :] @ found.value.flatten(-2)[..., :, None])[..., 0, 0]
    pieces = [numbers]
    if kernel.categories:
        counts = [levels + 1 for _, levels in kernel.categories]
        whole = torch.mul(weight, found.value, out=room)
        equal = torch.split_with_sizes(((whole @ one_hot) * one_hot).sum(-2), counts, -1)
        unequal = total[..., None] - torch.stack([part.sum(-1) for part in equal], -1)
        pieces.append(unequal / hyper.lengthscale[..., len(kernel.numbers) :])
    pieces.append(total[..., None])
    if time is not None:
        pieces.append(fade_pullback(hyper.decay, time, torch.mul(weight, found.value, out=room)))
    if plain is not None and hyper.warp is not None:
        scale = (-2 * SLOPE[kernel.shape] * math.sqrt(UNIT[kernel.shape])) / hyper.lengthscale[..., None, : len(kernel.numbers)]
        pieces += [(warp.columns(apart * scale, kernel.bent) * slope).sum(-2) for slope in warp.slopes_by_raw(plain, hyper.warp)]
    return torch.cat(pieces, -1)


# How points are compared --------------------------------------------------------------------------------------------------

UNIT = {"rbf": 0.5, "matern52": 5.0}
"""Squared distances are counted in such a unit that the shapes are exp(-r**2) and (1 + r + r**2 / 3) exp(-r)."""

SLOPE = {"rbf": 2.0, "matern52": 1 / 3}
"""See `Compared`."""


def described(kernel: Kernel, hyper: Hyper, x: Tensor) -> Points:
    """Points x (..., n, d) as the kernel sees them under `hyper`."""
    exists = active(kernel, x) if kernel.conditions else None
    k = len(kernel.numbers)
    numbers = numbered(kernel, x)
    plain = None
    if kernel.warped:
        numbers, plain = warp.bent(numbers, kernel.bent, hyper.warp, None if exists is None else numbered(kernel, exists))
    numbers = numbers - REST        # about the middle: less is lost in the products
    if exists is not None:
        numbers = torch.where(numbered(kernel, exists), numbers, 0.0)
    codes = []
    for column, levels in kernel.categories:
        code = _level(x[..., column], levels)
        if exists is not None:
            code = torch.where(exists[..., column], code, levels)
        codes.append((code[..., None] == torch.arange(levels + 1, device=x.device)).to(x.dtype))
    scaled = numbers * (math.sqrt(UNIT[kernel.shape]) / hyper.lengthscale[..., None, :k])
    return Points(
        scaled,
        scaled.square().sum(-1),
        torch.cat(codes, -1) if codes else x[..., :0],
        None if kernel.fidelity is None else x[..., kernel.fidelity],
        plain,
    )


def numbered(kernel: Kernel, x: Tensor) -> Tensor:
    """The columns of x (..., d) that are numbers."""
    k = len(kernel.numbers)
    return x[..., :k] if kernel.numbers == tuple(range(k)) else x[..., list(kernel.numbers)]


def _level(coordinate: Tensor, levels: int) -> Tensor:
    """(...) int64: which of n equal cells of [0, 1] each coordinate lies in."""
    return (coordinate.detach() * levels).floor().clamp(0, levels - 1).to(torch.int64)


def _square(a: Points, b: Points, room: Tensor | None = None, product: Tensor | None = None) -> Tensor:
    """Squared distances in UNIT, (..., n, m), at least TINY, and that from each point to itself: in `room`, or fresh memory."""
    # Sums first: so the matrix of a set with itself is symmetric to the bit.
    norms = torch.add(a.norms[..., :, None], b.norms[..., None, :], out=room)
    square = norms.sub_(torch.matmul(a.scaled, b.scaled.mT, out=product), alpha=2).clamp_min_(TINY)
    if a is b:
        square.diagonal(dim1=-2, dim2=-1).fill_(TINY)
    return square


def _factor(kernel: Kernel, hyper: Hyper, a: Points, b: Points) -> Tensor:
    """All but the shape: (..., 1, 1) or (..., n, m)."""
    factor = hyper.outputscale[..., None, None]
    if kernel.categories:
        factor = factor * _unlike(kernel, hyper, a.one_hot, b.one_hot)
    if a.time is not None and b.time is not None:
        factor = factor * fade(hyper.decay[..., None, None, :], a.time[..., :, None] + b.time[..., None, :])
    return factor


def _unlike(kernel: Kernel, hyper: Hyper, a: Tensor, b: Tensor) -> Tensor:
    """exp(-sum_c [a_c != b_c] / l_c), (..., n, m)."""
    rates = hyper.lengthscale[..., len(kernel.numbers) :].reciprocal()
    sizes = torch.tensor([levels + 1 for _, levels in kernel.categories], device=rates.device)
    equal = (a * rates.repeat_interleave(sizes, -1)[..., None, :]) @ b.mT
    return torch.exp(equal - rates.sum(-1)[..., None, None])

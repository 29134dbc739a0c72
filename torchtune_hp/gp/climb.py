"""Climbing a function of the unit cube from many points at once, where some columns are continua and others have levels.

A column with levels is never rounded: it stands on a level throughout, so what is scored is what will be run. The continuous
columns are climbed by L-BFGS with the others held still; then each column with levels is exchanged for its neighbours, of which
the best is taken, until none is better; and again, until nothing is. All starts move at once, in one tensor.

The neighbours of an ordered level are those 1, 2, 4, 8, ... away, so a column of a million levels is crossed in twenty steps; of
a category, all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .lbfgs import minimize

Score = Callable[[Tensor, Tensor], Tensor]
"""(x (r, d), start (r,) int64) -> (r,): what is climbed, larger is better, each row by itself; `start` is the number of its start.
Differentiable in x."""

_AT_ONCE = 2**12        # points scored in one call
_ROUNDS = 32            # exchanges, and climbs, of one start
_STEPS = 60             # of L-BFGS
_FLAT = 1e-3            # a slope that promises so much over one lengthscale: of a logarithm, a tenth of a percent
WALLS=10**6
_LONGEST = 3.0          # a lengthscale beyond which a column is nearly straight from face to face


class Column(NamedTuple):
    """One coordinate. `levels`: its canonical places, (m,) float64 ascending, or None for a continuum. Not `ordered`: a category."""

    levels: Tensor | None = None
    ordered: bool = True


class Cube(NamedTuple):
    """What the unit cube stands for.

    `canonical(x (n, d)) -> (n, d)`: where a point is run; idempotent; a coordinate that does not exist goes to its rest.
    `feasible(x (n, d)) -> (n,) bool`, or None: everything is.
    """

    columns: Sequence[Column]
    canonical: Callable[[Tensor], Tensor]
    feasible: Callable[[Tensor], Tensor] | None = None


def climb(score: Score, cube: Cube, start: Tensor, scale: Tensor | None = None, gain: float = 0.0) -> tuple[Tensor, Tensor]:
    """From each start (b, d), canonical and feasible, to a canonical, feasible point (b, d) and its score (b,), never below the start's.

    `scale` (d,): how far the score goes about as far in each column, as lengthscales say; None: everywhere one. `gain`: a climb
    ends where no more is promised. Both save steps.
    """
    number = torch.arange(len(start), device=start.device)
    x, best = start, scored(score, start, number)
    smooth = any(column.levels is None for column in cube.columns)
    stepped = any(column.levels is not None for column in cube.columns)
    work = number
    for _ in range(_ROUNDS):
        if not len(work):
            break
        if smooth:
            x, best = _improved(x, best, work, *ascended(score, cube, x[work], work, scale, gain))
        if not stepped:
            break
        before = best[work]
        x, best = _exchanged(score, cube, x, best, work)
        work = work[best[work] > before]
    return x, best


def ascended(
    score: Score, cube: Cube, x: Tensor, number: Tensor, scale: Tensor | None = None, gain: float = 0.0, *, steps: int = _STEPS
) -> tuple[Tensor, Tensor]:
    """Where L-BFGS leads from x (r, d) in the continuous columns, made canonical: (r, d) and the scores (r,), -inf where infeasible.

    `number` (r,): of the starts, for `score`. `scale`, `gain`: as in `climb`; columns are climbed in such units, in which all bend alike.
    """
    smooth = torch.tensor([column.levels is None for column in cube.columns], device=x.device)
    unit = x.new_ones(x.shape[1]) if scale is None else scale.clamp_max(_LONGEST)

    def placed(scaled: Tensor, rows: Tensor) -> Tensor:     # rounding leads neither out of the cube nor off a level
        return torch.where(smooth, (scaled * unit).clamp_max(1.0), x[rows])

    def function(scaled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        point = placed(scaled, rows)
        with torch.enable_grad():
            value = score(point.requires_grad_(), number[rows])
            (gradient,) = torch.autograd.grad(value.sum(), point)
        value = -value.detach()
        if cube.feasible is not None:       # a wall: the line search steps back from it
            value = value.masked_fill(~cube.feasible(point.detach()), torch.nan)
        return value, -gradient * (smooth * unit)

    bounds = torch.where(smooth, 0.0, x) / unit, torch.where(smooth, 1.0, x) / unit
    found = minimize(function, x / unit, lower=bounds[0], upper=bounds[1], steps=steps, tolerance=_FLAT, promise=2 * gain, walls=WALLS)
    point = cube.canonical(placed(found.point, torch.arange(len(x), device=x.device)))
    value = scored(score, point, number)
    return point, value if cube.feasible is None else value.masked_fill(~cube.feasible(point), -torch.inf)


def scored(score: Score, x: Tensor, number: Tensor) -> Tensor:
    """(r,), without gradients, in blocks; NaN counts as -inf."""
    with torch.no_grad():
        parts = [score(some, which) for some, which in zip(torch.split(x, _AT_ONCE), torch.split(number, _AT_ONCE))]
    return torch.cat(parts).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf) if parts else x.new_zeros(0)


def _exchanged(score: Score, cube: Cube, x: Tensor, best: Tensor, work: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of `work` moved to its best neighbour until none is better: all of x (b, d) and of best (b,)."""
    for _ in range(_ROUNDS):
        near = _neighbours(cube.columns, x[work])
        r, m, d = near.shape
        points = cube.canonical(near.reshape(r * m, d))
        value = scored(score, points, work.repeat_interleave(m))
        if cube.feasible is not None:
            value = value.masked_fill(~cube.feasible(points), -torch.inf)
        top, k = value.view(r, m).max(1)
        better = top > best[work]
        x, best = _improved(x, best, work, points.view(r, m, d)[torch.arange(r, device=x.device), k], top)
        work = work[better]
        if not len(work):
            break
    return x, best


def _neighbours(columns: Sequence[Column], x: Tensor) -> Tensor:
    """(r, m, d): x (r, d) with one column at another level."""
    near = []
    for k, (levels, ordered) in enumerate(columns):
        if levels is None:
            continue
        count = len(levels)
        if ordered:
            strides = 2 ** torch.arange(max(1, (count - 1).bit_length()), device=x.device)
            here = (x[:, k, None] - levels).abs().argmin(1)
            there = (here[:, None] + torch.cat([strides, -strides])).clamp(0, count - 1)
        else:
            there = torch.arange(count, device=x.device).expand(len(x), count)
        moved = x[:, None, :].repeat(1, there.shape[1], 1)
        moved[:, :, k] = levels[there]
        near.append(moved)
    return torch.cat(near, 1)


def _improved(x: Tensor, best: Tensor, work: Tensor, point: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """x and best with those rows of `work` replaced that got better."""
    better = value > best[work]
    return (
        x.index_copy(0, work, torch.where(better[:, None], point, x[work])),
        best.index_copy(0, work, torch.where(better, value, best[work])),
    )

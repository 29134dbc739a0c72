"""Climbing a function of the unit cube from many points at once, where some columns are continua and others have levels.

A column with levels is never rounded: it stands on a level throughout, so what is scored is what will be run. The continuous
columns are climbed by L-BFGS with the others held still; then each column with levels is exchanged for its neighbours, of which
the best is taken, until none is better; and again, until nothing is. All starts move at once, in one tensor.

What is infeasible is a wall, of which nothing is known but where it is. A quasi-Newton step points through it again and again, so a
start that met it twice is climbed no further, but slides: of points around it the best feasible one is taken, and where none is better
they come closer. That costs a quarter of zigzagging to the end, and ends higher.

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
_LONGEST = 3.0          # a lengthscale beyond which a column is nearly straight from face to face
_WALLS = 2              # infeasible points met by one start before it slides
_TURNS = 12             # of sliding
_AROUND = 16            # points looked at by each start in one of them
_WIDEST = 0.2           # their deviations at first, in lengthscales: from here down to an eighth


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


class Ascent(NamedTuple):
    """Where climbs led: x (r, d), its score (r,), -inf where infeasible, and which `met` a wall before they were at the top (r,) bool."""

    x: Tensor
    score: Tensor
    met: Tensor


def climb(
    score: Score,
    cube: Cube,
    start: Tensor,
    scale: Tensor | None = None,
    gain: float = 0.0,
    known: Tensor | None = None,
    *,
    rivals: bool = False,
) -> tuple[Tensor, Tensor]:
    """From each start (b, d), canonical and feasible, to a canonical, feasible point (b, d) and its score (b,), never below the start's.

    `scale` (d,): how far the score goes about as far in each column, as lengthscales say; None: everywhere one. `gain`: a climb
    ends where no more is promised, or an exchange brings no more. Both save steps. `known` (b,): the starts' scores, if they are.
    `rivals`: only the best of all is wanted, so a climb that is farther below another than it promises to rise goes no further.
    """
    number = torch.arange(len(start), device=start.device)
    x, best = start, scored(score, start, number) if known is None else known
    smooth = any(column.levels is None for column in cube.columns)
    stepped = any(column.levels is not None and len(column.levels) > 1 for column in cube.columns)
    work = number
    for _ in range(_ROUNDS):
        if not len(work):
            break
        if smooth:
            up = ascended(score, cube, x[work], work, scale, gain, rivals=rivals)
            x, best = _improved(x, best, work, up.x, up.score)
            if len(along := work[up.met]):
                x, best = _slid(score, cube, x, best, along, scale)
        if not stepped:
            break
        before = best[work]
        x, best = _exchanged(score, cube, x, best, work, gain)
        work = work[best[work] > before + gain]
    return x, best


def ascended(
    score: Score,
    cube: Cube,
    x: Tensor,
    number: Tensor,
    scale: Tensor | None = None,
    gain: float = 0.0,
    *,
    steps: int = _STEPS,
    rivals: bool = False,
) -> Ascent:
    """Where L-BFGS leads from x (r, d) in the continuous columns, made canonical.

    `number` (r,): of the starts, for `score`. `scale`, `gain`, `rivals`: as in `climb`; columns are climbed in such units, in which all
    bend alike.
    """
    smooth, unit = _smooth(cube, x), _unit(x, scale)
    met = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def placed(scaled: Tensor, start: Tensor) -> Tensor:        # rounding leads neither out of the cube nor off a level
        return torch.where(smooth, (scaled * unit).clamp_max_(1.0), start)

    def function(scaled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        point = placed(scaled, x[rows])
        with torch.enable_grad():
            value = score(point.requires_grad_(), number[rows])
            (gradient,) = torch.autograd.grad(value.sum(), point)
        value = -value.detach()
        if cube.feasible is not None:       # the line search steps back from it
            outside = ~cube.feasible(point.detach())
            met[rows] |= outside
            value = value.masked_fill_(outside, torch.nan)
        return value, -gradient * (smooth * unit)

    bounds = torch.where(smooth, 0.0, x) / unit, torch.where(smooth, 1.0, x) / unit
    found = minimize(
        function,
        x / unit,
        lower=bounds[0],
        upper=bounds[1],
        steps=steps,
        tolerance=_FLAT,
        promise=2 * gain,
        walls=_WALLS,
        rivals=rivals,
    )
    there = placed(found.point, x)
    point = cube.canonical(there)
    value = _ordered(-found.value) if torch.equal(point, there) else scored(score, point, number)
    value = value if cube.feasible is None else value.masked_fill(~cube.feasible(point), -torch.inf)
    return Ascent(point, value, met & ~found.converged & ~found.behind)


def _slid(
    score: Score, cube: Cube, x: Tensor, best: Tensor, work: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All of x (b, d) and of best (b,), each row of `work` moved to the best feasible of the points around it, again and again.

    The moves are the same for each row, whoever else slides.
    """
    assert cube.feasible is not None
    drawn = torch.randn(_TURNS, _AROUND, x.shape[1], dtype=x.dtype, generator=torch.Generator().manual_seed(0)).to(x)
    spread = _WIDEST * 2.0 ** -torch.linspace(0, 3, _AROUND, dtype=x.dtype, device=x.device)
    moves = drawn * spread[:, None] * (_smooth(cube, x) * _unit(x, scale))
    width = x.new_ones(len(work), 1, 1)
    for turn in moves:
        near = cube.canonical((x[work, None] + width * turn).clamp(0, 1).flatten(0, 1))
        value = x.new_full((len(near),), -torch.inf)
        inside = cube.feasible(near).nonzero()[:, 0]
        value[inside] = scored(score, near[inside], work.repeat_interleave(_AROUND)[inside])
        top, k = value.view(len(work), _AROUND).max(1)
        width = torch.where((top > best[work])[:, None, None], width, 0.5 * width)
        x, best = _improved(x, best, work, near.view(len(work), _AROUND, -1)[torch.arange(len(work), device=x.device), k], top)
    return x, best


def _smooth(cube: Cube, x: Tensor) -> Tensor:
    """(d,) bool: the continua."""
    return torch.tensor([column.levels is None for column in cube.columns], device=x.device)


def _unit(x: Tensor, scale: Tensor | None) -> Tensor:
    """(d,): in which columns are climbed."""
    return x.new_ones(x.shape[1]) if scale is None else scale.clamp_max(_LONGEST)


def scored(score: Score, x: Tensor, number: Tensor) -> Tensor:
    """(r,), without gradients, in blocks; NaN counts as -inf."""
    if len(x) <= _AT_ONCE:
        with torch.no_grad():
            return _ordered(score(x, number)) if len(x) else x.new_zeros(0)
    return torch.cat([scored(score, some, which) for some, which in zip(torch.split(x, _AT_ONCE), torch.split(number, _AT_ONCE))])


def _ordered(value: Tensor) -> Tensor:
    return value.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _exchanged(score: Score, cube: Cube, x: Tensor, best: Tensor, work: Tensor, gain: float) -> tuple[Tensor, Tensor]:
    """Each row of `work` moved to its best neighbour until none is better by more than `gain`: all of x (b, d) and of best (b,)."""
    for _ in range(_ROUNDS):
        near = _neighbours(cube.columns, x[work])
        r, m, d = near.shape
        points = cube.canonical(near.reshape(r * m, d))
        value = scored(score, points, work.repeat_interleave(m))
        if cube.feasible is not None:
            value = value.masked_fill(~cube.feasible(points), -torch.inf)
        top, k = value.view(r, m).max(1)
        better = top > best[work] + gain
        x, best = _improved(x, best, work, points.view(r, m, d)[torch.arange(r, device=x.device), k], top)
        work = work[better]
        if not len(work):
            break
    return x, best


def _neighbours(columns: Sequence[Column], x: Tensor) -> Tensor:
    """(r, m, d): x (r, d) with one column at another level."""
    near = []
    for k, (levels, ordered) in enumerate(columns):
        if levels is None or len(levels) == 1:
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

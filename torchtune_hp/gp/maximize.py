"""Where an acquisition is largest: starts, climbs, and what may be suggested.

Laws:
1. What is offered is canonical, feasible and scored where it will be run.
2. Nothing is offered twice, nor anything that was taken (evaluated or pending), unless the space is exhausted: every column has
   levels, and all of their crossings were taken. A space of at most EXHAUSTIVE crossings is scored whole.
3. Same arguments, same answers: chance is the caller's seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from .climb import Column, Cube, ascended, climb, scored
from .fantasies import Fantasies, choose, in_order
from .paths import Paths, evaluate, evaluate_all
from .slopes import scales

EXHAUSTIVE = 2**11
_LOCAL = (0.2, 0.05, 0.01)      # deviations around the best points
_PER_PATH = 4                   # starts climbed for each path
_GAIN = 5e-4                    # of a score, which is the logarithm of an acquisition: a twentieth of a percent is not worth a step
_LOOKED = 4                     # times as many starts as are climbed are looked through for some that lie apart
_REFINED = 6                    # steps of L-BFGS for each point of a batch


class Pool(NamedTuple):
    """Points (p, d) that may be suggested, and their scores (p,), best first."""

    x: Tensor
    score: Tensor


def starts(cube: Cube, count: int, best: Tensor, seed: int) -> Tensor:
    """About `count` canonical, feasible, distinct points (p, d): half a scrambled Sobol sequence, half around the rows of best (m, d).

    The latter are normal with three widths in some columns each, and a level is drawn anew once a row on average. The best
    themselves come first. A space of at most EXHAUSTIVE crossings is given whole.
    """
    whole = crossings(cube.columns, EXHAUSTIVE)
    if whole is not None:
        return _distinct(_allowed(cube, whole.to(best)), best[:0])
    d, around = len(cube.columns), count // 2 if len(best) else 0
    engine: Any = SobolEngine(d, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    even = engine.draw(count, dtype=torch.float64).to(best)
    generator = torch.Generator().manual_seed(seed)
    centers = best[torch.arange(around) % max(1, len(best))]
    widths = torch.tensor(_LOCAL, dtype=torch.float64).repeat_interleave(max(1, len(best)))[torch.arange(around) % (3 * max(1, len(best)))]
    moves = torch.randn(around, d, dtype=torch.float64, generator=generator) * widths[:, None]
    some = torch.rand(around, d, dtype=torch.float64, generator=generator)
    smooth = torch.tensor([column.levels is None for column in cube.columns])
    kept = some > torch.where(smooth, 0.5, 1 / max(1, int((~smooth).sum())))
    near = torch.where(smooth, centers.cpu() + moves, even[:around].cpu())
    near = torch.where(kept, centers.cpu(), near).clamp(0, 1).to(best)
    return _distinct(_allowed(cube, leveled(cube.columns, torch.cat([best, near, even[around:]]))), best[:0])


def pool(
    score: Callable[[Tensor], Tensor], cube: Cube, start: Tensor, taken: Tensor, *, climbs: int = 32, scale: Tensor | None = None
) -> Pool:
    """The starts (b, d), and where the best `climbs` of them lead, without what is `taken` (t, d).

    `score(x (r, d)) -> (r,)`, larger is better, in logarithms; `scale`: as in `climb`. With it those climbed are the best that lie one
    unit of it apart, and others only where such are too few: neighbors lead to one top. Climbs are rivals. Empty only where all that was
    found is taken: draw other starts.
    """
    number = torch.arange(len(start), device=start.device)
    at_start = scored(lambda x, _: score(x), start, number)
    if crossings(cube.columns, EXHAUSTIVE) is not None:
        x, value = start, at_start
    else:
        top = at_start.argsort(descending=True, stable=True)[: climbs if scale is None else _LOOKED * climbs]
        top = top if scale is None else top[_apart(cube.columns, start[top], scale)[:climbs]]
        x, value = climb(lambda x, _: score(x), cube, start[top], scale, _GAIN, at_start[top], rivals=True)
        x, value = torch.cat([x, start]), torch.cat([value, at_start])
    order = value.argsort(descending=True, stable=True)
    x, value = x[order], value[order]
    fresh = _fresh(x, taken)
    if crossings(cube.columns, EXHAUSTIVE) is not None and not fresh.any():
        fresh = _fresh(x, taken[:0])
    return Pool(x[fresh], value[fresh])


def batch(
    fantasies: Fantasies, cube: Cube, pool: Pool, taken: Tensor, normals: Tensor, *, bonus: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """q points to run at once (q, d) by log NEI, `normals` (s, q), where the pool has so many; in order, each the best given those before.

    Chosen from the best of the pool (`enough`); then each is climbed a little given those before it, in its continuous columns, all at
    once; then chosen again from both. `bonus(x (r, d)) -> (r,)`, differentiable, is added to log NEI: log feasibility, say.
    """

    def chosen(x: Tensor) -> Tensor:
        return x[choose(fantasies, x, normals, bonus=None if bonus is None else scored(lambda x, _: bonus(x), x, x[:, 0]))]

    def score(at: Tensor, number: Tensor) -> Tensor:
        return given(at, number) if bonus is None else given(at, number) + bonus(at)

    x = chosen(pool.x[: enough(normals.shape[1])])
    if not len(x) or all(column.levels is not None for column in cube.columns):
        return x
    given = in_order(fantasies, x, normals)
    scale = scales(fantasies.fitted.kernel, fantasies.fitted.hyper, x.shape[1])
    better = ascended(score, cube, x, torch.arange(len(x), device=x.device), scale, _GAIN, steps=_REFINED).x
    better = better if cube.feasible is None else better[cube.feasible(better)]
    return chosen(_distinct(torch.cat([better, x]), taken))


def enough(q: int) -> int:
    """How many points, those worth most alone, a batch of q is chosen from: more cost time, and batches were no better on average."""
    return max(128, 4 * q)


def path_maxima(paths: Paths, cube: Cube, start: Tensor, taken: Tensor) -> Tensor:
    """Where each path is least (s, d), among what is climbed from its best few of the starts (b, d); distinct, and not `taken`.

    Raises ValueError where the starts and climbs hold fewer than s such points: draw more starts.
    """
    s, b = len(paths.weight), len(start)
    which = torch.arange(s, device=start.device)

    ranked = evaluate_all(paths, start).argsort(dim=1, stable=True)
    few = ranked[:, :_PER_PATH]
    each = which.repeat_interleave(few.shape[1])
    x, value = climb(lambda x, number: -evaluate(paths, x, each[number]), cube, start[few.reshape(-1)])
    value, order = value.view(s, -1).sort(dim=1, descending=True, stable=True)
    climbed = x.view(s, -1, x.shape[-1])[which[:, None], order]
    # Each path's candidates, best first: its climbs, then all starts. Who finds its own taken goes on to the next.
    rank, found = torch.zeros_like(which), start.new_zeros(s, start.shape[1])
    missing = which
    for _ in range(few.shape[1] + b):
        at = rank[missing]
        far = ranked[missing, (at - few.shape[1]).clamp_min(0)]
        offered = torch.where((at < few.shape[1])[:, None], climbed[missing, at.clamp_max(few.shape[1] - 1)], start[far])
        settled = torch.ones(s, dtype=torch.bool, device=start.device).index_fill(0, missing, False)
        good = _fresh(offered, torch.cat([taken, found[settled]]))
        found[missing[good]] = offered[good]
        missing = missing[~good]
        rank[missing] += 1
        if not len(missing):
            return found
    raise ValueError(f"{s} distinct points that are not taken are needed, but {b} starts and their climbs hold fewer; draw more starts.")


def best_rows(score: Callable[[Tensor], Tensor], rows: Tensor, taken: Tensor, count: int) -> Tensor:
    """Which of the only points there are, rows (m, d), score best: (c,) int64, best first, c = count or as many as are not `taken` (t, d).

    Each row is scored, in blocks. Where all are taken the space is exhausted, and they are offered again.
    """
    value = scored(lambda x, _: score(x), rows, torch.arange(len(rows), device=rows.device))
    order = value.argsort(descending=True, stable=True)
    fresh = _fresh(rows[order], taken)
    return order[fresh if fresh.any() else ~fresh][:count]


def crossings(columns: Sequence[Column], most: int) -> Tensor | None:
    """Every crossing of the levels (p, d), or None where a column is a continuum or there are more than `most`."""
    size, levels = 1, []
    for column in columns:
        if column.levels is None or (size := size * len(column.levels)) > most:
            return None
        levels.append(column.levels)
    return torch.cartesian_prod(*levels).view(size, len(levels))


def leveled(columns: Sequence[Column], x: Tensor) -> Tensor:
    """x (n, d) with each coordinate of a column with m levels at the nearest of them, or of a category's m equal cells at its own."""
    x = x.clone()
    for k, (levels, ordered) in enumerate(columns):
        if levels is None:
            continue
        if len(levels) == 1:
            x[:, k] = levels
        elif ordered:
            x[:, k] = levels[torch.bucketize(x[:, k].contiguous(), (levels[1:] + levels[:-1]) / 2)]
        else:
            x[:, k] = levels[(x[:, k] * len(levels)).long().clamp(0, len(levels) - 1)]
    return x


def _apart(columns: Sequence[Column], x: Tensor, scale: Tensor) -> Tensor:
    """x (p, d) in another order (p,) int64: first those at least a unit of `scale` (d,) from all before them that are; then the others.

    Points of different categories lie apart.
    """
    widest = [math.inf if levels is None or ordered else 0.5 / len(levels) for levels, ordered in columns]
    unit = torch.tensor(widest).to(scale).minimum(scale)
    far = (torch.cdist(x / unit, x / unit) >= 1).cpu().numpy()
    some: list[int] = []
    for k in range(len(x)):
        if far[k, some].all():
            some.append(k)
    return torch.tensor(some + sorted(set(range(len(x))) - set(some)), dtype=torch.int64, device=x.device)


def _allowed(cube: Cube, x: Tensor) -> Tensor:
    x = cube.canonical(x)
    return x if cube.feasible is None else x[cube.feasible(x)]


def _distinct(x: Tensor, taken: Tensor) -> Tensor:
    return x[_fresh(x, taken)]


def _fresh(x: Tensor, taken: Tensor) -> Tensor:
    """Which rows of x (n, d) are neither in taken (t, d) nor equal to one before them: (n,) bool."""
    seen, fresh = set(map(tuple, taken.tolist())), []
    for row in map(tuple, x.tolist()):
        fresh.append(row not in seen)
        seen.add(row)
    return torch.tensor(fresh, dtype=torch.bool, device=x.device)

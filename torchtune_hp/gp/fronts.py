"""Where a front is enlarged most: noisy expected hypervolume improvement beside pending points, for one point or a batch.

    symbol   here         shape          what it is
    f~       values       (s, k, m)      s joint samples of m independent processes at k points: the best observed, and all pending
             reference    (m,)           what is worse than this in some objective is worth nothing
             cells        (s, c, m)      of the fronts that the samples make

    log NEHVI(x) = log 1/s sum_i EHVI(x | f~_i, cells of f~_i)      (Daulton, Balandat and Bakshy, NeurIPS 2021, eq. 6)

What `fantasies` is for one objective: nothing is solved per sample, a batch is chosen greedily from a pool by pivoted Cholesky
factorization (one for each objective), each choice joining the k points of every sample, and where all objectives are known the value
is -inf, not the logarithm of rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..pareto import fronts, ranked
from .acquisition import deviation
from .fantasies import KNOWN, Fantasies, fantasize, moments
from .hypervolume import Cells, cells, log_expected_hypervolume_improvement
from .kernel import covariance, variance
from .regression import Fitted, means, prior_mean

_NEVER = -1e300         # as in `fantasies`
_ROOM = 4               # points of the pool for each that is chosen
_LEAST = 128            # and at least so many


class Front(NamedTuple):
    """m processes given s samples of what is not known, and the cells of the fronts that those make."""

    objectives: tuple[Fantasies, ...]
    reference: Tensor
    cells: Cells


def imagine(processes: Sequence[Fitted], x: Tensor, reference: Tensor, normals: Tensor) -> Front:
    """Joint samples at x (k, d), k >= 1, of m processes, made of standard normals (m, s, k); all float64.

    Raises ValueError as `fantasize` and `cells` do.
    """
    drawn = tuple(fantasize(one, x, some) for one, some in zip(processes, normals, strict=True))
    return Front(drawn, reference, _packed(cells(_values(drawn), reference)))


def on_the_front(processes: Sequence[Fitted], x: Tensor, least: int, most: int) -> Tensor:
    """Those of x (n, d) that may be on the front: by their means, front by front, (k, d); at least `least` if there are, at most `most`.

    In an order in which any beginning covers the first front (`pareto.ranked`). All of the first front is among them if `most` allows.
    """
    values = [tuple(row) for row in torch.stack([means(one, x) for one in processes], -1).tolist()]
    if not values:
        return x
    return x[list(ranked(values))[: min(most, max(least, len(fronts(values)[0])))]]


def log_improvement(front: Front, x: Tensor) -> Tensor:
    """log NEHVI (q,) at x (q, d); -inf where all objectives are known. Differentiable in x."""
    means, variances = zip(*(moments(one, x) for one in front.objectives))
    square = torch.stack(variances, -1)
    return _averaged(torch.stack(means, -1), square, front.cells, _floor(front, x))


def choose(front: Front, pool: Tensor, normals: Tensor, *, bonus: Tensor | None = None) -> Tensor:
    """Which q of the pool (p, d) to run at once: (q,) int64, distinct, in order, each the best by log NEHVI given those before it.

    `normals` (m, s, q): of the values imagined at the choices. `bonus` (p,): added to log NEHVI. Beyond the best 128, or four for each
    choice, the pool is not looked at. Raises ValueError for a pool of fewer than q points.
    """
    m, s, q = normals.shape
    if (m, s) != (len(front.objectives), len(front.cells.lower)) or q > len(pool):
        raise ValueError(
            f"normals must be (m, s, q) with m = {len(front.objectives)}, s = {len(front.cells.lower)} and q <= {len(pool)}, the size of "
            f"the pool, but are {(m, s, q)}. Enlarge the pool."
        )
    open_to = pool.new_zeros(len(pool)) if bonus is None else bonus.clamp_min(_NEVER)
    room = max(_LEAST, _ROOM * q)
    if len(pool) > room:
        kept = (log_improvement(front, pool).clamp_min(_NEVER) + open_to).argsort(descending=True, stable=True)[:room]
    else:
        kept = torch.arange(len(pool), device=pool.device)
    pool, open_to = pool[kept], open_to[kept]
    means, matrices = zip(*(_joint(one, pool) for one in front.objectives))
    mean, matrix = torch.stack(means, -1), torch.stack(matrices)            # (s, p, m), (m, p, p)
    square, floor = matrix.diagonal(dim1=-2, dim2=-1).mT.clone(), _floor(front, pool)
    roots = pool.new_zeros(m, len(pool), q)
    told, free = _values(front.objectives), front.cells
    chosen: list[Tensor] = []
    for j in range(q):
        k = (_averaged(mean, square, free, floor).clamp_min(_NEVER) + open_to).argmax().view(1)
        chosen.append(k)
        open_to = open_to.index_fill(0, k, -torch.inf)
        # Column k of each objective's covariance given all choices so far, over its deviation (see `fantasies.choose`).
        column = matrix.index_select(2, k)[..., 0] - (roots[:, :, :j] @ roots[:, :, :j].index_select(1, k).mT)[..., 0]      # (m, p)
        spread = square.index_select(0, k)                                                                                  # (1, m)
        column = torch.where((spread > floor.index_select(0, k)).mT, column / deviation(spread).mT, 0.0)
        roots[:, :, j] = column
        square = (square - column.mT.square()).clamp_min(0)
        mean = mean + normals[:, :, j].mT[:, None, :] * column.mT
        if j + 1 < q:
            told = torch.cat([told, mean.index_select(1, k)], 1)
            free = _packed(cells(told, front.reference))
    return kept[torch.cat(chosen)] if chosen else torch.zeros(0, dtype=torch.int64, device=pool.device)


def _values(objectives: Sequence[Fantasies]) -> Tensor:
    """(s, k, m)"""
    return torch.stack([one.values for one in objectives], -1)


def _packed(boxes: Cells) -> Cells:
    """Cells (s, c, m) without those that are none in every sample."""
    real = (boxes.lower < boxes.upper).all(-1)
    order = (~real).to(torch.int8).argsort(dim=-1, stable=True)[:, : max(1, int(real.sum(-1).max()))]
    where = order[..., None].expand(-1, -1, boxes.lower.shape[-1])
    return Cells(boxes.lower.gather(1, where), boxes.upper.gather(1, where))


def _averaged(mean: Tensor, square: Tensor, boxes: Cells, floor: Tensor) -> Tensor:
    """log of the mean EHVI (q,) over the samples, of mean (s, q, m) and variance (q, m); -inf where all is known."""
    each = log_expected_hypervolume_improvement(mean, deviation(square), Cells(boxes.lower[:, None], boxes.upper[:, None]))
    return (each.logsumexp(0) - math.log(len(mean))).masked_fill((square <= floor).all(-1), -torch.inf)


def _floor(front: Front, x: Tensor) -> Tensor:
    """The variances (q, m) at which x (q, d) is known."""
    return KNOWN * torch.stack([variance(one.fitted.kernel, one.fitted.hyper, x.detach()) for one in front.objectives], -1)


def _joint(fantasies: Fantasies, x: Tensor) -> tuple[Tensor, Tensor]:
    """The means (s, p) under each sample, and the covariance (p, p), the same under all, at x (p, d)."""
    fitted = fantasies.fitted
    half = torch.linalg.solve_triangular(fitted.factor, covariance(fitted.kernel, fitted.hyper, fitted.x, x), upper=False)
    return prior_mean(fitted, x) + fantasies.whitened.mT @ half, covariance(fitted.kernel, fitted.hyper, x) - half.mT @ half

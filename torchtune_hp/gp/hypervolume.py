"""What a point is worth for several objectives: how much more of the space will be dominated. All objectives are minimized.

    symbol   here         shape          what it is
    F        front        (..., n, m)    values known; dominated ones are welcome; n may be 0
    r        reference    (m,)           what is worse than this in some objective is worth nothing
    l, u     Cells        (..., c, m)    disjoint boxes [l, u] that make up all that is better than r and not dominated by F
    mu       mean         (..., m)       of m independent processes at the point
    sigma    deviation    (..., m)       their standard deviations, > 0

A value y improves the hypervolume by sum_c prod_j (u_cj - max(l_cj, y_j))+. The objectives are independent, and (u - max(l, y))+
= (u - y)+ - (l - y)+, so its expectation is closed for any number of objectives:

    EHVI = sum_c prod_j (EI_j(u_cj) - EI_j(l_cj))       EI_j(b) = E (b - y_j)+

(Emmerich, Deutz and Klinkenberg, CEC 2011; Yang et al., J. Global Optim. 75 (2019).)

Everything is float64 and broadcasts over "...": over points, and over fronts, of which there is one for each sample where what is
known is noisy or pending. The hypervolume itself is `torchtune_hp.pareto`'s.

Laws, each a test: cells are disjoint, and with what F dominates they fill the space up to r; a value's improvement is the
difference of two hypervolumes; EHVI is the mean improvement of samples; its logarithm climbs from however hopeless a point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .acquisition import deviation, log_expected_improvement
from .fantasies import Fantasies, moments

MOST_TOGETHER = 10
"""How many values may improve a front together: their overlaps are 2**q subsets."""

_TINY = 1e-300


class Cells(NamedTuple):
    """Boxes (..., c, m) from `lower` (-inf where they have no end) to `upper`. A box with lower >= upper somewhere is none: padding."""

    lower: Tensor
    upper: Tensor


def cells(front: Tensor, reference: Tensor) -> Cells:
    """What is better than `reference` (m,) and not dominated by `front` (..., n, m), as disjoint boxes. float64, not differentiated.

    n + 1 boxes for two objectives; for three at most 4 n + 3; O(n**(m // 2)) bounds for more (Lacour, Klamroth and Fonseca, Comput. Oper.
    Res. 79 (2017)). Raises ValueError for shapes or dtypes that do not fit, under two objectives, and for what is not finite.
    """
    _refuse(front, reference)
    front = torch.minimum(front.detach(), reference)        # what is worse than the reference somewhere has no volume there
    if front.shape[-1] == 2:
        return _strips(front, reference)
    n, m = front.shape[-2:]
    parts = [_between(some, reference) for some in front.reshape(math.prod(front.shape[:-2]), n, m)]
    lower, upper = (pad_sequence(list(side), batch_first=True).reshape(*front.shape[:-2], -1, m) for side in zip(*parts))
    return Cells(lower, upper)


def log_expected_hypervolume_improvement(mean: Tensor, deviation: Tensor, cells: Cells) -> Tensor:
    """log EHVI (...) of mean and deviation (..., m), with finite gradients however small it is.

    The batch dimensions of `cells` broadcast against "..."; so with s fronts, give mean (s, ..., m) to cells (s, 1, c, m), say.
    """
    mean, deviation = mean[..., None, :], deviation[..., None, :]
    endless = cells.lower == -torch.inf
    high = log_expected_improvement(mean, deviation, cells.upper)
    low = log_expected_improvement(mean, deviation, torch.where(endless, cells.upper, cells.lower))
    # log(EI(u) - EI(l)) = log EI(u) + log(1 - EI(l) / EI(u)): nothing is subtracted that has underflown.
    share = torch.log(-torch.expm1(-(high - low).clamp_min(_TINY)))
    sides = high + torch.where(endless, 0.0, share)
    void = (cells.lower >= cells.upper).any(-1)
    return sides.sum(-1).masked_fill(void, -torch.inf).logsumexp(-1)


def log_noisy_expected_hypervolume_improvement(objectives: Sequence[Fantasies], cells: Cells, x: Tensor) -> Tensor:
    """log NEHVI (q,) at x (q, d): log EHVI averaged over s samples of what is not known (Daulton et al., NeurIPS 2021).

    `objectives`: m processes, each with s samples at the same points: the best observed, and all that are pending. `cells`
    (s, c, m): of the fronts that those make, `cells(torch.stack([one.values for one in objectives], -1), reference)`. A batch is chosen
    one by one, each joining the pending. Differentiable in x. Raises ValueError where the numbers of objectives or samples differ.
    """
    s, m = cells.lower.shape[0], cells.lower.shape[-1]
    if cells.lower.ndim != 3 or len(objectives) != m or any(len(one.best) != s for one in objectives):
        raise ValueError(
            f"m objectives of s samples and cells (s, c, m) are needed, but got {len(objectives)} of "
            f"{[len(one.best) for one in objectives]} samples and cells {tuple(cells.lower.shape)}; make the cells of their values"
        )
    means, variances = zip(*(moments(one, x) for one in objectives))
    mean, spread = torch.stack(means, -1), deviation(torch.stack(variances, -1))        # (s, q, m), (q, m)
    each = log_expected_hypervolume_improvement(mean, spread, Cells(cells.lower[:, None], cells.upper[:, None]))
    return each.logsumexp(0) - math.log(s)


def hypervolume_improvement(values: Tensor, cells: Cells) -> Tensor:
    """By how much q values together (..., q, m) enlarge the hypervolume: (...). Differentiable.

    Averaged over joint samples of the objectives it is qEHVI (Daulton, Balandat and Bakshy, NeurIPS 2020), which needs no
    independence. What they dominate together is counted by inclusion and exclusion, so q is at most MOST_TOGETHER: ValueError.
    For more, go one by one, each with the `cells` of a front that holds the ones before it.
    """
    q = values.shape[-2]
    if not 1 <= q <= MOST_TOGETHER:
        raise ValueError(
            f"1 <= q <= {MOST_TOGETHER} must hold for values (..., q, m), but got q={q}: their overlaps are 2**q subsets. "
            "Go one by one, with cells of a front that holds the ones before."
        )
    total = values.new_zeros(())
    for size in range(1, q + 1):
        subsets = torch.tensor(list(combinations(range(q), size)), device=values.device)
        corner = values[..., subsets, :].amax(-2)[..., None, :]                         # (..., subsets, 1, m)
        lower, upper = cells.lower[..., None, :, :], cells.upper[..., None, :, :]       # (..., 1, c, m)
        shared = (upper - torch.maximum(corner, lower)).clamp_min(0).prod(-1).sum((-2, -1))
        total = total - (-1) ** size * shared
    return total


# Boxes --------------------------------------------------------------------------------------------------------------------


def _strips(front: Tensor, reference: Tensor) -> Cells:
    """Two objectives: between neighbours in the first, all below the least second value so far. Batched."""
    first, order = front[..., 0].sort(-1)
    least = front[..., 1].gather(-1, order).cummin(-1).values if front.shape[-2] else front[..., 1]
    end = first.new_ones(*first.shape[:-1], 1)
    left = torch.cat([-torch.inf * end, first], -1)
    right = torch.cat([first, reference[0] * end], -1)
    top = torch.cat([reference[1] * end, least], -1)
    return Cells(torch.stack([left, torch.full_like(left, -torch.inf)], -1), torch.stack([right, top], -1))


def _between(front: Tensor, reference: Tensor) -> Cells:
    """All below a local upper bound of the front (n, m): the space that those bounds dominate in turn, seen from the other side."""
    bounds, _ = _bounds(front, reference)
    beyond = torch.full_like(reference, torch.inf)
    lower, upper = _dominated(-bounds, beyond)
    return Cells(-upper, -lower)


def _dominated(points: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Disjoint boxes (c, m) of all that some point (n, m) dominates, up to the reference: one for each bound (Lacour et al., eq. 2)."""
    bounds, defining = _bounds(points, reference)
    m = points.shape[-1]
    lower = torch.stack([defining[:, 0, 0], *(defining[:, :j, j].amax(1) for j in range(1, m))], -1)
    upper = torch.cat([reference[:1].expand(len(bounds), 1), bounds[:, 1:]], -1)
    real = (lower < upper).all(-1)
    return lower[real], upper[real]


def _bounds(points: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The local upper bounds u (k, m): no point (n, m) is below one, and everything that no point dominates is below one of them.

    And the points that define each, (k, m, m): row j has u_j as its value j, and is below u in all others (Lacour et al., alg. 1).
    """
    own = torch.eye(len(reference), dtype=torch.bool, device=points.device)
    bounds = reference[None]
    defining = torch.where(own, reference, -torch.inf)[None]
    for point in points:
        hit = (point < bounds).all(-1)
        u, z = bounds[hit], defining[hit]
        others = z.masked_fill(own, -torch.inf).amax(-2)        # in each objective j, of all rows but j
        row, j = (point >= others).nonzero(as_tuple=True)
        bounds = torch.cat([bounds[~hit], torch.where(own[j], point, u[row])])
        defining = torch.cat([defining[~hit], torch.where(own[j][..., None], point, z[row])])
    return bounds, defining


def _refuse(front: Tensor, reference: Tensor) -> None:
    if front.dtype != torch.float64 or reference.dtype != torch.float64:
        raise ValueError(f"front and reference must be float64, but are {front.dtype} and {reference.dtype}; use .double()")
    if front.ndim < 2 or reference.ndim != 1 or front.shape[-1] != len(reference) or len(reference) < 2:
        raise ValueError(
            f"front must be (..., n, m) and reference (m,) with m >= 2 objectives, but are {tuple(front.shape)} and "
            f"{tuple(reference.shape)}; one objective has expected improvement"
        )
    if not (front.isfinite().all() and reference.isfinite().all()):
        raise ValueError("front and reference must be finite, but are not; leave failed trials out")

"""Outcomes on a scale that a Gaussian process can fit: no single value bends the others, and none is lost.

Laws, each a test: all is monotone; the unit of a metric does not matter; y has mean 0 and variance 1, or is all 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 1e150                 # what is beyond could overflow
_WORST, _BEST = 3.0, 10.0       # where taming bends, in spreads of the better half
_ROUNDING = 1e-14


def tamed(values: Tensor) -> Tensor:
    """Values (..., n), smaller is better, so squeezed that none is far from the others: monotone, mean 0, variance 1 (or all 0).

    `squeezed` of u, the distance from the median in spreads of the better half (median to quartile): nearly u for all but what is much
    worse or absurdly good.
    """
    values = values.clamp(-LARGEST, LARGEST)
    cuts = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=values.dtype)
    least, low, middle, high, most = torch.quantile(values, cuts, dim=-1, keepdim=True, interpolation="lower")
    spread = torch.ones_like(middle)
    for width in (most - middle, high - middle, middle - least, middle - low):      # the last positive one counts
        spread = torch.where(width > 0, width, spread)
    return standardized(squeezed((values - middle) / spread))


def standardized(y: Tensor) -> Tensor:
    """(..., n) with mean 0 and variance 1, or all 0."""
    size = y.abs().amax(-1, keepdim=True)
    y = y - y.mean(-1, keepdim=True)
    deviation = y.square().mean(-1, keepdim=True).sqrt()
    differ = deviation > _ROUNDING * size       # equals differ from their mean by rounding
    return torch.where(differ, y / torch.where(differ, deviation, 1.0), 0.0)


def squeezed(u: Tensor) -> Tensor:
    """u / (1 + u / 3) of what is worse than 0, which never exceeds 3; 10 asinh(u / 10) of what is better. Slope 1 at 0."""
    worse = 1 / (1 / u.clamp_min(1e-300) + 1 / _WORST)
    return torch.where(u > 0, worse, _BEST * torch.asinh(u / _BEST))


def scalarized(values: Tensor, weights: Tensor) -> Tensor:
    """Several objectives (m, n) as one for each of k weights (k, m): (k, n), smaller is better, tamed.

    The augmented Chebyshev function, max_j w_j z_j + 0.05 sum_j w_j z_j of values scaled to [0, 1] (J. Knowles, "ParEGO", IEEE Trans.
    Evol. Comput. 10 (2006), eq. 2): each point of the front, convex or not, is least under some weights.
    """
    z = tamed(values)
    z = z - z.amin(-1, keepdim=True)
    z = z / z.amax(-1, keepdim=True).clamp_min(1e-12)
    parts = weights[:, :, None] * z
    return tamed(parts.amax(1) + 0.05 * parts.sum(1))

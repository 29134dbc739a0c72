"""Several objectives as a process sees them: in units of the front, and the point from which hypervolume is measured.

    front       the trials that nobody dominates and, while those are fewer than 8, the fronts behind them
    nadir       the worst value on it in each objective, unless that is among the worst 5 % of all
    ideal       the best value on it, unless that is among the best 5 % of more than 20
    reference   nadir + 0.1 (nadir - ideal)

A tenth beyond the nadir, so that the ends of the front count, but not more than its middle (Ishibuchi et al., GECCO 2011).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..pareto import fronts
from .gp_history import squeezed

MOST = 3
"""So many objectives have a front whose hypervolume is expected exactly; more are scalarized."""

_FEWEST = 8
_SHARE = 0.95
_BEYOND = 0.1
_LARGEST = 1e150


def in_units_of_the_front(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values (m, n), n >= 1, as a process sees them, (m, n), and the reference point (m,). Smaller is better; in both.

    Each objective is `squeezed` in units of nadir - ideal from the reference on: linear to 2 parts in a thousand where hypervolume is
    measured, tamed beyond; then mean 0, variance 1.
    """
    values = values.clamp(-_LARGEST, _LARGEST)
    share = torch.tensor([1 - _SHARE, _SHARE], dtype=values.dtype)
    front = values[:, _front(values)]
    high = torch.quantile(values, share[1], dim=-1, interpolation="higher")
    low = torch.quantile(values, share[0], dim=-1, interpolation="lower")
    nadir = torch.minimum(front.amax(-1), high)
    ideal = torch.minimum(torch.maximum(front.amin(-1), low), nadir)
    extent = torch.where(nadir > ideal, nadir - ideal, 1.0)
    y = squeezed((values - (nadir + _BEYOND * extent)[:, None]) / ((1 + _BEYOND) * extent)[:, None])
    mean = y.mean(-1, keepdim=True)
    deviation = (y - mean).square().mean(-1, keepdim=True).sqrt()
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return (y - mean) / deviation, -(mean / deviation)[:, 0]


def _front(values: Tensor) -> list[int]:
    found: list[int] = []
    for front in fronts([tuple(row) for row in values.T.tolist()]):
        found += front
        if len(found) >= _FEWEST:
            break
    return found

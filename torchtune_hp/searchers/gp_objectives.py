"""Several objectives as processes see them: in units of their front, and the points from which hypervolume is measured.

    usual       the observations that violate no constraint and are in no objective beyond the fence: the upper quartile of those that
                violate none, and 10 interquartile ranges on (a range of 0 makes no fence). What is below is made of the usual ones
    front       those that nothing dominates and, while those are fewer than 8, the fronts behind them
    ideal       the best value on it in each objective
    limit       where the worst 5 % of all values begin, and a tenth of the way from ideal beyond
    nadir       the worst value on the front, at most limit: no further, however absurd
    near, far   nadir + (nadir - ideal) / 10, nadir + (nadir - ideal) / 2, each at most limit

Points take turns between the two reference points. A tenth of the extent beyond the nadir is what a finished front is measured by
(`pareto.reference_point`), but a search that knows no other never leaves the part of the front that it found first, for the ends of
what it does not know yet are worse in one objective: one run on ZDT1 stayed below f1 = 0.27 up to evaluation 39. Behind a far one,
strips at the ends are worth so much that corners are tried for them alone: one run on DTLZ2 had 1 % of the front after 50 evaluations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..objective import VIOLATED
from ..pareto import fronts
from .gp_values import LARGEST, squeezed

MOST = 3
"""So many objectives have a front whose hypervolume is improved; more are scalarized."""

_FEWEST = 8         # observations that the front is judged by
_BEYOND = (0.1, 0.5)
_SHARE, _BEHIND = 0.95, 0.1
_FENCE = 10.0       # interquartile ranges; the share alone cuts nothing off 20 values or fewer


def in_units_of_the_front(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values (m, n), n >= 1, as m processes see them, (m, n), and the reference points (2, m). All float64; smaller is better.

    Each objective is `squeezed`, in units of ideal to far reference, from there on: between the two it is linear to half a percent,
    so that hypervolume is what it is; what is worse is tamed. Then mean 0, variance 1 (or all 0).
    """
    values = values.clamp(-LARGEST, LARGEST)
    usual = values[:, _usual(values)]
    front = usual[:, _front(usual)]
    ideal, most = front.amin(-1), usual.amax(-1)
    bad = torch.quantile(usual, _SHARE, dim=-1, interpolation="higher")
    bad = torch.where(bad > ideal, bad, most)
    limit = bad + _BEHIND * torch.where(most > ideal, bad - ideal, torch.where(ideal == 0, 1.0, ideal.abs()))
    nadir = torch.minimum(front.amax(-1), limit)
    beyond = values.new_tensor(_BEYOND)[:, None]
    references = torch.where(nadir > ideal, torch.minimum(nadir + beyond * (nadir - ideal), limit), limit)
    extent = references[-1] - ideal

    def seen(values: Tensor) -> Tensor:
        return squeezed((values - references[-1][:, None]) / extent[:, None])

    y, there = seen(values), seen(references.T)
    mean = y.mean(-1, keepdim=True)
    deviation = (y - mean).square().mean(-1, keepdim=True).sqrt()
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return (y - mean) / deviation, ((there - mean) / deviation).T


def _usual(values: Tensor) -> Tensor:
    """(n,) bool, never all False: where every observation violates a constraint, all are usual."""
    legal = (values < VIOLATED).all(0)
    if not legal.any():
        return torch.ones_like(legal)
    low, high = (_quantile(values[:, legal], share, rounded) for share, rounded in ((0.25, "lower"), (0.75, "higher")))
    fence = torch.where(high > low, high + _FENCE * (high - low), torch.inf)
    return legal & (values <= fence).all(0)     # each objective leaves out less than a quarter, so three leave some


def _quantile(values: Tensor, share: float, rounded: str) -> Tensor:
    return torch.quantile(values, share, dim=-1, keepdim=True, interpolation=rounded)


def _front(values: Tensor) -> list[int]:
    found: list[int] = []
    for front in fronts([tuple(row) for row in values.T.tolist()]):
        found += front
        if len(found) >= _FEWEST:
            break
    return found

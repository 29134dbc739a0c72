"""What was told, as observations of a Gaussian process: which looks count, what they are worth, and when to fit.

Laws:
1. All of this is a function of the reports told and of their order; how they were cut into calls of `tell` does not matter.
2. A look is worth the best its trial reported up to there: that is what a study keeps. Only finite values are observations.
3. Of a trial's looks those at steps 1, 4, 16, 64, ... are kept, and its newest: few rows, evenly spread on the scale on which
   curves bend. The newest takes the place of the one before it.
4. A trial that ended by itself is fully trained, t = 1, whatever its step. Else t is the step over `max_t` or, where that is not known,
   over the largest step that was told.
5. Milestones are numbers of rows: 2, 4, ..., 64, then an eighth more each time. Training sets are remembered as they were there.
6. No training set is larger than `exact`: beyond, it is the best quarter, the newest quarter, and the rest evenly spread over the study.
7. A trial failed if it was told so or scored +inf; its finite looks stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..trial import Report

_APART = 4                      # the ratio of steps whose looks are kept
_DENSE = 64                     # up to here milestones double, then grow by an eighth
_LARGEST = 1e150                # what is beyond could overflow
_WORST, _BEST = 3.0, 10.0       # where taming bends, in spreads of the better half


class Row(NamedTuple):
    """One look at one trial: `x` of the unit cube, whether the trial `ended` there, and the best `values` until then."""

    x: tuple[float, ...]
    step: int
    ended: bool
    values: tuple[float, ...]


class History:
    """What was told. `tried`: where each trial lies, in the order first heard of; `failed`: the trials that did."""

    def __init__(self, max_t: int | None, exact: int) -> None:
        self.tried: dict[int, tuple[float, ...]] = {}
        self.failed: set[int] = set()
        self.rows: list[Row] = []
        self.milestones: list[list[Row]] = []
        """The training set at each milestone, in order; the fits that are due."""
        self._max_t, self._exact = max_t, exact
        self._next = 2
        self._newest: dict[int, int] = {}       # trial -> the row of its newest look

    @property
    def cut(self) -> bool:
        """Whether there are more rows than one training set has."""
        return len(self.rows) > self._exact

    def tell(self, reports: Sequence[Report]) -> None:
        for report in reports:
            self.tried.setdefault(report.trial, report.x)
            if report.failed or not all(map(math.isfinite, report.values)):
                self.failed.add(report.trial)
            else:
                self._look(report)

    def training_set(self) -> list[Row]:
        """The rows that are conditioned on now."""
        return chosen(self.rows, self._exact)

    def points(self, rows: Sequence[Row]) -> Tensor:
        """(n, d + 1) float64: x and t of each row."""
        horizon = self._max_t or max((row.step for row in rows), default=1)
        return torch.tensor([(*row.x, 1.0 if row.ended else min(1.0, max(row.step, 1) / horizon)) for row in rows], dtype=torch.float64)

    def _look(self, report: Report) -> None:
        place = self._newest.get(report.trial)
        before = None if place is None else self.rows[place]
        values = report.values if before is None else tuple(map(min, before.values, report.values))
        row = Row(report.x, report.step, report.done, values)
        if place is not None and before is not None and (before.step == report.step or not _kept(before.step)):
            self.rows[place] = row
            return
        self._newest[report.trial] = len(self.rows)
        self.rows.append(row)
        if len(self.rows) == self._next:
            self.milestones.append(self.training_set())
            self._next += self._next if self._next < _DENSE else self._next // 8


def _kept(step: int) -> bool:
    while step > 1 and step % _APART == 0:
        step //= _APART
    return step <= 1


def chosen(rows: Sequence[Row], most: int) -> list[Row]:
    """All rows or, if there are more than `most`, so many of them, in their order (law 6)."""
    n = len(rows)
    if n <= most:
        return list(rows)
    quarter = most // 4
    value = tamed(torch.tensor([row.values for row in rows], dtype=torch.float64).T).sum(0)
    value[n - quarter :] = math.inf         # the newest are in already
    best = value.argsort(stable=True)[:quarter].tolist()
    taken = {*best, *range(n - quarter, n)}
    rest = [k for k in range(n) if k not in taken]
    missing = most - len(taken)
    return [rows[k] for k in sorted([*taken, *(rest[j * len(rest) // missing] for j in range(missing))])]


def tamed(values: Tensor) -> Tensor:
    """Values (..., n), smaller is better, so squeezed that none is far from the others: monotone, mean 0, variance 1 (or all 0).

    With u the distance from the median in spreads of the better half (median to quartile): a worse value becomes u / (1 + u / 3), which
    never exceeds 3; a better one 10 asinh(u / 10), nearly u for all but the absurd. Both have slope 1 at the median.
    """
    values = values.clamp(-_LARGEST, _LARGEST)
    cuts = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=values.dtype)
    least, low, middle, high, most = torch.quantile(values, cuts, dim=-1, keepdim=True, interpolation="lower")
    spread = torch.ones_like(middle)
    for width in (most - middle, high - middle, middle - least, middle - low):      # the last positive one counts
        spread = torch.where(width > 0, width, spread)
    u = (values - middle) / spread
    worse = 1 / (1 / u.clamp_min(1e-300) + 1 / _WORST)
    y = torch.where(u > 0, worse, _BEST * torch.asinh(u / _BEST))
    y = y - y.mean(-1, keepdim=True)
    deviation = y.square().mean(-1, keepdim=True).sqrt()
    return y / torch.where(deviation > 0, deviation, 1.0)


def scalarized(values: Tensor, weights: Tensor) -> Tensor:
    """Several objectives (m, n) as one for each of k weights (k, m): (k, n), smaller is better, tamed.

    The augmented Chebyshev function, max_j w_j z_j + 0.05 sum_j w_j z_j of values scaled to [0, 1] (J. Knowles, "ParEGO", IEEE Trans.
    Evol. Comput. 10 (2006), eq. 2): each point of the front, convex or not, is least under some weights.
    """
    z = tamed(values)
    if len(z) == 1:
        return z.expand(len(weights), -1)
    z = z - z.amin(-1, keepdim=True)
    z = z / z.amax(-1, keepdim=True).clamp_min(1e-12)
    parts = weights[:, :, None] * z
    return tamed(parts.amax(1) + 0.05 * parts.sum(1))

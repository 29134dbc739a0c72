"""How good each trial is, on one scale, where trials were trained to different lengths.

A loss after 3 steps and one after 50 cannot be told to one process as they are: the later one is smaller whatever the point, and where
training was stopped early, which points have a later one is no accident. What a study does compare, it compares after the same
steps; so does this.

Laws:
1. Two trials are compared at the longest training that both have, by the best each reported up to there. A trial that ended by itself,
   or stands at `max_t`, is fully trained: its best stands for whatever would come. Where `max_t` is not known, so does one at the
   largest step that was told.
2. All are ordered by the shortest training that any trial stands at; then those that went on are ordered anew, among the places that
   they hold, by the next longer one, and so on. So a trial that was stopped keeps its place below those it was stopped for.
3. As long as at least half of the trials are fully trained, they keep their values, tamed, and the others lie between them by their
   places. Otherwise places are all there is: y is the normal score of a trial's place (equals share one).
4. All is a function of what was told; y has mean 0 and variance 1, or is all 0. Smaller is better.

Normal scores of ranks where values of several scales meet: Salinas, Shen and Perrone, "A quantile-based approach for hyperparameter
transfer learning", ICML 2020, section 4.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..trial import Report
from .gp_values import standardized, tamed

_LENGTHS = 32       # at which trials are compared, at most: of more, so many are spread over them


class Curve(NamedTuple):
    """One trial: `x` of the unit cube, and the `steps` at which it became better, to `best`; `newest`: where it stands."""

    x: tuple[float, ...]
    steps: list[int]
    best: list[float]
    newest: int
    ended: bool

    def at(self, step: float) -> float:
        """The best until then, from its first look on."""
        return self.best[max(0, bisect_right(self.steps, step) - 1)]


class Standings:
    """The trials of one objective, in the order in which they had their first finite look."""

    def __init__(self, max_t: int | None) -> None:
        self._max_t = max_t
        self._curves: dict[int, Curve] = {}
        self._known: list[float] | None = None      # y of them all

    def __len__(self) -> int:
        return len(self._curves)

    def tell(self, report: Report) -> None:
        """A look with a finite value."""
        (value,) = report.values
        before = self._curves.get(report.trial, Curve(report.x, [], [], 0, False))
        curve = before._replace(newest=report.step, ended=report.done)
        if not curve.best or value < curve.best[-1]:
            curve.steps.append(report.step)
            curve.best.append(value)
        self._curves[report.trial] = curve
        self._known = None

    def rows(self) -> list[tuple[tuple[float, ...], float]]:
        """x and y of each trial."""
        if self._known is None:
            self._known = standings(list(self._curves.values()), self._max_t).tolist()
        return [(curve.x, y) for curve, y in zip(self._curves.values(), self._known)]


def standings(curves: Sequence[Curve], max_t: int | None) -> Tensor:
    """(n,) float64."""
    if not curves:
        return torch.zeros(0, dtype=torch.float64)
    full = max_t or max(curve.newest for curve in curves)
    trained = torch.tensor([math.inf if curve.ended or curve.newest >= full else float(curve.newest) for curve in curves])
    order = _ordered(curves, trained)
    ends = trained.isinf()
    if 2 * int(ends.sum()) >= len(curves):
        return _between(torch.tensor([curve.best[-1] for curve in curves], dtype=torch.float64), ends, order)
    return _scores([(float(trained[k]), curves[k].best[-1]) for k in order.tolist()], order)


def _ordered(curves: Sequence[Curve], trained: Tensor) -> Tensor:
    """Trials (n,) int64, the best first (law 2)."""
    lengths = torch.unique(trained)
    if len(lengths) > _LENGTHS:
        lengths = lengths[torch.linspace(0, len(lengths) - 1, _LENGTHS).round().long()]
    order = torch.arange(len(curves))
    for length in lengths.tolist():
        places = (trained[order] >= length).nonzero()[:, 0]
        going = order[places]
        values = torch.tensor([curves[k].at(length) for k in going.tolist()], dtype=torch.float64)
        order[places] = going[values.argsort(stable=True)]
    return order


def _between(values: Tensor, ends: Tensor, order: Tensor) -> Tensor:
    """y (n,): of those that `ends` names, tamed; of each other, halfway between its neighbors among them."""
    y = torch.zeros_like(values)
    y[ends] = tamed(values[ends])
    fixed = ends[order]
    last = fixed.cumsum(0)          # how many of them come before each place, or are there
    anchors = y[order[fixed]]
    better, worse = anchors[(last - 1).clamp_min(0)], anchors[last.clamp_max(len(anchors) - 1)]
    y[order] = torch.where(fixed, y[order], (better + worse) / 2)
    return standardized(y)


def _scores(keys: Sequence[tuple[float, float]], order: Tensor) -> Tensor:
    """y (n,): the normal score of each place; neighbors of one key, (length, value), share the mean of theirs."""
    n = len(order)
    score = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    group = torch.tensor([0, *(a != b for a, b in zip(keys, keys[1:]))]).cumsum(0)
    total = torch.zeros(n, dtype=torch.float64).index_add_(0, group, score)
    count = torch.zeros(n, dtype=torch.float64).index_add_(0, group, torch.ones_like(score))
    y = torch.empty_like(score)
    y[order] = (total / count.clamp_min(1))[group]
    return standardized(y)

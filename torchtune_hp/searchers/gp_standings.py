"""How good each trial is, on one scale, where trials were trained to different lengths.

A loss after 3 steps and one after 50 cannot be told to one process as they are: the later one is smaller whatever the point, and where
training was stopped early, which points have a later one is no accident. What a study does compare, it compares after the same
steps; so does this.

Laws:
1. All trials are ordered by the best each reported up to the shortest training that any trial stands at; then those that went on are
   ordered anew, among the places that they hold, by the next longer one, and so on: two that went on are compared at the longest
   training that both have, and one that was stopped keeps its place. A trial first seen at a longer training joins there: between two
   that it lies between, evenly among those whose places are between theirs.
2. A trial that ended by itself, or stands at `max_t`, is fully trained: its best stands for whatever would come. Where `max_t` is not
   known, so does one at the largest step that was told.
3. A trial that failed, or whose last value was NaN or infinite, is the worst of those that were trained as far.
4. As long as at least half of those that did not fail, and at least one, are fully trained, they keep their values, tamed, the others lie
   between them by their places, and one that never had a finite value has none. Otherwise places are all there is: y is the normal score
   of a trial's place, and equals that were trained as far share one.
5. All is a function of what was told; y has mean 0 and variance 1, or is all 0. Smaller is better.

Normal scores of ranks where values of several scales meet: Salinas, Shen and Perrone, "A quantile-based approach for hyperparameter
transfer learning", ICML 2020.
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
    """One trial: `x` of the unit cube; the `steps` at which it became better, to `best`; seen from `first` to `newest`."""

    x: tuple[float, ...]
    steps: list[int]
    best: list[float]
    first: int
    newest: int
    ended: bool = False
    failed: bool = False

    def at(self, step: float) -> float:
        """The best until then."""
        if not self.best or (self.failed and step >= self.newest):
            return math.inf
        return self.best[max(0, bisect_right(self.steps, step) - 1)]


class Standings:
    """The trials of one objective, in the order in which they were first looked at."""

    def __init__(self, max_t: int | None) -> None:
        self._max_t = max_t
        self._curves: dict[int, Curve] = {}
        self._finite = 0
        self._known: list[tuple[tuple[float, ...], float]] | None = None

    def __len__(self) -> int:
        """How many have had a finite value."""
        return self._finite

    @property
    def placed(self) -> bool:
        """Whether y is of places, not of values (law 4)."""
        curves = list(self._curves.values())
        return not _valued(curves, _ends(curves, self._max_t))

    def tell(self, report: Report) -> None:
        (value,) = report.values
        finite = math.isfinite(value) and not report.failed
        before = self._curves.get(report.trial) or Curve(report.x, [], [], report.step, report.step)
        self._finite += finite and not before.best
        if finite and (not before.best or value < before.best[-1]):
            before.steps.append(report.step)
            before.best.append(value)
        self._curves[report.trial] = before._replace(newest=report.step, ended=report.done, failed=not finite)
        self._known = None

    def rows(self) -> list[tuple[tuple[float, ...], float]]:
        """x and y of each trial that has one."""
        if self._known is None:
            curves = list(self._curves.values())
            self._known = [(curves[k].x, y) for k, y in zip(*standings(curves, self._max_t))]
        return self._known


def standings(curves: Sequence[Curve], max_t: int | None) -> tuple[list[int], list[float]]:
    """Which curves have a y, in their order, and y."""
    some = [k for k, curve in enumerate(curves) if curve.best]
    if not some:
        return [], []
    ends = _ends(curves, max_t)
    valued = _valued(curves, ends)
    known = some if valued else list(range(len(curves)))
    curves, fixed = [curves[k] for k in known], torch.tensor([ends[k] for k in known])
    if fixed.all():      # values are all there is to it: nobody lies between others
        return known, standardized(tamed(torch.tensor([curve.best[-1] for curve in curves], dtype=torch.float64))).tolist()
    least = min(curve.first for curve in curves if curve.best)      # who failed before is compared there
    trained = torch.tensor([math.inf if end else max(curve.newest, least) for curve, end in zip(curves, fixed)], dtype=torch.float64)
    order = _ordered(curves, trained)
    if valued:
        y = _between(torch.tensor([curve.best[-1] for curve in curves], dtype=torch.float64), fixed, order)
    else:
        y = _scores([(float(trained[k]), curves[k].at(math.inf)) for k in order.tolist()], order)
    return known, y.tolist()


def _ends(curves: Sequence[Curve], max_t: int | None) -> list[bool]:
    """Who is fully trained (law 2)."""
    full = max_t or max((curve.newest for curve in curves if curve.best), default=1)
    return [not curve.failed and (curve.ended or curve.newest >= full) for curve in curves]


def _valued(curves: Sequence[Curve], ends: Sequence[bool]) -> bool:
    """Law 4."""
    return any(ends) and 2 * sum(ends) >= sum(not curve.failed for curve in curves)


def _ordered(curves: Sequence[Curve], trained: Tensor) -> Tensor:
    """Trials (n,) int64, the best first (law 1). Of equals those that went on come first, so that the others are neighbors."""
    lengths = torch.unique(trained)
    if len(lengths) > _LENGTHS:
        lengths = lengths[torch.linspace(0, len(lengths) - 1, _LENGTHS).round().long()]
    first = torch.tensor([curve.first for curve in curves], dtype=torch.float64).minimum(trained)
    order = torch.arange(0)
    for length in lengths.tolist():
        new = (first <= length).nonzero()[:, 0]
        new = new[~torch.isin(new, order)]
        places = (trained[order] >= length).nonzero()[:, 0]
        going = torch.cat([order[places], new])
        going = going[trained[going].argsort(descending=True, stable=True)]
        going = going[torch.tensor([curves[k].at(length) for k in going.tolist()], dtype=torch.float64).argsort(stable=True)]
        joins = torch.isin(going, new)
        order[places] = going[~joins]
        if len(new):
            order = _joined(order, places, going, joins)
    return order


def _joined(order: Tensor, places: Tensor, going: Tensor, joins: Tensor) -> Tensor:
    """`order` with those of `going`, best first, that join: each between the `places` of its neighbors that are there."""
    before = (~joins).long().cumsum(0)[joins]       # how many that hold a place are better than each that joins
    edges = torch.cat([torch.tensor([-1.0]), places.double(), torch.tensor([float(len(order))])]).double()
    count = torch.bincount(before, minlength=len(places) + 1)
    rank = torch.arange(len(before)) - (count.cumsum(0) - count)[before]
    share = (rank + 1).double() / (count[before] + 1)
    at = edges[before] + share * (edges[before + 1] - edges[before])
    keys = torch.cat([torch.arange(len(order), dtype=torch.float64), at])
    return torch.cat([order, going[joins]])[keys.argsort(stable=True)]


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

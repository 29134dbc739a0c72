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
5. A trial that diverged (a value was NaN or infinite) is the worst of all that were trained as far. One that never had a finite value has
   a place where there are places, the last, but no value where there are values.

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
    newest: int = 0
    ended: bool = False
    diverged: bool = False

    def at(self, step: float) -> float:
        """The best until then, from its first look on."""
        if not self.best or (self.diverged and step >= self.newest):
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
    def size(self) -> int:
        """How many there are."""
        return len(self._curves)

    def tell(self, report: Report) -> None:
        """A look. Raises nothing for a value that is not finite: then the trial diverged."""
        (value,) = report.values
        finite = math.isfinite(value)
        before = self._curves.get(report.trial, Curve(report.x, [], []))
        curve = before._replace(newest=report.step, ended=report.done, diverged=before.diverged or not finite)
        self._finite += finite and not curve.best
        if finite and (not curve.best or value < curve.best[-1]):
            curve.steps.append(report.step)
            curve.best.append(value)
        self._curves[report.trial] = curve
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
    full = max_t or max(curves[k].newest for k in some)
    ends = [not curve.diverged and (curve.ended or curve.newest >= full) for curve in curves]
    valued = 2 * sum(ends) >= len(curves)
    known = some if valued else list(range(len(curves)))
    curves, fixed = [curves[k] for k in known], torch.tensor([ends[k] for k in known])
    trained = torch.tensor([math.inf if end else float(curve.newest) for curve, end in zip(curves, fixed)], dtype=torch.float64)
    order = _ordered(curves, trained)
    if valued:
        y = _between(torch.tensor([curve.best[-1] for curve in curves], dtype=torch.float64), fixed, order)
    else:
        y = _scores([(float(trained[k]), curves[k].at(math.inf)) for k in order.tolist()], order)
    return known, y.tolist()


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

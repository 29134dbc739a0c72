"""The ranking at one level where there are several objectives: front by front (Schmucker et al., "Multi-objective asynchronous
successive halving", 2021; the order is that of `pareto.ranked`).

A rank is relative to all who came to the level, so unlike a score it changes when others come. It may even improve: a newcomer may
dominate everybody ahead of a trial but not the trial itself. What only grows is how many dominate it.
"""

from __future__ import annotations

import math
from fractions import Fraction
from operator import itemgetter

from ..pareto import Values, dominates, ranked, spread
from ..trial import Report
from .rungs import score


def values_of(report: Report) -> Values:
    """What a trial is ranked by: all its values. A failure, or one bad value, makes all of them +inf: the worst, never the best."""
    return report.values if score(report) < math.inf else (math.inf,) * len(report.values)


def by_rank(came: list[tuple[Values, int]]) -> list[int]:
    """The trials of all that came, as (values, trial), best first; ties go to the smaller trial id. One objective is plainly sorted."""
    if not came or len(came[0][0]) == 1:
        return [trial for _, trial in sorted(came)]
    came = sorted(came, key=itemgetter(1))
    return [came[i][1] for i in ranked([values for values, _ in came])]


class FrontRung:
    """A `Rung` of several objectives: who came to one level, and the best floor(n / eta) of the n recorded, at least `least`.

    Worst values count in n and are never in the share. Ties go to the smaller trial id. A newcomer is compared with all, O(n); the
    fronts are kept up with it (incremental non-dominated sort: Li et al., IEEE Trans. Cybernetics 47 (2017)), and only those that
    changed are ordered anew.
    """

    key = staticmethod(values_of)
    worst = (math.inf,)

    def __init__(self, eta: Fraction, least: int = 0) -> None:
        self.n = 0
        """How many trials were recorded, failed ones included."""
        self.heading = 0
        """How many trials are running towards this level: the owner keeps this number."""
        self.least = least
        self._eta = eta
        self._came: dict[int, Values] = {}
        self._ahead: dict[int, int] = {}        # how many of those dominate each
        self._rests: set[int] = set()
        self._fronts: list[set[int]] = []
        self._orders: list[list[int] | None] = []       # of each front, best first; None: it changed since
        self._share: list[int] | None = []      # best first; None: somebody came since

    @property
    def resting(self) -> int:
        """How many trials rest here."""
        return len(self._rests)

    def add(self, values: Values, trial: int, rests: bool) -> None:
        """Records a trial. `rests`: it stays here and may be promoted later."""
        self.n += 1
        self._share = None
        if not values < self.worst:
            return
        above = set()
        for other, theirs in self._came.items():
            if dominates(theirs, values):
                above.add(other)
            elif dominates(values, theirs):
                self._ahead[other] += 1
        self._ahead[trial] = len(above)
        self._came[trial] = values
        if rests:
            self._rests.add(trial)
        self._enter(trial, next((k for k, front in enumerate(self._fronts) if not front & above), len(self._fronts)))

    def shares(self, values: Values, trial: int) -> bool:
        """Whether a recorded trial is in the best share now."""
        return trial in self._best()

    def promotable(self) -> int | None:
        """The best trial of the share that rests here; None if there is none."""
        return next((trial for trial in self._best() if trial in self._rests), None)

    def leave(self, trial: int) -> None:
        """The trial rests here no longer."""
        self._rests.discard(trial)

    def hopeless(self, most: int) -> list[int]:
        """The trials that rest here in vain if at most `most` ever come; they leave.

        Who is dominated by as many as the share may ever hold is never promoted; if nobody comes any more, who is not in it.
        """
        if most == self.n:
            gone = self._rests.difference(self._best())
        else:
            keep = self._size(most)
            gone = {trial for trial in self._rests if self._ahead[trial] >= keep}
        self._rests -= gone
        return sorted(gone)

    def _enter(self, trial: int, k: int) -> None:
        """Puts a trial into front k. Whom it dominates there goes one front down, and so on."""
        coming = {trial}
        while coming:
            if k == len(self._fronts):
                self._fronts.append(set())
                self._orders.append(None)
            front = self._fronts[k]
            beaten = {other for other in front if any(dominates(self._came[one], self._came[other]) for one in coming)}
            front -= beaten
            front |= coming
            self._orders[k] = None
            coming, k = beaten, k + 1

    def _size(self, n: int) -> int:
        return max(self.least, int(n / self._eta))

    def _best(self) -> list[int]:
        if self._share is None:
            best: list[int] = []
            for k, front in enumerate(self._fronts):
                if len(best) >= self._size(self.n):
                    break
                best += self._orders[k] or self._order(k, sorted(front))
            self._share = best[: self._size(self.n)]
        return self._share

    def _order(self, k: int, front: list[int]) -> list[int]:
        order = self._orders[k] = [front[i] for i in spread([self._came[trial] for trial in front])]
        return order

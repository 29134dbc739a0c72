"""Which reports keep their weights: the best one of each of the k best trials, or the Pareto front of several objectives.

What is kept is the state of a trial as of a *report*, so it is saved when that report is made, not when the study ends.
"""

from __future__ import annotations

import math
from typing import Protocol

from .pareto import Values, dominates


class Keeper(Protocol):
    """`offer` is told of a report; it answers None (not kept) or the trials of which nothing is kept any more (itself never named).

    A report whose first value is not below `bar` need not be offered: it is neither kept nor the best so far.
    """

    @property
    def bar(self) -> float: ...

    def offer(self, trial: int, values: Values) -> tuple[int, ...] | None: ...


class BestFew:
    """The `k` trials with the best reports so far. An equal report does not displace an earlier one, and of equals the latest goes.

    >>> few = BestFew(2)
    >>> few.offer(0, (3.0,)), few.offer(1, (2.0,)), few.offer(2, (2.5,)), few.offer(3, (9.0,))
    ((), (), (0,), None)
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.bar = math.inf             # the worst kept; without any to be kept, the best
        self._kept: dict[int, float] = {}

    def offer(self, trial: int, values: Values) -> tuple[int, ...] | None:
        value = values[0]
        if not value < self.bar:
            return None
        if self.k == 0:
            self.bar = value
            return None
        out: tuple[int, ...] = ()
        if trial in self._kept:
            if not value < self._kept[trial]:
                return None
            del self._kept[trial]       # to the end: kept are in the order of their reports
        elif len(self._kept) == self.k:
            last = next(other for other in reversed(self._kept) if self._kept[other] == self.bar)
            del self._kept[last]
            out = (last,)
        self._kept[trial] = value
        if len(self._kept) == self.k:
            self.bar = max(self._kept.values())
        return out


class Front:
    """The reports that no other dominates; a trial may have several. An equal report displaces nothing and is not kept.

    >>> front = Front()
    >>> front.offer(0, (1.0, 5.0)), front.offer(0, (5.0, 1.0)), front.offer(1, (4.0, 0.5)), front.offer(2, (0.5, 0.5))
    ((), (), (), (0, 1))
    """

    bar = math.inf

    def __init__(self) -> None:
        self._front: dict[Values, int] = {}     # report -> its trial

    def offer(self, trial: int, values: Values) -> tuple[int, ...] | None:
        if any(dominates(other, values) or other == values for other in self._front):
            return None
        before = dict.fromkeys(self._front.values())
        self._front = {other: whose for other, whose in self._front.items() if not dominates(values, other)} | {values: trial}
        stay = set(self._front.values())
        return tuple(whose for whose in before if whose not in stay)

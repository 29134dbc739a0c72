"""Synchronous brackets, one after another: what SuccessiveHalving and Hyperband share.

A bracket starts n trials at its lowest rung, waits until all of them are there, trains the best of them to the next rung,
and so on (Li et al., "Hyperband", JMLR 2018, Algorithm 1, lines 4-9).

Where the paper is silent:
- A rung promotes floor(n / eta) of the n that came to it, but at least one, so that a bracket that shrank still brings its
  best trial to the top. Failed and NaN trials count among the n and are never promoted; a trial that ended by itself keeps its
  place and goes no further. Then fewer are promoted, and the bracket shrinks.
- Trials of several objectives are ranked front by front (`fronts.py`).
- A bracket shrinks to what can still be started: with `fresh` used up, its lowest rung is full when all it started are there.
- Slots that an older bracket leaves free go to the next one, so brackets overlap at their ends; the oldest is always served
  first, and trials are compared inside their own bracket only. On one slot the brackets follow one another strictly.
- No rung is judged where no slot is free: a study that was stopped by its clock and resumed goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import attrgetter

from ..pareto import Values
from ..trial import Decision, Drop, New, Report, Train
from .fronts import by_rank, values_of

_BY_TRIAL = attrgetter("trial")


@dataclass(frozen=True, slots=True)
class Plan:
    """A bracket before it begins: how many trials, and the steps of its rungs."""

    size: int
    ladder: tuple[int, ...]


class Brackets:
    """Runs the brackets of `plans` over and over, as long as there are fresh trials.

    Brackets are numbered from 0 as they begin, on through all rounds; a trial's tag is its bracket's number.
    """

    def __init__(self, plans: Sequence[Plan], eta: Fraction) -> None:
        self._plans = plans
        self._eta = eta
        self._next = 0
        self._open: dict[int, _Bracket] = {}
        self._asking: set[int] = set()      # open brackets that may want something: with many slots most of them only wait

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        drops: list[Decision] = []
        starts: list[Decision] = []
        for report in sorted(reports, key=_BY_TRIAL):
            self._open[report.tag].record(report, drops)
            self._asking.add(report.tag)
        if not free:
            return drops
        for number in sorted(self._asking):
            fresh -= self._serve(number, free, fresh, starts, drops)
        while fresh and len(starts) < free:
            self._open[self._next] = _Bracket(self._plans[self._next % len(self._plans)], self._next, self._eta)
            fresh -= self._serve(self._next, free, fresh, starts, drops)
            self._next += 1
        return drops + starts

    def _serve(self, number: int, free: int, fresh: int, starts: list[Decision], drops: list[Decision]) -> int:
        bracket = self._open[number]
        new = bracket.go_on(free, fresh, starts, drops)
        (self._asking.add if bracket.wants else self._asking.discard)(number)
        if bracket.over:
            del self._open[number]
        return new


class _Bracket:
    def __init__(self, plan: Plan, tag: int, eta: Fraction) -> None:
        self._ladder = plan.ladder
        self._tag = tag
        self._eta = eta
        self._rung = 0
        self._unborn = plan.size            # trials the lowest rung still waits to start
        self._chosen: deque[int] = deque()  # promoted, waiting for a slot; best first
        self._running = 0
        self._came = 0                      # recorded at this rung, with any score
        self._ranked: list[tuple[Values, int]] = []   # of those, the finite (values, trial)
        self._rests: set[int] = set()       # of those, the trials that can go on

    @property
    def over(self) -> bool:
        """Nothing of it runs or will."""
        return self._rung == len(self._ladder)

    @property
    def wants(self) -> bool:
        """It would start something if it could, or be judged if there were no fresh trials."""
        return bool(self._unborn or self._chosen)

    def record(self, report: Report, drops: list[Decision]) -> None:
        self._running -= 1
        self._came += 1
        values = values_of(report)
        if values[0] < math.inf:
            self._ranked.append((values, report.trial))
        if values[0] < math.inf and not report.done and self._rung < len(self._ladder) - 1:
            self._rests.add(report.trial)
        else:
            drops.append(Drop(report.trial))

    def go_on(self, free: int, fresh: int, starts: list[Decision], drops: list[Decision]) -> int:
        """Appends what it wants now, until `starts` holds `free`; returns how many of that are fresh trials."""
        new = min(free - len(starts), fresh, self._unborn)
        starts.extend([New(self._ladder[0], self._tag)] * new)
        self._unborn -= new
        self._running += new
        if not self._running and not self._chosen and not (self._unborn and fresh):
            self._judge(drops)
        while self._chosen and len(starts) < free:
            starts.append(Train(self._chosen.popleft(), self._ladder[self._rung]))
            self._running += 1
        return new

    def _judge(self, drops: list[Decision]) -> None:
        """The rung is full: its best go to the next rung, the others go."""
        self._unborn = 0
        best = by_rank(self._ranked)[: max(1, int(self._came / self._eta))]
        self._chosen.extend(trial for trial in best if trial in self._rests)
        drops.extend(Drop(trial) for trial in sorted(self._rests.difference(self._chosen)))
        self._rung = self._rung + 1 if self._chosen else len(self._ladder)
        self._came = 0
        self._ranked.clear()
        self._rests.clear()

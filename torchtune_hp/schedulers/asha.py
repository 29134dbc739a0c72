"""ASHA: asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020).

Trials are compared at a ladder of budgets, the rungs; of those that came to a rung, the best 1/eta go on to the next. Nothing
waits for a rung to be full: as soon as a slot is free, whoever deserves it by what is known now is promoted (Algorithm 2,
`get_job`), and if nobody does, a fresh trial starts at the bottom.

Two variants. *Promotion* is the paper's: a trial rests at its rung until it is among the best, perhaps much later; it needs
trials that can rest. *Stopping* judges a trial once, when it comes to a rung: it goes on at once or is dropped. It spends more
on early trials, which were compared with few others, and keeps no resting state.

Where the paper is silent:
- A failure or a NaN counts as placed, in last place, and is never promoted; a trial that ended by itself keeps its place too.
- Stopping: a trial goes on if it ranks among the best max(1, floor(n / eta)) of the n recorded at its rung, itself and all
  who came in the same call included. It waits if there is no free slot; who is furthest goes first, then who is best.
- Several objectives: trials are ranked front by front (`fronts.py`). Among those that wait for a slot, who is best in the first
  objective goes first.
- Brackets: bracket s starts at rung s. Promotions come before fresh trials, bracket 0 first; a fresh trial goes to the
  bracket that is furthest behind its part, where the parts are Hyperband's bracket sizes (ties to the lower bracket).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from heapq import heappop, heappush
from itertools import pairwise
from operator import attrgetter
from typing import Any, Literal

from ..parts import part
from ..trial import Decision, Drop, New, Report, Setting, Train
from .arguments import factor, is_whole, ordered, refuse, whole
from .fronts import FrontRung
from .rungs import Rung, exact, levels

_BY_TRIAL = attrgetter("trial")


@part
class ASHA:
    """Asynchronous successive halving, with Ray's parameter names.

    Args:
        max_t: steps a trial is trained at most.
        grace_period: steps a trial is trained at least, unless it fails: the lowest rung.
        reduction_factor: eta >= 1.01; one in eta goes on. A float is taken as the decimal it is written as, levels round down.
        brackets: how many brackets, each with one rung less than the one before.
        variant: "promotion" (resting trials wait for their turn), "stopping" (judged once), or "auto": promotion where
            trials can be saved.

    A resting trial is dropped once its rank is beyond floor(N / eta), where N is the number of trials that can come to its
    rung at most: those there, those under way, `fresh`, and those that may still be promoted from below. No decision depends
    on it, as long as `fresh` does not grow; when a study that was at its end is extended, who was dropped before still
    counts in its rung. Where no slot is free, nothing is dropped for its rank: a study that was stopped by its clock and
    resumed goes on with all it had.

    A trial's bracket is its tag, and its rung is the step it was granted, so nothing is kept for a running trial.
    """

    forks = False

    def __init__(
        self,
        max_t: int = 100,
        grace_period: int = 1,
        reduction_factor: float = 4,
        brackets: int = 1,
        variant: Literal["auto", "promotion", "stopping"] = "auto",
    ) -> None:
        problems = [
            whole("max_t", max_t),
            whole("grace_period", grace_period),
            ordered("grace_period", grace_period, "max_t", max_t),
            factor("reduction_factor", reduction_factor),
            whole("brackets", brackets),
        ]
        if not any(problems):
            problems.append(_too_many(brackets, levels(grace_period, max_t, exact(reduction_factor))))
        if variant not in ("auto", "promotion", "stopping"):
            problems.append(f'variant: must be "auto", "promotion" or "stopping", but got {variant!r}.')
        refuse(problems)
        self.max_t: int | None = max_t
        self.grace_period = grace_period
        self.reduction_factor = reduction_factor
        self.brackets = brackets
        self.variant = variant
        self._ladder = levels(grace_period, max_t, exact(reduction_factor))

    def begin(self, setting: Setting) -> None:
        eta, ladder = exact(self.reduction_factor), self._ladder
        promotes = self.variant == "promotion" or (self.variant == "auto" and setting.saves)
        kind = _Promotion if promotes else _Stopping
        rung = Rung if setting.objectives == 1 else FrontRung
        self._brackets: list[_Promotion | _Stopping] = [kind(ladder[s:], eta, s, rung) for s in range(self.brackets)]
        parts = [_part(s, len(ladder), eta) for s in range(self.brackets)]
        self._stride = [math.lcm(*parts) // part for part in parts]     # a large part, small strides
        self._begun = [0] * self.brackets

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        drops: list[Decision] = []
        starts: list[Decision] = []
        for report in sorted(reports, key=_BY_TRIAL):
            self._brackets[report.tag].record(report, drops)
        for bracket in self._brackets:
            bracket.go_on(free - len(starts), starts, drops)
        new = min(free - len(starts), fresh)
        self._begin(new, starts)
        if free:
            for bracket in self._brackets:
                bracket.tidy(fresh - new, drops)
        return drops + starts

    def _begin(self, n: int, starts: list[Decision]) -> None:
        if self.brackets == 1:
            self._brackets[0].begin(n, starts)
            return
        for _ in range(n):
            tag = min(range(self.brackets), key=lambda s: ((self._begun[s] + 1) * self._stride[s], s))
            self._begun[tag] += 1
            self._brackets[tag].begin(1, starts)


class _Promotion:
    """One bracket of Algorithm 2: trials rest at their rung until they are promoted, or cannot be any more."""

    def __init__(self, ladder: tuple[int, ...], eta: Fraction, tag: int, rung: type[Rung | FrontRung]) -> None:
        self._new = New(ladder[0], tag)
        self._end = ladder[-1]
        self._rungs = {level: rung(eta) for level in ladder}    # the last one, at max_t, only counts who is heading there
        self._lowest = self._rungs[ladder[0]]
        self._below = [self._rungs[level] for level in ladder[:-1]]
        self._steps = [(self._rungs[low], self._rungs[high], high) for low, high in pairwise(ladder)][::-1]     # top one first

    def record(self, report: Report, drops: list[Decision]) -> None:
        rung = self._rungs[report.step]
        rung.heading -= 1
        key: Any = rung.key(report)
        rests = key < rung.worst and not report.done and report.step < self._end
        if report.step < self._end:
            rung.add(key, report.trial, rests)
        if not rests:
            drops.append(Drop(report.trial))

    def go_on(self, free: int, starts: list[Decision], drops: list[Decision]) -> None:
        # Promoting from a rung makes nobody promotable above it, so one way down is enough.
        for rung, above, level in self._steps:
            while free > 0 and (trial := rung.promotable()) is not None:
                rung.leave(trial)
                above.heading += 1
                starts.append(Train(trial, level))
                free -= 1

    def begin(self, n: int, starts: list[Decision]) -> None:
        self._lowest.heading += n
        starts.extend([self._new] * n)

    def tidy(self, fresh: int, drops: list[Decision]) -> None:
        coming = fresh
        for rung in self._below:
            coming += rung.heading
            if gone := rung.hopeless(rung.n + coming):
                drops.extend(map(Drop, gone))
            coming += rung.resting      # with improving trials every one that rests may be promoted yet


class _Stopping:
    """One bracket in which a trial is judged once, on coming to a rung."""

    def __init__(self, ladder: tuple[int, ...], eta: Fraction, tag: int, rung: type[Rung | FrontRung]) -> None:
        self._new = New(ladder[0], tag)
        self._ladder = ladder
        self._rungs = [rung(eta, least=1) for _ in ladder[:-1]]
        self._at = {level: k for k, level in enumerate(ladder)}
        self._key, self._worst = rung.key, rung.worst
        self._came: list[tuple[int, Any, int]] = []         # recorded, to be judged when the whole call is recorded
        self._going: list[tuple[int, Any, int]] = []        # heap of (-rung, key, trial): judged, waiting for a slot

    def record(self, report: Report, drops: list[Decision]) -> None:
        k = self._at[report.step]
        key: Any = self._key(report)
        if report.step < self._ladder[-1]:
            self._rungs[k].add(key, report.trial, rests=False)
        if not key < self._worst or report.done or report.step == self._ladder[-1]:
            drops.append(Drop(report.trial))
        else:
            self._came.append((k, key, report.trial))

    def go_on(self, free: int, starts: list[Decision], drops: list[Decision]) -> None:
        for k, key, trial in self._came:
            if self._rungs[k].shares(key, trial):
                heappush(self._going, (-k, key, trial))
            else:
                drops.append(Drop(trial))
        self._came.clear()
        while free > 0 and self._going:
            k, _, trial = heappop(self._going)
            starts.append(Train(trial, self._ladder[1 - k]))
            free -= 1

    def begin(self, n: int, starts: list[Decision]) -> None:
        starts.extend([self._new] * n)

    def tidy(self, fresh: int, drops: list[Decision]) -> None:
        """Nobody rests here."""


def _too_many(brackets: int, ladder: tuple[int, ...]) -> str | None:
    if is_whole(brackets) and brackets > len(ladder):
        steps = ", ".join(map(str, ladder))
        return f"brackets: must be at most {len(ladder)}, one for each rung to begin at ({steps}), but got {brackets}."
    return None


def _part(s: int, rungs: int, eta: Fraction) -> int:
    """Hyperband's size of the bracket that leaves out s of so many rungs (Li et al., JMLR 2018, Algorithm 1, line 3)."""
    halvings = rungs - 1 - s
    return math.ceil(rungs * eta**halvings / (halvings + 1))

"""What was told, as observations of a Gaussian process: which looks count, what they are worth, and when to fit.

Laws:
1. All of this is a function of the reports told and of their order; how they were cut into calls of `tell` does not matter.
2. A look is worth the best its trial reported up to there: that is what a study keeps. Of several objectives it is worth what was
   reported there or, where what the trial was worth before dominates that, as much as before: a report, and no mixture of them. Only
   finite values are observations.
3. Of one objective each trial is one row, fully trained, worth its standing among all (`gp_standings`), where one that failed may have a
   place without a value. The order of all trials is found anew after each `tell`: 0.01 s for 1,000, 0.1 s for 10,000, and a third of it
   where all are fully trained.
4. Of several, a row is a look, for a front is of values: of a trial's looks those at steps 1, 4, 16, 64, ... are kept, and its newest: few
   rows, evenly spread on the scale on which curves bend. The newest takes the place of the one before it. A trial that ended by itself
   is fully trained, t = 1, whatever its step. Else t is the step over `max_t` or, where that is not known, over the largest told.
5. Milestones are numbers of rows that have a value: 2, 4, 8, 16, then a quarter more each time, from 64 on an eighth more; with
   several objectives 2, 4, 8, then an eighth more. Training sets are remembered as they were there.
6. No training set is larger than `exact`: beyond, it is the best quarter, the newest quarter, and the rest evenly spread over the study.
7. A trial failed if it was told so or scored what is not finite; its finite looks stay.
8. Trials of several tags are those of several brackets. Hyperband's later ones train long before they stop: not only beginnings are
   known. SuccessiveHalving's, one after another, are not told apart from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..pareto import Values, dominates
from ..trial import Report
from .gp_standings import Standings
from .gp_values import tamed

_APART = 4              # the ratio of steps whose looks are kept
_DENSE = ((16, 64), (8, 8))     # milestones double up to the first, grow by a quarter up to the second, then by an eighth: one, several


class Row(NamedTuple):
    """What is known of one trial at `step`: `x` of the unit cube, whether it `ended` there, and its `values`, smaller is better."""

    x: tuple[float, ...]
    step: int
    ended: bool
    values: tuple[float, ...]


class History:
    """What was told. `tried`: where each trial lies, in the order first heard of; `failed`: the trials that did."""

    def __init__(self, max_t: int | None, exact: int, objectives: int = 1) -> None:
        self.tried: dict[int, tuple[float, ...]] = {}
        self.failed: set[int] = set()
        self.milestones: list[list[Row]] = []
        """The training set at each milestone, in order; the fits that are due."""
        self._told: Standings | _Looks = Standings(max_t) if objectives == 1 else _Looks()
        self._max_t, self._exact = max_t, exact
        self._next, self._objectives = 2, objectives
        self._tags: set[int] = set()

    def __len__(self) -> int:
        """How many rows there are that have a value."""
        return len(self._told)

    @property
    def beginnings(self) -> bool:
        """Whether most trials are known by how they began: fewer than half are fully trained, and all are of one bracket (law 8)."""
        return isinstance(self._told, Standings) and self._told.placed and len(self._tags) == 1

    @property
    def cut(self) -> bool:
        """Whether more rows have a value than one training set holds."""
        return len(self) > self._exact

    def tell(self, reports: Sequence[Report]) -> None:
        for report in reports:
            self.tried.setdefault(report.trial, report.x)
            self._tags.add(report.tag)
            failed = report.failed or not all(map(math.isfinite, report.values))
            if failed:
                self.failed.add(report.trial)
            if not failed or isinstance(self._told, Standings):
                self._told.tell(report)
            if len(self) == self._next:
                self.milestones.append(self.training_set())
                self._next += further(self._next, self._objectives)

    def training_set(self) -> list[Row]:
        """The rows that are conditioned on now."""
        if isinstance(self._told, _Looks):
            return chosen(self._told.rows, self._exact)
        return chosen([Row(x, 1, True, (y,)) for x, y in self._told.rows()], self._exact)

    def points(self, rows: Sequence[Row]) -> Tensor:
        """(n, d + 1) float64: x and t of each row."""
        horizon = self._max_t or max((row.step for row in rows), default=1)
        return torch.tensor([(*row.x, 1.0 if row.ended else min(1.0, max(row.step, 1) / horizon)) for row in rows], dtype=torch.float64)


class _Looks:
    """The looks of several objectives (law 4)."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._newest: dict[int, int] = {}       # trial -> the row of its newest look

    def __len__(self) -> int:
        return len(self.rows)

    def tell(self, report: Report) -> None:
        """One with finite values."""
        place = self._newest.get(report.trial)
        before = None if place is None else self.rows[place]
        row = Row(report.x, report.step, report.done, worth(report.values, None if before is None else before.values))
        if place is not None and before is not None and (before.step == report.step or not _kept(before.step)):
            self.rows[place] = row
            return
        self._newest[report.trial] = len(self.rows)
        self.rows.append(row)


def further(n: int, objectives: int = 1) -> int:
    """How many rows there are from the milestone of n to the next one (law 5)."""
    doubled, quarters = _DENSE[objectives > 1]
    return n if n < doubled else n // 4 if n < quarters else n // 8


def worth(values: Values, before: Values | None) -> Values:
    """What a trial is worth that reports these finite values, and was worth as much `before` (law 2)."""
    return values if before is None or not dominates(before, values) else before


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

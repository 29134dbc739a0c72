"""MedianStopping: a trial that never did as well as the others usually do is stopped (Golovin et al., "Google Vizier: A Service
for Black-Box Optimization", KDD 2017, section 3.2.2).

At step t a trial is stopped if its best score so far is strictly worse than the median of the other trials' running averages,
each the mean of that trial's scores up to step t.

Where the paper is silent, or differs: "the others" are all trials that came to step t, running, ended and stopped ones (the
paper: completed ones, which here would wait for the first full runs); a failure or a NaN makes the average +inf at the step
it was granted; an even number of averages has the mean of the middle two as its median. Everyone who came in the
same call is recorded before anyone is judged. Of several objectives, a trial is stopped if it is behind the median in every one.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from heapq import heappop, heappush
from operator import attrgetter

from ..parts import part
from ..trial import Decision, Drop, New, Report, Setting, Train
from .arguments import ordered, refuse, whole
from .fronts import values_of
from .rungs import score

_BY_TRIAL = attrgetter("trial")


@part
class MedianStopping:
    """Trains every trial `every` steps at a time, up to `max_t`, and drops those that are behind the median.

    Args:
        max_t: steps a trial is trained at most.
        grace_period: no trial is stopped before this step.
        min_samples_required: how many others must have come to a step before anyone is stopped there.
        every: steps between two judgments. It is the scheduler's look: scores in between are not heard of.

    Trials that go on come before fresh ones, the oldest first.
    """

    forks = False

    def __init__(self, max_t: int = 100, grace_period: int = 1, min_samples_required: int = 3, every: int = 1) -> None:
        refuse([
            whole("max_t", max_t),
            whole("grace_period", grace_period),
            ordered("grace_period", grace_period, "max_t", max_t),
            whole("min_samples_required", min_samples_required),
            whole("every", every),
        ])
        self.max_t: int | None = max_t
        self.grace_period = grace_period
        self.min_samples_required = min_samples_required
        self.every = every
        self._end = max_t

    def begin(self, setting: Setting) -> None:
        self._objectives = [_Objective() for _ in range(setting.objectives)]
        self._going: list[tuple[int, int]] = []             # heap of (trial, until): waiting for a slot

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        drops: list[Decision] = []
        came = sorted(reports, key=_BY_TRIAL)
        for report in came:
            self._record(report)
        for report in came:
            if self._goes_on(report):
                heappush(self._going, (report.trial, min(report.step + self.every, self._end)))
            else:
                for objective in self._objectives:
                    del objective.runs[report.trial]
                drops.append(Drop(report.trial))
        starts: list[Decision] = []
        while self._going and len(starts) < free:
            starts.append(Train(*heappop(self._going)))
        new = min(free - len(starts), fresh)
        return [*drops, *starts, *[New(min(self.every, self._end))] * new]

    def _record(self, report: Report) -> None:
        for objective, value in zip(self._objectives, values_of(report)):
            objective.record(report.trial, report.step, value)

    def _goes_on(self, report: Report) -> bool:
        if report.done or report.step == self._end or score(report) == math.inf:
            return False
        others = self._objectives[0].came(report.step) - 1
        if report.step < self.grace_period or others < self.min_samples_required:
            return True
        return any(objective.keeps_up(report.trial, report.step) for objective in self._objectives)


class _Objective:
    """What is known of one objective. `runs`: by trial that may go on."""

    __slots__ = ("_averages", "runs")

    def __init__(self) -> None:
        self._averages: dict[int, array[float]] = {}        # step -> running averages of all that came there, sorted
        self.runs: dict[int, _Run] = {}

    def record(self, trial: int, step: int, value: float) -> None:
        run = self.runs.setdefault(trial, _Run())
        run.add(value)
        insort(self._averages.setdefault(step, array("d")), run.average)

    def came(self, step: int) -> int:
        return len(self._averages[step])

    def keeps_up(self, trial: int, step: int) -> bool:
        run = self.runs[trial]
        return not run.best > _median_without(self._averages[step], run.average)


class _Run:
    """The scores of one trial so far."""

    __slots__ = ("average", "best", "n")

    def __init__(self) -> None:
        self.n = 0
        self.average = 0.0
        self.best = math.inf

    def add(self, value: float) -> None:
        self.n += 1
        self.best = min(self.best, value)
        if math.isinf(value):
            self.average = value
        elif math.isfinite(self.average):       # an infinite average stays
            # Not a sum: scores near the largest float must not overflow, and equal scores average to just themselves.
            self.average += value / self.n - self.average / self.n


def _median_without(numbers: array[float], left_out: float) -> float:
    """The median of sorted numbers, one of which is left out. At least two numbers."""
    gap = bisect_left(numbers, left_out)
    n = len(numbers) - 1

    def at(k: int) -> float:
        return numbers[k] if k < gap else numbers[k + 1]

    if n % 2:
        return at(n // 2)
    return at(n // 2 - 1) / 2 + at(n // 2) / 2

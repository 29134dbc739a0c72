"""A scheduler of one's own, in about 30 lines, that keeps every law, and the shipped suite that says so.

`TwoStage` trains everyone to `first` and sends on to `max_t` whoever is better than `share` of those seen there before. What
a scheduler hears and answers is in `torchtune_hp/schedulers/base.py`; it never meets a config, a clock or a device.

    python own_scheduler.py           tunes with it
    pytest own_scheduler.py           checks it
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence

import torchtune_hp as hp
from torchtune_hp.testing.scheduler_suite import SchedulerSuite
from torchtune_hp.trial import Decision, Drop, New, Report, Setting, Train


class TwoStage:
    """Law 1 is `free` and `fresh`, 2 is `ended`, 4 is `sorted` and recording before judging, 6 is Drop."""

    forks = False

    def __init__(self, max_t: int = 9, first: int = 3, share: float = 0.5) -> None:
        if not 0 < first < max_t:
            raise hp.ConfigurationError(f"first: `0 < first < max_t` must hold, but got (first={first}, max_t={max_t}).")
        self.max_t: int | None = max_t      # arguments are kept under their names: the journal reads them
        self.first = first
        self.share = share
        self.last = max_t

    def begin(self, setting: Setting) -> None:
        if setting.objectives != 1:
            raise hp.ConfigurationError("scheduler: TwoStage ranks by one objective; FullRuns serves several.")
        self.seen: list[float] = []
        self.waiting: list[int] = []

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        drops: list[Decision] = []
        for report in reports:
            if report.step == self.first:
                insort(self.seen, report.values[0])
        for report in sorted(reports, key=lambda report: report.trial):
            value = report.values[0]
            ended = report.done or report.step >= self.last or value == math.inf
            if not ended and bisect_left(self.seen, value) <= (1 - self.share) * (len(self.seen) - 1):
                self.waiting.append(report.trial)
            else:
                drops.append(Drop(report.trial))
        going, self.waiting = self.waiting[:free], self.waiting[free:]
        return [*drops, *(Train(trial, self.last) for trial in going), *[New(self.first)] * min(free - len(going), fresh)]


class TestTwoStage(SchedulerSuite):
    """One test for each law, on random studies with failures, NaNs, ties and trials that end by themselves."""

    def make(self) -> TwoStage:
        return TwoStage(max_t=9, first=3)


def train(config: dict[str, float]) -> None:
    value = 1.0
    for _ in range(9):
        value -= config["speed"] * (value - config["floor"])
        hp.report(loss=value)


if __name__ == "__main__":      # so that pytest can import this file without tuning
    space = {"speed": hp.loguniform(0.01, 1.0), "floor": hp.uniform(0.0, 0.5)}
    results = hp.tune(train, space, metric="loss", mode="min", trials=40, scheduler=TwoStage(), executor=hp.Serial())
    print(f"best loss {results.best.metrics['loss']:.4f}; trials: {results.counts()}")

"""Random studies: failures, NaNs, ends, ties, moving capacities and limits, thrown at a scheduler and at its reference."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Protocol

from torchtune_hp.schedulers.base import Scheduler
from torchtune_hp.trial import Drop, New, Report, Train

from .reference import Job
from .simulate import setting


class Reference(Protocol):
    dropped: set[int]

    def record(self, trial: int, step: int, score: float, over: bool, bracket: int) -> None: ...
    def jobs(self, free: int, fresh: int) -> list[Job]: ...


def fuzz(make: Callable[[], Scheduler], reference: Reference, seed: int, trials: int, capacity: int, growing: bool) -> None:
    """One random study from beginning to end; every answer is compared with the reference's.

    `growing`: the limit on trials comes and goes and is raised at the end, and the reference is told which trials the scheduler
    forgot. Otherwise it is told nothing: then dropping a trial must never change a decision.
    """
    rng = random.Random(seed)
    scheduler, twin = make(), make()
    scheduler.begin(setting(capacity=capacity))
    twin.begin(setting(capacity=capacity))
    running: dict[int, tuple[int, int]] = {}    # trial -> (until, tag)
    resting: dict[int, tuple[int, int]] = {}
    ended: set[int] = set()
    dropped: set[int] = set()
    born, limit, raises = 0, trials, 2 if growing else 0
    levels = rng.choice([2, 5, 1000])
    for _ in range(100_000):
        reports = []
        for trial in rng.sample(sorted(running), rng.randint(0 if rng.random() < 0.2 else min(1, len(running)), len(running))):
            until, tag = running.pop(trial)
            luck = rng.random()
            value = math.inf if luck < 0.15 else -math.inf if luck > 0.99 else float(rng.randrange(levels))
            failed, done = luck < 0.08, 0.15 <= luck < 0.2
            resting[trial] = (until, tag)
            if value == math.inf or done:
                ended.add(trial)
            reports.append(Report(trial, until, (value,), tag, (), done=done, failed=failed))
            reference.record(trial, until, value, trial in ended, tag)
        allowed = capacity if not running or rng.random() < 0.7 else rng.randint(0, capacity)
        free, fresh = max(0, allowed - len(running)), limit - born
        if rng.random() < (0.1 if running else 0.0):
            free = 0                                    # a study that is stopping
            fresh = 0 if growing and rng.random() < 0.5 else fresh
        elif growing and rng.random() < 0.05:
            fresh = 0
        decisions = scheduler.decide(reports, free, fresh)
        rng.shuffle(reports)
        assert twin.decide(reports, free, fresh) == decisions, "the order inside a call matters"
        drops = [decision.trial for decision in decisions if isinstance(decision, Drop)]
        starts: list[Job] = []
        new = 0
        for decision in decisions:
            match decision:
                case New(until, tag):
                    assert until is not None
                    running[born + new] = (until, tag)
                    new += 1
                    starts.append(("new", tag, until))
                case Train(trial, until):
                    assert until is not None and trial not in ended
                    before, tag = resting.pop(trial)    # not there: it is running, was dropped, or never was
                    assert until > before
                    running[trial] = (until, tag)
                    starts.append(("train", trial, until))
                case Drop(trial):
                    assert trial in resting and trial not in dropped
                    del resting[trial]
                    dropped.add(trial)
        assert len(starts) <= free and new <= fresh
        assert starts == reference.jobs(free, fresh)
        assert set(drops) >= {report.trial for report in reports if report.trial in ended}
        assert free == 0 or starts or running or fresh == 0, "nothing runs and nothing is started"
        born += new
        again = (free - len(starts), fresh - new)
        assert scheduler.decide([], *again) == twin.decide([], *again) == reference.jobs(*again) == []
        if growing:
            reference.dropped |= dropped
        if not running and not starts and free and fresh == limit - born:
            assert not resting and dropped == set(range(born)), "a trial is never named again and was not dropped"
            if not raises:
                return
            raises, limit = raises - 1, limit + rng.randint(1, 12)
    raise AssertionError("the study does not end")

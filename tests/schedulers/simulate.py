"""A study without training: a table of scores, a virtual clock, and any scheduler.

The clock is the design's: what is submitted at tick s is due at s + (steps to go, at least 1); time moves to the earliest due
tick, and all that is due there comes back together, in order of submission.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torchtune_hp.schedulers.base import Scheduler
from torchtune_hp.trial import Decision, Drop, Fork, New, Report, Setting, Train

Score = Callable[[int, int], float]
"""(trial, step) -> what is minimized; +inf: it failed or was NaN there."""


def setting(**changes: object) -> Setting:
    """A setting of no dimension, with what the test is about changed."""
    return Setting(**{"dims": (), "feasible": lambda x: x, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Turn:
    """One call of `decide`, and what it answered."""

    tick: int
    reports: list[Report]
    free: int
    fresh: int
    decisions: list[Decision]


@dataclass
class Story:
    """What happened: every turn, how far every trial was trained, and which were dropped."""

    turns: list[Turn] = field(default_factory=list)
    steps: dict[int, int] = field(default_factory=dict)
    tags: dict[int, int] = field(default_factory=dict)
    dropped: list[int] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Steps trained, of all trials together."""
        return sum(self.steps.values())

    def at(self, step: int) -> int:
        """How many trials were trained to this step or further."""
        return sum(reached >= step for reached in self.steps.values())


def simulate(scheduler: Scheduler, score: Score, *, trials: int, capacity: int, ends: Callable[[int], int] | None = None) -> Story:
    """Runs a study to its end. `ends`: the step at which a trial ends by itself (it is done there)."""
    story = Story()
    running: dict[int, tuple[int, int]] = {}        # trial -> (due tick, step it was sent to), in order of submission
    tick = 0
    reports: list[Report] = []
    while True:
        free, fresh = capacity - len(running), trials - len(story.steps)
        decisions = scheduler.decide(reports, free, fresh)
        story.turns.append(Turn(tick, reports, free, fresh, decisions))
        for decision in decisions:
            match decision:
                case New(until, tag):
                    trial = len(story.steps)
                    story.steps[trial], story.tags[trial] = 0, tag
                case Train(trial, until):
                    pass
                case Drop(trial):
                    story.dropped.append(trial)
                    continue
                case Fork():
                    raise NotImplementedError("this simulator is for schedulers that do not fork")
            end = math.inf if ends is None else ends(trial)
            until = int(end) if until is None else until
            running[trial] = (tick + max(1, int(min(until, end)) - story.steps[trial]), until)
        if not running:
            return story
        tick = min(due for due, _ in running.values())
        reports = []
        for trial, (due, until) in list(running.items()):
            if due == tick:
                del running[trial]
                end = math.inf if ends is None else ends(trial)
                story.steps[trial] = int(min(until, end))
                value = score(trial, story.steps[trial])
                reports.append(
                    Report(trial, until, (value,), story.tags[trial], (), done=until >= end, failed=value == math.inf)
                )

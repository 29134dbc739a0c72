"""The shipped suite on every scheduler of the library, and on schedulers that break a law: each is caught."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Sequence

import pytest

from torchtune_hp.schedulers import ASHA, FullRuns, Scheduler
from torchtune_hp.testing.scheduler_suite import SCHEDULERS, SETTING, SchedulerSuite
from torchtune_hp.trial import Decision, Drop, Fork, New, Report, Setting, Train

for _name, _make in SCHEDULERS.items():
    globals()[f"Test{_name}"] = type(f"Test{_name}", (SchedulerSuite,), {"make": staticmethod(_make)})


class TestASHAStopping(SchedulerSuite):
    def make(self) -> Scheduler:
        return ASHA(max_t=9, grace_period=2, reduction_factor=2, variant="stopping")


class TestASHAPromotion(SchedulerSuite):
    def make(self) -> Scheduler:
        return ASHA(max_t=20, reduction_factor=1.7, variant="promotion")


class TestToTheirOwnEnd(SchedulerSuite):
    def make(self) -> Scheduler:
        return FullRuns()


class Forking:
    """Trains to 2; who is in good health there has one child, which goes on to 4."""

    forks = True
    max_t: int | None = 4

    def begin(self, setting: Setting) -> None:
        self.parents: list[Report] = []

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        answer: list[Decision] = []
        for report in sorted(reports, key=lambda report: report.trial):
            if report.step == 4 or report.done or report.values[0] == math.inf:
                answer.append(Drop(report.trial))
            else:
                self.parents.append(report)
        forking, self.parents = self.parents[:free], self.parents[free:]
        answer += [Fork(parent.trial, parent.x, 2, tag=1) for parent in forking]
        answer += [Drop(parent.trial) for parent in forking]
        return answer + [New(2)] * min(free - len(forking), fresh)


class TestForking(SchedulerSuite):
    def make(self) -> Scheduler:
        return Forking()


class Greedy(FullRuns):
    """Starts one too many."""

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        return super().decide(reports, free + 1, fresh)


class Wasteful(FullRuns):
    """Makes more trials than there may be."""

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        return super().decide(reports, free, fresh + 1)


class Necromancer(FullRuns):
    """Trains the failed."""

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        return [Train(report.trial, 9) for report in reports if free] + super().decide([], free - len(reports), fresh)


class Twice(FullRuns):
    """Drops twice."""

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        return [Drop(report.trial) for report in reports] + super().decide(reports, free, fresh)


class Orderly(FullRuns):
    """Answers in the order of the reports."""

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        return [Drop(report.trial) for report in reports] + super().decide([], free, fresh)


class Chance(FullRuns):
    """Draws from Python's global generator."""

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        return super().decide(reports, free if random.random() < 0.5 else min(free, 1), fresh)


class Hoarder(FullRuns):
    """Drops nobody."""

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        return super().decide([], free, fresh)


class Tired(FullRuns):
    """Stops for good when it was told once that there are no more trials."""

    tired = False

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        self.tired = self.tired or (fresh == 0 and not reports)
        return super().decide(reports, free, 0 if self.tired or fresh == 0 else fresh)


class Restless(FullRuns):
    """Names a trial when nothing happened."""

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        return super().decide(reports, free, fresh) or [New(9)] * (free and 1)


class Forgetful(FullRuns):
    """Trains beyond its own limit."""

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        return [New(10) if isinstance(decision, New) else decision for decision in super().decide(reports, free, fresh)]


class Orphans(FullRuns):
    """Forks a trial that is over."""

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        forks: list[Decision] = [Fork(report.trial, (0.1, 0.1), 2) for report in reports][:free]
        return [*forks, *super().decide(reports, free - len(forks), fresh)]


class Nameless(FullRuns):
    """Does not keep its argument."""

    def __init__(self, steps: int = 9) -> None:
        super().__init__(steps)


class Silent(FullRuns):
    """Refuses several objectives without a way out."""

    def begin(self, setting: Setting) -> None:
        from torchtune_hp import ConfigurationError

        raise ConfigurationError("no")


@pytest.mark.parametrize(
    ("make", "law"),
    [
        (Greedy, "test_at_most_free_are_set_running_and_at_most_fresh_are_new"),
        (Wasteful, "test_at_most_free_are_set_running_and_at_most_fresh_are_new"),
        (Necromancer, "test_a_trial_that_is_over_or_dropped_is_never_named_again"),
        (Orphans, "test_a_trial_that_is_over_or_dropped_is_never_named_again"),
        (Twice, "test_a_trial_that_is_over_or_dropped_is_never_named_again"),
        (Forgetful, "test_at_most_free_are_set_running_and_at_most_fresh_are_new"),
        (Chance, "test_same_calls_same_answers"),
        (Chance, "test_no_global_randomness_is_drawn"),
        (Restless, "test_with_no_slot_free_or_no_fresh_trial_nothing_begins"),
        (Orderly, "test_the_order_of_the_reports_in_one_call_does_not_matter"),
        (Tired, "test_a_finished_scheduler_goes_on_when_there_may_be_more_trials"),
        (Hoarder, "test_a_trial_that_will_never_be_named_again_is_dropped"),
    ],
)
def test_a_scheduler_that_breaks_a_law_fails_its_test(make: Callable[[int], Scheduler], law: str) -> None:
    class Suite(SchedulerSuite):
        def make(self) -> Scheduler:
            return make(9)

    with pytest.raises(AssertionError):
        getattr(Suite(), law)(SETTING)


@pytest.mark.parametrize(
    ("make", "law"),
    [
        (Nameless, "test_constructor_arguments_are_kept_as_attributes_of_the_same_names"),
        (Silent, "test_several_objectives_are_served_or_refused_before_anything_runs"),
    ],
)
def test_a_scheduler_that_breaks_the_contract_fails_its_test(make: Callable[[], Scheduler], law: str) -> None:
    suite = SchedulerSuite()
    suite.make = make  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        getattr(suite, law)()


def test_the_registry_holds_every_scheduler_the_package_exports() -> None:
    import torchtune_hp.schedulers as package

    exported = {name for name in package.__all__ if inspect.isclass(getattr(package, name)) and name != "Scheduler"}
    assert exported == set(SCHEDULERS)

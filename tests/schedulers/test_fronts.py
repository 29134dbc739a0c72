"""The ranking of several objectives at one level, against sorting everything anew; and what schedulers make of it."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st

from torchtune_hp.pareto import Values, dominates, fronts, ranked
from torchtune_hp.schedulers import ASHA, Hyperband, MedianStopping, Scheduler, SuccessiveHalving
from torchtune_hp.schedulers.fronts import FrontRung, by_rank, values_of
from torchtune_hp.schedulers.rungs import Rung
from torchtune_hp.testing.scheduler_suite import SETTING
from torchtune_hp.trial import Decision, Drop, New, Report, Setting, Train

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)
pairs = st.lists(st.tuples(st.integers(0, 4).map(float), st.integers(0, 4).map(float)) | st.just((math.inf, math.inf)), max_size=20)
TWO = Setting(SETTING.dims, SETTING.feasible, objectives=2, max_t=9, capacity=20)


def report(trial: int, values: Values, step: int = 1, tag: int = 0, failed: bool = False) -> Report:
    return Report(trial, step, values, tag, (), failed=failed)


def share(came: dict[int, Values], n: int, eta: int, least: int = 0) -> list[int]:
    """The best floor(n / eta) trials, sorted from nothing."""
    trials = sorted(trial for trial, values in came.items() if values[0] < math.inf)
    return [trials[i] for i in ranked([came[trial] for trial in trials])][: max(least, n // eta)]


# One rung -----------------------------------------------------------------------------------------------------------------


@quick
@given(pairs, st.integers(1, 4), st.permutations(range(20)))
def test_the_share_is_that_of_sorting_everyone_whatever_the_order_they_came_in(points: list[Values], eta: int, order: list[int]) -> None:
    rung, came = FrontRung(Fraction(eta)), {}
    for trial in [trial for trial in order if trial < len(points)]:
        rung.add(points[trial], trial, rests=True)
        came[trial] = points[trial]
        best = share(came, len(came), eta)
        assert [other for other in sorted(came) if rung.shares(came[other], other)] == sorted(best)
        assert rung.promotable() == next(iter(best), None)
    promoted = []
    while (trial := rung.promotable()) is not None:
        rung.leave(trial)
        promoted.append(trial)
    assert promoted == share(came, len(came), eta)
    assert rung.n == len(points) and rung.resting == sum(values[0] < math.inf for values in points) - len(promoted)


@quick
@given(pairs, pairs, st.integers(2, 4))
def test_who_was_called_hopeless_is_in_no_later_share(first: list[Values], later: list[Values], eta: int) -> None:
    rung = FrontRung(Fraction(eta))
    for trial, values in enumerate(first):
        rung.add(values, trial, rests=True)
    gone = set(rung.hopeless(len(first) + len(later)))
    assert not gone & {trial for trial, values in enumerate(first) if values[0] == math.inf}, "who does not rest is not named"
    for trial, values in enumerate(later, start=len(first)):
        rung.add(values, trial, rests=True)
        assert not any(rung.shares(first[other], other) for other in gone)
    rung.hopeless(rung.n)
    assert rung.resting == len(share(dict(enumerate(first + later)), rung.n, eta)), "at the end only the share rests"


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0]])
def test_who_is_dominated_by_as_many_as_can_ever_be_promoted_is_hopeless_and_nobody_else(order: list[int]) -> None:
    rung = FrontRung(Fraction(2))
    for trial in order:
        rung.add((float(trial), float(trial)), trial, rests=True)
    assert rung.hopeless(9) == []                   # four of nine may be promoted
    assert rung.hopeless(6) == [3]                  # three may, and three are better
    assert rung.hopeless(5) == [2] and rung.resting == 2


def test_a_newcomer_may_bring_a_trial_back_into_the_share() -> None:
    rung = FrontRung(Fraction(2))
    for trial, values in enumerate([(0.0, 9.0), (2.0, 2.0), (3.0, 1.5), (9.0, 0.0)]):
        rung.add(values, trial, rests=True)
    assert [rung.shares((), trial) for trial in range(4)] == [True, False, False, True]
    rung.add((-1.0, 9.0), 4, rests=True)        # dominates trial 0 alone, which was ahead of 1 and 2
    assert [rung.shares((), trial) for trial in range(5)] == [False, False, False, True, True]
    rung.add((9.0, -1.0), 5, rests=True)
    assert [rung.shares((), trial) for trial in range(6)] == [False, True, False, False, True, True]


def test_both_rungs_agree_on_one_objective() -> None:
    one, several = Rung(Fraction(3)), FrontRung(Fraction(3))
    for trial, value in enumerate([5.0, 3.0, math.inf, 3.0, 1.0, 4.0, 2.0]):
        one.add(value, trial, rests=value < math.inf)
        several.add((value,), trial, rests=value < math.inf)
        assert one.promotable() == several.promotable() and (one.n, one.resting) == (several.n, several.resting)


def test_a_failure_or_one_bad_value_makes_all_worst() -> None:
    worst = (math.inf, math.inf)
    assert values_of(report(0, (1.0, 2.0))) == (1.0, 2.0)
    assert values_of(report(0, (1.0, 2.0), failed=True)) == worst
    assert values_of(report(0, (1.0, math.nan))) == values_of(report(0, (math.inf, 1.0))) == values_of(report(0, (1.0, math.inf))) == worst


@quick
@given(pairs)
def test_ranks_put_a_better_front_first_and_one_objective_is_plainly_sorted(points: list[Values]) -> None:
    points = [values for values in points if values[0] < math.inf]
    order = by_rank([(values, 10 + trial) for trial, values in enumerate(points)][::-1])
    depth = {10 + i: k for k, front in enumerate(fronts(points)) for i in front}
    assert [depth[trial] for trial in order] == sorted(depth.values())
    assert by_rank([((1.0, 2.0), 5), ((1.0, 2.0), 3), ((2.0, 1.0), 4)]) == [3, 4, 5]
    assert by_rank([(values[:1], trial) for trial, values in enumerate(points)]) == sorted(range(len(points)), key=lambda i: points[i][0])


# Schedulers ---------------------------------------------------------------------------------------------------------------

VALUES = [(0.0, 9.0), (5.0, 5.0), (9.0, 0.0), (9.0, 9.0), (1.0, 9.5), (6.0, 6.0), (9.5, 1.0), (2.0, 2.0), (7.0, 7.0)]
"""Trials 0, 2 and 7 are on the front: 7 dominates 1, 5 and 8; 0 and 2 are best in one objective each."""


def survivors(scheduler: Scheduler, setting: Setting = TWO) -> list[int]:
    """Who is sent on after nine trials reported at their first level."""
    scheduler.begin(setting)
    new = scheduler.decide([], 9, 9)
    assert all(isinstance(decision, New) for decision in new) and len(new) == 9
    decisions = scheduler.decide([report(trial, values) for trial, values in enumerate(VALUES)], 9, 0)
    return sorted(decision.trial for decision in decisions if isinstance(decision, Train))


@pytest.mark.parametrize(
    "scheduler",
    [
        ASHA(max_t=9, reduction_factor=3, variant="promotion"),
        ASHA(max_t=9, reduction_factor=3, variant="stopping"),
        SuccessiveHalving(max_t=9, reduction_factor=3),
        Hyperband(max_t=9, reduction_factor=3),
    ],
    ids=["promotion", "stopping", "halving", "hyperband"],
)
def test_who_is_on_the_front_goes_on(scheduler: Scheduler) -> None:
    assert survivors(scheduler) == [0, 2, 7]


def test_a_median_stops_who_is_behind_in_every_objective() -> None:
    assert survivors(MedianStopping(max_t=9)) == [
        trial for trial, (a, b) in enumerate(VALUES) if a <= median_without(0, trial) or b <= median_without(1, trial)
    ]
    assert 3 not in survivors(MedianStopping(max_t=9)) and 0 in survivors(MedianStopping(max_t=9))


def median_without(objective: int, trial: int) -> float:
    others = sorted(values[objective] for other, values in enumerate(VALUES) if other != trial)
    return (others[3] + others[4]) / 2


def test_a_trial_that_nobody_dominates_is_kept_for_as_long_as_there_may_be_more() -> None:
    scheduler = ASHA(max_t=9, reduction_factor=3, variant="promotion")
    scheduler.begin(TWO)
    scheduler.decide([], 9, 100)
    front = [(float(k), 8.0 - k) for k in range(9)]
    assert not any(dominates(a, b) for a in front for b in front)
    decisions: list[Decision] = scheduler.decide([report(trial, values) for trial, values in enumerate(front)], 3, 91)
    assert sorted(decision.trial for decision in decisions if isinstance(decision, Train)) == [0, 4, 8], "the ends and the middle"
    assert not any(isinstance(decision, Drop) for decision in decisions)

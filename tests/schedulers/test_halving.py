"""Synchronous brackets by hand: SuccessiveHalving, and what Hyperband adds."""

from __future__ import annotations

import math

import pytest

from torchtune_hp.schedulers import Hyperband, SuccessiveHalving
from torchtune_hp.schedulers.bracket import Plan
from torchtune_hp.trial import Decision, Drop, New, Report, Train

from .simulate import setting, simulate

inf = math.inf


def begun(scheduler: SuccessiveHalving | Hyperband) -> SuccessiveHalving | Hyperband:
    scheduler.begin(setting())
    return scheduler


def at(step: int, scores: dict[int, float], tag: int = 0) -> list[Report]:
    return [Report(trial, step, (score,), tag, ()) for trial, score in scores.items()]


@pytest.mark.parametrize(
    ("max_t", "grace", "eta", "trials", "expected"),
    [
        (64, 1, 4, None, Plan(64, (1, 4, 16, 64))),
        (64, 1, 4, 10, Plan(10, (1, 4, 16, 64))),
        (100, 1, 4, None, Plan(64, (1, 4, 16, 100))),
        (9, 3, 3, None, Plan(3, (3, 9))),
        (5, 5, 3, None, Plan(1, (5,))),
        (20, 1, 2.5, None, Plan(16, (1, 2, 6, 20))),      # 2.5**3 = 15.6
    ],
)
def test_a_bracket_starts_as_many_as_leave_one_at_the_end(
    max_t: int, grace: int, eta: float, trials: int | None, expected: Plan
) -> None:
    assert SuccessiveHalving(max_t, grace, eta, trials).plan == expected


def test_nobody_is_promoted_before_the_rung_is_full() -> None:
    scheduler = begun(SuccessiveHalving(4, 1, 2))
    assert scheduler.decide([], 9, 4) == [New(1)] * 4
    assert scheduler.decide(at(1, {0: 3.0, 1: 1.0, 2: 2.0}), 8, 0) == []
    assert scheduler.decide(at(1, {3: 0.0}), 9, 0) == [Drop(0), Drop(2), Train(3, 2), Train(1, 2)]
    assert scheduler.decide(at(2, {1: 0.5}), 8, 0) == []
    assert scheduler.decide(at(2, {3: 0.5}), 9, 0) == [Drop(3), Train(1, 4)], "a tie goes to the older trial"
    assert scheduler.decide(at(4, {1: 0.0}), 9, 0) == [Drop(1)]
    assert scheduler.decide([], 9, 0) == []


def test_free_slots_go_to_the_next_bracket_and_the_oldest_is_served_first() -> None:
    scheduler = begun(SuccessiveHalving(2, 1, 2, trials=3))
    assert scheduler.decide([], 5, 20) == [New(1, 0)] * 3 + [New(1, 1)] * 2
    assert scheduler.decide(at(1, {0: 1.0, 1: 2.0}), 2, 15) == [New(1, 1), New(1, 2)]
    assert scheduler.decide(at(1, {2: 0.0}), 1, 13) == [Drop(0), Drop(1), Train(2, 2)]
    assert scheduler.decide([*at(1, {3: 0.0, 4: 1.0, 5: 2.0}, 1), *at(2, {2: 0.0})], 2, 13) == [
        Drop(2), Drop(4), Drop(5), Train(3, 2), New(1, 2),
    ]  # fmt: skip


def test_a_bracket_shrinks_to_what_can_still_be_started_and_brings_its_best_to_the_top() -> None:
    scheduler = begun(SuccessiveHalving(9, 1, 3))
    assert scheduler.plan.size == 9  # type: ignore[union-attr]
    assert scheduler.decide([], 9, 4) == [New(1)] * 4
    assert scheduler.decide(at(1, {0: 4.0, 1: 3.0, 2: 2.0, 3: 1.0}), 9, 0) == [Drop(0), Drop(1), Drop(2), Train(3, 3)]
    assert scheduler.decide(at(3, {3: 1.0}), 9, 0) == [Train(3, 9)]
    assert scheduler.decide(at(9, {3: 1.0}), 9, 5) == [Drop(3), *[New(1, 1)] * 5]


def test_a_limit_that_is_raised_in_time_lets_the_bracket_fill_up() -> None:
    scheduler = begun(SuccessiveHalving(2, 1, 2, trials=3))
    assert scheduler.decide([], 1, 1) == [New(1)]
    assert scheduler.decide([], 5, 9) == [New(1), New(1), *[New(1, 1)] * 3]


def test_a_rung_with_too_few_finite_scores_promotes_fewer() -> None:
    scheduler = begun(SuccessiveHalving(9, 1, 3))
    scheduler.decide([], 9, 9)
    reports = at(1, {0: inf, 1: math.nan, 2: 2.0, 3: inf, 4: 1.0, 5: inf, 6: inf, 7: inf})
    assert scheduler.decide([*reports, Report(8, 1, (0.0,), 0, (), failed=True)], 9, 0) == [
        *[Drop(trial) for trial in (0, 1, 3, 5, 6, 7, 8)], Train(4, 3), Train(2, 3),
    ]  # fmt: skip
    assert scheduler.decide(at(3, {4: 1.0, 2: 1.5}), 9, 0) == [Drop(2), Train(4, 9)]


def test_a_bracket_whose_trials_all_failed_is_over_and_the_next_one_begins() -> None:
    scheduler = begun(SuccessiveHalving(2, 1, 2))
    scheduler.decide([], 2, 4)
    assert scheduler.decide(at(1, {0: inf, 1: inf}), 2, 2) == [Drop(0), Drop(1), *[New(1, 1)] * 2]


def test_who_ended_by_itself_keeps_its_place_and_goes_no_further() -> None:
    scheduler = begun(SuccessiveHalving(4, 1, 2))
    scheduler.decide([], 4, 4)
    done = Report(0, 1, (0.0,), 0, (), done=True)
    assert scheduler.decide([done, *at(1, {1: 1.0, 2: 2.0, 3: 3.0})], 4, 0) == [Drop(0), Drop(2), Drop(3), Train(1, 2)]


def test_promotions_wait_for_slots_best_first() -> None:
    scheduler = begun(SuccessiveHalving(2, 1, 2, trials=6))
    scheduler.decide([], 6, 6)
    reports = at(1, {trial: float(-trial) for trial in range(6)})
    assert scheduler.decide(reports, 1, 0) == [Drop(0), Drop(1), Drop(2), Train(5, 2)]
    assert scheduler.decide([], 1, 0) == [Train(4, 2)]
    assert scheduler.decide(at(2, {5: 0.0}), 2, 0) == [Drop(5), Train(3, 2)]
    assert scheduler.decide(at(2, {4: 0.0, 3: 0.0}), 2, 0) == [Drop(3), Drop(4)]


def test_no_rung_is_judged_while_the_study_is_stopping() -> None:
    scheduler = begun(SuccessiveHalving(2, 1, 2, trials=4))
    scheduler.decide([], 2, 8)
    assert scheduler.decide(at(1, {0: 0.0, 1: inf}), 0, 0) == [Drop(1)]
    assert scheduler.decide([], 2, 6) == [New(1), New(1)], "the bracket has not shrunk"


def test_rungs_of_a_factor_that_is_no_integer_are_counted_exactly() -> None:
    scheduler = begun(SuccessiveHalving(22, 20, 1.1, trials=33))
    scheduler.decide([], 33, 33)
    decisions = scheduler.decide(at(20, {trial: float(trial) for trial in range(33)}), 33, 0)
    assert sum(isinstance(decision, Train) for decision in decisions) == 30     # int(33 / 1.1) is 29


# Hyperband


def test_the_brackets_are_those_of_algorithm_1() -> None:
    assert Hyperband(81, 3).plans == (
        Plan(81, (1, 3, 9, 27, 81)), Plan(34, (3, 9, 27, 81)), Plan(15, (9, 27, 81)), Plan(8, (27, 81)), Plan(5, (81,)),
    )  # fmt: skip
    assert Hyperband(100, 3).plans[0] == Plan(81, (1, 3, 11, 33, 100)), "rounded down"
    assert [plan.size for plan in Hyperband(16, 4).plans] == [16, 6, 3]
    assert Hyperband(243, 3).plans[0] == Plan(243, (1, 3, 9, 27, 81, 243)), "log(243) / log(3) is less than 5"
    assert Hyperband(1, 3).plans == (Plan(1, (1,)),)
    assert Hyperband(3, 1.5).plans == (Plan(3, (1, 2, 3)), Plan(3, (2, 3)), Plan(3, (3,)))


@pytest.mark.parametrize("capacity", [1, 4, 100])
def test_each_bracket_halves_its_own_trials_on_any_number_of_slots(capacity: int) -> None:
    scheduler = begun(Hyperband(9, 3))
    story = simulate(scheduler, lambda trial, step: float(trial * 7 % 17), trials=34, capacity=capacity)
    # One round is 9, 5 and 3 trials; 34 are two rounds, whose brackets are numbers 0 to 5.
    steps = [sorted(story.steps[trial] for trial in story.steps if story.tags[trial] == tag) for tag in range(6)]
    assert steps == 2 * [[1] * 6 + [3] * 2 + [9], [3] * 4 + [9], [9] * 3]
    for tag in range(6):
        best = min((trial for trial in story.steps if story.tags[trial] == tag), key=lambda trial: (trial * 7 % 17, trial))
        assert story.steps[best] == 9


def test_on_one_slot_a_bracket_is_finished_before_the_next_begins() -> None:
    scheduler = begun(Hyperband(9, 3))
    story = simulate(scheduler, lambda trial, step: float(trial), trials=34, capacity=1)
    starts: list[Decision] = [decision for turn in story.turns for decision in turn.decisions if not isinstance(decision, Drop)]
    tags = [decision.tag if isinstance(decision, New) else story.tags[decision.trial] for decision in starts]  # type: ignore[union-attr]
    assert tags == sorted(tags) and tags[-1] == 5
    assert starts[:13] == [*[New(1, 0)] * 9, Train(0, 3), Train(1, 3), Train(2, 3), Train(0, 9)]


def test_the_trials_that_were_already_started_are_not_lost_when_the_limit_comes_mid_bracket() -> None:
    scheduler = begun(Hyperband(9, 3))
    story = simulate(scheduler, lambda trial, step: float(trial), trials=12, capacity=2)
    assert [story.tags[trial] for trial in range(12)] == [0] * 9 + [1] * 3
    assert [story.steps[trial] for trial in (9, 10, 11)] == [9, 3, 3]
    assert sorted(story.dropped) == list(range(12))

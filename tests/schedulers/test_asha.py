"""ASHA by hand: each variant on a few trials, decision by decision."""

from __future__ import annotations

import math
import tracemalloc
from typing import Literal

import pytest

from torchtune_hp.schedulers import ASHA
from torchtune_hp.trial import Drop, New, Report, Train

from .simulate import setting, simulate

inf = math.inf


def begun(scheduler: ASHA, saves: bool = True) -> ASHA:
    scheduler.begin(setting(saves=saves))
    return scheduler


def at(step: int, scores: dict[int, float], tag: int = 0) -> list[Report]:
    return [Report(trial, step, (score,), tag, ()) for trial, score in scores.items()]


def test_auto_promotes_where_trials_can_be_saved_and_stops_where_not() -> None:
    promoting, stopping = begun(ASHA(4, 1, 2)), begun(ASHA(4, 1, 2), saves=False)
    reports = at(1, {0: 1.0, 1: 2.0})
    assert promoting.decide(reports, 2, 0) == [Drop(1), Train(0, 2)]
    assert stopping.decide(at(1, {0: 1.0}), 1, 0) == [Train(0, 2)], "the first is judged at once"
    promoting = begun(ASHA(4, 1, 2))
    assert promoting.decide(at(1, {0: 1.0}), 1, 0) == [Drop(0)], "one trial alone can never be the best of two"


@pytest.mark.parametrize(("variant", "saves"), [("promotion", False), ("stopping", True)])
def test_a_variant_that_was_chosen_is_used_wherever_it_runs(variant: Literal["promotion", "stopping"], saves: bool) -> None:
    scheduler = begun(ASHA(4, 1, 2, variant=variant), saves)
    starts = scheduler.decide(at(1, {0: 1.0}), 1, 5)
    assert starts == ([New(1)] if variant == "promotion" else [Train(0, 2)])


def test_the_best_of_the_highest_rung_is_promoted_first_and_fresh_trials_come_last() -> None:
    scheduler = begun(ASHA(9, 1, 3))
    assert scheduler.decide([], 9, 109) == [New(1)] * 9
    assert scheduler.decide(at(1, {trial: float(trial) for trial in range(9)}), 2, 100) == [Train(0, 3), Train(1, 3)]
    assert scheduler.decide(at(3, {0: 0.0, 1: 1.0}), 4, 100) == [Train(2, 3), *[New(1)] * 3]
    # Rung 1 has three, one may go on; rung 0 has twelve, four may: 9, 10, 0 and 1.
    reports = [*at(3, {2: -1.0}), *at(1, {9: -1.0, 10: -1.0, 11: 5.0})]
    assert scheduler.decide(reports, 4, 97) == [Train(2, 9), Train(9, 3), Train(10, 3), New(1)]


def test_the_worst_are_dropped_once_even_all_fresh_trials_could_not_save_them() -> None:
    scheduler = begun(ASHA(9, 1, 3))
    scheduler.decide([], 9, 20)
    # Of up to 9 + 11, six may go on.
    reports = at(1, {trial: float(trial) for trial in range(9)})
    assert scheduler.decide(reports, 2, 11) == [Drop(8), Drop(7), Drop(6), Train(0, 3), Train(1, 3)]


def test_ties_go_to_the_older_trial_whatever_the_order_of_the_reports() -> None:
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        scheduler = begun(ASHA(3, 1, 3))
        scheduler.decide([], 3, 100)
        assert scheduler.decide(at(1, dict.fromkeys(order, 0.5)), 1, 97) == [Train(0, 3)]


def test_a_failed_trial_counts_in_its_rung_and_is_never_promoted() -> None:
    scheduler = begun(ASHA(2, 1, 2))
    scheduler.decide([], 4, 100)
    failed = Report(0, 1, (0.0,), 0, (), failed=True)
    assert scheduler.decide([failed, *at(1, {1: inf, 2: math.nan, 3: 7.0})], 4, 96) == [
        Drop(0), Drop(1), Drop(2), Train(3, 2), *[New(1)] * 3,
    ]  # fmt: skip


def test_a_trial_that_ended_keeps_its_place_and_is_not_promoted() -> None:
    scheduler = begun(ASHA(2, 1, 2))
    scheduler.decide([], 2, 100)
    done = Report(0, 1, (0.0,), 0, (), done=True)
    assert scheduler.decide([done, *at(1, {1: 1.0})], 1, 98) == [Drop(0), New(1)], "1 is second of two"
    assert scheduler.decide(at(1, {2: 2.0}), 1, 97) == [New(1)]
    assert scheduler.decide(at(1, {3: 3.0}), 1, 96) == [Train(1, 2)], "and among the best two of four"


def test_who_came_to_max_t_is_dropped() -> None:
    for variant in ("promotion", "stopping"):
        scheduler = begun(ASHA(3, 3, 2, variant=variant))  # type: ignore[arg-type]
        assert scheduler.decide([], 1, 2) == [New(3)]
        assert scheduler.decide(at(3, {0: 0.1}), 1, 1) == [Drop(0), New(3)]


def test_a_resting_trial_is_dropped_as_soon_as_too_many_are_better_than_it() -> None:
    scheduler = begun(ASHA(2, 1, 2))
    assert scheduler.decide([], 4, 4) == [New(1)] * 4
    assert scheduler.decide(at(1, {0: 2.0, 1: 1.0}), 2, 0) == [Train(1, 2)], "two of four may go on: 0 may be second"
    assert scheduler.decide(at(1, {2: 3.0}), 1, 0) == [Drop(2)], "third of at most four"
    assert scheduler.decide(at(1, {3: 0.0}), 1, 0) == [Drop(0), Train(3, 2)]
    assert scheduler.decide([*at(2, {1: 0.0}), *at(2, {3: 0.0})], 4, 0) == [Drop(1), Drop(3)]


def test_higher_rungs_wait_for_all_that_may_still_come_from_below() -> None:
    scheduler = begun(ASHA(4, 1, 2))
    scheduler.decide([], 4, 4)
    assert scheduler.decide(at(1, {0: 0.0, 1: 1.0}), 1, 0) == [Train(0, 2)]
    # At rung 1: 0 is there; 1 rests below, 2 and 3 are under way: of up to four, two may go on.
    assert scheduler.decide(at(2, {0: 5.0}), 1, 0) == []
    assert scheduler.decide(at(1, {2: 2.0}), 2, 0) == [Drop(2)]
    assert scheduler.decide(at(1, {3: 3.0}), 3, 0) == [Drop(3), Train(1, 2)]
    assert scheduler.decide(at(2, {1: 1.0}), 4, 0) == [Drop(0), Train(1, 4)]


def test_nobody_is_dropped_for_its_rank_while_the_study_is_stopping() -> None:
    scheduler = begun(ASHA(2, 1, 2))
    scheduler.decide([], 4, 4)
    failed = Report(3, 1, (inf,), 0, (), failed=True)
    assert scheduler.decide([*at(1, {0: 0.0, 1: 1.0, 2: 2.0}), failed], 0, 0) == [Drop(3)]
    assert scheduler.decide([], 4, 0) == [Drop(2), Train(0, 2), Train(1, 2)]


def test_an_extended_study_goes_on_with_who_is_left() -> None:
    scheduler = begun(ASHA(2, 1, 2))
    scheduler.decide([], 2, 2)
    assert scheduler.decide(at(1, {0: 0.0, 1: 1.0}), 2, 0) == [Drop(1), Train(0, 2)]
    assert scheduler.decide(at(2, {0: 0.0}), 2, 0) == [Drop(0)]
    assert scheduler.decide([], 2, 2) == [New(1)] * 2
    # Of four, two may go on: 0 did, and 1, which was second then and is third now, is gone.
    assert scheduler.decide(at(1, {2: 0.5, 3: 9.0}), 2, 0) == [Drop(3), Train(2, 2)]


def test_stopping_judges_a_trial_once_against_all_who_came_with_it() -> None:
    scheduler = begun(ASHA(4, 1, 2, variant="stopping"))
    scheduler.decide([], 4, 4)
    assert scheduler.decide(at(1, {3: 1.0, 0: 1.0, 1: 0.0, 2: 4.0}), 4, 0) == [Drop(2), Drop(3), Train(1, 2), Train(0, 2)]
    assert scheduler.decide(at(2, {0: 3.0}), 1, 0) == [Train(0, 4)], "the first at its rung goes on"
    assert scheduler.decide(at(2, {1: 4.0}), 1, 0) == [Drop(1)], "and the second only if it is better"


def test_stopping_serves_the_furthest_then_the_best_and_lets_the_others_wait() -> None:
    scheduler = begun(ASHA(4, 1, 2, variant="stopping"))
    scheduler.decide([], 5, 100)
    assert scheduler.decide(at(1, {0: 0.0}), 1, 95) == [Train(0, 2)]
    reports = [*at(2, {0: 9.0}), *at(1, {1: 0.5, 2: -1.0, 3: 7.0, 4: 7.5})]
    assert scheduler.decide(reports, 1, 95) == [Drop(1), Drop(3), Drop(4), Train(0, 4)]
    assert scheduler.decide([], 2, 95) == [Train(2, 2), New(1)]


def test_stopping_drops_who_failed_or_ended_and_keeps_its_place() -> None:
    scheduler = begun(ASHA(4, 1, 2, variant="stopping"))
    scheduler.decide([], 3, 100)
    done = Report(0, 1, (0.0,), 0, (), done=True)
    assert scheduler.decide([done, *at(1, {1: 1.0, 2: inf})], 2, 0) == [Drop(0), Drop(2), Drop(1)]


def test_brackets_begin_one_rung_higher_each_and_share_fresh_trials_by_hyperbands_sizes() -> None:
    scheduler = begun(ASHA(9, 1, 3, brackets=3))
    new = scheduler.decide([], 17, 17)
    # Sizes 9, ceil(3 / 2 * 3) = 5 and 3: in every 17 there are so many of each.
    assert [new.count(New(level, tag)) for tag, level in enumerate((1, 3, 9))] == [9, 5, 3]
    assert new[:6] == [New(1, 0), New(3, 1), New(1, 0), New(1, 0), New(9, 2), New(3, 1)]
    one_by_one = begun(ASHA(9, 1, 3, brackets=3))
    assert [one_by_one.decide([], 1, 17 - k)[0] for k in range(17)] == new


def test_a_trial_is_ranked_in_its_own_bracket() -> None:
    scheduler = begun(ASHA(4, 1, 2, brackets=2))
    new = scheduler.decide([], 7, 7)
    zero = [trial for trial, decision in enumerate(new) if decision == New(1, 0)]
    one = [trial for trial, decision in enumerate(new) if decision == New(2, 1)]
    assert (zero, one) == ([0, 2, 4, 5], [1, 3, 6])
    reports = [*at(1, {0: 5.0, 2: 6.0}), *at(2, {1: 0.0, 3: 1.0}, tag=1)]
    assert scheduler.decide(reports, 4, 0) == [Drop(3), Train(0, 2), Train(1, 4)]
    assert scheduler.decide([*at(2, {0: 0.5})], 3, 0) == []


@pytest.mark.parametrize("variant", ["promotion", "stopping"])
def test_a_nan_trial_is_never_promoted(variant: Literal["promotion", "stopping"]) -> None:
    scheduler = begun(ASHA(27, 1, 3, variant=variant))
    story = simulate(scheduler, lambda trial, step: math.nan if trial % 2 else float(trial), trials=40, capacity=5)
    assert {story.steps[trial] for trial in range(1, 40, 2)} == {1}
    assert story.at(27) >= 1


def test_the_best_trial_is_found_whatever_the_number_of_slots() -> None:
    for capacity in (1, 2, 7, 30):
        scheduler = begun(ASHA(27, 1, 3))
        story = simulate(scheduler, lambda trial, step: abs(trial - 13.0), trials=27, capacity=capacity)
        assert story.steps[13] == 27 and sorted(story.dropped) == list(range(27))


def test_resting_trials_are_few_however_long_the_study() -> None:
    scheduler = begun(ASHA(16, 1, 4))
    story = simulate(scheduler, lambda trial, step: trial * 7919 % 4001 + 0.5 / step, trials=4001, capacity=16)
    alive = most = 0
    for turn in story.turns:
        alive += sum(isinstance(decision, New) - isinstance(decision, Drop) for decision in turn.decisions)
        most = max(most, alive)
    assert alive == 0 and most <= 4001 // 4 + 32


def test_a_finished_trial_costs_little_memory() -> None:
    trials, slots = 8000, 500
    scheduler = begun(ASHA(64, 1, 4))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        sent: dict[int, int] = {}
        born = 0
        while born < trials or sent:
            reports = [Report(trial, step, (trial * 7919 % 8009 + 1 / step,), 0, ()) for trial, step in sent.items()]
            sent = {}
            for decision in scheduler.decide(reports, slots, trials - born):
                if isinstance(decision, New):
                    sent[born] = 1
                    born += 1
                elif isinstance(decision, Train):
                    assert decision.until is not None
                    sent[decision.trial] = decision.until
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / trials < 150, "bytes per trial; about 80 were measured"

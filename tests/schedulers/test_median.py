"""MedianStopping by hand."""

from __future__ import annotations

import math

from torchtune_hp.schedulers import MedianStopping
from torchtune_hp.trial import Drop, New, Report, Train

from .simulate import setting, simulate

inf = math.inf


def begun(scheduler: MedianStopping) -> MedianStopping:
    scheduler.begin(setting())
    return scheduler


def at(step: int, scores: dict[int, float]) -> list[Report]:
    return [Report(trial, step, (score,), 0, ()) for trial, score in scores.items()]


def test_a_trial_whose_best_is_worse_than_the_median_of_the_others_averages_is_stopped() -> None:
    scheduler = begun(MedianStopping(3))
    assert scheduler.decide([], 4, 4) == [New(1)] * 4
    reports = at(1, {3: 8.0, 0: 1.0, 1: 2.0, 2: 6.0})
    # Medians of the others: 6, 6, 2 and 2. So 2 and 3 are behind, 0 and 1 are not.
    assert scheduler.decide(reports, 4, 0) == [Drop(2), Drop(3), Train(0, 2), Train(1, 2)]
    assert scheduler.decide(at(2, {0: 9.0, 1: 9.0}), 4, 0) == [Train(0, 3), Train(1, 3)], "one other is too few to be judged by"
    assert scheduler.decide(at(3, {0: 9.0, 1: 9.0}), 4, 0) == [Drop(0), Drop(1)], "who came to max_t is at its end"


def test_the_running_averages_of_the_others_are_over_all_their_steps() -> None:
    scheduler = begun(MedianStopping(9, min_samples_required=1))
    scheduler.decide([], 2, 2)
    assert scheduler.decide(at(1, {0: 4.0}), 1, 0) == [Train(0, 2)]
    assert scheduler.decide(at(2, {0: 2.0}), 1, 0) == [Train(0, 3)]
    assert scheduler.decide(at(1, {1: 4.0}), 1, 0) == [Train(1, 2)], "equal is not worse"
    assert scheduler.decide(at(2, {1: 3.0}), 1, 0) == [Train(1, 3)], "the average of 0 is 3, its best is 2"
    assert scheduler.decide(at(3, {0: 0.0, 1: 2.5}), 2, 0) == [Drop(1), Train(0, 4)], "the average is 2 now"
    assert scheduler.decide(at(4, {0: 99.0}), 1, 0) == [Train(0, 5)], "nobody else came so far"


def test_nobody_is_stopped_before_the_grace_period_or_with_too_few_others() -> None:
    scheduler = begun(MedianStopping(3, grace_period=2, min_samples_required=2))
    scheduler.decide([], 3, 3)
    assert scheduler.decide(at(1, {0: 0.0, 1: 0.0, 2: 9.0}), 3, 0) == [Train(trial, 2) for trial in range(3)]
    assert scheduler.decide(at(2, {0: 0.0, 2: 9.0}), 2, 0) == [Train(0, 3), Train(2, 3)]
    scheduler = begun(MedianStopping(3, grace_period=2, min_samples_required=2))
    scheduler.decide([], 3, 3)
    scheduler.decide(at(1, {0: 0.0, 1: 0.0, 2: 9.0}), 3, 0)
    assert scheduler.decide(at(2, {0: 0.0, 1: 0.0, 2: 9.0}), 3, 0) == [Drop(2), Train(0, 3), Train(1, 3)]


def test_the_median_of_an_even_number_is_the_middle() -> None:
    for score, stopped in ((3.0, False), (3.5, True)):
        scheduler = begun(MedianStopping(2, min_samples_required=2))
        scheduler.decide([], 3, 3)
        scheduler.decide(at(1, {0: 2.0}), 1, 0)
        scheduler.decide(at(1, {1: 4.0}), 1, 0)
        assert scheduler.decide(at(1, {2: score}), 1, 0) == ([Drop(2)] if stopped else [Train(2, 2)])


def test_a_failure_is_an_average_of_infinity_and_ends_the_trial() -> None:
    scheduler = begun(MedianStopping(3, min_samples_required=1))
    scheduler.decide([], 3, 3)
    failed = Report(0, 1, (0.0,), 0, (), failed=True)
    assert scheduler.decide([failed, *at(1, {1: math.nan, 2: 5.0})], 3, 0) == [Drop(0), Drop(1), Train(2, 2)]
    done = Report(2, 2, (5.0,), 0, (), done=True)
    assert scheduler.decide([done], 3, 0) == [Drop(2)]


def test_an_infinitely_good_score_stops_whoever_is_finite() -> None:
    scheduler = begun(MedianStopping(4, min_samples_required=1))
    scheduler.decide([], 2, 2)
    assert scheduler.decide(at(1, {0: -inf, 1: 0.0}), 2, 0) == [Drop(1), Train(0, 2)]
    assert scheduler.decide(at(2, {0: 3.0}), 2, 1) == [Train(0, 3), New(1)]
    assert scheduler.decide(at(1, {2: -inf}), 1, 0) == [Train(2, 2)]
    assert scheduler.decide(at(2, {2: 0.0}), 1, 0) == [Train(2, 3)], "its best is -inf, and so is the other's average"


def test_huge_scores_do_not_overflow() -> None:
    scheduler = begun(MedianStopping(4, min_samples_required=1))
    scheduler.decide([], 2, 2)
    huge = 1.7e308
    assert scheduler.decide(at(1, {0: huge, 1: huge}), 2, 0) == [Train(0, 2), Train(1, 2)]
    assert scheduler.decide(at(2, {0: huge, 1: huge}), 2, 0) == [Train(0, 3), Train(1, 3)]
    assert scheduler.decide(at(3, {0: -huge, 1: huge}), 2, 0) == [Drop(1), Train(0, 4)]


def test_budgets_are_granted_every_so_many_steps_and_never_beyond_max_t() -> None:
    scheduler = begun(MedianStopping(5, every=2))
    assert scheduler.decide([], 1, 9) == [New(2)]
    assert scheduler.decide(at(2, {0: 0.0}), 1, 8) == [Train(0, 4)]
    assert scheduler.decide(at(4, {0: 0.0}), 1, 8) == [Train(0, 5)]
    assert scheduler.decide(at(5, {0: 0.0}), 2, 8) == [Drop(0), New(2), New(2)]
    assert begun(MedianStopping(3, every=7)).decide([], 1, 1) == [New(3)]


def test_who_goes_on_waits_for_a_slot_the_oldest_first_and_before_fresh_trials() -> None:
    scheduler = begun(MedianStopping(3))
    scheduler.decide([], 2, 9)
    assert scheduler.decide(at(1, {1: 0.0, 0: 0.0}), 0, 0) == []
    assert scheduler.decide([], 1, 7) == [Train(0, 2)]
    assert scheduler.decide([], 3, 7) == [Train(1, 2), New(1), New(1)]


def test_bad_trials_are_stopped_early_in_a_whole_study() -> None:
    scheduler = begun(MedianStopping(10))
    story = simulate(scheduler, lambda trial, step: trial + 1 / step, trials=20, capacity=5)
    assert story.steps[0] == 10 and story.steps[19] == 1
    assert sorted(story.dropped) == list(range(20))

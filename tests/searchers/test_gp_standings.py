"""Standings: how good trials are, on one scale, where they were trained to different lengths."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st

from torchtune_hp.searchers.gp_standings import Standings
from torchtune_hp.searchers.gp_values import tamed
from torchtune_hp.trial import Report

Curves = dict[int, list[float]]     # trial -> what it reported at steps 1, 2, ...


def look(trial: int, step: int, value: float, done: bool = False, failed: bool = False) -> Report:
    return Report(trial, step, (value,), 0, (trial / 100,), done=done, failed=failed)


def y_of(*reports: Report, max_t: int | None = 50) -> list[float]:
    """Of the trials that have one, in order of their numbers."""
    standings = Standings(max_t)
    for report in reports:
        standings.tell(report)
    found = {round(100 * x[0]): y for x, y in standings.rows()}
    return [found[trial] for trial in sorted(found)]


def told(curves: Curves, max_t: int | None = 50, done: tuple[int, ...] = ()) -> list[float]:
    steps = range(1, 1 + max(map(len, curves.values())))
    some = [(trial, step) for step in steps for trial, values in curves.items() if step <= len(values)]
    return y_of(*(look(k, step, curves[k][step - 1], k in done and step == len(curves[k])) for k, step in some), max_t=max_t)


def order(y: list[float]) -> list[int]:
    return sorted(range(len(y)), key=y.__getitem__)


def test_trials_are_compared_at_the_longest_training_that_both_have() -> None:
    """Trial 2 is the best after one step and was stopped; 0 overtook 1 at the third, 3 both, though it was the worst at first."""
    y = told({0: [3.0, 3.0, 0.5], 1: [2.0, 1.0, 1.0], 2: [1.0], 3: [4.0, 0.1, 0.1]})
    assert order(y) == [2, 3, 0, 1]


def test_a_later_loss_is_not_better_for_being_later() -> None:
    """The trial that was trained on, since it was the best, keeps its place, and so do those that were stopped: none gains by a drop."""
    early: Curves = {trial: [10.0 + trial] for trial in range(9)}
    assert told(early | {0: [10.0, 0.001, 0.0001]}) == told(early)


def test_a_trial_that_was_stopped_stays_below_those_it_was_stopped_for() -> None:
    y = told({0: [1.0, 5.0], 1: [2.0, 6.0], 2: [3.0], 3: [4.0]})
    assert order(y) == [0, 1, 2, 3]


def test_what_counts_is_the_best_until_then() -> None:
    assert order(told({0: [3.0, 9.0, 9.0], 1: [4.0, 4.0, 4.0], 2: [5.0, 2.0, 8.0], 3: [7.0]})) == [2, 0, 1, 3]


def test_places_are_normal_scores_with_mean_0_and_variance_1() -> None:
    y = torch.tensor(told({trial: [math.exp(trial)] for trial in range(99)}), dtype=torch.float64)
    expected = torch.special.ndtri((torch.arange(99, dtype=torch.float64) + 0.5) / 99)
    assert torch.allclose(y, expected / expected.square().mean().sqrt(), atol=1e-12)


def test_equals_share_the_mean_of_their_places() -> None:
    y = told({0: [1.0], 1: [2.0], 2: [2.0], 3: [2.0], 4: [3.0]})
    assert y[1] == y[2] == y[3] == pytest.approx(0.0, abs=1e-12) and y[0] == -y[4]


def test_fully_trained_trials_keep_their_values_as_long_as_they_are_half() -> None:
    ends = [0.0, 0.1, 0.4, 1.6, 25.6]
    y = told({trial: [99.0, value] for trial, value in enumerate(ends)}, max_t=2)
    assert torch.allclose(torch.tensor(y).double(), tamed(torch.tensor(ends).double()))


def test_others_lie_between_them_by_their_places() -> None:
    """After one step trial 5 lies between 1 and 2, trial 6 below all, trial 7 above all."""
    curves: Curves = {trial: [50.0 + trial, value] for trial, value in enumerate([0.0, 0.1, 0.4, 1.6, 25.6])}
    y = told(curves | {5: [51.5], 6: [99.0], 7: [0.1]}, max_t=2)
    assert y[5] == pytest.approx((y[1] + y[2]) / 2) and y[6] == y[4] and y[7] == y[0]
    assert order(y[:5]) == [0, 1, 2, 3, 4]


def test_a_trial_that_ended_by_itself_is_fully_trained_whatever_its_length() -> None:
    ends = {0: [3.0, 1.0], 1: [2.0], 2: [5.0, 4.0, 3.0]}
    assert torch.allclose(torch.tensor(told(ends, max_t=None, done=(0, 1, 2))).double(), tamed(torch.tensor([1.0, 2.0, 3.0]).double()))


def test_where_max_t_is_not_known_the_largest_step_told_stands_for_it() -> None:
    assert told({0: [1.0, 0.5], 1: [2.0, 1.5]}, max_t=None) == told({0: [1.0, 0.5], 1: [2.0, 1.5]}, max_t=2)


def test_no_value_is_too_large_and_equals_are_all_0() -> None:
    for wild in (1e300, -1e300, 1.7e308):
        assert all(map(math.isfinite, told({0: [1.0], 1: [2.0], 2: [wild]}, max_t=1) + told({0: [1.0], 1: [2.0], 2: [wild]})))
    assert told({0: [1.0], 1: [1.0]}) == told({0: [1.0], 1: [1.0]}, max_t=1) == [0.0, 0.0] and told({0: [7.0]}) == [0.0]


def test_a_trial_that_failed_is_the_worst_of_those_that_were_trained_as_far() -> None:
    for wrong in (math.nan, math.inf, -math.inf):
        assert order(told({0: [1.0, wrong], 1: [2.0, 2.0], 2: [3.0, 3.0], 3: [4.0], 4: [5.0]})) == [1, 2, 0, 3, 4]
    early = [look(k, 1, k + 1.0) for k in range(5)]
    later = [look(1, 2, 2.0), look(2, 2, 3.0)]
    assert order(y_of(*early, *later, look(0, 2, math.inf, failed=True))) == [1, 2, 0, 3, 4], "told as a failure, as an executor does"
    assert order(told({0: [1.0, math.nan], 1: [2.0], 2: [3.0], 3: [4.0]})) == [0, 1, 2, 3], "none is as far, so its early look counts"


def test_where_every_trial_failed_after_a_finite_value_there_are_places() -> None:
    assert order(told({0: [1.0, math.nan], 1: [3.0, math.inf], 2: [2.0, math.nan]})) == [0, 1, 2], "equals: all failed as far"
    assert order(told({0: [1.0, math.nan], 1: [3.0, 2.0, math.inf]}, max_t=5)) == [1, 0]
    assert math.isfinite(sum(told({0: [1.0, math.nan], 1: [math.inf]})))


def test_one_that_recovers_has_not_failed() -> None:
    assert order(told({0: [math.inf, 1.0], 1: [2.0, 2.0], 2: [3.0], 3: [4.0]})) == [0, 1, 2, 3]


def test_one_without_a_finite_value_has_the_last_place_where_there_are_places_and_no_value_where_there_are_values() -> None:
    assert order(told({0: [math.inf], 1: [2.0], 2: [3.0], 3: [4.0]})) == [1, 2, 3, 0]
    assert order(y_of(look(0, 0, math.inf, failed=True), *(look(k, 3, float(k)) for k in (1, 2, 3)))) == [1, 2, 3, 0]
    assert y_of(look(0, 0, math.inf, failed=True)) == []
    standings = Standings(1)
    for trial, value in enumerate([1.0, math.nan, math.nan, math.nan, 3.0]):
        standings.tell(look(trial, 1, value, done=True))
    assert [x for x, _ in standings.rows()] == [(0.0,), (0.04,)] and len(standings) == 2


def test_equals_of_which_one_goes_on_share_a_place_behind_it() -> None:
    y = told({trial: [2.0] for trial in range(10)} | {5: [2.0, 2.0]})
    assert len({*y[:5], *y[6:]}) == 1 and y[5] < y[0]
    y = told({0: [5.0], 1: [5.0, 4.0], 2: [5.0], 3: [6.0, 5.0], 4: [4.0, 3.0]}, max_t=2)
    assert y[0] == y[2] > y[1]


def test_a_trial_first_seen_later_is_compared_with_those_that_were_trained_as_far() -> None:
    """Brackets begin at different steps: a poor loss after 27 steps is not better than a good one after 1."""
    early = [look(k, 1, 5.0 + k) for k in range(6)]
    went_on = [look(0, 27, 1.0), look(1, 27, 2.0)]
    assert order(y_of(*early, *went_on, look(9, 27, 1.5)))[:3] == [0, 6, 1], "between the two"
    assert order(y_of(*early, *went_on, look(9, 27, 0.5)))[0] == 6
    assert order(y_of(*early, *went_on, look(9, 27, 4.9))) == [0, 1, 2, 3, 6, 4, 5], "amid those that did not go on"
    assert abs(y_of(*early, look(9, 27, 4.9))[6]) < 0.5, "with nobody to compare it with it is in the middle"


def test_many_equals_are_all_0() -> None:
    for n in (13, 50, 131):
        assert told({trial: [0.1] for trial in range(n)}) == told({trial: [0.1] for trial in range(n)}, max_t=1) == [0.0] * n


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), min_size=1, max_size=40), st.sampled_from([None, 8, 20]))
def test_any_trials_have_standings_and_a_monotone_change_of_the_metric_keeps_places(curves: list[list[float]], max_t: int | None) -> None:
    y = told(dict(enumerate(curves)), max_t)
    found = torch.tensor(y, dtype=torch.float64)
    assert len(y) == len(curves) and found.isfinite().all() and abs(float(found.mean())) < 1e-9
    assert float(found.square().mean()) == pytest.approx(1.0) or not found.any()
    if 2 * sum(len(curve) >= (max_t or max(map(len, curves))) for curve in curves) < len(curves):
        assert told({k: [2 * value for value in curve] for k, curve in enumerate(curves)}, max_t) == y

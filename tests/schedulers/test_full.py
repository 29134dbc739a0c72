"""FullRuns by hand."""

from __future__ import annotations

import math

from torchtune_hp.schedulers import FullRuns
from torchtune_hp.trial import Drop, New, Report

from .simulate import setting, simulate


def test_free_slots_are_filled_with_full_runs() -> None:
    scheduler = FullRuns(max_t=7)
    scheduler.begin(setting())
    assert scheduler.decide([], 3, 10) == [New(7)] * 3
    assert scheduler.decide([], 3, 2) == [New(7)] * 2
    assert scheduler.decide([], 0, 5) == []


def test_who_has_ended_is_dropped_in_the_order_of_ids_before_a_fresh_trial_begins() -> None:
    scheduler = FullRuns()
    scheduler.begin(setting())
    reports = [Report(2, 9, (math.inf,), 0, (), failed=True), Report(0, 4, (0.5,), 0, (), done=True)]
    assert scheduler.decide(reports, 2, 1) == [Drop(0), Drop(2), New(None)]


def test_without_max_t_trials_run_to_their_own_end() -> None:
    scheduler = FullRuns()
    scheduler.begin(setting())
    story = simulate(scheduler, lambda trial, step: 0.0, trials=5, capacity=2, ends=lambda trial: 3 + trial)
    assert list(story.steps.values()) == [3, 4, 5, 6, 7]
    assert sorted(story.dropped) == list(range(5))


def test_several_objectives_are_served() -> None:
    scheduler = FullRuns(2)
    scheduler.begin(setting(objectives=3))
    assert scheduler.decide([Report(0, 2, (0.1, 0.2, 0.3), 0, ())], 1, 1) == [Drop(0), New(2)]

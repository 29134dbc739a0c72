"""What was told, as observations: which looks count, what they are worth, when to fit."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from torchtune_hp.searchers.gp_history import History, chosen, further
from torchtune_hp.trial import Report

INF = math.inf


def look(trial: int, step: int, *values: float, done: bool = False, failed: bool = False) -> Report:
    return Report(trial, step, values, 0, (trial / 100, 0.5), done=done, failed=failed)


def told(*reports: Report, max_t: int | None = None, exact: int = 1000) -> History:
    """Of one objective."""
    history = History(max_t, exact)
    history.tell(reports)
    return history


def looked(*reports: Report, max_t: int | None = None) -> History:
    """Of two objectives, the second always 0: rows are looks."""
    history = History(max_t, 1000, objectives=2)
    history.tell([replace(report, values=(*report.values, 0.0)) for report in reports])
    return history


def rows(history: History) -> list[tuple[int, bool, float]]:
    return [(row.step, row.ended, row.values[0]) for row in history.training_set()]


def test_of_one_objective_each_trial_is_one_row_fully_trained() -> None:
    history = told(look(0, 1, 5.0), look(1, 1, 4.0), look(0, 2, 3.0), look(2, 1, 9.0, done=True), max_t=16)
    assert [row.x for row in history.training_set()] == [(0.0, 0.5), (0.01, 0.5), (0.02, 0.5)] and len(history) == 3
    assert history.points(history.training_set())[:, 2].tolist() == [1.0, 1.0, 1.0]


def test_of_several_looks_at_powers_of_four_are_kept_and_the_newest() -> None:
    history = looked(*(look(0, step, 100.0 - step) for step in range(1, 28)))
    assert [step for step, _, _ in rows(history)] == [1, 4, 16, 27]
    history = looked(*(look(0, step, 100.0 - step) for step in (3, 9, 16)))
    assert [step for step, _, _ in rows(history)] == [16], "a look that is not kept gives way to the next"


def test_a_look_is_worth_the_best_its_trial_reported_up_to_there() -> None:
    history = looked(*(look(0, step, value) for step, value in ((1, 5.0), (2, 1.0), (3, 4.0), (4, 3.0), (5, 0.5))))
    assert rows(history) == [(1, False, 5.0), (4, False, 1.0), (5, False, 0.5)]


def test_of_several_objectives_a_look_is_worth_one_report_of_its_trial_and_no_mixture() -> None:
    reported = [(0.0, 10.0), (10.0, 0.0), (11.0, 1.0), (5.0, 5.0), (6.0, 12.0), (5.0, 5.0), (4.0, 4.0)]
    expected = [(0.0, 10.0), (10.0, 0.0), (10.0, 0.0), (5.0, 5.0), (5.0, 5.0), (5.0, 5.0), (4.0, 4.0)]
    history, newest = History(None, 1000, objectives=2), []
    for step, values in enumerate(reported, 1):
        history.tell([look(0, step, *values)])
        newest.append(history.training_set()[-1].values)
    assert newest == expected
    assert [row.values for row in history.training_set()] == [(0.0, 10.0), (5.0, 5.0), (4.0, 4.0)]


def test_an_end_without_a_further_step_takes_the_place_of_the_look_at_it() -> None:
    assert rows(looked(look(0, 4, 1.0), look(0, 4, 1.0, done=True))) == [(4, True, 1.0)]


def test_the_fidelity_is_the_share_of_max_t_and_whole_for_a_trial_that_ended_by_itself() -> None:
    history = looked(look(1, 4, 1.0), look(2, 8, 1.0), look(3, 2, 1.0, done=True), max_t=16)
    x = history.points(history.training_set())
    assert x.dtype == torch.float64
    assert x.tolist() == [[0.01, 0.5, 0.25], [0.02, 0.5, 0.5], [0.03, 0.5, 1.0]]


def test_where_max_t_is_not_known_the_largest_step_told_stands_for_it() -> None:
    history = looked(look(1, 4, 1.0), look(2, 8, 1.0))
    assert history.points(history.training_set())[:, 2].tolist() == [0.5, 1.0]


def test_failures_and_infinite_scores_are_no_observations_where_there_are_values_and_their_finite_looks_stay() -> None:
    reports = [look(0, 1, 1.0), look(0, 2, INF, failed=True), look(1, 1, INF), look(3, 0, INF, failed=True)]
    history = told(*reports, look(4, 2, 1.0))
    assert [row.x for row in history.training_set()] == [(0.0, 0.5), (0.04, 0.5)]
    assert len(told(*reports, look(4, 2, 1.0), max_t=50).training_set()) == 4, "where there are places they have the last ones"
    assert history.failed == {0, 1, 3} and list(history.tried) == [0, 1, 3, 4]
    assert len(looked(look(2, 1, INF))) == 0


def test_milestones_double_to_16_rows_grow_by_a_quarter_to_64_and_by_an_eighth_from_there() -> None:
    history = told(*(look(k, 1, float(k)) for k in range(130)))
    assert [len(rows) for rows in history.milestones] == [2, 4, 8, 16, 20, 25, 31, 38, 47, 58, 72, 81, 91, 102, 114, 128]
    assert [further(n) for n in (2, 8, 16, 63, 64, 1000)] == [2, 8, 4, 15, 8, 125]


def test_with_several_objectives_milestones_grow_by_an_eighth_from_8_rows_on() -> None:
    """Processes of a front are told nothing twice: what they were at 16 rows says little of what they are at 31."""
    history = History(None, 1000, objectives=2)
    history.tell([look(k, 1, float(k), 0.0) for k in range(30)])
    assert [len(rows) for rows in history.milestones] == [2, 4, *range(8, 16), *range(16, 24, 2), *range(24, 31, 3)]


def test_how_reports_were_cut_into_calls_does_not_matter() -> None:
    reports = [look(k % 7, 1 + k // 7, math.sin(k)) for k in range(70)]
    one, many = told(*reports), History(None, 1000)
    for report in reports:
        many.tell([report])
    assert one.training_set() == many.training_set() and one.milestones == many.milestones


def test_a_milestone_remembers_its_training_set_as_it_was() -> None:
    history = told(look(0, 1, 5.0), look(1, 1, 4.0))
    before = history.milestones[0]
    history.tell([look(0, 2, 3.0)])
    assert [row.values for row in history.milestones[0]] == [row.values for row in before] == [(1.0,), (-1.0,)]
    assert [row.values for row in history.training_set()] != [(1.0,), (-1.0,)]
    history = looked(look(0, 1, 5.0), look(0, 2, 4.0))
    history.tell([look(0, 3, 3.0, 0.0)])
    assert [step for step, _, _ in rows(history)] == [1, 3]
    assert [row.step for row in history.milestones[0]] == [1, 2]


def test_beyond_exact_rows_the_best_the_newest_and_some_of_all_times_are_chosen_in_their_order() -> None:
    history = told(*(look(k, 1, float((k * 37) % 101)) for k in range(101)), exact=40)
    some = history.training_set()
    trials = [round(row.x[0] * 100) for row in some]
    assert len(some) == 40 == len(set(trials)) and trials == sorted(trials)
    assert set(range(91, 101)) <= set(trials), "the newest quarter"
    older = sorted(range(91), key=lambda k: (k * 37) % 101)[:10]
    assert set(older) <= set(trials), "the best quarter"
    rest = [k for k in trials if k < 91 and k not in older]
    assert len(rest) == 20 and max(b - a for a, b in zip(rest, rest[1:])) <= 10, "evenly spread"
    assert history.cut and not told(look(0, 1, 1.0), exact=40).cut
    assert all(len(milestone) <= 40 for milestone in history.milestones)
    assert chosen(some, 40) == some

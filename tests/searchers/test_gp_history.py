"""What was told, as observations: which looks count, what they are worth, when to fit."""

from __future__ import annotations

import math

import pytest
import torch

from torchtune_hp.searchers.gp_history import History, chosen, scalarized, tamed
from torchtune_hp.trial import Report

INF = math.inf


def look(trial: int, step: int, *values: float, done: bool = False, failed: bool = False) -> Report:
    return Report(trial, step, values, 0, (trial / 100, 0.5), done=done, failed=failed)


def told(*reports: Report, max_t: int | None = None, exact: int = 1000) -> History:
    history = History(max_t, exact)
    history.tell(reports)
    return history


def test_looks_at_powers_of_four_are_kept_and_the_newest() -> None:
    history = told(*(look(0, step, 100.0 - step) for step in range(1, 28)))
    assert [row.step for row in history.rows] == [1, 4, 16, 27]
    history = told(*(look(0, step, 100.0 - step) for step in (3, 9, 16)))
    assert [row.step for row in history.rows] == [16], "a look that is not kept gives way to the next"


def test_a_look_is_worth_the_best_its_trial_reported_up_to_there() -> None:
    history = told(*(look(0, step, value) for step, value in ((1, 5.0), (2, 1.0), (3, 4.0), (4, 3.0), (5, 0.5))))
    assert [(row.step, row.values) for row in history.rows] == [(1, (5.0,)), (4, (1.0,)), (5, (0.5,))]


def test_an_end_without_a_further_step_takes_the_place_of_the_look_at_it() -> None:
    history = told(look(0, 4, 1.0), look(0, 4, 1.0, done=True))
    assert [(row.step, row.ended) for row in history.rows] == [(4, True)]


def test_the_fidelity_is_the_share_of_max_t_and_whole_for_a_trial_that_ended_by_itself() -> None:
    history = told(look(1, 4, 1.0), look(2, 8, 1.0), look(3, 2, 1.0, done=True), max_t=16)
    x = history.points(history.rows)
    assert x.dtype == torch.float64
    assert x.tolist() == [[0.01, 0.5, 0.25], [0.02, 0.5, 0.5], [0.03, 0.5, 1.0]]


def test_where_max_t_is_not_known_the_largest_step_told_stands_for_it() -> None:
    history = told(look(1, 4, 1.0), look(2, 8, 1.0))
    assert history.points(history.rows)[:, 2].tolist() == [0.5, 1.0]


def test_failures_and_infinite_scores_are_no_observations_and_their_finite_looks_stay() -> None:
    history = told(look(0, 1, 1.0), look(0, 2, INF, failed=True), look(1, 1, INF), look(2, 1, 2.0, INF), look(3, 0, INF, failed=True))
    assert [row.values for row in history.rows] == [(1.0,)]
    assert history.failed == {0, 1, 2, 3} and list(history.tried) == [0, 1, 2, 3]


def test_milestones_double_to_64_rows_and_grow_by_an_eighth_from_there() -> None:
    history = told(*(look(k, 1, float(k)) for k in range(130)))
    assert [len(rows) for rows in history.milestones] == [2, 4, 8, 16, 32, 64, 72, 81, 91, 102, 114, 128]


def test_how_reports_were_cut_into_calls_does_not_matter() -> None:
    reports = [look(k % 7, 1 + k // 7, math.sin(k)) for k in range(70)]
    one, many = told(*reports), History(None, 1000)
    for report in reports:
        many.tell([report])
    assert one.rows == many.rows and one.milestones == many.milestones


def test_a_milestone_remembers_its_training_set_as_it_was() -> None:
    history = told(look(0, 1, 5.0), look(0, 2, 4.0))
    history.tell([look(0, 3, 3.0)])
    assert [row.step for row in history.rows] == [1, 3]
    assert [row.step for row in history.milestones[0]] == [1, 2]


def test_beyond_exact_rows_the_best_the_newest_and_some_of_all_times_are_chosen_in_their_order() -> None:
    history = told(*(look(k, 1, float((k * 37) % 101)) for k in range(101)), exact=40)
    rows = history.training_set()
    trials = [round(row.x[0] * 100) for row in rows]
    assert len(rows) == 40 == len(set(trials)) and trials == sorted(trials)
    assert set(range(91, 101)) <= set(trials), "the newest quarter"
    older = sorted(range(91), key=lambda k: (k * 37) % 101)[:10]
    assert set(older) <= set(trials), "the best quarter"
    rest = [k for k in trials if k < 91 and k not in older]
    assert len(rest) == 20 and max(b - a for a, b in zip(rest, rest[1:])) <= 10, "evenly spread"
    assert history.cut and not told(look(0, 1, 1.0), exact=40).cut
    assert all(len(milestone) <= 40 for milestone in history.milestones)
    assert chosen(rows, 40) == rows


@pytest.mark.parametrize("wild", [1e3, 1e30, 1e300, -1e30, 1.7e308, -1.7e308])
def test_no_single_value_bends_the_others(wild: float) -> None:
    calm = torch.linspace(0, 1, 20, dtype=torch.float64)
    y = tamed(torch.cat([calm, torch.tensor([wild], dtype=torch.float64)]))
    assert y.isfinite().all()
    assert y[:20].diff().min() > 0.0
    if wild > 0:
        assert y[:20].std() > 0.5 and y[20] > y[19]
    else:
        assert y[20] < y[0]


def test_taming_keeps_the_order_and_gives_mean_0_and_variance_1() -> None:
    values = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).exp()
    y = tamed(values)
    assert torch.equal(y.argsort(-1), values.argsort(-1))
    assert torch.allclose(y.mean(-1), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(y.square().mean(-1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(tamed(1e6 * values - 7), y, atol=1e-9), "the unit of a metric does not matter"


def test_equal_values_are_tamed_to_zeros() -> None:
    assert tamed(torch.full((5,), 1e30, dtype=torch.float64)).tolist() == [0.0] * 5


def test_each_point_of_a_front_is_least_under_some_scalarization() -> None:
    front = torch.tensor([[0.0, 0.4, 0.6, 1.0], [1.0, 0.6, 0.4, 0.0]], dtype=torch.float64)
    behind = torch.tensor([[0.9], [0.9]], dtype=torch.float64)
    first = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    least = scalarized(torch.cat([front, behind], 1), torch.stack([first, 1 - first], 1)).argmin(1)
    assert set(least.tolist()) == {0, 1, 2, 3}

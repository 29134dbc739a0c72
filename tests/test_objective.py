"""Metrics -> what is minimized."""

import math

import pytest

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.objective import VIOLATED, Constraint, Objective

INF = math.inf


@pytest.mark.parametrize(
    ("mode", "metrics", "expected"),
    [
        ("min", {"m": 2.5}, 2.5), ("max", {"m": 2.5}, -2.5), ("min", {"m": 3}, 3.0), ("max", {"m": 0}, 0.0),
        ("min", {"m": math.nan}, INF), ("max", {"m": math.nan}, INF), ("min", {"m": INF}, INF), ("max", {"m": INF}, INF),
        ("min", {"m": -INF}, INF), ("max", {"m": -INF}, INF), ("min", {}, INF), ("min", {"m": "1"}, INF), ("min", {"m": True}, INF),
        ("min", {"m": None}, INF), ("min", {"m": 1e308}, 1e308), ("max", {"m": -1e308}, 1e308),
    ],
)  # fmt: skip
def test_smaller_is_better_and_whatever_is_no_finite_number_is_worst(mode: str, metrics: dict, expected: float) -> None:
    assert Objective("m", mode).values(metrics) == (expected,)


def test_one_metric_that_is_not_finite_makes_all_of_them_worst() -> None:
    objective = Objective(["a", "b"], ["min", "max"])
    assert objective.values({"a": 1.0, "b": 2.0}) == (1.0, -2.0)
    assert objective.values({"a": 1.0, "b": math.nan}) == (INF, INF)


def test_one_mode_serves_several_metrics() -> None:
    assert Objective(["a", "b"], "max").values({"a": 1.0, "b": 2.0}) == (-1.0, -2.0)


def test_own_gives_a_value_back_in_the_users_direction() -> None:
    assert Objective("m", "max").own(0.9) == -0.9
    assert Objective("m", "min").own(0.9) == 0.9


def test_a_violated_constraint_ranks_behind_every_feasible_report_by_how_much() -> None:
    objective = Objective("m", "min", ["params <= 100", "recall>=0.5"])
    fine = objective.values({"m": 1e12, "params": 100, "recall": 0.5})[0]
    little = objective.values({"m": -5.0, "params": 101, "recall": 0.5})[0]
    more = objective.values({"m": -5.0, "params": 300, "recall": 0.5})[0]
    both = objective.values({"m": -5.0, "params": 300, "recall": 0.1})[0]
    unknown = objective.values({"m": -5.0, "params": math.nan, "recall": 1})[0]
    assert fine == 1e12 < VIOLATED < little < more < both < unknown == 2 * VIOLATED
    assert little == VIOLATED * (1 + 0.01 / 1.01)
    assert objective.values({"m": math.nan, "params": 300, "recall": 0.1}) == (INF,)


def test_needed_names_each_metric_once() -> None:
    assert Objective(["a", "b"], "min", ["b <= 1", "c >= 2"]).needed == ("a", "b", "c")
    assert Objective("a", "min", ["b <= 1"]).texts == ("b <= 1",)


@pytest.mark.parametrize(
    ("text", "constraint"),
    [
        ("params <= 50_000", Constraint("params", 1.0, 50_000.0)),
        ("  val/recall>=.5 ", Constraint("val/recall", -1.0, 0.5)),
        ("a b <= -1e-3", Constraint("a b", 1.0, -1e-3)),
        ("x <= inf", Constraint("x", 1.0, INF)),
    ],
)
def test_constraints_are_read(text: str, constraint: Constraint) -> None:
    assert Constraint.parse(text) == constraint


def test_violation_is_relative_to_bounds_above_one() -> None:
    assert Constraint("p", 1.0, 50.0).violation({"p": 60}) == 0.2
    assert Constraint("p", -1.0, 0.5).violation({"p": 0.25}) == 0.25
    assert Constraint("p", 1.0, 50.0).violation({"p": 50}) == 0.0
    assert Constraint("p", 1.0, 50.0).violation({}) == INF


@pytest.mark.parametrize("text", ["params < 5", "params", "<= 5", "a <= b", "a <= 1 <= 2", "a <= 1e", 7])
def test_a_constraint_that_cannot_be_read_says_so(text: object) -> None:
    with pytest.raises(ConfigurationError, match="outcome_constraints"):
        Objective("m", "min", [text])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="outcome_constraints"):
        Objective("m", "min", text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "mode", "words"),
    [
        ("m", "maximize", 'mode: must be "min" or "max", but got \'maximize\''),
        (["a", "b"], ["min"], "mode: one for each metric is needed, but got 1 for 2"),
        (["a", "a"], "min", "each name may stand once"),
        ([], "min", "metric: expected the name of a metric"),
        ("", "min", "metric: expected the name of a metric"),
        ([3], "min", "metric: expected the name of a metric"),
        (3, "min", "metric: expected the name of a metric, or a list of names, but got 3"),
        ([["a"]], "min", "metric: expected the name of a metric"),
        ("m", 3, 'mode: must be "min" or "max", but got 3'),
    ],
)
def test_wrong_goals_are_refused(metric: object, mode: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Objective(metric, mode)  # type: ignore[arg-type]


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Objective(["a", "a"], ["up", "down"])  # type: ignore[list-item]
    assert len(str(caught.value).splitlines()) == 2


def test_one_constraint_may_stand_alone() -> None:
    objective = Objective("loss", "min", "params <= 3")
    assert objective.texts == ("params <= 3",) and objective.needed == ("loss", "params")

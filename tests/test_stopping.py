"""Rules that end one trial."""

from __future__ import annotations

import math
from typing import Any

import pytest

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.objective import Objective
from torchtune_hp.stopping import AnyOf, MaxSteps, Plateau, Predicate, Threshold, most_steps, stop_rule


def first_end(rule: Any, losses: list[float], metric: str = "loss", mode: Any = "min", trial: int = 0) -> int | None:
    rule.begin(Objective(metric, mode))
    for step, loss in enumerate(losses, 1):
        if rule.ends(trial, step, {metric: loss}):
            return step
    return None


def test_max_steps_ends_at_its_step() -> None:
    assert first_end(MaxSteps(3), [1.0] * 9) == 3
    assert first_end(MaxSteps(1), [1.0] * 9) == 1


@pytest.mark.parametrize(
    ("rule", "losses", "end"),
    [
        (Plateau(2), [5, 4, 4, 4, 4], 4),
        (Plateau(2), [5, 4, 3, 2, 1], None),
        (Plateau(1), [5, 5], 2),
        (Plateau(3), [5, 6, 7, 4, 9, 9, 9], 7),
        (Plateau(2, min_delta=1.0), [5, 4.5, 4, 3.5], 3),
        (Plateau(2, min_delta=1.0), [5, 3.9, 2.8, 1.7], None),
        (Plateau(1, grace_period=4), [5, 5, 5, 5, 5, 5], 5),
        (Plateau(2), [math.nan, math.nan, math.nan], 3),
        (Plateau(2), [math.nan, 1, 2, 3], 4),
    ],
)
def test_plateau_ends_a_trial_that_stopped_improving(rule: Plateau, losses: list[float], end: int | None) -> None:
    assert first_end(rule, losses) == end


def test_plateau_follows_the_studys_direction_or_a_metric_of_its_own() -> None:
    assert first_end(Plateau(2), [1, 2, 3, 3, 3], mode="max") == 5
    own = Plateau(1, metric="other", mode="max")
    own.begin(Objective("loss", "min"))
    assert [own.ends(0, step, {"loss": -step, "other": value}) for step, value in ((1, 1), (2, 2), (3, 2))] == [False, False, True]


def test_plateau_follows_a_direction_of_its_own_on_the_studys_metric() -> None:
    assert first_end(Plateau(2, mode="max"), [1, 2, 3, 4, 5]) is None
    assert first_end(Plateau(2, mode="min"), [1, 2, 3, 4, 5], mode="max") == 3


def test_a_plateau_of_a_metric_that_the_first_report_does_not_hold_is_refused() -> None:
    rule = Plateau(3, metric="losss", mode="min")
    for _ in range(2):          # each study has a first report
        rule.begin(Objective("accuracy", "max"))
        assert not rule.ends(0, 1, {})
        with pytest.raises(ConfigurationError, match=r"stop: .*first report holds \['accuracy', 'loss'\] and not \['losss'\]\. Correct"):
            rule.ends(1, 1, {"loss": 1.0, "accuracy": 0.5})
    right = Plateau(2, metric="loss", mode="min")
    right.begin(Objective("accuracy", "max"))
    assert [right.ends(0, step, metrics) for step, metrics in enumerate([{"loss": 1.0}, {}, {}], 1)] == [False, False, True]


def test_plateau_tells_trials_apart_and_forgets() -> None:
    rule = Plateau(1)
    rule.begin(Objective("loss", "min"))
    assert not rule.ends(0, 1, {"loss": 1}) and not rule.ends(1, 1, {"loss": 2})
    assert not rule.ends(1, 2, {"loss": 1.5}) and rule.ends(0, 2, {"loss": 1.5})
    rule.forget(0)
    rule.forget(7)
    assert not rule.ends(0, 3, {"loss": 9})


def test_thresholds_follow_the_metrics_direction_and_are_maximized_otherwise() -> None:
    rule = Threshold({"loss": 0.5, "steps": 10})
    rule.begin(Objective("loss", "min"))
    assert rule.ends(0, 1, {"loss": 0.5, "steps": 0}) and rule.ends(0, 1, {"loss": 0.6, "steps": 10}) and rule.ends(0, 1, {"steps": 11})
    assert (
        not rule.ends(0, 1, {"loss": 0.6, "steps": 9}) and not rule.ends(0, 1, {"loss": math.nan}) and not rule.ends(0, 1, {"loss": "low"})
    )


def test_a_threshold_on_a_metric_that_the_first_report_does_not_hold_is_refused() -> None:
    rule = stop_rule([{"acuracy": 0.95, "loss": 0.1}])
    assert rule is not None
    rule.begin(Objective("accuracy", "max"))
    assert not rule.ends(0, 1, {})              # a trial that ended without a report says nothing of names
    message = r"first report holds \['accuracy', 'loss'\] and not \['acuracy'\]\. Correct the name, or report it from the first step on"
    with pytest.raises(ConfigurationError, match=message):
        rule.ends(1, 1, {"loss": 1.0, "accuracy": 0.5})


def test_a_threshold_may_miss_a_metric_after_the_first_report_and_each_study_has_a_first() -> None:
    rule = Threshold({"accuracy": 0.9})
    for _ in range(2):
        rule.begin(Objective("accuracy", "max"))
        assert not rule.ends(0, 1, {"accuracy": math.nan}) and not rule.ends(0, 2, {"loss": 1.0})
    rule.begin(Objective("accuracy", "max"))
    with pytest.raises(ConfigurationError, match="accuracy"):
        rule.ends(0, 2, {"loss": 1.0})


def test_a_predicate_sees_trial_metrics_and_step() -> None:
    rule = Predicate(lambda trial, metrics: trial == 3 and metrics["training_iteration"] == 2 and metrics["loss"] < 1)
    rule.begin(Objective("loss", "min"))
    assert rule.ends(3, 2, {"loss": 0.5}) is True
    assert rule.ends(3, 1, {"loss": 0.5}) is False and rule.ends(2, 2, {"loss": 0.5}) is False


def test_any_of_several_ends_a_trial_and_each_hears_of_every_look() -> None:
    rule = AnyOf([MaxSteps(2), Plateau(3)])
    rule.begin(Objective("loss", "min"))
    assert [rule.ends(0, step, {"loss": 1.0}) for step in (1, 2, 3, 4)] == [False, True, True, True]
    plateau = rule.rules[1]
    plateau._best.clear()  # type: ignore[attr-defined]
    rule.forget(0)
    assert [first_end(AnyOf([MaxSteps(9), Plateau(1)]), [1, 1, 1])] == [2]


def test_the_steps_of_several_rules_are_the_least_of_those_that_count_steps() -> None:
    assert most_steps(None) is most_steps(Plateau(3)) is most_steps(AnyOf([Plateau(3), Threshold({"loss": 1.0})])) is None
    assert most_steps(MaxSteps(4)) == 4
    assert most_steps(stop_rule({"training_iteration": 7, "accuracy": 0.9})) == 7
    assert most_steps(stop_rule([MaxSteps(9), Plateau(3), [MaxSteps(5), {"training_iteration": 6, "loss": 0.0}]])) == 5


def test_what_is_written_becomes_a_rule() -> None:
    assert stop_rule(None) is None and stop_rule([]) is None
    plateau = Plateau(3)
    assert stop_rule(plateau) is plateau
    threshold = stop_rule({"accuracy": 0.9})
    assert isinstance(threshold, Threshold) and threshold.values == {"accuracy": 0.9}
    steps = stop_rule({"training_iteration": 7})
    assert isinstance(steps, MaxSteps) and steps.steps == 7
    both = stop_rule({"training_iteration": 7, "accuracy": 0.9})
    assert isinstance(both, AnyOf) and [type(rule) for rule in both.rules] == [MaxSteps, Threshold]
    several = stop_rule([plateau, None, {"loss": 1}, print])
    assert isinstance(several, AnyOf) and [type(rule) for rule in several.rules] == [Plateau, Threshold, Predicate]


@pytest.mark.parametrize("wrong", [{}, {"loss": "low"}, {"loss": True}, 5, "loss"])
def test_what_is_no_rule_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="stop: "):
        stop_rule(wrong)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MaxSteps(0), "`steps >= 1` must hold for an int, but got 0"),
        (lambda: MaxSteps(1.5), "got 1.5"),
        (lambda: MaxSteps(True), "got True"),
        (lambda: Plateau(0), "`patience >= 1`"),
        (lambda: Plateau(1, min_delta=-1), "`min_delta >= 0`"),
        (lambda: Plateau(1, min_delta=math.inf), "`min_delta >= 0`"),
        (lambda: Plateau(1, grace_period=-1), "`grace_period >= 0`"),
        (lambda: Plateau(1, mode="up"), 'must be "min", "max" or None'),
        (lambda: Plateau(1, metric="x"), "needs mode="),
    ],
)
def test_wrong_arguments_are_named(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_a_predicate_that_raises_is_named_with_trial_and_step() -> None:
    def wrong(trial: int, metrics: dict[str, Any]) -> bool:
        return bool(metrics["nope"])

    with pytest.raises(ConfigurationError, match=r"stop: .*wrong.* raised KeyError\('nope'\) for trial 4 at step 2\."):
        Predicate(wrong).ends(4, 2, {"loss": 1.0})


@pytest.mark.parametrize(
    ("wrong", "words"), [(Plateau, r"got the class Plateau; write Plateau\(\.\.\.\)"), ({"loss": math.inf}, "got .*inf")]
)
def test_classes_and_bounds_that_are_not_finite_are_refused(wrong: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        stop_rule(wrong)

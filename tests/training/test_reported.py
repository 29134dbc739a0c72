"""Cleaning and checking reports: what is kept, what is dropped with a note, what is an error."""

import enum
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from torchtune_hp.errors import ReportError
from torchtune_hp.training.reported import Cleaner, is_news


class Color(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (0.5, 0.5), (3, 3.0), (np.float32(0.5), 0.5), (np.float64(0.5), 0.5), (np.int64(3), 3.0), (np.longdouble(0.5), 0.5),
        (torch.tensor(0.5), 0.5), (torch.tensor(3), 3.0), (torch.tensor(0.5, requires_grad=True), 0.5), (np.array(0.5), 0.5),
        (Fraction(1, 2), 0.5), (math.inf, math.inf),
    ],
)  # fmt: skip
def test_every_kind_of_number_becomes_a_float(given, kept):
    clean, notes = Cleaner(7, ("loss",))({"loss": given})
    assert clean == {"loss": kept} and type(clean["loss"]) is float and notes == ()


def test_an_int_too_large_for_a_float_becomes_infinite():
    assert Cleaner(7, ())({"up": 10**400, "down": -(10**400)})[0] == {"up": math.inf, "down": -math.inf}


@pytest.mark.parametrize(
    ("given", "kept"),
    [(True, True), (False, False), (np.bool_(True), True), (torch.tensor(True), True), ("sgd", "sgd"), (np.str_("sgd"), "sgd"),
     (None, None), (Color.RED, "red")],
)  # fmt: skip
def test_bool_str_and_none_are_kept_as_they_are(given, kept):
    clean, notes = Cleaner(7, ())({"extra": given})
    assert clean == {"extra": kept} and type(clean["extra"]) is type(kept) and notes == ()


@pytest.mark.parametrize(
    "value", [[1.0], {"a": 1.0}, (1.0,), torch.zeros(1), np.zeros(1), object(), 1j, torch.tensor(1j), np.timedelta64(1, "s"), b"x"]
)
def test_anything_else_is_dropped_with_a_note(value):
    clean, notes = Cleaner(7, ("loss",))({"loss": 1.0, "extra": value})
    assert clean == {"loss": 1.0}
    assert len(notes) == 1 and "Trial 7" in notes[0] and "'extra'" in notes[0]


def test_a_dropped_key_is_noted_once_per_trial():
    clean = Cleaner(7, ())
    assert len(clean({"a": [], "b": []})[1]) == 2
    assert clean({"a": [], "b": []})[1] == ()
    assert len(clean({"a": [], "c": []})[1]) == 1


def test_a_key_that_is_no_str_is_dropped_with_a_note():
    clean, notes = Cleaner(7, ())({3: 1.0})
    assert clean == {} and "name of a metric is a str" in notes[0] and "3" in notes[0]


def test_the_key_of_a_str_subclass_becomes_a_str():
    clean, _ = Cleaner(7, ("red",))({Color.RED: 1.0})
    assert clean == {"red": 1.0} and type(next(iter(clean))) is str


@pytest.mark.parametrize("value", [math.nan, float("-inf"), torch.tensor(math.nan), np.float32("nan")])
def test_nan_and_infinities_pass(value):
    assert not math.isfinite(Cleaner(7, ("loss",))({"loss": value})[0]["loss"])


@pytest.mark.parametrize(
    ("value", "kind"),
    [("0.5", "'0.5' of type str"), (True, "True of type bool"), (None, "None"), ([0.5], "a value of type list"), (1j, "1j of type complex"),
     (torch.zeros(3), "a tensor of shape (3,)"), (np.zeros((1, 2)), "an array of shape (1, 2)"), (np.bool_(True), "a value of type bool")],
)  # fmt: skip
def test_a_needed_metric_of_a_wrong_type_is_named_with_trial_key_and_type(value, kind):
    with pytest.raises(ReportError) as caught:
        Cleaner(7, ("loss",))({"loss": value})
    assert str(caught.value) == (
        f"Trial 7: the metric 'loss' must be a number (int, float, 0-dim tensor or numpy scalar), but report() gave {kind}."
    )


def test_a_misspelt_metric_is_guessed():
    with pytest.raises(ReportError) as caught:
        Cleaner(7, ("loss", "accuracy"))({"loss": 1.0, "Acuracy": 0.5}, "train()'s yield")
    assert str(caught.value) == (
        "Trial 7: the metric 'accuracy' must be in every report, but train()'s yield gave only ['loss', 'Acuracy']. Did you mean 'Acuracy'?"
    )


def test_a_missing_metric_without_a_near_name_says_what_came():
    with pytest.raises(ReportError) as caught:
        Cleaner(7, ("loss",))({"epoch": 1, 3: 4})
    assert str(caught.value).endswith("report() gave only ['epoch']. Report it under the name 'loss'.")
    with pytest.raises(ReportError, match="report\\(\\) gave none. Report it"):
        Cleaner(7, ("loss",))({})


@pytest.mark.parametrize(("result", "kind"), [(None, "None"), (0.5, "a value of type float"), ([("loss", 1)], "a value of type list")])
def test_what_is_no_dict_is_refused(result, kind):
    with pytest.raises(ReportError) as caught:
        Cleaner(7, ("loss", "top5"))(result, "Net.step()")
    assert str(caught.value) == f"Trial 7: Net.step() must give a dict of metrics such as {{'loss': ..., 'top5': ...}}, but gave {kind}."
    with pytest.raises(ReportError, match="dict of metrics, but"):
        Cleaner(7, ())(result)


def test_news_is_what_the_report_before_did_not_hold():
    last = {"loss": 1.0, "note": None, "nan": math.nan}
    assert not is_news({}, last)
    assert not is_news({"loss": 1.0, "nan": float("nan")}, last)
    assert is_news({"loss": 2.0}, last)
    assert is_news({"loss": 1.0, "extra": 1.0}, last)
    assert is_news({"note": False}, last)
    assert is_news({"loss": True}, last)

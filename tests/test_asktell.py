"""AskTell at its border: what it takes for a metric and for an argument, and what it says of anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import torchtune_hp as hp

SPACE = {"x": hp.uniform(0.0, 1.0)}


def told(metrics: Any, **arguments: Any) -> Any:
    study = hp.AskTell(SPACE, **{"metric": "y", "mode": "min", **arguments})
    trial = study.ask()
    assert trial is not None
    study.tell(trial, metrics)
    return study


@pytest.mark.parametrize("number", [0.25, 1, np.float32(0.25), np.int64(2), torch.tensor(0.25), torch.tensor(3), np.array(0.5)])
def test_a_number_is_one_of_python_numpy_or_torch_bare_or_in_a_dict(number: Any) -> None:
    for metrics in (number, {"y": number, "name": "a", "fine": np.bool_(True), "none": None}):
        found = told(metrics).best[1]
        assert found["y"] == float(number) and type(found["y"]) is float
    assert found == {"y": float(number), "name": "a", "fine": True, "none": None} and type(found["fine"]) is bool


@pytest.mark.parametrize("wrong", ["0.3", True, None, torch.zeros(2), [0.3], np.zeros(2), 1j])
def test_what_is_no_number_is_an_error_and_scores_nothing(wrong: Any) -> None:
    for metrics in (wrong, {"y": wrong}):
        study = hp.AskTell(SPACE, metric="y", mode="min")
        trial = study.ask()
        assert trial is not None
        with pytest.raises(hp.ReportError, match=r"Trial 0: the metric 'y' must be a number .*but tell\(\) gave "):
            study.tell(trial, metrics)
        assert study.steps(trial) == 0 and study.tell(trial, 0.5) is False and study.best[1] == {"y": 0.5}


def test_a_metric_that_is_missing_or_cannot_be_kept_is_named() -> None:
    with pytest.raises(hp.ConfigurationError, match=r"the metrics \['y'\] are needed, but got \['Y'\]"):
        told({"Y": 0.3})
    with pytest.raises(hp.ConfigurationError, match=r"the metrics \['z'\] are needed"):
        told(0.3, metric=["y", "z"])
    with pytest.raises(hp.ReportError, match="the metric 'size' must be a number"):
        told({"y": 0.3, "size": "big"}, outcome_constraints=["size <= 3"])
    with pytest.raises(hp.ReportError, match=r"\['confusion', 4\].*Leave them out"):
        told({"y": 0.3, "confusion": torch.zeros(2, 2), 4: 1.0, "fine": 2.0})


@pytest.mark.parametrize(("word", "ours"), [("direction", "mode="), ("n_trials", "trials="), ("serch", "searcher=")])
def test_a_word_of_another_library_is_answered_with_ours(word: str, ours: str) -> None:
    with pytest.raises(TypeError, match=f"AskTell: `{word}`.* {ours}"):
        hp.AskTell(SPACE, **{"metric": "y", word: "minimize"})


def test_a_metric_and_a_mode_are_needed() -> None:
    with pytest.raises(hp.ConfigurationError, match=r"metric: what is to be optimized.*\n?.*mode="):
        hp.AskTell(SPACE)
    with pytest.raises(hp.ConfigurationError, match="mode: is 'y' to be minimized or maximized"):
        hp.AskTell(SPACE, metric="y")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trials": 0}, r"trials: `trials >= 1` must hold for an int .* but got 0"),
        ({"trials": "5"}, "trials: .* but got '5'"),
        ({"seed": "x"}, "seed: .* but got 'x'"),
        ({"points": None}, "points: a list of configs is needed, but got None"),
        ({"searcher": hp.RandomSearch}, r"searcher: .* got the class RandomSearch; write RandomSearch\("),
        ({"scheduler": hp.FullRuns, "trials": 2.5}, r"scheduler: .*\n.*trials: .*2\.5"),
    ],
)
def test_what_a_study_cannot_be_made_of_is_refused_as_a_tuner_refuses_it(given: Any, words: str) -> None:
    with pytest.raises(hp.ConfigurationError, match=words):
        hp.AskTell(SPACE, **{"metric": "y", "mode": "min"} | given)


@pytest.mark.parametrize("given", [0, None, "0", {"x": 0.5}])
def test_what_is_no_trial_is_refused_in_words_and_changes_nothing(given: Any) -> None:
    study = hp.AskTell(SPACE, metric="y", mode="min")
    trial = study.ask()
    assert trial is not None
    for call in (lambda: study.tell(given, 0.5), lambda: study.fail(given, "no"), lambda: study.steps(given)):
        with pytest.raises(hp.ConfigurationError, match=r"trial: what ask\(\) gave is needed, .* but got ") as caught:
            call()
        assert repr(given) in str(caught.value) and ("nothing to do now" in str(caught.value)) == (given is None)
    assert study.tell(trial, 0.5) is False

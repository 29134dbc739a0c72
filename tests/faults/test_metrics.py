"""Metrics that are not finite, missing, misspelt or of a wrong type, and reports that come twice or late."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torchtune_hp as hp
from torchtune_hp.cli import main
from torchtune_hp.journal import Journal
from torchtune_hp.trial import Launch, Train

POINTS = [{"x": 0.1 * number} for number in range(9)]


def tuned(value: Any, home: Path | None = None, **changes: Any) -> hp.Results:
    """A study of nine given configs; `value(x, step)` is what a trial reports."""

    def train(config: dict[str, Any]) -> Any:
        for step in range(1, 10):
            found = value(config["x"], step)
            yield found if isinstance(found, Mapping) else {"loss": found, "size": 3}

    given: dict[str, Any] = {
        "metric": "loss", "mode": "min", "trials": 9, "points": POINTS, "searcher": hp.RandomSearch(), "executor": hp.Serial(),
        "scheduler": hp.ASHA(max_t=9, grace_period=1, reduction_factor=3), "storage": home, "name": "s" if home else None, "verbose": 0,
    }   # fmt: skip
    return hp.tune(train, {"x": hp.uniform(0.0, 1.0)}, **given | changes)


# Not finite ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("wild", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_promoted_and_never_best_and_is_shown_as_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wild: float, mode: str
) -> None:
    def value(x: float, step: int) -> float:
        return wild if x < 0.25 else x if mode == "min" else -x

    tuned(value, tmp_path, mode=mode).close()
    with Journal.open(tmp_path / "s") as journal:
        granted = [(c.trial.id, c.until) if isinstance(c, Launch) else (c.trial, c.until)
                   for *_, commands in journal.turns() for c in commands if isinstance(c, (Launch, Train))]  # fmt: skip
    results = hp.Results.open(tmp_path / "s")
    assert all(trial > 2 for trial, until in granted if until > 1), "three that began so went no further"
    assert results.best.trial == 3 and {error.trial: error.kind for error in results.errors} == dict.fromkeys([0, 1, 2], "diverged")
    for trial in (0, 1, 2):
        (look,) = results.curves()[trial]
        assert str(look["loss"]) == str(wild) == str(results[trial].metrics["loss"])
    assert main(["export", str(tmp_path / "s"), "--to", "csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert str(wild) in rows[1].split(",")
    assert main(["show", str(tmp_path / "s"), "--json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.mark.parametrize("wild", [math.nan, math.inf, -math.inf, 1e30, 1e300])
def test_a_searcher_that_learns_outlives_values_beyond_all_measure(wild: float) -> None:
    results = tuned(lambda x, step: {"loss": wild if x < 0.3 else x}, trials=14, searcher=hp.GPSearch(), scheduler=hp.FullRuns(max_t=1))
    assert len(results) == 14 and all(0.0 <= result.config["x"] <= 1.0 for result in results)
    assert results.best.metrics["loss"] == min(result.config["x"] for result in results if result.config["x"] >= 0.3)
    assert len(results.errors) == (0 if math.isfinite(wild) else sum(result.config["x"] < 0.3 for result in results))


# No number, or none under the name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [np.float32(0.5), np.int64(1), torch.tensor(0.5), torch.tensor(1), np.array(0.5), True and 1])
def test_a_number_of_numpy_or_torch_is_a_number(tmp_path: Path, number: Any) -> None:
    results = tuned(lambda x, step: number, tmp_path)
    assert results.best.metrics["loss"] == float(number) and type(results.best.metrics["loss"]) is float


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ("0.5", "str"), (None, "None"), (True, "bool"), ([0.5], "list"), ({"a": 0.5}, "dict"), (np.zeros(2), r"an array of shape (2,)"),
        (torch.zeros(2), "a tensor of shape (2,)"), (1j, "complex"), (object(), "object"),
    ],
)   # fmt: skip
def test_what_is_no_number_is_named_with_trial_key_and_type(wrong: Any, kind: str) -> None:
    with pytest.raises(hp.StudyFailedError) as caught:
        tuned(lambda x, step: {"loss": wrong})
    text = str(caught.value)
    assert "Trial 0" in text and "'loss' must be a number" in text and kind in text and "5 trials failed in a row" in text


@pytest.mark.parametrize(("given", "near"), [({"lss": 1.0, "size": 3}, "lss"), ({"Loss": 1.0}, "Loss"), ({"val_loss": 1.0}, "val_loss")])
def test_a_metric_under_another_name_is_answered_at_the_first_report_with_the_near_one(given: dict[str, Any], near: str) -> None:
    with pytest.raises(hp.StudyFailedError, match=rf"gave only .*Did you mean '{near}'") as caught:
        tuned(lambda x, step: given)
    assert "'loss'" in str(caught.value)


def test_a_program_whose_trials_all_fail_ends_with_status_1_and_one_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all_fail.py").write_text(
        "import torchtune_hp as hp\n"
        "@hp.trainable(space={'x': hp.uniform(0, 1)}, metric='loss', mode='min', trials=470, executor=hp.Serial())\n"
        "def train(config):\n    raise FileNotFoundError('data/images of trial ' + str(hp.context().trial_id))\n"
    )
    error = io.StringIO()
    with redirect_stderr(error):
        assert main(["run", "all_fail.py:train", "--name", "s"]) == 1
    said = error.getvalue()
    assert "5 trials failed in a row" in said and "Traceback" in said and "data/images of trial 0" in said and "trial 4" not in said
    assert len(hp.Results.open(tmp_path / "runs" / "s")) == 5


# Twice, or late -----------------------------------------------------------------------------------------------------------


def asked() -> tuple[hp.AskTell, Any]:
    study = hp.AskTell({"x": hp.uniform(0.0, 1.0)}, scheduler=hp.FullRuns(max_t=3), metric="loss", mode="min", seed=0)
    trial = study.ask()
    assert trial is not None
    return study, trial


def test_the_same_report_again_changes_nothing() -> None:
    study, trial = asked()
    clean, same = asked()
    for step in (1, 2, 3):
        goes_on = clean.tell(same, {"loss": 1 / step, "note": "a"}, step=step)
        for again in range(1 if step == 3 else 3):
            assert study.tell(trial, {"loss": 1 / step, "note": "a"}, step=step) is goes_on, again
    assert study.best == clean.best and study.steps(trial) == 3
    assert study.ask() == clean.ask()


def test_nan_again_is_the_same_report() -> None:
    study, trial = asked()
    assert study.tell(trial, {"loss": 0.5, "other": math.nan}, step=1) and study.tell(trial, {"loss": 0.5, "other": math.nan}, step=1)


def test_another_value_for_a_step_and_a_step_backward_are_errors_and_the_first_holds() -> None:
    study, trial = asked()
    study.tell(trial, 0.5, step=2)
    for value, step in ((0.1, 2), (0.5, 1), (0.1, 1)):
        with pytest.raises(hp.ConfigurationError, match=f"steps of a trial go up, but trial 0 stands at 2 and got {step}"):
            study.tell(trial, value, step=step)
    assert study.best[1] == {"loss": 0.5} and study.steps(trial) == 2


def test_a_report_after_the_end_is_refused() -> None:
    study, trial = asked()
    study.tell(trial, 0.5)
    for late in (lambda: study.tell(trial, 0.5), lambda: study.tell(trial, 0.1, step=3), lambda: study.fail(trial, "late")):
        with pytest.raises(hp.TrialFinishedError, match="trial 0 is not out: it has ended"):
            late()
    assert study.best[1] == {"loss": 0.5}

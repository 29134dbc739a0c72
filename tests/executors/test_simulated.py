"""A cluster in virtual time."""

from __future__ import annotations

import gc
import re
from typing import Any

import numpy as np
import pytest
import torch

import torchtune_hp as hp
from torchtune_hp.testing.executor_suite import ExecutorSuite
from torchtune_hp.testing.toys import Quadratic
from torchtune_hp.trial import Drop, Failed, Launch, Note, Reached, Setting, Standing, Train, Trial

from .test_serial import job_of


class TestSimulated(ExecutorSuite):
    def make(self, slots: int) -> hp.Simulated:
        return hp.Simulated(slots)

    def test_each_train_is_answered_once_and_time_never_decreases(self) -> None:
        """Its own: time is virtual, one second a step from where the study stood."""


def begun(standing: Standing | None = None, job: Any = None, **given: Any) -> hp.Simulated:
    simulated = hp.Simulated(**{"curve": lambda config, step: {"loss": config["x"] / step}} | given)
    assert simulated.prepare(job) == simulated.workers
    simulated.begin(Setting((), lambda x: x), standing or Standing())
    return simulated


def launch(id: int, until: int, **config: Any) -> Launch:
    return Launch(Trial(id, (0.5,), {"x": 12.0} | config, seed=id), until)


def test_a_curve_answers_when_it_is_due_in_virtual_seconds() -> None:
    simulated = begun(workers=3, seconds=2.0)
    assert simulated.ordered
    for command in (launch(0, 3), launch(1, 1), launch(2, 1)):
        simulated.submit(command)
    assert simulated.wait() == [Reached(1, 1, {"loss": 12.0}, 2.0), Reached(2, 1, {"loss": 12.0}, 2.0)]
    simulated.submit(Train(1, 3))
    assert simulated.wait() == [Reached(0, 3, {"loss": 4.0}, 6.0), Reached(1, 3, {"loss": 4.0}, 6.0)]


@pytest.mark.parametrize(
    ("value", "clean"),
    [(np.float32(0.5), 0.5), (np.float64(0.5), 0.5), (np.array(0.5), 0.5), (torch.tensor(0.5), 0.5), (1, 1.0), (np.int64(2), 2.0)],
)
def test_metrics_of_a_curve_are_made_plain_as_those_of_a_training(value: Any, clean: float) -> None:
    simulated = begun(job=job_of(Quadratic), curve=lambda config, step: {"loss": value, "kept": "text"})
    simulated.submit(launch(0, 1))
    (event,) = simulated.wait()
    assert event == Reached(0, 1, {"loss": clean, "kept": "text"}, 1.0) and type(event.metrics["loss"]) is float


@pytest.mark.parametrize(
    ("given", "words"),
    [({"los": 1.0}, "the metric 'loss' must be in every report, but curve.* gave only .*Did you mean 'los'"), (None, "must give a dict"),
     ({"loss": "a"}, "must be a number"), ({"loss": True}, "must be a number"), ({"loss": None}, "must be a number")],
)  # fmt: skip
def test_what_is_no_report_fails_its_trial_and_says_why(given: Any, words: str) -> None:
    simulated = begun(job=job_of(Quadratic), curve=lambda config, step: given if config["x"] else {"loss": 1.0}, workers=2)
    simulated.submit(launch(0, 1))
    simulated.submit(launch(1, 1, x=0.0))
    one, other = simulated.wait()
    assert isinstance(one, Failed) and one.kind == "bad_metric" and re.search(words, one.error)
    assert isinstance(other, Reached)


def test_what_is_dropped_of_a_curve_is_said_once() -> None:
    simulated = begun(job=job_of(Quadratic), curve=lambda config, step: {"loss": 1.0, "list": [step]}, workers=2)
    for command in (launch(0, 1), launch(1, 2)):
        simulated.submit(command)
    note, event = simulated.wait()
    assert isinstance(note, Note) and note.kind == "report" and "the metric 'list' was dropped" in note.text and note.time == 1.0
    assert event == Reached(0, 1, {"loss": 1.0}, 1.0)
    assert simulated.wait() == [Reached(1, 2, {"loss": 1.0}, 2.0)]


def broken(config: Any) -> float:
    raise KeyError("speed")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(lambda config: float("nan"), "but is nan for"), (lambda config: 0.0, "but is 0.0 for"), (lambda config: None, "but is None for"),
     (broken, r"but raised KeyError\('speed'\) for")],
)  # fmt: skip
def test_the_seconds_of_a_step_must_be_a_positive_number_for_each_config(seconds: Any, words: str) -> None:
    simulated = begun(seconds=seconds)
    with pytest.raises(hp.ConfigurationError, match=rf"seconds: must be a positive number for each config, {words} .*12.0"):
        simulated.submit(launch(0, 1))
        simulated.wait()


@pytest.mark.parametrize(
    ("failures", "words"),
    [(lambda config: 0, "but is 0 for"), (lambda config: 2.0, r"but is 2\.0 for"), (lambda config: True, "but is True for"),
     (lambda config: "2", "but is '2' for"), (broken, r"but raised KeyError\('speed'\) for")],
)  # fmt: skip
@pytest.mark.parametrize("seconds", [1.0, lambda config: 1.0])
def test_the_step_of_a_failure_must_be_a_whole_number_or_none_for_each_config(failures: Any, words: str, seconds: Any) -> None:
    simulated = begun(failures=failures, seconds=seconds)
    with pytest.raises(hp.ConfigurationError, match=rf"failures: .* an int of at least 1, or None, {words} .*12.0"):
        simulated.submit(launch(0, 3))
        simulated.wait()


def test_the_step_of_a_failure_may_be_numpys() -> None:
    simulated = begun(failures=lambda config: np.int64(2))
    simulated.submit(launch(0, 3))
    (event,) = simulated.wait()
    assert isinstance(event, Failed) and type(event.step) is int and event.step == 2


@pytest.mark.parametrize("command", [Drop, lambda id: Train(id, 2)])
def test_a_command_for_a_trial_that_is_not_there_is_refused_in_words(command: Any) -> None:
    simulated = begun()
    simulated.submit(launch(2, 1))
    for id in (3, -1, 10**9):
        with pytest.raises(RuntimeError, match=rf"a command names a trial that was launched, but there is no trial {id}\. Launch it first"):
            simulated.submit(command(id))
    with pytest.raises(RuntimeError, match="was dropped, or never launched"):
        simulated.submit(command(0))
    simulated.wait()
    simulated.submit(Drop(2))
    with pytest.raises(RuntimeError, match="a dropped trial is never named again"):
        simulated.submit(command(2))


def test_it_waits_for_nothing_only_with_a_word() -> None:
    with pytest.raises(RuntimeError, match="wait: nothing is running; submit a Launch or a Train first"):
        begun().wait()


def test_unequal_workers_answer_in_their_order_of_arrival() -> None:
    simulated = begun(workers=2, speeds=[1.0, 4.0], seconds=lambda config: config.get("slow", 1.0))
    assert not simulated.ordered
    for command in (launch(0, 2), launch(1, 2)):
        simulated.submit(command)
    assert [(event.trial, event.time) for event in simulated.wait()] == [(1, 0.5)]
    simulated.submit(launch(2, 2, slow=8.0))  # the fast worker is free
    assert [(event.trial, event.time) for event in simulated.wait()] == [(0, 2.0)]
    assert [(event.trial, event.time) for event in simulated.wait()] == [(2, 4.5)]


def test_failures_come_at_their_step_once_and_exceptions_fail_their_trial() -> None:
    def curve(config: dict[str, Any], step: int) -> dict[str, float]:
        if config["x"] == 7.0:
            raise ZeroDivisionError("no such row")
        return {"loss": 1.0}

    simulated = begun(workers=4, curve=curve, failures=lambda config: config.get("dies"))
    for command in (launch(0, 5, dies=2), launch(1, 1, dies=2), launch(2, 1, x=7.0)):
        simulated.submit(command)
    one, two = simulated.wait()
    assert isinstance(one, Reached) and isinstance(two, Failed)
    assert (two.trial, two.kind) == (2, "error") and "no such row" in two.error
    (dead,) = simulated.wait()
    assert dead == Failed(0, 2, "lost", "simulated failure at step 2", 2.0)
    simulated.submit(Train(1, 2))
    assert simulated.wait()[0] == Failed(1, 2, "lost", "simulated failure at step 2", 2.0 + 1.0)


def test_a_resumed_simulation_goes_on_from_where_the_study_stands() -> None:
    standing = Standing(5, {0: 4}, ((launch(0, 0).trial, 2), (launch(1, 0).trial, 1)), 7.0)
    simulated = begun(standing, workers=2)
    simulated.submit(Train(0, 4))
    simulated.submit(Train(1, 2))
    assert [(event.trial, event.time) for event in simulated.wait()] == [(0, 8.0), (1, 8.0)]


def test_a_fork_of_a_curve_counts_on_from_its_parent() -> None:
    simulated = begun(workers=2)
    simulated.submit(launch(0, 3))
    simulated.wait()
    simulated.submit(Launch(Trial(1, (0.5,), {"x": 12.0}, 1, parent=0), 4))
    assert simulated.wait() == [Reached(1, 4, {"loss": 3.0}, 4.0)]


def test_collecting_garbage_is_as_before_afterwards() -> None:
    gc.set_threshold(700, 10, 10)  # Python's own
    simulated = begun(workers=1)
    assert gc.get_threshold() == (50_000, 20, 100)
    simulated.close()
    simulated.close()
    assert gc.get_threshold() == (700, 10, 10)


def test_a_study_of_curves_needs_no_trainable_and_has_nothing_to_load(tmp_path: Any) -> None:
    def study() -> hp.Tuner:
        return hp.Tuner(
            None, {"x": hp.uniform(0.0, 1.0)}, metric="loss", mode="min", trials=20, scheduler=hp.ASHA(max_t=9, reduction_factor=3),
            executor=hp.Simulated(4, curve=lambda config, step: {"loss": config["x"] + 1 / step}), storage=tmp_path, name="curves",
            resume="auto", verbose=0,
        )  # fmt: skip

    results = study().fit()
    assert len(results) == 20 and results.best.metrics["loss"] < 1.0
    assert len(study().fit()) == 20
    with pytest.raises(hp.TorchtuneError):
        results.best.load()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"workers": 0}, "workers: must be an int"),
        ({"curve": 3}, "curve: must be callable"),
        ({"seconds": 0}, "seconds: must be a positive"),
        ({"seconds": "1"}, "seconds"),
        ({"speeds": [1.0]}, "speeds: one positive number for each of the 2"),
        ({"speeds": [1.0, 0.0]}, "speeds"),
        ({"speeds": ["a", 1]}, "speeds: one positive number"),
        ({"speeds": 2.0}, "speeds: one positive number"),
        ({"failures": 3}, "failures: must be callable"),
    ],
)
def test_wrong_arguments_are_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(hp.ConfigurationError, match=words):
        hp.Simulated(**{"workers": 2} | given)


def test_a_train_needs_a_step() -> None:
    with pytest.raises(hp.ConfigurationError, match="needs a step to train to"):
        begun(workers=1).submit(Train(0, None))


def test_real_trainings_may_be_simulated_with_failures() -> None:
    results = hp.tune(
        Quadratic, {"x": hp.uniform(0.0, 1.0), "y": hp.uniform(0.0, 1.0)}, metric="loss", mode="min", trials=12, storage=None, verbose=0,
        scheduler=hp.FullRuns(max_t=3), executor=hp.Simulated(4, failures=lambda config: 2 if config["x"] > 0.5 else None),
    )  # fmt: skip
    assert {error.kind for error in results.errors} == {"lost"}
    assert 2.0 * 6 / 4 < results.seconds <= 3.0 * 12 / 4

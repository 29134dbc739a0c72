"""A train function that stands still: closed, interrupted, with threads of its own; and its seeds."""

import contextvars
import random
import signal
import threading

import pytest
import torch

import torchtune_hp.training.function as hp
from torchtune_hp.errors import ReportError, TrialFinishedError, TrialStopped
from torchtune_hp.seeds import derive
from torchtune_hp.training import parked
from torchtune_hp.training.context import _open, context
from torchtune_hp.training.runner import Look
from torchtune_hp.training.seeding import seeded

# Close ----------------------------------------------------------------------------------------------------------------------


def test_close_ends_a_parked_function_and_runs_its_cleanup(start):
    said = []

    def train(config):
        try:
            while True:
                try:
                    hp.report(loss=1.0)
                except Exception:
                    said.append("swallowed")
        except TrialStopped as stop:
            said.append(str(stop))
            raise
        finally:
            said.append("cleaned")

    runner = start(train)
    runner.advance()
    runner.close()
    assert said == ["Trial 7 was ended by its study.", "cleaned"]
    assert not _open
    with pytest.raises(TrialFinishedError):
        runner.advance()


def test_close_ends_a_generator_in_its_own_context(start):
    said = []

    def train(config):
        try:
            yield {"loss": 1.0}
        finally:
            said.append(context().trial_id)

    runner = start(train)
    runner.advance()
    runner.close()
    runner.close()
    assert said == [7] and not _open


@pytest.mark.parametrize("kind", ["function", "generator"])
def test_what_cleanup_raises_comes_out_of_close_and_the_trial_is_closed(start, kind):
    def function(config):
        try:
            hp.report(loss=1.0)
        finally:
            raise RuntimeError("in cleanup")

    def generator(config):
        try:
            yield {"loss": 1.0}
        finally:
            raise RuntimeError("in cleanup")

    runner = start(function if kind == "function" else generator)
    runner.advance()
    with pytest.raises(RuntimeError, match="in cleanup"):
        runner.close()
    runner.close()
    assert not _open


def test_a_function_that_never_stops_reporting_is_left_where_it_stands(start):
    refused = []

    def train(config):
        while True:
            try:
                hp.report(loss=1.0)
            except BaseException as error:
                refused.append(error)

    runner = start(train)
    runner.advance()
    with pytest.warns(RuntimeWarning, match=r"Trial 7: train\(\) goes on after TrialStopped, and was left to itself"):
        runner.close()
    assert len(refused) == parked.REFUSALS


def test_a_function_that_goes_on_without_a_report_is_let_end(start):
    said = []

    def train(config):
        try:
            hp.report(loss=1.0)
        except BaseException:
            said.append("went on")

    runner = start(train)
    runner.advance()
    runner.close()
    assert said == ["went on"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_generator_that_ignores_its_close_is_an_error_of_its_cleanup(start):
    def train(config):
        for _ in range(3):
            try:
                yield {"loss": 1.0}
            except GeneratorExit:
                pass

    runner = start(train)
    runner.advance()
    with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
        runner.close()
    assert not _open


@pytest.fixture
def interruptible():
    """A shell's background job begins with SIGINT ignored, and Python leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_the_function_after_its_cleanup(start, interruptible):
    said = []

    def train(config):
        try:
            hp.report(loss=1.0)
            signal.raise_signal(signal.SIGINT)
        finally:
            said.append("cleaned")

    runner = start(train)
    runner.advance()
    with pytest.raises(KeyboardInterrupt):
        runner.advance()
    assert said == ["cleaned"]
    runner.close()
    assert not _open


# Threads --------------------------------------------------------------------------------------------------------------------


def test_a_report_from_a_thread_of_the_function_s_own_is_refused(start):
    said = []

    def late():
        try:
            hp.report(loss=1.0)
        except ReportError as error:
            said.append(str(error))

    def train(config):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(late,), name="mine")
        thread.start()
        thread.join()
        hp.report(loss=2.0)

    assert start(train).advance() == Look(1, {"loss": 2.0})
    assert said == [
        "Trial 7: report() is to be called where train() runs, but was called in the thread 'mine'. Hand the metrics over, by a "
        "queue.Queue say, and report them there."
    ]


def test_a_report_after_the_function_returned_is_refused(start):
    go, said = threading.Event(), []
    threads = []

    def late():
        go.wait(5)
        try:
            hp.report(loss=9.0)
        except TrialFinishedError as error:
            said.append(str(error))

    def train(config):
        threads.append(threading.Thread(target=contextvars.copy_context().run, args=(late,)))
        threads[0].start()
        hp.report(loss=1.0)

    runner = start(train)
    assert runner.advance().step == 1
    assert runner.advance().done
    go.set()
    threads[0].join()
    assert said == ["Trial 7 has ended: train() returned, and this report came after."]


def test_a_function_begins_with_the_caller_s_default_device(start):
    def train(config):
        hp.report(loss=1.0, device=torch.empty(()).device.type)

    with torch.device("cpu"):
        torch.set_default_device("meta")
        try:
            runner = start(train)
            with seeded(1):
                look = runner._next()
        finally:
            torch.set_default_device(None)
    assert look.metrics["device"] == "meta"


def test_a_train_function_knows_its_trial(start, tmp_path):
    def train(config):
        here = context()
        hp.report(loss=here.trial_id, seed=str(here.seed), folder=str(here.dir), device=here.device, max_t=here.max_t, study=here.study)

    look = start(train, max_t=27, device="cuda", study="digits").advance()
    folder = str(tmp_path / "000007")
    assert look.metrics == {"loss": 7.0, "seed": "11", "folder": folder, "device": "cuda", "max_t": 27.0, "study": "digits"}


# Seeds ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["function", "generator"])
def test_every_unit_is_seeded_by_trial_and_step(start, kind):
    def function(config):
        for _ in range(2):
            hp.report(loss=random.random())

    def generator(config):
        for _ in range(2):
            yield {"loss": random.random()}

    runner = start(function if kind == "function" else generator, seed=5)
    for step in (1, 2):
        with seeded(derive(5, "step", step)):
            expected = random.random()
        assert runner.advance().metrics == {"loss": expected}


def test_a_restarted_unit_is_built_under_its_own_seed_and_goes_on_under_the_step_s(start):
    def train(config):
        built = random.random()
        hp.get_checkpoint()
        first = random.random()
        hp.get_checkpoint()
        hp.report(loss=first, built=built, second=random.random())
        hp.get_checkpoint()
        hp.report(loss=random.random())

    runner = start(train, seed=5, state={"a": 1}, step=3)
    with seeded(derive(5, "setup")):
        built = random.random()
    with seeded(derive(5, "step", 4)):
        expected = {"loss": random.random(), "built": built, "second": random.random()}
    assert runner.advance() == Look(4, expected)
    with seeded(derive(5, "step", 5)):
        assert runner.advance() == Look(5, {"loss": random.random()})

"""What becomes of a study whose trials fail, and whose workers die."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
import threading

import pytest

import torchtune_hp as hp
from torchtune_hp.errors import CheckpointError, ConfigurationError, StudyFailedError
from torchtune_hp.executors.processes import Processes
from torchtune_hp.testing import toys
from torchtune_hp.trial import Drop, Failed, Keep, Launch, Reached, Train

from .nursery import warm  # noqa: F401  (a fixture for all of them)
from .telling import Deadly, Foldering, Recording, Telling, Unrebuildable, Untidy, answers, begun, counting, gone, trial


@pytest.mark.parametrize(("do", "why"), [("crash", "signal 11"), ("exit", "exit status 7"), ("close", "signal 9")])
def test_a_worker_that_dies_twice_of_a_trial_loses_that_trial_alone(tmp_path, do, why):
    executor = Processes(2, ordered=True)
    with begun(executor, Telling, folder=tmp_path) as play:
        answers(executor, Launch(trial(0), 1), Launch(trial(1, step=do), 1))
        fine, lost = answers(executor, Train(0, 3), Train(1, 3))
        assert (fine.step, fine.metrics["loss"]) == (3, toys.curve(trial(0).config, 3)["loss"])
        assert isinstance(lost, Failed)
        assert (lost.step, lost.kind) == (2, "lost")
        assert lost.error == (
            f"The worker process that trained this trial died ({why}), and so did the one before it. What it wrote, a crash's stack "
            "included, is in trials/000001/output.txt."
        )
        notes = [(note.kind, note.text, note.trial) for note in executor.heard]
        assert notes == [("lost", f"worker died ({why}), restarting 1/3", 1)] * 2
        if do == "crash":
            assert "Segmentation fault" in (tmp_path / "trials/000001/output.txt").read_text()
        (next_one,) = answers(executor, Launch(trial(2), 1), Drop(1))
        assert next_one.step == 1
        play.close()


def test_a_trial_whose_worker_died_once_repeats_itself_silently(tmp_path):
    executor = Processes(1, ordered=True)
    with begun(executor, Telling):
        answers(executor, Launch(trial(0, step="once", marker=str(tmp_path / "marker")), 1))
        (event,) = answers(executor, Train(0, 4))
        assert (event.step, event.metrics["loss"]) == (4, toys.curve(trial(0).config, 4)["loss"])
        assert [note.text for note in executor.heard] == ["worker died (signal 9), restarting 1/3"]


def test_functions_that_rested_in_a_worker_that_died_are_trained_again_when_they_are_needed():
    executor = Processes(1, ordered=True)
    with begun(executor, counting):
        (before,) = answers(executor, Launch(trial(0), 2))
        answers(executor, Launch(trial(1), 1))
        answers(executor, Launch(trial(2, **{"1": "nothing"}), 1))
        os.kill(int(before.metrics["pid"]), signal.SIGKILL)
        (after,) = answers(executor, Train(0, 3))
        assert (after.step, after.metrics["loss"]) == (3, 1 / 3)
        assert after.metrics["pid"] != before.metrics["pid"]
        both = answers(executor, Train(0, 5), Train(1, 2))
        assert [(event.step, event.metrics["pid"]) for event in both] == [(5, after.metrics["pid"]), (2, after.metrics["pid"])]


def test_a_lost_trial_goes_on_from_its_newest_durable_state(tmp_path):
    executor = Processes(1, ordered=True)
    marker = tmp_path / "steps"
    with begun(executor, Recording, folder=tmp_path / "study", checkpoint_every=0.0) as play:
        answers(executor, Launch(trial(0, marker=str(marker)), 4))
        (event,) = answers(executor, Train(0, 5))
        assert play.vault.newest(0)[0] == 4
        os.kill(int(event.metrics["pid"]), signal.SIGKILL)
        (event,) = answers(executor, Train(0, 6))
        assert event.step == 6
    assert marker.read_text().split() == ["1", "2", "3", "4", "5", "5", "6"]


def test_an_exception_fails_the_trial_and_no_other():
    executor = Processes(1)
    with begun(executor, Telling):
        for number, (error, kind) in enumerate(((ValueError, "error"), (MemoryError, "oom"), (TimeoutError, "timeout"))):
            (event,) = answers(executor, Launch(trial(number, step=error), 3))
            assert (event.trial, event.step, event.kind) == (number, 2, kind)
            assert event.error.startswith("Traceback") and event.error.endswith(f"{error.__name__}: on purpose")
        (event,) = answers(executor, Launch(trial(8, step="sys.exit"), 3))
        assert (event.step, event.kind) == (2, "error") and event.error.endswith("SystemExit: 3")
        (event,) = answers(executor, Launch(trial(9), 3))
        assert isinstance(event, Reached)
        assert not executor.heard


def test_a_cleanup_that_raises_is_a_note():
    executor = Processes(1)
    with begun(executor, Telling):
        (event,) = answers(executor, Launch(trial(0, step=ValueError, cleanup=KeyError), 2))
        assert event.kind == "error"
        assert [(note.kind, note.trial) for note in executor.heard] == [("cleanup", 0)]
        assert "KeyError: 'on purpose'" in executor.heard[0].text


def test_a_state_that_cannot_be_had_is_a_note_and_the_trial_goes_on():
    executor = Processes(1)
    with begun(executor, Telling) as play:
        (one,) = answers(executor, Launch(trial(0, save=ValueError), 1))
        (two,) = answers(executor, Keep(0), Train(0, 2))
        assert two.metrics["pid"] == one.metrics["pid"]
        answers(executor, Launch(trial(1), 1))              # 0 rests, where it is
        (three,) = answers(executor, Train(0, 3))
        assert three.metrics["pid"] == one.metrics["pid"]
        assert play.vault.kept_step(0) is None
        assert executor.heard[0].text.startswith("not saved at step 1: Traceback") and executor.heard[0].kind == "checkpoint"


def test_a_keep_survives_the_death_of_the_worker_that_saves(tmp_path):
    executor = Processes(1)
    with begun(executor, Telling) as play:
        answers(executor, Launch(trial(0, save="once", marker=str(tmp_path / "marker")), 2))
        (event,) = answers(executor, Keep(0), Train(0, 3))
        assert event.step == 3
        executor.close()
        assert play.vault.kept_step(0) == 2


def test_a_keep_that_costs_two_workers_their_lives_is_given_up_and_the_trial_goes_on():
    executor = Processes(1)
    with begun(executor, Telling) as play:
        answers(executor, Launch(trial(0, save="crash"), 1))
        (event,) = answers(executor, Keep(0), Train(0, 2))
        assert event.step == 2
        assert [note.trial for note in executor.heard] == [0, 0]
        assert play.vault.kept_step(0) is None


def test_what_cannot_be_stored_is_a_note_and_what_was_kept_before_stays(monkeypatch):
    executor = Processes(1)
    with begun(executor, Telling) as play:
        answers(executor, Launch(trial(0), 1))
        answers(executor, Keep(0), Train(0, 2))
        answers(executor, Launch(trial(1), 1))

        def full(*_, **__):
            raise CheckpointError("the disk is full")

        monkeypatch.setattr(play.vault, "put", full)
        (event,) = answers(executor, Keep(1, (0,)), Train(1, 2))
        assert event.step == 2
        notes = [(note.kind, note.text, note.trial) for note in executor.heard]
        assert notes == [("checkpoint", "not stored at step 1: the disk is full", 1)]
        assert (play.vault.kept_step(0), play.vault.kept_step(1)) == (1, None)


def test_a_failed_trial_has_no_state_to_keep():
    executor = Processes(1)
    with begun(executor, Telling, checkpoint_every=0.0) as play:
        answers(executor, Launch(trial(0, step=ValueError), 2))
        answers(executor, Keep(0), Drop(0), Launch(trial(1), 1))
        answers(executor, Drop(1), Launch(trial(2), 1))
        assert [play.vault.newest(number) for number in range(3)] == [None, None, None]


def test_folders_that_states_came_in_are_removed(tmp_path):
    executor = Processes(1)
    with begun(executor, Foldering, folder=tmp_path) as play:
        answers(executor, Launch(trial(0), 1))
        answers(executor, Keep(0), Train(0, 2))
        answers(executor, Launch(trial(1), 1))              # 0 rests
        (event,) = answers(executor, Train(0, 3))
        assert event.step == 3
        executor.close()
        assert play.vault.kept_step(0) == 1
    assert [path.name for path in (tmp_path / "trials/000000").iterdir()] == ["output.txt"]


def test_of_a_study_in_memory_nothing_stays_in_the_temporary_folder_whatever_its_workers_die_of(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    executor = Processes(1)
    with begun(executor, Untidy):
        answers(executor, Launch(trial(0, save="crash"), 1))
        (event,) = answers(executor, Keep(0), Train(0, 2))
        assert event.step == 2 and len(executor.heard) == 2
        (scratch,) = tmp_path.iterdir()
        assert {path.name.split("-")[0] for path in scratch.iterdir()} == {"saved", "Untidy_000000"}
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_sent_to_workers_is_refused_and_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    executor = Processes(1)

    def train(config, lock):
        raise AssertionError

    with pytest.raises(ConfigurationError, match="lock"):
        hp.tune(
            hp.with_parameters(train, lock=threading.Lock()), {"a": hp.uniform(0.0, 1.0)}, metric="loss", mode="min", trials=1,
            executor=executor, storage=None, verbose=0,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_cannot_start_ends_the_study_with_what_it_wrote():
    executor = Processes(1)
    with pytest.raises(StudyFailedError, match="(?s)died at start-up 3 times in a row, last of exit status 5"):
        with begun(executor, functools.partial(counting, held=Deadly())):
            answers(executor, Launch(trial(0), 1))


def test_a_trainable_that_cannot_be_rebuilt_ends_the_study_with_the_traceback():
    executor = Processes(1)
    with pytest.raises(StudyFailedError, match="(?s)cannot be rebuilt in a worker process:\nTraceback.*ZeroDivisionError"):
        with begun(executor, functools.partial(counting, held=Unrebuildable())):
            answers(executor, Launch(trial(0), 1))


def test_a_fork_server_that_is_killed_is_replaced():
    executor = Processes(2, ordered=True)
    with begun(executor, Telling):
        first = answers(executor, Launch(trial(0), 1), Launch(trial(1), 1))
        executor._crew._server._process.kill()
        assert all(gone(int(event.metrics["pid"])) for event in first)
        both = answers(executor, Train(0, 2), Train(1, 2))
        assert [event.step for event in both] == [2, 2]
        assert [note.text for note in executor.heard] == ["worker died (the fork server was killed), restarting 1/3"] * 2


def test_the_later_state_counts_where_one_was_sent_home_after_the_trial_woke(tmp_path):
    class Late(Recording):
        def step(self):
            metrics = super().step()
            if self.steps == 5 and not os.path.exists(self.config["once"]):
                open(self.config["once"], "x").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return metrics

    executor, marker = Processes(1, ordered=True), tmp_path / "steps"
    with begun(executor, Late, folder=tmp_path / "study", checkpoint_every=0.0):
        answers(executor, Launch(trial(0, marker=str(marker), once=str(tmp_path / "once")), 2))
        answers(executor, Launch(trial(1, marker=os.devnull, once=str(tmp_path)), 1))     # 0 rests, and takes its state along
        (event,) = answers(executor, Train(0, 6))
        assert event.step == 6
    assert marker.read_text().split() == ["1", "2", "3", "4", "5", "5", "6"]

"""Real children: where trials live in them, and what is left when they go."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
import threading

import pytest

import torchtune_hp as hp
import torchtune_hp.executors.crew as crew
from torchtune_hp.errors import ConfigurationError, StudyFailedError
from torchtune_hp.executors.processes import Processes
from torchtune_hp.executors.server import ForkServer
from torchtune_hp.testing import toys
from torchtune_hp.testing.executor_suite import ExecutorSuite, Summing
from torchtune_hp.testing.play import Play
from torchtune_hp.trial import Drop, Keep, Launch, Standing, Train

from .nursery import warm  # noqa: F401  (a fixture for all of them)
from .telling import SETTING, Telling, answers, begun, counting, gone, trial


class TestOrdered(ExecutorSuite):
    def make(self, slots: int) -> Processes:
        return Processes(slots, ordered=True)


class TestUnordered(ExecutorSuite):
    recipes = (toys.Raising, toys.quadratic)

    def make(self, slots: int) -> Processes:
        return Processes(slots)


# How it is asked for -------------------------------------------------------------------------------------------------------


def test_all_that_is_wrong_with_the_arguments_is_said_at_once():
    with pytest.raises(ConfigurationError) as error:
        Processes(0, cpus=True, gpus=1.5, ordered=None)
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["workers", "cpus", "gpus", "ordered"]
    assert lines[0].endswith("but got 0.")
    for gpus in (-1, True, "1"):
        with pytest.raises(ConfigurationError, match="gpus: "):
            Processes(gpus=gpus)
    executor = Processes("auto", 2, 0.5, True)
    assert (executor.workers, executor.cpus, executor.gpus, executor.ordered) == ("auto", 2, 0.5, True)


def test_a_recipe_that_cannot_travel_is_refused_before_anything_starts():
    lock = threading.Lock()
    executor = Processes(1)
    with pytest.raises(ConfigurationError, match="lock"):
        Play(executor, lambda config: lock)
    executor.close()


def test_there_is_nothing_to_wait_for_when_nothing_runs():
    executor = Processes(1)
    with begun(executor, toys.Quadratic):
        with pytest.raises(RuntimeError, match="nothing is running"):
            executor.wait()
        with pytest.raises(ConfigurationError, match="the study grants ENDLESS"):
            executor.submit(Train(0, None))
    with pytest.raises(RuntimeError, match="prepare comes first"):
        Processes(1).begin(SETTING, Standing())


def test_that_plain_processes_do_not_repeat_a_run_is_said_once(tmp_path):
    def said(results):
        text = "decisions are made in the order in which processes finish, which is another one in each run"
        return sum(text in note.text and "hp.Processes(ordered=True)" in note.text for note in results.log if note.kind == "order")

    given = {"space": {"x": hp.uniform(0.0, 1.0), "y": hp.uniform(0.0, 1.0)}, "metric": "loss", "mode": "min", "trials": 2, "verbose": 0}
    given |= {"trainable": toys.Quadratic, "scheduler": hp.FullRuns(1), "searcher": hp.RandomSearch(), "storage": tmp_path}
    assert said(hp.tune(**given, executor=Processes(2), name="plain")) == 1
    assert said(hp.Tuner.resume(tmp_path / "plain", toys.Quadratic, trials="+2", verbose=0).fit()) == 1
    unequal = hp.Simulated(2, speeds=[1.0, 2.0])        # of its order every run has the same
    for executor in (Processes(2, ordered=True), Processes(1), hp.Serial(2), unequal):
        assert said(hp.tune(**given, executor=executor)) == 0


# Where trials live ---------------------------------------------------------------------------------------------------------


def test_a_trial_that_goes_on_stays_in_its_process_and_workers_do_not_crowd_each_other():
    executor = Processes(2)
    with begun(executor, Telling):
        first = answers(executor, Launch(trial(0), 1), Launch(trial(1), 1))
        again = answers(executor, Train(0, 2), Train(1, 2))
        pids = [event.metrics["pid"] for event in first]
        assert pids == [event.metrics["pid"] for event in again]
        assert len({*pids, os.getpid()}) == 3
        assert {event.metrics["threads"] for event in first} == {1}
        assert {event.metrics["gpus"] for event in first} == {os.environ.get("CUDA_VISIBLE_DEVICES")}


def test_a_resting_trial_is_saved_and_woken_wherever_there_is_room():
    executor = Processes(2)
    with begun(executor, Telling):
        a, b = answers(executor, Launch(trial(0), 1), Launch(trial(1), 1))
        answers(executor, Train(1, 2))                      # 0 rests
        (c,) = answers(executor, Launch(trial(2), 1), Drop(1))
        # Whoever trains 2 is free again; 0 may be woken in either process, and stands where it stood.
        (again,) = answers(executor, Train(0, 2))
        assert (again.step, again.metrics["loss"]) == (2, toys.curve(trial(0).config, 2)["loss"])


def test_a_resting_function_stays_in_its_process_and_others_of_its_process_queue_up_behind_it():
    executor = Processes(2, ordered=True)
    with begun(executor, counting):
        first = answers(executor, Launch(trial(0), 1), Launch(trial(1), 1))
        more = answers(executor, Launch(trial(2), 1), Launch(trial(3), 1))
        homes = {event.trial: event.metrics["pid"] for event in first + more}
        assert len(set(homes.values())) == 2
        sharing = [number for number in homes if homes[number] == homes[0]]
        assert len(sharing) == 2                            # spread evenly
        for step in (2, 3):
            for event in answers(executor, *(Train(number, step) for number in sharing)):
                assert (event.step, event.metrics["pid"]) == (step, homes[0])


def test_a_fork_of_a_trial_that_is_training_begins_at_its_last_look():
    executor = Processes(2)
    with begun(executor, Telling):
        answers(executor, Launch(trial(0, step="sleep", seconds=0.5), 1))
        executor.submit(Train(0, 4))
        (other,) = answers(executor, Launch(trial(1), 1))
        assert other.trial == 1
        fork = dataclasses.replace(trial(2), parent=0)
        both = [(event.trial, event.step) for event in answers(executor, Launch(fork, 3), Train(1, 2), Drop(9))]
        while (2, 3) not in both:
            both += [(event.trial, event.step) for event in executor.wait()]
        assert sorted(both)[-1] == (2, 3)


@pytest.mark.parametrize("parent_lives", [True, False])
def test_a_fork_whose_beginning_was_lost_gets_it_from_its_parent_trained_again(parent_lives):
    parent, fork = trial(0), dataclasses.replace(trial(1), parent=0)
    sums = []
    for standing in (Standing(), Standing(live=((parent, 3 if parent_lives else 4), (fork, 3)))):
        executor = Processes(1)
        play = Play(executor, Summing)
        with play:
            executor.begin(SETTING, standing)
            if standing.live:
                (event,) = answers(executor, Train(1, 5))
            else:
                answers(executor, Launch(parent, 3))
                (event,) = answers(executor, Launch(fork, 5))
            assert event.step == 5
            sums.append(event.metrics["sum"])
    assert sums[0] == sums[1]


def test_what_a_trial_prints_lands_in_its_own_file(tmp_path, capfd):
    executor = Processes(1)
    with begun(executor, Telling, folder=tmp_path):
        answers(executor, Launch(trial(0, step="print", name="zero"), 2), Launch(trial(1, step="print", name="one", cleanup="print"), 2))
        answers(executor, Launch(trial(2), 1), Drop(1))
    assert (tmp_path / "trials/000000/output.txt").read_text() == "out of zero\nerr of zero\nraw\n"
    assert (tmp_path / "trials/000001/output.txt").read_text() == "out of one\nerr of one\nraw\n" * 2
    assert capfd.readouterr() == ("", "")


def test_what_a_trial_of_a_study_in_memory_prints_goes_nowhere(capfd):
    executor = Processes(1)
    with begun(executor, Telling):
        answers(executor, Launch(trial(0, step="print", name="zero"), 2))
    assert capfd.readouterr() == ("", "")


# How it ends ---------------------------------------------------------------------------------------------------------------


def test_close_lets_trials_clean_up_and_leaves_nothing(tmp_path):
    before = set(os.listdir("/proc/self/fd")), threading.active_count()
    executor = Processes(2)
    begun(executor, Telling)
    events = answers(executor, Launch(trial(0, cleanup="write", marker=str(tmp_path / "a")), 1), Launch(trial(1), 1))
    answers(executor, Train(0, 2))
    server = executor._crew._server._process.pid
    executor.close()
    assert (tmp_path / "a").read_text() == "cleaned up"
    assert all(gone(pid, 0) for pid in [server, *(int(event.metrics["pid"]) for event in events)])
    assert (set(os.listdir("/proc/self/fd")), threading.active_count()) == before
    executor.close()


def test_close_kills_what_does_not_come_to_an_end_and_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr("torchtune_hp.executors.crewed.GRACE", 0.2)
    executor = Processes(2)
    begun(executor, Telling)
    (event,) = answers(executor, Launch(trial(0, step="child", marker=str(tmp_path / "pid")), 2))
    executor.submit(Train(0, 3))
    executor.submit(Launch(trial(1, step="sleep"), 2))
    executor.wait()
    executor.close()
    assert gone(int(event.metrics["pid"]), 0) and gone(int((tmp_path / "pid").read_text()))


def test_close_waits_for_what_is_to_be_kept_and_saves_if_asked():
    for save in (False, True):
        executor = Processes(2)
        with begun(executor, Telling) as play:
            answers(executor, Launch(trial(0), 2), Launch(trial(1), 3))
            executor.submit(Keep(0))
            executor.submit(Train(1, 4))                    # never sent
            executor.close(save)
            assert play.vault.kept_step(0) == 2
            assert (play.vault.newest(1) or (0, None))[0] == (3 if save else 0)


def test_workers_go_with_the_driver_however_it_goes(tmp_path):
    """Slow: the driver and its fork server each import torch."""
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(f"""
        import os, sys, time
        sys.path.insert(0, {os.getcwd()!r})
        import torchtune_hp as hp
        from torchtune_hp.executors.processes import Processes
        from torchtune_hp.testing.play import Play
        from torchtune_hp.trial import *

        class Mine(hp.Trainable):               # of __main__, and there is no guard below
            def setup(self, config): self.seconds = config["act"](1)
            def step(self):
                print("never seen")
                time.sleep(self.seconds)
                self.seconds = 60
                return {{"loss": 0.0, "pid": os.getpid(), "group": os.getppid()}}
            def save_checkpoint(self, folder): return {{}}
            def load_checkpoint(self, state): pass

        executor = Processes(1)
        play = Play(executor, Mine)
        executor.begin(Setting((), lambda x: x), Standing())
        executor.submit(Launch(Trial(0, (), {{"act": lambda x: x - 1}}, 0), 1))
        event = executor.wait()[0]
        print(int(event.metrics["pid"]), int(event.metrics["group"]), flush=True)
        executor.submit(Train(0, 2))
        executor.wait()
    """))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}       # who is killed removes nothing
    driver = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    worker, server = map(int, driver.stdout.readline().split())
    assert not gone(worker, 0) and not gone(server, 0)
    driver.kill()
    driver.communicate()
    assert gone(worker) and gone(server)


def test_the_server_says_why_it_cannot_start(monkeypatch):
    monkeypatch.setattr(crew, "ForkServer", ForkServer)
    monkeypatch.setattr("torchtune_hp.executors.server._CODE", "import sys; sys.exit('no torch here')")
    executor = Processes(1)
    with pytest.raises(StudyFailedError, match="(?s)forked from died at start-up. It wrote:\nno torch here"):
        with begun(executor, Telling):
            answers(executor, Launch(trial(0), 1))

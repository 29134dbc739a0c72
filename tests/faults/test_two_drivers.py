"""Two drivers of one study, as real processes: the second is told, readers read on, and whoever comes after a death goes on at once."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import torchtune_hp as hp
from tests.interpreters import Interpreter
from torchtune_hp.cli import main
from torchtune_hp.lock import NAME

from .studies import Walk, arguments, best_again, story

SCRIPT = """
import os, sys, time
from pathlib import Path

import torchtune_hp as hp
from tests.faults.studies import Walk, arguments

HERE = Path(sys.argv[0]).parent


class Waiting(Walk):
    "The fifth trial waits until there is a file `go`."

    def step(self):
        if hp.context().trial_id == 5:
            (HERE / "waiting").touch()
            while not (HERE / "go").exists():
                time.sleep(0.005)
        return super().step()


status = 0
try:
    hp.Tuner(**arguments(HERE, hp.Serial(), trainable=Waiting)).fit()
except hp.TorchtuneError as error:
    print(type(error).__name__, error, file=sys.stderr, flush=True)
    status = 1
os._exit(status)
"""


def until(there: Callable[[], Any], child: Interpreter) -> None:
    end = time.monotonic() + 120
    while not there():
        assert time.monotonic() < end, child.said()
        time.sleep(0.005)


def trainable() -> type[Walk]:
    """The script's class, as a driver in this process has it: it waits for nobody."""
    return type("Waiting", (Walk,), {})


def again(home: Path) -> hp.Results:
    return hp.Tuner(**arguments(home, hp.Serial(), trainable=trainable())).fit()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    home = tmp_path_factory.mktemp("whole")
    again(home)
    return story(home / "walk")


@pytest.fixture
def driver(tmp_path: Path) -> Interpreter:
    """A process that drives the study in `tmp_path`, in the middle of it."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    child = Interpreter(script, folder=tmp_path)
    until(lambda: (tmp_path / "waiting").exists(), child)
    return child


def test_a_second_driver_is_told_of_the_first_whom_readers_do_not_disturb(
    tmp_path: Path, driver: Interpreter, whole: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    who = f"process {driver.pid} on {socket.gethostname()} has driven it since .*reading needs no lock"
    with pytest.raises(hp.StudyLockedError, match=who):
        again(tmp_path)
    there = story(tmp_path / "walk")
    assert main(["show", str(tmp_path / "walk")]) == 0 and "running" in capsys.readouterr().out
    assert 5 <= len(hp.Results.open(tmp_path / "walk")) < 20 and story(tmp_path / "walk") == there == whole[: len(there)]
    (tmp_path / "go").touch()
    assert driver.wait() == 0, driver.said()
    assert story(tmp_path / "walk") == whole


def test_whoever_comes_after_a_killed_driver_goes_on_at_once(tmp_path: Path, driver: Interpreter, whole: list[Any]) -> None:
    assert f'"pid": {driver.pid}' in (tmp_path / "walk" / NAME).read_text()
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    assert main(["ls", str(tmp_path)]) == 0
    again(tmp_path)         # though the lock's file still names the dead
    assert story(tmp_path / "walk") == whole
    reported, loaded = best_again(tmp_path / "walk")
    assert reported == loaded


def test_a_driver_that_stands_still_keeps_its_study_and_goes_on_when_it_wakes(
    tmp_path: Path, driver: Interpreter, whole: list[Any]
) -> None:
    driver.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    with pytest.raises(hp.StudyLockedError, match=str(driver.pid)):
        again(tmp_path)
    driver.send_signal(signal.SIGCONT)
    assert driver.wait() == 0, driver.said()
    assert story(tmp_path / "walk") == whole


def test_a_driver_whose_study_was_taken_over_writes_nothing_more_and_says_so(tmp_path: Path, driver: Interpreter, whole: list[Any]) -> None:
    """Nobody can take a lock from a driver that lives; but its file can be removed."""
    driver.send_signal(signal.SIGSTOP)
    (tmp_path / "walk" / NAME).unlink()
    again(tmp_path)
    assert story(tmp_path / "walk") == whole
    (tmp_path / "go").touch()
    driver.send_signal(signal.SIGCONT)
    assert driver.wait() == 1
    assert "StudyLockedError" in driver.said()[1] and "another driver may have taken over" in driver.said()[1]
    assert story(tmp_path / "walk") == whole
    reported, loaded = best_again(tmp_path / "walk")
    assert reported == loaded

"""The driver's lock: one at a time, and free as soon as its holder is gone."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from torchtune_hp.errors import JournalError, StudyLockedError
from torchtune_hp.lock import DriverLock, _forget_in_child

ROOT = Path(__file__).resolve().parent.parent


def test_a_second_driver_is_told_who_the_first_one_is(tmp_path: Path) -> None:
    with DriverLock(tmp_path) as lock:
        assert lock.acquire() is lock
        with pytest.raises(StudyLockedError, match=f"process {os.getpid()} on .+ has driven it since"):
            DriverLock(tmp_path).acquire()
    lock.release()
    with DriverLock(tmp_path):
        pass


def test_a_lock_that_was_removed_before_it_was_taken_is_taken_where_everybody_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, flock, removed = DriverLock(tmp_path / "s"), fcntl.flock, []

    def late(file: int, how: int) -> None:          # the first driver takes its study away, and lets go
        if not removed:
            removed.append(first.path)
            first.remove()
            first.path.parent.rmdir()
            first.release()
        flock(file, how)

    first.acquire()
    monkeypatch.setattr(fcntl, "flock", late)
    with DriverLock(tmp_path / "s") as second:
        assert removed and second.path.exists()
        with pytest.raises(StudyLockedError):
            DriverLock(tmp_path / "s").acquire()
    first.remove()          # holds nothing any more
    assert second.path.exists()


LOCKING = """
import sys, time
from torchtune_hp.lock import DriverLock
lock = DriverLock(sys.argv[1]).acquire()
print('held', flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_driver_is_free_at_once(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", LOCKING, str(tmp_path)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    with pytest.raises(StudyLockedError, match=f"process {process.pid} on"):
        DriverLock(tmp_path).acquire()
    process.kill()
    process.wait()
    with DriverLock(tmp_path):
        pass


def test_whether_a_lock_is_held_is_told_without_touching_it(tmp_path: Path) -> None:
    lock = DriverLock(tmp_path)
    assert not lock.held() and not lock.path.exists()
    with DriverLock(tmp_path):
        assert lock.held()
    assert not lock.held()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = socket.gethostname()
    for pid, where, held in ((gone.pid, host, False), (gone.pid, f"{host}-2", True), (1, host, True)):
        lock.path.write_text(json.dumps({"pid": pid, "host": where}))
        assert lock.held() is held
    for spoiled in ("", "[]", "{}", json.dumps({"pid": "x", "host": host})):
        lock.path.write_text(spoiled)
        assert not lock.held()


def test_a_forked_child_does_not_hold_its_drivers_lock(tmp_path: Path) -> None:
    lock = DriverLock(tmp_path).acquire()
    ready, told = os.pipe()
    child_ = os.fork()
    if child_ == 0:
        os.write(told, b"x")
        time.sleep(30)
        os._exit(0)
    os.read(ready, 1)
    with pytest.raises(StudyLockedError):
        DriverLock(tmp_path).acquire()
    lock.release()
    with DriverLock(tmp_path):
        pass
    os.kill(child_, signal.SIGKILL)
    os.waitpid(child_, 0)


def test_a_driver_whose_lock_was_removed_is_told_before_it_writes(tmp_path: Path) -> None:
    with DriverLock(tmp_path / "s") as lock:
        lock.check()
        (tmp_path / "s").rename(tmp_path / "elsewhere")         # with its driver in it
        lock.check()
        (tmp_path / "elsewhere" / lock.path.name).unlink()
        for _ in range(2):
            with pytest.raises(StudyLockedError, match="driver.lock was removed while this one held it.* Resume"):
                lock.check()
    lock.check()            # it holds nothing any more


def test_a_lock_file_that_says_nothing_still_locks(tmp_path: Path) -> None:
    with DriverLock(tmp_path) as lock:
        lock.path.write_text("")
        with pytest.raises(StudyLockedError, match="another process drives it"):
            DriverLock(tmp_path).acquire()


def test_a_disk_without_locks_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(JournalError, match="a disk with file locks, but .*driver.lock cannot be locked"):
        DriverLock(tmp_path).acquire()


def test_a_lock_that_cannot_be_written_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(JournalError, match=r"driver.lock is not \(.*No space left on device\)\. Make room"):
            DriverLock(tmp_path).acquire()
    with DriverLock(tmp_path) as lock:
        assert lock.held()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="must be writable, but .*file/study/driver.lock cannot be opened"):
        DriverLock(tmp_path / "file" / "study").acquire()


def test_what_a_child_closes_is_only_its_copy(tmp_path: Path) -> None:
    lock = DriverLock(tmp_path).acquire()
    _forget_in_child()
    lock.release()
    with DriverLock(tmp_path):
        pass

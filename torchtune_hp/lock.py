"""One driver for a study at a time: an advisory lock on `driver.lock` in its folder.

The operating system holds the lock and lets go of it when the process ends, however it ends: there is no lock to grow stale,
no clock to compare and nothing to break by hand. The file's text only says who holds it. Readers take no lock.
"""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .errors import JournalError, StudyLockedError

NAME = "driver.lock"
_held: weakref.WeakSet[DriverLock] = weakref.WeakSet()


class DriverLock:
    """The right to write to the study in `folder`.

    `acquire` raises StudyLockedError, which names process and host, while another driver holds it, in this process or in
    any other. `with DriverLock(folder):` acquires and releases. `check` before each write: nobody can take a lock that is
    held, but its file can be removed.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder) / NAME
        self._file: int | None = None

    def acquire(self) -> DriverLock:
        import fcntl

        if self._file is not None:
            return self
        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if isinstance(error, BlockingIOError):
                raise StudyLockedError(self._told()) from None
            raise JournalError(f"A study needs a disk with file locks, but {self.path} cannot be locked ({error}).") from error
        if not self._is_there(file):        # its holder removed it in between
            os.close(file)
            return self.acquire()
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}).encode(), 0)
        except OSError as error:
            os.close(file)
            law = "A study must be writable"
            raise JournalError(f"{law}, but {self.path} is not ({error}). Make room, or choose another storage.") from error
        self._file = file
        _held.add(self)
        return self

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):       # a study that was refused removed its folder in between
                return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JournalError(f"A study must be writable, but {self.path} cannot be opened ({error}). Choose another storage.") from error

    def _is_there(self, file: int) -> bool:
        """Whether what was locked is what everybody finds under this name: else two drivers could each lock a file of theirs."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """StudyLockedError where the locked file was removed: whoever came then has locked another, and drives the study as well."""
        if self._file is not None and not os.fstat(self._file).st_nlink:
            raise StudyLockedError(
                f"A study has one driver at a time, but {self.path} was removed while this one held it, so another driver may have taken "
                "over. This one stops and writes nothing more. Resume the study where no other drives it."
            )

    def remove(self) -> None:
        """Removes the file, while this driver holds it: nothing is left of a study that never was."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Lets go; a second release does nothing. The file stays."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            _held.discard(self)

    def held(self) -> bool:
        """Whether a driver seems to hold it, told by the file's text alone: to try the lock might keep a driver from it.

        A driver on another machine is believed; one on this machine must be alive.
        """
        try:
            owner = json.loads(self.path.read_text())
            return owner["host"] != socket.gethostname() or _alive(owner["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _told(self) -> str:
        try:
            owner = json.loads(self.path.read_text())
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
            who = f"process {owner['pid']} on {owner['host']} has driven it since {since}"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process drives it"
        return f"A study has one driver at a time, but {self.path.parent} is locked: {who}. Wait for it, or stop it; reading needs no lock."

    def __enter__(self) -> DriverLock:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:         # another user's
        return True
    return True


def _forget_in_child() -> None:
    """A forked child shares the lock until it closes its copy: it must not keep a dead driver's study locked."""
    for lock in list(_held):
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

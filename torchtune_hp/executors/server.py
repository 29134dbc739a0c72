"""A process that has torch in it already and forks workers from itself: 50 ms a worker, where a fresh import costs seconds.

    driver --Popen--> server --fork--> worker, worker, ...
      |                 ^                  ^
      |---- channel ----|                  |      requests to fork; who was born, who died of what
      `---- one pipe each -----------------'      see worker.py

Laws:
1. The server has one thread, holds no CUDA context and none of the user's code, so that forking it is safe.
2. When the driver goes, in whatever way, its end of the channel closes; the server then kills every worker and exits.
   When the server goes, the kernel kills the workers (Linux), or they leave at the end of their step (elsewhere).
3. Server and workers are in a session of their own: a Ctrl-C in the terminal reaches the driver alone, and it decides.
4. Each worker leads a process group, which is killed with it: no data loader of a trial outlives its worker.

There is no `__main__` in it, so a script needs no `if __name__ == "__main__"` guard.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe, spawn
from multiprocessing.connection import Connection

BORN, DIED = 0, 1
"""What a frame tells: `(BORN, pid, 0)`, or `(BORN, 0, errno)` if there was no forking; `(DIED, pid, wait status)`."""

PRELOAD = "TORCHTUNE_HP_PRELOAD"
"""In the server's environment: modules to import beside torch before anything is forked."""

_FRAME = struct.Struct("<iii")
_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CODE = "import sys; sys.path[:] = sys.argv[2:]; from torchtune_hp.executors.server import serve; serve(int(sys.argv[1]))"


class ForkServer:
    """The driver's end. Starting it returns at once; what is asked of it is done as soon as torch is imported."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile()
        self._serves = False
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = self._start(theirs.fileno(), environment)

    def _start(self, channel: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [spawn.get_executable(), "-c", _CODE, str(channel), *map(os.path.abspath, sys.path), _HOME],
            pass_fds=[channel],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def fileno(self) -> int:
        """Readable when there are frames to read, or when the server is gone."""
        return self._channel.fileno()

    def fork(self) -> Connection:
        """Asks for a worker: our end of its pipe. The frame that tells of its birth comes in the order of asking."""
        ours, theirs = Pipe()
        with theirs, suppress(OSError):         # OSError: the server is gone, as `read` will say
            socket.send_fds(self._channel, [b"f"], [theirs.fileno()])
        return ours

    def read(self) -> list[tuple[int, int, int]] | None:
        """The frames that are there; waits for the first. None: the server is gone."""
        with suppress(OSError):
            data = self._channel.recv(_FRAME.size * 64)
            if data:
                self._serves = True
                rest = -len(data) % _FRAME.size
                data += self._channel.recv(rest, socket.MSG_WAITALL) if rest else b""
                return list(_FRAME.iter_unpack(data))
        return None

    def said(self, limit: int = 4000) -> str:
        """The end of what the server, and workers before they had anything to do, wrote to stdout and stderr."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), limit, max(0, size - limit)).decode(errors="replace").strip()

    def close(self) -> None:
        """Kills what is left of the workers, and ends."""
        self._channel.close()
        if not self._serves:        # it is importing torch, and there is nobody to kill
            self._process.kill()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def serve(descriptor: int) -> None:
    """The server's whole life."""
    import torch  # noqa: F401  (what it is all about)

    for module in os.environ.get(PRELOAD, "").split():
        importlib.import_module(module)

    from . import worker  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)      # only so that it wakes us
    bell, ringer = os.pipe()
    for end in (bell, ringer):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()                                         # so that the workers' collectors leave our pages shared
    workers: set[int] = set()
    with socket.socket(fileno=descriptor) as channel, suppress(OSError):
        while True:
            ready, _, _ = select.select([channel.fileno(), bell], [], [])
            if bell in ready:
                os.read(bell, 4096)
                for pid, status in _reap(workers):
                    channel.sendall(_FRAME.pack(DIED, pid, status))
            if channel.fileno() in ready:
                request, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
                if not request:
                    break
                try:
                    pid = os.fork()
                except OSError as error:
                    os.close(descriptors[0])
                    channel.sendall(_FRAME.pack(BORN, 0, error.errno or 0))
                    continue
                if pid == 0:
                    _live(descriptors[0], [channel.detach(), bell, ringer])
                os.close(descriptors[0])
                workers.add(pid)
                channel.sendall(_FRAME.pack(BORN, pid, 0))
    for pid in workers:
        _kill_group(pid)


def _reap(workers: set[int]) -> list[tuple[int, int]]:
    """Those of the workers that died: (pid, wait status)."""
    dead = []
    for pid in sorted(workers):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            _kill_group(pid)
            workers.discard(pid)
            dead.append((pid, status))
    return dead


def _kill_group(leader: int) -> None:
    for kill in (os.killpg, os.kill):       # killpg fails as long as a newborn leads no group yet
        with suppress(OSError):
            kill(leader, signal.SIGKILL)
            return


def _live(descriptor: int, foreign: list[int]) -> None:
    """A worker's whole life; never returns."""
    code = 1
    try:
        server = os.getppid()
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in foreign:
            os.close(other)
        if sys.platform == "linux":
            _die_with_parent(server)
        from .worker import work

        code = work(Connection(descriptor))
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _die_with_parent(parent: int) -> None:
    import ctypes

    set_parent_death_signal = 1             # PR_SET_PDEATHSIG, prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)

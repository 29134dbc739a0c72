"""Python processes that are forked from one that has torch in it, instead of importing it for seconds each time.

A script runs as it does by its name: as `__main__`, in a process and a folder of its own, to the interpreter's ordinary end. Two things
differ: torch, scikit-learn and the package are imported already, and fork servers (`Processes`) are forked from the script. So of
whatever is run here, something like it is run by a fresh interpreter too.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

CODE = """
import json, os, runpy, signal, socket, sys

import sklearn.datasets, sklearn.linear_model, sklearn.model_selection, sklearn.preprocessing
import torch, torch._dynamo                         # the second is what the first step of an optimizer imports

import torchtune_hp.executors.processes, torchtune_hp.population.engine, torchtune_hp.searchers, torchtune_hp.tuner
from tests.conftest import Forked
from torchtune_hp.executors.server import ForkServer

ForkServer._start = lambda self, channel, environment: Forked(channel)
channel = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)       # nobody waits for those who wait
while True:
    data, descriptors, _, _ = socket.recv_fds(channel, 1, 4)
    if not data:
        sys.exit()
    if os.fork() == 0:
        break
    for descriptor in descriptors:
        os.close(descriptor)
channel.close()
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
told, out, err, request = descriptors
pid = os.fork()
if pid:                                             # it tells who was born, waits, and tells of what it died
    os.write(told, b"%d\\n" % pid)
    os.write(told, b"%d\\n" % os.waitpid(pid, 0)[1])
    os._exit(0)
os.dup2(out, 1)
os.dup2(err, 2)
given = json.loads(os.pread(request, 2**16, 0))
for descriptor in descriptors:
    os.close(descriptor)
os.chdir(given["folder"])
sys.argv = given["arguments"]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Interpreter:
    """What `subprocess.Popen` gives, for a script that is run here."""

    def __init__(self, script: Path, *arguments: str, folder: Path) -> None:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        given = {"arguments": [str(script), *arguments], "folder": str(folder)}
        told, tells = os.pipe()
        self._told = open(told, "rb", buffering=0)
        with tempfile.TemporaryFile() as request, open(tells, "wb"):
            request.write(json.dumps(given).encode())
            request.flush()
            socket.send_fds(_nursery(), [b"f"], [tells, self._out.fileno(), self._err.fileno(), request.fileno()])
        self.pid = int(self._told.readline())

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def said(self) -> tuple[str, str]:
        """What it wrote so far, to stdout and stderr."""
        return tuple(os.pread(file.fileno(), 2**24, 0).decode() for file in (self._out, self._err))  # type: ignore[return-value]

    def wait(self, timeout: float = 600.0) -> int:
        """Until it ended: its exit status, negative if a signal ended it, as `subprocess.Popen` has it."""
        if not select.select([self._told], [], [], timeout)[0]:
            self.send_signal(signal.SIGKILL)
            raise subprocess.TimeoutExpired("the script", timeout, *self.said())
        with self._told:
            return os.waitstatus_to_exitcode(int(self._told.readline()))


def run(script: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    begun = Interpreter(script, *arguments, folder=folder)
    status = begun.wait()
    return subprocess.CompletedProcess([str(script), *arguments], status, *begun.said())


@cache
def _nursery() -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CODE, str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)

    def close() -> None:
        process.kill()
        process.wait()

    atexit.register(close)
    return ours

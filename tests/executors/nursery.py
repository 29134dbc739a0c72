"""A process that has torch in it, and becomes a fork server as often as a test wants one: a second less for each test."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
from functools import cache

import pytest

from torchtune_hp.executors import crew, server
from torchtune_hp.executors.server import ForkServer

CODE = """
import importlib, os, signal, socket, sys
sys.path[:] = sys.argv[3:]
import torch
for module in sys.argv[2].split():
    importlib.import_module(module)
from torchtune_hp.executors import server, worker
import tests.executors.telling
channel = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    data, descriptors, _, _ = socket.recv_fds(channel, 1, 2)
    if not data:
        break
    pid = os.fork()
    if pid == 0:
        channel.close()
        os.setsid()
        os.dup2(descriptors[1], 1)
        os.dup2(descriptors[1], 2)
        try:
            server.serve(descriptors[0])
        finally:
            os._exit(0)
    for descriptor in descriptors:
        os.close(descriptor)
    channel.sendall(pid.to_bytes(4, "big"))
"""


class Nursery:
    def __init__(self, preload: str) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CODE, str(theirs.fileno()), preload, *sys.path, server._HOME],
                pass_fds=[theirs.fileno()], env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

    def fork(self, channel: int, log: int) -> int:
        socket.send_fds(self.channel, [b"f"], [channel, log])
        return int.from_bytes(self.channel.recv(4), "big")

    def close(self) -> None:
        self.channel.close()
        self.process.wait(10)


class Process:
    """A process that is another's child, with what ForkServer needs of Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (timeout or 10.0)
        while os.path.exists(f"/proc/{self.pid}"):
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("server", timeout or 10.0)
            time.sleep(0.002)
        return 0


@cache
def the_nursery(preload: str) -> Nursery:
    together = "engine_child" in preload
    nursery = Nursery(f"{preload} tests.executors.test_children" if together else "")
    atexit.register(nursery.close)
    return nursery


class WarmServer(ForkServer):
    def _start(self, channel, environment):
        return Process(the_nursery(environment.get(server.PRELOAD, "")).fork(channel, self._log.fileno()))


@pytest.fixture(autouse=True)
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import it, and the executors of all tests in that file start from the nursery."""
    monkeypatch.setattr(crew, "ForkServer", WarmServer)

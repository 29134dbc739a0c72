"""What several tests need."""

from __future__ import annotations

import gc
import getpass
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from torchtune_hp.executors.server import ForkServer, serve
from torchtune_hp.training import context


@pytest.fixture(autouse=True, scope="session")
def nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary folder for each process that runs tests, and for what it starts: empty at the end, but for what torch's compiler keeps
    there. Its large cache stays where it always is."""
    with pytest.MonkeyPatch.context() as patch:
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}"))
        folder = tmp_path_factory.mktemp("tmp")
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("TMPDIR", str(folder))
        yield
    gc.collect()
    assert [path for path in folder.iterdir() if not path.name.startswith("torchinductor_")] == []


@pytest.fixture(autouse=True)
def nothing_open() -> None:
    """What other tests abandoned, as a kill does, is not taken for trials of this one."""
    context._open.clear()


@pytest.fixture
def quick_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork servers are forked from this process, which has torch, instead of importing it for seconds each time."""
    monkeypatch.setattr(ForkServer, "_start", lambda self, channel, environment: Forked(channel))


class Forked:
    """What `subprocess.Popen` gives, for a fork server that is forked from this process: importing torch takes seconds."""

    def __init__(self, channel: int) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            os.closerange(3, channel)               # what exec would close, the driver's own end of the channel above all
            os.closerange(channel + 1, 1024)
            try:
                serve(channel)
            finally:
                os._exit(0)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (60.0 if timeout is None else timeout)
        while time.monotonic() < until:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return 0
            time.sleep(0.005)
        raise TimeoutError(f"the fork server {self.pid} does not end")

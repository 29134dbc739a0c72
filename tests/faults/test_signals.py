"""Real signals to real processes: what is said, with what status it ends, and that the study goes on to the same story."""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import torchtune_hp as hp
from tests.interpreters import Interpreter
from torchtune_hp.journal import Journal

from .studies import story

SCRIPT = """
import os, sys, time
from pathlib import Path

import torchtune_hp as hp
from torchtune_hp.cli import main

HERE = Path(__file__).parent


class Waiting(hp.Trainable):
    "Its second step lasts until there is a file `go`."

    def setup(self, config):
        self.n = 0

    def step(self):
        self.n += 1
        if self.n == 2 and not (HERE / "go").exists():
            (HERE / "waiting").write_text(str(os.getpid()))
            while not (HERE / "go").exists():
                time.sleep(0.005)
        return {"loss": self.config["x"] + 1 / self.n}

    def save_checkpoint(self, folder):
        return {"n": self.n}

    def load_checkpoint(self, state):
        self.n = state["n"]


study = hp.Tuner(Waiting, {"x": hp.uniform(0.0, 1.0)}, metric="loss", mode="min", trials=3, scheduler=hp.FullRuns(max_t=4),
    searcher=hp.RandomSearch(), executor=hp.Serial() if "serial" in sys.argv else hp.Processes(1), storage=HERE / "runs", name="s",
    verbose=0, resume="auto")

if __name__ == "__main__":
    status = main(["run", f"{__file__}:study"])
    sys.stderr.flush()
    os._exit(status)                # an interpreter with torch in it takes seconds to take itself apart
"""


def until(there: Callable[[], Any], child: Interpreter) -> None:
    end = time.monotonic() + 120
    while not there():
        assert time.monotonic() < end, child.said()
        time.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    home = tmp_path_factory.mktemp("whole")
    script = home / "script.py"
    script.write_text(SCRIPT)
    (home / "go").touch()
    child = Interpreter(script, "serial", folder=home)
    assert child.wait() == 0, child.said()
    return story(home / "runs" / "s")


@pytest.mark.parametrize(
    ("executor", "signals", "status"),
    [("serial", "INT", 130), ("processes", "TERM", 143), ("serial", "TERM INT", 130), ("processes", "INT INT", 130)],
)
def test_a_signal_lets_the_step_end_and_a_second_one_does_not_and_the_study_goes_on(
    tmp_path: Path, whole: list[Any], executor: str, signals: str, status: int
) -> None:
    script, go, study = tmp_path / "script.py", tmp_path / "go", tmp_path / "runs" / "s"
    script.write_text(SCRIPT)
    child = Interpreter(script, executor, folder=tmp_path)
    until(lambda: (tmp_path / "waiting").exists() and (tmp_path / "waiting").read_text(), child)
    first, *second = [signal.Signals[f"SIG{name}"] for name in signals.split()]
    child.send_signal(first)
    until(lambda: "stopping after this step; again: stop now" in child.said()[1], child)
    assert len(story(study)) == 2           # the step is still in hand
    if second:
        child.send_signal(second[0])
    else:
        go.touch()
    assert child.wait(120) == status
    out, error = child.said()
    assert out == "" and "Traceback" not in error
    trainer = int((tmp_path / "waiting").read_text())
    until(lambda: not alive(trainer), child)
    with Journal.open(study) as journal:
        assert journal.check() == []
        saved = [row.step for row in journal.checkpoints(purpose="resume")]
    there = story(study)
    assert there == whole[: len(there)] and len(there) == (2 if second else 3)
    assert second or (saved == [2] and f"resume {study}" in error.splitlines()[-1])
    go.touch()
    child = Interpreter(script, executor, folder=tmp_path)
    assert child.wait(120) == 0, child.said()
    assert story(study) == whole


# Workers ------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_server")
@pytest.mark.parametrize("often", ["once", "always"])
def test_a_trial_that_crashes_its_process_is_tried_again_and_costs_no_other_trial_anything(tmp_path: Path, often: str) -> None:
    marker = tmp_path / "marker"

    def train(config: dict[str, Any]) -> Any:
        for step in range(3):
            if step == 1 and config["x"] == 1 and (often == "always" or not marker.exists()):
                marker.touch()
                ctypes.string_at(0)
            yield {"loss": config["x"] + 1 / (step + 1)}

    def study(name: str) -> hp.Results:
        return hp.tune(
            train, {"x": hp.grid_search([0, 1, 2, 3])}, metric="loss", mode="min", executor=hp.Processes(1), storage=tmp_path,
            name=name, verbose=0,
        )  # fmt: skip

    crashed = study("crashed")
    died = "worker died (signal 11), restarting 1/3"
    assert [(note.text, note.trial) for note in crashed.log if note.kind == "lost"] == [(died, 1)] * (1 if often == "once" else 2)
    if often == "once":
        study("clean")
        assert story(tmp_path / "crashed") == story(tmp_path / "clean")
        return
    assert crashed.counts() == {"completed": 3, "failed": 1}
    (error,) = crashed.errors
    assert (error.trial, error.kind) == (1, "lost") and "trials/000001/output.txt" in error.line
    assert "Segmentation fault" in (tmp_path / "crashed" / "trials" / "000001" / "output.txt").read_text()

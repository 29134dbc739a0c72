"""kill -9 in the middle of a study, resume, and get the result that an undisturbed run gets, digit for digit.

The study runs in a child process, as it would on a machine that goes away. `resume="auto"` makes it one script for both:
start if there is no such study, go on if there is.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torchtune_hp as hp


class Walk(hp.Trainable):
    """A random walk towards home: whatever is lost, repeated or drawn from another seed shows in every later loss."""

    def setup(self, config: dict[str, Any]) -> None:
        self.distance = random.uniform(5.0, 10.0)

    def step(self) -> dict[str, Any]:
        time.sleep(0.01)        # so that there is something to kill
        self.distance *= 1 - self.config["pull"]
        self.distance += random.gauss(0.0, self.config["noise"])
        return {"loss": abs(self.distance)}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"distance": self.distance}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.distance = checkpoint["distance"]


def tune(storage: str, name: str) -> hp.Results:
    space = {"pull": hp.uniform(0.0, 0.5), "noise": hp.loguniform(1e-2, 1.0)}
    scheduler = hp.ASHA(max_t=9, reduction_factor=3)
    return hp.Tuner(
        Walk, space, metric="loss", mode="min", trials=40, scheduler=scheduler, executor=hp.Serial(), storage=storage, name=name,
        resume="auto", verbose=0,
    ).fit()  # fmt: skip


def trials_in(folder: Path) -> int:
    with hp.Results.open(folder) as results:
        return len(results)


if len(sys.argv) > 1:           # the child
    tune(sys.argv[1], "killed")
    raise SystemExit

with tempfile.TemporaryDirectory() as storage:
    child = subprocess.Popen([sys.executable, __file__, storage])
    folder = Path(storage, "killed")
    while not (folder / "study.db").exists() or trials_in(folder) < 12:       # anyone may read while the child writes
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with hp.Results.open(folder) as left:
        print(f"killed with {len(left)} of 40 trials begun: {left.counts()}")

    resumed, undisturbed = tune(storage, "killed"), tune(storage, "undisturbed")
    same = resumed.curves() == undisturbed.curves() and resumed.best.load().distance == undisturbed.best.load().distance
    print(f"resumed:     trial {resumed.best.trial}, loss {resumed.best.metrics['loss']!r}")
    print(f"undisturbed: trial {undisturbed.best.trial}, loss {undisturbed.best.metrics['loss']!r}")
    print(f"every report of all {len(resumed)} trials is the same: {same}")

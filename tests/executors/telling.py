"""Trainables that look at their process, and do in it what they are told; and how tests ask an executor for answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from torchtune_hp.testing import toys
from torchtune_hp.testing.play import Play
from torchtune_hp.training.function import report
from torchtune_hp.trial import Launch, Note, Setting, Standing, Train, Trial

SETTING = Setting((), lambda x: x)


class Telling(toys.Quadratic):
    """Tells of its process; `config["do"]` happens in step 2."""

    def step(self):
        metrics = super().step()
        if self.steps == 2:
            do(self.config, "step")
        return metrics | {"pid": os.getpid(), "threads": torch.get_num_threads(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}

    def save_checkpoint(self, checkpoint_dir):
        do(self.config, "save")
        return super().save_checkpoint(checkpoint_dir)

    def cleanup(self):
        do(self.config, "cleanup")


class Untidy(Telling):
    """Has files of its own."""

    def setup(self, config):
        super().setup(config)
        (Path(self.logdir) / "log").touch()


class Recording(Telling):
    def step(self):
        metrics = super().step()
        with open(self.config["marker"], "a") as file:
            print(self.steps, file=file)
        return metrics


def do(config, where):
    what = config.get(where)
    if what == "print":
        print("out of", config["name"])
        print("err of", config["name"], file=sys.stderr)
        os.write(1, b"raw\n")
    elif what == "once":            # the first time only
        if not os.path.exists(config["marker"]):
            Path(config["marker"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(7)
    elif what == "sys.exit":
        sys.exit(3)
    elif what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "sleep":
        time.sleep(config.get("seconds", 60))
    elif what == "close":
        os.closerange(3, 100)
        time.sleep(60)
    elif what == "write":
        Path(config["marker"]).write_text("cleaned up")
    elif what == "child":
        Path(config["marker"]).write_text(str(subprocess.Popen(["sleep", "100"]).pid))
    elif what:
        raise what("on purpose")


def counting(config, held=None):
    """A function that cannot be saved, and tells in which process it is."""
    for step in range(1, 6):
        do(config, step)
        report(loss=1.0 / step, pid=os.getpid())


class Foldering(toys.Quadratic):
    """Saves files."""

    def save_checkpoint(self, checkpoint_dir):
        (Path(checkpoint_dir) / "steps").write_text(str(self.steps))

    def load_checkpoint(self, checkpoint):
        self.steps = int((Path(checkpoint) / "steps").read_text())


class Deadly:
    """What is held by a train function, and rebuilt where the function goes."""

    def __reduce__(self):
        return os._exit, (5,)


class Unrebuildable(Deadly):
    def __reduce__(self):
        return divmod, (1, 0)


def trial(number, **config):
    return Trial(number, (), {"x": 0.5, "y": 0.5, **config}, number)


def begun(executor, recipe, **keywords):
    play = Play(executor, recipe, **keywords)
    executor.begin(SETTING, Standing())
    return play


def answers(executor, *commands):
    """What is said, notes aside, until every command is answered."""
    for command in commands:
        executor.submit(command)
    due, said = sum(isinstance(command, (Launch, Train)) for command in commands), []
    while len(said) < due:
        events = executor.wait()
        executor.heard = [*getattr(executor, "heard", []), *(event for event in events if isinstance(event, Note))]
        said += [event for event in events if not isinstance(event, Note)]
    return sorted(said, key=lambda event: event.trial)


def gone(pid, within=5.0):
    until = time.monotonic() + within
    while alive(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def alive(pid):
    """Whether it is there, and more than what waits to be asked for its status."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):     # the second if it went while it was read
        return False

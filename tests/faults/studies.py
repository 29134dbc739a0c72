"""Small studies to be interrupted, and what of them must not depend on it.

`Walk` draws at random and carries its state, so a state that was lost, restored at a wrong step or trained under another
seed shows in every later metric.
"""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import torchtune_hp as hp
from torchtune_hp.journal import Journal
from torchtune_hp.journal_text import to_json
from torchtune_hp.trial import Launch, Note

SPACE = {"drift": hp.uniform(-1.0, 1.0), "scale": hp.loguniform(1e-2, 1.0)}


class Walk(hp.Trainable):
    """A random walk; the loss is how far it is from home. Some configs end in NaN, some raise."""

    def setup(self, config: dict[str, Any]) -> None:
        self.value = random.gauss(config["drift"], 1.0)

    def step(self) -> dict[str, Any]:
        self.value += random.gauss(self.config["drift"], self.config["scale"])
        if self.config["drift"] > 0.9:
            raise ValueError("walked off")
        return {"loss": float("nan") if self.config["drift"] > 0.8 else abs(self.value)}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"value": self.value}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.value = checkpoint["value"]


def arguments(storage: Path, executor: Any, **changes: Any) -> dict[str, Any]:
    """Of a Tuner of the study; `checkpoint_every=0.0` makes some states durable, so that resuming starts from a mixture."""
    return {
        "trainable": Walk, "space": SPACE, "metric": "loss", "mode": "min", "trials": 20, "executor": executor, "seed": 3,
        "searcher": hp.RandomSearch(), "scheduler": hp.ASHA(max_t=9, grace_period=1, reduction_factor=3), "storage": storage,
        "name": "walk", "resume": "auto", "verbose": 0, "checkpoint_every": 0.002,
    } | changes  # fmt: skip


def story(folder: Path) -> list[Any]:
    """The study turn by turn, but for times and for notes: reports, failures, decisions, configs."""
    with Journal.open(folder) as journal:
        return [
            (
                [replace(event, time=0.0, **({"error": ""} if hasattr(event, "error") else {"metrics": to_json(event.metrics)}))
                 for event in events if not isinstance(event, Note)],
                [(command, to_json(command.trial.config)) if isinstance(command, Launch) else command for command in commands],
            )
            for events, _, commands in journal.turns()
        ]  # fmt: skip


def best_again(folder: Path) -> tuple[float, float]:
    """The best loss as reported, and as the kept state gives it."""
    best = hp.Results.open(folder, trainable=Walk).best
    return best.metrics["loss"], abs(best.load().value)


# A death that is played in this process -------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process: nothing after it is cleaned up by the study."""


def run_and_kill(turn: int, committed: bool, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the study until its turn number `turn` was, or was about to be, written, and then lets it die."""
    append, turns = Journal.append, [0]

    def dying(self: Journal, *what: Any) -> None:
        turns[0] += 1
        if turns[0] < turn or committed:
            append(self, *what)
        if turns[0] == turn:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", dying)
        patch.setattr(type(given["executor"]), "close", abandon)
        with pytest.raises(Killed):
            hp.Tuner(**given).fit()


def abandon(executor: Any, save: bool = False) -> None:
    crew = getattr(executor, "_crew", None)
    if crew is not None:
        for member in crew.members:
            if member.pid:
                with suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGKILL)
        crew.close(0.0)

"""Toy trainables: trainings that take microseconds, and trainings that go wrong on purpose.

Every toy reads a config {"x": ..., "y": ...} from the unit square and reports `loss` (smaller is better) and `accuracy`. The
metrics are `curve(config, step)`: what a toy must have reported can be computed without running it.

    as a Trainable (it can be saved)     as a train function        what it does
    Quadratic                            quadratic, quadratics      learns, undisturbed; the second is a generator
    Diverging                            diverging                  from step AT on, the loss is NaN        if `troubled`
    Raising                              raising                    raises ToyError in step AT              if `troubled`
    Stalling                             stalling                   hangs in step AT                        if `troubled`
    Crashing                             crashing                   its process dies of SIGSEGV in step AT  if `troubled`

A Trainable has no end of its own; a function ends after `config["steps"]` reports, 9 by default. `quadratic` gives a
checkpoint with every report if `config["saves"]`.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

from ..training.function import get_checkpoint, report
from ..training.trainable import Trainable
from ..trial import Config

AT = 3
"""The step in which a troubled toy goes wrong: two looks are good."""

STALL = 3600.0
"""Seconds that a stalling toy hangs."""


class ToyError(Exception):
    """What a raising toy raises."""


def curve(config: Config, step: int) -> dict[str, float]:
    """The metrics after `step` units: the loss falls from 1 to (x - 0.3)^2 + (y - 0.7)^2, the faster the larger y is.

    Curves cross: what looks good early is not always what ends best.
    """
    floor = (config["x"] - 0.3) ** 2 + (config["y"] - 0.7) ** 2
    loss = floor + (1.0 - floor) * math.exp(-(0.1 + config["y"]) * step)
    return {"loss": loss, "accuracy": 1.0 / (1.0 + loss)}


def troubled(config: Config) -> bool:
    """Whether a toy that goes wrong does so with this config: x > 0.8, a fifth of the square."""
    return bool(config["x"] > 0.8)


# As classes ----------------------------------------------------------------------------------------------------------------


class Quadratic(Trainable):
    """Follows `curve`; `draw` is a random number of the step, so that repeated work can be recognized."""

    def setup(self, config: dict[str, Any]) -> None:
        self.steps = 0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        return {**curve(self.config, self.steps), "draw": random.random()}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps = checkpoint["steps"]


class Diverging(Quadratic):
    def step(self) -> dict[str, Any]:
        metrics = super().step()
        return {**metrics, "loss": math.nan, "accuracy": math.nan} if _now(self.config, self.steps) else metrics


class Raising(Quadratic):
    def step(self) -> dict[str, Any]:
        metrics = super().step()
        if _now(self.config, self.steps):
            raise ToyError(f"raised on purpose in step {self.steps}")
        return metrics


class Stalling(Quadratic):
    def step(self) -> dict[str, Any]:
        metrics = super().step()
        if _now(self.config, self.steps):
            time.sleep(STALL)
        return metrics


class Crashing(Quadratic):
    def step(self) -> dict[str, Any]:
        metrics = super().step()
        if _now(self.config, self.steps):
            os.kill(os.getpid(), signal.SIGSEGV)
        return metrics


# As functions --------------------------------------------------------------------------------------------------------------


def quadratic(config: dict[str, Any]) -> None:
    """As Quadratic; restarted from a checkpoint it goes on."""
    checkpoint = get_checkpoint()
    done = checkpoint["steps"] if isinstance(checkpoint, dict) else 0
    for step in range(done + 1, config.get("steps", 9) + 1):
        metrics = {**curve(config, step), "draw": random.random()}
        report(metrics, checkpoint={"steps": step} if config.get("saves") else None)


def quadratics(config: dict[str, Any]) -> Iterator[Any]:
    """As `quadratic`, as a generator."""
    checkpoint = get_checkpoint()
    done = checkpoint["steps"] if isinstance(checkpoint, dict) else 0
    for step in range(done + 1, config.get("steps", 9) + 1):
        metrics = {**curve(config, step), "draw": random.random()}
        yield (metrics, {"steps": step}) if config.get("saves") else metrics


def diverging(config: dict[str, Any]) -> None:
    for step, metrics in _steps(config):
        report({"loss": math.nan, "accuracy": math.nan} if _now(config, step) else metrics)


def raising(config: dict[str, Any]) -> None:
    for step, metrics in _steps(config):
        if _now(config, step):
            raise ToyError(f"raised on purpose in step {step}")
        report(metrics)


def stalling(config: dict[str, Any]) -> None:
    for step, metrics in _steps(config):
        if _now(config, step):
            time.sleep(STALL)
        report(metrics)


def crashing(config: dict[str, Any]) -> None:
    for step, metrics in _steps(config):
        if _now(config, step):
            os.kill(os.getpid(), signal.SIGSEGV)
        report(metrics)


def _steps(config: Config) -> Iterator[tuple[int, dict[str, float]]]:
    for step in range(1, config.get("steps", 9) + 1):
        yield step, curve(config, step)


def _now(config: Config, step: int) -> bool:
    return step >= AT and troubled(config)

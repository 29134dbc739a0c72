"""Whether members of a kind are faster at once or one after another: found out by doing both, and never guessed.

A stack of k does in one update what k do in k; which is faster depends on the model, the device and k. Both are timed on the
first iterations of a stack of about that size (sizes that need equally many bits count as one), and the faster is kept. A stack
waits for a batch that its members share once, and members one after another wait each for their own.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch

from ..training.alone import ModelRunner

REPEATS = 6
MARGIN = 0.95
"""One after another is taken where it needs less than this share of the stack's time: a measurement has its noise."""


class Speeds:
    """Of one structure. Times are seconds an update."""

    def __init__(self) -> None:
        self.alone: float | None = None
        self._load = 0.0        # of each update
        self._stacked: dict[int, float] = {}

    def note(self, k: int, seconds: float, load: float) -> None:
        """A stack of k needed so long, of which `load` for a batch that all share; the best of several counts."""
        bits, self._load = k.bit_length(), load
        self._stacked[bits] = min(seconds, self._stacked.get(bits, seconds))

    def loses(self, k: int) -> str | None:
        """Why k are better trained one after another; None where a stack is faster, or was not tried yet."""
        stacked = self._stacked.get(k.bit_length())
        if stacked is None or self.alone is None or k * (self.alone + self._load) > MARGIN * stacked:
            return None
        return f"{k} at once take {stacked * 1e3:.3g} ms an update, one after another {k * (self.alone + self._load) * 1e3:.3g} ms"


def time_alone(runner: ModelRunner, batch: Callable[[], Any]) -> float:
    """Seconds that one update of this member takes by itself, on copies: nothing of the member changes. A mean, as a stack's is."""
    member = runner.member
    model, optimizer = copy.deepcopy((member.model, member.optimizer))
    model.train()
    runner.update_once(model, optimizer, batch())
    wait(member.device)
    began = time.perf_counter()
    for _ in range(REPEATS):
        runner.update_once(model, optimizer, batch())
    wait(member.device)
    return (time.perf_counter() - began) / REPEATS


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

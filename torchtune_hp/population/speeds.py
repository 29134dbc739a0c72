"""Whether members of a kind are faster at once, at once from a CUDA graph, or one after another: found out by doing it all, never guessed.

A stack of k does in one update what k do in k; which is faster depends on the model, the device and k. All are timed on the
first iterations of a stack of about that size (sizes that need equally many bits count as one), and the fastest is kept. A stack
waits for a batch that its members share once, and members one after another wait each for their own. What it takes to capture a
graph is part of its time: where rows move in every iteration it is paid in every one, and of several iterations the best counts.

A choice changes results by rounding, and a clock makes it: so it is an input of the study.

Laws:
1. What is chosen for a size is written into `choices` before it is first used, and no later time changes it.
2. What stands in `choices` is obeyed, and nothing is timed for it. Only a graph that cannot be captured is chosen anew.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import torch

from ..training.alone import ModelRunner

REPEATS = 6
MARGIN = 0.95
"""One after another is taken where it needs less than this share of the stack's time: a measurement has its noise."""


TRIES = 2
"""Iterations that are replayed from graphs before it is decided: the first one captures them."""


Choices = MutableMapping[str, str]
"""The strategy, "vmap", "graph" or "loop", of each structure and size for which it is chosen; and where a clock found that widths
are better not padded, that."""

BEFORE = "this study chose so before"
"""Why, where no time is known."""

WIDTHS, UNPADDED = " widths", "unpadded"
"""The end of such a key, after the name of the structure, and what stands there. Without one, widths are padded."""


class Speeds:
    """Of one structure. Times are seconds an update. `graphs`: whether steps can be replayed from CUDA graphs.

    `choices`: what was chosen so far, of all structures; this one's keys begin with `name`.
    """

    def __init__(self, graphs: bool = False, choices: Choices | None = None, name: str = "") -> None:
        self.alone: float | None = None
        self.graphs = graphs
        self._choices: Choices = {} if choices is None else choices
        self._name = name
        self._load = 0.0        # of each update
        self._stacked: dict[int, float] = {}
        self._replayed: dict[int, list[float]] = {}

    def note(self, k: int, seconds: float, load: float, replayed: bool = False) -> None:
        """A stack of k needed so long, of which `load` for a batch that all share; the best of several counts."""
        bits, self._load = k.bit_length(), load
        if replayed:
            self._replayed.setdefault(bits, []).append(seconds)
        else:
            self._stacked[bits] = min(seconds, self._stacked.get(bits, seconds))
        self.chosen(k)

    def chosen(self, k: int) -> str | None:
        """The strategy of k; None before all of them were timed."""
        key = f"{self._name} {k.bit_length()}"
        found = self._choices.get(key)
        if found is not None and (found != "graph" or self.graphs):
            return found
        stacked, replayed = self._times(k)
        if stacked is None or self.alone is None or self._tries(k):
            return None
        if self._one_by_one(k) <= MARGIN * min(stacked, replayed):
            found = "loop"
        else:
            found = "graph" if replayed < stacked else "vmap"
        self._choices[key] = found
        return self._choices[key]       # which another process may have chosen before

    def replays(self, k: int) -> bool:
        """Whether the next iteration of k is to be replayed from graphs: to be timed, or because that is faster."""
        found = self.chosen(k)
        if found is not None:
            return found == "graph"
        return self.graphs and k.bit_length() in self._stacked and self._tries(k)

    def loses(self, k: int) -> str | None:
        """Why k are better trained one after another; None where a stack is faster, or was not tried yet."""
        if self.chosen(k) != "loop":
            return None
        return self._shown(k) if k.bit_length() in self._stacked else BEFORE

    def wins(self, k: int) -> str | None:
        """In figures, why k are better trained at once, without graphs in the choice; None where that was not timed, or is not so."""
        timed = not self.graphs and self.alone is not None and k.bit_length() in self._stacked
        return self._shown(k) if timed and self.chosen(k) == "vmap" else None

    def graph(self, k: int) -> str | None:
        """What was found of graphs for k, in figures, or that they were taken before; None where they were not timed, or not yet."""
        if self.graphs and self.alone is not None and k.bit_length() in self._stacked and not self._tries(k):
            return self._shown(k)
        return BEFORE if self.chosen(k) == "graph" else None

    def _tries(self, k: int) -> bool:
        return self.graphs and len(self._replayed.get(k.bit_length(), ())) < TRIES

    def _times(self, k: int) -> tuple[float | None, float]:
        replayed = self._replayed.get(k.bit_length(), ()) if self.graphs else ()
        return self._stacked.get(k.bit_length()), min(replayed, default=float("inf"))

    def _one_by_one(self, k: int) -> float:
        return k * ((self.alone or 0.0) + self._load)

    def _shown(self, k: int) -> str:
        stacked, replayed = self._times(k)
        graph = "" if replayed == float("inf") else f", from a CUDA graph {replayed * 1e3:.3g} ms"
        return f"{k} at once take {(stacked or 0.0) * 1e3:.3g} ms an update{graph}, one after another {self._one_by_one(k) * 1e3:.3g} ms"


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

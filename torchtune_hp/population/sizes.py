"""How many members at once: found out on one member, by training it so many times over, on its own data.

A stack of twice as many is tried for as long as that trains a tenth more members a second and there is room; the smallest size within
a tenth of the best is taken. The member is thrown away afterwards.

Laws:
1. It takes a fifth, or so, of the time in which the study will train each of its trials for one iteration, which is the least that any
   study does; at least LEAST. What the first update of a size takes beyond a later one does not count, for the study would pay it too.
2. One stack is always measured, unless that would take more than SECONDS: by the clock on the wall, and with all that is taken once. No
   update is begun that would end later if it took as long as the one before, or, in a stack of more, as long for each member.
3. What is taken was measured. Only where the time for it is over, the next size may be taken by the line through what was: a step of a
   stack takes so long by itself, and so much longer for each member.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..training.alone import ModelRunner
from ..training.drain import Tree, tree_map
from ..training.evaluation import autocast
from .calls import Calls, untouched
from .choosing import FEW, Strategy
from .graphed import can_capture
from .keys import keys_of
from .reads import Reads
from .room import OUT_OF_MEMORY, free, let_go, limited
from .speeds import wait
from .stack import Stack
from .stackable import Unstackable

MOST = 1024
FIRST = 8
GAIN = 1.1
PATIENCE = 2
"""So many sizes in a row that gain nothing are the last: one measurement may be off."""
SECONDS = 3.0
"""The time that all of it may take, whoever else has the machine,"""
PART = 0.2
"""and, for the sizes after the first, as a share of one iteration of every trial, at the best rate so far;"""
LEAST = 0.1
"""but seconds that nobody minds, where an iteration is one update and there will be thousands."""
REPEATS = 5
ENOUGH = 0.01
"""Seconds after which a time is not taken once more than twice."""
SHARE = 0.8
"""Of the memory that is free: the rest is for validation, and for other programs."""
COPIES = 10
"""Of a member's tensors, where no more is known: its own, a row's, and a copy of that, each with an optimizer's two; and gradients."""


@dataclass(frozen=True)
class Size:
    """`slots` at once; `why`, in figures."""

    slots: int
    why: str


def best_size(runner: ModelRunner, trials: int | None, strategy: Strategy) -> Size:
    """Measures on the runner's device, and spoils the runner. Raises Unstackable, or what its hooks raise, where it cannot be done, and
    TimeoutError where no stack could be measured in SECONDS: of one by one alone, nothing follows."""
    most = min(MOST, trials or MOST)
    if strategy == "loop" or most <= FEW:
        return Size(1, 'one by one, as strategy="loop" asks for' if strategy == "loop" else f"there are {most} trials")
    bench = Bench(runner, strategy in ("auto", "graph") and can_capture(runner.member.device), trials)
    alone = bench.alone() if strategy == "auto" else None       # who asks for stacks gets some
    rates, end = climbed(bench, most)
    if bench.over and not rates:
        raise TimeoutError(f"{end} before a stack was measured")
    return chosen(alone, rates, end, bench.memory(), foreseen(rates, most, bench.has_room) if bench.over else {})


def climbed(rate: Callable[[int], float | str], most: int) -> tuple[dict[int, float], str]:
    """`rate(k)`: members a second of k at once, or why that was not tried -> the rates, and why there are no more."""
    rates: dict[int, float] = {}
    best, vain = 0.0, 0
    for k in sizes(most):
        found = rate(k)
        if isinstance(found, str):
            return rates, found
        rates[k] = found
        vain = 0 if found >= GAIN * best else vain + 1
        if vain == PATIENCE:
            return rates, "more gain less than a tenth"
        best = max(best, found)
    return rates, f"{most} are the most there can be"


def sizes(most: int) -> Iterator[int]:
    k = FIRST
    while k < most:
        yield k
        k *= 2
    yield most


def foreseen(rates: dict[int, float], most: int, has_room: Callable[[int], bool]) -> dict[int, float]:
    """The rate of the next size, by the line through the times of the last two; empty where there are not two, or it has no room."""
    if len(rates) < 2 or max(rates) == most:
        return {}
    (k, rate), (other, its) = list(rates.items())[-2:]
    seconds = other / its
    member = max(0.0, (seconds - k / rate) / (other - k))       # what one more costs
    following = next(size for size in sizes(most) if size > other)
    return {following: following / (seconds + (following - other) * member)} if has_room(following) else {}


def chosen(alone: float | None, rates: dict[int, float], end: str, memory: str, ahead: Mapping[int, float] = MappingProxyType({})) -> Size:
    """The smallest size within a tenth of the best; one by one has the same rate at any number. `ahead`: rates that were foreseen."""
    every = ({} if alone is None else {1: alone}) | rates | dict(ahead)
    if not every:
        raise Unstackable(end)
    slots = min(k for k, rate in every.items() if rate * GAIN >= max(every.values()))
    shown = ", ".join(
        f"{'presumably ' if k in ahead else ''}{rate:{',.0f' if rate >= 100 else '.3g'}} {'one by one' if k == 1 else f'by {k}'}"
        for k, rate in every.items()
    )
    return Size(slots, f"members updated a second: {shown}; {end}; {memory}")


class Bench:
    """Times updates of copies of one member, on one batch of its data each. `graphed`: stacks of them are replayed from CUDA graphs.

    `trials`: of the study; None: without end. `over`: a size was not tried, or only by its first update, for want of time.
    """

    def __init__(self, runner: ModelRunner, graphed: bool = False, trials: int | None = None) -> None:
        self.runner, self.device, self._graphed = runner, runner.member.device, graphed
        self.over = False
        self._until = time.perf_counter() + SECONDS
        self._clock, self._tick = _clock(self.device)
        self._spent, self._rate = 0.0, 0.0
        plan, self._load = runner.plan(), 0.0
        self._updates = None if trials is None else trials * len(plan.passes)       # of an iteration of every trial
        for number in range(min(2, len(plan.passes))):          # the first one may take longer to come
            began = time.perf_counter()
            self._batch = runner.feed.read(plan.parts(number))[0][0]
            self._load = time.perf_counter() - began            # once for a stack that shares it, and once for each one by one
        self._shared = runner.data.order == "shared"
        tensors = [*runner.member.model.parameters(), *runner.member.model.buffers()]
        self._bytes = COPIES * sum(tensor.nbytes for tensor in tensors)         # a member's
        self._seconds = self._lasted = 0.0      # an update's, of one member in the last stack: by the bench's clock, and by the wall's
        self._room = available(self.device)

    def alone(self) -> float:
        """Members a second, one after another."""
        member = self.runner.member
        member.model.train()
        update = partial(self.runner.update_once, member.model, member.optimizer)
        seconds = untouched(member, lambda: self._time(lambda: update(_copied(self._batch)), 1))
        return self._noted(self._load + seconds)

    def __call__(self, k: int) -> float | str:
        """Members a second of a stack of k; or why it was not made."""
        if not self.has_room(k):
            return f"{k} have no room"
        if time.perf_counter() + 2 * k * self._lasted > self._until:        # two updates are the least, and the first is not counted
            return self._ended(SECONDS)
        if k > FIRST and self._spent + 2 * k * self._seconds > self._budget:
            return self._ended(self._budget)
        try:
            seconds = self._stacked(k) / k
            return self._ended(SECONDS) if self.over else self._noted(seconds)
        except OUT_OF_MEMORY as error:
            return f"{k} have no room: {let_go(error)}"
        finally:
            if limited(self.device):        # elsewhere a stack that nobody holds is gone, and looking for garbage takes longer than a size
                free()

    def has_room(self, k: int) -> bool:
        return self._room is None or k * self._bytes <= SHARE * self._room

    @property
    def _budget(self) -> float:
        """Seconds after which no further size is tried, and none beyond the first is timed again."""
        share = PART * self._updates / self._rate if self._updates is not None and self._rate else SECONDS
        return min(SECONDS, max(LEAST, share))

    def _noted(self, seconds: float) -> float:
        """Of an update of one member; as a rate."""
        self._rate = max(self._rate, 1 / seconds)
        return 1 / seconds

    def _ended(self, seconds: float) -> str:
        self.over = True
        return f"the {seconds:.2g} s for measuring are over"

    def memory(self) -> str:
        if self._room is None:
            return "how much memory is free is not known here"
        return f"one needs about {_shown(self._bytes)} of {_shown(self._room)}"

    def _stacked(self, k: int) -> float:
        member, bases = self.runner.member, [self.runner.base] * k
        gpu = self.device.type == "cuda"
        if gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device) if gpu else 0
        stack = Stack([(member.model, member.optimizer)], graphed=self._graphed)
        stack.keep([0] * k)         # as many of it: to read each from the member takes longer than its update
        rows = torch.cuda.memory_allocated(self.device) - before if gpu else 0
        calls = Calls(Reads())
        calls.begin(member, stack.model, first=True)
        hook, own = calls.training(member, stack.model), calls.own([member] * k)
        in_dims, keys = None if self._shared else 0, keys_of(bases, [0] * k, self.device)

        def update() -> None:
            batch = _copied(self._batch, None if self._shared else k)
            with autocast(member):
                found = stack.gradients(hook, batch, in_dims, keys, own, tuple)
            with torch.no_grad():
                stack.update(found.parts)

        try:
            seconds = self._time(update, k) + (self._load if self._shared else 0.0)
            calls.unchanged()
        finally:
            calls.put_back()
        if gpu:     # what the step took, a row's copy to go back to, and what the member itself holds
            self._bytes = (torch.cuda.max_memory_allocated(self.device) - before + 2 * rows) // k
        return seconds

    def _time(self, update: Callable[[], Any], k: int) -> float:
        """Seconds an update of k takes, at best; the first is not counted, unless there is no time for another: then it is `over`."""
        best, found, start = float("inf"), 0.0, self._clock()
        for number in range(1 + REPEATS):
            began, wall = self._clock(), time.perf_counter()
            update()
            wait(self.device)
            now, end = self._clock(), time.perf_counter()
            found = max(self._tick, now - began)
            best = min(best, found) if number else best
            if end + (end - wall) > self._until:
                self.over = self.over or number == 0
                break
            if number and k > FIRST and self._spent + (number + 2) * best > self._budget or number > 1 and now > start + ENOUGH:
                break
        seconds = min(best, found)
        self._spent += (number + 1) * seconds       # the first as a later one
        self._seconds, self._lasted = seconds / k, (end - wall) / k
        return seconds


def _clock(device: torch.device) -> tuple[Callable[[], float], float]:
    """A clock of seconds, and the least that it can tell.

    On a CPU it is this thread's: with one torch thread it stands still while other programs have the CPU, so that on a busy machine sizes
    are compared that were not equally disturbed. With more, the time in which this thread waits for the others, spinning, counts. (Windows
    counts a thread's time in steps of 16 ms.) How long a batch takes to come, `_load`, is by the wall's clock: it may come from a disk.
    """
    own = device.type == "cpu" and sys.platform != "win32"
    least = time.get_clock_info("thread_time" if own else "perf_counter").resolution
    return time.thread_time if own else time.perf_counter, max(1e-9, least)


def _copied(batch: Tree, k: int | None = None) -> Tree:
    """A batch that a hook may write on; k of them at once, each leaf (k, n, ...)."""
    rows = () if k is None else (k,)
    return tree_map(lambda leaf: leaf.expand(*rows, *leaf.shape).clone() if isinstance(leaf, Tensor) else leaf, batch)


def available(device: torch.device) -> int | None:
    """Bytes that are free on the device; None where nobody says."""
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(free_bytes + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):        # no Linux
        return None


def _shown(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"

"""Batches: which samples, in which order.

The order of pass e is a function of (seed, e) alone: the seed is the trial's own (`order="member"`), or the study's for all its
trials (`order="shared"`). e counts the trial's own passes, so a trial reads the same whoever trains beside it. A feed stands at
(epoch, offset) and can be put there again, so a training that is resumed in the middle of a pass reads the samples it would
have read.

    Table     a data set as tensors on the device; batches by index: here
    Stream    a DataLoader; batches as they come, moved to the device: stream.py
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..seeds import derive
from .drain import Tree, copied, leaves, tree_map

SHARED = 0
"""The seed of whatever is the same for every trial of every study: the split, and what `data()` draws."""


class Feed(Protocol):
    """The training batches of one trial. `epoch`: passes ended so far; `offset`: where in the pass it stands.

    Laws:
    1. `take` gives one update's worth: at most `accumulate` batches of at most `size` samples, and moves on. Where too little
       is left for another update, the pass ends at once: `epoch` counts up and `offset` is 0.
    2. With `drop_last` every update has exactly `accumulate` batches of `size`.
    3. What comes after (epoch, offset) does not depend on how the feed got there.
    4. `plan` moves on by a whole iteration without reading; `read` of its parts gives what `take` would have given.
    5. Feeds of one data set and one seed at the same place give the same batches.
    """

    epoch: int
    offset: int

    def updates(self, size: int, accumulate: int) -> int: ...      # in one pass
    def take(self, size: int, accumulate: int) -> list[tuple[Tree, int]]: ...
    def plan(self, size: int, accumulate: int, iteration: int | Literal["epoch"]) -> Plan: ...
    def read(self, parts: list[Any]) -> list[tuple[Tree, int]]: ...

    def follow(self, other: Any) -> None:
        """It stands where `other`, of the same data and seed, stands, and whatever one of them reads is at hand for both."""
        ...

    @property
    def phase(self) -> Hashable:
        """Those that agree in it can take their next iteration's batches together, update by update."""
        ...


@dataclass(frozen=True)
class Course:
    """The updates of an iteration, as numbers: the same for all members that stand at the same place in their passes."""

    sizes: tuple[tuple[int, ...], ...]
    """Samples in each batch of each update."""
    passes: tuple[int, ...]
    """Passes that end with each update."""
    pieces: tuple[tuple[int, int, int], ...]
    """(passes from now, start, stop): where in the orders of the passes the samples lie, one after another."""
    offset: int
    """Where in its pass the feed stands afterwards."""


@functools.lru_cache(256)
def course(n: int, offset: int, size: int, accumulate: int, drop_last: bool, iteration: int | Literal["epoch"]) -> Course:
    """What `take` would do, over and over, until an iteration is full; a pass over the `n` samples has an update at least."""
    chunk = size * accumulate
    enough = chunk if drop_last else 1
    sizes: list[tuple[int, ...]] = []
    passes: list[int] = []
    pieces, turned = [(0, offset, offset)], 0
    while turned == 0 if iteration == "epoch" else len(sizes) < iteration:
        before = turned
        if n - offset < enough:         # the batch size grew since the last update
            turned, offset = turned + 1, 0
        stop = min(offset + chunk, n)
        sizes.append(tuple(min(size, stop - start) for start in range(offset, stop, size)))
        on, start, end = pieces[-1]
        pieces[-1:] = [(on, start, stop)] if (on, end) == (turned, offset) else [pieces[-1], (turned, offset, stop)]
        offset = stop
        if n - stop < enough:
            turned, offset = turned + 1, 0
        passes.append(turned - before)
    return Course(tuple(sizes), tuple(passes), tuple(piece for piece in pieces if piece[1] < piece[2]), offset)


class Plan(Protocol):
    """One member's iteration. `passes`: how many end with each update."""

    @property
    def passes(self) -> tuple[int, ...]: ...

    def parts(self, update: int) -> list[Any]:
        """For `read`: what the batches of an update are."""
        ...


@dataclass(frozen=True)
class TablePlan:
    """`index` (samples,) int64 into the table's tree, update by update and batch by batch."""

    course: Course
    index: Tensor

    @property
    def passes(self) -> tuple[int, ...]:
        return self.course.passes

    @functools.cached_property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.index.split([n for sizes in self.course.sizes for n in sizes])  # type: ignore[no-any-return,no-untyped-call]

    def parts(self, update: int) -> list[Tensor]:
        before = sum(map(len, self.course.sizes[:update]))
        return list(self._parts[before : before + len(self.course.sizes[update])])


@dataclass(frozen=True)
class Table:
    """A data set as a tree of tensors, with `size` samples: all that lie in the tree, or those at `places` (size,) int64."""

    tree: Tree
    size: int
    places: Tensor | None = None

    def to(self, device: torch.device) -> Table:
        places = None if self.places is None else self.places.to(device)
        return Table(tree_map(lambda leaf: leaf.to(device), self.tree), self.size, places)

    def part(self, places: Tensor) -> Table:
        """Some of the tree's samples; the tensors are shared."""
        return Table(self.tree, len(places), places)

    def rows(self, index: Tensor) -> Tree:
        """The tree's samples at `index`."""
        return tree_map(lambda leaf: leaf.index_select(0, index), self.tree)

    def batches(self, size: int) -> Iterator[tuple[Tree, int]]:
        """In the order they stand, the remainder too; copies, which a hook may write on."""
        for start in range(0, self.size, size):
            part = slice(start, min(start + size, self.size))
            whole = copied(tree_map(itemgetter(part), self.tree)) if self.places is None else self.rows(self.places[part])
            yield whole, part.stop - start

    def feed(self, seed: int, drop_last: bool) -> Feed:
        return TableFeed(self, seed, drop_last)


class TableFeed:
    def __init__(self, table: Table, seed: int, drop_last: bool) -> None:
        self.epoch = self.offset = 0
        self.table, self._seed, self._drop_last = table, seed, drop_last
        self._device = next(leaves(table.tree)).device
        self._order: tuple[int, Tensor] | None = None

    def updates(self, size: int, accumulate: int) -> int:
        whole, left = divmod(self.table.size, size * accumulate)
        if self._drop_last and not whole:
            what = f"batch_size={size}" if accumulate == 1 else f"batch_size={size} x accumulate={accumulate}"
            raise ConfigurationError(
                f"one update must fit the training set, but got {what} and {self.table.size} samples. Take a smaller batch_size, "
                "or hp.Data(..., drop_last=False)."
            )
        return whole if self._drop_last or not left else whole + 1

    def take(self, size: int, accumulate: int) -> list[tuple[Tree, int]]:
        return self.read(self._indices(size, accumulate))

    def read(self, parts: list[Tensor]) -> list[tuple[Tree, int]]:
        return [(self.table.rows(index), len(index)) for index in parts]

    def follow(self, other: TableFeed) -> None:
        self.epoch, self.offset = other.epoch, other.offset

    @property
    def phase(self) -> Hashable:
        """With `drop_last` all batches are of one size, and without it those from the same place are."""
        return None if self._drop_last else self.offset

    def _indices(self, size: int, accumulate: int) -> list[Tensor]:
        n, chunk = self.table.size, size * accumulate
        enough = chunk if self._drop_last else 1
        if n - self.offset < enough:        # the batch size grew since the last update
            self.updates(size, accumulate)
            self._turn()
        stop = min(self.offset + chunk, n)
        order = self._ordered(self.epoch)
        found = [order[a : min(a + size, stop)] for a in range(self.offset, stop, size)]
        self.offset = stop
        if n - stop < enough:
            self._turn()
        return found

    def plan(self, size: int, accumulate: int, iteration: int | Literal["epoch"]) -> TablePlan:
        """What `take` would give over an iteration, at once; the feed moves on."""
        self.updates(size, accumulate)
        made = course(self.table.size, self.offset, size, accumulate, self._drop_last, iteration)
        parts = [self._ordered(self.epoch + on)[start:stop] for on, start, stop in made.pieces]
        self.epoch, self.offset = self.epoch + sum(made.passes), made.offset
        if self._order is not None and self._order[0] < self.epoch:
            self._order = None          # who rests between two passes needs none
        return TablePlan(made, parts[0] if len(parts) == 1 else torch.cat(parts))

    def _ordered(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive(self._seed, "order", epoch))
            order = torch.randperm(self.table.size, generator=generator).to(self._device, non_blocking=True)
            self._order = epoch, order if self.table.places is None else self.table.places[order]
        return self._order[1]

    def _turn(self) -> None:
        self.epoch, self.offset, self._order = self.epoch + 1, 0, None

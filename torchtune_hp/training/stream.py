"""A DataLoader as a source of batches: they come as they come, one pass after another, and are moved to the device.

Its feeds keep the laws of feed.py. A batch costs what the loader takes for it only where it is the next one in turn; for any other
its pass is played again from the start.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import ConfigurationError
from ..seeds import derive
from .drain import Tree, leaves, tree_map
from .feed import SHARED, Feed
from .seeding import seeded


@dataclass(frozen=True)
class StreamPlan:
    """`spots`: for each update."""

    spots: tuple[list[Spot], ...]
    passes: tuple[int, ...]

    def parts(self, update: int) -> list[Spot]:
        return self.spots[update]


@dataclass(frozen=True)
class Stream:
    """A DataLoader. What it draws, in its sampler or its data set's transforms, depends on (seed, pass, batch) alone."""

    loader: DataLoader[Any]
    device: torch.device

    def to(self, device: torch.device) -> Stream:
        return Stream(self.loader, device)

    def batches(self, size: int) -> Iterator[tuple[Tree, int]]:
        """One pass in the loader's own batches, whatever `size`."""
        yield from self.play(derive(SHARED, "evaluation"))

    def play(self, seed: int) -> Iterator[tuple[Tree, int]]:
        with self._seeded(seed):
            loaded = iter(self.loader)
        for k in range(len(self.loader)):
            with self._seeded(derive(seed, "batch", k)):
                batch = next(loaded, None)
            if batch is None:
                raise ConfigurationError(f"a DataLoader must give len(loader) batches, but it ended after {k} of {len(self.loader)}.")
            batch = tree_map(lambda leaf: leaf.to(self.device, non_blocking=True) if isinstance(leaf, Tensor) else leaf, batch)
            yield batch, _size(batch)

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """The loader's own generators too: several passes may be played by turns, and none may draw from where another left off."""
        sampler = getattr(self.loader.batch_sampler, "sampler", None)
        for holder in (self.loader, self.loader.sampler, sampler):
            generator = getattr(holder, "generator", None)
            if generator is not None:
                generator.manual_seed(seed)
        with seeded(seed, puts_back=True):      # whoever looks for draws of the hooks must not find these
            yield

    def feed(self, seed: int, drop_last: bool) -> Feed:
        return StreamFeed(self, seed, drop_last)


def _size(batch: Tree) -> int:
    """How many samples: as its first tensor says, for a list of file names beside it has leaves of its own."""
    size = next((len(leaf) for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), None)
    if size is None:
        raise ConfigurationError(
            "A batch of a DataLoader must hold a tensor whose leading dimension is the sample, but none does. Collate its items into one."
        )
    return size


class StreamFeed:
    def __init__(self, stream: Stream, seed: int, drop_last: bool) -> None:
        self.epoch = self.offset = 0        # offset: in batches
        self._stream, self._drop_last = stream, drop_last
        self._reel = Reel(stream, seed)

    def updates(self, size: int, accumulate: int) -> int:
        whole, left = divmod(len(self._stream.loader), accumulate)
        if self._drop_last and not whole:
            raise ConfigurationError(
                f"one update must fit the training set, but got accumulate={accumulate} and a DataLoader of {len(self._stream.loader)} "
                "batches. Take a smaller accumulate, or hp.Data(..., drop_last=False)."
            )
        return whole if self._drop_last or not left else whole + 1

    def take(self, size: int, accumulate: int) -> list[tuple[Tree, int]]:
        return self.read(self._spots(size, accumulate))

    def read(self, parts: list[Spot]) -> list[tuple[Tree, int]]:
        return [self._reel.batch(spot) for spot in parts]

    def follow(self, other: StreamFeed) -> None:
        self.epoch, self.offset, self._reel = other.epoch, other.offset, other._reel

    @property
    def phase(self) -> Hashable:
        return self.epoch, self.offset

    def plan(self, size: int, accumulate: int, iteration: int | Literal["epoch"]) -> StreamPlan:
        begun = self.epoch
        spots: list[list[Spot]] = []
        passes: list[int] = []
        while self.epoch == begun if iteration == "epoch" else len(spots) < iteration:
            before = self.epoch
            spots.append(self._spots(size, accumulate))
            passes.append(self.epoch - before)
        return StreamPlan(tuple(spots), tuple(passes))

    def _spots(self, size: int, accumulate: int) -> list[Spot]:
        n = len(self._stream.loader)
        enough = accumulate if self._drop_last else 1
        if n - self.offset < enough:
            self.updates(size, accumulate)
            self._turn()
        epoch, start, stop = self.epoch, self.offset, min(self.offset + accumulate, n)
        self.offset = stop
        ends = n - stop < enough
        if ends:
            self._turn()
        return [Spot(epoch, number, ends and number + 1 == stop) for number in range(start, stop)]

    def _turn(self) -> None:
        self.epoch, self.offset = self.epoch + 1, 0


class Spot(NamedTuple):
    """A batch of a pass. `last`: no further one of this pass is taken."""

    epoch: int
    number: int
    last: bool


class Reel:
    """The batches of a stream under one seed, by their spots. The next one in turn costs itself alone; any other plays its pass again."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self._stream, self._seed = stream, seed
        self._next = (0, 0)
        self._playing: Iterator[tuple[Tree, int]] | None = None

    def batch(self, spot: Spot) -> tuple[Tree, int]:
        playing = self._playing
        if playing is None or self._next != (spot.epoch, spot.number):
            self._playing = None        # before another pass begins: its workers end
            playing = self._stream.play(derive(self._seed, "order", spot.epoch))
            for _ in range(spot.number):
                next(playing)
        found = next(playing)
        self._next = spot.epoch, spot.number + 1
        self._playing = None if spot.last else playing
        return found

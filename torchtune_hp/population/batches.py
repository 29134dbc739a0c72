"""The batches of an iteration for all rows of a stack, one update at a time.

    order="member"      each row has samples of its own, by index: every leaf is (k, n, ...)
    order="shared"      rows that stand at one place of the pass share a batch, which is made once: every leaf is (n, ...)

Rows of a table that share an order, but stand at different places, have their own samples all the same. A DataLoader gives one
batch at a time, so its rows stand at one place: members are sorted by `Feed.phase` before they come here.

Laws:
1. Row i is given the batches that its runner would take alone, in the same order.
2. All feeds have moved on by the whole iteration when the first batch is made; put back, they make the same batches again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..training.alone import ModelRunner
from ..training.data import Source
from ..training.drain import Tree, copied, tree_map
from ..training.feed import Plan, Table, TablePlan


class Batches:
    """`runners[i]` is row i.

    `plans`: one for each row, the same object where they share their batches. `in_dims`: as of torch.func.vmap, for every batch.
    `waited`: seconds that batches took to come; it may be set back.
    """

    def __init__(self, runners: Sequence[ModelRunner]) -> None:
        first, *others = runners
        self._feed = first.feed
        places = {(runner.feed.epoch, runner.feed.offset) for runner in runners}
        shared = first.data.order == "shared" and len(places) == 1 and all(runner.data is first.data for runner in others)
        plan = first.plan()
        self.in_dims = None if shared else 0
        self.waited = 0.0
        self.plans: list[Plan] = [plan, *(plan if shared else runner.plan() for runner in others)]
        if shared:
            for runner in others:
                runner.feed.follow(first.feed)
        else:       # (k, samples of the iteration): one upload of indices, and one slice for each batch
            sizes = [each.course.sizes for each in self.plans if isinstance(each, TablePlan)]
            if any(each != sizes[0] for each in sizes):
                raise ValueError("their batches are of different sizes: they stand at different places in their passes")
            self._sizes = sizes[0]
            self._whole = torch.stack([each.index for each in self.plans if isinstance(each, TablePlan)])
        self._at = 0

    def __len__(self) -> int:
        """How many updates there are."""
        return len(self.plans[0].passes)

    def update(self, number: int) -> list[tuple[Tree, int]]:
        """The batches of an update and their sizes; updates are asked for in order, each once."""
        began = time.perf_counter()
        if self.in_dims is None:
            found = self._feed.read(self.plans[0].parts(number))
        else:
            found = [self._gathered(n) for n in self._sizes[number]]
        self.waited += time.perf_counter() - began
        return found

    def of_row(self, row: int, batch: Tree) -> Tree:
        """What one row sees of a batch: a copy, which a hook may write on."""
        return seen_by(row, batch, self.in_dims)

    def _gathered(self, n: int) -> tuple[Tree, int]:
        index = self._whole[:, self._at : self._at + n]
        self._at += n
        return gathered(self._feed.table.tree, index), n    # type: ignore[attr-defined]  # whoever has an order of its own has a table


def of_sets(sets: Sequence[Source], size: int) -> Iterator[tuple[Tree, int, int | None]]:
    """The batches in which rows are validated, each on its own set; their sizes, and `in_dims`: None where all have one set."""
    first = sets[0]
    places = [part.places for part in sets if isinstance(part, Table) and part.places is not None]
    if len(places) < len(sets) or all(part is first for part in sets):
        yield from ((batch, n, None) for batch, n in first.batches(size))
        return
    assert isinstance(first, Table)
    for index in torch.stack(places).split(size, 1):  # type: ignore[no-untyped-call]
        yield gathered(first.tree, index), index.shape[1], 0


def seen_by(row: int, batch: Tree, in_dims: int | None) -> Tree:
    """What one row sees of a batch: a copy."""
    return copied(batch if in_dims is None else tree_map(lambda leaf: leaf[row] if isinstance(leaf, Tensor) else leaf, batch))


def gathered(tree: Tree, index: Tensor) -> Tree:
    """The samples at `index` (k, n): each leaf is (k, n, ...)."""
    flat = index.reshape(-1)
    return tree_map(lambda leaf: leaf.index_select(0, flat).view(*index.shape, *leaf.shape[1:]), tree)


class Place:
    """Where a runner stands in the data."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._feed = runner.feed.epoch, runner.feed.offset
        self._updates = runner.updates

    def restore(self) -> None:
        self._runner.feed.epoch, self._runner.feed.offset = self._feed
        self._runner.updates = self._updates

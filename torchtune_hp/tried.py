"""Whether every config of a finite space was tried: from then on whatever comes next is one of them again.

Laws:
1. It is said once, with the first trial that repeats a config when no other is left; a config that comes twice by chance says nothing.
2. It depends on the trials alone, in their order, so a replay says the same.
3. A space is watched if it has at most MOST points, ASKED with constraints, and the searcher has no end of its own. One of rows gives
   each once, and needs no watching; of one with sample_from a point is no config. Forks count for nothing: they are where a scheduler
   puts them.
4. Where a constraint raises on a config that nobody drew, nothing is said: whether that one is left is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import SpaceError
from .trial import Dim

if TYPE_CHECKING:
    from torch import Tensor

    from .space import Space

MOST = 2**16
ASKED = 2**11
"""Constraints may be dear, and are asked about every point once, at the first repetition: about as many as when the space was made."""

X = tuple[float, ...]


class Tried:
    """The points of one study's trials, for as long as they matter."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._tried: set[X] = set()
        self._left: set[X] | None = None        # known from the first repetition on
        self._configs = 0

    def add(self, trial: int, x: X) -> str | None:
        """`x`, canonical, of the next trial. What is to be said of it, if no config was left before."""
        if self._left is None:
            if x not in self._tried:
                self._tried.add(x)
                return None
            self._left = self._untried()
        if self._left:
            self._left.discard(x)
            return None
        grid = {dim.grid for dim in self._space.dims}       # with `grid_search` for some, a grid is of these alone
        way = "" if len(grid) > 1 else ". hp.GridSearch() tries each once, and ends"
        return (
            f"each of the space's {self._configs:,} configs was tried: from trial {trial} on they repeat, under other seeds{way}"
        )

    def _untried(self) -> set[X]:
        try:
            there = every_point(self._space)
        except SpaceError:
            return {()}         # no point, so it is left for ever
        self._configs = len(there)
        return there - self._tried


def watched(space: Space) -> bool:
    """Law 3."""
    if space.rows is not None or space.sampled:
        return False
    size = size_of(space.dims)
    return size is not None and size <= (ASKED if space.constrained else MOST)


def size_of(dims: Sequence[Dim]) -> int | None:
    """How many points there are, each branch with its own dimensions alone; None: no end."""
    inside: dict[tuple[str, int] | None, int] = {}
    for dim in reversed(dims):      # what is in a branch comes after the dimension that chooses it
        if dim.levels is None:
            return None
        more = sum(n - 1 for branch, n in inside.items() if branch is not None and branch[0] == dim.name)
        inside[dim.parent] = inside.get(dim.parent, 1) * (dim.levels + more)
    return inside.get(None, 1)


def every_point(space: Space) -> set[X]:
    """The canonical points of a finite space that satisfy its constraints."""
    import torch

    dims = space.dims
    x = torch.full((1, len(dims)), torch.nan, dtype=torch.float64)      # NaN: not there
    for k, dim in enumerate(dims):
        there = torch.ones(len(x), dtype=torch.bool) if dim.parent is None else _chosen(space, x, *dim.parent)
        levels = space.levels(k, dim.levels or 1)
        crossed = x[there].repeat_interleave(len(levels), 0)
        crossed[:, k] = levels.repeat(int(there.sum()))
        x = torch.cat([x[~there], crossed])
    x = space.canonical(x.nan_to_num(0.5))
    return set(map(tuple, x[space.feasible(x)].tolist()))


def _chosen(space: Space, x: Tensor, name: str, category: int) -> Tensor:
    """Where (n,) the dimension of this name is there and has this category."""
    k = space.names.index(name)
    return (x[:, k] * (space.dims[k].levels or 1)).floor() == category

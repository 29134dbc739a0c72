"""Numbers that depend on (seed, row) alone, and the search for a feasible point among them.

What is drawn comes from Philox, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011): the counter is the row's number, so row i is the same bits whatever block it was asked in, and nothing is stored.
Its raw words are used, whose values numpy guarantees across versions; those of its distributions it does not.

Laws:
1. Every function here is pure: same arguments, same bits.
2. Row i of `uniform`, and candidate j of row i of `redraws`, depend on (seed, i, j) alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..errors import SpaceError
from ..seeds import derive

TRIES = 1 << 18
"""Redraws before a point counts as nowhere: a space with 1 feasible point in 10,000 runs out of them once in 10**11 rows."""

_WORDS = 4               # 64-bit words for each step of Philox' counter
_BLOCK = 1 << 16         # candidates judged at once, over all rows
_WIDEST = 256            # candidates of one row judged at once


def uniform(n: int, d: int, index: int, seed: int) -> Tensor:
    """Rows `index` to `index + n - 1` of the seed's uniform sequence in [0, 1)**d: (n, d) float64."""
    steps = -(-d // _WORDS)             # a row owns whole steps of the counter
    raw = _philox(seed, "rows", index * steps, 0).random_raw(n * steps * _WORDS)
    return _unit(raw.reshape(n, steps * _WORDS)[:, :d])


def redraws(rows: Tensor, start: int, count: int, d: int, seed: int) -> Tensor:
    """Candidates number `start` to `start + count - 1` of each of these rows (b,): (b, count, d) float64."""
    steps = -(-d // _WORDS)
    raw = [_philox(seed, "redraws", start * steps, row).random_raw(count * steps * _WORDS) for row in rows.tolist()]
    return _unit(np.stack(raw).reshape(len(rows), count, steps * _WORDS)[:, :, :d])


def shuffled(rows: Tensor, n: int, index: int, seed: int) -> Tensor:
    """Rows number `index` to `index + n - 1` of the seed's permutation of `rows` (m, d): (n, d)."""
    return rows[_permutation(len(rows), seed)[index:index + n]]


def make_feasible(
    x: Tensor, feasible: Callable[[Tensor], Tensor], candidates: Callable[[Tensor, int, int], Tensor], tries: int = TRIES
) -> tuple[Tensor, Tensor]:
    """`x` (n, d) with each infeasible row replaced by the first feasible one of its candidates, and the rows (b,) that have none.

    `candidates(rows (b,), start, count)` -> (b, count, d): numbers `start` to `start + count - 1` of rows of `x`. How many
    are judged at once grows from round to round; which one is taken does not depend on that, nor on the other rows.
    """
    x = x.clone()
    bad = (~feasible(x)).nonzero().flatten()
    start, count = 0, 1
    while len(bad) and start < tries:
        count = min(count, tries - start, max(1, _BLOCK // len(bad)))
        fresh = candidates(bad, start, count)
        good = feasible(fresh.flatten(0, 1)).reshape(len(bad), count)
        found = good.any(1)
        first = good[found].to(torch.uint8).argmax(1)       # the first of equal maxima
        x[bad[found]] = fresh[found, first]
        bad = bad[~found]
        start, count = start + count, min(2 * count, _WIDEST)
    return x, bad


def nowhere(index: int) -> SpaceError:
    """The error for a point that could not be drawn."""
    return SpaceError(
        f"A space needs feasible points, but point number {index} found none in {TRIES:,} draws. "
        "Loosen the constraints, or narrow the domains to where they hold."
    )


@lru_cache(maxsize=8)
def _permutation(m: int, seed: int) -> Tensor:
    order = np.argsort(_philox(seed, "order", 0, 0).random_raw(m), kind="stable")
    return torch.from_numpy(order)


def _philox(seed: int, stream: str, low: int, high: int) -> np.random.Philox:
    # A stream is a key; within it, `high` numbers sequences of 2**64 steps each.
    key = np.array([derive(seed, "philox", stream), 0], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([low, high, 0, 0], dtype=np.uint64))


def _unit(raw: np.ndarray[tuple[int, ...], np.dtype[np.uint64]]) -> Tensor:
    return torch.from_numpy((raw >> np.uint64(11)) * 2.0**-53)      # the top 53 bits: every value is exact

"""How many threads a Gaussian process is worth: one, where its matrices are small.

BLAS hands a product or a triangular solve of 100 x 100 numbers to all threads. They take longer to wake and to meet again than the
arithmetic takes: on a machine whose cores are in use, a fit of 100 rows by two threads took four times as long as by one.

The bound holds in the thread that sets it, and ends with the block. Threads that run already keep theirs; one that computes for the
first time meanwhile begins with one, as it would after `torch.set_num_threads(1)`. Devices other than the CPU do not care.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 256
"""Processes of fewer rows are computed by one thread. A guess between 100 rows, where two threads lose, and 1,000, where they gain."""


@contextmanager
def bounded(n: int) -> Iterator[None]:
    """A block that computes with matrices of n rows: on one thread if n < SMALL, else on as many as there were."""
    before = torch.get_num_threads()
    if n >= SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

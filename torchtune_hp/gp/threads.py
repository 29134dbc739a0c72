"""How many threads a Gaussian process is worth: one, where its matrices are not large.

A process is asked while trials train, so the cores have work. An operation that is handed to all threads ends when the last of them does,
and one that waits for a core is late by a time slice, in each of the dozens of operations of every step: on 2 cores that were in use a fit
of 289 rows by two threads took 6 seconds of CPU time, and 0.4 by one. Under 100 rows threads take longer to wake and to meet again than
the arithmetic takes, on any machine.

The bound holds in the thread that sets it, and ends with the block. Threads that run already keep theirs; one that computes for the
first time meanwhile begins with one, as it would after `torch.set_num_threads(1)`. Devices other than the CPU do not care.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 1024
"""Processes of fewer rows are computed by one thread: all that `GPSearch` conditions on by default. Beyond, what threads gain on free cores
is seconds."""


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

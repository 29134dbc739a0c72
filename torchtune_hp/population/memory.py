"""Memory that a step frees is kept for the next one.

A stack's step on a CPU takes and frees some megabytes for each activation and gradient. The C library gives such blocks back to the
kernel, which hands out zeroed pages again at the next step, one fault for every 4 KiB: a quarter of the time of a step of 128 small
models. GPUs have torch's caching allocator; here glibc's own thresholds are raised, once in a process, as the environment
variables MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ would (and where one of them is set, it is left as it is).
"""

from __future__ import annotations

import ctypes
import functools
import os

KEPT = 2**30
"""Bytes of freed memory at most that the process keeps."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3       # names of <malloc.h>
_LARGEST = 2**25                                # glibc takes no larger M_MMAP_THRESHOLD


@functools.cache
def keep_freed_memory() -> bool:
    """Whether freed memory is kept from now on; False where the C library is not glibc, or was told otherwise."""
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))

"""What a step frees stays with the process: counted in page faults, of a child process with an allocator of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CHILD = """
import resource, torch
from torchtune_hp.population.memory import keep_freed_memory
torch.set_num_threads(1)
print(keep_freed_memory(), keep_freed_memory())
def faults(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        parts = [torch.ones(2**18) for _ in range(8)]       # a mebibyte each, as activations are held until the backward pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3)
print(faults(20))
"""


def child(**environment: str) -> tuple[str, int]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "LD_PRELOAD"))}
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, check=True, timeout=120)
    kept, count = done.stdout.splitlines()
    return kept, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the thresholds are glibc's")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise() -> None:
    """Slow: two processes that import torch."""
    kept, few = child()
    told, many = child(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert (kept, told) == ("True True", "False False")
    assert many > 20 * 8 * 200 > 5 * few

"""Where every seed comes from: `derive(seed, *path)`, and nowhere else."""

from __future__ import annotations

from hashlib import blake2b


def derive(seed: int, *path: int | str) -> int:
    """A seed in [0, 2**63) that depends on `seed` and `path` alone, and is independent of every other path's.

    Paths are told apart by type as well: 1 is not "1". Ints and strings are plain ones (a NumPy integer writes itself otherwise).

    >>> derive(0, "trial", 7) == derive(0, "trial", 7) != derive(0, "trial", 8)
    True
    """
    return int.from_bytes(blake2b(repr((seed, *path)).encode(), digest_size=8).digest(), "big") >> 1

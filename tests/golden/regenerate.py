"""Writes the golden files of the schedulers anew: `python -m tests.golden.regenerate`, then read the diff."""

from __future__ import annotations

from tests.schedulers.golden import regenerate

if __name__ == "__main__":
    regenerate()

"""States for the tests of checkpoints, and what may happen to their files."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def a_folder(folder: Path, text: str = "weights") -> Path:
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "model.bin").write_text(text)
    (folder / "sub" / "model.bin").write_text(text + "!")
    return folder


def flip(path: Path, at: int = -9) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped": (flip, "its SHA-256 is not that of what was written"),
    "flipped first": (lambda path: flip(path, 0), "its SHA-256"),
    "cut": (cut, r"written with \d+ bytes, and has \d+"),
    "emptied": (lambda path: os.truncate(path, 0), "and has 0"),
    "gone": (lambda path: path.unlink(), "cannot be read: No such file"),
}


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@contextmanager
def a_full_disk(limit: int) -> Iterator[None]:
    """Meanwhile no file of this process grows beyond `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

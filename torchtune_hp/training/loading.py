"""How far the reading of a data set has come, for whoever shows it.

Outside of a study it is a bar on stderr, where stderr is a terminal, and nothing elsewhere. A study shows it as it shows
everything else, or not at all: `shown_by`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Told = Callable[[int], None]
"""Hears how many samples have been read so far."""

Show = Callable[[str, int], AbstractContextManager[Told]]
"""(what is read, how many samples there are) -> a block in which they are read."""


def loading(what: str, total: int) -> AbstractContextManager[Told]:
    """`with loading("train", 50_000) as told: ... told(256) ...`"""
    return _shows[-1](what, total)


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """In the block, `show` shows what is read."""
    _shows.append(show)
    try:
        yield
    finally:
        _shows.remove(show)


@contextmanager
def silent(what: str, total: int) -> Iterator[Told]:
    yield lambda done: None


@contextmanager
def bar(what: str, total: int) -> Iterator[Told]:
    if not sys.stderr.isatty():
        with silent(what, total) as told:
            yield told
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"loading {what}", total=total)
        yield lambda done: progress.update(task, completed=done)


_shows: list[Show] = [bar]

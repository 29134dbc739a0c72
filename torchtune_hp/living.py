"""The trials that may still be named: where each stands, and what it was granted.

Ids count from 0 without a gap, so they are places in a list. A dropped trial leaves an empty place, and nothing else of it stays.
"""

from __future__ import annotations

from collections.abc import Iterator

from .trial import Trial


class Live:
    """A trial that may still be named. `step`, `values`: of its last look (None before the first). `granted` None: to its own
    end. `since`: the tick of its last submission."""

    __slots__ = ("granted", "since", "step", "trial", "values")

    def __init__(self, trial: Trial, step: int, granted: int | None) -> None:
        self.trial = trial
        self.step = step
        self.granted = granted
        self.since = 0
        self.values: tuple[float, ...] | None = None


class Living:
    """Iterating gives the live trials in order of their ids.

    >>> living = Living()
    >>> [living.enter(Trial(living.next, (), {}, 0), 0, None).trial.id for _ in range(3)], living.next
    ([0, 1, 2], 3)
    >>> living.forget(1), living.forget(1), [live.trial.id for live in living]
    (True, False, [0, 2])
    """

    def __init__(self) -> None:
        self._places: list[Live | None] = []

    @property
    def next(self) -> int:
        """The id of the next trial to enter."""
        return len(self._places)

    def enter(self, trial: Trial, step: int, granted: int | None) -> Live:
        live = Live(trial, step, granted)
        self._places.append(live)
        return live

    def named(self, id: int) -> Live:
        """RuntimeError for a trial that was forgotten."""
        live = self._places[id]
        if live is None:
            raise RuntimeError(f"a trial that ended or was dropped is never named again, but trial {id} was.")
        return live

    def forget(self, id: int) -> bool:
        """Whether it was there to be forgotten."""
        there = self._places[id] is not None
        self._places[id] = None
        return there

    def __iter__(self) -> Iterator[Live]:
        return (live for live in self._places if live is not None)

"""The trials that may still be named: where each stands, and what it was granted.

Ids count from 0 without a gap, so they are places in columns. A trial that is forgotten leaves an empty place. The numbers beside it
stay, a few bytes: an object that held them would have left the caches by then, and to find and free it would cost more than all else.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator

from .trial import Trial


class Living:
    """Columns, by trial id. Iterating gives the live trials in order of their ids.

    `trials`: None where forgotten. `steps`: of the last look. `granted`: None to its own end. `since`: the tick of the last submission.

    >>> living = Living(objectives=1)
    >>> [living.enter(Trial(living.next, (), {}, 0), 0, None) for _ in range(3)], living.next
    ([0, 1, 2], 3)
    >>> living.forget(1), living.forget(1), [trial.id for trial in living]
    (True, False, [0, 2])
    >>> living.values(0), living.look(0, (0.5,)), living.values(0)
    (None, None, (0.5,))
    """

    def __init__(self, objectives: int) -> None:
        self.trials: list[Trial | None] = []
        self.steps: list[int] = []
        self.granted: list[int | None] = []
        self.since: list[int] = []
        self._unseen = array("d", [math.nan] * objectives)
        self._values = array("d")           # of the last look, one after another; NaN before the first

    @property
    def next(self) -> int:
        """The id of the next trial to enter."""
        return len(self.trials)

    def enter(self, trial: Trial, step: int, granted: int | None) -> int:
        """Its id."""
        self.trials.append(trial)
        self.steps.append(step)
        self.granted.append(granted)
        self.since.append(0)
        self._values.extend(self._unseen)
        return trial.id

    def named(self, id: int) -> Trial:
        """RuntimeError for a trial that was forgotten."""
        trial = self.trials[id]
        if trial is None:
            raise RuntimeError(f"a trial that ended or was dropped is never named again, but trial {id} was.")
        return trial

    def values(self, id: int) -> tuple[float, ...] | None:
        """Of the last look; None before the first."""
        n = len(self._unseen)
        values = tuple(self._values[id * n : id * n + n])
        return None if math.isnan(values[0]) else values

    def look(self, id: int, values: tuple[float, ...]) -> None:
        """What a look found. No value is NaN: that is +inf by now."""
        if len(values) == 1:
            self._values[id] = values[0]
        else:
            n = len(values)
            self._values[id * n : id * n + n] = array("d", values)

    def forget(self, id: int) -> bool:
        """Whether it was there to be forgotten."""
        there = self.trials[id] is not None
        self.trials[id] = None
        return there

    def __iter__(self) -> Iterator[Trial]:
        return (trial for trial in self.trials if trial is not None)

"""The contract of a scheduler: how much to spend on which trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..trial import Decision, Report, Setting


@runtime_checkable
class Scheduler(Protocol):
    """How much to spend.

    Laws:
    1. At most `free` of New | Fork | Train, at most `fresh` of New (both >= 0). Planned but unissued News count against
       `fresh`: a bracket shrinks to what can still be started.
    2. A trial that was dropped, failed, done or scored +inf is never named again, except in Drop.
    3. Same calls, same answers; asked again without news, nothing.
    4. The order of the reports inside one call does not matter; ties break by trial id.
    5. Answering nothing means: wait (if trials run) or finished (if none do). Asked later with a larger `fresh`, a finished
       scheduler goes on.
    6. A trial that will never be named again is dropped.
    """

    max_t: int | None
    forks: bool

    def begin(self, setting: Setting) -> None:
        """Once, before anything else. Raises ConfigurationError for a setting it cannot serve."""
        ...

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        """The looks that used up a grant or at which a trial ended -> what to do now.

        `free`: how many trials may be set running; `fresh`: how many new ones may still be made in this study
        (a very large number where there is no limit).
        """
        ...

"""FullRuns: every trial is trained to its end. The default, and the baseline that every early stopping is measured against."""

from __future__ import annotations

from collections.abc import Sequence

from ..parts import part
from ..trial import Decision, Drop, New, Report, Setting
from .arguments import refuse, whole


@part
class FullRuns:
    """Trains every trial to `max_t` steps; None: to the trial's own end. Ranks nothing, so it serves several objectives."""

    forks = False

    def __init__(self, max_t: int | None = None) -> None:
        refuse([None if max_t is None else whole("max_t", max_t)])
        self.max_t = max_t

    def begin(self, setting: Setting) -> None:
        """Serves every setting."""

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        # There is one grant a trial: whoever is heard of has used it up, or has ended.
        ended: list[Decision] = [Drop(trial) for trial in sorted(report.trial for report in reports)]
        return ended + [New(self.max_t)] * min(free, fresh)

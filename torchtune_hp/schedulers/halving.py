"""SuccessiveHalving: plain synchronous halving with one chosen bracket (Jamieson and Talwalkar, AISTATS 2016; in the form of
Li et al., JMLR 2018, Algorithm 1, lines 4-9).

With 64 trials, eta 4 and max_t 64: 64 trials of 1 step, 16 of them trained to 4, 4 to 16 and one to 64, 208 steps in all.
What happens to failures, to few trials and to free slots is said in `bracket.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..parts import part
from ..trial import Decision, Report, Setting
from .arguments import factor, ordered, refuse, whole
from .bracket import Brackets, Plan
from .rungs import exact, levels


@part
class SuccessiveHalving:
    """Starts `trials` at once, keeps one in `reduction_factor` at each rung; then does it again, while there are fresh trials.

    Args:
        max_t: steps the winner is trained.
        grace_period: steps every trial is trained: the lowest rung.
        reduction_factor: eta >= 1.01; the rungs are `grace_period * eta**k` (rounded down) and `max_t`.
        trials: how many trials a bracket starts. None: eta**k for k promotions, so that one is left at the end.

    `plan` is the bracket that follows from these.
    """

    forks = False

    def __init__(self, max_t: int = 100, grace_period: int = 1, reduction_factor: float = 4, trials: int | None = None) -> None:
        refuse([
            whole("max_t", max_t),
            whole("grace_period", grace_period),
            ordered("grace_period", grace_period, "max_t", max_t),
            factor("reduction_factor", reduction_factor),
            None if trials is None else whole("trials", trials),
        ])
        self.max_t: int | None = max_t
        self.grace_period = grace_period
        self.reduction_factor = reduction_factor
        self.trials = trials
        eta = exact(reduction_factor)
        ladder = levels(grace_period, max_t, eta)
        self.plan = Plan(math.ceil(eta ** (len(ladder) - 1)) if trials is None else trials, ladder)

    def begin(self, setting: Setting) -> None:
        self._brackets = Brackets([self.plan], exact(self.reduction_factor))

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        return self._brackets.decide(reports, free, fresh)

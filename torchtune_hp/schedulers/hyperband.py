"""Hyperband: successive halving at several trade-offs between many trials and long ones (Li et al., JMLR 2018, Algorithm 1).

Bracket s of s_max, ..., 0 starts n = ceil((s_max + 1) / (s + 1) * eta**s) trials at r = max_t * eta**-s steps (line 3, with
B = (s_max + 1) * R from line 1), and rung i of it holds floor(n * eta**-i) trials of r * eta**i steps (lines 6-7). For R = 81
and eta = 3 that formula gives

    s = 4: 81 trials of 1 step,  s = 3: 34 of 3,  s = 2: 15 of 9,  s = 1: 8 of 27,  s = 0: 5 of 81

and this is what is done here; the paper's Table 1 prints 27, 9, 6 and 5 for the last four, which the formula does not give.
s_max = floor(log_eta(R)) is found by multiplication. Steps that are no integers are rounded down.
What happens to failures, to few trials and to free slots is said in `bracket.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from ..parts import part
from ..trial import Decision, Report, Setting
from .arguments import factor, refuse, whole
from .bracket import Brackets, Plan
from .rungs import exact


@part
class Hyperband:
    """Runs its brackets from the most aggressive one on, and over again, as long as there are fresh trials.

    Args:
        max_t: R, steps a trial is trained at most.
        reduction_factor: eta >= 1.01; one in eta goes on. A float is taken as the decimal it is written as.

    A trial's tag is the running number of its bracket: 0 is the first one, with s = s_max, and s_max + 1 begins the second
    round. `plans` holds the brackets of one round, in order.
    """

    forks = False

    def __init__(self, max_t: int = 81, reduction_factor: float = 3) -> None:
        refuse([whole("max_t", max_t), factor("reduction_factor", reduction_factor)])
        self.max_t: int | None = max_t
        self.reduction_factor = reduction_factor
        self.plans = _plans(max_t, exact(reduction_factor))

    def begin(self, setting: Setting) -> None:
        self._brackets = Brackets(self.plans, exact(self.reduction_factor))

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        return self._brackets.decide(reports, free, fresh)


def _plans(max_t: int, eta: Fraction) -> tuple[Plan, ...]:
    s_max = 0
    while eta ** (s_max + 1) <= max_t:
        s_max += 1
    return tuple(
        Plan(
            math.ceil((s_max + 1) * eta**s / (s + 1)),
            tuple(sorted({int(max_t / eta**i) for i in range(s + 1)})),     # a set: what is equal after rounding is one rung
        )
        for s in range(s_max, -1, -1)
    )

"""What halving schedulers share: the levels at which trials are compared, and the ranking at one level.

All arithmetic with the reduction factor is exact. A factor such as 1.1 is taken as the decimal it was written as (11/10, not
the nearest binary fraction), so that floor(33 / 1.1) is 30, where floats give 29; logarithms are never taken.
"""

from __future__ import annotations

import math
from fractions import Fraction
from heapq import heapify, heappop, heappush, heappushpop, heapreplace
from struct import Struct

from ..trial import Report

_AS_FLOAT = Struct("<d")
_AS_INTEGER = Struct("<q")
_ID_BITS = 48
_ID_MASK = (1 << _ID_BITS) - 1


def exact(reduction_factor: float) -> Fraction:
    """The reduction factor as the decimal it was written as."""
    return Fraction(str(reduction_factor))


def levels(grace_period: int, max_t: int, eta: Fraction) -> tuple[int, ...]:
    """`grace_period * eta**k`, rounded down, as long as it pays to look there; then `max_t`.

    A level m with m * m * eta > max_t * max_t is left out: it is nearer (by ratio) to max_t than a level below it would be, and
    a trial that came so far is better trained to the end. Levels that are equal after rounding are one level.

    >>> levels(1, 81, Fraction(3))
    (1, 3, 9, 27, 81)
    >>> levels(117, 30000, Fraction(4))
    (117, 468, 1872, 7488, 30000)
    """
    found: list[int] = []
    level = Fraction(grace_period)
    while int(level) < max_t and int(level) ** 2 * eta <= max_t**2:
        if not found or int(level) > found[-1]:
            found.append(int(level))
        level *= eta
    return (*found, max_t)


def score(report: Report) -> float:
    """What a trial is ranked by. A failure and a NaN are +inf: the worst, never the best.

    Of several objectives, which `fronts.py` ranks, it is the first; +inf if any of them is bad.
    """
    value = report.values[0]
    if len(report.values) > 1 and not all(other < math.inf for other in report.values):
        return math.inf
    return value if value < math.inf and not report.failed else math.inf


def rank_key(value: float, trial: int) -> int:
    """One number to rank by: a smaller score comes first, then the smaller trial id. -0.0 and 0.0 are the same score.

    A float's bits, read as an integer, are in the float's order (mirrored below zero), so the score goes into the upper bits
    and the id into the lower ones: a third of the memory of a (score, id) pair, and faster to compare.
    """
    bits: int = _AS_INTEGER.unpack(_AS_FLOAT.pack(value))[0]
    return (bits if bits >= 0 else -(bits + 2**63)) << _ID_BITS | trial


def trial_of(key: int) -> int:
    """The trial id in a key."""
    return key & _ID_MASK


class Rung:
    """The trials that came to one level, and its best share: the best floor(n / eta) of the n recorded, at least `least`.

    A score of +inf counts in n and is never in the share: a rung with too few finite scores has a smaller share. A trial may
    rest here (be kept, to be promoted later). `hopeless` names those that rest in vain. Everything costs O(log n) per trial.

    The ranking is cut in two heaps, `_top` (the share, worst first) and `_rest` (the others, best first); a trial that
    crosses into the share goes to `_ready` as well. A crossing back is noticed only when `_ready` is read. All hold `rank_key`s,
    negated where the worst comes first.

    Once some are hopeless, who comes behind the last that may be promoted, `_bar`, is only put aside: in a large study that is most. Of
    the best that may be, those that were there when they were first counted are sorted, and the later ones are a heap: most of what
    there is leaves this way, from the end of a list, where a heap of a hundred thousand would be gone through by cache misses.
    """

    key = staticmethod(score)
    worst = math.inf

    __slots__ = (
        "_aside", "_bar", "_doomed", "_hope", "_kept", "_late", "_over", "_ready", "_rest", "_rests", "_times", "_top",
        "heading", "least", "n", "resting",
    )

    def __init__(self, eta: Fraction, least: int = 0) -> None:
        self.n = 0
        """How many trials were recorded, failed ones included."""
        self.resting = 0
        """How many trials rest here."""
        self.heading = 0
        """How many trials are running towards this level: the owner keeps this number."""
        self.least = least
        self._times, self._over = eta.denominator, eta.numerator
        self._top: list[int] = []
        self._rest: list[int] = []
        self._ready: list[int] = []
        self._rests = bytearray()           # by trial id: one byte a trial, where a set takes sixty
        self._kept: float = math.inf        # how many may still be promoted; inf: all
        self._bar: float = math.inf         # the key of the last of them
        self._hope: list[int] = []          # with `_late` the best `_kept`, in order; empty while nobody is hopeless
        self._late: list[int] = []          # those of them that came later: a heap, worst first
        self._aside: list[int] = []         # who came behind `_bar`: in neither heap
        self._doomed: list[int] = []        # who fell or came behind `_bar` since the hopeless were last asked for

    def add(self, value: float, trial: int, rests: bool) -> None:
        """Records a trial's score. `rests`: it stays here and may be promoted later."""
        self.n += 1
        size = max(self.least, self.n * self._times // self._over)
        if size > self._kept:       # more came than was said
            self._hope_all()
        top, rest = self._top, self._rest
        if not value < math.inf:
            if len(top) < size and rest:
                self._cross(heappop(rest))
            return
        key = rank_key(value, trial)
        if trial >= len(self._rests):
            self._rests.extend(bytes(trial + 1 - len(self._rests)))
        if rests:
            self._rests[trial] = 1
            self.resting += 1
        if key > self._bar:
            self._doomed.append(key)
            self._aside.append(key)
            if len(top) < size:
                self._cross(heappop(rest))
            return
        if self._kept < math.inf:
            self._doomed.append(self._displaced(key))
        # One trial came and the share grew by one at most, so one crossing restores the cut.
        if len(top) < size:
            self._cross(heappushpop(rest, key))
        elif top and -key > top[0]:
            heappush(rest, -heapreplace(top, -key))
            heappush(self._ready, key)
        else:
            heappush(rest, key)

    def shares(self, value: float, trial: int) -> bool:
        """Whether a recorded trial is in the best share now."""
        return bool(self._top) and -rank_key(value, trial) >= self._top[0]

    def promotable(self) -> int | None:
        """The best trial of the share that rests here; None if there is none."""
        ready = self._ready
        while ready:
            trial = trial_of(ready[0])
            if self._rests[trial] and -ready[0] >= self._top[0]:
                return trial
            heappop(ready)
        return None

    def leave(self, trial: int) -> None:
        """The trial rests here no longer."""
        self._rests[trial] = 0
        self.resting -= 1

    def hopeless(self, most: int) -> list[int]:
        """The trials that rest here in vain if at most `most` ever come; they leave.

        Ranks only grow, and the share never exceeds floor(most / eta): who ranks behind that is never promoted.
        """
        keep = max(self.least, most * self._times // self._over)
        if keep != self._kept and (self._kept < math.inf or keep < len(self._top) + len(self._rest)):
            self._expect(keep)
        if not self._doomed:
            return []
        rests = self._rests
        gone = [trial for key in self._doomed if rests[trial := key & _ID_MASK]]
        self._doomed.clear()
        for trial in gone:
            rests[trial] = 0
        self.resting -= len(gone)
        return gone

    def _expect(self, keep: int) -> None:
        """From now on the best `keep` are in `_hope`, and all others have been in `_doomed`."""
        if keep > self._kept:
            self._hope_all()
        if keep >= len(self._top) + len(self._rest):
            return
        if self._kept == math.inf:
            self._hope = sorted([*(-key for key in self._top), *self._rest])
        self._kept = keep
        for _ in range(len(self._hope) + len(self._late) - keep):
            self._doomed.append(self._hope.pop() if self._ends() else -heappop(self._late))
        self._set_bar()

    def _hope_all(self) -> None:
        """Nobody is hopeless: more trials may come than was said before."""
        self._rest += self._aside
        heapify(self._rest)
        for keys in (self._hope, self._late, self._aside, self._doomed):
            keys.clear()
        self._kept = self._bar = math.inf

    def _displaced(self, key: int) -> int:
        """The worst that may be promoted, in whose place is this better one now."""
        if self._ends():
            heappush(self._late, -key)
            out = self._hope.pop()
        else:
            out = -heapreplace(self._late, -key)
        self._set_bar()
        return out

    def _ends(self) -> bool:
        """Whether the worst that may be promoted is in `_hope`."""
        hope, late = self._hope, self._late
        return bool(hope) and (not late or hope[-1] > -late[0])

    def _set_bar(self) -> None:
        hope, late = self._hope, self._late
        if self._ends():
            self._bar = hope[-1]
        else:
            self._bar = -late[0] if late else -math.inf

    def _cross(self, key: int) -> None:
        heappush(self._top, -key)
        heappush(self._ready, key)

"""Virtual time: when an answer is due, whatever the machine did meanwhile.

Rule 1. What is submitted at tick s for a trial that stands at step a is due at s + max(1, b - a), where b is the step of
        the answer. A failure is due at the end of the step it happened in.
Rule 2. `pop` moves time to the earliest due tick and returns all answers due there, in order of submission.

So the order of answers depends on what was submitted and on what came out, never on which worker was faster. That is why a
study can be repeated on fewer slots, on other machines, or after a crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

from ..trial import Failed, Reached

Answer = Reached | Failed


@dataclass(slots=True)
class _Outstanding:
    since: int
    step: int
    order: int


class VirtualTime:
    """The queue of outstanding and finished work, in ticks.

    >>> clock = VirtualTime()
    >>> clock.submit(0, 0), clock.submit(1, 0)
    (None, None)
    >>> clock.finish(Reached(0, 3, {}, 0.0)), clock.finish(Reached(1, 1, {}, 0.0))
    (None, None)
    >>> [event.trial for event in clock.pop()], clock.now
    ([1], 1)
    """

    def __init__(self, now: int = 0) -> None:
        self.now = now
        self._outstanding: dict[int, _Outstanding] = {}
        self._finished: list[tuple[int, int, Answer]] = []      # heap of (due, order, answer)
        self._order = 0

    def submit(self, trial: int, step: int, since: int | None = None) -> None:
        """Work on `trial`, which stands at `step`, is submitted: now, or at tick `since` of a resumed study."""
        self._outstanding[trial] = _Outstanding(self.now if since is None else since, step, self._order)
        self._order += 1

    def finish(self, answer: Answer) -> None:
        """The answer to what was submitted for this trial is known; it is due by rule 1."""
        work = self._outstanding.pop(answer.trial)
        heappush(self._finished, (work.since + max(1, answer.step - work.step), work.order, answer))

    def certain(self, progress: Mapping[int, int]) -> bool:
        """True once no unfinished work can be due at or before the earliest finished answer.

        `progress`: the step each unfinished trial is known to have passed (absent: none since it was submitted). A trial
        that passed p steps may still turn out to have ended with the p-th, so it can be due from tick p on.
        """
        if not self._finished:
            return False
        due = self._finished[0][0]
        return all(
            due < work.since + max(1, progress.get(trial, work.step) - work.step) for trial, work in self._outstanding.items()
        )

    def pop(self) -> list[Answer]:
        """All answers due at the earliest due tick; rule 2. The caller sees to it that `certain` holds."""
        if not self._finished:
            raise RuntimeError("pop: nothing is finished; submit work and finish it first.")
        self.now = due = self._finished[0][0]
        answers = []
        while self._finished and self._finished[0][0] == due:
            answers.append(heappop(self._finished)[2])
        return answers

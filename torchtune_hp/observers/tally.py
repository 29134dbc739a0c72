"""What is known of a study while it runs, kept up with its turns: counts, the best, rungs, the front.

Law: a turn costs a constant for each event and each command, however many trials there were. The best and the front are those
of the whole study; counts are too, rates are this session's.

A rung is seen, not asked for: a budget at which trials came to rest, or were dropped, without having ended by themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..objective import VIOLATED
from ..population.census import STACKS
from ..trial import Command, Config, Drop, Event, Failed, Keep, Launch, Note, Reached, Scalar, Train, Trial
from .base import StudyInfo

if TYPE_CHECKING:
    from ..results import Results

TOP = 10
"""So many of the best trials are remembered."""

RUNGS = 12
"""More different budgets than this are no rungs: trials end wherever they end."""


@dataclass(frozen=True, slots=True)
class Row:
    """A trial's best report. `value`: the first objective, smaller is better."""

    trial: int
    config: Config
    step: int
    value: float
    metrics: Mapping[str, Scalar]


class Tally:
    """`add` each turn; read the attributes."""

    def __init__(self, info: StudyInfo) -> None:
        self._info = info
        self._values = info.objective.values
        self._max_t = math.inf if info.max_t is None else info.max_t
        self.made = info.before                 # trials of the searcher: what `limits.trials` bounds
        self.running = len(info.standing.since)
        self.seconds = info.standing.seconds    # study time of the newest event
        self.reports = 0                        # in this session, as are:
        self.steps = 0
        self.over = 0                           # trials that ended
        self.ended: Counter[str] = Counter()    # completed, stopped, failed
        self.kinds: Counter[str] = Counter()    # of failures
        self.notes: Counter[str] = Counter()
        self.stacks = ""                        # how many trials share a stack, in words
        self.best: Row | None = None
        self.top: dict[int, Row] = {}
        self.front: dict[int, Row] = {}         # of several objectives
        self._several = len(info.objective.metrics) > 1
        self._worst = math.inf                  # a report must be below this to be among the top
        self._live = {trial.id: _Seen(trial, step) for trial, step in info.standing.live}
        self._stand: Counter[int] = Counter(step for _, step in info.standing.live)     # trials by the step of their last look
        self._rests: Counter[int] = Counter()
        if info.earlier is not None:
            self._remember(info.earlier)

    @property
    def resting(self) -> int:
        return len(self._live) - self.running

    @property
    def rungs(self) -> list[tuple[int, int]]:
        """(budget, how many trials came so far), from the lowest; none where trials do not come to rest at common budgets."""
        if not 1 < len(self._rests) <= RUNGS:
            return []
        levels = sorted(self._rests)
        return [(level, sum(count for step, count in self._stand.items() if step >= level)) for level in levels]

    def add(self, events: Sequence[Event], commands: Sequence[Command]) -> None:
        looked: dict[int, tuple[float, Reached]] = {}
        for event in events if len(events) == 1 else sorted(events, key=_by_trial):
            if isinstance(event, Reached):
                looked[event.trial] = self._reached(event), event
            elif isinstance(event, Note):
                if event.kind == STACKS:
                    self.stacks = event.text
                else:
                    self.notes[event.kind] += 1
            else:
                self._failed(event)
        for command in commands:
            if isinstance(command, Train):
                self.running += 1
                looked.pop(command.trial, None)
            elif isinstance(command, Launch):
                self._launched(command)
            elif isinstance(command, Drop):
                self._dropped(command.trial)
            elif self._several:
                self._kept(command, looked)
        for value, event in looked.values():
            if value < math.inf and not event.done:
                self._rests[event.step] += 1

    def _reached(self, event: Reached) -> float:
        """The value of the first objective at this look."""
        id, step = event.trial, event.step
        self.running -= 1
        self.reports += 1
        if event.time > self.seconds:
            self.seconds = event.time
        value = self._values(event.metrics)[0]
        seen = self._live.get(id)
        if seen is not None:
            if step > seen.step:
                self.steps += step - seen.step
                self._stand[seen.step] -= 1
                if not self._stand[seen.step]:
                    del self._stand[seen.step]
                self._stand[step] += 1
                seen.step = step
            seen.done = event.done
            seen.bad = value == math.inf
            if value < self._worst and not self._several:
                self._place(Row(id, seen.trial.config, step, value, event.metrics))
        return value

    def _place(self, row: Row) -> None:
        """Among the top, if it is better than what is known of its trial. Of equals the earlier is ahead, in a turn the smaller trial."""
        if row.value >= VIOLATED:
            return
        known = self.top.get(row.trial)
        if known is not None and known.value <= row.value:
            return
        if self.best is None or row.value < self.best.value:
            self.best = row
        self.top.pop(row.trial, None)       # they are in the order of their reports
        self.top[row.trial] = row
        worst = max(other.value for other in self.top.values())
        if len(self.top) > TOP:
            del self.top[next(trial for trial in reversed(self.top) if self.top[trial].value == worst)]
            worst = max(other.value for other in self.top.values())
        if len(self.top) == TOP:
            self._worst = worst

    def _failed(self, event: Failed) -> None:
        self.running -= 1
        self.seconds = max(self.seconds, event.time)
        seen = self._live.get(event.trial)
        if seen is not None:
            seen.kind = event.kind

    def _launched(self, command: Launch) -> None:
        trial = command.trial
        self.running += 1
        step = 0
        if trial.parent is None:
            self.made += 1
        elif trial.parent in self._live:
            step = self._live[trial.parent].step
        self._live[trial.id] = _Seen(trial, step)
        self._stand[step] += 1

    def _dropped(self, id: int) -> None:
        seen = self._live.pop(id, None)
        if seen is None:
            return
        self.over += 1
        if seen.kind is not None or seen.bad:
            self.ended["failed"] += 1
            self.kinds[seen.kind or "diverged"] += 1
        else:
            self.ended["completed" if seen.done or seen.step >= self._max_t else "stopped"] += 1

    def _kept(self, command: Keep, looked: Mapping[int, tuple[float, Reached]]) -> None:
        for other in command.instead_of:
            self.front.pop(other, None)
        if command.trial in looked:
            value, event = looked[command.trial]
            self.front[command.trial] = Row(command.trial, self._live[command.trial].trial.config, event.step, value, event.metrics)

    def _remember(self, earlier: Results) -> None:
        """What came of earlier sessions."""
        trials = "SELECT state, kind, step, count(*) FROM trials GROUP BY state, kind, step"
        for state, kind, step, count in earlier.journal.rows(trials):
            if state in ("running", "resting"):
                continue                    # `standing` knows them
            self.ended[state] += count
            self._stand[step] += count
            if state == "failed":
                self.kinds[kind] += count
            elif state == "stopped" or step >= self._max_t:
                self._rests[step] += count
        for trial, step in self._info.standing.live:
            if trial.id not in self._info.standing.since:
                self._rests[step] += 1
        for result in earlier.pareto if self._several else earlier.top(TOP):
            row = Row(result.trial, result.config, result.step or 0, self._values(result.reported)[0], result.reported)
            if self._several:
                self.front[row.trial] = row
            else:
                self._place(row)


def _by_trial(event: Event) -> int:
    return -1 if event.trial is None else event.trial


class _Seen:
    """A trial that may still be named."""

    __slots__ = ("bad", "done", "kind", "step", "trial")

    def __init__(self, trial: Trial, step: int) -> None:
        self.trial = trial
        self.step = step
        self.done = False
        self.bad = False
        self.kind: str | None = None

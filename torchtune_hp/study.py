"""The decision core: events in, commands out.

A Study cannot read a clock, a file or a device; time arrives as a number inside an event. So it is a function of its settings
and of the turns it has been through, and the journal of those turns is all that is ever stored of it: `replay` goes through
them again and checks every decision.

A turn, in this order:
1. Every event of the batch is recorded before any of it is judged. NaN and failure become +inf here, and nowhere else.
2. Trials in the middle of a grant go on to their next look, unless the study is stopping: then they are held.
3. The scheduler hears of grants used up and of trials that ended, and decides; the searcher says where new trials lie.
4. Commands: Keep (before the state moves on), Train of those that go on, what was decided, Drop of trials that ended.

Grants and looks: a scheduler grants ("train 7 until 81"); the study sends the trial there look by look, `look_every` steps at
a time, so that every report is journaled, counted for the best and told to the searcher, and stop rules take effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from .errors import ReplayError, TrialFinishedError
from .keeping import BestFew, Front
from .living import Living
from .objective import VIOLATED, Objective
from .schedulers.base import Scheduler
from .searchers.base import Searcher
from .stopping import StopRule
from .supply import Point, Supply
from .trial import (
    ENDLESS,
    Command,
    Config,
    Decision,
    Drop,
    Event,
    Failed,
    Fork,
    Keep,
    Launch,
    Limits,
    New,
    Note,
    Reached,
    Report,
    Setting,
    Standing,
    Train,
    Trial,
)

if TYPE_CHECKING:
    from .space import Space

BREAKER = 5
"""So many failures in a row, with no report between them, end the study."""
_COUNTED = frozenset({"error", "bad_metric", "lost"})


class Study:
    """What is decided, turn by turn. `look_every`: steps between looks, or "grant": only when a grant is used up."""

    def __init__(
        self,
        space: Space,
        searcher: Searcher,
        scheduler: Scheduler,
        objective: Objective,
        setting: Setting,
        *,
        points: Sequence[Config] = (),
        stop: StopRule | None = None,
        keep: int = 1,
        look_every: int | Literal["grant"] = 1,
    ) -> None:
        self.space = space
        self.searcher = searcher
        self.scheduler = scheduler
        self.objective = objective
        self.setting = setting
        self.seconds = 0.0                              # study time of the newest event
        self.best: float = math.inf                     # best value of the first objective, smaller is better
        self.broken: str | None = None                  # the first error, once BREAKER trials failed in a row
        self.tick = 0
        self._stop = stop
        self._look = ENDLESS if look_every == "grant" else look_every
        self._keeper = BestFew(keep) if setting.objectives == 1 else Front()
        self._living = Living(setting.objectives)
        self._running: dict[int, int] = {}              # trial -> the step it was sent to, in order of submission
        self._held: list[int] = []                      # mid-grant: they go on in this order, once the study may
        self._failures = 0
        self._first_error = ""
        searcher.begin(setting)
        self._supply = Supply(space, searcher, setting, points)
        scheduler.begin(setting)
        if stop is not None:
            stop.begin(objective)

    # The turn ---------------------------------------------------------------------------------------------------------

    def step(self, events: Sequence[Event], limits: Limits) -> list[Command]:
        """One turn: what happened, and the limits in force -> what to do now. No events: a session begins, or room was made."""
        if not events and self.broken is not None:
            self._failures, self.broken = 0, None       # a session that begins gives a broken study another chance
        looks: list[Report] = []                        # for the searcher
        heard: list[Report] = []                        # for the scheduler
        ended: list[int] = []
        offers: list[tuple[tuple[float, ...], int]] = []
        for event in events:
            if not isinstance(event, Note):
                self._record(event, looks, heard, ended, offers)
        commands = self._keeps(offers)
        if looks:
            self.searcher.tell(looks)
        if self.over(limits) is not None:
            commands += self._decide(heard, 0, 0)
        else:
            commands += [Train(id, self._send(id)) for id in self._held]
            self._held = []
            free = max(0, limits.capacity - len(self._running))
            commands += self._decide(heard, free, self._supply.left(limits.trials))
        for id in ended:
            if self._forget(id):
                commands.append(Drop(id))
        return commands

    def replay(self, events: Sequence[Event], limits: Limits, commands: Sequence[Command]) -> None:
        """A recorded turn again: recorded trials stand in for `ask`; any other decision than the recorded is a ReplayError."""
        self._supply.recorded = _launched(commands)
        try:
            again = self.step(events, limits)
        finally:
            self._supply.recorded = None
        if again != list(commands):
            raise ReplayError(_difference(again, commands))

    def notes(self) -> list[Note]:
        """What the log should say of how points are chosen, since it was last asked: of a searcher that has `notes`, and of the space."""
        said: Sequence[str] = getattr(self.searcher, "notes", tuple)()
        used_up = self._supply.notes()
        if not said and not used_up:
            return []
        notes = [Note("searcher", text, time=self.seconds) for text in said]
        return notes + [Note("space", text, time=self.seconds) for text in used_up]

    @property
    def running(self) -> Mapping[int, int]:
        """Trial -> the step it was sent to, in order of submission."""
        return self._running

    @property
    def trials(self) -> int:
        """How many new trials there were."""
        return self._supply.made

    def reconfigure(self, config: Callable[[Trial], Config]) -> None:
        """Gives live trials the configs that `config` says: a journal holds JSON, and a config may hold any object."""
        for trial in self._living:
            self._living.trials[trial.id] = replace(trial, config=config(trial))

    def outstanding(self) -> list[Command]:
        """What a resumed executor must be told, in order of submission."""
        return [Train(trial, until) for trial, until in self._running.items()]

    def standing(self) -> Standing:
        """Where the study stands, for an executor that begins now."""
        living = self._living
        since = {id: living.since[id] for id in self._running}
        return Standing(self.tick, since, tuple((trial, living.steps[trial.id]) for trial in living), self.seconds)

    # 1. What happened ---------------------------------------------------------------------------------------------------

    def _record(
        self,
        event: Reached | Failed,
        looks: list[Report],
        heard: list[Report],
        ended: list[int],
        offers: list[tuple[tuple[float, ...], int]],
    ) -> None:
        id = event.trial
        if self._running.pop(id, None) is None:
            raise TrialFinishedError(f"trial {id} is not running: an event at step {event.step} came after its end, or twice.")
        living = self._living
        trial = living.named(id)
        step, before = event.step, living.steps[id]
        if event.time > self.seconds:
            self.seconds = event.time
        tick = living.since[id] + (step - before or 1)      # an end without a further step takes a tick as well
        if tick > self.tick:
            self.tick = tick
        if isinstance(event, Failed):
            self._count(event)
            values: tuple[float, ...] = (math.inf,) * self.setting.objectives
            done, failed, over = False, True, True
        else:
            seen = None if step > before else living.values(id)     # there is one if it ended without a further report
            if seen is None:
                seen = self.objective.values(event.metrics)
                living.look(id, seen)
            values = seen
            done, failed = event.done, False
            over = done or values[0] == math.inf
            self._failures = 0
            if step > before:
                if values[0] < self._keeper.bar and values[0] < VIOLATED:
                    offers.append((values, id))
                if self._stop is not None and self._stop.ends(id, step, event.metrics):
                    over = done = True
        if step > before:
            living.steps[id] = step
        granted = living.granted[id]
        if self.searcher.adaptive:
            looks.append(Report(id, step, values, trial.tag, trial.x, done, failed))
        if over or (granted is not None and step >= granted):
            heard.append(Report(id, step if granted is None else granted, values, trial.tag, trial.x, done, failed))
            if over:
                ended.append(id)
        else:
            self._held.append(id)

    def _count(self, event: Failed) -> None:
        if event.kind in _COUNTED:
            if self._failures == 0:
                self._first_error = event.error
            self._failures += 1
            if self._failures >= BREAKER:
                self.broken = self._first_error

    def _keeps(self, offers: list[tuple[tuple[float, ...], int]]) -> list[Command]:
        """The best of the batch is offered first, so that nothing is kept only to be displaced in the same turn."""
        commands: list[Command] = []
        offers.sort()
        for values, id in offers:
            if values[0] < self.best:
                self.best = values[0]
            out = self._keeper.offer(id, values)
            if out is not None:
                commands.append(Keep(id, out))
        return commands

    # 2. and 3. What to do -----------------------------------------------------------------------------------------------

    def over(self, limits: Limits) -> str | None:
        """Why nothing is started any more under these limits; None if only the trials could come to an end."""
        if limits.seconds is not None and self.seconds >= limits.seconds:
            return f'the time budget of {limits.seconds:g} s is spent; time_budget="+60" gives a minute more'
        if limits.target is not None and self.best <= self.objective.own(limits.target):
            return f"the target {limits.target:g} is reached; another target= goes on"
        return None if self.broken is None else f"{BREAKER} trials failed in a row"

    def _decide(self, heard: Sequence[Report], free: int, fresh: int) -> list[Command]:
        decisions = self.scheduler.decide(heard, free, fresh)
        if not decisions:
            return []
        news = [type(decision) for decision in decisions].count(New)
        points = self._supply.points(news, fresh, self._beside(decisions)) if news else iter(())
        commands: list[Command] = []
        running, forget = self._running, self._living.forget if self._stop is None else self._forget
        for decision in decisions:
            if isinstance(decision, Drop):
                id = decision.trial
                if id in running:
                    raise RuntimeError(f"{type(self.scheduler).__name__} dropped trial {id} while it trains; a trial is dropped at rest.")
                if forget(id):
                    commands.append(decision)
            elif isinstance(decision, New):
                commands.append(self._launch(next(points), decision.tag, None, 0, decision.until))
            elif isinstance(decision, Train):
                id = decision.trial
                self._living.named(id)
                self._living.granted[id] = decision.until
                commands.append(Train(id, self._send(id)))
            else:
                self._living.named(decision.parent)
                parent = self._living.steps[decision.parent]
                point = self._supply.fork(decision.x)
                commands.append(self._launch(point, decision.tag, decision.parent, parent, parent + decision.further))
        return commands

    def _beside(self, decisions: Sequence[Decision]) -> Iterator[tuple[float, ...]]:
        """Where trials run after this turn, its new ones apart."""
        for id in (*self._running, *(decision.trial for decision in decisions if isinstance(decision, Train))):
            yield self._living.named(id).x
        for decision in decisions:
            if isinstance(decision, Fork):
                yield decision.x

    def _forget(self, id: int) -> bool:
        """Whether there was anything to forget: else it ended in this turn or before."""
        if not self._living.forget(id):
            return False
        if self._stop is not None:
            self._stop.forget(id)
        return True

    def _launch(self, point: Point, tag: int, parent: int | None, step: int, until: int | None) -> Launch:
        trial = self._supply.trial(self._living.next, point, tag, parent)
        return Launch(trial, self._send(self._living.enter(trial, step, until)))

    def _send(self, id: int) -> int:
        """Sets the trial running to its next look."""
        step, granted = self._living.steps[id], self._living.granted[id]
        until = step + self._look
        if until > (bound := ENDLESS if granted is None else granted):
            until = bound
        end = self.setting.max_t
        if end is not None and step < end < until:
            until = end         # where it ends by itself or by its stop rule, which must be asked there
        self._living.since[id] = self.tick
        self._running[id] = until
        return until


def _launched(commands: Sequence[Command]) -> Iterator[Trial]:
    for command in commands:
        if type(command) is Launch:
            yield command.trial
    raise ReplayError(f"more trials are launched than the recorded turn of {len(commands)} commands launched.")


def _difference(again: Sequence[Command], recorded: Sequence[Command]) -> str:
    for place, (one, other) in enumerate(zip(again, recorded)):
        if one != other:
            return f"command {place}: recorded {other!r}, but recomputed {one!r}."
    more = (list(again) + list(recorded))[min(len(again), len(recorded)) :][:1]
    return f"recorded {len(recorded)} commands, but recomputed {len(again)}, from {more!r} on."

"""A study without a searcher or a scheduler, which decides by hashing what it hears: what an executor says wrongly changes all after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..executors.base import Executor, Job
from ..journal import Journal
from ..seeds import derive
from ..training.recipe import recipe_of
from ..training.runner import Place
from ..trial import Command, Drop, Event, Failed, Keep, Launch, Note, Reached, Setting, Standing, Train, Trial
from ..vault import Vault

Said = tuple[Any, ...]
HEADER = {"metric": "loss", "mode": "min", "outcome_constraints": [], "seed": 0, "name": "play"}


class Play:
    """What is done next is a hash of (seed, trial, step)."""

    def __init__(
        self,
        executor: Executor,
        trainable: Any,
        *,
        seed: int = 0,
        forks: bool = False,
        folder: Path | None = None,
        seconds: float = 0.0,
        checkpoint_every: float = 60.0,
        vault: Vault | None = None,
    ) -> None:
        self.executor = executor
        self.trainable = trainable
        self.seed = seed
        self.forks = forks
        self.vault = vault if vault is not None else Vault(None, Journal.create(None, HEADER))
        self.job = Job(recipe_of(trainable), Place(folder, "cpu", None, ("loss",), "play"), self.vault, checkpoint_every)
        self.capacity = executor.prepare(self.job)
        self.said: list[list[Said]] = []
        self.failures: dict[int, str] = {}      # trial -> the last line of its error
        self.notes: list[Note] = []
        self.times: list[float] = []
        self.trials: dict[int, Trial] = {}
        self.steps: dict[int, int] = {}         # of live trials
        self.running: dict[int, int] = {}       # trial -> the tick it was submitted at
        self.kept: dict[int, int] = {}
        self.pending: list[Command] = []
        self.tick = 0
        self._standing = Standing(seconds=seconds)

    @classmethod
    def again(cls, broken: Play, executor: Executor) -> Play:
        """The same study, with another executor, from where it stands."""
        play = cls(executor, broken.trainable, seed=broken.seed, forks=broken.forks, folder=broken.job.place.folder, vault=broken.vault)
        for name in ("trials", "steps", "running", "kept", "tick"):
            setattr(play, name, getattr(broken, name))
        fresh = {command.trial.id for command in broken.pending if isinstance(command, Launch)}
        sent = {trial_of(command) for command in broken.pending if isinstance(command, (Launch, Train))}
        live = tuple((play.trials[trial], step) for trial, step in play.steps.items() if trial not in fresh)
        before = {trial: since for trial, since in play.running.items() if trial not in sent}
        play._standing = Standing(play.tick, before, live, broken.times[-1])
        play.pending = [*(Train(trial, broken.until[trial]) for trial in before), *broken.pending]
        return play

    @property
    def until(self) -> dict[int, int]:
        return {trial: self.steps[trial] + self._grant(trial) for trial in self.running}

    def run(self, trials: int = 9, turns: int | None = None) -> Play:
        """To the end, or for so many turns: then `pending` is what was decided last, and not yet submitted."""
        self.executor.begin(Setting((), lambda x: x, capacity=self.capacity), self._standing)
        if not self.pending:
            self._fill(self.pending, trials)
        while turns is None or len(self.said) < turns:
            for command in self.pending:
                self.executor.submit(command)
            self.pending = []
            if not self.running:
                break
            self.pending = self.hear(self.executor.wait(), trials)
        return self

    def hear(self, events: Sequence[Event], trials: int) -> list[Command]:
        self.times += [event.time for event in events]
        self.notes += [event for event in events if isinstance(event, Note)]
        answers = [event for event in events if not isinstance(event, Note)]
        self.said.append([plain(event) for event in answers])
        keeps: list[Command] = []
        go_on: list[Command] = []
        drops: list[Command] = []
        self.tick = max(self.tick, *(self.running[event.trial] + max(1, event.step - self.steps[event.trial]) for event in answers))
        for event in answers:
            del self.running[event.trial]
        for event in answers:
            trial = event.trial
            if isinstance(event, Failed):
                self.failures[trial] = event.error.splitlines()[-1]
                drops.append(self._drop(trial))
                continue
            self.steps[trial] = event.step
            fate = self._hash(trial, event.step, "fate") % 10
            if fate % 3 == 0 and isinstance(self.trainable, type):
                old = tuple(other for other in self.kept if self._hash(trial, other, "keep") % 2 and other != trial)
                for other in old:
                    del self.kept[other]
                self.kept[trial] = event.step
                keeps.append(Keep(trial, old))
            if event.done or fate < 2:
                drops.append(self._drop(trial))
            elif fate < 7:
                go_on.append(Train(trial, event.step + self._grant(trial)))
                self.running[trial] = self.tick
        commands = keeps + go_on
        self._fill(commands, trials)
        return commands + drops

    def close(self, save: bool = False) -> None:
        self.executor.close(save)

    def __enter__(self) -> Play:
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.close()

    @staticmethod
    def state_after(trainable: Any, trial: Trial, step: int) -> Any:
        runner = recipe_of(trainable).start(trial, Place(metrics=("loss",)))
        while runner.step < step:
            runner.advance()
        state = runner.save()
        runner.close()
        return state

    def _fill(self, commands: list[Command], trials: int) -> None:
        """New trials while there are any to come, and forks; then those that rest are sent on, or dropped."""
        resting = [trial for trial in self.steps if trial not in self.running]
        while len(self.running) < self.capacity and (len(self.trials) < trials or resting):
            number = len(self.trials)
            wake = bool(resting) and (number >= trials or self._hash(number, len(resting), "wake") % 3 == 0)
            if wake:
                trial = resting.pop(0)
                commands.append(Train(trial, self.steps[trial] + self._grant(trial)))
            else:
                trial = number
                parent = min(resting) if self.forks and resting else None
                x = [self._hash(trial, axis, "x") % 1000 / 1000 for axis in (0, 1)]
                config = {"x": x[0], "y": x[1], "steps": 4 + trial % 4, "saves": trial % 2 == 0}
                self.trials[trial] = Trial(trial, tuple(x), config, derive(self.seed, trial), parent=parent)
                self.steps[trial] = 0 if parent is None else self.steps[parent]
                commands.append(Launch(self.trials[trial], self.steps[trial] + self._grant(trial)))
            self.running[trial] = self.tick

    def _drop(self, trial: int) -> Drop:
        del self.steps[trial]
        return Drop(trial)

    def _grant(self, trial: int) -> int:
        return 1 + self._hash(trial, self.steps[trial], "grant") % 3

    def _hash(self, *path: int | str) -> int:
        return derive(self.seed, *path)


def answers_to(executor: Executor, *commands: Command) -> dict[int, Said]:
    """What is said to these, by trial."""
    for command in commands:
        executor.submit(command)
    due, said = {trial_of(command) for command in commands if isinstance(command, (Launch, Train))}, dict[int, Said]()
    while due - said.keys():
        said |= {event.trial: plain(event) for event in executor.wait() if not isinstance(event, Note)}
    return said


def trial_of(command: Launch | Train) -> int:
    return command.trial.id if isinstance(command, Launch) else command.trial


def plain(event: Reached | Failed) -> Said:
    """An event without its time, and without what differs between processes: the lines of a traceback."""
    if isinstance(event, Reached):
        return ("Reached", event.trial, event.step, dict(event.metrics), event.done)
    return ("Failed", event.trial, event.step, event.kind)

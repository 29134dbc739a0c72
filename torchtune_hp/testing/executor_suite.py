"""What every executor must do, compared with `Serial`, the plain truth. Inherit it, and write `make`:

    class TestMine(ExecutorSuite):
        def make(self, slots):
            return Mine(workers=slots)

The studies in it are played by a small driver of its own (`Play`) which decides by hashing what it hears: no searcher and no
scheduler is involved, and whatever an executor says wrongly changes all that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..executors.base import Executor, Job
from ..executors.serial import Serial
from ..journal import Journal
from ..seeds import derive
from ..training.recipe import recipe_of
from ..training.runner import Place
from ..trial import Command, Drop, Event, Failed, Keep, Launch, Note, Reached, Setting, Standing, Train, Trial
from ..vault import Vault
from . import toys

Said = tuple[Any, ...]
HEADER = {"metric": "loss", "mode": "min", "outcome_constraints": [], "seed": 0, "name": "play"}


class ExecutorSuite:
    """One test for each law. `slots`: how many trials run at once, logically."""

    recipes: Sequence[Any] = (toys.Quadratic, toys.Raising, toys.quadratic, toys.raising, toys.quadratics)

    def make(self, slots: int) -> Executor:
        """The executor under test, fresh, with virtual time if it has it."""
        raise NotImplementedError

    def test_it_is_an_executor_and_offers_the_slots_asked_for(self) -> None:
        executor = self.make(3)
        assert isinstance(executor, Executor)
        with Play(executor, toys.Quadratic) as play:
            assert play.capacity == 3

    def test_the_same_is_said_in_the_same_order_as_by_serial(self) -> None:
        for number, recipe in enumerate(self.recipes):
            seed = 100 + number
            truth = Play(Serial(3), recipe, seed=seed).run()
            assert len(truth.said) > 10
            with Play(self.make(3), recipe, seed=seed) as play:
                play.run()
                if play.executor.ordered:
                    assert play.said == truth.said
                    assert play.failures == truth.failures
                else:
                    assert_same_curves(play.said)

    def test_forks_go_on_from_where_their_parent_stood(self) -> None:
        truth = Play(Serial(3), Summing, seed=7, forks=True).run()
        assert any(trial.parent is not None for trial in truth.trials.values())
        with Play(self.make(3), Summing, seed=7, forks=True) as play:
            play.run()
            if play.executor.ordered:
                assert play.said == truth.said

    def test_what_is_kept_is_the_last_look(self) -> None:
        with Play(self.make(2), toys.Quadratic, seed=3) as play:
            play.run(trials=6)
            play.close()
            assert play.kept
            for trial, step in play.kept.items():
                assert play.vault.kept_step(trial) == step
                assert play.vault.kept(trial, step) == Play.state_after(toys.Quadratic, play.trials[trial], step)
            assert all(play.vault.kept_step(trial) is None for trial in play.trials if trial not in play.kept)

    def test_each_train_is_answered_once_and_time_never_decreases(self) -> None:
        with Play(self.make(3), toys.raising, seed=5, seconds=100.0) as play:
            play.run()
            assert not play.running
            assert play.times == sorted(play.times)
            assert 100.0 <= play.times[0] < play.times[-1]

    def test_a_study_goes_on_after_a_break_as_if_there_had_been_none(self) -> None:
        for recipe, save in ((toys.Quadratic, True), (toys.Raising, False)):
            truth = Play(self.make(2), recipe, seed=11)
            with truth:
                truth.run(trials=8)
            with Play(self.make(2), recipe, seed=11) as first:
                first.run(trials=8, turns=5)
                first.close(save)
                with Play.again(first, self.make(2)) as second:
                    second.run(trials=8)
                    if second.executor.ordered:
                        assert first.said + second.said == truth.said
                    else:
                        assert_same_curves(first.said + second.said)

    def test_close_may_come_twice_or_before_anything(self) -> None:
        executor = self.make(1)
        executor.close()
        play = Play(executor, toys.Quadratic)
        play.close()
        executor.close(save=True)


class Play:
    """A study without a searcher or a scheduler: what is done next is a hash of (seed, trial, step)."""

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


class Summing(toys.Quadratic):
    """Adds up what it draws, its ancestors' draws included: one step in another state, and all sums after it differ."""

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        self.sum = 0.0

    def step(self) -> dict[str, Any]:
        metrics = super().step()
        self.sum += metrics["draw"]
        return {**metrics, "sum": self.sum}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"steps": self.steps, "sum": self.sum}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().load_checkpoint(checkpoint)
        self.sum = checkpoint["sum"]


def trial_of(command: Launch | Train) -> int:
    return command.trial.id if isinstance(command, Launch) else command.trial


def plain(event: Reached | Failed) -> Said:
    """An event without its time, and without what differs between processes: the lines of a traceback."""
    if isinstance(event, Reached):
        return ("Reached", event.trial, event.step, dict(event.metrics), event.done)
    return ("Failed", event.trial, event.step, event.kind)


def assert_same_curves(said: Sequence[Sequence[Said]]) -> None:
    """Where the order of answers is real: no trial says a step twice, and each says them in order."""
    seen: dict[int, int] = {}
    for turn in said:
        for kind, trial, step, *rest in turn:
            repeated = kind == "Reached" and rest[1] and seen.get(trial) == step
            assert repeated or step > seen.get(trial, 0), f"trial {trial} said step {step} after {seen[trial]}"
            seen[trial] = step

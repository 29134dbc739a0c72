"""What every executor must do, compared with `Serial`, the plain truth. Inherit it, and write `make`:

    class TestMine(ExecutorSuite):
        def make(self, slots):
            return Mine(workers=slots)

The studies in it are played by a small driver of its own (play.py): no searcher and no scheduler is involved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..executors.base import Executor
from ..executors.serial import Serial
from ..trial import Drop, Launch, Setting, Standing, Train, Trial
from . import toys
from .play import Play, Said, answers_to

FORKED = {"x": 0.1, "y": 0.2, "steps": 9, "saves": True}


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

    def test_a_fork_is_of_its_parent_s_last_look_whatever_else_is_commanded_in_its_turn(self) -> None:
        parent, fork = Trial(0, (0.1, 0.2), FORKED, 5), Trial(1, (0.1, 0.2), FORKED, 6, parent=0)
        said: dict[str, Said] = {}
        for order, commands in (
            ("alone", [Launch(fork, 3)]),
            ("before its parent is dropped", [Launch(fork, 3), Drop(0)]),
            ("before its parent goes on", [Launch(fork, 3), Train(0, 4)]),
            ("after its parent was sent on", [Train(0, 4), Launch(fork, 3)]),
        ):
            with Play(self.make(2), Summing) as play:
                play.executor.begin(Setting((), lambda x: x, capacity=2), Standing())
                answers_to(play.executor, Launch(parent, 2))
                said[order] = answers_to(play.executor, *commands)[1]
        assert said == dict.fromkeys(said, said["alone"])

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


def assert_same_curves(said: Sequence[Sequence[Said]]) -> None:
    """Where the order of answers is real: no trial says a step twice, and each says them in order."""
    seen: dict[int, int] = {}
    for turn in said:
        for kind, trial, step, *rest in turn:
            repeated = kind == "Reached" and rest[1] and seen.get(trial) == step
            assert repeated or step > seen.get(trial, 0), f"trial {trial} said step {step} after {seen[trial]}"
            seen[trial] = step

"""What every Recipe and its Runners must pass: one test for each law of `training/runner.py`.

    class TestMyTrainable(RunnerSuite):
        def make(self):
            return recipe_of(MyTrainable)

Where a trial ends by itself, it must not do so before its fifth look.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch

from ..errors import TorchtuneError, TrialFinishedError
from ..training.runner import Look, Place, Recipe, Runner, State
from ..trial import Scalar, Trial


class RunnerSuite:
    """Inherit, and write `make`; `config` and `needed` where the toys' do not fit."""

    config: Mapping[str, Any] = {"x": 0.25, "y": 0.5}
    needed: tuple[str, ...] = ("loss",)

    def make(self) -> Recipe:
        raise NotImplementedError

    def broken(self) -> tuple[Recipe, type[BaseException]] | None:
        """The same kind of trainable, one that raises in its first unit, and what it raises. None: not tried."""
        return None

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> Iterator[None]:
        self.place = Place(folder=tmp_path / "000007", metrics=self.needed, max_t=27, study="suite")
        self._begun: list[Runner] = []
        yield
        for runner in self._begun:
            runner.close()

    def start(self, seed: int = 11, state: State | None = None, step: int = 0, place: Place | None = None) -> Runner:
        runner = self.make().start(self.trial(seed), place or self.place, state, step)
        self._begun.append(runner)
        return runner

    def trial(self, seed: int = 11) -> Trial:
        return Trial(7, (0.25, 0.5), dict(self.config), seed)

    # The recipe

    def test_a_recipe_says_what_it_is(self) -> None:
        recipe = self.make()
        assert recipe.name and isinstance(recipe.name, str)
        assert type(recipe.saves) is bool and type(recipe.ends) is bool
        assert recipe.max_t is None or recipe.max_t >= 1

    def test_a_recipe_travels_to_another_process(self) -> None:
        recipe = self.make()
        there = cloudpickle.loads(cloudpickle.dumps(recipe))
        assert (there.name, there.saves, there.max_t, there.ends) == (recipe.name, recipe.saves, recipe.max_t, recipe.ends)
        runner = there.start(self.trial(), self.place)
        self._begun.append(runner)
        assert same(looks(runner, 2), looks(self.start(), 2))

    # Law 1

    def test_advance_trains_one_unit(self) -> None:
        runner = self.start()
        assert runner.step == 0
        for step in (1, 2, 3):
            look = runner.advance()
            assert look.step == step == runner.step
            assert not look.done
            assert all(isinstance(look.metrics[name], (int, float)) for name in self.needed)

    def test_metrics_are_plain_values(self) -> None:
        for look in looks(self.start(), 3):
            assert all(type(key) is str for key in look.metrics)
            assert all(value is None or type(value) in (float, int, bool, str) for value in look.metrics.values())

    def test_a_trial_that_ends_says_so_once_and_repeats_its_last_report(self) -> None:
        recipe = self.make()
        if not recipe.ends:
            pytest.skip("this trainable has no end of its own")
        runner = self.start()
        seen = [runner.advance()]
        while not seen[-1].done:
            seen.append(runner.advance())
        *_, before, last = seen
        assert last.step == before.step + 1 or (last.step, dict(last.metrics)) == (before.step, dict(before.metrics))
        with pytest.raises(TrialFinishedError):
            runner.advance()

    # Law 2

    def test_what_the_user_s_code_raises_comes_out_unchanged(self) -> None:
        broken = self.broken()
        if broken is None:
            pytest.skip("no broken variant was given")
        recipe, kind = broken
        with pytest.raises(kind) as caught:
            runner = recipe.start(self.trial(), self.place)
            self._begun.append(runner)
            runner.advance()
        assert type(caught.value) is kind
        assert any("broken" in entry.name for entry in caught.traceback), "the traceback must show the user's own function"

    # Law 3

    def test_a_saved_trial_goes_on_as_if_it_had_not_been_interrupted(self) -> None:
        whole = looks(self.start(), 4)
        first = self.start()
        looks(first, 2)
        state = first.save()
        if state is None:
            assert not self.make().saves
            pytest.skip("this trainable cannot be saved")
        assert isinstance(state, (Mapping, Path))
        second = self.start(state=state, step=2)
        assert second.step == 2
        assert same(looks(second, 2), whole[2:])

    def test_a_state_is_as_of_its_look_however_far_training_goes_on(self) -> None:
        first = self.start()
        looks(first, 2)
        state = first.save()
        if state is None:
            pytest.skip("this trainable cannot be saved")
        ahead = looks(first, 2)
        assert same(looks(self.start(state=state, step=2), 2), ahead)
        assert same(looks(self.start(state=state, step=2), 2), ahead), "a state serves more than one trial"

    def test_saving_changes_nothing(self) -> None:
        plain, saved = self.start(), self.start()
        for _ in range(4):
            saved.save()
            assert same([saved.advance()], [plain.advance()])

    def test_a_trial_kept_in_memory_gives_the_same_looks(self) -> None:
        assert same(looks(self.start(place=Place(metrics=self.needed, max_t=27)), 2), looks(self.start(), 2))

    # Law 4

    def test_close_may_be_called_twice_and_at_any_time(self) -> None:
        for steps in (0, 1, 3):
            runner = self.start()
            looks(runner, steps)
            runner.close()
            runner.close()

    # Seeds

    def test_the_same_seed_gives_the_same_looks(self) -> None:
        assert same(looks(self.start(seed=3), 3), looks(self.start(seed=3), 3))

    def test_two_trials_that_take_turns_do_not_disturb_each_other(self) -> None:
        alone = looks(self.start(seed=3), 3)
        one, other = self.start(seed=3), self.start(seed=4)
        together = []
        for _ in range(3):
            together.append(one.advance())
            other.advance()
        assert same(together, alone)

    def test_the_caller_s_generators_do_not_notice(self) -> None:
        def draws() -> tuple[float, float, float]:
            return torch.rand(()).item(), random.random(), float(np.random.random())

        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        expected = draws()
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        runner = self.start()
        looks(runner, 2)
        runner.close()
        assert draws() == expected

    def test_a_missing_metric_is_named(self) -> None:
        runner = self.start(place=Place(metrics=("no such metric",)))
        with pytest.raises(TorchtuneError, match="no such metric"):
            runner.advance()

    # What comes of it

    def test_restore_gives_something_and_test_gives_metrics_or_says_why_not(self) -> None:
        first = self.start()
        looks(first, 2)
        state = first.save()
        if state is None:
            pytest.skip("this trainable cannot be saved")
        recipe = self.make()
        assert recipe.restore(self.trial(), self.place, state, 2) is not None
        try:
            metrics = recipe.test(self.trial(), self.place, state, 2)
        except TorchtuneError as error:
            assert "test" in str(error)
        else:
            assert metrics and all(isinstance(key, str) for key in metrics)


def looks(runner: Runner, count: int) -> list[Look]:
    return [runner.advance() for _ in range(count)]


def same(some: list[Look], others: list[Look]) -> bool:
    """Whether two lists of looks are equal, NaN being equal to NaN."""
    return [_comparable(look) for look in some] == [_comparable(look) for look in others]


def _comparable(look: Look) -> tuple[int, bool, dict[str, Scalar]]:
    metrics = {key: "nan" if isinstance(value, float) and math.isnan(value) else value for key, value in look.metrics.items()}
    return look.step, look.done, metrics

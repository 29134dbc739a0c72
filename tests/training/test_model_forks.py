"""Forks, whose config differs from that of the state; the merge; what can be stored."""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from torchtune_hp.errors import UnsafeCheckpointError
from torchtune_hp.training.carried import carry, hyper, merge, same, storable
from torchtune_hp.training.model import ModelRecipe

from .model_parts import Digits, equal_states, looks, one_thread, place, runner, through_a_file, trial

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")


# Forks --------------------------------------------------------------------------------------------------------------------


def test_a_fork_has_its_parents_weights_and_momentum_and_its_own_hyperparameters() -> None:
    recipe = ModelRecipe(Digits)
    parent = recipe.start(trial({"lr": 0.01, "wd": 0.1}), place())
    looks(parent, 2)
    state = parent.save()
    child = recipe.start(trial({"lr": 0.5, "wd": 0.1, "dropout": 0.4}, seed=99, id=4, parent=3), place(), state, 2)
    group = child.member.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"], child.step) == (0.5, 0.1, (0.9, 0.999), 2)
    assert child.member.model[2].p == 0.4      # type: ignore[index, union-attr]
    saved = child.save()
    assert equal_states(saved["model"], state["model"]) and equal_states(saved["optimizer"]["state"], state["optimizer"]["state"])
    look = child.advance()
    again = recipe.start(trial({"lr": 0.5, "wd": 0.1, "dropout": 0.4}, seed=99, id=4, parent=3), place(), through_a_file(saved), 2)
    assert again.member.optimizer.param_groups[0]["lr"] == 0.5 and again.advance() == look


def test_a_forks_learning_rate_keeps_the_factor_that_its_schedule_had_reached() -> None:
    class Scheduled(Digits):
        def setup(self, config: Any) -> None:
            super().setup(config)
            self.lr_scheduler = schedules.ExponentialLR(self.optimizer, config.get("gamma", 0.5))

    recipe = ModelRecipe(Scheduled)
    parent = recipe.start(trial({"lr": 1.0}), place())
    looks(parent, 2)
    child = recipe.start(trial({"lr": 4.0, "gamma": 0.1}, id=4, parent=3), place(), parent.save(), 2)
    scheduler = child.member.lr_scheduler
    assert isinstance(scheduler, schedules.ExponentialLR)
    assert child.member.optimizer.param_groups[0]["lr"] == 1.0 and scheduler.get_last_lr() == [1.0]
    assert (scheduler.base_lrs, scheduler.last_epoch, scheduler.gamma) == ([4.0], 2, 0.1)
    assert child.advance().metrics["lr"] == pytest.approx(0.1)


def test_a_forks_words_are_its_own_where_the_config_says_so_and_its_parents_where_a_hook_did() -> None:
    class Worded(Digits):
        def setup(self, config: Any) -> None:
            super().setup(config)
            self.batch_size = config.get("batch", 16)
            self.count, self.name = 0, config.get("name", "a")
            if "extra" in config:
                self.extra = config["extra"]

        def on_iteration_end(self, metrics: dict[str, float]) -> None:
            self.count += 1
            self.batch_size = 2 * (self.batch_size or 0)
            self.frozen = True

    recipe = ModelRecipe(Worded)
    parent = recipe.start(trial({"extra": 1}), place())
    looks(parent, 2)
    child: Any = recipe.start(trial({"batch": 20, "name": "b"}, id=4, parent=3), place(), parent.save(), 2).member
    assert (child.batch_size, child.count, child.name, child.frozen, hasattr(child, "extra")) == (20, 2, "b", True, False)
    same_batch: Any = recipe.start(trial({"name": "b"}, id=4, parent=3), place(), parent.save(), 2).member
    assert same_batch.batch_size == 64


def test_the_merge_takes_what_training_changed_and_what_the_config_changed() -> None:
    assert merge(1, 1, 2) == 2 and merge(1, 3, 1) == 3 and merge(1, 3, 2) == 2
    assert merge(1.0, 0.5, 4.0, "lr") == 2.0 and merge(0.0, 0.5, 4.0, "lr") == 4.0 and merge(1.0, 0.5, 4.0, "weight_decay") == 4.0
    assert merge({"_last_lr": [1.0]}, {"_last_lr": [0.25]}, {"_last_lr": [2.0]}) == {"_last_lr": [0.5]}
    assert merge({"lr": None}, {"lr": 0.5}, {"lr": 2.0}) == {"lr": 2.0}
    assert merge({"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2}) == {"a": 1}
    assert merge({}, {"a": 1}, {}) == {"a": 1} and merge({}, {}, {"a": 1}) == {"a": 1} and merge({"a": 1}, {"a": 1}, {}) == {}
    assert merge([1], [1, 2], [1]) == [1, 2] and merge([1, 1], [1, 5], [2, 1]) == [2, 5]
    assert merge(float("nan"), float("nan"), 1.0) == 1.0


def test_equality_is_of_type_value_and_every_element() -> None:
    nan = float("nan")
    assert same(nan, nan) and same([1, {"a": nan}], [1, {"a": nan}]) and same(None, None) and same((1,), (1,))
    assert not same(1, 1.0) and not same(True, 1) and not same([1], [1, 2]) and not same({"a": 1}, {"b": 1}) and not same([1], [2])
    assert same(torch.tensor([1.0]), torch.tensor([1.0])) and not same(torch.tensor([1.0]), torch.tensor([2.0]))
    assert not same(torch.zeros(1), torch.zeros(2)) and not same(torch.zeros(1), torch.zeros(1).double())


# What can be stored -------------------------------------------------------------------------------------------------------


class Color(enum.IntEnum):
    RED = 3


class Phrase(str):
    pass


def test_a_state_is_normalized_to_plain_values() -> None:
    given = OrderedDict(a=(1, np.float64(0.5)), b=Counter({2: 3}), c=Color.RED, d=Phrase("x"), e=np.int64(4), f=None, g=True)
    plain = storable(given, "")
    assert plain == {"a": [1, 0.5], "b": {2: 3}, "c": 3, "d": "x", "e": 4, "f": None, "g": True}
    assert [type(value) for value in plain.values()] == [list, dict, int, str, int, type(None), bool] and type(plain) is dict
    assert type(plain["a"][1]) is float
    tensor = torch.ones(2, requires_grad=True)
    copied = storable([tensor], "")[0]
    assert not copied.requires_grad and copied.data_ptr() != tensor.data_ptr()


def test_what_cannot_be_stored_safely_is_named() -> None:
    with pytest.raises(UnsafeCheckpointError, match=r"'model\.0\[1\]' is a object"):
        storable({0: [1, object()]}, "model")
    with pytest.raises(UnsafeCheckpointError, match=r"'state\.a' is a set"):
        storable({"state": {"a": {1}}}, "")
    with pytest.raises(UnsafeCheckpointError, match=r"'model' has the key \(1, 2\)"):
        storable({(1, 2): 0}, "model")

    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return {1, 2}

    alone = runner(Digits)
    alone.member.model.extra = Extra(1, 1)
    with pytest.raises(UnsafeCheckpointError, match=r"'model\.extra\._extra_state' is a set"):
        carry(alone.member, hyper(alone.member))

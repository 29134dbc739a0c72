"""What training changed besides what a state_dict holds: it is in the checkpoint, or it is said."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from torchtune_hp.errors import CheckpointError, UnsafeCheckpointError
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.trial import Trial

from .model_parts import equal_states, one_thread, place, through_a_file, trial

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """Holds a number, a dict, and a buffer that is not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.1), nn.Linear(6, 2))
        self.temp, self.seen = 2.0, {"calls": [0, 1]}
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        made: torch.Tensor = self.body(x - self.mean) / self.temp
        return made


class Anneal:
    def __init__(self) -> None:
        self.beta, self.past = 0.0, [0.0]

    def step(self) -> None:
        self.beta += 0.1
        self.past.append(self.beta)


def made(begin: Callable[[Any], None], hook: Callable[[Any], None]) -> type[ToyModel]:
    class Made(ToyModel):
        def setup(self, config: Any) -> None:
            self.model = Net().double()
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
            begin(self)

        def training_step(self, model: nn.Module, batch: Any) -> Any:
            return nn.functional.cross_entropy(model(batch[0].double()), batch[1])

        def validation_step(self, model: nn.Module, batch: Any) -> dict[str, Any]:
            return {"loss": nn.functional.cross_entropy(model(batch[0].double()), batch[1])}

        def on_iteration_end(self, metrics: dict[str, float]) -> None:
            hook(self)

    return Made


def nothing(self: Any) -> None:
    pass


def mean_of_weights(self: Any) -> None:
    """As it is often written: `.data` has no version."""
    for own, new in zip(self.ema.parameters(), self.model.parameters()):
        own.data.mul_(0.5).add_(new.data, alpha=0.5)
    self.ema.temp *= 0.9


def rate_from_history(self: Any) -> None:
    self.history.append((self.optimizer.param_groups[0]["lr"], {"t": torch.ones(2)}))
    self.optimizer.param_groups[0]["lr"] = 0.1 / len(self.history)


def model_s_own(self: Any) -> None:
    self.model.temp *= 0.9
    self.model.body[1].p += 0.1
    self.model.seen["calls"][0] += 1
    self.model.seen["more"] = (torch.full((2,), self.model.temp), None)


def draws(self: Any) -> None:
    self.model.temp = 1 + self.numpy.random() + self.python.random() + torch.rand((), generator=self.torch).item()


def generators(self: Any) -> None:
    self.numpy, self.python, self.torch = np.random.default_rng(1), random.Random(2), torch.Generator().manual_seed(3)


def best_so_far(self: Any) -> None:
    if self.best is None:
        self.best, self.weights = copy.deepcopy(self.model), copy.deepcopy(self.model.state_dict())
    self.model.body[0].load_state_dict(self.best.body[0].state_dict())
    self.model.body[2].load_state_dict({name.removeprefix("body.2."): value for name, value in self.weights.items() if "body.2" in name})


def anneal(self: Any) -> None:
    self.anneal.step()
    self.model.temp = 1 + self.anneal.beta + sum(self.anneal.past)


def many(self: Any) -> None:
    self.counts[0] += 1
    self.window.append(self.counts[0].item())
    self.names |= {str(self.counts[0])}
    self.order[str(self.counts[0])] = torch.zeros(1)
    self.tensor = self.tensor * 2
    self.model.temp = 1 + float(self.counts.sum() + sum(self.window) + len(self.names) + len(self.order) + self.tensor.sum())


def of_many(self: Any) -> None:
    self.counts, self.window, self.names, self.order = np.zeros(3), deque([0.0], 2), {"a"}, OrderedDict()
    self.tensor = torch.ones(2)


CASES: dict[str, Any] = {
    "a mean of the weights": (lambda self: setattr(self, "ema", copy.deepcopy(self.model)), mean_of_weights),
    "torch's mean of the weights": (
        lambda self: setattr(self, "ema", AveragedModel(self.model)), lambda self: self.ema.update_parameters(self.model)
    ),
    "attributes of modules": (nothing, model_s_own),
    "a list": (lambda self: setattr(self, "history", []), rate_from_history),
    "generators": (generators, draws),
    "a model of before": (lambda self: setattr(self, "best", None), best_so_far),
    "an object": (lambda self: setattr(self, "anneal", Anneal()), anneal),
    "others": (of_many, many),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_trial_that_was_saved_goes_on_with_all_that_was_changed(case: str) -> None:
    recipe = ModelRecipe(made(*CASES[case]))
    whole = recipe.start(trial(), place())
    assert not [note for look in (whole.advance(), whole.advance()) for note in look.notes]
    saved = through_a_file(whole.save())
    again = recipe.start(trial(), place(), saved, 2)
    twice = recipe.start(trial(), place(), through_a_file(again.save()), 2)     # what came from a checkpoint is saved again
    for _ in range(2):
        look = whole.advance()
        assert look.metrics == again.advance().metrics == twice.advance().metrics
    if hasattr(whole.member, "ema"):
        assert equal_states(whole.member.ema.state_dict(), again.member.ema.state_dict())


def test_what_is_loaded_has_the_attributes_that_it_was_trained_to() -> None:
    recipe = ModelRecipe(made(*CASES["attributes of modules"]))
    alone = recipe.start(trial(), place())
    alone.advance()
    model: Any = recipe.restore(trial(), place(), through_a_file(alone.save()), 1)
    assert model.temp == 1.8 and model.body[1].p == 0.2 and model.seen["calls"] == [1, 1]
    assert torch.equal(model.mean, alone.member.model.mean)


def test_what_did_not_change_is_not_saved() -> None:
    table = torch.zeros(100_000)

    def begin(self: Any) -> None:
        self.table, self.teacher, self.words = table, nn.Linear(300, 300), {"a": [1, (2, "b")], "table": table, "kept": object()}
        self.first, self.parts = self.model.body[0], list(self.model.parameters())
        self.count = {"table": table, "n": 0}

    def hook(self: Any) -> None:
        self.words["a"] = list(self.words["a"])
        self.count["n"] += 1

    alone = ModelRecipe(made(begin, hook)).start(trial(), place())
    looks = [alone.advance(), alone.advance()]
    data = alone.save()["beside"]
    assert set(data["self"]) == {"count"} and data["self"]["count"]["parts"][0] is None and set(data["model"]) == {""}
    assert set(data["model"][""]) == {"mean"} and not any(look.notes for look in looks)


class Phase(Enum):
    FIRST = 1
    SECOND = 2


def test_what_cannot_be_stored_is_said_once_if_it_was_changed() -> None:
    def begin(self: Any) -> None:
        self.phase, self.steady, self.turns = Phase.FIRST, Phase.FIRST, iter([1, 2, 3])

    def hook(self: Any) -> None:
        self.phase = Phase.SECOND

    recipe = ModelRecipe(made(begin, hook))
    alone = recipe.start(trial(), place())
    first, second = alone.advance(), alone.advance()
    assert len(first.notes) == 2 and "self.phase (a Phase) cannot be stored" in first.notes[0] and "self.turns" in first.notes[1]
    assert not second.notes
    again: Any = recipe.start(trial(), place(), through_a_file(alone.save()), 2)
    assert again.member.phase is Phase.FIRST and Phase.FIRST.value == 1


def test_what_the_config_changed_wins_over_what_training_changed() -> None:
    def begin(self: Any) -> None:
        self.model.temp = self.config.get("temp", 2.0)

    recipe = ModelRecipe(made(begin, model_s_own))
    parent = recipe.start(trial(), place())
    parent.advance()
    state = through_a_file(parent.save())
    fork: Any = recipe.start(Trial(4, (), {"temp": 7.0}, 5, parent=3), place(), state, 1)
    assert fork.member.model.temp == 7.0 and fork.member.model.body[1].p == 0.2


def test_a_checkpoint_of_before_is_loaded() -> None:
    recipe = ModelRecipe(made(*CASES["attributes of modules"]))
    alone = recipe.start(trial(), place())
    alone.advance()
    state = {name: part for name, part in through_a_file(alone.save()).items() if name != "beside"}
    again: Any = recipe.start(trial(), place(), state, 1)
    assert again.member.model.temp == 2.0


def test_who_is_put_back_where_nothing_was_changed_is_as_setup_made_it() -> None:
    alone: Any = ModelRecipe(made(*CASES["attributes of modules"])).start(trial(), place())
    state = alone.save()
    alone.advance()
    alone.stand(state)
    assert alone.member.model.temp == 2.0 and alone.member.model.seen == {"calls": [0, 1]}


def test_a_model_of_other_layers_is_not_saved_and_not_loaded() -> None:
    def cut(self: Any) -> None:
        prune.l1_unstructured(self.model.body[0], "weight", 0.3)

    def replace(self: Any) -> None:
        self.model.body[1] = nn.Identity()

    for hook, what in ((cut, "'body.0.weight'"), (replace, "'body.1'")):
        alone = ModelRecipe(made(nothing, hook)).start(trial(), place())
        alone.advance()
        with pytest.raises(UnsafeCheckpointError, match=f"made of something else since: {what}.*in setup"):
            alone.save()
    state = ModelRecipe(made(nothing, nothing)).start(trial(), place()).save()
    with pytest.raises(CheckpointError, match=r"setup makes another model.*Missing key"):
        ModelRecipe(made(lambda self: self.model.body.append(nn.Linear(2, 2)), nothing)).start(trial(), place(), state, 0)


def test_pruning_that_setup_prepared_is_saved() -> None:
    def cut(self: Any) -> None:
        prune.l1_unstructured(self.model.body[0], "weight", 0.3)

    recipe = ModelRecipe(made(lambda self: prune.identity(self.model.body[0], "weight"), cut))
    alone: Any = recipe.start(trial(), place())
    alone.advance()
    again: Any = recipe.start(trial(), place(), through_a_file(alone.save()), 1)
    assert torch.equal(again.member.model.body[0].weight_mask, alone.member.model.body[0].weight_mask)


class Bank(Net):
    """Keeps its last outputs, of which there are none in the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.empty(0, 2))
        self.register_buffer("late", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = super().forward(x)
        if self.training:
            self.bank = torch.cat([found.detach(), self.bank])[:200]
            self.late = self.bank.mean(0)
        return found if self.late is None else found + self.late


def test_a_buffer_that_grows_is_loaded_as_large_as_it_is() -> None:
    def begin(self: Any) -> None:
        self.model = Bank().double()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    recipe = ModelRecipe(made(begin, nothing))
    whole: Any = recipe.start(trial(), place())
    whole.advance()
    again: Any = recipe.start(trial(), place(), through_a_file(whole.save()), 1)
    assert len(again.member.model.bank) == 128 and torch.equal(again.member.model.late, whole.member.model.late)
    assert whole.advance() == again.advance()

"""The end of an iteration in each trial's own Python is what it is alone: its model, its seeds, its room."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import torchtune_hp as hp
from torchtune_hp.population.stack import Stack

from .test_engine import CONFIGS, Configs, Hooked, OnHost, Toy, alone, runners, same, together
from .test_room import Moves, advanced


class Ending(Toy):
    """Its validation is judged by what `validation_end` sees of the trial, with draws of its own."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.lr_scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.5)

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {"logits": model(batch[0]), "y": batch[1]}

    def validation_end(self, gathered: Mapping[str, Tensor]) -> dict[str, Any]:
        right = (gathered["logits"].argmax(-1) == gathered["y"]).double()
        return {
            "loss": 1 - right[torch.randint(len(right), (10,))].mean(), "norm": sum(part.norm() for part in self.model.parameters()),
            "rate": self.optimizer.param_groups[0]["lr"], "again": self.model(gathered["logits"].repeat(1, 2)).sum(),
            "training": self.model.training, "drawn": random.random(), "gradient": torch.is_grad_enabled(),
        }  # fmt: skip


def test_validation_end_sees_the_trial_as_it_was_trained_under_its_own_seeds() -> None:
    fused, _, engine = together(Ending)
    assert engine.stacks() == [5]
    same(fused, alone(Ending))


class Counting(Ending):
    """What `validation_end` writes to `self` decides how the trial is trained on; what it does to a buffer stays."""

    def build(self, config: Any) -> nn.Module:
        model = super().build(config)
        model.register_buffer("ends", torch.zeros(()))
        return model

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.seen: list[int] = []
        self.times = 0

    def training_step(self, model: Any, batch: Any) -> Any:
        return super().training_step(model, batch) * (2.0 if self.times > 1 else 1.0) * (1 + model.ends)

    def validation_end(self, gathered: Mapping[str, Tensor]) -> dict[str, Any]:
        self.times += self.config["steps"]
        self.model.ends += 1
        return {**super().validation_end(gathered), "ends": self.model.ends}


def test_what_validation_end_writes_counts() -> None:
    fused, _, _ = together(Counting, n=4)
    same(fused, alone(Counting, n=4))


class Failing(Ending):
    def validation_end(self, gathered: Mapping[str, Tensor]) -> dict[str, Any]:
        if self.config["fails"]:
            raise ArithmeticError("on purpose")
        return super().validation_end(gathered)


def test_a_validation_end_that_raises_ends_its_trial_alone() -> None:
    configs: Configs = [{**config, "fails": k == 2} for k, config in enumerate(CONFIGS)]
    fused, _, _ = together(Failing, configs, n=1)
    assert isinstance(fused[2][0], ArithmeticError)
    whole = [{**config, "fails": False} for config in CONFIGS]
    expected = alone(Failing, whole, n=1)
    for k in (0, 1, 3, 4):
        same([fused[k]], [expected[k]])


class Tight(Ending):
    def validation_end(self, gathered: Mapping[str, Tensor]) -> dict[str, Any]:
        claim()
        return super().validation_end(gathered)


class TightAlone(OnHost):
    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        claim()
        return super().validation_step(model, batch)


calls: list[int] = []


def claim() -> None:
    """There is room but for the third who asks."""
    calls.append(0)
    if len(calls) == 3:
        raise torch.OutOfMemoryError("no room")


@pytest.mark.parametrize(("cls", "where"), [(Tight, ""), (TightAlone, ""), (OnHost, "load"), (OnHost, "dump"), (Hooked, "load")])
def test_room_may_run_out_at_the_end_and_nothing_is_trained_twice(cls: type[Toy], where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls[:] = [0] * 9      # none is refused
    single, _ = alone(cls, CONFIGS), Moves(monkeypatch)
    calls.clear()
    if where:
        right = getattr(Stack, where)

        def refused(stack: Stack, row: int) -> Any:
            claim()
            return right(stack, row)

        monkeypatch.setattr(Stack, where, refused)
    fused, said, _ = advanced(runners(cls, CONFIGS))
    same(fused, single)
    assert len([text for text in said if "there is no room for 5 at once" in text]) == 1 and len(calls) >= 3


# What is compared besides losses and gradients ----------------------------------------------------------------------------------


WIDTHS: Configs = [{"lr": 0.01, "p": 0.0, "width": width} for width in (4, 8, 12, 8, 4)]


class Beside(Toy):
    def training_step(self, model: Any, batch: Any) -> Any:
        loss = super().training_step(model, batch)
        return loss, {"activation": model[1](model[0](batch[0])).mean(), "size": sum(part.numel() for part in model.parameters())}


class Mean(nn.Module):
    """A running mean over all units, used in eval mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
            return x
        return x - self.mean


class Remembering(Toy):
    def build(self, config: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(6, config["width"]), nn.ReLU(), Mean(), nn.Linear(config["width"], 3))


@pytest.mark.parametrize(("cls", "what"), [(Beside, "the metric activation"), (Remembering, "the buffer 2.mean")])
def test_widths_that_show_beside_the_loss_are_not_padded(cls: type[Toy], what: str) -> None:
    fused, said, _ = together(cls, WIDTHS)
    assert any(f"widths are not padded, so there is a stack for each: {what} differs between stacked and alone" in text for text in said)
    same(fused, alone(cls, WIDTHS))


# Draws that a stack has one of ---------------------------------------------------------------------------------------------------


class DrawsInValidation(Toy):
    def build(self, config: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {"loss": super().validation_step(model, batch)["loss"] * (1 + random.random())}


class DrawsLater(Toy):
    """In the smaller last batch only."""

    @classmethod
    def data(cls) -> hp.Data:
        whole = super().data()
        return hp.Data(whole.train.tree, val=whole.val[""].tree, batch_size=24, drop_last=False)

    batch_size = 24

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        loss = super().training_step(model, batch)
        return loss * (1 + np.random.rand()) if len(batch[1]) < 24 else loss


def test_a_validation_that_draws_from_random_is_each_trial_s_own() -> None:
    fused, said, engine = together(DrawsInValidation)
    why = "DrawsInValidation: trained at once, but validated one by one: RuntimeError: validation_step draws from random or numpy"
    assert engine.stacks() == [5] and any(text.startswith(why) for text in said), said
    same(fused, alone(DrawsInValidation))


def test_draws_from_numpy_are_seen_in_whatever_batch_they_are_made() -> None:
    fused, said, engine = together(DrawsLater)
    assert engine.stacks() == [] and any("training_step or augment draws from random or numpy" in text for text in said), said
    same(fused, alone(DrawsLater))


class Popped(Toy):
    """Begins its last layer anew in some of its trials, with what the optimizer holds of it, and changes what a stack lifts."""

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        self.model[2].p = 0.1 + 0.1 * self.config["steps"]
        if self.config["steps"] == 1:
            self.model[3].reset_parameters()
            for parameter in self.model[3].parameters():
                self.optimizer.state.pop(parameter)


def test_who_forgets_the_steps_of_a_layer_leaves_the_stack_and_the_others_stay() -> None:
    fused, said, engine = together(Popped, n=4)
    same(fused, alone(Popped, n=4))
    assert engine.stacks() == [3] and [text for text in said if "trained one by one" in text and "have a 'step'" in text]


class Pruned(Toy):
    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        if self.config["steps"] == 1:
            prune.l1_unstructured(self.model[0], "weight", 0.3)


def test_who_prunes_a_layer_leaves_the_stack_and_the_others_stay() -> None:
    fused, said, engine = together(Pruned)
    same(fused, alone(Pruned))
    assert engine.stacks()[0] == 3 and "Pruned: on_iteration_end makes another model of the trial's, so that it leaves its stack." in said

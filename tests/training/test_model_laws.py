"""The laws of Runner, run over ModelTrainables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from torch import nn

from torchtune_hp.testing.runner_suite import RunnerSuite
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.training.recipe import recipe_of
from torchtune_hp.training.runner import Recipe

from .model_parts import one_thread

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")


class BrokenError(Exception):
    pass


class BrokenModel(ToyModel):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return self.broken()

    def broken(self) -> None:
        raise BrokenError


class ThreeUpdates(ToyModel):
    """Stands in the middle of a pass at most looks."""

    iteration = 3
    accumulate = 2


class Bounded(ToyModel):
    max_t = 5


class TestModel(RunnerSuite):
    config: Mapping[str, Any] = {"lr": 0.1, "dropout": 0.5}
    needed = ("accuracy", "loss")

    def make(self) -> Recipe:
        return recipe_of(ToyModel)

    def broken(self) -> tuple[Recipe, type[BaseException]]:
        return recipe_of(BrokenModel), BrokenError


class TestModelByUpdates(TestModel):
    def make(self) -> Recipe:
        return recipe_of(ThreeUpdates)


class TestModelWithAnEnd(TestModel):
    def make(self) -> Recipe:
        return recipe_of(Bounded)

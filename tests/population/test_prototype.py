"""The stack's model is a copy of one member's: what that one had, and those that are here now do not, is nobody's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchtune_hp.population.engine import Engine
from torchtune_hp.population.population import Population

from .test_engine import Configs, Toy, alone, runners, same, together

X = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def members(dropouts: list[float]) -> tuple[list[nn.Module], list[torch.optim.Optimizer]]:
    models: list[nn.Module] = []
    for seed, p in enumerate(dropouts):
        torch.manual_seed(seed)
        models.append(nn.Sequential(nn.Linear(4, 16), nn.Dropout(p), nn.Linear(16, 2)).double())
    return models, [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    out: Tensor = model(batch)
    return out.square().mean()


@pytest.mark.parametrize("comes", ["at the end", "in the founder's place"])
def test_who_founded_a_stack_and_left_leaves_nothing_behind(comes: str) -> None:
    """The two that stay agree in p, and so does who comes; the model that runs is a copy of who is gone."""
    stacked, single = (Population(*members([0.1, 0.6, 0.6, 0.6]), strategy=strategy) for strategy in ("vmap", "loop"))
    for population in (stacked, single):
        population.take_out(3)
        if comes == "at the end":
            population.take_out(0)
        models, optimizers = members([0.1, 0.6, 0.6, 0.6, 0.6])
        if comes == "at the end":
            population.add(models[4], optimizers[4], seed=9)
        else:
            rows: Any = population._rows
            if population is stacked:
                rows.replace([0], [(models[4], optimizers[4])])
            else:
                rows.members[0] = (models[4], optimizers[4])
    for _ in range(3):
        torch.testing.assert_close(stacked.step(loss, X), single.step(loss, X))


def test_what_is_changed_from_outside_is_read_again() -> None:
    """A dropout's p, and a frozen weight that the stack holds once: in one member, and so in nobody else."""
    populations = []
    for strategy in ("vmap", "loop"):
        models, optimizers = members([0.5, 0.5, 0.5])
        for model in models:
            model.register_parameter("scale", nn.Parameter(torch.ones((), dtype=torch.float64), requires_grad=False))
        population = Population(models, optimizers, strategy=strategy)  # type: ignore[arg-type]
        population.step(scaled, X)
        population.unstack()
        models[0].scale.fill_(3.0)      # type: ignore[operator,union-attr]
        models[1][1].p = 0.1            # type: ignore[index]
        population.reload()
        populations.append(population)
    for _ in range(2):
        torch.testing.assert_close(*(population.step(scaled, X) for population in populations))


def scaled(model: nn.Module, batch: Tensor) -> Tensor:
    return loss(model, batch) * model.scale     # type: ignore[operator]


class Cooling(Toy):
    """A module of the user's own, whose attribute the end of an iteration moves, for all alike."""

    class Cool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = 2.0

        def forward(self, x: Tensor) -> Tensor:
            return x / self.temperature

    def build(self, config: Any) -> nn.Module:
        model = super().build(config)
        assert isinstance(model, nn.Sequential)
        return model.append(self.Cool())

    def on_iteration_end(self, metrics: Any) -> None:
        self.model[-1].temperature *= 0.5       # type: ignore[index,operator]


class Batchnorm(Toy):
    def build(self, config: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def on_iteration_end(self, metrics: Any) -> None:
        self.model[1].momentum *= 0.5   # type: ignore[index,operator]


@pytest.mark.parametrize("cls", [Cooling, Batchnorm])
def test_an_attribute_that_all_change_alike_is_the_stack_s_too(cls: type[Toy]) -> None:
    fused, _, engine = together(cls)
    assert engine.stacks() == [5]
    same(fused, alone(cls))


class Slope(Toy):
    class Leaky(nn.Module):
        def __init__(self, slope: float) -> None:
            super().__init__()
            self.slope = slope

        def forward(self, x: Tensor) -> Tensor:
            return F.leaky_relu(x, self.slope)

    def build(self, config: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), self.Leaky(config["slope"]), nn.Linear(8, 3))


def test_others_of_the_same_structure_that_come_later_have_their_own_attributes() -> None:
    """First three that agree in 0.1, then three that agree in 0.6: the second have not the first ones' model."""
    configs: Configs = [{"lr": 0.01 * (1 + k), "slope": 0.1 if k < 3 else 0.6} for k in range(6)]
    engine = Engine(strategy="vmap")
    trained = runners(Slope, configs)
    found = []
    for part in (trained[:3], trained[3:]):
        looks = [engine.advance(part) for _ in range(2)]
        for runner in part:
            found.append([look[runner] for look in looks])
            engine.leave(runner)
    same(found, alone(Slope, configs, 2))

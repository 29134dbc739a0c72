"""Fused equals alone: losses and outputs, in training and in eval mode, for every kind of layer.

Not by parameters: a bias before a normalization has a gradient of zero, and Adam makes full steps of the rounding in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchtune_hp.population.population import Population

from .models import LAYERS, RANDOM, Make, images, resnet18

STEPS = 5


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def outputs(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0])


def made(
    make: Make, batch: Callable[[], Tensor], k: int, dtype: torch.dtype, steps: int
) -> tuple[list[nn.Module], list[tuple[Tensor, Tensor]]]:
    """k members with weights of their own, lazy ones shaped, and the batches of all steps: (k, n, ...) each."""
    torch.manual_seed(1)
    models = []
    for _ in range(k):
        model = make()
        with torch.no_grad():
            model.eval()(batch())
        models.append(model.to(dtype))
    torch.manual_seed(2)
    drawn = []
    for _ in range(steps):
        x = torch.stack([batch() for _ in range(k)])
        x = x.to(dtype) if x.is_floating_point() else x
        drawn.append((x, torch.randint(0, 3, x.shape[:2])))
    return models, drawn


def trained(models: list[nn.Module], batches: list[tuple[Tensor, Tensor]], strategy: str) -> tuple[Tensor, Tensor, Population]:
    """Losses of all steps (steps, k), and outputs in eval mode after them (k, n, 3)."""
    torch.manual_seed(3)
    rates = [0.01 * (1 + place) for place in range(len(models))]
    optimizers = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=lr, momentum=0.5) for m, lr in zip(models, rates)]
    population = Population(models, optimizers, strategy=strategy)
    losses = torch.stack([population.step(loss_fn, batch, in_dims=0) for batch in batches])
    return losses, population.evaluate(outputs, batches[0], in_dims=0), population


def check(make: Make, batch: Callable[[], Tensor], dtype: torch.dtype, k: int = 3, steps: int = STEPS) -> None:
    models, batches = made(make, batch, k, dtype, steps)
    alone = copy.deepcopy(models)
    losses, out, population = trained(models, batches, "vmap")
    theirs, theirs_out, _ = trained(alone, batches, "loop")
    bound = {"rtol": 1e-8, "atol": 1e-8} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(losses, theirs, **bound)
    torch.testing.assert_close(out, theirs_out, **bound)
    for fused, other in zip(population.unstack(), alone):
        for (name, one), (_, two) in zip(fused.named_buffers(), other.named_buffers()):
            torch.testing.assert_close(one, two, msg=lambda text, name=name: f"{name}: {text}", **bound)
        ordinary = fused.eval()(batches[0][0][0]), other.eval()(batches[0][0][0])
        torch.testing.assert_close(*ordinary, **bound)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_fused_equals_alone(name: str, dtype: torch.dtype) -> None:
    check(*LAYERS[name], dtype)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", RANDOM)
def test_a_layer_that_draws_fused_equals_alone(name: str) -> None:
    check(*RANDOM[name], torch.float64)


def test_resnet18_fused_equals_alone() -> None:
    check(resnet18, lambda: images(4).repeat(1, 1, 4, 4), torch.float64, k=2, steps=2)

"""What an update of a member costs a CPU beside a step of a stack, and which widths and activations share one for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchtune_hp.population.activations import may_join
from torchtune_hp.population.costs import OF_PARAMETER, OF_PRODUCT, OF_UNIT, cost
from torchtune_hp.population.padding import roomy, rounded


def mlp(*widths: int) -> nn.Module:
    sizes = [9, *widths, 1]
    layers = [part for n, m in zip(sizes, sizes[1:]) for part in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def floors(batch: int, *widths: int) -> tuple[int, ...]:
    """The widest with which each of the widths may share a stack on a CPU."""
    found = roomy(mlp(*widths), "cpu", batch)
    return tuple([size for (_, attribute), size in found.items() if attribute == "out_features"])


def test_a_cost_follows_from_layers_widths_and_the_batch() -> None:
    wide = cost(mlp(20), {("0", "out_features"): 32, ("2", "in_features"): 32}, 8)
    assert wide == cost(mlp(32), {}, 8) == pytest.approx(353 * (OF_PARAMETER + 8 * OF_PRODUCT) + 33 * 8 * OF_UNIT)
    assert cost(nn.Embedding(10, 4), {}, 8) == pytest.approx(40 * OF_PARAMETER + 32 * OF_UNIT)
    assert cost(nn.Sequential(nn.Linear(4, 4), nn.Conv2d(3, 3, 3)), {}, 8) is None
    assert cost(mlp(64), {}, 64) < cost(mlp(64, 64), {}, 64) < cost(mlp(64, 64), {}, 128)  # type: ignore[operator]


def test_light_members_share_a_stack_with_wider_ones() -> None:
    assert floors(8, 16, 32) == floors(8, 128, 16) == (128, 128) and floors(256, 16, 32) == (64, 64)
    assert floors(8, 512, 16) == (512, 64) and floors(8, 512, 512) == (512, 512)
    assert floors(8, 5) == floors(8, 512) == (512,) and floors(8, 513) == (1024,)


def test_of_other_layers_a_floor_is_known() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 100, 3), nn.ReLU(), nn.Flatten(), nn.Linear(100, 2))
    assert set(roomy(model, "cpu", 8).values()) == {64, 128}
    assert set(roomy(model, "cuda", 8).values()) == {512}


def joins(model: nn.Module, device: str, batch: int) -> bool:
    return may_join(model, device, batch, rounded(model, torch.optim.SGD(model.parameters()), device, batch))


def test_what_shares_a_stack_shares_its_activations_or_not() -> None:
    assert joins(mlp(16, 16), "cpu", 64) and joins(mlp(256, 128), "cpu", 64) and not joins(mlp(512, 512), "cpu", 8)
    assert not joins(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), "cpu", 8) and joins(mlp(512, 512), "cuda", 8)
    for widths in ((16, 300), (512, 512), (64, 64), (200, 100)):
        model = mlp(*widths)
        label = rounded(model, torch.optim.SGD(model.parameters()), "cpu", 64)
        widest = mlp(*[label[str(2 * k), "out_features"].size for k in range(2)])
        assert rounded(widest, torch.optim.SGD(widest.parameters()), "cpu", 64) == label
        assert joins(model, "cpu", 64) == joins(widest, "cpu", 64)

"""What a tensor says of its own gradient in a stack is what it says of the member alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchtune_hp.population import compiled
from torchtune_hp.population.population import Population, Strategy

X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.frozen = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.two(self.one(x).tanh()))  # type: ignore[no-any-return]


def population(strategy: Strategy, k: int = 3) -> Population:
    models: list[nn.Module] = []
    for seed in range(k):
        torch.manual_seed(seed)
        models.append(Net().double())
    return Population(models, [torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1) for model in models],
                      strategy=strategy)  # fmt: skip


def penalized(model: Any, x: Tensor) -> Tensor:
    return model(x).square().mean() + sum(p.square().sum() for p in model.parameters() if p.requires_grad)  # type: ignore[no-any-return]


def of_parameters(model: Any, x: Tensor) -> Tensor:
    held = [p for p in vars(model.two)["_parameters"].values() if isinstance(p, nn.Parameter) and p.is_leaf and p.grad_fn is None]
    return model(x).square().mean() + sum(p.square().sum() for p in held)  # type: ignore[no-any-return]


def of_activations(model: Any, x: Tensor) -> Tensor:
    h = model.one(x)
    with torch.no_grad():
        still = model.one(x)
    weight = 1.0 * h.requires_grad + 2.0 * (h.grad_fn is not None) + 4.0 * h.is_leaf + 8.0 * still.requires_grad + 16.0 * x.requires_grad
    return model(x).square().mean() + weight * h.square().mean()  # type: ignore[no-any-return]


@pytest.mark.parametrize("loss", [penalized, of_parameters, of_activations])
def test_a_branch_on_it_is_taken_as_alone(loss: Callable[[Any, Tensor], Tensor]) -> None:
    stacked, single = population("vmap"), population("loop")
    for _ in range(2):
        torch.testing.assert_close(stacked.step(loss, X), single.step(loss, X), rtol=1e-12, atol=0)


def test_and_in_what_is_traced_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    stacked, single = population("compile", compiled.LEAST), population("loop", compiled.LEAST)
    torch.testing.assert_close(stacked.step(of_activations, X), single.step(of_activations, X), rtol=1e-12, atol=0)


def test_without_gradients_a_parameter_still_says_that_it_is_trained() -> None:
    def trained(model: Any, x: Tensor) -> Tensor:
        return torch.tensor([float(p.requires_grad) for p in model.parameters()]) + float(model(x).requires_grad)

    assert population("vmap").evaluate(trained, X).tolist() == population("loop").evaluate(trained, X).tolist() == [[1, 1, 1, 1, 0, 0]] * 3


def hooked(model: Any, x: Tensor) -> Tensor:
    h = model.one(x)
    h.register_hook(lambda gradient: gradient * 0.1)
    return model.two(h).square().mean()  # type: ignore[no-any-return]


def freezing(model: Any, x: Tensor) -> Tensor:
    for parameter in model.one.parameters():
        parameter.requires_grad = False
    return model(x).square().mean()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("loss", "why"), [(hooked, "register_hook"), (freezing, "requires_grad is set")])
def test_what_would_reach_one_member_s_gradient_is_refused(loss: Callable[[Any, Tensor], Tensor], why: str) -> None:
    with pytest.raises(RuntimeError, match=why):
        population("vmap").step(loss, X)


def test_a_parameter_that_a_forward_pass_keeps_stays_out_of_the_stack_s_model() -> None:
    def keeping(model: Any, x: Tensor) -> Tensor:
        model.kept = model.one.weight
        return model(x).square().mean() + model.kept.sum()  # type: ignore[no-any-return]

    stacked = population("vmap")
    stacked.step(keeping, X)
    stacked.step(keeping, X)
    assert "kept" not in dict(stacked._rows.model.named_parameters())  # type: ignore[union-attr]

"""What may share a stack, and what keeps two members apart, by name."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from torchtune_hp.population.signature import Signature, difference, lifted, signature
from torchtune_hp.population.stack import Stack

from .models import LAYERS


def of(model: nn.Module, kind: type[torch.optim.Optimizer] = torch.optim.Adam, **options: object) -> Signature:
    return signature(model, kind(model.parameters(), **{"lr": 0.1, **options}))


def mlp(width: int = 4, activation: nn.Module | None = None, p: float = 0.1) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), activation or nn.ReLU(), nn.Dropout(p), nn.Linear(width, 2))


@pytest.mark.parametrize("name", LAYERS)
def test_two_of_a_kind_share(name: str) -> None:
    make, batch = LAYERS[name]
    one, other = make(), make()
    for model in (one, other):
        with torch.no_grad():
            model.eval()(batch())
    assert difference(of(one), of(other)) is None


def test_numbers_of_the_optimizer_and_dropout_s_p_may_differ() -> None:
    one = of(mlp(p=0.1), lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    assert one == of(mlp(p=0.7), lr=1e-5, betas=(0.5, 0.9), weight_decay=0.3, eps=1e-3)
    assert lifted(mlp(p=0.7)) == {("2", "p"): 0.7}


RESPONSES = [{"alpha": 0.1, "beta": 0.5, "k": 1.0}, {"alpha": 0.7, "beta": 0.9, "k": 2.0}, {"alpha": 0.1, "beta": 0.75, "k": 1.5}]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_lifted_gives_each_member_what_it_has_alone(dtype: torch.dtype) -> None:
    def made(place: int) -> nn.Module:
        torch.manual_seed(place)
        layers = nn.Conv2d(3, 4, 3), nn.LocalResponseNorm(3, **RESPONSES[place]), nn.Flatten(), nn.Linear(144, 2)
        return nn.Sequential(*layers).to(dtype)

    models, batch = [made(place) for place in range(3)], torch.randn(5, 3, 8, 8, dtype=dtype)
    assert of(models[0]) == of(models[1])
    single = [copy.deepcopy(model) for model in models]
    stack = Stack([(model, torch.optim.SGD(model.parameters(), lr=0.5)) for model in models])
    losses, _ = stack.step(lambda model, x: model(x).square().mean(), batch, None, torch.zeros(3, dtype=torch.int64))
    assert losses.dtype is dtype
    bound = {"rtol": 1e-8, "atol": 1e-8} if dtype is torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    for place, model in enumerate(single):
        loss = model(batch).square().mean()
        torch.testing.assert_close(losses[place], loss.detach(), **bound)
        before = list(model.parameters())
        for trained, old, gradient in zip(stack.dump(place)[0].parameters(), before, torch.autograd.grad(loss, before)):
            torch.testing.assert_close(trained.detach(), old.detach() - 0.5 * gradient, **bound)


class Functional(nn.Module):
    def __init__(self, activation: Callable[..., object], **more: object) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.activation = activation
        for name, value in more.items():
            setattr(self, name, value)


def scaled(by: float) -> Callable[[float], float]:
    return lambda x: by * x


CASES: dict[str, tuple[Callable[[], Signature], Callable[[], Signature], str]] = {
    "width": (lambda: of(mlp(4)), lambda: of(mlp(5)), "0.out_features: 4 and 5"),
    "class": (lambda: of(mlp()), lambda: of(mlp(activation=nn.Tanh())), "1: ReLU and Tanh"),
    "attribute": (
        lambda: of(mlp(activation=nn.LeakyReLU(0.1))), lambda: of(mlp(activation=nn.LeakyReLU(0.2))), "1.negative_slope: 0.1 and 0.2"
    ),
    "depth": (lambda: of(mlp()), lambda: of(nn.Sequential(*mlp(), nn.ReLU())), "4: none and ReLU"),
    "dtype": (lambda: of(mlp()), lambda: of(mlp().double()), "kind of 0.weight"),
    "frozen": (lambda: of(mlp()), lambda: of(mlp().requires_grad_(False)), "kind of 0.weight"),
    "optimizer": (lambda: of(mlp()), lambda: of(mlp(), torch.optim.SGD), "the optimizer: Adam and SGD"),
    "flag": (lambda: of(mlp()), lambda: of(mlp(), amsgrad=True), "flags of param_groups[0]"),
    "closure": (lambda: of(Functional(scaled(1.0))), lambda: of(Functional(scaled(2.0))), "activation"),
    "partial": (
        lambda: of(Functional(functools.partial(torch.add, 1))), lambda: of(Functional(functools.partial(torch.add, 2))), "activation"
    ),
    "tensor": (
        lambda: of(Functional(abs, scale=torch.tensor(1.0))), lambda: of(Functional(abs, scale=torch.tensor(2.0))), "scale"
    ),
    "bool": (lambda: of(Functional(abs, flag=True)), lambda: of(Functional(abs, flag=False)), "flag: True and False"),
    "list": (lambda: of(Functional(abs, sizes=[1, 2])), lambda: of(Functional(abs, sizes=[1, 3])), "sizes"),
    "object": (lambda: of(Functional(abs, thing=object())), lambda: of(Functional(abs, thing=object())), "thing: an object of object and"),
}   # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_differs_is_named(case: str) -> None:
    one, other, named = CASES[case]
    found = difference(one(), other())
    assert found is not None and found.startswith(named), found


def test_what_is_equal_by_value_shares() -> None:
    def sized(scale: float) -> nn.Module:
        return Functional(scaled(2.0), sizes=[1, (2, {"a": 3})], scale=torch.tensor([scale, 2.0]), names={"x", "y"}, kind=nn.ReLU, fn=abs)

    assert difference(of(sized(1.0)), of(sized(1.0))) is None
    assert difference(of(sized(1.0)), of(sized(1.5))) is not None


def test_a_function_that_holds_itself_can_be_compared() -> None:
    def recursive(n: int) -> Callable[[int], int]:
        def call(k: int) -> int:
            return 0 if k == 0 else n + call(k - 1)

        return call

    assert difference(of(Functional(recursive(1))), of(Functional(recursive(1)))) is None
    assert difference(of(Functional(recursive(1))), of(Functional(recursive(2)))) is not None


def test_tied_parameters_are_told_from_equal_ones() -> None:
    def pair(tied: bool) -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        if tied:
            model[1].weight = model[0].weight
        return model

    assert "1.weight" in str(difference(of(pair(True)), of(pair(False))))


def test_which_parameters_a_group_holds_is_part_of_it() -> None:
    model, other = mlp(), mlp()
    one = signature(model, torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[3].parameters(), "lr": 1.0}], lr=0.1))
    two = signature(other, torch.optim.SGD([{"params": other[3].parameters()}, {"params": other[0].parameters(), "lr": 1.0}], lr=0.1))
    assert str(difference(one, two)).startswith("parameters of param_groups[0]")

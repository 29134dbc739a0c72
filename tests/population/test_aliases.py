"""A parameter that is held a second time is one member's in a stack: such members are trained one by one, and what holds it is named."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchtune_hp.population.population import Population

from .test_engine import Toy, alone, same, together

X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """`decayed`: what is penalized."""

    decayed: Any = ()

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class Listed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.decayed = [("weight", self.net[0].weight)]


class Closed(Net):
    def __init__(self) -> None:
        super().__init__()
        weight = self.net[2].weight
        self.decayed = lambda: [(weight,)]


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.gain = gain = nn.Parameter(torch.rand(5))
        self.net[1].register_forward_hook(lambda module, given, out: out * gain)


class Buffered(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))
        self.kept = {"mean": self.mean}


CASES = {
    Listed: r"model\.decayed holds model\.net\[0\]\.weight", Closed: r"model\.decayed holds model\.net\[2\]\.weight",
    Hooked: r"a hook on model\.net\[1\] holds model\.gain", Buffered: r"model\.kept holds model\.mean",
}  # fmt: skip


def members(kind: type[nn.Module], k: int = 3) -> tuple[list[nn.Module], list[torch.optim.Optimizer]]:
    models: list[nn.Module] = []
    for seed in range(k):
        torch.manual_seed(seed)
        models.append(kind().double())
    return models, [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]


def loss(model: Any, x: Tensor) -> Tensor:
    decayed = model.decayed() if callable(model.decayed) else model.decayed
    return model(x).square().mean() + sum(p[-1].square().sum() for p in decayed)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", list(CASES))
def test_a_parameter_in_a_second_place_is_named(kind: type[nn.Module]) -> None:
    found, expected = Population(*members(kind)), Population(*members(kind), strategy="loop")
    for _ in range(2):
        torch.testing.assert_close(found.step(loss, X), expected.step(loss, X), rtol=0, atol=0)
    with pytest.raises(ValueError, match=CASES[kind]):
        Population(*members(kind), strategy="vmap")
    assert found.reason.startswith("one by one: ")


class Tied(Net):
    """Registered twice, and held weakly: looked up in its own place."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.ParameterList([self.net[0].weight])
        self.reference = weakref.ref(self.net[0].weight)
        self.cells = nn.LSTM(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(super().forward(x))[0] * self.again[0].sum()  # type: ignore[no-any-return]


def test_what_is_registered_twice_or_held_weakly_is_stacked() -> None:
    found, expected = (Population(*members(Tied), strategy=strategy) for strategy in ("vmap", "loop"))  # type: ignore[arg-type]
    for _ in range(2):
        torch.testing.assert_close(found.step(loss, X), expected.step(loss, X), rtol=1e-10, atol=0)


class OnSelf(Toy):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.groups = {"decayed": list(self.model.parameters())}

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, batch) + 0.01 * sum(p.square().sum() for p in self.groups["decayed"])


class Unread(OnSelf):
    training_step = Toy.training_step


def test_a_hook_that_reads_parameters_from_self_is_not_shared_and_what_is_not_read_makes_no_difference() -> None:
    fused, said, engine = together(OnSelf)
    assert not engine.stacks() and "reads self.groups, which holds one trial's self.model" in said[0], said
    same(fused, alone(OnSelf))
    assert together(Unread)[2].stacks()

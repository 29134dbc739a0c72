"""What a call does in Python, in a population: once for all members where they are a stack, so there it may do nothing."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.population.foreign import Draws
from torchtune_hp.population.population import Population

from .test_own_code import Cache

X, Y = torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(12) % 3


class Net(nn.Module):
    """Follows itself in place with a frozen teacher, counts in a buffer, and has a layer that no loss depends on."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.teacher, self.unused = nn.Linear(6, 3), nn.Linear(6, 3).requires_grad_(False), nn.Linear(2, 2)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("late", None)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.teacher.weight.mul_(0.5).add_(0.5 * self.layer.weight)
        self.count += 1     # type: ignore[operator]
        return (self.layer(x) - self.teacher(x)) * self.factor(x)  # type: ignore[no-any-return]

    def factor(self, x: Tensor) -> Any:
        return 1.0


class Counting(Net):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.calls: Any = 0

    def factor(self, x: Tensor) -> float:
        self.calls += self.training
        return min(1.0, self.calls / 3)


class CountingLate(Counting):
    """The rows of a short batch only."""

    def factor(self, x: Tensor) -> float:
        self.calls += self.training and len(x) < 12
        return 1.0 / (1 + self.calls)


class Making(Net):
    """A buffer, at its first call."""

    def factor(self, x: Tensor) -> Any:
        self.late = (0.0 if self.late is None else self.late) + self.layer.weight.detach().mean()
        return 1.0 + self.late


class Drawing(Net):
    def factor(self, x: Tensor) -> float:
        return 0.5 + float(np.random.randn())


class Tabling(Net):
    """Its tables, by length, are of its own buffer."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.register_buffer("own", torch.tensor(seed + 1.0, dtype=torch.float64))
        self.tables: dict[int, Any] = {}

    def factor(self, x: Tensor) -> Any:
        if len(x) not in self.tables:
            self.tables[len(x)] = self.own * torch.arange(3)
        return self.tables[len(x)]


class DrawingInPython(Net):
    def factor(self, x: Tensor) -> float:
        return 0.5 + random.random()


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0].mul_(0.9)), batch[1])


def made(kind: Callable[[int], nn.Module], strategy: Any, k: int = 4) -> Population:
    models = [kind(place) for place in range(k)]
    return Population(models, [torch.optim.AdamW(model.parameters(), lr=0.1) for model in models], strategy=strategy)


def played(kind: Callable[[int], nn.Module], strategy: Any) -> tuple[str, list[Any]]:
    """Two batches, of which the second is shorter; each member's own, and written in place."""
    random.seed(0), np.random.seed(0)
    found, x = made(kind, strategy), X.repeat(4, 1, 1)
    losses = []
    for n in (12, 12, 5, 12):
        losses.append(found.step(loss, (x[:, :n], Y.repeat(4, 1)[:, :n]), in_dims=0))
    models = found.unstack()
    held = [{**model.state_dict(), "calls": torch.as_tensor(getattr(model, "calls", 0))} for model in models]
    return found.reason, [losses, held, x, torch.as_tensor(np.random.rand()), torch.as_tensor(random.random())]


ONCE: dict[type[Net], str] = {
    Counting: "a call changes calls of the model, of which there is one. What a buffer counts is each member's own",
    CountingLate: "a call changes calls of the model, of which there is one. What a buffer counts is each member's own",
    Tabling: "a call changes tables of the model, of which there is one. What a buffer counts is each member's own",
    Making: "a call makes late of the model, a buffer that is not there before. One that begins as a tensor is each member's own",
    Drawing: "loss_fn draws from random or numpy. What is drawn from torch is each member's own",
    DrawingInPython: "loss_fn draws from random or numpy. What is drawn from torch is each member's own",
}


@pytest.mark.parametrize("kind", ONCE)
def test_what_python_would_do_once_for_all_is_done_one_by_one_and_nothing_is_trained_twice(kind: type[Net]) -> None:
    reason, fused = played(kind, "auto")
    assert reason == f"one by one: {ONCE[kind]}"
    torch.testing.assert_close(fused, played(kind, "loop")[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [Counting, Drawing, Making])
def test_where_it_must_be_a_stack_it_is_refused_and_nothing_has_changed(kind: type[Net]) -> None:
    found, x = made(kind, "vmap"), X.clone()
    before, draws = copy.deepcopy([model.state_dict() for model in found.unstack()]), Draws()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=f'strategy="vmap" cannot be kept: {ONCE[kind]}. Let it be "auto"'):
            found.step(loss, (x, Y))
    torch.testing.assert_close([model.state_dict() for model in found.unstack()], before, rtol=0, atol=0)
    assert torch.equal(x, X) and not draws.moved()


def test_what_does_nothing_of_the_kind_stays_a_stack() -> None:
    reason, fused = played(Net, "auto")
    assert reason == "4 at once"
    torch.testing.assert_close(fused, played(Net, "loop")[1], rtol=1e-10, atol=1e-10)


def test_a_cache_that_is_filled_is_no_memory() -> None:
    def cached(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Cache().double()

    fused, alone = made(cached, "vmap"), made(cached, "loop")
    for n in (12, 12, 5, 12):
        batch = X[:n], Y[:n]
        one, other = (found.step(lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), batch) for found in (fused, alone))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_two_that_counted_are_no_stack_when_a_third_joins() -> None:
    found = made(Counting, "auto", 2)
    for _ in range(4):
        found.step(loss, (X.clone(), Y))
    late = Counting(7)
    found.add(late, torch.optim.AdamW(late.parameters(), lr=0.1))
    found.step(loss, (X.clone(), Y))
    assert found.reason == "one by one: member 2 and the first now differ in calls: 4 and 0"
    assert [model.calls for model in found.unstack()] == [5, 5, 1]

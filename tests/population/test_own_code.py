"""Models and trainables that are anybody's code: kinds that change and come back, what cannot be copied or compared, what is counted."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchtune_hp as hp

from .test_engine import Toy, X, Y, alone, same, together

# Kinds that change, and come back -----------------------------------------------------------------------------------------------


class Changing(Toy):
    """Is of another kind in iterations 3 and 4."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.done, self.phase = 0, "first"

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        self.done += 1
        self.turn(self.done in (2, 3))

    def turn(self, away: bool) -> None:
        raise NotImplementedError


class BatchSize(Changing):
    def turn(self, away: bool) -> None:
        self.batch_size = 32 if away else 16


class Accumulate(Changing):
    def turn(self, away: bool) -> None:
        self.accumulate = 2 if away else 1


class Frozen(Changing):
    def turn(self, away: bool) -> None:
        self.model[0].requires_grad_(not away)

    def optimize(self, config: Any) -> torch.optim.Optimizer:       # Adam's parameters would have made different steps
        return torch.optim.SGD(self.model.parameters(), lr=config["lr"])


class Phase(Changing):
    def turn(self, away: bool) -> None:
        self.phase = "second" if away else "first"

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, batch) * (1 if self.phase == "first" else 2)


@pytest.mark.parametrize("cls", [BatchSize, Accumulate, Frozen, Phase])
def test_who_leaves_a_kind_and_comes_back_goes_on_from_what_it_was_trained_to(cls: type[Toy]) -> None:
    fused, said, engine = together(cls, n=7)
    assert engine.stacks() == [5], said
    same(fused, alone(cls, n=7))


# What cannot be copied or compared ----------------------------------------------------------------------------------------------


class Own(nn.Module):
    """Holds anything, which the forward does not need."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)
        self.held = held(self) if callable(held) else held

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x)))  # type: ignore[no-any-return]


def in_itself() -> list[Any]:
    held: list[Any] = []
    held.append(held)
    return held


HELD: dict[str, Callable[[], Any]] = {
    "a lock": threading.Lock,
    "a tensor with a history": lambda: lambda model: model.one.weight * 2,
    "a sparse tensor": lambda: torch.eye(6).to_sparse(),
    "a tensor without content": lambda: torch.empty(3, device="meta"),
    "a list that holds itself": in_itself,
}


@pytest.mark.parametrize("what", HELD)
def test_a_model_that_holds_what_cannot_be_copied_or_compared_is_trained_all_the_same(what: str) -> None:
    class Holding(Toy):
        def build(self, config: Any) -> nn.Module:
            return Own(HELD[what]())

    fused, _, _ = together(Holding)
    same(fused, alone(Holding))


def test_a_buffer_that_is_sparse_is_no_obstacle() -> None:
    class Sparse(Toy):
        def build(self, config: Any) -> nn.Module:
            model = Own(None)
            model.register_buffer("adjacency", torch.eye(6).to_sparse())
            return model

    fused, said, _ = together(Sparse)
    same(fused, alone(Sparse))
    assert any("trained one by one" in text for text in said)


class Key(enum.Enum):
    ONE = 1
    TWO = 2


class Keyed(Toy):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.table = {Key.ONE: config["alpha"], Key.TWO: config["alpha"] + 1, 3: 1.0}

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, batch) * (1 + self.table[Key.ONE] * self.table[Key.TWO] * self.table[3])


class Anchored(Toy):
    """Stays near the weights of its first step."""

    @cached_property
    def anchor(self) -> torch.Tensor:
        return self.model[0].weight.detach().clone()  # type: ignore[no-any-return]

    def training_step(self, model: Any, batch: Any) -> Any:
        return super().training_step(model, batch) + (model[0].weight - self.anchor).square().sum()


def test_keys_of_any_type_are_read_as_others_are() -> None:
    fused, said, engine = together(Keyed)
    assert engine.stacks() == [5], said
    same(fused, alone(Keyed))


def test_a_property_that_is_kept_is_kept_by_each() -> None:
    fused, said, engine = together(Anchored)
    assert not engine.stacks() and any("trained one by one" in text for text in said)
    same(fused, alone(Anchored))


# Names that not all configs have ------------------------------------------------------------------------------------------------


class Get(Toy):
    def training_step(self, model: Any, batch: Any) -> Any:
        return super().training_step(model, batch) + self.hparams.get("aux", 0.0) * model[0].weight.square().sum()


class Within(Toy):
    def training_step(self, model: Any, batch: Any) -> Any:
        loss = super().training_step(model, batch)
        return loss + self.hparams["aux"] * model[0].weight.square().sum() if "aux" in self.hparams else loss


class Nested(Toy):
    def training_step(self, model: Any, batch: Any) -> Any:
        loss = super().training_step(model, batch)
        return loss + self.hparams["net"]["aux"] * model[0].weight.square().sum() if "net.aux" in self.hparams else loss


class Each(Toy):
    def training_step(self, model: Any, batch: Any) -> Any:
        return super().training_step(model, batch) + sum(0.1 for name in self.hparams if name == "aux")


@pytest.mark.parametrize("cls", [Get, Within, Nested, Each])
@pytest.mark.parametrize("first", [True, False], ids=["the first without", "the first with"])
def test_who_has_a_number_that_others_lack_is_trained_with_it_whoever_is_first(cls: type[Toy], first: bool) -> None:
    without: list[dict[str, Any]] = [{"lr": 0.01, "p": 0.1, "net": {"beta": 0.1}}] * 3
    having = [{"lr": 0.01, "p": 0.1, "aux": 0.1 + 0.1 * k, "net": {"beta": 0.1, "aux": 0.1 + 0.1 * k}} for k in range(3)]
    configs = [*without, *having] if first else [*having, *without]
    fused, said, engine = together(cls, configs)
    same(fused, alone(cls, configs))
    assert sorted(engine.stacks()) == [3, 3], said
    assert any("the hooks read self.hparams" in text for text in said), said


# What is counted in Python ------------------------------------------------------------------------------------------------------


class Count(nn.Module):
    """Behaves otherwise from its 7th call on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(6, 3), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return self.layer(x) / (1.0 if self.calls <= 6 else 0.5)  # type: ignore[no-any-return]


@dataclass
class Out:
    logits: torch.Tensor


class Cache(nn.Module):
    """Makes tables as they are needed, keeps the activations of its last call, and has a layer that no loss depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.loop: list[Any] = []
        self.loop += [[self.loop, self.loop] for _ in range(9)]
        self.layer, self.scale, self.length = nn.Linear(6, 3), None, 0
        self.tables: dict[int, torch.Tensor] = {}
        self.table = torch.ones(0, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.length == 0:
            self.length = x.shape[-1]
        if len(x) not in self.tables:       # of the last batch of a pass, too
            self.tables[len(x)] = torch.ones(self.length, dtype=torch.float64)
        if len(self.table) < len(x):
            self.table = torch.ones(len(x), 1, dtype=torch.float64)
        self.last = Out(F.relu(self.layer(x * self.tables[len(x)]) * self.table[: len(x)]))
        self.detached = self.last.logits.detach()
        return self.last.logits


def of(make: Callable[[], nn.Module]) -> type[Toy]:
    class Made(Toy):
        def build(self, config: Any) -> nn.Module:
            return make()

    return Made


def test_a_module_that_counts_its_calls_is_trained_one_by_one_and_the_way_out_is_said() -> None:
    fused, said, engine = together(of(Count))
    assert not engine.stacks() and len(said) == 1 and "calls of the model" in said[0] and "buffer" in said[0]
    same(fused, alone(of(Count)))


class Kept(nn.Module):
    """Keeps a plain tensor: a running mean, one that validation reads, a count in place, a cache of what is a member's own."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.layer, self.what, self.kept = nn.Linear(6, 3), what, torch.zeros(3, dtype=torch.float64)
        self.basis: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer(x)
        if self.what == "basis":
            self.basis = self.layer.weight.detach().sum(1) if self.basis is None else self.basis
            return out + self.basis  # type: ignore[no-any-return]
        if self.what == "count" and self.training:
            self.kept += 1
        elif self.training:
            before = 0.9 * self.kept if self.what == "running" else 0.0
            self.kept = before + 0.1 * out.detach().mean(0)
        return out - self.kept.to(x.dtype) * (self.what == "count" or not self.training)  # type: ignore[no-any-return]


@pytest.mark.parametrize("what", ["running", "validation", "count", "basis"])
def test_a_plain_tensor_that_is_a_state_is_trained_one_by_one(what: str) -> None:
    fused, said, engine = together(of(lambda: Kept(what)))
    assert not engine.stacks() and len(said) == 1 and "of the model, of which there is one" in said[0], said
    same(fused, alone(of(lambda: Kept(what))))


def test_caches_that_are_filled_and_activations_that_are_kept_are_no_count() -> None:
    class Caching(Toy):
        def build(self, config: Any) -> nn.Module:
            return Cache()

        @classmethod
        def data(cls) -> hp.Data:
            return hp.Data((X[:60], Y[:60]), val=(X[64:], Y[64:]), batch_size=16, drop_last=False)

    fused, said, engine = together(Caching)
    assert engine.stacks() == [5], said
    same(fused, alone(Caching))


# A population in a loop of one's own --------------------------------------------------------------------------------------------


def thawed(place: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Its second layer has made a step less than its first: a stack cannot hold that."""
    torch.manual_seed(place)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for trains in (False, True):
        optimizer.zero_grad()
        model[1].requires_grad_(trains)
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def step(population: hp.Population) -> torch.Tensor:
    return population.step(lambda model, batch: model(batch).square().mean(), torch.ones(2, 4))


def test_parameters_of_one_group_that_made_different_steps_are_trained_one_by_one() -> None:
    models, optimizers = zip(*map(thawed, range(3)))
    population = hp.Population(models, optimizers)
    assert population.reason.startswith("one by one: ") and "same steps" in population.reason
    assert step(population).isfinite().all()
    with pytest.raises(hp.ConfigurationError, match='strategy="vmap" cannot be kept: .*same steps'):
        hp.Population(*zip(*map(thawed, range(3))), strategy="vmap")


def test_one_that_cannot_join_a_stack_makes_a_loop_of_it_or_leaves_it_as_it_was() -> None:
    def fresh(strategy: Any) -> hp.Population:
        torch.manual_seed(0)
        models = [nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)) for _ in range(3)]
        return hp.Population(models, [torch.optim.Adam(model.parameters(), lr=0.01) for model in models], strategy=strategy)

    population, single, strict = fresh("auto"), fresh("loop"), fresh("vmap")
    for each in (population, single, strict):
        step(each)
    population.add(*thawed(7))
    single.add(*thawed(7))
    assert len(population) == 4 and "same steps" in population.reason
    with pytest.raises(hp.ConfigurationError, match="same steps"):
        strict.add(*thawed(7))
    assert len(strict) == 3
    for _ in range(2):
        right = step(single)
        torch.testing.assert_close(step(population), right)
        torch.testing.assert_close(step(strict), right[:3])

"""What hooks change of a trial's own Python: it is seen and put back, and such trials are trained one by one, for the same numbers."""

from __future__ import annotations

import argparse
import itertools
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchtune_hp.population.belongings import Belongings, Changed, Drawn, UsedUp, Written
from torchtune_hp.population.group import Group
from torchtune_hp.population.reads import Reads as OfHooks
from torchtune_hp.population.seats import Refused
from torchtune_hp.population.sizes import Bench

from .test_engine import CONFIGS, Toy, alone, runners, same, together


class Ramp:
    """Grows at each call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *_: Any) -> float:
        self.calls += 1
        return min(1.0, self.calls / 9)


@dataclass(slots=True)
class Slots:
    calls: int = 0

    def __call__(self, *_: Any) -> float:
        self.calls += 1
        return self.calls / 9


class Meter:
    """Keeps what it was given."""

    def __init__(self) -> None:
        self.mean, self.each = 0.0, {}  # type: ignore[var-annotated]

    def __call__(self, loss: Tensor) -> float:
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        self.each[len(self.each)] = loss.detach()
        return 1.0


class Balanced(nn.Module):
    """Divides by a running mean of the loss, which it writes in place or anew."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones((), dtype=torch.float64))
        self.in_place = in_place

    def forward(self, loss: Tensor) -> Any:
        if self.in_place:
            self.mean.mul_(0.9).add_(0.1 * loss.detach())
        else:
            self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        return 1 / self.mean


def counter() -> Callable[..., float]:
    calls = 0

    def ramp(*_: Any) -> float:
        nonlocal calls
        calls += 1
        return min(1.0, calls / 9)

    return ramp


def table() -> Callable[..., float]:
    state = {"calls": 0}

    def ramp(*_: Any) -> float:
        state["calls"] += 1
        return min(1.0, state["calls"] / 9)

    return ramp


def average() -> Callable[[Tensor], Any]:
    mean: Any = None

    def balanced(loss: Tensor) -> Any:
        nonlocal mean
        mean = loss.detach() if mean is None else 0.9 * mean + 0.1 * loss.detach()
        return 1 / mean

    return balanced


def attribute() -> Callable[..., float]:
    def ramp(*_: Any) -> float:
        ramp.calls += 1     # type: ignore[attr-defined]
        return min(1.0, ramp.calls / 9)     # type: ignore[attr-defined, no-any-return]

    ramp.calls = 0      # type: ignore[attr-defined]
    return ramp


def generated() -> Iterator[float]:
    for number in itertools.count():
        yield min(1.0, number / 9)


def drawn(generator: Any) -> Callable[[Any], Any]:
    return lambda *_: float(generator.random())


CHANGED: dict[str, Callable[[], Any]] = {
    "an object that counts": Ramp,
    "one with slots": Slots,
    "one that keeps losses": Meter,
    "a module that writes a buffer": lambda: Balanced(True),
    "a module that replaces a buffer": lambda: Balanced(False),
    "a closure that counts": counter,
    "a closure over a dict": table,
    "a closure over a running mean": average,
    "an attribute of a function": attribute,
    "a partial": lambda: partial(Ramp(), 1),
    "random.Random": lambda: drawn(random.Random(3)),
    "numpy's generator": lambda: drawn(np.random.default_rng(3)),
    "numpy's old generator": lambda: drawn(np.random.RandomState(3)),
    "an iterator": lambda: partial(next, itertools.cycle([0.1, 0.5, 0.9])),
    "a generator": lambda: partial(next, generated()),
}


def factored(make: Callable[[], Any]) -> type[Toy]:
    class Factored(Toy):
        """Multiplies its loss by what something of its own makes of it."""

        def setup(self, config: Any) -> None:
            super().setup(config)
            self.factor = make()

        def training_step(self, model: nn.Module, batch: Any) -> Any:
            loss = super().training_step(model, batch)
            return loss * self.factor(*([] if isinstance(self.factor, partial) else [loss]))

    return Factored


@pytest.mark.parametrize("what", CHANGED)
def test_what_a_hook_changes_of_a_trial_s_own_is_each_trial_s_own(what: str) -> None:
    cls = factored(CHANGED[what])
    fused, said, engine = together(cls)
    same(fused, alone(cls))
    assert not engine.stacks() and len(said) == 1 and "trained one by one: a hook that runs once for many trials" in said[0], said
    assert "self.factor" in said[0]


@dataclass
class Settings:
    scale: float = 1.5
    names: dict[str, int] = field(default_factory=lambda: {str(number): number for number in range(999)})


class Tokenizer:
    """Makes its table when it is needed."""

    def __init__(self) -> None:
        self.words, self.table, self.known = {"a": 1, "b": 2}, None, {}     # type: ignore[var-annotated]

    def __call__(self, x: Tensor) -> Tensor:
        self.table = torch.ones(x.shape[-1], dtype=torch.float64) if self.table is None else self.table
        self.known["last"] = "a"
        return x * self.table * self.words["a"]


SHARED = {
    "settings": Settings(), "tokenizer": Tokenizer(), "numbers": np.arange(4.0), "namespace": argparse.Namespace(power=2),
    "criterion": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)), "teacher": nn.Linear(6, 3).double(),
}  # fmt: skip


class Reads(Toy):
    """Reads what all have in common."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        vars(self).update(SHARED)

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        x, y = batch
        own: Any = self
        with torch.no_grad():
            taught = own.teacher.eval()(x)
        scale = own.settings.scale * own.numbers[2] + own.settings.names["7"]
        return scale * own.criterion(model(own.tokenizer(x)), y) + (model(x) - taught).abs().pow(own.namespace.power).mean()


def test_what_is_only_read_is_stacked() -> None:
    fused, said, engine = together(Reads)
    same(fused, alone(Reads))
    assert engine.stacks() == [5] and not said


class Activations(Toy):
    """A forward hook fills a list, which the end of a step empties, or its beginning."""

    last = True

    def setup(self, config: Any) -> None:
        super().setup(config)
        activations: list[Tensor] = []
        self.activations = lambda: activations
        self.model[1].register_forward_hook(lambda module, given, found: activations.append(found))     # type: ignore[index]

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        if not self.last:
            self.activations().clear()
        loss = super().training_step(model, batch) + 0.1 * sum(each.square().mean() for each in self.activations())
        if self.last:
            self.activations().clear()
        return loss

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        found = super().validation_step(model, batch)
        self.activations().clear()
        return found


class First(Activations):
    last = False


@pytest.mark.parametrize(("cls", "stacks"), [(Activations, [5]), (First, [])])
def test_a_list_that_a_forward_hook_fills_is_the_one_that_the_trial_has(cls: type[Toy], stacks: list[int]) -> None:
    fused, said, engine = together(cls)
    same(fused, alone(cls))
    assert engine.stacks() == stacks and bool(stacks) != any("what a hook on model.1 holds" in text for text in said), said


LOSSES: list[Tensor] = []


class Global(Toy):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        loss = super().training_step(model, batch)
        LOSSES.append(loss.detach())
        return loss

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        metrics["sum"] = float(sum(LOSSES))
        LOSSES.clear()


def test_what_would_be_left_for_all_in_a_global_is_each_one_s() -> None:
    fused, said, engine = together(Global)
    same(fused, alone(Global))
    assert not engine.stacks() and "LOSSES" in said[0]


def test_measuring_a_stack_leaves_a_global_as_it_was() -> None:
    (runner,) = runners(Global, CONFIGS[:1])
    LOSSES.append(torch.ones(()))
    bench = Bench(runner)
    bench.alone()
    with pytest.raises(Changed, match="LOSSES"):
        bench(4)
    assert len(LOSSES) == 1
    LOSSES.clear()


class Later(Toy):
    """Counts from its second iteration on."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.ramp, self.begun = RAMPS[config["lr"]], False

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, batch) * (self.ramp() if self.begun else 1)

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        self.begun = True


RAMPS: dict[float, Ramp] = {}


def test_what_changes_later_is_seen_later() -> None:
    RAMPS.update({config["lr"]: Ramp() for config in CONFIGS})
    fused, said, engine = together(Later)
    RAMPS.update({config["lr"]: Ramp() for config in CONFIGS})
    same(fused, alone(Later))
    assert not engine.stacks() and "changes self.ramp" in said[-1]


class InValidation(Toy):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.ramp = counter()

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {"ramp": self.ramp(), **super().validation_step(model, batch)}


def test_what_a_validation_changes_is_changed_one_by_one() -> None:
    fused, said, engine = together(InValidation)
    same(fused, alone(InValidation))
    assert engine.stacks() == [5] and "validated one by one: Changed: a hook" in said[0] and "self.ramp" in said[0]


class OnModel(nn.Module):
    """Holds what the hooks of all trials call."""

    def __init__(self, factor: Any) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(6, 3), factor

    def forward(self, x: Tensor) -> Any:
        return self.layer(x) * self.factor() if self.training else self.layer(x)


@pytest.mark.parametrize("make", [counter, Ramp])
def test_what_a_call_changes_of_what_the_model_holds_is_each_one_s(make: Callable[[], Any]) -> None:
    class Holding(Toy):
        def build(self, config: Any) -> nn.Module:
            return OnModel(make())

    fused, said, engine = together(Holding)
    same(fused, alone(Holding))
    assert not engine.stacks() and "model.factor" in said[0]


# By itself ----------------------------------------------------------------------------------------------------------------------


class Anything:
    def __init__(self, **held: Any) -> None:
        vars(self).update(held)


HELD: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "list": ([1, [2]], lambda held: held[1].append(3)),
    "deque": (deque([1]), lambda held: held.appendleft(3)),
    "set": ({1}, lambda held: held.add(2)),
    "ordered": (OrderedDict(a=1, b=2), lambda held: held.pop("a")),
    "counter": (Counter("a"), lambda held: held.update("b")),
    "tensor": (torch.zeros(2), lambda held: held.add_(1)),
    "gradient": (torch.zeros(2, requires_grad=True), lambda held: held.sum().backward()),
    "array": (np.zeros(2), lambda held: held.fill(1)),
    "tuple": (([1],), lambda held: held[0].clear()),
    "object": (Anything(a=Anything(b=1)), lambda held: setattr(held.a, "b", 2)),
    "new number": (Anything(), lambda held: setattr(held, "b", 2)),
    "lost": (Anything(b=1), lambda held: delattr(held, "b")),
    "generator": (torch.Generator(), lambda held: torch.rand(1, generator=held)),
}


def told(held: Any) -> Any:
    if isinstance(held, Anything):
        return {name: told(part) for name, part in vars(held).items()}
    if isinstance(held, torch.Generator):
        return held.get_state().tolist()
    return str(list(held) if isinstance(held, OrderedDict) else (held, getattr(held, "grad", None)))


@pytest.mark.parametrize("what", HELD)
def test_a_change_is_seen_and_put_back(what: str) -> None:
    held, change = HELD[what]
    before = told(held)
    belongings = Belongings()
    belongings.note("it", held)
    assert belongings.changed() is None
    change(held)
    assert isinstance(belongings.changed(), Drawn if what == "generator" else Exception) and "it" in str(belongings.changed())
    belongings.put_back()
    assert belongings.changed() is None and told(held) == before


def test_a_cache_is_no_change_of_an_object_and_is_one_of_a_dict_on_self() -> None:
    held: Any = Anything(table=None, known={})
    mine: dict[str, Any] = {}
    belongings = Belongings()
    belongings.note("object", held)
    held.table, held.other, held.known["a"] = torch.ones(2), "new", [1]
    assert belongings.changed() is None
    belongings.note("dict", mine)
    mine["a"] = "new"
    assert isinstance(belongings.changed(), Written)
    belongings.put_back()
    assert vars(held) == {"table": None, "known": {}} and not mine


def test_an_iterator_is_refused_before_it_is_read_and_a_file_is_none() -> None:
    belongings = Belongings()
    with pytest.raises(UsedUp, match=r"reads it, and what an iterator gives"):
        belongings.note("it", Anything(each=[iter([1])]))
    belongings.note("other", Anything(each=iter([1])), lasting=True)
    with open(__file__) as lines:
        belongings.note("file", Anything(lines=lines))


def test_only_so_much_is_looked_at() -> None:
    held = [Anything(n=0) for _ in range(500)]
    belongings = Belongings(first=False)
    belongings.note("it", held)
    held[-1].n = 1
    assert belongings.changed() is None
    held[0].n = 1
    assert belongings.changed() is not None
    large = torch.zeros(1 << 20)
    belongings.note("large", large)
    large.add_(1)
    belongings.put_back()
    assert held[0].n == 0 and large[0] == 1


def test_an_attempt_that_is_given_up_leaves_a_trial_as_it_was() -> None:
    members = runners(factored(Ramp))
    group = Group(OfHooks())
    with pytest.raises(Refused, match=r"changes self\.factor"):
        group.advance(members, [{} for _ in members])
    assert [runner.member.factor.calls for runner in members] == [0] * 5

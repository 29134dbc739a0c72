"""What values are equal in: an object that each trial makes for itself is the same in all, if its class and attributes are."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.population.values import MOST, MOST_BYTES, frozen, placed

from .test_engine import Toy, alone, same, together


class Focal:
    """A loss as an object of one's own."""

    def __init__(self, gamma: float, weight: Tensor | None = None) -> None:
        self.gamma, self.weight = gamma, weight

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits * self.gamma, target, self.weight)


class Slotted:
    __slots__ = ("gamma",)

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma


class Holder:
    def __init__(self, **held: Any) -> None:
        vars(self).update(held)


class Nested(nn.Module):
    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.inner, self.shape = nn.Sequential(nn.LogSoftmax(-1), nn.Flatten()), Focal(gamma)


def itself(gamma: float) -> Holder:
    made = Holder(gamma=gamma)
    made.me = made      # type: ignore[attr-defined]
    return made


EQUAL: dict[str, Callable[[float], Any]] = {
    "a loss of torch's": lambda x: nn.CrossEntropyLoss(label_smoothing=x),
    "one with weights": lambda x: nn.CrossEntropyLoss(weight=torch.tensor([1.0, x])),
    "modules in one": lambda x: Nested(x),
    "an object": lambda x: Focal(x),
    "one with a tensor": lambda x: Focal(1.0, torch.tensor([x, 2.0])),
    "one in a list": lambda x: [Focal(x), nn.ReLU()],
    "a partial": lambda x: partial(F.cross_entropy, label_smoothing=x),
    "what a function closes over": lambda x: (lambda f: lambda a, b: f(a, b))(nn.CrossEntropyLoss(label_smoothing=x)),
    "one that holds itself": itself,
    "frozen layers": lambda x: nn.PReLU(1, x).requires_grad_(False),
}
DOUBTFUL: dict[str, Callable[[], Any]] = {
    "slots": lambda: Slotted(1.0),
    "what is trained": lambda: nn.Linear(2, 2),
    "a generator": lambda: iter([1, 2]),
    "one that draws": lambda: random.Random(0),
    "a lock": lambda: Holder(lock=threading.Lock()),
    "a large object": lambda: Holder(parts=list(range(MOST + 1))),
    "a large tensor": lambda: Holder(part=torch.zeros(MOST_BYTES // 4 + 1)),
    "a compiled module": lambda: torch.jit.script(nn.ReLU()),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_objects_are_equal_by_class_and_attributes(kind: str) -> None:
    make = EQUAL[kind]
    assert frozen(make(0.25)) == frozen(make(0.25)) and hash(frozen(make(0.25))) == hash(frozen(make(0.25)))
    assert frozen(make(0.25)) != frozen(make(0.5))
    assert placed(make(0.25)) == placed(make(0.25))     # on the CPU


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_a_doubt_is_equal_to_itself_only(kind: str) -> None:
    one, other = DOUBTFUL[kind](), DOUBTFUL[kind]()
    assert frozen(one) == frozen(one) and frozen(one) != frozen(other)


def test_mode_and_hooks_count() -> None:
    assert frozen(nn.Dropout(0.5)) != frozen(nn.Dropout(0.5).eval())
    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    assert frozen(hooked) != frozen(nn.ReLU())


# In a study -----------------------------------------------------------------------------------------------------------------


class Criterion(Toy):
    """Each trial makes its loss in setup, as it is mostly done."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.criterion = self.made(config)

    def made(self, config: Any) -> Any:
        return nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]).double(), label_smoothing=0.1)

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return self.criterion(model(batch[0]), batch[1])


class AnObject(Criterion):
    def made(self, config: Any) -> Any:
        return Focal(2.0, torch.tensor([1.0, 2.0, 0.5]).double())


class APartial(Criterion):
    def made(self, config: Any) -> Any:
        return partial(F.cross_entropy, label_smoothing=0.1)


class Changed(Criterion):
    """Is another in each trial, after a while."""

    def made(self, config: Any) -> Any:
        return Focal(1.0)

    def on_iteration_end(self, metrics: Any) -> None:
        self.criterion.gamma += self.optimizer.param_groups[0]["lr"]


class Running(Focal):
    """Keeps something from one call to the next."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = super().__call__(logits, target)
        self.gamma = self.gamma * 0.9
        return loss


class Counting(Criterion):
    def made(self, config: Any) -> Any:
        return Running(1.0)


@pytest.mark.parametrize("cls", [Criterion, AnObject, APartial])
def test_trials_share_a_stack_if_each_makes_the_same_loss(cls: type[Toy]) -> None:
    fused, said, engine = together(cls)
    assert engine.stacks() == [5], said
    same(fused, alone(cls))


@pytest.mark.parametrize("cls", [Changed, Counting])
def test_a_loss_that_changes_is_each_trial_s_own(cls: type[Toy]) -> None:
    same(together(cls)[0], alone(cls))


def test_functions_that_make_their_loss_share_one() -> None:
    x, y = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2
    data = hp.Data(train=(x, y), batch_size=16)

    def train(config: Any) -> None:
        model, criterion = nn.Linear(4, 2), nn.CrossEntropyLoss(label_smoothing=0.1)
        trainer = hp.Trainer(model, torch.optim.SGD(model.parameters(), lr=config["lr"]), lambda m, b: criterion(m(b[0]), b[1]), data)
        for _ in range(2):
            hp.report(trainer.train())

    results = hp.tune(
        train, {"lr": hp.loguniform(1e-3, 1.0)}, metric="train_loss", mode="min", trials=4, scheduler=hp.FullRuns(max_t=2), seed=0,
        searcher=hp.RandomSearch(), executor=hp.Fused(4, strategy="vmap"), storage=None, verbose=0,
    )  # fmt: skip
    assert [note.text for note in results.log if note.kind == "stack"] == ["train: stack 1 begins with 4 trials."]

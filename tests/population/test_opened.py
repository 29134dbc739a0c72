"""Configs and losses that are objects on self: trials are kept apart by what is read of them, and by nothing else."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchtune_hp.population.opened import Attribute, opened, opens, part_of
from torchtune_hp.population.reads import shown

from .test_engine import Toy, alone, same, together

RATES = [0.002, 0.005, 0.01, 0.02, 0.05]
CONFIGS: list[dict[str, Any]] = [{"lr": rate} for rate in RATES]


@dataclass
class Config:
    lr: float
    alpha: float = 1.0
    mode: str = "mean"

    @property
    def twice(self) -> float:
        return 2 * self.alpha

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.alpha * F.cross_entropy(logits, target, reduction=self.mode)


@dataclass(frozen=True)
class Frozen:
    lr: float
    inner: Any


class Focal(nn.Module):
    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        p = logits.softmax(-1).gather(1, target[:, None])[:, 0]
        return (-((1 - p) ** self.gamma) * p.log()).mean()


class Holding(Toy):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.cfg = self.made(config)

    def made(self, config: Any) -> Any:
        return Config(config["lr"])

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return self.weighted(F.cross_entropy(model(batch[0]), batch[1]))

    def weighted(self, loss: Tensor) -> Any:
        return loss * self.cfg.alpha


class OfFloats(Holding):
    """Each has an alpha of its own."""

    def made(self, config: Any) -> Any:
        return Config(config["lr"], alpha=1 + config["lr"])


class ByProperty(OfFloats):
    def weighted(self, loss: Tensor) -> Any:
        assert isinstance(self.cfg, Config) and self.cfg.__class__ is Config
        return loss * self.cfg.twice


class ByMethod(OfFloats):
    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return self.cfg.loss(model(batch[0]), batch[1])


class InANamespace(OfFloats):
    def made(self, config: Any) -> Any:
        return Namespace(lr=config["lr"], alpha=1 + config["lr"])


class InADict(OfFloats):
    def made(self, config: Any) -> Any:
        return {"inner": Config(config["lr"], alpha=1 + config["lr"])}

    def weighted(self, loss: Tensor) -> Any:
        return loss * self.cfg["inner"].alpha


class Easy(dict[str, Any]):
    """Keys are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class InAnEasyDict(OfFloats):
    def made(self, config: Any) -> Any:
        return Easy(lr=config["lr"], alpha=1 + config["lr"], inner=Easy(beta=2.0))

    def weighted(self, loss: Tensor) -> Any:
        return loss * self.cfg.alpha * self.cfg.inner.beta * getattr(self.cfg, "gamma", 1.0)


class InADefaultDict(Holding):
    """What is not there is made, so it is read whole."""

    def made(self, config: Any) -> Any:
        return defaultdict(float, lr=config["lr"])

    def weighted(self, loss: Tensor) -> Any:
        return loss * (1 + self.cfg["nothing"])


class InAFrozenOne(OfFloats):
    def made(self, config: Any) -> Any:
        return Frozen(config["lr"], {"alpha": 1 + config["lr"]})

    def weighted(self, loss: Tensor) -> Any:
        return loss * self.cfg.inner["alpha"]


class InALoss(OfFloats):
    def made(self, config: Any) -> Any:
        return Focal(1 + config["lr"])

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return self.cfg(model(batch[0]), batch[1])


class ReadWhole(OfFloats):
    def weighted(self, loss: Tensor) -> Any:
        return loss * vars(self.cfg)["alpha"]


class AsADict(Holding):
    def weighted(self, loss: Tensor) -> Any:
        return loss * dataclasses.asdict(self.cfg)["alpha"]


class OfWords(Holding):
    def made(self, config: Any) -> Any:
        return Config(config["lr"], mode="sum" if config["lr"] > 0.01 else "mean")

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0]), batch[1], reduction=self.cfg.mode)


class Missing(Holding):
    """Only some have it."""

    def made(self, config: Any) -> Any:
        return Namespace(lr=config["lr"], **({"extra": 2.0} if config["lr"] > 0.01 else {}))

    def weighted(self, loss: Tensor) -> Any:
        return loss * getattr(self.cfg, "extra", 1.0)


class Writing(Holding):
    def weighted(self, loss: Tensor) -> Any:
        self.cfg.mode = "sum"
        return loss


def test_what_is_not_read_of_it_keeps_nobody_apart() -> None:
    fused, said, engine = together(Holding, CONFIGS)
    assert engine.stacks() == [5] and said == [], said
    same(fused, alone(Holding, CONFIGS))


@pytest.mark.parametrize("cls", [OfFloats, ByProperty, ByMethod, InANamespace, InADict, InAnEasyDict, InAFrozenOne, InALoss])
def test_a_float_that_is_read_is_lifted(cls: type[Toy]) -> None:
    fused, said, engine = together(cls, CONFIGS)
    assert engine.stacks() == [5] and any("lifted" in text for text in said), said
    same(fused, alone(cls, CONFIGS))


@pytest.mark.parametrize(("cls", "stacks"), [(ReadWhole, []), (AsADict, []), (InADefaultDict, []), (OfWords, [3]), (Missing, [3])])
def test_the_numbers_are_right_however_it_is_read(cls: type[Toy], stacks: list[int]) -> None:
    fused, _, engine = together(cls, CONFIGS)
    assert engine.stacks() == stacks        # who is alone is trained alone
    same(fused, alone(cls, CONFIGS))


def test_what_is_written_is_refused_and_named() -> None:
    fused, said, engine = together(Writing, CONFIGS)
    assert not engine.stacks() and any("writes self.cfg.mode" in text for text in said), said
    same(fused, alone(Writing, CONFIGS))


def test_each_way_to_a_value_is_written_down() -> None:
    class Noting:
        seen: set[Any] = set()

        def read(self, read: Any, value: Any) -> Any:
            self.seen.add(read)
            return value

    noting, cfg = Noting(), Config(0.1)
    held = opened(cfg, noting, ("self", "cfg"))
    assert held.alpha == 1.0 and held == Config(0.1) and repr(held) == repr(cfg)
    assert ("self", "cfg", "alpha") in noting.seen and shown(("self", "cfg", Attribute("alpha"))) == "self.cfg.alpha"
    assert not hasattr(held, "nothing") and ("self", "cfg", "nothing") in noting.seen
    assert part_of(cfg, Attribute("alpha")) == 1.0 and part_of(cfg, "alpha") is None and part_of(cfg, Attribute("nothing")) is None
    assert not opens(nn.Linear(1, 1)) and not opens(torch.zeros(1)) and not opens(1.0) and opens(nn.CrossEntropyLoss()) and opens(cfg)

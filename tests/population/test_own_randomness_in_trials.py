"""What a trial draws while it trains is its own: the same curve alone, in any slot, and whenever it joined the others."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.population.engine import Engine
from torchtune_hp.training.alone import ModelRunner
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.runner import Look, Place
from torchtune_hp.trial import Trial

Y = torch.arange(72) % 3
X = torch.randn(72, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X[torch.arange(72), 0, 2 * Y, 2 * Y] += 2.0
N = 3
"""Iterations of 3 updates each."""
TARGET = 9
"""The trial whose curve is looked at; the others are trials 0, 1, ..."""


class Images(hp.ModelTrainable):
    """Three classes of images, in float64; what is drawn is added by the classes below."""

    def setup(self, config: Any) -> None:
        self.model = self.build(config).double()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["lr"])

    def build(self, config: Any) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data((X[:48], Y[:48]), val=(X[48:], Y[48:]), batch_size=16)

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def validation_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(model(batch[0]), batch[1])}


class Dropped(Images):
    def build(self, config: Any) -> nn.Module:
        p = config["p"]
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout2d(p), nn.Tanh(), nn.Flatten(), nn.Dropout(p), nn.Linear(64, 3))


class Cropped(Images):
    def augment(self, batch: Any) -> Any:
        return hp.random_crop(batch[0], padding=2), batch[1]


class Flipped(Images):
    def augment(self, batch: Any) -> Any:
        return hp.random_flip(batch[0]), batch[1]


class CutOut(Images):
    def augment(self, batch: Any) -> Any:
        return hp.cutout(batch[0], size=3), batch[1]


class MixedUp(Images):
    def augment(self, batch: Any) -> Any:
        return hp.mixup(batch[0], batch[1], alpha=0.4, classes=3)


class Everything(Dropped):
    """One after another, each with draws of its own."""

    def augment(self, batch: Any) -> Any:
        x, y = batch
        return hp.mixup(hp.cutout(hp.random_flip(hp.random_crop(x, padding=1)), size=2), y, classes=3)


class Accumulated(Everything):
    """Every batch of an update has draws of its own."""

    accumulate = 3


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(36, 4), nn.Linear(2, 36)

    def forward(self, x: Tensor, draws: bool) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x.flatten(1)).chunk(2, 1)
        code = mean + (0.5 * log_variance).exp() * torch.randn_like(mean) if draws else mean
        return self.decoder(code), mean, log_variance


class VAE(Images):
    """The code is drawn in the loss (Kingma and Welling 2014), in validation too."""

    draws = True

    def build(self, config: Any) -> nn.Module:
        return Autoencoder()

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        made, mean, log_variance = model(batch[0], self.draws)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return F.mse_loss(made, batch[0].flatten(1)) + 0.01 * divergence

    def validation_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": self.training_step(model, batch)}


class Rows(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(6, 5, num_layers=2, dropout=p, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x.squeeze(1))[0][:, -1])


class Recurrent(Images):
    """An LSTM reads an image row by row, with dropout between its layers."""

    p = 0.4

    def build(self, config: Any) -> nn.Module:
        return Rows(self.p)


DRAWING = [Dropped, Cropped, Flipped, CutOut, MixedUp, Everything, Accumulated, VAE, Recurrent]
WITHOUT: dict[type[Images], type[Images]] = {
    VAE: type("Undrawn", (VAE,), {"draws": False}), Recurrent: type("Undropped", (Recurrent,), {"p": 0.0})
}  # fmt: skip
"""The same without its draws, where that is not `Images`; neither changes the initial weights."""


@pytest.fixture(autouse=True)
def no_word_of_performance() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")        # recurrent layers, under vmap
        yield


@functools.cache
def recipe(cls: type[Images]) -> ModelRecipe:
    return ModelRecipe(cls)


def runner(cls: type[Images], number: int) -> ModelRunner:
    config = {"lr": 0.003 * (1 + number % 4), "p": 0.2 + 0.05 * (number % 4)}
    place = Place(None, "cpu", 20, ("loss",), "randomness")
    return recipe(cls).start(Trial(number, (), config, seed=100 + number), place)


@functools.cache
def alone(cls: type[Images]) -> list[Look]:
    target = runner(cls, TARGET)
    return [target.advance() for _ in range(N)]


def stack_of(engine: Engine) -> Sequence[ModelRunner]:
    (group,) = [group for group in engine._groups.values() if group.runners]
    return group.runners


def trained(cls: type[Images], slot: int, size: int, head_start: int) -> tuple[list[Any], ModelRunner, Engine]:
    """The looks of the target in this slot of a stack of `size`, whose other members are ahead by `head_start` iterations."""
    said: list[str] = []
    engine = Engine(lambda kind, text: said.append(text), "vmap")
    others = [runner(cls, number) for number in range(size - 1)]
    first, last = others[:slot], others[slot:]
    for _ in range(head_start):
        engine.advance(others)
    if head_start:      # a newcomer is put after those that are there; these make room, and come back behind it
        for other in last:
            engine.leave(other)
    target = runner(cls, TARGET)
    looks = [engine.advance([*first, target, *last])[target] for _ in range(N)]
    members = stack_of(engine)
    assert (members.index(target), len(members)) == (slot, size)
    assert not [text for text in said if "one by one" in text]
    return looks, target, engine


once = functools.cache(trained)


def metrics(looks: Sequence[Any]) -> list[Any]:
    assert all(isinstance(look, Look) for look in looks), looks
    return [look.metrics for look in looks]


@pytest.mark.parametrize("cls", DRAWING)
def test_what_is_drawn_matters(cls: type[Images]) -> None:
    """Else the tests below would compare nothing."""
    assert metrics(alone(cls)) != metrics(alone(WITHOUT.get(cls, Images)))


@pytest.mark.parametrize("head_start", [0, 2])
@pytest.mark.parametrize(("slot", "size"), [(0, 3), (4, 6)])
@pytest.mark.parametrize("cls", DRAWING)
def test_a_trial_s_curve_is_the_same_in_any_slot_and_whenever_it_joins(cls: type[Images], slot: int, size: int, head_start: int) -> None:
    looks, _, _ = once(cls, slot, size, head_start)
    for ours, theirs in zip(metrics(looks), metrics(alone(cls)), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-8)


@pytest.mark.parametrize("head_start", [0, 1])
def test_nor_does_slot_137_of_256_change_it(head_start: int) -> None:
    """Slow: 256 members are set up and trained."""
    looks, _, _ = trained(Everything, 137, 256, head_start)
    for ours, theirs in zip(metrics(looks), metrics(alone(Everything)), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-8)


@pytest.mark.parametrize("cls", DRAWING)
def test_the_same_seeds_in_the_same_slots_give_the_same_bits(cls: type[Images]) -> None:
    first = once(cls, 4, 6, 2)
    torch.rand(7)       # the caller's own generator stands elsewhere now
    runs = []
    for looks, target, engine in (first, trained(cls, 4, 6, 2)):
        engine.settle(target)
        runs.append((metrics(looks), [parameter.detach() for parameter in target.member.model.parameters()]))
    (one, weights), (other, same) = runs
    assert one == other
    assert all(map(torch.equal, weights, same))


@pytest.mark.parametrize("cls", DRAWING)
def test_every_member_draws_its_own(cls: type[Images]) -> None:
    """Trials that agree in weights, data order and config, but not in what their random numbers come from, part at once."""
    twins = [runner(cls, TARGET) for _ in range(3)]
    for number, twin in enumerate(twins):
        twin.base += number
    looks = Engine(strategy="vmap").advance(twins)
    assert len({looks[twin].metrics["train_loss"] for twin in twins}) == 3  # type: ignore[union-attr]

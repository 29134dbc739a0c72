"""What the tests of ModelTrainable share: digits, a class whose parts are given by keywords, and ways to run it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau

from torchtune_hp.training.data import Data
from torchtune_hp.training.model import ModelRecipe, ModelRunner, ModelTrainable
from torchtune_hp.training.runner import Place
from torchtune_hp.trial import Trial


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models are slower on several threads, and much slower where those are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    digits()
    yield
    torch.set_num_threads(before)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """The first 400 of scikit-learn's 8 x 8 digits: (400, 64) float32 in [0, 1], labels (400,)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.as_tensor(x[:400] / 16, dtype=torch.float32), torch.as_tensor(y[:400])


def mlp(config: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(config.get("dropout", 0.0)), nn.Linear(16, 10))


class Digits(ModelTrainable):
    """An MLP on digits, 240 to train on in batches of 32 (7 updates a pass), 80 to validate, 80 to test."""

    build: Callable[[Any], nn.Module] = staticmethod(mlp)

    def setup(self, config: Any) -> None:
        self.model = self.build(config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.get("lr", 1e-2), weight_decay=config.get("wd", 0.01))

    @classmethod
    def data(cls) -> Data:
        x, y = digits()
        return Data((x[:240], y[:240]), val=(x[240:320], y[240:320]), test=(x[320:], y[320:]), batch_size=32)

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(model(x), y)

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        x, y = batch
        logits = model(x)
        return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(-1) == y).float().mean()}


class Scripted(Digits):
    """Reports the values it is told to, as "score" and as "loss"."""

    scores: list[float] = []
    others: list[float] = []
    patience = 0

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.lr_scheduler = ReduceLROnPlateau(self.optimizer, mode="max", factor=0.5, patience=self.patience)
        self.count = -1

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        if torch.equal(batch[1], digits()[1][240:272]):
            self.count += 1
        return {"loss": self.others[self.count], "score": self.scores[self.count]}


def trial(config: dict[str, Any] | None = None, seed: int = 11, id: int = 3, parent: int | None = None) -> Trial:
    return Trial(id, (), config or {}, seed, parent=parent)


def place(*metrics: str, max_t: int | None = None) -> Place:
    return Place(None, "cpu", max_t, metrics, "study")


def runner(cls: type[ModelTrainable], config: dict[str, Any] | None = None, seed: int = 11, **where: Any) -> ModelRunner:
    return ModelRecipe(cls).start(trial(config, seed), place(**where))


def looks(of: ModelRunner, n: int) -> list[dict[str, Any]]:
    return [dict(of.advance().metrics) for _ in range(n)]


def through_a_file(state: Any) -> Any:
    """The state as a later process reads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def equal_states(a: Any, b: Any) -> bool:
    """Bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal_states(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal_states, a, b))
    return bool(type(a) is type(b) and (a == b or (a != a and b != b)))

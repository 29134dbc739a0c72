"""Tiny ModelTrainables on synthetic tensors, for suites that need a real training which takes no time.

    ToyModel            two classes of points around opposite centers; an epoch is 8 updates of an MLP
    ToyDivergingModel   its loss is NaN from iteration `config["at"]` on, 2 where none is given
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..training.data import Data
from ..training.hooks import ModelTrainable


class ToyModel(ModelTrainable):
    """Config, all optional: lr (0.05), width (8), dropout (0.1), momentum (0.9)."""

    def setup(self, config: Any) -> None:
        width = int(config.get("width", 8))
        self.model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(config.get("dropout", 0.1)), nn.Linear(width, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.get("lr", 0.05), momentum=config.get("momentum", 0.9))

    @classmethod
    def data(cls) -> Data:
        generator = torch.Generator().manual_seed(0)
        y = torch.arange(192) % 2
        x = (2.0 * y - 1.0)[:, None] * 0.7 + torch.randn(192, 4, generator=generator)
        return Data((x[:128], y[:128]), val=(x[128:160], y[128:160]), test=(x[160:], y[160:]), batch_size=16)

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y)

    def validation_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        logits = model(x)
        return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(-1) == y).float().mean()}


class ToyDivergingModel(ToyModel):
    """Trains as ToyModel, then its loss is NaN."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.ended = 0

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        loss = super().training_step(model, batch)
        return loss * float("nan") if self.ended + 1 >= self.config.get("at", 2) else loss

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        self.ended += 1

"""What the tests of hp.Trainer share: a small model on synthetic points, and the functions that a trainer is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.testing.toy_models import ToyModel


def points() -> hp.Data:
    return ToyModel.data()


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def metrics(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    logits = model(batch[0])
    return {"loss": F.cross_entropy(logits, batch[1]), "accuracy": (logits.argmax(-1) == batch[1]).float().mean()}


def built(config: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    width = config.get("width", 8)
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(config.get("dropout", 0.1)), nn.Linear(width, 2))
    return model, torch.optim.SGD(model.parameters(), lr=config.get("lr", 0.05), momentum=config.get("momentum", 0.9))


def trainer(config: Any, **words: Any) -> hp.Trainer:
    return hp.Trainer(*built(config), **{"loss_fn": loss_fn, "data": points, "metrics": metrics, **words})

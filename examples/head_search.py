"""A search for a head on a frozen backbone, which all 64 trials share.

A small CNN learns the digits 0 to 4 and is frozen. What is searched is a head on it for the digits 5 to 9, of which 200 are labelled.
All trials are given the one backbone (`hp.with_parameters`), in eval mode whatever mode the trial is in, so nobody writes it; what
each trial has of its own are its head, its optimizer, its dropout and its order of the data.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import torchtune_hp as hp

table = load_digits()
images, labels = torch.as_tensor(table.images / 16, dtype=torch.float32).unsqueeze(1), torch.as_tensor(table.target)
low, high = labels < 5, labels >= 5


def pretrained() -> nn.Module:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    model = nn.Sequential(backbone, nn.Linear(64 * 16, 5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(6):
        for index in torch.randperm(int(low.sum())).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[low][index]), labels[low][index]).backward()
            optimizer.step()
    return backbone.requires_grad_(False).eval()


class Headed(nn.Module):
    def __init__(self, backbone: nn.Module, config: dict[str, Any]) -> None:
        super().__init__()
        self.backbone = backbone
        width = config["width"]
        self.head = nn.Sequential(nn.Dropout(config["dropout"]), nn.Linear(64 * 16, width), nn.ReLU(), nn.Linear(width, 5))

    def train(self, mode: bool = True) -> Headed:
        super().train(mode)
        self.backbone.eval()        # its running statistics stay as they are
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class Heads(hp.ModelTrainable):
    def setup(self, config: dict[str, Any], backbone: nn.Module) -> None:
        self.model = Headed(backbone, config)
        self.optimizer = torch.optim.AdamW(self.model.head.parameters(), lr=config["lr"], weight_decay=config["wd"])

    @classmethod
    def data(cls) -> hp.Data:
        x, y = images[high], labels[high] - 5
        return hp.Data(train=(x[:200], y[:200]), val=(x[200:500], y[200:500]), test=(x[500:], y[500:]), batch_size=20, order="shared")

    def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def validation_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"accuracy": (model(batch[0]).argmax(-1) == batch[1]).float().mean()}


results = hp.tune(
    hp.with_parameters(Heads, backbone=pretrained()),
    {"lr": hp.loguniform(1e-4, 3e-2), "wd": hp.loguniform(1e-4, 1.0), "dropout": hp.uniform(0.0, 0.7), "width": hp.choice([16, 32])},
    metric="accuracy", mode="max", trials=64, scheduler=hp.ASHA(max_t=9, reduction_factor=3),
    executor=hp.Fused(64, strategy="vmap"), seed=0,
)  # fmt: skip
print(f"trained as {results.members_per_stack}")
print(f"the best of {len(results)}: {results.best.config}")
print(f"accuracy on digits that neither the backbone nor the search has seen: {results.best.test()['accuracy']:.4f}")

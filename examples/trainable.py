"""A Trainable: setup, step, save_checkpoint, load_checkpoint, with Ray Tune's names. A class written for Ray ports by its base.

Because it can be saved, a trial may rest and be woken later, in another process or after a crash: ASHA then promotes instead
of judging once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import nn

import torchtune_hp as hp

inputs, targets = load_diabetes(return_X_y=True)
x = F.normalize(torch.as_tensor(inputs, dtype=torch.float32), dim=0) * len(inputs) ** 0.5
y = torch.as_tensor((targets - targets.mean()) / targets.std(), dtype=torch.float32).unsqueeze(1)
x, x_val, y, y_val = x[:300], x[300:], y[:300], y[300:]


class Diabetes(hp.Trainable):
    """A regression with one hidden layer; a step is one pass over the data."""

    def setup(self, config: dict[str, Any]) -> None:
        width = config["width"]
        self.model = nn.Sequential(nn.Linear(10, width), nn.Tanh(), nn.Dropout(config["dropout"]), nn.Linear(width, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config["lr"], momentum=config["momentum"])

    def step(self) -> dict[str, Any]:
        self.model.train()
        for batch in torch.randperm(len(x)).split(50):
            self.optimizer.zero_grad()
            F.mse_loss(self.model(x[batch]), y[batch]).backward()
            self.optimizer.step()
        return {"loss": self.loss()}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])

    def loss(self) -> float:
        self.model.eval()
        with torch.no_grad():
            return F.mse_loss(self.model(x_val), y_val).item()


print(f"by hand, after one step: {Diabetes({'width': 8, 'dropout': 0.0, 'lr': 1e-2, 'momentum': 0.9}).step()}")

results = hp.Tuner(
    Diabetes,
    {
        "width": hp.lograndint(4, 65),
        "dropout": hp.uniform(0.0, 0.5),
        "lr": hp.loguniform(1e-4, 1e-1),
        "momentum": hp.choice([0.0, 0.9]),
    },
    metric="loss",
    mode="min",
    trials=24,
    scheduler=hp.ASHA(max_t=18, grace_period=2, reduction_factor=3),
).fit()
best = results.best
again = best.load().loss()
print(f"best after {best.step} steps: loss {best.metrics['loss']:.6f} when reported, {again:.6f} with the weights that were kept")

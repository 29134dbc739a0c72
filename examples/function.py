"""A train function: the loop stays yours, `hp.report` says once an epoch how it stands.

Called by hand, `train({"lr": 1e-2, "width": 8})`, it trains as ever, and `report` does nothing. In a study ASHA stops most
trials early, and because each report carries a checkpoint, the best weights are kept.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_wine
from torch import nn

import torchtune_hp as hp

inputs, labels = load_wine(return_X_y=True)
inputs = torch.as_tensor((inputs - inputs.mean(0)) / inputs.std(0), dtype=torch.float32)
labels = torch.as_tensor(labels)
held_out = torch.arange(len(labels)) % 3 == 0       # the wines are sorted by class
x, y = inputs[~held_out], labels[~held_out]
x_val, y_val = inputs[held_out], labels[held_out]


def build(config: dict[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear(13, config["width"]), nn.ReLU(), nn.Linear(config["width"], 3))


@hp.trainable(space={"lr": hp.loguniform(1e-4, 1e-1), "width": hp.choice([4, 8, 16])}, metric="loss", mode="min")
def train(config: dict[str, Any]) -> None:
    model = build(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    for _ in range(27):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = F.cross_entropy(model(x_val), y_val)
        hp.report(loss=loss, checkpoint=model.state_dict())


results = train.tune(trials=20, scheduler=hp.ASHA(max_t=27, reduction_factor=3))

best = results.best
model = build(best.config)
model.load_state_dict(best.load())
with torch.no_grad():
    loss = F.cross_entropy(model(x_val), y_val).item()
print(f"best {best.config}: loss {best.metrics['loss']:.6f} when reported, {loss:.6f} with the weights that were kept")

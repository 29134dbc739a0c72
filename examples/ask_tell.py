"""A loop of one's own: the library says what to try and when to stop, and runs nothing.

For trainings that live elsewhere: a cluster's queue, a simulator, a laboratory. Here they are linear regressions by gradient
descent, and ASHA decides after every step whether the trial goes on.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_diabetes

import torchtune_hp as hp

inputs, targets = load_diabetes(return_X_y=True)
x = torch.as_tensor(inputs, dtype=torch.float64) * len(inputs) ** 0.5
y = torch.as_tensor((targets - targets.mean()) / targets.std(), dtype=torch.float64)
x, x_val, y, y_val = x[:300], x[300:], y[:300], y[300:]

study = hp.AskTell(
    {"lr": hp.loguniform(1e-3, 1.0), "ridge": hp.loguniform(1e-4, 1.0)},
    scheduler=hp.ASHA(max_t=27, reduction_factor=3),
    metric="loss", mode="min", trials=30, seed=0,
)  # fmt: skip
weights: dict[int, torch.Tensor] = {}        # a trial may rest and be asked for again: what it learned is ours to keep
steps = 0

while (trial := study.ask()) is not None:
    weight = weights.get(trial.id, torch.zeros(10, dtype=torch.float64))
    going = True
    while going:
        gradient = x.T @ (x @ weight - y) / len(x) + trial.config["ridge"] * weight
        weight = weight - trial.config["lr"] * gradient
        steps += 1
        going = study.tell(trial, {"loss": (x_val @ weight - y_val).square().mean().item()}, step=study.steps(trial) + 1)
    weights[trial.id] = weight

trial, metrics = study.best
print(f"best of 30 trials in {steps} steps instead of {30 * 27}: loss {metrics['loss']:.4f} with {trial.config}")

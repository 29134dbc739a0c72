"""A deep ensemble: 32 networks that differ in their initial weights, trained at once, disagree where there are no data.

Lakshminarayanan, Pritzel and Blundell 2017, on a curve with noise. The spread tells where not to trust the mean; it is no bound
on the error, as the ends of the table show. All members see the same batch, so it is handed over once (`in_dims` left out).
`evaluate` gives the predictions of all in one call; `unstack` gives ordinary modules back, saved and loaded like any others.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchtune_hp as hp

MEMBERS, STEPS, NOISE = 32, 600, 0.05


def network() -> nn.Module:
    first = nn.Linear(1, 64)
    nn.init.normal_(first.weight, std=2.0)      # wiggly functions, before they see data: what the members can disagree about
    nn.init.uniform_(first.bias, -3.0, 3.0)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1), nn.Flatten(-2))


def truth(x: Tensor) -> Tensor:
    return torch.sin(3 * x)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def predict(model: nn.Module, points: Tensor) -> Tensor:
    return model(points)


torch.manual_seed(0)
x = torch.cat([torch.rand(40) - 1.5, torch.rand(40) + 0.5])        # two intervals: [-1.5, -0.5] and [0.5, 1.5]
y = truth(x) + NOISE * torch.randn(80)

models = [network() for _ in range(MEMBERS)]
ensemble = hp.Population(models, [torch.optim.Adam(model.parameters(), lr=0.003) for model in models])
for _ in range(STEPS):
    losses = ensemble.step(loss, (x.unsqueeze(-1), y))
print(f"{MEMBERS} networks, {ensemble.reason}: loss {losses.min():.5f} to {losses.max():.5f}; the noise alone is {NOISE**2:.5f}")

points = torch.linspace(-3, 3, 13)
predicted = ensemble.evaluate(predict, points.unsqueeze(-1))        # (MEMBERS, 13)
mean, spread = predicted.mean(0), predicted.std(0)
inside = (points.abs() >= 0.5) & (points.abs() <= 1.5)
print("    x   truth    mean  spread")
for row in zip(points.tolist(), truth(points).tolist(), mean.tolist(), spread.tolist(), inside.tolist()):
    print("{:5.1f}  {:6.3f}  {:6.3f}  {:6.3f}{}".format(*row[:4], "  data" if row[4] else ""))
print(f"spread: {spread[inside].mean():.3f} where there are data, {spread[~inside].mean():.3f} elsewhere")

file = Path("runs", "ensemble.pt")
file.parent.mkdir(exist_ok=True)
torch.save([model.state_dict() for model in ensemble.unstack()], file)

loaded = [network() for _ in range(MEMBERS)]
for model, state in zip(loaded, torch.load(file, weights_only=True)):
    model.load_state_dict(state)
with torch.no_grad():
    again = torch.stack([model(points.unsqueeze(-1)) for model in loaded])
print(f"{len(loaded)} plain modules from {file} predict the same: {torch.allclose(again, predicted, atol=1e-5)}")

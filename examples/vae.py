"""A variational autoencoder of handwritten digits: how wide its layers, and how much the divergence weighs.

Kingma and Welling 2014. Each trial draws its own noise with `torch.randn_like`, the same whatever slot it is trained in. What is
optimized is the evidence lower bound, in which the divergence weighs one; another weight (`beta`, Higgins et al. 2017) is a
hyperparameter of the training only. Layers of several widths share a stack. At the end the best decoder draws digits that nobody wrote.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import torchtune_hp as hp

CODE = 8

digits = torch.as_tensor(load_digits().data / 16, dtype=torch.float32)
digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]


class VAE(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 2 * CODE))
        self.decoder = nn.Sequential(nn.Linear(CODE, width), nn.ReLU(), nn.Linear(width, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstruction error, divergence from the prior) in nats, means over the batch."""
        mean, log_var = self.encoder(x).chunk(2, -1)
        code = mean + torch.randn_like(mean) * (log_var / 2).exp()
        error = F.binary_cross_entropy_with_logits(self.decoder(code), x, reduction="none").sum(-1)
        divergence = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(-1)
        return error.mean(), divergence.mean()


class Digits(hp.ModelTrainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.model = VAE(config["width"])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["lr"])

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data(train=digits[:1200], val=digits[1200:1500], test=digits[1500:], batch_size=64)

    def training_step(self, model: nn.Module, batch: Tensor) -> Tensor:
        error, divergence = model(batch)
        return error + self.hparams["beta"] * divergence

    def validation_step(self, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        error, divergence = model(batch)
        return {"bound": error + divergence, "error": error, "divergence": divergence}


results = hp.Tuner(
    Digits,
    {"width": hp.choice([20, 40, 60]), "beta": hp.loguniform(0.1, 10.0), "lr": hp.loguniform(3e-4, 3e-2)},
    metric="bound", mode="min", trials=60, scheduler=hp.ASHA(max_t=18, reduction_factor=3), executor=hp.Fused(60, strategy="vmap"), seed=0,
).fit()  # fmt: skip

best = results.best
print(f"trained as {results.members_per_stack}")
print(f"the best of {len(results)}: {best.config}, at most {best.test()['bound']:.2f} nats a digit")
torch.manual_seed(0)
with torch.no_grad():
    drawn = best.load().decoder(torch.randn(6, CODE)).sigmoid().view(6, 8, 8)
for row in range(8):
    print("   ".join("".join(" .:*#"[min(4, int(5 * pixel))] for pixel in image[row]) for image in drawn))

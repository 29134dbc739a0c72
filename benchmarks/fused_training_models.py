"""What fused_training.py trains: workloads, and P members of one on a device, the same for every case."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from networks import cuda_convnet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Workload:
    """A model and its batch. `widths`: of an MLP. `classes` 0: regression to one number, mean squared error."""

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    classes: int
    widths: tuple[int, ...] = ()
    grouped: bool = False       # SGD with a weight decay for each layer, instead of Adam

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y) if self.classes else F.mse_loss(model(x), y)

    def data(self, device: torch.device) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.batch, *self.shape, generator=generator)
        if self.classes:
            return x.to(device), torch.randint(self.classes, (self.batch,), generator=generator).to(device)
        return x.to(device), torch.randn(self.batch, 1, generator=generator).to(device)

    def optimizer(self, model: nn.Module, values: Mapping[str, Any], how: Mapping[str, Any]) -> Optimizer:
        if not self.grouped:
            betas, decay = values["betas"], values["weight_decay"]
            return Adam(model.parameters(), lr=values["lr"], betas=betas, weight_decay=decay, **how)
        layers = [list(layer.parameters()) for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
        decays = [values["weight_decay"] * (k + 1) for k in range(len(layers))]
        groups = [{"params": own, "weight_decay": decay} for own, decay in zip(layers, decays)]
        return SGD(groups, lr=values["lr"], momentum=0.9, **{name: on for name, on in how.items() if name != "capturable"})


def mlp(name: str, *widths: int, batch: int = 64) -> Workload:
    """The last width 1 means regression."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for n, m in itertools.pairwise(widths):
            layers += [nn.Linear(n, m), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return Workload(name, model, widths[:1], batch, widths[-1] if widths[-1] > 1 else 0, widths)


def small_cnn(side: int) -> Workload:
    def model() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 10),
        )  # fmt: skip

    return Workload(f"small CNN 3-16-32, {side}x{side}", model, (3, side, side), 64, 10)


@dataclass(frozen=True)
class Task:
    """A workload of P members on a device: every case makes its own members, and all cases the same."""

    work: Workload
    P: int
    device: torch.device
    batch: tuple[Tensor, Tensor]

    def members(self, **how: Any) -> tuple[list[nn.Module], list[Optimizer], list[float]]:
        """-> models, their optimizers, the norms at which their gradients are clipped. `how`: options of the optimizer's form."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            models = [self.work.model().to(self.device) for _ in range(self.P)]
            draws = torch.rand(self.P, 5, dtype=torch.float64).tolist()
        values = [
            {"lr": 10 ** (-4 + 1.5 * a), "weight_decay": 10 ** (-6 + 3 * b), "betas": (0.85 + 0.1 * c, 0.99 + 0.009 * d)}
            for a, b, c, d, _ in draws
        ]
        optimizers = [self.work.optimizer(model, own, how) for model, own in zip(models, values)]
        return models, optimizers, [10 ** (-1.5 + 1.5 * e) for *_, e in draws]      # most of them below the norms at the start


def plan(quick: bool, cuda: bool) -> list[tuple[Workload, tuple[int, ...]]]:
    digits = mlp("MLP 64-64-64-10", 64, 64, 64, 10)
    regression = mlp("FCNet 9-64-64-1", 9, 64, 64, 1)
    if quick:
        return [(digits, (1, 16, 128)), (regression, (128,)), (small_cnn(8), (16,))]
    rows = [(digits, (1, 4, 16, 64, 128, 256, 1024)), (regression, (512 if cuda else 128,)), (small_cnn(16), (16,))]
    convnet = Workload("cuda-convnet", cuda_convnet, (3, 32, 32), 100, 10, grouped=True)
    return [*rows, (mlp("MLP 784-256-10", 784, 256, 10), (128,)), (convnet, (32,))] if cuda else rows


def limit_ms(work: Workload, rate: float) -> float:
    """The matrix products and convolutions of a model's forward and backward pass at `rate` GFLOP/s."""
    model, batch = work.model(), work.data(torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        work.loss(model, batch).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops() / rate / 1e6)

"""Processes and cubes that the tests of acquisition and maximization share."""

from __future__ import annotations

import torch
from torch import Tensor

from torchtune_hp.gp.kernel import Hyper, Kernel
from torchtune_hp.gp.regression import Fitted, condition


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hyper(
    lengthscale: list[float], outputscale: float = 1.0, noise: float = 1e-4, mean: float = 0.0, decay: tuple[float, ...] = ()
) -> Hyper:
    return Hyper(*(torch.tensor(part, dtype=torch.float64) for part in (lengthscale, outputscale, noise, mean, list(decay))))


def wave(x: Tensor) -> Tensor:
    return torch.sin(5 * x[..., 0]) + (x[..., 1:] - 0.3).square().sum(-1)


def process(n: int = 20, d: int = 3, noise: float = 1e-2, seed: int = 0) -> Fitted:
    x = uniform(n, d, seed=seed)
    return condition(Kernel(tuple(range(d))), x, wave(x) + noise**0.5 * normal(n, seed=seed + 1), hyper([0.5] * d, noise=noise))

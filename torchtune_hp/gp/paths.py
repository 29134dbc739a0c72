"""Thompson sampling: functions drawn from the posterior, each a formula that can be climbed (Thompson 1933).

    f_i(x) = mean + prior_i(x) + K(x, X) (K + N)^-1 (y - mean - prior_i(X) - noise_i)

is a draw of the posterior if prior_i is one of the prior (J. Wilson et al., "Efficiently sampling functions from Gaussian process
posteriors", ICML 2020, eq. 13). prior_i is a sum of random features, sqrt(2 s / F) sum_j w_ij cos(omega_j . z + b_j) c_j(x) t_j(x):
- omega: normal for RBF; for Matern-5/2 multivariate t with 5 degrees of freedom (Rahimi and Recht, NeurIPS 2007; Rasmussen and
  Williams 2006, section 4.2.1), z the numbers over their lengthscales;
- c: for each category, with probability exp(-1 / l) one, else a random sign for each level, so that its mean product is
  exp(-1 / l [a != b]);
- t: one with probability w / (1 + w), else exp(-rate t) with a gamma-distributed rate: the mixture that the fidelity kernel is.

The update is exact, so near the observations the paths are the posterior's; between them the prior's error is about 1 / sqrt(F).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .kernel import UNIT, covariance, described
from .regression import Fitted, prior_mean


class Paths(NamedTuple):
    """s functions of F features over a process of n observations. Made by `draw`, called by `evaluate` and `evaluate_all`."""

    fitted: Fitted
    frequency: Tensor       # (F, numbers), for numbers in units of the kernel
    phase: Tensor           # (F,)
    signs: tuple[Tensor, ...]       # for each category (F, levels + 1), of -1 and 1
    rate: Tensor            # (F,)
    weight: Tensor          # (s, F)
    correction: Tensor      # (s, n)


def draw(fitted: Fitted, count: int, *, generator: torch.Generator, features: int = 1024) -> Paths:
    """`count` paths of one process (no batch), drawn by `generator` (on the CPU, whatever the device)."""
    if fitted.y.ndim != 1 or count < 0 or features < 1:
        raise ValueError(f"one process, count >= 0 and features >= 1 are needed, but got y {tuple(fitted.y.shape)}, {count}, {features}.")
    kernel, hyper, x = fitted.kernel, fitted.hyper, fitted.x

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator).to(x.device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(x.device)

    frequency = normal(features, len(kernel.numbers))
    if kernel.shape == "matern52":
        frequency = frequency * (5 / normal(features, 5).square().sum(-1, keepdim=True)).sqrt()
    frequency = frequency / math.sqrt(UNIT[kernel.shape])
    signs = []
    for scale, (_, levels) in zip(hyper.lengthscale[len(kernel.numbers) :], kernel.categories):
        random = (uniform(features, levels + 1) - 0.5).sign()
        signs.append(torch.where(uniform(features, 1) < torch.exp(-1 / scale), 1.0, random))
    rate = torch.zeros_like(frequency.sum(-1))
    size = hyper.outputscale
    if kernel.fidelity is not None:
        stays, scale, power = hyper.decay
        gamma = _gamma(uniform(features), power) / scale
        rate = torch.where(uniform(features) < stays / (1 + stays), 0.0, gamma)
        size = size * (1 + stays) / (stays + (scale / (scale + 2)) ** power)
    weight = normal(count, features) * (2 * size / features).sqrt()
    prior = Paths(fitted, frequency, 2 * torch.pi * uniform(features), tuple(signs), rate, weight, x.new_zeros(count, 0))
    noise = normal(count, len(x)) * fitted.noise.sqrt()
    residual = fitted.y - prior_mean(fitted, x) - weight @ _features(prior, x).mT - noise
    return prior._replace(correction=torch.cholesky_solve(residual.mT, fitted.factor).mT)


def evaluate(paths: Paths, x: Tensor, which: Tensor) -> Tensor:
    """The value (r,) of path number `which` (r,) int64 at each of x (r, d). O(r (n + F)); differentiable in x."""
    fitted = paths.fitted
    prior = (_features(paths, x) * paths.weight[which]).sum(-1)
    update = (covariance(fitted.kernel, fitted.hyper, x, fitted.x) * paths.correction[which]).sum(-1)
    return prior_mean(fitted, x) + prior + update


def evaluate_all(paths: Paths, x: Tensor) -> Tensor:
    """The value (s, q) of every path at every one of x (q, d): two matrix products."""
    fitted = paths.fitted
    prior = paths.weight @ _features(paths, x).mT
    return prior_mean(fitted, x) + prior + paths.correction @ covariance(fitted.kernel, fitted.hyper, fitted.x, x)


def _features(paths: Paths, x: Tensor) -> Tensor:
    """(r, F) at x (r, d)."""
    points = described(paths.fitted.kernel, paths.fitted.hyper, x)
    value = torch.cos(points.scaled @ paths.frequency.mT + paths.phase)
    start = 0
    for signs in paths.signs:
        levels = signs.shape[1]
        value = value * (points.one_hot[..., start : start + levels] @ signs.mT)
        start += levels
    if points.time is not None:
        value = value * torch.exp(-paths.rate * points.time[:, None])
    return value


def _gamma(uniform: Tensor, power: Tensor) -> Tensor:
    """Gamma variates of shape `power` and rate 1, (F,): the inverse of the distribution function, by bisection of its logarithm."""
    low, high = torch.full_like(uniform, -60.0), torch.full_like(uniform, 12.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = torch.special.gammainc(power.expand_as(uniform), middle.exp()) < uniform
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (0.5 * (low + high)).exp()

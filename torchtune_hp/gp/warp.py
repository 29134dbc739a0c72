"""How a number is bent before it is compared: a monotone map of [0, 1] onto itself, learned with the other hyperparameters.

    w(u) = 1 - (1 - u**a)**b        a, b > 0

- The idea is that of Snoek, Swersky, Zemel and Adams 2014, "Input warping for Bayesian optimization of non-stationary functions"
  (ICML). They take the distribution function of a beta distribution; this is Kumaraswamy's (1980, Journal of Hydrology 46), which
  has the same shapes and is elementary, as in BoTorch's `Warp`.
- a = b = 1 is the identity. a < 1 spreads out what lies near 0, as a logarithm does; b < 1 what lies near 1; both > 1 spread out
  the middle, and both < 1 the two ends.

Laws, each a test: w(0) = 0 and w(1) = 1 exactly; w rises; the derivatives are autograd's of the formula, and finite at both ends too;
by a and b there is no slope at the ends.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EDGE = 2.0**-26
"""Nearer to an end than this, the slope by u is said to be what it is here. At the ends it is infinite where a < 1, or b < 1, by however
little; infinity times nothing is NaN, and what is merely huge leads a climb along a face astray: with 2**-53 here it took up to twice as
many rounds, with 1e6 for what is infinite four times. At 2**-26 from 1, half of the digits of 1 - u**a are left."""

_LEAST = 2.0**-53
"""The least that 1 - p can be in float64 for a p < 1. It stands for 1 - p where p is 1 and a power of it, infinite, is multiplied by 0."""


def warped(u: Tensor, warp: Tensor) -> Tensor:
    """w(u), (..., n, m), of u (..., n, m) in [0, 1] with a and b in warp (..., 2, m). Differentiable in both, once."""
    if torch.is_grad_enabled() and (u.requires_grad or warp.requires_grad):
        value: Tensor = _Warped.apply(u, warp)
        return value
    a, b = _shapes(warp)
    return 1 - (1 - u**a) ** b


def slope(u: Tensor, warp: Tensor) -> Tensor:
    """dw / du, (..., n, m), of u at least EDGE from both ends."""
    a, b = _shapes(warp)
    u = u.clamp(EDGE, 1 - EDGE)
    return a * b * u ** (a - 1) * (1 - u**a) ** (b - 1)


def slopes_by_raw(u: Tensor, warp: Tensor) -> tuple[Tensor, Tensor]:
    """dw / d(log a) and dw / d(log b), (..., n, m) each. Both are 0 at the ends."""
    a, b = _shapes(warp)
    power = u**a
    left = 1 - power
    tail = left**b
    return b * left.clamp_min(_LEAST) ** (b - 1) * torch.xlogy(power, power), -torch.xlogy(tail, tail)


def columns(numbers: Tensor, places: tuple[int, ...] | None) -> Tensor:
    """(..., n, m): those of numbers (..., n, k) at `places`; None: all of them."""
    return numbers if places is None else numbers[..., list(places)]


def with_columns(numbers: Tensor, places: tuple[int, ...] | None, new: Tensor) -> Tensor:
    """numbers (..., n, k) with new (..., n, m) at `places`. Batches broadcast."""
    if places is None:
        return new
    whole = numbers.expand(*new.shape[:-1], numbers.shape[-1]).clone()
    whole[..., list(places)] = new
    return whole


def bent(numbers: Tensor, places: tuple[int, ...] | None, warp: Tensor | None, exists: Tensor | None) -> tuple[Tensor, Tensor]:
    """numbers (..., n, k) with those at `places` bent, and these (..., n, m) as they were, for the slopes.

    `exists` (..., n, k) bool, or None: all do. A number that does not is taken to an end, where w has no slope by a and b.
    Raises ValueError where there is no warp.
    """
    if warp is None:
        raise ValueError("a kernel with warped columns needs a and b of each, but hyper.warp is None; it holds them, (..., 2, m)")
    plain = columns(numbers, places)
    if exists is not None:
        plain = torch.where(columns(exists, places), plain, 0.0)
    return with_columns(numbers, places, warped(plain, warp)), plain


def _shapes(warp: Tensor) -> tuple[Tensor, Tensor]:
    """a and b, (..., 1, m) each: the same for all n points."""
    return warp[..., :1, :], warp[..., 1:, :]


class _Warped(torch.autograd.Function):
    """`warped`, with the derivatives above: autograd's own are NaN at the ends."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, warp: Tensor) -> Tensor:
        ctx.save_for_backward(u, warp)
        return warped(u, warp)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        u, warp = ctx.saved_tensors
        by_raw = torch.stack([(weight * part).sum(-2) for part in slopes_by_raw(u, warp)], -2)
        return (weight * slope(u, warp)).sum_to_size(u.shape), (by_raw / warp).sum_to_size(warp.shape)

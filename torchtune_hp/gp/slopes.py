"""How a covariance changes as its points move: closed-form, for what is climbed by the point (`kernel.pullback`: by hyperparameters).

Laws, each a test: the gradient is autograd's; a category, and a number that does not exist, have none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import warp
from .fade import fade_slope
from .kernel import SLOPE, UNIT, Compared, Hyper, Kernel, active, variance


def pullback_points(kernel: Kernel, hyper: Hyper, b: Tensor, found: Compared, weight: Tensor) -> Tensor:
    """sum_i weight_ij dk(a_i, b_j) / d(b_j): (..., m, d), for b (..., m, d) compared with n points, `found`, and weight (..., n, m).

    0 by categories and by what is not.
    """
    bent = weight * found.slope
    scale = (SLOPE[kernel.shape] * math.sqrt(UNIT[kernel.shape])) / hyper.lengthscale[..., None, : len(kernel.numbers)]
    numbers = (bent.mT @ found.a.scaled - bent.sum(-2)[..., None] * found.b.scaled) * scale
    if found.b.plain is not None and hyper.warp is not None:
        steeper = warp.columns(numbers, kernel.bent) * warp.slope(found.b.plain, hyper.warp)
        numbers = warp.with_columns(numbers, kernel.bent, steeper)
    k = len(kernel.numbers)
    if kernel.numbers == tuple(range(k)):
        gradient = numbers if k == b.shape[-1] else torch.nn.functional.pad(numbers, (0, b.shape[-1] - k))
    else:
        gradient = b.new_zeros(*numbers.shape[:-1], b.shape[-1])
        gradient[..., list(kernel.numbers)] = numbers
    if kernel.conditions:
        gradient = gradient * active(kernel, b)
    if found.a.time is not None and found.b.time is not None:
        both = found.a.time[..., :, None] + found.b.time[..., None, :]
        gradient[..., kernel.fidelity] = (weight * found.value * fade_slope(hyper.decay[..., None, None, :], both)).sum(-2)
    return gradient


def variance_slope(kernel: Kernel, hyper: Hyper, x: Tensor) -> Tensor | None:
    """d variance / dx: (..., n) by the fidelity; None without one, for then the variance is the same everywhere."""
    if kernel.fidelity is None:
        return None
    return 2 * variance(kernel, hyper, x) * fade_slope(hyper.decay[..., None, :], 2 * x[..., kernel.fidelity])


def scales(kernel: Kernel, hyper: Hyper, d: int) -> Tensor:
    """The lengthscale of each of d columns, of one process: (d,); 1 where a column is no number. Of a warped one, that of w: from face
    to face a warp is of slope 1 on average."""
    scale = torch.ones(d, dtype=hyper.lengthscale.dtype, device=hyper.lengthscale.device)
    scale[list(kernel.numbers)] = hyper.lengthscale[: len(kernel.numbers)]
    return scale

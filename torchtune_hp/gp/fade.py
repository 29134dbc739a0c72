"""How much of a process is left of training that was cut short: the factor of the fidelity, and its derivatives.

    fade(t, u) = (w + D(t, u)) / (w + D(1, 1))        D(t, u) = (b / (b + t + u))**p

w, b and p are `Hyper.decay` (..., 3); why it is this is said at the head of `kernel.py`. All of it depends on t + u alone.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fade(decay: Tensor, both: Tensor) -> Tensor:
    """fade of t + u = both (...), with w, b, p in decay (..., 3)."""
    stays, scale, power = decay.unbind(-1)
    return (stays + (scale / (scale + both)) ** power) / (stays + (scale / (scale + 2)) ** power)


def fade_slope(decay: Tensor, both: Tensor) -> Tensor:
    """d(log fade) / d(t + u) at t + u = both (...)."""
    stays, scale, power = decay.unbind(-1)
    fades = (scale / (scale + both)) ** power
    return -power / (scale + both) * fades / (stays + fades)


def fade_pullback(decay: Tensor, time: Tensor, whole: Tensor) -> Tensor:
    """sum_ab whole_ab d(log fade_ab) / d(log decay): (..., 3)."""
    stays, scale, power = decay[..., None, None, :].unbind(-1)
    both = time[..., :, None] + time[..., None, :]

    def fading(both: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D, and its derivatives by log b and log p."""
        ratio = scale / (scale + both)
        value = ratio**power
        return value, value * power * (1 - ratio), value * power * ratio.log()

    (here, *slopes), (end, *end_slopes) = fading(both), fading(torch.full_like(scale, 2.0))
    parts = [stays / (stays + here) - stays / (stays + end)]
    parts += [slope / (stays + here) - end_slope / (stays + end) for slope, end_slope in zip(slopes, end_slopes)]
    return torch.stack([(whole * part).sum((-2, -1)) for part in parts], -1)

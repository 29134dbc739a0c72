"""What a point is worth, from the normal distribution of its value alone. Values are minimized, acquisitions are maximized.

    symbol   here        shape   what it is
    mu       mean        (...)   of the process at the point
    sigma    deviation   (...)   its standard deviation, > 0
    f*       best        (...)   what is to be improved upon: the least value known
    z                    (...)   (f* - mu) / sigma

    EI = sigma h(z), h(z) = phi(z) + z Phi(z);    PI = Phi(z);    UCB = sqrt(beta) sigma - mu

Everything is float64, broadcasts, and is differentiable. The logarithms have finite values and gradients however hopeless the
point: EI underflows 38 standard deviations above the best, and no optimizer climbs from there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FAINT = 1e-250
"""The least mean of h that `mean_h` is right about: at z = -34 the two terms of h cancel to a thousandth, of which 1e-9 is rounding."""

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_SQRT_HALF_PI = math.sqrt(0.5 * math.pi)
_FAR = -50.0            # below, h(z) is the first terms of its asymptotic series: the rest is under 2e-13 of it
_SURE = 8.0             # above, h(z) is z: the rest is under 1e-16 of it
_SMALLEST = 1e-20
_DIM = 1e-30            # a mean of h below, z = -11, is taken by logarithms where 1e-12 of it matters


def deviation(variance: Tensor) -> Tensor:
    """The standard deviation (...), at least 1e-10: where the process was observed without noise, rounding leaves 0 or less."""
    return variance.clamp_min(_SMALLEST).sqrt()


def expected_improvement(mean: Tensor, deviation: Tensor, best: Tensor) -> Tensor:
    """EI (...) (J. Mockus 1975; Jones, Schonlau and Welch, J. Global Optim. 13 (1998), eq. 15)."""
    z = (best - mean) / deviation
    return deviation * (_density(z) + z * _below(z))


def log_expected_improvement(mean: Tensor, deviation: Tensor, best: Tensor) -> Tensor:
    """log EI (...) (Ament et al., "Unexpected improvements to expected improvement", NeurIPS 2023, section 4.1 and eq. 9)."""
    z = (best - mean) / deviation
    value, slope = log_h(z.detach())
    return (_with_slope(z, value, slope) if z.requires_grad else value) + deviation.log()


def probability_of_improvement(mean: Tensor, deviation: Tensor, best: Tensor) -> Tensor:
    """PI (...) (H. Kushner, J. Basic Eng. 86 (1964))."""
    return _below((best - mean) / deviation)


def log_probability_of_improvement(mean: Tensor, deviation: Tensor, best: Tensor) -> Tensor:
    """log PI (...)."""
    return log_ndtr((best - mean) / deviation)


def upper_confidence_bound(mean: Tensor, deviation: Tensor, beta: float = 4.0) -> Tensor:
    """UCB (...) of -f (Srinivas et al., ICML 2010, alg. 1): what the point may be at best. Raises ValueError unless beta >= 0."""
    if not beta >= 0:
        raise ValueError(f"beta >= 0 must hold, but got {beta}: it weighs the deviation, and its root is taken.")
    return math.sqrt(beta) * deviation - mean


def log_feasibility(mean: Tensor, deviation: Tensor, bound: Tensor) -> Tensor:
    """log of the probability that every one of c independent outcomes is at most its bound: (..., c) each -> (...).

    Added to log EI it makes constrained EI (Gardner et al., "Bayesian optimization with inequality constraints", ICML 2014, eq. 5).
    """
    return log_ndtr((bound - mean) / deviation).sum(-1)


def log_ndtr(z: Tensor) -> Tensor:
    """log Phi(z), with a derivative phi / Phi that neither underflows nor cancels."""
    near = z.detach().clamp_min(-1.0)
    far = z.detach().clamp_max(-1.0)
    tail = torch.special.erfcx(-far / math.sqrt(2))
    value = torch.where(z < -1, -0.5 * far * far + torch.log(0.5 * tail), torch.special.ndtr(near).log())
    if not z.requires_grad:
        return value
    slope = torch.where(z < -1, 1 / (_SQRT_HALF_PI * tail), _density(near) / torch.special.ndtr(near))
    return _with_slope(z, value, slope)


def log_h(z: Tensor) -> tuple[Tensor, Tensor]:
    """log h(z) and its slope Phi / h, for h' = Phi; not differentiated.

    h(z) = phi(z) t(z), t(z) = 1 + z M(-z) of Mills' ratio M. Far below the two cancel: then t is 1 / z**2 - 3 / z**4 + ...
    Above _SURE h is z to the last bit.
    """
    inner = z.clamp_max(_SURE)
    mills = torch.special.erfcx(inner * -math.sqrt(0.5)).mul_(_SQRT_HALF_PI)
    t = inner * mills + 1
    far = inner < _FAR
    if far.any():
        square = inner.clamp_max(_FAR) ** -2
        t = torch.where(far, square * (1 - square * (3 - square * (15 - square * (105 - 945 * square)))), t)
    t = t.mul_(z.clamp_min(_SURE).div_(_SURE))
    return t.log().sub_((inner * inner).mul_(0.5).add_(_LOG_SQRT_2PI)), mills / t


def mean_h(z: Tensor) -> Tensor:
    """The mean of h(z) over s samples (s, ...) -> (...), right to 1e-9 of it down to FAINT; what is less is at least known to be less."""
    return torch.addcmul(_density(z), z, _below(z)).mean(0)


def log_mean_h(z: Tensor) -> tuple[Tensor, Tensor]:
    """log of the mean of h(z) over s samples (s, ...) -> (...), and its slope by each z (s, ...); not differentiated.

    One logarithm for all samples, and no scaled error function, unless h is too faint for that: a fifth of the time of `log_h`.
    """
    below = _below(z)
    total = torch.addcmul(_density(z), z, below).sum(0)
    value, slope = (total / len(z)).log_(), below / total
    faint = total < _DIM * len(z)
    if faint.any():
        each, steep = log_h(z[:, faint])
        value[faint] = each.logsumexp(0) - math.log(len(z))
        slope[:, faint] = each.softmax(0) * steep
    return value, slope


def _below(z: Tensor) -> Tensor:
    """Phi(z), with all its digits far below: `ndtr` has none left at -8."""
    return torch.erfc(z * -math.sqrt(0.5)).mul_(0.5)


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z * z - _LOG_SQRT_2PI)


def _with_slope(z: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """`value` (...), with the derivative `slope` by z: autograd's own would cancel or underflow."""
    return value + slope * (z - z.detach())

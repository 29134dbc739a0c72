"""Exact Gaussian process regression (Rasmussen and Williams 2006, chapter 2 and section 5.4), as pure functions.

    symbol   here         shape            what it is
    x        x            (..., n, d)      points of the unit cube, one observation each; n may be 0: then this is the prior
    y        y            (..., n)         observations, in any unit; the priors of `fit` expect them standardised
    m        mean         (..., n)         the mean: hyper.mean, a constant, and what `trend` says of each point
    K                     (..., n, n)      covariance(x, x), without noise
    N        noise        (..., n)         variance of each observation: hyper.noise, what the caller adds, and jitter
    L        factor       (..., n, n)      lower Cholesky factor, L L' = K + diag(N)
    z        whitened     (..., n)         L^-1 (y - m)
    alpha    alpha        (..., n)         L'^-1 z = (K + diag(N))^-1 (y - m)
    *                     (..., q, d)      where the process is asked for

Everything is float64. "..." is the batch: restarts, objectives, tasks; shapes broadcast, so x (n, d) with y (3, n) is three processes.

Laws, each a test:
1. Means and variances are of the process, without the noise of an observation; only `leave_one_out` is about observations.
2. `extend` gives what `condition` gives on all points, at O(n**2 q).
3. Jitter is added only to the elements of the batch that have no factor without it, the least of JITTER that is enough, in
   units of outputscale; it is kept in `noise`, so all that is computed from one `Fitted` agrees.
4. An element of the batch is what it would be alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .kernel import Hyper, Kernel, compared, covariance, pullback, unpack, variance

JITTER = (1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)


Trend = Callable[[Tensor], Tensor]
"""x (..., n, d) -> (..., n): what is believed of the values before any observation, up to hyper.mean. Differentiable in x."""


class Fitted(NamedTuple):
    """A Gaussian process that has seen x and y. See the table at the head of this file."""

    kernel: Kernel
    hyper: Hyper
    x: Tensor
    y: Tensor
    noise: Tensor
    factor: Tensor
    whitened: Tensor
    alpha: Tensor
    trend: Trend | None = None


def prior_mean(fitted: Fitted, x: Tensor) -> Tensor:
    """m at x (..., n, d), before any observation: (..., n) or (..., 1). Differentiable in x."""
    constant = fitted.hyper.mean[..., None]
    return constant if fitted.trend is None else constant + fitted.trend(x)


def condition(
    kernel: Kernel, x: Tensor, y: Tensor, hyper: Hyper, noise: Tensor | None = None, trend: Trend | None = None
) -> Fitted:
    """The process given observations y (..., n) at x (..., n, d).

    `noise` (..., n): variance of each observation beyond hyper.noise, as of a mean over few seeds or folds. `trend`: see Trend.
    Raises ValueError for shapes or dtypes that do not fit, for what is not finite, and where even the largest jitter gives no factor.
    """
    refuse(kernel, x, y)
    batch = _batch(x.shape[:-2], y.shape[:-1], hyper.mean.shape)
    n = y.shape[-1]
    total = hyper.noise[..., None] if noise is None else hyper.noise[..., None] + noise
    total = total.expand(*batch, n)
    factor, jitter = factorize(covariance(kernel, hyper, x) + torch.diag_embed(total), hyper.outputscale)
    factor = factor.expand(*batch, n, n)
    residual = y - hyper.mean[..., None] if trend is None else y - hyper.mean[..., None] - trend(x)
    whitened = _solve(factor, residual.expand(*batch, n))
    return Fitted(
        kernel,
        hyper,
        x.expand(*batch, *x.shape[-2:]),
        y.expand(*batch, n),
        total + jitter[..., None],
        factor,
        whitened,
        _solve_t(factor, whitened),
        trend,
    )


def extend(fitted: Fitted, x: Tensor, y: Tensor, noise: Tensor | None = None) -> Fitted:
    """`fitted` given further observations y (..., q) at x (..., q, d), hyperparameters kept: O(n**2 q) instead of O(n**3).

    With L of the old points, [L 0; B' C] is the factor of all, where L B = K(old, new) and C C' = K(new, new) + N - B' B.
    """
    kernel, hyper = fitted.kernel, fitted.hyper
    refuse(kernel, x, y)
    batch = _batch(fitted.factor.shape[:-2], x.shape[:-2], y.shape[:-1])
    n, q = fitted.y.shape[-1], y.shape[-1]
    total = hyper.noise[..., None] if noise is None else hyper.noise[..., None] + noise
    total = total.expand(*batch, q)
    below = torch.linalg.solve_triangular(fitted.factor, covariance(kernel, hyper, fitted.x, x), upper=False)
    rest = covariance(kernel, hyper, x) + torch.diag_embed(total) - below.mT @ below
    corner, jitter = factorize(rest, hyper.outputscale)
    factor = torch.cat(
        [
            torch.cat([fitted.factor.expand(*batch, n, n), below.new_zeros(()).expand(*batch, n, q)], -1),
            torch.cat([below.mT.expand(*batch, q, n), corner.expand(*batch, q, q)], -1),
        ],
        -2,
    )
    residual = (y - prior_mean(fitted, x)) - (below.mT @ fitted.whitened[..., None])[..., 0]
    whitened = torch.cat([fitted.whitened.expand(*batch, n), _solve(corner, residual).expand(*batch, q)], -1)
    return Fitted(
        kernel,
        hyper,
        torch.cat([fitted.x.expand(*batch, *fitted.x.shape[-2:]), x.expand(*batch, *x.shape[-2:])], -2),
        torch.cat([fitted.y.expand(*batch, n), y.expand(*batch, q)], -1),
        torch.cat([fitted.noise.expand(*batch, n), total + jitter[..., None]], -1),
        factor,
        whitened,
        _solve_t(factor, whitened),
        fitted.trend,
    )


def predict(fitted: Fitted, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (..., q) of the process at x (..., q, d) (eqs. 2.25, 2.26); the variance is at least 0. Differentiable in x."""
    center, half = _project(fitted, x)
    return center, (variance(fitted.kernel, fitted.hyper, x) - half.square().sum(-2)).clamp_min(0)


def means(fitted: Fitted, x: Tensor) -> Tensor:
    """What `predict` says of the mean (..., q) at x (..., q, d), without the solve that a variance needs. Differentiable in x.

    At the observations, x being `fitted.x` itself, it is y - N alpha, and nothing is compared: O(n).
    """
    if x is fitted.x and not x.requires_grad:
        return fitted.y - fitted.noise * fitted.alpha
    cross = covariance(fitted.kernel, fitted.hyper, fitted.x, x)
    found: Tensor = prior_mean(fitted, x) + (cross.mT @ fitted.alpha[..., None])[..., 0]
    return found


def joint(fitted: Fitted, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (..., q) and covariance (..., q, q) of the process at x (..., q, d). Differentiable in x."""
    center, half = _project(fitted, x)
    return center, covariance(fitted.kernel, fitted.hyper, x) - half.mT @ half


def sample(fitted: Fitted, x: Tensor, normals: Tensor) -> Tensor:
    """Joint samples (..., s, q) of the process at x (..., q, d), made of standard normals (..., s, q). Differentiable in x."""
    center, matrix = joint(fitted, x)
    root, _ = factorize(matrix, fitted.hyper.outputscale)
    return center[..., None, :] + normals @ root.mT


def leave_one_out(fitted: Fitted) -> tuple[Tensor, Tensor]:
    """For each observation its mean and variance (..., n), noise included, given all others (eq. 5.12): no refit, O(n**3) in all."""
    precision = torch.cholesky_inverse(fitted.factor).diagonal(dim1=-2, dim2=-1)
    return fitted.y - fitted.alpha / precision, precision.reciprocal()


Rooms = tuple[Tensor, Tensor, Tensor, Tensor]
"""Four tensors (..., n, n) for `log_marginal` to compute in: on a CPU new memory costs more than the arithmetic that is done in it."""


def log_marginal(
    kernel: Kernel, x: Tensor, y: Tensor, raw: Tensor, noise: Tensor | None = None, rooms: Rooms | None = None
) -> tuple[Tensor, Tensor]:
    """log p(y | x, raw), (...), and its closed-form gradient by raw (..., p) (eqs. 2.30, 5.9); `pack` says what raw is.

    Nothing is raised for an element without a factor, and no jitter is added: its value is -inf and its gradient 0, so that an
    optimizer steps back. In a fit the noise has a lower bound, which makes that rare. What `rooms` hold is written over.
    """
    with torch.no_grad():
        hyper = unpack(kernel, raw)
        one, two, three, four = rooms or (None, None, None, None)
        found = compared(kernel, hyper, x, room=None if rooms is None else rooms[:3])
        total = hyper.noise[..., None] if noise is None else hyper.noise[..., None] + noise
        matrix = found.value.clone() if three is None else three.copy_(found.value)
        matrix.diagonal(dim1=-2, dim2=-1).add_(total)
        info = torch.empty(matrix.shape[:-2], dtype=torch.int32, device=matrix.device)
        torch.linalg.cholesky_ex(matrix.mT, out=(matrix.mT, info))      # symmetric: its transpose is itself, and is how LAPACK writes
        factor = matrix.mT
        residual = y - hyper.mean[..., None]
        whitened = _solve(factor, residual)
        alpha = _solve_t(factor, whitened)
        logs = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        value = -0.5 * whitened.square().sum(-1) - logs - 0.5 * y.shape[-1] * math.log(2 * math.pi)
        # -2 dvalue/dK = (K + N)^-1 - alpha alpha'
        weight = torch.cholesky_inverse(factor, out=None if four is None else four.mT).mT
        weight.addcmul_(alpha[..., :, None], alpha[..., None, :], value=-1)
        moved = -0.5 * pullback(kernel, hyper, found, weight, three)
        by_noise = -0.5 * weight.diagonal(dim1=-2, dim2=-1).sum(-1) * hyper.noise
        k = kernel.lengthscales + 1
        gradient = torch.cat([moved[..., :k], torch.stack([by_noise, alpha.sum(-1)], -1), moved[..., k:]], -1)
        good = (info == 0) & value.isfinite() & gradient.isfinite().all(-1)
        return torch.where(good, value, -torch.inf), torch.where(good[..., None], gradient, 0.0)


def factorize(matrix: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factors of (..., n, n), and the jitter (...) each needed: 0, or the least of JITTER * scale.

    Differentiable. Raises ValueError where the largest jitter is not enough: the matrix is no covariance, or is not finite.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    jitter = torch.zeros_like(matrix[..., 0, 0] if matrix.shape[-1] else matrix.sum((-2, -1)))
    if not (info > 0).any():
        return factor, jitter
    scale = scale.detach().expand(info.shape)
    for rung in JITTER:
        failed = info > 0
        jitter = torch.where(failed, rung * scale, jitter)
        # All elements again, so that each has its gradient through one factor; those without jitter get the same bits.
        factor, info = torch.linalg.cholesky_ex(matrix + torch.diag_embed(jitter[..., None].expand(matrix.shape[:-1])))
        if not (info > 0).any():
            return factor, jitter
    raise ValueError(
        f"a covariance matrix has a Cholesky factor, but {int((info > 0).sum())} of {info.numel()} have none even with jitter "
        f"{JITTER[-1]:g} * outputscale; is anything not finite, or a hyperparameter extreme?"
    )


def _project(fitted: Fitted, x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (..., q) at x, and L^-1 K(fitted, x), (..., n, q)."""
    cross = covariance(fitted.kernel, fitted.hyper, fitted.x, x)
    center = prior_mean(fitted, x) + (cross.mT @ fitted.alpha[..., None])[..., 0]
    return center, torch.linalg.solve_triangular(fitted.factor, cross, upper=False)


def _solve(factor: Tensor, vector: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(factor, vector[..., None], upper=False)
    return solution[..., 0]


def _solve_t(factor: Tensor, vector: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(factor.mT, vector[..., None], upper=True)
    return solution[..., 0]


def _batch(*shapes: torch.Size) -> torch.Size:
    return torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call, no-any-return]


def refuse(kernel: Kernel, x: Tensor, y: Tensor) -> None:
    if x.dtype != torch.float64 or y.dtype != torch.float64:
        raise ValueError(f"x and y must be float64, but are {x.dtype} and {y.dtype}; a covariance in less has no reliable factor")
    if x.ndim < 2 or y.ndim < 1 or x.shape[-2] != y.shape[-1]:
        raise ValueError(f"x must be (..., n, d) and y (..., n) with one n, but are {tuple(x.shape)} and {tuple(y.shape)}")
    for name, tensor in (("x", x), ("y", y)):
        if not tensor.isfinite().all():
            wrong = int((~tensor.isfinite()).sum())
            raise ValueError(f"{name} must be finite, but {wrong} of its {tensor.numel()} numbers are not; leave those observations out")
    if kernel.warped and not ((bent := x[..., list(kernel.warped)]) >= 0).logical_and_(bent <= 1).all():
        wrong = int(((bent < 0) | (bent > 1)).sum())
        raise ValueError(f"warped columns of x must lie in [0, 1], but {wrong} of {bent.numel()} do not; a warp is of the unit cube")

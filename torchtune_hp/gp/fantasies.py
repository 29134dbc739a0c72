"""What is not known yet, imagined: joint samples of the process at noisy or pending points, and choosing many points at once.

Observations are noisy, so the best value known is not; trials are running, so what they will say is not known either. Both are
drawn: s joint samples f~ at m points (the best ones observed, and all that are pending), with normals fixed by the caller, and
improvement is averaged over them (Letham et al., "Constrained Bayesian optimization with noisy experiments", Bayesian Anal. 14
(2019), eqs. 8-9; its logarithm as in Ament et al. 2023, section 4.2). With L the factor of the observations and the m points,
these without noise, a sample is L^-1 (f~ - mean) = [z, e]: z as fitted, e its normals. So nothing is solved per sample.

    log NEI(x) = log 1/s sum_i EI(x | f~_i, least of f~_i)

A batch is chosen greedily from a pool, each choice joining the m points (Wilson, Hutter and Deisenroth, "Maximizing acquisition
functions for Bayesian optimization", NeurIPS 2018, section 3.3). All it needs is the pool's joint covariance, computed once: a
choice is then a step of a pivoted Cholesky factorization, O(p (q + s)) for a pool of p, and does not touch the n observations.

What is left of the variance where all is known is rounding, and so is the improvement there: log NEI is -inf, not the logarithm of
that rounding, which beats an honest exp(-40) far from the observations and ruins the factorization once it is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .acquisition import FAINT, deviation, log_mean_h, mean_h
from .kernel import Points, compared, covariance, described, variance
from .regression import Fitted, extend, means, predict, prior_mean
from .slopes import pullback_points, variance_slope

KNOWN = 1e-10
"""The share of its prior variance below which a point's value is known."""


class Fantasies(NamedTuple):
    """A process given s joint samples of its values at m points beyond the n it was fitted to.

    `fitted`: n + m points; its own y at the m are the means. `whitened` (n + m, s); `values` (s, m); `best` (s,): the least of them.
    `points`: the n + m, as the kernel sees them.
    """

    fitted: Fitted
    whitened: Tensor
    values: Tensor
    best: Tensor
    points: Points


def fantasize(fitted: Fitted, x: Tensor, normals: Tensor) -> Fantasies:
    """Joint samples at x (m, d), m >= 1, of one process (no batch), made of standard normals (s, m).

    Normals of zeros, s = 1, are the means: a plug-in incumbent for the best ones, the kriging believer for pending ones.
    Raises ValueError for other shapes.
    """
    n, m = fitted.y.shape[-1], len(x)
    if fitted.y.ndim != 1 or m == 0 or normals.ndim != 2 or normals.shape[1] != m:
        raise ValueError(
            f"one process, x (m, d) with m >= 1 and normals (s, m) are needed, but got y {tuple(fitted.y.shape)}, x {tuple(x.shape)} "
            f"and normals {tuple(normals.shape)}. Where nothing was observed there is nothing to improve upon: draw at random."
        )
    mean, _ = predict(fitted, x)
    extended = extend(fitted, x, mean, noise=-fitted.hyper.noise.expand(m))
    values = mean + normals @ extended.factor[n:, n:].mT
    whitened = torch.cat([fitted.whitened[:, None].expand(n, len(normals)), normals.mT])
    return Fantasies(extended, whitened, values, values.amin(-1), described(fitted.kernel, fitted.hyper, extended.x))


def incumbents(fitted: Fitted, x: Tensor, most: int) -> Tensor:
    """Those of x (n, d) that may be the best: the `most` of least mean, distinct, (m, d). With all, nothing is left out of NEI."""
    order, points, found = means(fitted, x).argsort(stable=True).tolist(), x.tolist(), dict[tuple[float, ...], int]()
    for k in order:
        found.setdefault(tuple(points[k]), k)
        if len(found) == most:
            break
    return x[list(found.values())]


def moments(fantasies: Fantasies, x: Tensor) -> tuple[Tensor, Tensor]:
    """The means (s, q) under each sample, and the variance (q,), the same under all, at x (q, d). Differentiable in x."""
    mean, half = _project(fantasies, x)
    fitted = fantasies.fitted
    return mean, (variance(fitted.kernel, fitted.hyper, x) - half.square().sum(0)).clamp_min(0)


def log_noisy_expected_improvement(fantasies: Fantasies, x: Tensor) -> Tensor:
    """log NEI (q,) at x (q, d). Differentiable in x, once."""
    return _log_nei(_Known(fantasies.fitted, fantasies.points, fantasies.whitened, fantasies.best[:, None], None), x)


@torch.no_grad()
def choose(fantasies: Fantasies, pool: Tensor, normals: Tensor, *, bonus: Tensor | None = None) -> Tensor:
    """Which q of the pool (p, d) to run at once: (q,) int64, distinct, in order, each the best by log NEI given those before it.

    `normals` (s, q): of the values imagined at the choices. `bonus` (p,): added to log NEI, as log feasibility; -inf: never, unless
    nothing else is left, as of what is known. Memory: p * p + p * (n + m) float64. Raises ValueError for a pool of fewer than q points.
    """
    s, q = normals.shape
    if s != len(fantasies.best) or q > len(pool):
        raise ValueError(
            f"normals must be (s, q) with s = {len(fantasies.best)} and q <= {len(pool)}, the size of the pool, but are {(s, q)}. "
            "Enlarge the pool."
        )
    fitted = fantasies.fitted
    mean, half = _project(fantasies, pool)
    matrix = covariance(fitted.kernel, fitted.hyper, pool) - half.mT @ half
    square, best = matrix.diagonal().clone(), fantasies.best
    roots = pool.new_zeros(len(pool), q)
    floor = _floor(fantasies, pool)
    open_to = torch.zeros_like(square) if bonus is None else bonus.clamp_min(_NEVER)
    chosen: list[int] = []
    for j in range(q):
        spread = deviation(square)
        k = _best((best[:, None] - mean) / spread, spread.log().masked_fill_(square <= floor, -torch.inf), open_to)
        chosen.append(k)
        open_to[k] = -torch.inf
        if square[k] > floor[k]:        # else nothing is learned
            # Column k of the covariance given all choices so far, over its deviation: one column of the Cholesky factor.
            column = roots[:, j]
            torch.sub(matrix[k], roots[:, :j] @ roots[k, :j], out=column).div_(spread[k])
            square = square.addcmul(column, column, value=-1).clamp_min_(0)
            mean = torch.addr(mean, normals[:, j], column)
        best = torch.minimum(best, mean[:, k])
    return torch.tensor(chosen, dtype=torch.int64, device=pool.device)


def in_order(fantasies: Fantasies, x: Tensor, normals: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """log NEI of a batch's point given those before it: (at (r, d), number (r,) int64) -> (r,), for x (q, d) chosen with `normals` (s, q).

    All q at once, for the factor is triangular: its first n + m + j rows are the factor of what number j is given.
    """
    known = len(fantasies.whitened)
    whole = fantasize(fantasies.fitted, x, normals[:0])._replace(whitened=torch.cat([fantasies.whitened, normals.mT]))
    told = prior_mean(whole.fitted, x) + whole.whitened.mT @ whole.fitted.factor[known:].mT
    best = torch.cat([fantasies.best[:, None], told], 1).cummin(1).values
    place = torch.arange(known + len(x), device=x.device)[:, None]

    def score(at: Tensor, number: Tensor) -> Tensor:
        return _log_nei(_Known(whole.fitted, whole.points, whole.whitened, best[:, number], place < known + number), at)

    return score


_NEVER = -1e300         # twice this is still finite, and what was chosen is still below


class _Known(NamedTuple):
    """What log NEI is given at each of q points: `best` (s, 1) or (s, q); `rows` (n, q) bool: of the process, or None: all."""

    fitted: Fitted
    points: Points
    whitened: Tensor    # (n, s)
    best: Tensor
    rows: Tensor | None


def _log_nei(known: _Known, x: Tensor) -> Tensor:
    if x.requires_grad and torch.is_grad_enabled():
        value: Tensor = _Climbed.apply(x, known)
        return value
    return _scored(known, x, sloped=False)[0]


class _Climbed(torch.autograd.Function):
    """log NEI and its closed-form gradient, of one covariance and two triangular solves: a graph costs more than the numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, known: _Known) -> Tensor:
        value, gradient = _scored(known, x, sloped=True)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return weight[:, None] * gradient, None


@torch.no_grad()
def _scored(known: _Known, x: Tensor, *, sloped: bool) -> tuple[Tensor, Tensor]:
    """log NEI (q,) at x (q, d), and its gradient (q, d) where it is `sloped`; (-inf, 0) where all is known."""
    kernel, hyper, factor = known.fitted.kernel, known.fitted.hyper, known.fitted.factor
    found = compared(kernel, hyper, known.points, x)
    half = torch.linalg.solve_triangular(factor, found.value, upper=False)
    half = half if known.rows is None else half * known.rows
    prior = variance(kernel, hyper, x)
    square = prior - half.square().sum(0)
    spread = deviation(square)
    moved, expected = x, prior_mean(known.fitted, x)
    if known.fitted.trend is not None and sloped:       # which is anybody's function
        with torch.enable_grad():
            moved = x.detach().requires_grad_()
            expected = prior_mean(known.fitted, moved)
    z = (known.best - expected.detach() - known.whitened.mT @ half) / spread
    value, slope = log_mean_h(z)
    certain = square <= KNOWN * prior
    value = value.add_(spread.log()).masked_fill_(certain, -torch.inf)
    if not sloped:
        return value, x
    # d log EI = sum_i slope_i dz_i + d sigma / sigma, and dz = -(d mu + z d sigma) / sigma.
    by_mean = slope / -spread
    by_square = (1 - (slope * z).sum(0)).div_(2 * spread * spread)
    by_half = torch.addcmul(known.whitened @ by_mean, by_square, half, value=-2)
    by_half = by_half if known.rows is None else by_half * known.rows
    weight = torch.linalg.solve_triangular(factor.mT, by_half, upper=True)
    gradient = pullback_points(kernel, hyper, x, found, weight)
    if expected.requires_grad:
        gradient = gradient + torch.autograd.grad(expected, moved, by_mean.sum(0))[0]
    rises = variance_slope(kernel, hyper, x)
    if rises is not None and kernel.fidelity is not None:
        gradient[:, kernel.fidelity] += by_square * rises
    return value, gradient.masked_fill_(certain[:, None], 0.0)


def _best(z: Tensor, log_spread: Tensor, bonus: Tensor) -> int:
    """Where log NEI + bonus (p,) is largest, of z (s, p) and the logarithm of the deviation (p,), -inf where all is known.

    What is faint is told apart only if it could be the largest were it as large as faint things are.
    """
    size = mean_h(z)
    k = int(((size.clamp_min(FAINT).log_() + log_spread).clamp_min_(_NEVER) + bonus).argmax())
    if size[k] < FAINT:
        k = int(((log_mean_h(z)[0] + log_spread).clamp_min_(_NEVER) + bonus).argmax())
    return k


def _floor(fantasies: Fantasies, x: Tensor) -> Tensor:
    """The variance (q,) at which x (q, d) is known."""
    return KNOWN * variance(fantasies.fitted.kernel, fantasies.fitted.hyper, x.detach())


def _project(fantasies: Fantasies, x: Tensor) -> tuple[Tensor, Tensor]:
    """The means (s, q) at x (q, d), and L^-1 K(all, x), (n + m, q)."""
    fitted = fantasies.fitted
    half = torch.linalg.solve_triangular(fitted.factor, covariance(fitted.kernel, fitted.hyper, fitted.x, x), upper=False)
    return prior_mean(fitted, x) + fantasies.whitened.mT @ half, half

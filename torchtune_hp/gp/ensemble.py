"""What earlier tasks say of a new one: their processes, weighted by how well each ranks what the new task has shown so far.

Weights are those of the rank-weighted ensemble (RGPE; Feurer, Letham and Bakshy, "Scalable meta-learning for Bayesian optimization
using ranking-weighted Gaussian process ensembles", AutoML workshop at ICML 2018, section 4). With m sources and the target, number m:

    loss_i = sum_jk [(f_i(x_j) < f_i(x_k)) xor (y_j < y_k)]         over pairs j != k that can be compared; f_i drawn from source i
    loss_m = the same of f_-j(x_j) < y_k, f_-j drawn from the target's process without observation j
    w_i    = the share of the draws in which loss_i is the least; the target has the ties it is part of, else sources share them

Against dilution by many poor sources, one whose median loss is beyond the 95 % quantile of the target's is left out first.

How weights are used differs from the paper, which adds up posteriors. Here sources are the mean of the target's process (its trend),

    trend(x) = sum_i w_i b_i (mu_i(x) - a_i)        b_i >= 0 and a_i: the least squares line from mu_i to y at the points observed
    f        = trend + g,   g the target's process, its variance that of y times the share that the trend leaves unexplained

so that what was observed is always met, however much a source weighs, and a source in another unit of the same metric counts.

Laws, each a test: weights are a written-out formula's; they are at least 0 and add up to 1; a source's order and unit change nothing;
a source without weight changes no bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .kernel import Hyper
from .regression import Fitted, leave_one_out, sample

QUANTILE = 0.95
"""A source is left out whose median loss is beyond this quantile of the target's losses."""

PADDED = 1e8
"""The variance of an observation that is none: rows that make sources of different sizes one batch."""

_EXPLAINED = 0.99       # the most that a trend explains: the process keeps a deviation of a tenth
_LINE = 1               # what a slope takes of the degrees of freedom


def misranked(drawn: Tensor, against: Tensor, y: Tensor, comparable: Tensor) -> Tensor:
    """(s,) float64: in how many pairs (j, k), of those that are `comparable` (n, n) bool, drawn_j < against_k is not what y_j < y_k is.

    `drawn` and `against` (s, n), `y` (n,).
    """
    wrong = (drawn[:, :, None] < against[:, None, :]) ^ (y[:, None] < y[None, :])
    return (wrong & comparable).sum((-2, -1)).to(y.dtype)


def weights(losses: Tensor) -> Tensor:
    """(m + 1,), the sources' and the target's, from losses (m + 1, s). See the head of this file."""
    target = losses[-1]
    diluting = losses[:-1].quantile(0.5, dim=1) > target.quantile(QUANTILE) if len(losses) > 1 else target[:0].bool()
    kept = torch.cat([losses[:-1].masked_fill(diluting[:, None], torch.inf), target[None]])
    won = kept == kept.amin(0)
    won = torch.where(won[-1], torch.arange(len(won))[:, None] == len(won) - 1, won).to(losses.dtype)
    return (won / won.sum(0)).mean(1)


def ranking(sources: Fitted, target: Fitted, x: Tensor, comparable: Tensor, normals: Tensor) -> Tensor:
    """Weights (m + 1,) of a batch of m sources at x (m, n, d), the target's own points as each source sees them.

    `target` holds the n points and outcomes; which pairs of them are `comparable` (n, n) bool. `normals` (m + 1, s, n).
    """
    y = target.y
    comparable = comparable & ~torch.eye(len(y), dtype=torch.bool)      # a draw may well be less than the outcome that it is of
    drawn = sample(sources, x, normals[:-1])
    mean, square = leave_one_out(target)
    own = mean + (square - target.noise).clamp_min(0).sqrt() * normals[-1]
    losses = [misranked(of, of, y, comparable) for of in drawn]
    return weights(torch.stack([*losses, misranked(own, y.expand_as(own), y, comparable)]))


class Line(NamedTuple):
    """From each source's mean to the target's outcomes: slope (m,) and center (m,), and the share of y (n,) that is left unexplained."""

    slope: Tensor
    center: Tensor
    unexplained: Tensor     # (): from 0.01 to 1


def line(means: Tensor, y: Tensor, weight: Tensor) -> Line:
    """Least squares from each source (m, n) alone to y (n,), of slope at least 0; weighted (m,) they are the trend."""
    n = len(y)
    y = y - y.mean()
    center = means.mean(1)
    far = means - center[:, None]
    square = far.square().sum(1)
    slope = weight * torch.where(square > 1e-12 * n, (far @ y).clamp_min(0) / square.clamp_min(1e-300), 0.0)
    whole, rest = y.square().sum(), (y - slope @ far).square().sum()
    share = torch.where(whole > 0, rest / whole.clamp_min(1e-300) * ((n - 1) / max(1, n - 1 - _LINE)), 1.0)
    return Line(slope, center, share.clamp(1 - _EXPLAINED, 1.0))


def padded(x: Tensor, y: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (n0, d) and y (k, n0) with rows added to make n, and the noise (k, n) that makes nothing of them: x, y, noise."""
    missing = n - len(x)
    noise = torch.cat([torch.zeros_like(y), torch.full_like(y[:, :1], PADDED).expand(-1, missing)], 1)
    return torch.cat([x, x[:1].expand(missing, -1)]), torch.cat([y, torch.zeros_like(y[:, :1]).expand(-1, missing)], 1), noise


def element(fitted: Fitted, which: Any) -> Fitted:
    """Some of a batch of processes, by an index of the batch dimensions."""
    hyper = Hyper._make(part if part is None else part[which] for part in fitted.hyper)
    x, y, noise = fitted.x[which], fitted.y[which], fitted.noise[which]
    return Fitted(fitted.kernel, hyper, x, y, noise, fitted.factor[which], fitted.whitened[which], fitted.alpha[which])

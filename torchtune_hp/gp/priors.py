"""What is believed of hyperparameters before any observation: one table with a row for each entry of raw (see `kernel.pack`).

The defaults are those of Hvarfner et al. 2024 ("Vanilla Bayesian Optimization Performs Great in High Dimensions", section 4), which
BoTorch uses since 0.12, for x in the unit cube and y standardised:

    lengthscale    LogNormal(sqrt(2) + log(k) / 2, sqrt(3)), at least 0.025; k lengthscales, so that distances do not grow with k
    outputscale    fixed at 1
    noise          LogNormal(-4, 1), at least 1e-4
    mean           free
    decay w, b, p  LogNormal(0, 1), LogNormal(-1, 1), LogNormal(0, 1/2): ours; a curve that halves its way within a third of the budget
    warp a, b      LogNormal(v, sqrt(v)), v = 1/4, from 1/16 to 16: of the kind that Snoek et al. 2014 take (see `warp.py`), densest
                   at 1, so that what few observations say nothing of is not bent

Densities are those of the hyperparameter itself, not of its logarithm, so maxima agree with BoTorch's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .kernel import Kernel


class Prior(NamedTuple):
    """For each entry of raw, (p,) float64: LogNormal(loc, scale), flat where scale is inf, and bounds on raw; lower = upper: fixed."""

    loc: Tensor
    scale: Tensor
    lower: Tensor
    upper: Tensor


FAR = math.log(1e4)
"""An upper bound where nothing else bounds: beyond it a hyperparameter changes nothing but rounding."""


_BEND = 0.25
"""The variance of log a and of log b. Of log a the log density is -log(a)**2 / (2 v) and a constant: as much for a as for 1 / a."""


def default(kernel: Kernel) -> Prior:
    """The table at the head of this file, for `kernel`."""
    k = kernel.lengthscales
    rows = [(math.sqrt(2) + math.log(k) / 2, math.sqrt(3), math.log(0.025), FAR)] * k
    rows += [(0.0, math.inf, 0.0, 0.0), (-4.0, 1.0, math.log(1e-4), FAR), (0.0, math.inf, -math.inf, math.inf)]
    if kernel.fidelity is not None:
        rows += [(0.0, 1.0, -FAR, FAR), (-1.0, 1.0, -FAR, FAR), (0.0, 0.5, -FAR, FAR)]
    rows += [(_BEND, math.sqrt(_BEND), -math.log(16), math.log(16))] * (2 * len(kernel.warped))
    return Prior(*torch.tensor(rows, dtype=torch.float64).unbind(-1))


def searched(kernel: Kernel) -> Prior:
    """`default`, but open to outcomes without noise and to an outputscale that is not 1: what `GPSearch` believes.

        outputscale    LogNormal(1/4, 1/2), densest at 1
        noise          LogNormal(-4, 3/2), at least 1e-6

    Points of a search crowd around the best one, so neither is y a sample whose variance is the process's, nor may a noise that is not
    there hide the last digits. Under LogNormal(-4, 1) a noise of 1e-6 would have to be 1e17 times as likely as one of 1e-2, here 2e5 times.
    """
    prior, k = default(kernel), kernel.lengthscales
    rows = torch.stack(list(prior), -1)
    rows[k] = torch.tensor([0.25, 0.5, -FAR, FAR])
    rows[k + 1] = torch.tensor([-4.0, 1.5, math.log(1e-6), FAR])
    return Prior(*rows.unbind(-1))


def log_prior(prior: Prior, raw: Tensor) -> tuple[Tensor, Tensor]:
    """log density (...) of the hyperparameters that raw (..., p) stands for, and its gradient by raw (..., p)."""
    proper = prior.scale.isfinite()
    scale = torch.where(proper, prior.scale, 1.0)
    far = (raw - prior.loc) / scale
    value = torch.where(proper, -raw - scale.log() - 0.5 * math.log(2 * math.pi) - 0.5 * far.square(), 0.0)
    return value.sum(-1), torch.where(proper, -1 - far / scale, 0.0)


def mode(prior: Prior) -> Tensor:
    """(p,) raw: where the density is largest, within the bounds; loc where it is flat."""
    proper = prior.scale.isfinite()
    peak = prior.loc - torch.where(proper, prior.scale, 0.0).square()
    return peak.clamp(prior.lower, prior.upper)


def draw(prior: Prior, count: int, generator: torch.Generator) -> Tensor:
    """(count, p) raw drawn from the prior and moved into its bounds; loc where it is flat. `generator`: a CPU one, whatever the device.

    More draws begin with the fewer. (One call of torch.randn for all would not give that: its numbers depend on how many they are.)
    """
    proper = prior.scale.isfinite()
    normals = torch.zeros(count, len(prior.loc), dtype=torch.float64)
    for row in normals:
        row.normal_(generator=generator)
    normals = normals.to(prior.loc.device)
    return (prior.loc + torch.where(proper, prior.scale, 0.0) * normals).clamp(prior.lower, prior.upper)

"""Metrics of predicted numbers: the mean squared and the mean absolute error, and the coefficient of determination.

Differences are taken in the type of the sums, float64, so that numbers far from 0 lose nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .samples import Samples, exact_of, mean_of, result, samples_of, total_of


def mse(predictions: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean squared error: `sklearn.metrics.mean_squared_error`.

    predictions: (..., n). targets, weight: (..., n) or (n,). Returns (...), in the square of the targets' unit. For several
    outputs, move them to a leading dimension, and take the mean of what comes back.
    """
    samples = samples_of("mse", predictions, targets, weight, per_class=False)
    return result(mean_of(_errors(samples).square(), samples), samples)


def mae(predictions: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean absolute error: `sklearn.metrics.mean_absolute_error`. Arguments as of `mse`; in the targets' unit."""
    samples = samples_of("mae", predictions, targets, weight, per_class=False)
    return result(mean_of(_errors(samples).abs(), samples), samples)


def r2(predictions: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """The coefficient of determination, 1 at best: `sklearn.metrics.r2_score`. Arguments as of `mse`.

    Of equal targets it is 1 if all are predicted exactly, else 0, as in scikit-learn; of fewer than two samples, NaN.
    """
    samples = samples_of("r2", predictions, targets, weight, per_class=False)
    targets = samples.targets.to(exact_of(predictions))
    # From their greatest on, equal targets are zeros, and their mean has no rounding error to be taken for a variance.
    targets = targets - targets.where(samples.weight != 0, -math.inf).amax(-1, keepdim=True)
    deviations = targets - mean_of(targets, samples)[..., None]
    unexplained, total = total_of(_errors(samples).square(), samples.weight), total_of(deviations.square(), samples.weight)
    value = torch.where(total != 0, 1 - unexplained / total, (unexplained == 0).to(total.dtype))
    defined = (samples.weight != 0).any(-1) & (targets.shape[-1] > 1)
    return result(torch.where(defined, value, math.nan), samples)


def _errors(samples: Samples) -> Tensor:
    exact = exact_of(samples.predictions)
    return samples.predictions.to(exact) - samples.targets.to(exact)

"""Metrics of the order of scores: the area under the ROC curve, and average precision.

Both are sums over thresholds: scores are sorted once, downwards, and at the last sample of each run of equal scores stand the
weights of the positives and negatives so far. Equal scores are thus one threshold, whatever order the sort gave them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .samples import exact_of, ratio, result, samples_of, scored


def roc_auc(scores: Tensor, targets: Tensor, weight: Tensor | None = None, *, multi_class: Literal["ovr"] | None = None) -> Tensor:
    """The area under the ROC curve, by the trapezoidal rule, ties at their average rank: `sklearn.metrics.roc_auc_score`, which takes
    the targets first.

    scores: (..., n), any increasing function of the odds of the positive class. targets: (..., n) or (n,), of any type; 1 is
    positive, all else (0, -1, False) negative. weight: (..., n) or (n,). Returns (...), NaN if one class only has weight.

    With multi_class="ovr", scores (..., n, C) and labels 0..C-1: the mean over the classes of each against the rest, NaN if a
    class has no targets. Here logits and probabilities differ, for samples are ranked by one class's score: scikit-learn takes
    probabilities.
    """
    if multi_class is None:
        samples = samples_of("roc_auc", scores, targets, weight, per_class=False)
        return result(_area(_thresholds(samples.predictions, samples.targets == 1, samples.weight)), samples)
    if multi_class != "ovr":
        raise ValueError(f'roc_auc: multi_class must be None or "ovr" (one class against the rest), but got {multi_class!r}.')
    samples, classes = scored("roc_auc", scores, targets, weight)
    areas = [
        _area(_thresholds(samples.predictions[..., label], samples.targets == label, samples.weight)) for label in range(classes)
    ]
    return result(torch.stack(areas, -1).mean(-1), samples)


def average_precision(scores: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean of the precision at each threshold, weighted by the recall it adds: `sklearn.metrics.average_precision_score`.

    Equal scores are one threshold. scores: (..., n), any increasing function of the odds of the positive class. targets:
    (..., n) or (n,), of any type; 1 is positive, all else negative. weight: (..., n) or (n,). Returns (...), NaN without positives.
    """
    samples = samples_of("average_precision", scores, targets, weight, per_class=False)
    steps = _thresholds(samples.predictions, samples.targets == 1, samples.weight)
    precisions = ratio(steps.hits, steps.hits + steps.alarms)
    return result(((steps.hits - steps.hits_before) * precisions).sum(-1) / steps.positives, samples)


class _Thresholds(NamedTuple):
    """Weights of the positives and negatives with at least a score, and above it: (..., n), at the last of equal scores, else 0."""

    hits: Tensor
    alarms: Tensor
    hits_before: Tensor
    alarms_before: Tensor
    positives: Tensor       # (...), of all
    negatives: Tensor


def _thresholds(scores: Tensor, positive: Tensor, weight: Tensor) -> _Thresholds:
    scores, order = scores.sort(dim=-1, descending=True)
    positives = torch.where(positive, weight, 0).gather(-1, order)
    negatives = torch.where(positive, 0, weight).gather(-1, order)
    changes = scores[..., 1:] != scores[..., :-1]
    edge = torch.ones_like(scores[..., :1], dtype=torch.bool)
    first, last = torch.cat([edge, changes], -1), torch.cat([changes, edge], -1)
    places = torch.arange(scores.shape[-1], device=scores.device)
    start = torch.where(first, places, 0).cummax(-1).values        # of the samples of the same score
    hits, alarms, exact = positives.cumsum(-1), negatives.cumsum(-1), exact_of(scores)
    before = (hits - positives).gather(-1, start), (alarms - negatives).gather(-1, start)
    ends = [torch.where(last, sums, 0).to(exact) for sums in (hits, alarms, *before)]
    return _Thresholds(ends[0], ends[1], ends[2], ends[3], hits[..., -1].to(exact), alarms[..., -1].to(exact))


def _area(steps: _Thresholds) -> Tensor:
    doubled = ((steps.alarms - steps.alarms_before) * (steps.hits + steps.hits_before)).sum(-1)
    return doubled / (2 * steps.positives * steps.negatives)

"""Metrics of predicted classes: accuracy, top-k accuracy, and precision, recall and F1 with their averages over classes.

Predictions are labels, or scores of which the highest counts. Precision, recall and F1 are ratios of three sums by class (hits,
predicted, targeted), taken by one scatter each; an average is a weighted mean of the ratios.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .samples import Samples, exact_of, mean_of, ratio, result, samples_of, scored, within

Average = Literal["binary", "macro", "micro", "weighted"]
AVERAGES = ("binary", "macro", "micro", "weighted")


def accuracy(predictions: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """The share of samples whose class is predicted: `sklearn.metrics.accuracy_score`.

    predictions: logits or probabilities (..., n, C), floating, of which the highest counts, the first of equal ones; or labels
    (..., n), integers or bools. targets: labels (..., n) or (n,), integers or bools. weight: (..., n) or (n,). Returns (...).
    """
    found, samples, _ = _labels("accuracy", predictions, targets, weight, None)
    return result(mean_of(found == samples.targets, samples), samples)


def top_k(scores: Tensor, targets: Tensor, k: int, weight: Tensor | None = None) -> Tensor:
    """The share of samples whose class is among the `k` highest scores: `sklearn.metrics.top_k_accuracy_score`.

    scores: (..., n, C); of equal scores the later class is the higher, as in scikit-learn. targets: labels (..., n) or (n,),
    integers or bools. k: at least 1; from C on the result is 1. weight: (..., n) or (n,). Returns (...).
    """
    if k < 1:
        raise ValueError(f"top_k: k must be at least 1, but got {k}.")
    samples, classes = scored("top_k", scores, targets, weight)
    target = samples.targets.clamp(0, classes - 1)[..., None]
    own = samples.predictions.gather(-1, target)
    later = torch.arange(classes, device=scores.device) > target
    ahead = (samples.predictions > own) | (samples.predictions == own) & later
    return result(mean_of(ahead.sum(-1) < k, samples), samples)


def precision(
    predictions: Tensor, targets: Tensor, weight: Tensor | None = None, *, average: Average = "binary", num_classes: int | None = None
) -> Tensor:
    """Of what was predicted to be of a class, the share that is: `sklearn.metrics.precision_score`.

    predictions: logits or probabilities (..., n, C), floating, or labels (..., n), integers or bools. targets: labels (..., n) or
    (n,), integers or bools. weight: (..., n) or (n,). Returns (...).

    average: "binary", of class 1, all others being negative; "micro", of all classes together; "macro", the mean over the
    classes that occur among predictions or targets; "weighted", the mean over classes, each weighted by its targets.
    num_classes: C, needed for "macro" and "weighted" of predicted labels; scores have it as their last dimension.
    """
    counts, samples = _counts("precision", predictions, targets, weight, average, num_classes)
    return result(_averaged(ratio(counts.hits, counts.found), counts, average), samples)


def recall(
    predictions: Tensor, targets: Tensor, weight: Tensor | None = None, *, average: Average = "binary", num_classes: int | None = None
) -> Tensor:
    """Of what is of a class, the share that was predicted to be: `sklearn.metrics.recall_score`. Arguments as of `precision`."""
    counts, samples = _counts("recall", predictions, targets, weight, average, num_classes)
    return result(_averaged(ratio(counts.hits, counts.wanted), counts, average), samples)


def f1(
    predictions: Tensor, targets: Tensor, weight: Tensor | None = None, *, average: Average = "binary", num_classes: int | None = None
) -> Tensor:
    """The harmonic mean of precision and recall, by class: `sklearn.metrics.f1_score`. Arguments as of `precision`."""
    counts, samples = _counts("f1", predictions, targets, weight, average, num_classes)
    return result(_averaged(ratio(2 * counts.hits, counts.found + counts.wanted), counts, average), samples)


class _Counts(NamedTuple):
    """Weights (..., c) by class: of those predicted rightly, of the predicted, of the targets. `seen`: which classes occur."""

    hits: Tensor
    found: Tensor
    wanted: Tensor
    seen: Tensor


def _labels(
    name: str, predictions: Tensor, targets: Tensor, weight: Tensor | None, num_classes: int | None
) -> tuple[Tensor, Samples, int | None]:
    """The predicted labels (..., n) of scores or labels, their samples, and C, where it is known."""
    if isinstance(predictions, Tensor) and predictions.is_floating_point():
        samples, classes = scored(name, predictions, targets, weight)
        if num_classes not in (None, classes):
            raise ValueError(f"{name}: num_classes is {num_classes}, but scores of shape {tuple(predictions.shape)} have {classes}.")
        return samples.predictions.argmax(-1), samples, classes
    samples = within(name, samples_of(name, predictions, targets, weight, per_class=False), num_classes)
    found = samples.predictions
    if num_classes is not None:
        outside = (found < 0) | (found >= num_classes)
        samples = samples._replace(spoiled=samples.spoiled | (outside & (samples.weight != 0)).any(-1))
    return found, samples, num_classes


def _counts(
    name: str, predictions: Tensor, targets: Tensor, weight: Tensor | None, average: str, num_classes: int | None
) -> tuple[_Counts, Samples]:
    if average not in AVERAGES:
        raise ValueError(f"{name}: average must be one of {', '.join(map(repr, AVERAGES))}, but got {average!r}.")
    found, samples, classes = _labels(name, predictions, targets, weight, num_classes)
    wanted, right, weight = samples.targets, found == samples.targets, samples.weight
    if average == "micro":      # all classes are one
        found, wanted, classes = torch.zeros_like(found), torch.zeros_like(wanted), 1
    elif average == "binary":
        if classes not in (None, 2):
            raise ValueError(f'{name}: average="binary" is of two classes, but there are {classes}. Use "macro", "micro" or "weighted".')
        found, wanted, classes = (found == 1).to(torch.int64), (wanted == 1).to(torch.int64), 2
        right = found == wanted
    elif classes is None:
        raise ValueError(
            f"{name}: average={average!r} of predicted labels {tuple(predictions.shape)} needs num_classes=. If these are scores, pass "
            "them as floating (..., n, C)."
        )
    exact = exact_of(found)
    hits = _by_class(wanted, torch.where(right, weight, 0), classes)
    predicted, targeted = _by_class(found, weight, classes), _by_class(wanted, weight, classes)
    seen = _by_class(found, torch.ones_like(found), classes) + _by_class(wanted, torch.ones_like(wanted), classes)
    return _Counts(hits.to(exact), predicted.to(exact), targeted.to(exact), seen > 0), samples


def _by_class(labels: Tensor, weight: Tensor, classes: int) -> Tensor:
    """(..., classes): the weight of each label. What is out of range has none, or spoils its entry anyway."""
    inside = labels.clamp(0, classes - 1)
    sums = torch.zeros((*labels.shape[:-1], classes), dtype=weight.dtype, device=labels.device)
    return sums.scatter_add(-1, inside, torch.where(labels == inside, weight, 0))


def _averaged(scores: Tensor, counts: _Counts, average: str) -> Tensor:
    if average in ("binary", "micro"):
        return scores[..., -1]
    shares = counts.seen.to(scores.dtype) if average == "macro" else counts.wanted
    return ratio((scores * shares).sum(-1), shares.sum(-1))

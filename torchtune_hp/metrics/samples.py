"""What all metrics share: checked inputs of one leading shape, sums over samples, and results that tell what was spoiled.

Laws (the numbers are those of the package):
1. Shapes and types are checked before anything is computed, and the error names the metric and the shapes (law 5).
2. What spoils an entry is noted, not raised, and makes its result NaN at the end (law 4): nothing here waits for the device.
3. Sums are taken in float64, or in int64 where weights are whole (law 1); what has no weight may be NaN and is left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Samples(NamedTuple):
    """Checked inputs of one leading shape, (...)."""

    predictions: Tensor     # (..., n) or (..., n, C)
    targets: Tensor         # (..., n)
    weight: Tensor          # (..., n): of the type that sums are taken in, or int64, where sums are exact
    spoiled: Tensor         # (...), bool: the result is NaN (law 4)
    dtype: torch.dtype      # of the result


def samples_of(name: str, predictions: Tensor, targets: Tensor, weight: Tensor | None, *, per_class: bool) -> Samples:
    """The samples of the metric `name`, checked. `per_class`: predictions are scores (..., n, C), else (..., n)."""
    given = {"predictions": predictions, "targets": targets} | ({} if weight is None else {"weight": weight})
    for what, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name}: {what} must be a tensor, but got a {type(tensor).__name__}: see torch.as_tensor.")
    shape = predictions.shape[: predictions.dim() - per_class]
    layout = "(..., n, C), a score for each class" if per_class else "(..., n)"
    if predictions.dim() < 1 + per_class or 0 in predictions.shape:
        raise ValueError(f"{name}: predictions must be {layout}, with at least one sample, but have the shape {tuple(predictions.shape)}.")
    for what, tensor in given.items():
        if what != "predictions" and tensor.shape not in (shape, shape[-1:]):
            fits = " or ".join(dict.fromkeys(str(tuple(one)) for one in (shape, shape[-1:])))
            raise ValueError(
                f"{name}: {what} must have the shape {fits}, for predictions {tuple(predictions.shape)} are {layout}, but got "
                f"{tuple(tensor.shape)}. Bring both to the samples' order: squeeze(-1) an output of size 1, argmax(-1) one-hot targets, "
                "movedim(..., -1) classes that are not last."
            )
    exact = exact_of(predictions)
    if weight is None:
        weight = torch.ones((), dtype=torch.int64, device=predictions.device)
    weight = weight.to(exact if weight.is_floating_point() else torch.int64).expand(shape)
    targets = targets.expand(shape)
    wrong = predictions.isnan().any(-1) if per_class else predictions.isnan()
    double = any(tensor.dtype == torch.float64 for tensor in given.values())
    return Samples(
        predictions if predictions.is_floating_point() else predictions.to(torch.int64),
        targets,
        weight,
        ((wrong | targets.isnan()) & (weight != 0)).any(-1),
        torch.float64 if double else torch.float32,
    )


def scored(name: str, scores: Tensor, targets: Tensor, weight: Tensor | None) -> tuple[Samples, int]:
    """Samples of scores (..., n, C) and labels, and C."""
    samples = samples_of(name, scores, targets, weight, per_class=True)
    classes = scores.shape[-1]
    if classes < 2:
        raise ValueError(
            f"{name}: scores (..., n, C) need two classes or more, but have the shape {tuple(scores.shape)}. A single logit is squeezed "
            "for roc_auc and average_precision, and made a label for the others: `(logits.squeeze(-1) > 0)`."
        )
    return within(name, samples, classes), classes


def within(name: str, samples: Samples, classes: int | None) -> Samples:
    """Samples whose targets are int64 labels; one outside 0..classes-1 spoils its entry."""
    if samples.targets.is_floating_point():
        raise ValueError(
            f"{name}: targets must be labels, integers or bools, but are {samples.targets.dtype}. Use targets.long(); or are predictions "
            "and targets interchanged?"
        )
    targets = samples.targets.to(torch.int64)
    if classes is None:
        return samples._replace(targets=targets)
    outside = ((targets < 0) | (targets >= classes)) & (samples.weight != 0)
    return samples._replace(targets=targets, spoiled=samples.spoiled | outside.any(-1))


def total_of(values: Tensor, weight: Tensor) -> Tensor:
    """The weighted sum over samples; what has no weight may be NaN."""
    return torch.where(weight != 0, values * weight, 0).sum(-1, dtype=exact_of(values))


def mean_of(values: Tensor, samples: Samples) -> Tensor:
    """The weighted mean over samples: values (..., n) give (...)."""
    return total_of(values, samples.weight) / samples.weight.sum(-1, dtype=exact_of(values))


def ratio(over: Tensor, under: Tensor) -> Tensor:
    """The quotient, 0 where the divisor is 0."""
    return torch.where(under != 0, over / under, 0)


def result(value: Tensor, samples: Samples) -> Tensor:
    """(...) in the type of the result, NaN where the samples are spoiled."""
    return torch.where(samples.spoiled, math.nan, value).to(samples.dtype)


def exact_of(tensor: Tensor) -> torch.dtype:
    """The type that sums are taken in on the tensor's device."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64

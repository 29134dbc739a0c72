"""What `training_step` returned: its loss and the numbers beside it; and of an iteration, their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigurationError, DivergedError
from .evaluation import Weighted, is_scalar

TAKEN = "training_step: 'loss' beside the loss would be reported as 'train_loss', which is the loss. Name it otherwise."


def with_validation(validated: Mapping[str, float], trained: Mapping[str, float]) -> dict[str, float]:
    taken = [name for name in validated if name in trained or name == "lr"]
    if taken:
        raise ConfigurationError(f"validation_step: {', '.join(map(repr, taken))} is reported by training. Give the metric another name.")
    return {**validated, **trained}


def loss_in(found: Any, n: int, extras: Weighted) -> Tensor:
    """The loss in what `training_step` returned; its numbers are added to `extras`."""
    loss = found
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping):
        loss = found[0]
        for key, value in found[1].items():
            if key == "loss":
                raise ConfigurationError(TAKEN)
            if not is_scalar(value):
                raise ConfigurationError(f"training_step: {key!r} must be a number or 0-dim tensor, not {value!r:.50}. Take its mean().")
            extras.setdefault(f"train_{key}", []).append((value, n))
    if not isinstance(loss, Tensor):
        raise ConfigurationError(
            f"training_step must return the loss as a tensor, or (loss, {{name: number}}), but returned a {type(found).__name__}."
        )
    if loss.dim() != 0:
        raise ConfigurationError(f"training_step: the loss must be a 0-dim tensor, but has the shape {tuple(loss.shape)}. Take its mean().")
    if not loss.requires_grad:
        raise ConfigurationError(
            "training_step: the loss must depend on parameters that require gradients, but it has none. Is it computed under no_grad, "
            "or detached, or is every parameter frozen?"
        )
    return loss


def finite_mean(values: Tensor, sizes: Sequence[int], number: int) -> float:
    """The mean of an iteration's losses, (n,) float64, by samples.

    Looked at once an iteration: a look at each would wait for the device.
    """
    wrong = (~values.isfinite()).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise DivergedError(
            f"The training loss must be finite, but was {values[at].item()} in iteration {number}, batch {at + 1} of {len(values)}. "
            "A smaller learning rate or max_grad_norm may help."
        )
    weights = torch.tensor(sizes, dtype=torch.float64)
    return float((values * weights).sum() / weights.sum())

"""Augmentation for `ModelTrainable.augment`: pure functions of batched tensors that also run under vmap.

Images are (n, channels, height, width); every sample draws its own. Nothing here looks at a tensor's content to decide what to
do, so the functions stack, with a strength of each trial's own; its range is checked where it is a number. All draws are `torch.rand`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigurationError

TRIES = 32
"""Draws of a Beta sample; each is accepted with probability at least 1/2, so all are refused once in 4e9."""


def normalize(images: Tensor, mean: Sequence[float] | float, std: Sequence[float] | float) -> Tensor:
    """(images - mean) / std per channel; whole-number images are first scaled to [0, 1]."""
    if not images.is_floating_point():
        images = images.to(torch.get_default_dtype()) / 255
    return (images - _each(mean, images)) / _each(std, images)


def random_flip(images: Tensor, p: float | Tensor = 0.5) -> Tensor:
    """Each image mirrored left to right with probability p, a number or a 0-dim tensor (`self.hparams["p"]`)."""
    if not isinstance(p, Tensor) and not 0 <= p <= 1:
        raise ConfigurationError(f"random_flip: `0 <= p <= 1` must hold, but got p={p!r}.")
    drawn = torch.rand(len(images), 1, 1, 1, device=images.device)
    return torch.where(drawn < p, images.flip(-1), images)


def random_crop(images: Tensor, padding: int = 4) -> Tensor:
    """Each image shifted by up to `padding` pixels in each direction; what moves in is 0. The shape stays."""
    if padding < 0:
        raise ConfigurationError(f"random_crop: `padding >= 0` must hold, but got {padding!r}.")
    n, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = _below(n, 2 * padding + 1, images.device), _below(n, 2 * padding + 1, images.device)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    tall = padded.gather(2, rows.expand(n, channels, height, width + 2 * padding))
    return tall.gather(3, columns.expand(n, channels, height, width))


def cutout(images: Tensor, size: int | Tensor = 8) -> Tensor:
    """A square of `size` pixels, a number or a 0-dim tensor, set to 0 in each image, its center anywhere, cut at the border (DeVries and
    Taylor 2017)."""
    if not isinstance(size, Tensor) and size < 1:
        raise ConfigurationError(f"cutout: `size >= 1` must hold, but got {size!r}.")
    n, _, height, width = images.shape
    inside = []
    for extent in (height, width):
        start = _below(n, extent, images.device)[:, None] - size // 2
        place = torch.arange(extent, device=images.device)
        inside.append((place >= start) & (place < start + size))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(hole, torch.zeros((), dtype=images.dtype, device=images.device), images)


def mixup(inputs: Tensor, targets: Tensor, alpha: float | Tensor = 0.2, classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Convex combinations of each sample and the one before it, with weights from Beta(alpha, alpha) (Zhang et al. 2018).

    `inputs` (n, ...), floating point. `targets` (n,) whole numbers become (n, classes) probabilities, as cross_entropy takes them; others
    are mixed as they are. `alpha`: a number or a 0-dim tensor.
    """
    if not isinstance(alpha, Tensor) and not 0 < alpha <= 1:
        raise ConfigurationError(f"mixup: `0 < alpha <= 1` must hold, but got alpha={alpha!r}.")
    if not inputs.is_floating_point():
        raise ConfigurationError(
            f"mixup: inputs must be floating point, or nothing is mixed, but got {inputs.dtype}. Normalize them first: hp.normalize."
        )
    if not targets.is_floating_point():
        if classes is None:
            raise ConfigurationError("mixup: whole-number targets become probabilities, which needs their number: pass classes=n.")
        targets = (targets[:, None] == torch.arange(classes, device=targets.device)).to(inputs.dtype)
    weight = _beta(len(inputs), alpha, inputs.device).to(inputs.dtype)

    def mixed(part: Tensor) -> Tensor:
        share = weight.reshape(-1, *[1] * (part.dim() - 1)).to(part.dtype)
        return share * part + (1 - share) * part.roll(1, 0)

    return mixed(inputs), mixed(targets)


def _each(values: Any, like: Tensor) -> Tensor:
    """(channels, 1, 1). Numbers are written where the images lie: an upload would wait for the device, and no CUDA graph can hold one."""
    if isinstance(values, (tuple, list)):
        return torch.cat([_each(value, like) for value in values])
    if isinstance(values, (int, float)):
        return torch.full((1, 1, 1), values, dtype=like.dtype, device=like.device)
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)


def _below(n: int, bound: int, device: torch.device) -> Tensor:
    """Whole numbers in [0, bound); rand may round up to 1 in low precision, hence the clamp."""
    return (torch.rand(n, device=device) * bound).long().clamp(max=bound - 1)


def _beta(n: int, alpha: float | Tensor, device: torch.device) -> Tensor:
    """Beta(alpha, alpha) by Joehnk's method, in logarithms: u^(1/a) + v^(1/a) <= 1 accepted, u^(1/a) over the sum returned."""
    u, v = (torch.rand(TRIES, n, dtype=torch.float64, device=device).clamp(min=1e-300).log() / alpha for _ in range(2))
    accepted = torch.logaddexp(u, v) <= 0
    first = accepted.to(torch.int8).argmax(0, keepdim=True)
    return torch.sigmoid(u - v).gather(0, first)[0]

"""Functions of torch.nn.functional that take a tensor where torch's take a Python float.

    loss = hp.functional.cross_entropy(model(x), y, label_smoothing=self.hparams["smoothing"])

A 0-dim tensor is how members of a stack have a number of their own, and torch's functions refuse it there. In the hooks of a
ModelTrainable and in `Population.step` these are called in the place of torch's wherever such an argument is a tensor, also by
torch's own modules; elsewhere they are for loops of one's own under `torch.func.vmap`.

Laws:
1. The arguments are torch's, by torch's names; those that may be tensors say so. A tensor gives what the float in it would.
2. Where all of them are floats torch's own function runs.
3. The result has the dtype torch's would have. Gradients flow into such a tensor, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["batch_norm", "celu", "cross_entropy", "elu", "huber_loss", "layer_norm", "leaky_relu", "smooth_l1_loss", "softplus"]

Number = float | Tensor
"""A float, or a 0-dim tensor of any dtype."""


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: Number = 0.1, eps: Number = 1e-5,
) -> Tensor:  # fmt: skip
    """`input` (N, C, ...), the others (C,). In training the running statistics are updated in place."""
    if not isinstance(momentum, Tensor) and not isinstance(eps, Tensor):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    x = _full(input)
    if training or running_mean is None or running_var is None:
        dims = [dim for dim in range(input.dim()) if dim != 1]
        n = input.numel() // input.shape[1]
        if training and n == 1:
            raise ValueError(f"batch_norm: more than one value per channel must be there in training, but got {tuple(input.shape)}.")
        var, mean = torch.var_mean(x, dims, correction=0)
        if training and running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.copy_((1 - momentum) * running_mean + momentum * mean)
                running_var.copy_((1 - momentum) * running_var + momentum * var * (n / (n - 1)))
    else:
        mean, var = running_mean, running_var
    shape = [1, -1, *[1] * (input.dim() - 2)]
    result = (x - mean.view(shape)) * (var + eps).rsqrt().view(shape)
    return _scaled(result, None if weight is None else weight.view(shape), None if bias is None else bias.view(shape)).to(input.dtype)


def celu(input: Tensor, alpha: Number = 1.0, inplace: bool = False) -> Tensor:
    """x where it is positive, alpha (exp(x / alpha) - 1) elsewhere."""
    if not isinstance(alpha, Tensor):
        return F.celu(input, alpha, inplace)
    return _into(input, torch.where(input > 0, input, alpha * torch.expm1(_negative(input) / alpha)), inplace)


def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: Number = 0.0,
) -> Tensor:  # fmt: skip
    """`input` (N, C, ...), or (C,); `target` class indices without C, or probabilities of the same shape."""
    if not isinstance(label_smoothing, Tensor):
        return F.cross_entropy(input, target, weight, None, ignore_index, None, reduction, label_smoothing)
    # The loss is linear in the smoothing, between that of the target itself and that of all classes alike.
    plain = F.cross_entropy(input, target, weight, None, ignore_index, None, reduction)
    alike = F.cross_entropy(input, target, weight, None, ignore_index, None, reduction, 1.0)
    smoothed = (1 - label_smoothing) * plain + label_smoothing * alike
    return torch.where(label_smoothing == 0, plain, smoothed).to(plain.dtype)     # alike is inf where a logit is -inf


def elu(input: Tensor, alpha: Number = 1.0, inplace: bool = False) -> Tensor:
    """x where it is positive, alpha (exp(x) - 1) elsewhere."""
    if not isinstance(alpha, Tensor):
        return F.elu(input, alpha, inplace)
    return _into(input, torch.where(input > 0, input, alpha * torch.expm1(_negative(input))), inplace)


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: Number = 1.0, weight: Tensor | None = None) -> Tensor:
    """Of the difference d: d^2 / 2 where |d| <= delta, delta (|d| - delta / 2) elsewhere."""
    if not isinstance(delta, Tensor):
        return F.huber_loss(input, target, reduction, delta, weight)  # type: ignore[call-arg]  # torch's stub lacks it
    size = (input - target).abs()
    near = _smaller(size, delta)
    loss = 0.5 * near.square() + delta * (size - near)
    return _reduced("huber_loss", loss if weight is None else loss * weight, reduction)


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: Number = 1e-5
) -> Tensor:
    """`input` (..., *normalized_shape); `weight` and `bias` of that shape."""
    if not isinstance(eps, Tensor):
        return F.layer_norm(input, list(normalized_shape), weight, bias, eps)
    dims = list(range(-len(normalized_shape), 0))
    if tuple(input.shape[dims[0] :]) != tuple(normalized_shape):
        raise ValueError(f"layer_norm: the last dimensions must be {tuple(normalized_shape)}, but the input is {tuple(input.shape)}.")
    x = _full(input)
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return _scaled((x - mean) * (var + eps).rsqrt(), weight, bias).to(input.dtype)


def leaky_relu(input: Tensor, negative_slope: Number = 0.01, inplace: bool = False) -> Tensor:
    """x where it is positive, negative_slope x elsewhere."""
    if not isinstance(negative_slope, Tensor):
        return F.leaky_relu(input, negative_slope, inplace)
    return _into(input, torch.where(input > 0, input, input * negative_slope), inplace)


def smooth_l1_loss(input: Tensor, target: Tensor, reduction: str = "mean", beta: Number = 1.0) -> Tensor:
    """Of the difference d: d^2 / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere; for beta = 0, |d|."""
    if not isinstance(beta, Tensor):
        return F.smooth_l1_loss(input, target, reduction=reduction, beta=beta)
    size = (input - target).abs()
    near = _smaller(size, beta)
    return _reduced("smooth_l1_loss", near * (0.5 * near / torch.where(beta > 0, beta, 1.0)) + (size - near), reduction)


def softplus(input: Tensor, beta: Number = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x is above the threshold."""
    if not isinstance(beta, Tensor):
        return F.softplus(input, beta, threshold)
    return F.softplus(input * beta, 1.0, threshold) / beta


def _full(input: Tensor) -> Tensor:
    """Statistics are taken in float32 at least."""
    return input.float() if input.dtype in (torch.float16, torch.bfloat16) else input


def _scaled(normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def _negative(input: Tensor) -> Tensor:
    """0 where it is positive, so that no exp overflows; at 0 its gradient is 1, which that of clamp is not."""
    return torch.where(input > 0, 0.0, input)


def _smaller(size: Tensor, bound: Tensor) -> Tensor:
    return torch.where(size < bound, size, bound.to(size.dtype))


def _into(input: Tensor, result: Tensor, inplace: bool) -> Tensor:
    result = result.to(input.dtype)
    return input.copy_(result) if inplace else result


def _reduced(name: str, loss: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'{name}: reduction must be "mean", "sum" or "none", but got {reduction!r}.')
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()

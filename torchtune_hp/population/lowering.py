"""Layers of a stack as batched products that suit them, where vmap's own rule is slow.

    linear          one `baddbmm`, where vmap takes a product and a pass that adds the bias
    conv2d          on CPUs one convolution for each member, where oneDNN has no blocked layout for a grouped one: measured forward and
                    backward with 1 to 64 channels, 8x8 to 32x32, kernels of 3 and 5, a grouped one took 1.4 to 2.5 times as long
                    for 3, 4 and 6 channels, and 0.7 to 1.3 times for 1, 2 and multiples of 8. im2col and a product took longer
                    than both but for one channel of 8x8. An input that all share is one convolution with all channels, vmap's own
    embedding       where one index is not trained (`padding_idx`): vmap's rule leaves that of the first member as it is, and trains the
                    others'
    attention       on CPUs one of k * n samples: vmap has no rule for the fused kernel there, and loops over the members with a warning
    cross_entropy   one of k * n samples, where vmap takes torch's nll_loss to pieces in Python; on CPUs, of few classes, sample beside
                    sample
    batch_norm      in float32 where autocast gives it less, as torch computes it within: vmap's rule takes one dtype only.
                    instance_norm and prelu likewise
    roll, ...       where vmap's own rule gives wrong numbers (module mended)
    requires_grad   and what else a tensor is asked of its own gradient (module asked)
    convolutions    and attention on what autocast would give them, for under vmap it does not reach them

Laws:
1. A lowering computes what torch computes, up to rounding, for whatever is batched and whatever is shared.
2. It is entered directly under the stack's vmap. Whatever else it meets (no member's own weight, a transform of the user's own in
   between, other dtypes) is torch's.
3. It is chosen by shapes and the device, never by a clock: two runs compute the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .asked import ASKED
from .attention import attend, attention
from .batched import leading, of_members, outside, traced, wrapped
from .mended import MENDED


class lowered(TorchFunctionMode):
    """A block of one member's step, under vmap, in which layers run as this module writes them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return lower(func, args, kwargs or {})


def lower(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What a function of torch gives, as this module computes it where it does."""
    lowering = _LOWERED.get(func)
    found = None if lowering is None else lowering(*args, **kwargs)
    return func(*args, **kwargs) if found is None else found


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """`F.linear` of one member; None where torch's own serves."""
    level = _functorch.maybe_current_level()
    if level is None or bias is None or not of_members(weight, level) or input.is_sparse:
        return None
    if input.dim() not in (1, 2, 3) or weight.dim() != 2 or bias.dim() != 1:
        return None
    input, weight, bias = _cast(input, weight, bias)
    if not input.dtype == weight.dtype == bias.dtype:
        return None
    flat = input.dim() == 2
    x, w, b = leading(input if flat else input.reshape(-1, input.shape[-1]), level), leading(weight, level), leading(bias, level)
    if wrapped(x) or wrapped(w) or wrapped(b):
        return None
    k, out, _ = w.shape
    if x.shape[0] != k:
        x = x.expand(k, *x.shape[1:])
    if b.shape[0] != k:
        b = b.expand(k, out)
    if traced() or level > 1:
        product: Tensor = _Product.apply(x, w)
        found = product + b.unsqueeze(1)
    else:
        with outside():
            found = _Affine.apply(x, w, b)
    found = _functorch._add_batch_dim(found, 0, level)
    return found if flat else found.view(*input.shape[:-1], out)


class _Affine(Function):
    """(k, n, in), (k, out, in), (k, out) -> (k, n, out). The weight's gradient comes out as the weight lies, where autograd's own of a
    `baddbmm` would be transposed, and copied to be put into its flat row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        if _narrow(x, w):
            return torch.baddbmm(b.unsqueeze(2), w, x.transpose(1, 2)).transpose(1, 2).contiguous()
        return torch.baddbmm(b.unsqueeze(1), x, w.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        for_x, for_w, for_b = ctx.needs_input_grad
        return (
            torch.bmm(g, w) if for_x else None,
            torch.bmm(g.transpose(1, 2), x) if for_w else None,
            g.sum(1) if for_b else None,
        )   # fmt: skip


def _narrow(x: Tensor, w: Tensor) -> bool:
    """Whether (k, n, in) times (k, out, in) is better computed the other way round."""
    return w.shape[1] <= _NARROW and x.shape[1] >= _LONG and w.device.type == "cpu"


_NARROW, _LONG = 10, 32
"""A product of so few columns and so many rows is a CPU's faster the other way round, a copy included: 64 samples, 64 units and 10
classes take half the time. From 12 columns on it is about as fast, and from 16 on slower."""


class _Product(Function):
    """(k, n, in), (k, out, in) -> (k, n, out). For the compiler, which adds the bias in passing."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        if _narrow(x, w):
            return torch.bmm(w, x.transpose(1, 2)).transpose(1, 2)
        return torch.bmm(x, w.transpose(1, 2))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return torch.bmm(g, w) if wanted[0] else None, torch.bmm(g.transpose(1, 2), x) if wanted[1] else None


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **options: Any) -> Tensor | None:
    """`F.conv2d` of one member; None where torch's own serves."""
    level = _functorch.maybe_current_level()
    if level is None or not (of_members(input, level) and of_members(weight, level)) or weight.device.type != "cpu":
        return None
    if input.dim() != 4 or weight.dim() != 4 or bias is not None and bias.dim() != 1:
        return None
    channels = weight.shape[1]
    if channels < 3 or channels % 8 == 0 or channels != input.shape[1]:
        return None
    x, w = leading(input, level), leading(weight, level)
    b = None if bias is None else leading(bias, level).expand(len(w), -1)
    if any(wrapped(part) for part in (x, w, b) if part is not None):
        return None
    biases = [None] * len(w) if b is None else b.unbind()
    each = [F.conv2d(one, own, its, *args, **options) for one, own, its in zip(x.unbind(), w.unbind(), biases)]
    return _functorch._add_batch_dim(torch.stack(each), 0, level)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, *args: Any, **options: Any) -> Tensor | None:
    """`F.embedding` of one member, with a `padding_idx`; None where torch's own serves."""
    level = _functorch.maybe_current_level()
    if level is None or padding_idx is None or not of_members(weight, level):
        return None
    found = F.embedding(input, weight, None, *args, **options)
    untrained = input == (padding_idx if padding_idx >= 0 else weight.shape[0] + padding_idx)
    return torch.where(untrained.unsqueeze(-1), found.detach(), found)


def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None, ignore_index: int = -100, reduce: Any = None,
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor | None:  # fmt: skip
    """`F.cross_entropy` of one member, of (n, C) logits and (n,) classes; None where torch's own serves."""
    level = _functorch.maybe_current_level()
    plain = size_average is None and reduce is None and isinstance(label_smoothing, (int, float))
    plain = plain and (weight is None or not (wrapped(weight) or weight.requires_grad))
    if level is None or not plain or not of_members(input, level) or input.dim() != 2 or target.dim() != 1:
        return None
    if reduction not in ("mean", "sum", "none") or input.shape[0] != target.shape[0]:
        return None
    logits, classes = leading(input, level), leading(target, level)
    if wrapped(logits) or wrapped(classes):
        return None
    with outside():
        k, n, number = logits.shape
        classes = classes.expand(k, n)
        options: Any = {"ignore_index": ignore_index, "reduction": "none", "label_smoothing": label_smoothing, "weight": weight}
        beside = 0 < number < _VECTOR and logits.device.type == "cpu"
        if beside and classes.dtype == torch.int64:     # of uint8 torch takes but one dimension
            each = F.cross_entropy(logits.transpose(1, 2).contiguous(), classes, **options)
        else:
            each = F.cross_entropy(logits.reshape(k * n, number), classes.reshape(-1), **options).view(k, n)
        found = each if reduction == "none" else each.sum(1)
        if reduction == "mean":
            counted = classes != ignore_index
            found = found / (counted if weight is None else weight[torch.where(counted, classes, 0).long()] * counted).sum(1)
    return _functorch._add_batch_dim(found, 0, level)


_VECTOR = 16
"""Of fewer classes than a CPU's vector has places, torch's softmax takes one number after another, and beside each other they fill
vectors of samples: forward and backward of 128 members with 64 samples take 0.84 of the time with 2 classes, 0.62 with 3, 0.26 with 10 and
0.21 with 15. From 16 on they take 0.9 to 1.7 times it."""


def _cast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As autocast would: it knows `linear`, but would convert the parts of a `baddbmm` anew at each use."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) if tensor.dtype == torch.float32 else tensor for tensor in tensors)


def in_float32(layer: Callable[..., Tensor]) -> Callable[..., Tensor | None]:
    """`layer` for an input that autocast made smaller than its parameters and statistics; None where they are alike."""
    @wraps(layer)
    def computed(input: Tensor, *args: Any, **options: Any) -> Tensor | None:
        held = [part for part in (*args, *options.values()) if isinstance(part, Tensor)]
        if _functorch.maybe_current_level() is None:
            return None
        if input.dtype not in (torch.bfloat16, torch.float16) or all(part.dtype == input.dtype for part in held):
            return None
        return layer(input.float(), *args, **options).to(input.dtype)

    return computed


def autocast(layer: Callable[..., Tensor], first: Callable[..., Tensor | None] | None = None) -> Callable[..., Tensor | None]:
    """`first`, where it serves; else `layer` on tensors that autocast would make smaller; None where there are none."""
    @wraps(layer)
    def computed(*args: Any, **options: Any) -> Tensor | None:
        found = None if first is None else first(*args, **options)
        if found is not None or _functorch.maybe_current_level() is None:
            return found
        small = [_cast(part)[0] if isinstance(part, Tensor) else part for part in (*args, *options.values())]
        if all(one is other for one, other in zip(small, (*args, *options.values()))):
            return None
        return layer(*small[: len(args)], **dict(zip(options, small[len(args) :])))

    return computed


def _attention(*args: Any, **options: Any) -> Any:
    """`F.multi_head_attention_forward`, what it calls being lowered; None outside of vmap."""
    if _functorch.maybe_current_level() is None:
        return None
    with lowered():
        return attend(*args, **options)


_CONVOLUTIONS = (F.conv1d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_LOWERED: dict[Any, Callable[..., Any]] = {
    **ASKED, **MENDED,
    F.linear: linear, F.conv2d: autocast(F.conv2d, conv2d), F.embedding: embedding, F.cross_entropy: cross_entropy,
    **{layer: in_float32(layer) for layer in (F.batch_norm, F.instance_norm, F.prelu)},
    F.scaled_dot_product_attention: autocast(F.scaled_dot_product_attention, attention), F.multi_head_attention_forward: _attention,
    **{layer: autocast(layer) for layer in _CONVOLUTIONS},
}   # fmt: skip

"""Attention of all members of a stack at once, on CPUs, and what lets modes see into torch's Python of it.

vmap has no rule for the fused kernel of a CPU: it loops over the members, with a warning. Members are one more dimension of samples,
so one call serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch import Tensor
from torch._C import _functorch
from torch.nn import functional as F

from .batched import leading, of_members, outside, traced, wrapped


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False,
    *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor | None:  # fmt: skip
    """`F.scaled_dot_product_attention` of one member's (n, ..., length, width); None where torch's own serves."""
    level = _functorch.maybe_current_level()
    parts = [query, key, value]
    if level is None or traced() or query.device.type != "cpu" or dropout_p or len({part.dim() for part in parts}) > 1 or query.dim() < 3:
        return None
    if not any(of_members(part, level) for part in parts) or len({part.shape[0] for part in parts}) > 1:
        return None
    led = [leading(part, level) for part in parts]
    mask = None if attn_mask is None else leading(attn_mask, level)
    if any(map(wrapped, led)) or mask is not None and (wrapped(mask) or mask.dim() > led[0].dim()):
        return None
    with outside():
        members, n = max(len(part) for part in led), query.shape[0]
        if mask is not None and (mask.dim() > 3 or len(mask) == members):       # not one for all members and samples
            mask = mask.view(len(mask), *[1] * (led[0].dim() - mask.dim()), *mask.shape[1:])
            mask = mask.expand(members, n, *mask.shape[2:]).flatten(0, 1)
        elif mask is not None:
            mask = mask[0]
        q, k, v = (part.expand(members, *part.shape[1:]).flatten(0, 1) for part in led)
        found = F.scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)
    return _functorch._add_batch_dim(found.view(members, n, *found.shape[1:]), 0, level)


def entered(func: Any) -> Callable[..., Any]:
    """A composite of torch's that is written in Python and does not ask the modes about itself: what it calls does."""
    asks = dict.fromkeys(("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), lambda *_: False)
    inside = FunctionType(func.__code__, {**func.__globals__, **asks}, func.__name__, func.__defaults__, func.__closure__)
    inside.__kwdefaults__ = func.__kwdefaults__
    return inside


attend = entered(F.multi_head_attention_forward)

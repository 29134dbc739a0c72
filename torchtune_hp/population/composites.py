"""Attention and recurrent layers: single calls of torch that hold a dropout, written out so far that it is the member's own.

Laws:
1. Where nothing is dropped torch's own call runs; in training mode it counts as many draws as if something were.
2. Where something is, scaled_dot_product_attention is written out, torch's Python of multi_head_attention_forward runs with the mode
   on, and recurrent layers run one at a time with dropout between them: torch's numbers, to rounding, but for the units dropped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention import attend
from .dropout import dropped
from .mode import REPLACED, Rate, own_randomness, replaces, vmap_level


@replaces(F.scaled_dot_product_attention)
def _attention(own: own_randomness, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: Rate = 0.0,
               is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
    if not isinstance(dropout_p, Tensor) and dropout_p == 0:
        own.next()
        return F.scaled_dot_product_attention(query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)
    if is_causal and attn_mask is not None:
        raise RuntimeError("scaled_dot_product_attention: attn_mask and is_causal=True exclude each other.")
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is None:
        return dropped(own, scores.softmax(-1), dropout_p, True, False) @ value
    if attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    else:
        scores = scores + attn_mask
    nothing = (scores == -torch.inf).all(-1, keepdim=True)      # a query that may look at nothing gets 0, not NaN
    shares = scores.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)
    return dropped(own, shares, dropout_p, True, False) @ value


@replaces(F.multi_head_attention_forward)
def _multi_head_attention(own: own_randomness, *args: Any, **options: Any) -> Any:
    dropout_p, training = args[10] if len(args) > 10 else options["dropout_p"], options.get("training", True)
    if len(args) > 13:
        training = args[13]
    if not training or not isinstance(dropout_p, Tensor) and dropout_p == 0:
        if training:
            own.next()
        return F.multi_head_attention_forward(*args, **options)
    with own:
        return attend(*args, **options)


def _replace_recurrent() -> None:
    for func in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu):

        def stacked(own: own_randomness, *args: Any, func: Any = func) -> tuple[Tensor, ...]:
            return _recurrent(own, func, *args)

        REPLACED[func] = stacked


def _recurrent(own: own_randomness, func: Any, *args: Any) -> tuple[Tensor, ...]:
    """torch.lstm and its kin: (input, hx, weights, ...) or, packed, (data, batch_sizes, hx, weights, ...)."""
    head = 1 if isinstance(args[3], bool) else 2
    hidden, weights, biases, layers, p, training, both, *rest = args[head:]
    if vmap_level():        # vmap knows the layer's parts, not the whole
        overloads = getattr(torch.ops.aten, func.__name__)
        func = (overloads.input if head == 1 else overloads.data).decompose
    if not training or layers == 1:
        return func(*args)  # type: ignore[no-any-return]
    if not isinstance(p, Tensor) and p == 0:
        own.next(layers - 1)
        return func(*args)  # type: ignore[no-any-return]
    single = isinstance(hidden, Tensor)
    states = (hidden,) if single else tuple(hidden)
    directions, each = 1 + both, len(weights) // layers
    values, last = args[0], []
    for layer in range(layers):
        if layer:
            values = dropped(own, values, p, True, False)
        start = [state[layer * directions : (layer + 1) * directions] for state in states]
        held = weights[layer * each : (layer + 1) * each]
        values, *ends = func(values, *args[1:head], start[0] if single else start, held, biases, 1, 0.0, training, both, *rest)
        last.append(ends)
    return (values, *(torch.cat(ends) for ends in zip(*last)))


_replace_recurrent()

"""Dropout in all its forms, and the activations that draw (rrelu, gumbel_softmax), with numbers of the member's own.

Laws:
1. A call of dropout in training mode is one draw, whatever p; in evaluation mode it is none, and the input itself comes back.
2. p may be a tensor: the member's own rate, down to 0 and up to 1. To the bit, the units dropped are those of the float it was.
3. Whether a unit is dropped depends on its coordinates, not on how many units there are: a layer that is padded in a stack drops
   those that it drops alone.
4. What is kept is scaled so that the mean stays (alpha dropout: mean and variance of what SELU gives, Klambauer et al. 2017).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from . import counter
from .batched import current, outside, own, plain, traced
from .mode import REPLACED, Rate, own_randomness, replaces, threshold_of

_SELU = 1.7580993408473766
"""Minus the value that SELU tends to at -inf: what alpha dropout puts in the place of a dropped unit (Klambauer et al. 2017)."""

_LARGEST = 2**31 - 256
"""The threshold of p = 1: what lies above it is scaled by 0."""


def dropped(by: own_randomness, input: Tensor, p: Rate, training: bool, inplace: bool, shared: int = 0, alpha: bool = False) -> Tensor:
    """Every form of dropout. `shared`: how many of the last dimensions are dropped together; `alpha`: for what SELU gives."""
    if not isinstance(p, Tensor) and not 0 <= p <= 1:
        raise ValueError(f"dropout: `0 <= p <= 1` must hold, but got p={p!r}.")
    if not training:
        return input
    call = by.next()
    if not isinstance(p, Tensor) and p == 0:
        return input
    words = by.words
    level = current(words[0])
    if level is None or alpha or inplace:
        gain = _gain(words, call, _shape(input, shared), p, input.dtype, input.device, alpha)
    else:       # as each member would do it, but for all of them at once, and past the modes
        shape, bare, rate = _shape(input, shared), plain(input, level), _of(p, level)
        own_words = plain(words[0], level), plain(words[1], level)
        with outside():
            found = bare * _gain(own_words, call, shape, rate, bare.dtype, bare.device, alpha)
        return own(found, level)
    if alpha:       # (kept - (1 - p)) * spread on top of what is kept
        result = torch.add(input * gain, gain, alpha=_SELU) - ((1 - p) * _spread(p, alpha)) * _SELU
        return input.copy_(result) if inplace else result.to(input.dtype)
    return input.mul_(gain) if inplace else input * gain


def _shape(input: Tensor, shared: int) -> tuple[int, ...]:
    return (*input.shape[: input.dim() - shared], *[1] * shared) if shared else tuple(input.shape)


def _of(p: Rate, level: int) -> Rate:
    """(k,) where it is each member's own."""
    return plain(p, level) if isinstance(p, Tensor) and current(p) == level else p


def _gain(
    words: counter.Words, call: int, shape: tuple[int, ...], p: Rate, dtype: torch.dtype, device: torch.device, alpha: bool
) -> Tensor:
    """`shape`, 0 where a unit is dropped, else what it is scaled by; of words (k,) and p (k,): (k, *shape)."""
    level = current(words[0])
    if level is not None:
        bare, rate = (plain(words[0], level), plain(words[1], level)), _of(p, level)
        with outside():
            gain = _gain(bare, call, shape, rate, dtype, device, alpha)
        return own(gain, level)
    if not isinstance(p, Tensor):
        return counter.reached(words, call, shape, min(threshold_of(p), _LARGEST), device).to(dtype).mul_(_spread(p, alpha))
    threshold, spread = (part.view((*p.shape, *[1] * len(shape))) for part in _rates(p, dtype, device, alpha))
    kept = counter.reached(words, call, shape, threshold, device)
    if dtype is torch.float32:      # 0 or 1 times the bits of a float are those of 0 or of the float: a pass less
        return kept.mul_(spread.view(torch.int32)).view(torch.float32)
    return kept.to(dtype).mul_(spread)


def _rates(p: Tensor, dtype: torch.dtype, device: torch.device, alpha: bool) -> tuple[Tensor, Tensor]:
    """(threshold int32, spread in `dtype`) of rates, each of their shape; on a CPU as they were made for the same tensor before,
    if it holds the same numbers: it may have been written to through what shares its memory, and its version would not tell."""
    if device.type != "cpu" or _functorch.is_functorch_wrapped_tensor(p) or traced():
        return _made_rates(p, dtype, device, alpha)
    numbers, made = _known.get(p, (None, {}))
    if numbers is None or numbers.dtype != p.dtype or not torch.equal(numbers, p):
        _known[p] = _, made = p.detach().clone(), {}
    if (dtype, alpha) not in made:
        made[dtype, alpha] = _made_rates(p, dtype, device, alpha)
    return made[dtype, alpha]  # type: ignore[no-any-return]


def _made_rates(p: Tensor, dtype: torch.dtype, device: torch.device, alpha: bool) -> tuple[Tensor, Tensor]:
    p = p.detach().to(device, torch.float64)
    return threshold_of(p).clamp(max=float(_LARGEST)).to(torch.int32), _spread(p, alpha).to(dtype)


_known: Any = WeakIdKeyDictionary()
"""Of tensors of rates: their numbers, and what was made of these. A stack's change when its members do, and not at each step."""


def _spread(p: Any, alpha: bool) -> Any:
    """By what a kept unit is scaled; 0 where none is kept."""
    if not isinstance(p, Tensor):
        return 0.0 if p == 1 else ((1 - p) * (_SELU**2 * p + 1)) ** -0.5 if alpha else 1 / (1 - p)
    if alpha:
        return torch.where(p < 1.0, (1.0 - p) * (_SELU**2 * p + 1.0), torch.inf).rsqrt()
    return (1.0 - p).reciprocal().nan_to_num(posinf=0.0)


@replaces(F.dropout)
def _dropout(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return dropped(own, input, p, training, inplace)


@replaces(F.dropout1d)
def _dropout1d(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return dropped(own, input, p, training, inplace, 1)


@replaces(F.dropout2d)
def _dropout2d(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return dropped(own, input, p, training, inplace, max(0, input.dim() - 2))


@replaces(F.dropout3d)
def _dropout3d(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return dropped(own, input, p, training, inplace, 3)


@replaces(F.alpha_dropout)
def _alpha_dropout(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    return dropped(own, input, p, training, inplace, alpha=True)


@replaces(F.feature_alpha_dropout)
def _feature_alpha_dropout(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    return dropped(own, input, p, training, inplace, max(0, input.dim() - 2), alpha=True)


def _replace_low_level_dropout() -> None:
    """torch.dropout(input, p, train) and its kin, what F's functions come down to."""
    for name, replacement in (("dropout", _dropout), ("feature_dropout", _dropout2d), ("alpha_dropout", _alpha_dropout),
                              ("feature_alpha_dropout", _feature_alpha_dropout)):  # fmt: skip
        for inplace in (False, True):

            def low(own: own_randomness, input: Tensor, p: Rate, train: bool, to: Any = replacement, inplace: bool = inplace) -> Any:
                return to(own, input, p, train, inplace)

            REPLACED[getattr(torch, name + "_" * inplace)] = low


_replace_low_level_dropout()


@replaces(F.rrelu, torch.rrelu)
def _rrelu(own: own_randomness, input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False,
           **_: Any) -> Tensor:  # fmt: skip
    if training:
        slope = own.uniform(input.shape, input.dtype, input.device) * (upper - lower) + lower
    else:
        slope = torch.full((), (lower + upper) / 2, dtype=input.dtype, device=input.device)
    result = torch.where(input > 0, input, input * slope)
    return input.copy_(result) if inplace else result


@replaces(torch.rrelu_)
def _rrelu_(own: own_randomness, input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, **_: Any) -> Tensor:
    return _rrelu(own, input, lower, upper, training, inplace=True)


@replaces(F.gumbel_softmax)
def _gumbel_softmax(own: own_randomness, logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """Written out, for torch's scatters in place into what may be the members' common tensor."""
    times = counter.exponential(own.words, own.next(), logits.shape, logits.dtype, logits.device)
    soft: Tensor = ((logits - times.log()) / tau).softmax(dim)
    if not hard:
        return soft
    chosen: Tensor = torch.zeros_like(soft).scatter(dim, soft.argmax(dim, keepdim=True), 1.0)
    return chosen - soft.detach() + soft

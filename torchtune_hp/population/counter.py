"""Random numbers without a generator: a hash of (key, call, element), so that whoever holds the key can draw any of them again.

An element's number goes through three rounds of multiply and fold on 32 bits, and the two 32-bit words of the stream enter before
the first and the second fold (after C. Wellons, "Prospecting for Hash Functions", 2018). 32 bits because it is to be cheap: torch
multiplies int32 several times as fast as int64, on CPUs as on GPUs.

Laws:
1. A draw depends on (key, call, lane, element's index) alone, the index being its place in the flat draw, or what `places` makes of
   its coordinates: not on the slot that vmap gives the key, the device, or what was drawn before. Hashes are equal to the bit
   everywhere, eager and compiled; floats to rounding.
2. Only integer operations with wrap-around and elementwise functions: every draw runs under vmap with a batched key.
3. Uniform numbers have all their digits (24 for float32, 53 for float64) and are below 1; normal and exponential ones have
   right tails, to 6.6 sigma and 1e-10 in float32, for they come from the side of 0, where floats are dense.

Throughout: `key` is an int64 tensor () or its `words`; `call` a whole number, which draw of the step it is; `lane` tells several
hashes of one draw apart; shapes are those of one member.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .batched import current, outside, own, plain, traced

Words = tuple[Tensor, Tensor]
"""A key, mixed: two int32 tensors ()."""

Device = torch.device | None
"""None: the key's."""

DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
"""Binary digits of a uniform number; the floating types that can be drawn."""

TRIES = 10
"""Candidates of a Gamma draw; each is accepted with probability at least 0.95, so all are refused once in 1e13."""

_SPREAD, _FIRST, _SECOND = -1640531535, 2146121005, -2073254261
"""Odd: the golden ratio's bits, then the multipliers of Wellons's lowbias32."""


def words(key: Tensor | Words) -> Words:
    """The key's 64 bits mixed and cut in two. Once a step: ten small operations.

    Keys that differ in one bit anywhere, neighbours above all, become unlike each other.
    """
    if isinstance(key, tuple):
        return key
    level = current(key)
    if level is not None:
        bare = plain(key, level)
        with outside():
            low, high = words(bare)
        return own(low, level), own(high, level)
    mixed = key.to(torch.int64) * -7046029254386353131
    mixed = (mixed ^ (mixed >> 32 & 2**32 - 1)) * -4658895280553007687
    mixed = (mixed ^ (mixed >> 29 & 2**35 - 1)) * -7723592293110705685
    mixed = mixed ^ (mixed >> 32 & 2**32 - 1)
    return mixed.to(torch.int32), (mixed >> 32).to(torch.int32)


def bits(key: Tensor | Words, call: int, shape: Sequence[int], device: Device = None, lane: int = 0) -> Tensor:
    """`shape` int32, uniform over all 2^32 values. `device`: None is the key's."""
    low, high = words(key)
    level = current(low)
    if level is not None:       # each pass over all members' elements at once, and past the modes
        bare = plain(low, level), plain(high, level)
        with outside():
            hashed = bits(bare, call, shape, device, lane)
        return own(hashed, level)
    number = _numbers()
    hashed = _hashed(low, high, call, _spread_out((math.prod(shape),), device or low.device), lane, number)
    return _folded(hashed, 16, number).reshape((*low.shape, *shape))


def reached(words: Words, call: int, shape: Sequence[int], threshold: Tensor | int, device: Device = None) -> Tensor:
    """`shape` int32: 1 where the hash at these `places` is at least `threshold`, a multiple of 2^8, else 0; of words (k,): (k, *shape).

    The hash without its last fold, which changes the lower half of its bits: a comparison sees that once in 65,536 elements.
    """
    low, high = words
    hashed = _hashed(low, high, call, _spread_out(tuple(shape), device or low.device), 0, _numbers())
    return hashed.view((*low.shape, *shape)).ge_(threshold)


def _hashed(low: Tensor, high: Tensor, call: int, indices: Tensor, lane: int, number: Callable[[int], Any]) -> Tensor:
    """(..., n) int32 of words (...) and of indices (n,) that are spread already; but for the last fold."""
    low, high = low.to(indices.device), high.to(indices.device)
    first, second = _salts(call, lane)
    hashed = _folded((low + number(first)).mul_(number(_SPREAD)).unsqueeze(-1) + indices, 16, number)
    hashed = torch.add((high + number(second)).unsqueeze(-1), hashed, alpha=_FIRST)
    return _folded(hashed, 15, number).mul_(number(_SECOND))


@functools.lru_cache(maxsize=1024)
def _salts(call: int, lane: int) -> tuple[int, int]:
    """24 bits of each word: compiled, vmap's scalar operands pass through float32."""
    salt = _mix(4 * call + lane)
    return _high_24(salt), _high_24(salt >> 32)


def _numbers() -> Callable[[int], Any]:
    """Of an int32, what torch takes it from fastest: an int is converted in each call. The compiler gets it as it is."""
    return int if traced() else _kept_number


@functools.lru_cache(maxsize=1024)
def _kept_number(value: int) -> Tensor:
    return torch.tensor(value, dtype=torch.int32, device="cpu")


def _spread_out(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """(n,) int32: the `places` of a tensor of this shape, spread; of a flat one, its indices."""
    if device.type != "cpu" or math.prod(shape) > _KEPT or traced():
        return places(shape, device).view(-1) * _SPREAD
    return _kept(shape)


@functools.lru_cache(maxsize=64)
def _kept(shape: tuple[int, ...]) -> Tensor:
    return places(shape).view(-1) * _SPREAD


def places(shape: Sequence[int], device: Device = None) -> Tensor:
    """`shape` int32, an index by an element's coordinates alone: in a longer tensor the element at the same place has the same.

    No two elements share one where it was tried, up to 4 million in two to four dimensions.
    """
    shape = (math.prod(shape[:-4]), *shape[-4:]) if len(shape) > 5 else tuple(shape)
    index = torch.zeros((), dtype=torch.int32, device=device)
    for stride, size in zip(_STRIDES, reversed(shape)):
        at = torch.arange(size, dtype=torch.int32, device=device) * stride
        index = at.view(size, *[1] * index.dim()) + index
    return index


_STRIDES = (1, -1640531527, -1052792407, -1847521883, -776648141)
"""Odd, and without small combinations that vanish modulo 2^32: an axis each, the last one first."""


def _folded(hashed: Tensor, by: int, number: Callable[[int], Any]) -> Tensor:
    """The high bits xored onto the low ones, in place; torch's shift carries the sign along, hence the mask.

    Adding them would save the mask, but then multiplying and folding are as good as linear, and correlations stay.
    """
    return hashed.bitwise_xor_((hashed >> number(by)).bitwise_and_(number((1 << 32 - by) - 1)))


def wide_bits(key: Tensor | Words, call: int, shape: Sequence[int], device: Device = None, lane: int = 0) -> Tensor:
    """`shape` int64, uniform over all 2^64 values; takes lanes 2 * lane and 2 * lane + 1."""
    low, high = (bits(key, call, shape, device, 2 * lane + part).to(torch.int64) for part in (0, 1))
    return (high << 32) ^ low


def uniform(
    key: Tensor | Words, call: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Device = None, lane: int = 0
) -> Tensor:
    """`shape` numbers in [0, 1), multiples of 2^-digits (DIGITS). KeyError: a dtype that is not floating."""
    digits = DIGITS[dtype]
    if dtype is torch.float64:
        return (wide_bits(key, call, shape, device, lane) >> 11).to(dtype).mul_(2.0**-digits).add_(0.5)
    hashed = bits(key, call, shape, device, lane).bitwise_right_shift_(32 - digits)
    return hashed.to(torch.float32).mul_(2.0**-digits).add_(0.5).to(dtype)


def positive(
    key: Tensor | Words, call: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Device = None, lane: int = 0
) -> Tensor:
    """`shape` numbers in (0, 1], uniform and dense near 0: the smallest is 2^-32 (2^-64 for float64). float32 or float64."""
    if dtype is torch.float64:
        return (wide_bits(key, call, shape, device, lane) & (2**63 - 1)).to(dtype).add_(0.5).mul_(2.0**-63)
    return bits(key, call, shape, device, lane).bitwise_and_(2**31 - 1).to(dtype).add_(0.5).mul_(2.0**-31)


def normal(
    key: Tensor | Words, call: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Device = None, lane: int = 0
) -> Tensor:
    """`shape` numbers from N(0, 1), two from a pair of uniform ones (Box and Muller 1958). Takes lanes `lane` and `lane` + 1."""
    work = _work(dtype)
    n = math.prod(shape)
    half = ((n + 1) // 2,)
    radius = positive(key, call, half, work, device, lane).log_().mul_(-2.0).sqrt_()
    if work is torch.float64:
        angle = wide_bits(key, call, half, device, lane + 1).to(work).mul_(math.pi * 2.0**-63)
    else:
        angle = bits(key, call, half, device, lane + 1).to(work).mul_(math.pi * 2.0**-31)
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), -1)
    return pairs.reshape(-1)[:n].reshape(tuple(shape)).to(dtype)


def exponential(
    key: Tensor | Words, call: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Device = None, lane: int = 0
) -> Tensor:
    """`shape` numbers from Exp(1), all above 0: their logarithm is finite."""
    least = max(2.0**-26, torch.finfo(dtype).tiny)
    return positive(key, call, shape, _work(dtype), device, lane).log_().neg_().to(dtype).clamp(min=least)


def below(key: Tensor | Words, call: int, shape: Sequence[int], n: int, device: Device = None) -> Tensor:
    """`shape` int64 in [0, n), 1 <= n <= 2^63 - 1; no value is more likely than another by more than 1 in 65,536."""
    if n <= 2**16:
        return (bits(key, call, shape, device).to(torch.int64).add_(2**31).mul_(n)).bitwise_right_shift_(32)
    return (wide_bits(key, call, shape, device) & (2**63 - 1)) % n


def permutation(key: Tensor | Words, call: int, n: int, device: Device = None) -> Tensor:
    """(n,) int64: 0 to n - 1, in an order of which each is equally likely."""
    return wide_bits(key, call, (n,), device).argsort()


def log_gamma(key: Tensor | Words, call: int, shape: Sequence[int], alpha: Tensor) -> Tensor:
    """`shape` logarithms of Gamma(alpha, 1) draws, `alpha` broadcast to it (Marsaglia and Tsang 2000). float32 or float64.

    The logarithm, for Gamma(0.01) is mostly below the smallest float, and a Dirichlet draw is these logarithms' softmax.
    """
    dtype, device, many = alpha.dtype, alpha.device, (TRIES, *shape)
    raised = torch.where(alpha < 1, alpha + 1, alpha).expand(tuple(shape))       # the method wants alpha >= 1
    d = raised - 1 / 3
    x = normal(key, call, many, dtype, device, 0)
    v = 1 + x / (9 * d).sqrt()
    log_v = 3 * v.clamp(min=torch.finfo(dtype).tiny).log()
    u = positive(key, call + 1, many, dtype, device, 0)
    accepted = (v > 0) & (u.log() < 0.5 * x * x + d * (1 - log_v.exp() + log_v))
    first = accepted.to(torch.int8).argmax(0, keepdim=True)
    found = d.log() + log_v.gather(0, first)[0]
    lower = positive(key, call + 1, shape, dtype, device, 1).log() / alpha
    return torch.where(alpha < 1, found + lower, found)


def _work(dtype: torch.dtype) -> torch.dtype:
    """What a draw is computed in; KeyError where it cannot be."""
    return torch.float64 if DIGITS[dtype] == 53 else torch.float32


def _mix(n: int) -> int:
    """64 bits for a small whole number (splitmix64: Steele, Lea and Flood 2014)."""
    z = (n + 1) * 0x9E3779B97F4A7C15 & _ALL
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _ALL
    return z ^ z >> 31


def _high_24(n: int) -> int:
    """An int32's value from the low 32 bits, the lowest 8 of them 0."""
    return ((n & 0xFFFFFF00) ^ 0x80000000) - 0x80000000


_ALL = 2**64 - 1

_KEPT = 2**16
"""Elements of a draw up to which a CPU keeps the spread indices: making them takes as long as a pass over a small draw."""

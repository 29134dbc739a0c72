"""Torch's own draws under a key: new tensors (torch.rand and its kin), and tensors that are filled in place (x.normal_()).

Laws:
1. dtype, device and shape are those that torch would give: of the options, of the tensor that the new one is to be like, or the
   defaults. A special kind of tensor (layout=, pin_memory=, names=) and complex numbers raise.
2. Law 4 of randomness.py allows no out=, and a tensor that all members share cannot be filled by one of them; so what torch.empty
   gives belongs to the member: it has, under vmap, the batch dimension of the key.
3. Uniform and exponential numbers are drawn in the type that they end in: rounded later, one below 1 might be 1, and a least one 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import counter
from .mode import REPLACED, OwnRandomnessError, Rate, known, own_randomness, replaces

# New tensors.


def _size(sizes: Sequence[Any], size: Any = None) -> tuple[int, ...]:
    if size is not None:
        sizes = (size,)
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else tuple(sizes)


def _made(name: str, draw: Callable[[torch.dtype, torch.device], Tensor], like: Tensor | None = None, dtype: torch.dtype | None = None,
          device: Any = None, requires_grad: bool = False, **options: Any) -> Tensor:  # fmt: skip
    """A new tensor by torch's options; `like` gives those that are left out."""
    for option in ("layout", "pin_memory", "names"):
        if options.get(option) not in (None, False, torch.strided):
            raise OwnRandomnessError(f"{name}({option}={options[option]!r})", "makes a tensor of a special kind", f"Leave out {option}=.")
    if dtype is None:
        dtype = torch.get_default_dtype() if like is None else like.dtype
    if device is None:
        device = torch.empty(0).device if like is None else like.device      # the default one; its name cannot be asked when compiled
    values = draw(known(name, dtype), torch.device(device))
    return values.requires_grad_() if requires_grad else values


@replaces(torch.rand)
def _rand(own: own_randomness, *sizes: Any, size: Any = None, **options: Any) -> Tensor:
    return _made("rand", lambda dtype, device: own.uniform(_size(sizes, size), dtype, device), **options)


@replaces(torch.randn)
def _randn(own: own_randomness, *sizes: Any, size: Any = None, **options: Any) -> Tensor:
    return _made("randn", lambda dtype, device: own.normal(_size(sizes, size), dtype, device), **options)


@replaces(torch.rand_like)
def _rand_like(own: own_randomness, input: Tensor, **options: Any) -> Tensor:
    return _made("rand_like", lambda dtype, device: own.uniform(input.shape, dtype, device), input, **options)


@replaces(torch.randn_like)
def _randn_like(own: own_randomness, input: Tensor, **options: Any) -> Tensor:
    return _made("randn_like", lambda dtype, device: own.normal(input.shape, dtype, device), input, **options)


def _whole(own: own_randomness, low: int, high: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """`shape` int64 in [low, high)."""
    if low >= high:
        raise RuntimeError(f"randint: `low < high` must hold, but got low={low}, high={high}.")
    return counter.below(own.words, own.next(), shape, high - low, device).add_(low)


def _bounds(bounds: Sequence[int], low: int | None, high: int | None) -> tuple[int, int]:
    if high is None:
        *lower, high = bounds
        bounds = lower
    return (bounds[0] if bounds else low or 0), high


@replaces(torch.randint)
def _randint(
    own: own_randomness, *bounds: Any, low: int | None = None, high: int | None = None, size: Any = None, **options: Any
) -> Tensor:
    if size is None:
        *lower, size = bounds
        bounds = tuple(lower)
    least, end = _bounds(bounds, low, high)
    options["dtype"] = options.get("dtype") or torch.int64
    return _made("randint", lambda dtype, device: _whole(own, least, end, tuple(size), device).to(dtype), **options)


@replaces(torch.randint_like)
def _randint_like(
    own: own_randomness, input: Tensor, *bounds: int, low: int | None = None, high: int | None = None, **options: Any
) -> Tensor:
    least, end = _bounds(bounds, low, high)
    return _made("randint_like", lambda dtype, device: _whole(own, least, end, input.shape, device).to(dtype), input, **options)


@replaces(torch.randperm)
def _randperm(own: own_randomness, n: int, **options: Any) -> Tensor:
    options["dtype"] = options.get("dtype") or torch.int64
    return _made("randperm", lambda dtype, device: counter.permutation(own.words, own.next(), n, device).to(dtype), **options)


@replaces(torch.normal)
def _normal(own: own_randomness, mean: Any = 0.0, std: Any = 1.0, size: Any = None, **options: Any) -> Tensor:
    tensors = [part.detach() for part in (mean, std) if isinstance(part, Tensor)]
    shape = torch.Size(size) if not tensors else (tensors[0] + tensors[-1]).shape
    mean, std = (part.detach() if isinstance(part, Tensor) else part for part in (mean, std))
    return _made("normal", lambda dtype, device: mean + std * own.normal(shape, dtype, device), tensors[0] if tensors else None, **options)


# Tensors that are filled in place.


@replaces(torch.empty)
def _empty(own: own_randomness, *sizes: Any, size: Any = None, **options: Any) -> Tensor:
    memory = options.pop("memory_format", None)
    values = _made("empty", lambda dtype, device: own.words[0].new_empty(_size(sizes, size), dtype=dtype, device=device), **options)
    return values if memory is None else values.contiguous(memory_format=memory)


@replaces(Tensor.new_empty, Tensor.new)
def _new_empty(own: own_randomness, input: Tensor, *sizes: Any, size: Any = None, **options: Any) -> Tensor:
    shape = _size(sizes, size)
    if not all(isinstance(extent, int) for extent in shape) or any(isinstance(part, list) for part in sizes):
        return input.new(*sizes, **options)
    return _made("new_empty", lambda dtype, device: own.words[0].new_empty(shape, dtype=dtype, device=device), input, **options)


@replaces(torch.empty_like)
def _empty_like(own: own_randomness, input: Tensor, **options: Any) -> Tensor:
    return _made("empty_like", lambda dtype, device: own.words[0].new_empty(input.shape, dtype=dtype, device=device), input, **options)


def _filled(name: str, input: Tensor, values: Tensor) -> Tensor:
    try:
        return input.copy_(values)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        raise OwnRandomnessError(name, "fills a tensor that all members share", "Draw a new one: torch.rand, torch.rand_like.") from error


def _fills(func: Any, **defaults: Any) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Registers values(own, input, dtype, *parameters) for an in-place method; dtype is float64 where the input is, else float32."""
    parameters = {name.rstrip("_"): default for name, default in defaults.items()}

    def note(values: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def filled(own: own_randomness, input: Tensor, *args: Any, **options: Any) -> Tensor:
            given = parameters | dict(zip(parameters, args)) | {name: value for name, value in options.items() if name in parameters}
            work = torch.float64 if known(func.__name__, input.dtype) is torch.float64 else torch.float32
            return _filled(func.__name__, input, values(own, input, work, *given.values()))

        REPLACED[func] = filled
        return values

    return note


@_fills(Tensor.uniform_, from_=0.0, to=1.0)
def _uniform_(own: own_randomness, input: Tensor, work: torch.dtype, start: float, end: float) -> Tensor:
    exact = input.dtype if input.dtype in counter.DIGITS else work      # a float32 below 1 may round to 1 as a bfloat16
    return own.uniform(input.shape, exact, input.device).mul_(end - start).add_(start)


@_fills(Tensor.normal_, mean=0.0, std=1.0)
def _normal_(own: own_randomness, input: Tensor, work: torch.dtype, mean: float, std: float) -> Tensor:
    return own.normal(input.shape, work, input.device) * std + mean


@_fills(Tensor.log_normal_, mean=1.0, std=2.0)
def _log_normal_(own: own_randomness, input: Tensor, work: torch.dtype, mean: float, std: float) -> Tensor:
    return (own.normal(input.shape, work, input.device) * std + mean).exp()


@_fills(Tensor.exponential_, lambd=1.0)
def _exponential_(own: own_randomness, input: Tensor, work: torch.dtype, rate: float) -> Tensor:
    exact = input.dtype if input.dtype in counter.DIGITS else work      # the least number of a float32 is 0 as a float16
    return counter.exponential(own.words, own.next(), input.shape, exact, input.device) / rate


@_fills(Tensor.cauchy_, median=0.0, sigma=1.0)
def _cauchy_(own: own_randomness, input: Tensor, work: torch.dtype, median: float, sigma: float) -> Tensor:
    call = own.next()
    size = counter.positive(own.words, call, input.shape, work, input.device).mul_(math.pi / 2).tan_().reciprocal_()
    sign = counter.bits(own.words, call, input.shape, input.device, 3) < 0
    return torch.where(sign, -size, size) * sigma + median


@_fills(Tensor.geometric_, p=0.5)
def _geometric_(own: own_randomness, input: Tensor, work: torch.dtype, p: float) -> Tensor:
    return counter.positive(own.words, own.next(), input.shape, work, input.device).log_().div_(math.log1p(-p)).ceil_().clamp(min=1)


@_fills(Tensor.random_, from_=None, to=None)
def _random_(own: own_randomness, input: Tensor, work: torch.dtype, start: int | None, end: int | None) -> Tensor:
    if end is None and start is not None:
        start, end = 0, start       # random_(to)
    if end is None:
        whole = not input.dtype.is_floating_point
        end = 2 if input.dtype is torch.bool else torch.iinfo(input.dtype).max if whole else 2 ** counter.DIGITS[input.dtype]
    return _whole(own, start or 0, end, input.shape, input.device)


@_fills(Tensor.bernoulli_, p=0.5)
def _bernoulli_(own: own_randomness, input: Tensor, work: torch.dtype, p: Rate) -> Tensor:
    return own.hits(p, input.shape, input.device)

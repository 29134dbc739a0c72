"""Random draws that belong to a member: inside `with own_randomness(key)` torch draws from (key, number of the call) alone.

Torch's generators give numbers in the order in which they are asked, so in a stack a member's would depend on who its neighbours
are. Here every draw of torch is replaced, by a function mode, with the hash of counter.py. A member that is trained alone and the
same member in slot 137 of 256 drop the same units, eager and compiled.

Laws:
1. A draw depends on the key, on how many draws there were before it in this step, and on the element's place, and on nothing
   else. Each call of dropout in training mode is one draw whatever its `p`, so that a member with p = 0 counts as others do.
2. Nothing draws from a global generator in silence. What is not replaced raises OwnRandomnessError: known names at the call;
   under vmap whatever else is random, by randomness="error"; and at the end of the block whatever moved a generator all the same.
3. In evaluation mode, and with p = 0, dropout gives its very input back.
4. A generator= of the user's own, an out= and a vmap of the user's own around a draw raise: the first would be shared by all
   members, the last would draw the same for all its samples.

multi_head_attention_forward runs with the mode on; recurrent layers with dropout between them run one layer at a time;
scaled_dot_product_attention with dropout and gumbel_softmax are written out. A tensor made by torch.empty belongs to the member
from the start, so that it can be filled in place. Recomputation (torch.utils.checkpoint) around a draw is not noticed here, and
would draw other numbers: it must not be used.

Measured on one CPU core: dropout of (128, 4096) float32 takes half of F.dropout's time, 2.0 ms; a block under vmap 0.13 ms, a small
draw in it 0.22 ms; each other call of torch 1 us.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType, TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import dirichlet
from torch.nn import functional as F, init
from torch.overrides import TorchFunctionMode

from ..seeds import derive
from . import counter

Replacement = TypeVar("Replacement", bound=Callable[..., Any])
Rate = float | Tensor
"""A probability, () and of the member's own where it is a tensor (float64, so that it is to the bit the float it was)."""

_SELU = 1.7580993408473766
"""Minus the value that SELU tends to at -inf: what alpha dropout puts in the place of a dropped unit (Klambauer et al. 2017)."""


class OwnRandomnessError(RuntimeError):
    """A draw that cannot be made to depend on the member alone. Such a stack is trained one by one, with torch's generators."""

    def __init__(self, call: str, reason: str, instead: str = "Without a change its members are trained one by one.") -> None:
        super().__init__(f"own_randomness: {call} {reason}, so its numbers would not be the member's own (law 2). {instead}")


def key_of(seed: int, *path: int | str) -> int:
    """A key in [0, 2^63) for `torch.tensor(key, dtype=torch.int64)`: `key_of(trial.seed, "step", 17)`."""
    return derive(seed, "key", *path)


class own_randomness(TorchFunctionMode):
    """A block, one step of one member, whose draws come from `key`: int64 (), under vmap batched. One object a step.

    `strict`: what is not known raises OwnRandomnessError. A member that is trained by itself needs no such care: with False, what
    is not known draws from where it always does.
    """

    def __init__(self, key: Tensor, strict: bool = True) -> None:
        super().__init__()
        self.strict = strict
        self.words = counter.words(key)
        self.calls = 0
        self._depth = 0
        self._level, self._vmaps = (0, 0) if torch.compiler.is_compiling() else (_level(), _vmaps())
        self._before: list[Any] = []

    def __enter__(self) -> own_randomness:
        self._depth += 1
        if self._depth == 1 and self.strict and not torch.compiler.is_compiling():
            self._before = self._generators()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        super().__exit__(kind, error, where)  # type: ignore[no-untyped-call]
        self._depth -= 1
        if self._depth == 0 and self.strict and error is None and not torch.compiler.is_compiling():
            if any(not torch.equal(was, now) for was, now in zip(self._before, self._generators())):
                raise OwnRandomnessError("a call in the block", "has drawn from a global generator")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced = _REPLACED.get(func)
        if replaced is None:
            return func(*args, **(kwargs or {}))
        kwargs = kwargs or {}
        try:
            for name in ("generator", "out"):
                if kwargs.get(name) is not None:
                    raise OwnRandomnessError(f"{func.__name__}({name}=...)", f"has a {name} of its own", f"Leave out {name}=.")
            return replaced(self, *args, **kwargs)
        except OwnRandomnessError:
            if self.strict:
                raise
            return func(*args, **kwargs)

    def next(self, draws: int = 1) -> int:
        """The number of the coming draw; counts `draws` of them."""
        if not torch.compiler.is_compiling() and _level() != self._level and _vmaps() != self._vmaps:
            raise OwnRandomnessError("a vmap inside the step", "holds a draw, which all its samples would share")
        call = self.calls
        self.calls += draws
        return call

    def uniform(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return counter.uniform(self.words, self.next(), shape, dtype, device)

    def normal(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return counter.normal(self.words, self.next(), shape, dtype, device)

    def hits(self, p: Rate, shape: Sequence[int], device: torch.device) -> Tensor:
        """`shape` bool, True with probability p, to 2^-24. `p`: a float or a tensor that broadcasts to `shape`."""
        hashed = counter.bits(self.words, self.next(), shape, device)
        if isinstance(p, Tensor):
            threshold: Any = _threshold(p.detach().to(device, torch.float64)).to(torch.int64)
        else:
            threshold = int(_threshold(p))
        return hashed.to(torch.int64).lt(threshold)

    def _generators(self) -> list[Tensor]:
        states = [torch.default_generator.get_state()]
        device = self.words[0].device
        if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            states.append(torch.cuda.default_generators[device.index or 0].get_state())
        return states


def _threshold(p: Any) -> Any:
    """Of the 2^32 hashes a share p lies below it. In steps of 256, so that it is exact as a float32, as what is compiled may hold it."""
    scaled = p * 2**24
    return (scaled.round() if isinstance(scaled, Tensor) else round(scaled)) * 2**8 - 2**31


def _level() -> int:
    return int(torch._C._functorch.maybe_current_level() or 0)


def _vmaps() -> int:
    from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

    return sum(each.key() == torch._C._functorch.TransformType.Vmap for each in retrieve_all_functorch_interpreters()) if _level() else 0


_REPLACED: dict[Any, Callable[..., Any]] = {}
"""What torch draws with, and what is called in its place: `own_randomness` first, then torch's arguments."""


def _replaces(*functions: Any) -> Callable[[Replacement], Replacement]:
    def note(replacement: Replacement) -> Replacement:
        _REPLACED.update(dict.fromkeys(functions, replacement))
        return replacement

    return note


# Tensors of a given size.


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
    values = draw(_known(name, dtype), torch.device(device))
    return values.requires_grad_() if requires_grad else values


def _known(name: str, dtype: torch.dtype) -> torch.dtype:
    if dtype.is_complex or dtype.is_floating_point and dtype not in counter.DIGITS:
        raise OwnRandomnessError(f"{name}(dtype={dtype})", "is of a type that is not drawn here", "Draw float32 and convert.")
    return dtype


@_replaces(torch.rand)
def _rand(own: own_randomness, *sizes: Any, size: Any = None, **options: Any) -> Tensor:
    return _made("rand", lambda dtype, device: own.uniform(_size(sizes, size), dtype, device), **options)


@_replaces(torch.randn)
def _randn(own: own_randomness, *sizes: Any, size: Any = None, **options: Any) -> Tensor:
    return _made("randn", lambda dtype, device: own.normal(_size(sizes, size), dtype, device), **options)


@_replaces(torch.rand_like)
def _rand_like(own: own_randomness, input: Tensor, **options: Any) -> Tensor:
    return _made("rand_like", lambda dtype, device: own.uniform(input.shape, dtype, device), input, **options)


@_replaces(torch.randn_like)
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


@_replaces(torch.randint)
def _randint(
    own: own_randomness, *bounds: Any, low: int | None = None, high: int | None = None, size: Any = None, **options: Any
) -> Tensor:
    if size is None:
        *lower, size = bounds
        bounds = tuple(lower)
    least, end = _bounds(bounds, low, high)
    options["dtype"] = options.get("dtype") or torch.int64
    return _made("randint", lambda dtype, device: _whole(own, least, end, tuple(size), device).to(dtype), **options)


@_replaces(torch.randint_like)
def _randint_like(
    own: own_randomness, input: Tensor, *bounds: int, low: int | None = None, high: int | None = None, **options: Any
) -> Tensor:
    least, end = _bounds(bounds, low, high)
    return _made("randint_like", lambda dtype, device: _whole(own, least, end, input.shape, device).to(dtype), input, **options)


@_replaces(torch.randperm)
def _randperm(own: own_randomness, n: int, **options: Any) -> Tensor:
    options["dtype"] = options.get("dtype") or torch.int64
    return _made("randperm", lambda dtype, device: counter.permutation(own.words, own.next(), n, device).to(dtype), **options)


@_replaces(torch.normal)
def _normal(own: own_randomness, mean: Any = 0.0, std: Any = 1.0, size: Any = None, **options: Any) -> Tensor:
    tensors = [part.detach() for part in (mean, std) if isinstance(part, Tensor)]
    shape = torch.Size(size) if not tensors else (tensors[0] + tensors[-1]).shape
    mean, std = (part.detach() if isinstance(part, Tensor) else part for part in (mean, std))
    return _made("normal", lambda dtype, device: mean + std * own.normal(shape, dtype, device), tensors[0] if tensors else None, **options)


# Tensors that are filled in place.


@_replaces(torch.empty)
def _empty(own: own_randomness, *sizes: Any, size: Any = None, **options: Any) -> Tensor:
    memory = options.pop("memory_format", None)
    values = _made("empty", lambda dtype, device: own.words[0].new_empty(_size(sizes, size), dtype=dtype, device=device), **options)
    return values if memory is None else values.contiguous(memory_format=memory)


@_replaces(Tensor.new_empty, Tensor.new)
def _new_empty(own: own_randomness, input: Tensor, *sizes: Any, size: Any = None, **options: Any) -> Tensor:
    shape = _size(sizes, size)
    if not all(isinstance(extent, int) for extent in shape) or any(isinstance(part, list) for part in sizes):
        return input.new(*sizes, **options)
    return _made("new_empty", lambda dtype, device: own.words[0].new_empty(shape, dtype=dtype, device=device), input, **options)


@_replaces(torch.empty_like)
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
            work = torch.float64 if _known(func.__name__, input.dtype) is torch.float64 else torch.float32
            return _filled(func.__name__, input, values(own, input, work, *given.values()))

        _REPLACED[func] = filled
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


# Draws by given probabilities.


@_replaces(torch.bernoulli, Tensor.bernoulli)
def _bernoulli(own: own_randomness, input: Tensor, p: float | None = None, **_: Any) -> Tensor:
    return own.hits(input if p is None else p, input.shape, input.device).to(input.dtype)


@_replaces(torch.multinomial, Tensor.multinomial)
def _multinomial(own: own_randomness, input: Tensor, num_samples: int, replacement: bool = False, **_: Any) -> Tensor:
    weights = input.detach().to(torch.float64)
    if not replacement:     # the smallest of Exp(1) / w are a sample without replacement (Efraimidis and Spirakis 2006)
        times = counter.exponential(own.words, own.next(), input.shape, torch.float64, input.device)
        return (weights / times).topk(num_samples, -1).indices
    rising = weights.cumsum(-1)
    drawn = own.uniform((*input.shape[:-1], num_samples), torch.float64, input.device) * rising[..., -1:]
    return torch.searchsorted(rising, drawn, right=True).clamp(max=input.shape[-1] - 1)


class _Pathwise(torch.autograd.Function):
    """Logarithms of Gamma(alpha, 1) draws, and how they move with alpha (Figurnov et al. 2018)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(alpha: Tensor, drawn: Tensor) -> Tensor:
        return drawn.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        alpha, drawn = ctx.saved_tensors
        value = drawn.exp().clamp(min=torch.finfo(drawn.dtype).tiny)
        return grads[0] * torch._standard_gamma_grad(alpha, value) / value, None


def _log_gamma(own: own_randomness, alpha: Tensor) -> Tensor:
    work = alpha.to(torch.float64 if _known("gamma", alpha.dtype) is torch.float64 else torch.float32)
    drawn = counter.log_gamma(own.words, own.next(2), alpha.shape, work.detach())
    return _Pathwise.apply(work, drawn)  # type: ignore[no-any-return]


@_replaces(torch._standard_gamma)
def _standard_gamma(own: own_randomness, input: Tensor, **_: Any) -> Tensor:
    return _log_gamma(own, input).exp().to(input.dtype).clamp(min=torch.finfo(input.dtype).tiny)


@_replaces(torch._sample_dirichlet)
def _sample_dirichlet(own: own_randomness, input: Tensor, **_: Any) -> Tensor:
    return _log_gamma(own, input).softmax(-1).to(input.dtype).clamp(min=torch.finfo(input.dtype).tiny)


class _Dirichlet:
    """Stands before torch's function of this name, which neither vmap nor a mode can enter; changes nothing outside of a block."""

    original: Any = dirichlet._Dirichlet

    @staticmethod
    def apply(concentration: Tensor) -> Tensor:
        if isinstance(torch.overrides._get_current_function_mode(), own_randomness):  # type: ignore[no-untyped-call]
            return torch._sample_dirichlet(concentration)
        return _Dirichlet.original.apply(concentration)  # type: ignore[no-any-return]


dirichlet._Dirichlet = _Dirichlet  # type: ignore[misc, assignment]


# Dropout.


def _dropped(own: own_randomness, input: Tensor, p: Rate, training: bool, inplace: bool, shared: int = 0, alpha: bool = False) -> Tensor:
    """`shared`: how many of the last dimensions are dropped together."""
    if not isinstance(p, Tensor) and not 0 <= p <= 1:
        raise ValueError(f"dropout: `0 <= p <= 1` must hold, but got p={p!r}.")
    if not training:
        return input
    call = own.next()
    if not isinstance(p, Tensor) and p == 0:
        return input
    own_dims = input.dim() - shared
    shape = (*input.shape[:own_dims], *[1] * shared)
    hashed = counter.bits(own.words, call, shape, input.device)
    threshold: Any
    spread: Any
    if isinstance(p, Tensor):
        p = p.detach().to(input.device, torch.float64)
        threshold = _threshold(p).clamp(max=2**31 - 256).to(torch.int32)
        spread = torch.where(p < 1, (1 - p) * ((_SELU**2 * p + 1) if alpha else (1 - p)), torch.inf).rsqrt().to(input.dtype)
    else:
        threshold = min(int(_threshold(p)), 2**31 - 256)
        spread = ((1 - p) * ((_SELU**2 * p + 1) if alpha else (1 - p))) ** -0.5 if p < 1 else 0.0
    kept = (hashed >= threshold).to(input.dtype)
    if alpha:
        shift = (kept - 1 + p).to(input.dtype) * (_SELU * spread)
        result = input * (kept * spread) + shift
        return input.copy_(result) if inplace else result
    kept = kept.mul_(spread)
    return input.mul_(kept) if inplace else input * kept


@_replaces(F.dropout)
def _dropout(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return _dropped(own, input, p, training, inplace)


@_replaces(F.dropout1d)
def _dropout1d(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return _dropped(own, input, p, training, inplace, 1)


@_replaces(F.dropout2d)
def _dropout2d(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return _dropped(own, input, p, training, inplace, max(0, input.dim() - 2))


@_replaces(F.dropout3d)
def _dropout3d(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return _dropped(own, input, p, training, inplace, 3)


@_replaces(F.alpha_dropout)
def _alpha_dropout(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    return _dropped(own, input, p, training, inplace, alpha=True)


@_replaces(F.feature_alpha_dropout)
def _feature_alpha_dropout(own: own_randomness, input: Tensor, p: Rate = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    return _dropped(own, input, p, training, inplace, max(0, input.dim() - 2), alpha=True)


def _replace_low_level_dropout() -> None:
    """torch.dropout(input, p, train) and its kin, what F's functions come down to."""
    for name, replacement in (("dropout", _dropout), ("feature_dropout", _dropout2d), ("alpha_dropout", _alpha_dropout),
                              ("feature_alpha_dropout", _feature_alpha_dropout)):  # fmt: skip
        for inplace in (False, True):

            def low(own: own_randomness, input: Tensor, p: Rate, train: bool, to: Any = replacement, inplace: bool = inplace) -> Any:
                return to(own, input, p, train, inplace)

            _REPLACED[getattr(torch, name + "_" * inplace)] = low


_replace_low_level_dropout()


@_replaces(F.rrelu, torch.rrelu)
def _rrelu(own: own_randomness, input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False,
           **_: Any) -> Tensor:  # fmt: skip
    if training:
        slope = own.uniform(input.shape, input.dtype, input.device) * (upper - lower) + lower
    else:
        slope = torch.full((), (lower + upper) / 2, dtype=input.dtype, device=input.device)
    result = torch.where(input > 0, input, input * slope)
    return input.copy_(result) if inplace else result


@_replaces(torch.rrelu_)
def _rrelu_(own: own_randomness, input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, **_: Any) -> Tensor:
    return _rrelu(own, input, lower, upper, training, inplace=True)


@_replaces(F.gumbel_softmax)
def _gumbel_softmax(own: own_randomness, logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """Written out, for torch's scatters in place into what may be the members' common tensor."""
    times = counter.exponential(own.words, own.next(), logits.shape, logits.dtype, logits.device)
    soft: Tensor = ((logits - times.log()) / tau).softmax(dim)
    if not hard:
        return soft
    chosen: Tensor = torch.zeros_like(soft).scatter(dim, soft.argmax(dim, keepdim=True), 1.0)
    return chosen - soft.detach() + soft


# Attention.


@_replaces(F.scaled_dot_product_attention)
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
        return _dropped(own, scores.softmax(-1), dropout_p, True, False) @ value
    if attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    else:
        scores = scores + attn_mask
    nothing = (scores == -torch.inf).all(-1, keepdim=True)      # a query that may look at nothing gets 0, not NaN
    shares = scores.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)
    return _dropped(own, shares, dropout_p, True, False) @ value


def _entered(func: Any) -> Callable[..., Any]:
    """A composite of torch's that is written in Python and does not ask the modes about itself: what it calls does."""
    asks = dict.fromkeys(("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), lambda *_: False)
    inside = FunctionType(func.__code__, {**func.__globals__, **asks}, func.__name__, func.__defaults__, func.__closure__)
    inside.__kwdefaults__ = func.__kwdefaults__
    return inside


_attend = _entered(F.multi_head_attention_forward)


@_replaces(F.multi_head_attention_forward)
def _multi_head_attention(own: own_randomness, *args: Any, **options: Any) -> Any:
    dropout_p, training = args[10] if len(args) > 10 else options["dropout_p"], options.get("training", True)
    if len(args) > 13:
        training = args[13]
    if not training or not isinstance(dropout_p, Tensor) and dropout_p == 0:
        if training:
            own.next()
        return F.multi_head_attention_forward(*args, **options)
    with own:
        return _attend(*args, **options)


# Recurrent layers.


def _replace_recurrent() -> None:
    for func in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu):

        def stacked(own: own_randomness, *args: Any, func: Any = func) -> tuple[Tensor, ...]:
            return _recurrent(own, func, *args)

        _REPLACED[func] = stacked


def _recurrent(own: own_randomness, func: Any, *args: Any) -> tuple[Tensor, ...]:
    """torch.lstm and its kin: (input, hx, weights, ...) or, packed, (data, batch_sizes, hx, weights, ...)."""
    head = 1 if isinstance(args[3], bool) else 2
    hidden, weights, biases, layers, p, training, both, *rest = args[head:]
    if _level():        # vmap knows the layer's parts, not the whole
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
            values = _dropped(own, values, p, True, False)
        start = [state[layer * directions : (layer + 1) * directions] for state in states]
        held = weights[layer * each : (layer + 1) * each]
        values, *ends = func(values, *args[1:head], start[0] if single else start, held, biases, 1, 0.0, training, both, *rest)
        last.append(ends)
    return (values, *(torch.cat(ends) for ends in zip(*last)))


_replace_recurrent()


# What is known to draw and is not replaced.

_REFUSED = (
    "binomial poisson native_dropout rrelu_with_noise rrelu_with_noise_ svd_lowrank pca_lowrank lobpcg fractional_max_pool2d "
    "fractional_max_pool2d_with_indices fractional_max_pool3d fractional_max_pool3d_with_indices uniform_ normal_ trunc_normal_ "
    "xavier_uniform_ xavier_normal_ kaiming_uniform_ kaiming_normal_ orthogonal_ sparse_ _fused_dropout _cudnn_rnn miopen_rnn"
)


def _refuse(names: str) -> Iterator[tuple[Any, Callable[..., Any]]]:
    for name in names.split():
        for place in (torch, Tensor, F, init):
            if hasattr(place, name):

                def refused(own: own_randomness, *_: Any, called: str = name, **__: Any) -> Any:
                    raise OwnRandomnessError(called, "draws from a global generator")

                yield getattr(place, name), refused


_REPLACED |= {func: refused for func, refused in _refuse(_REFUSED) if func not in _REPLACED}

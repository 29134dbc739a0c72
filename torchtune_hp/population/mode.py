"""The mode under which torch draws by a key, and the table of what it calls in the place of torch's own functions.

A file beside this one writes each replacement down and notes it with `replaces`; randomness.py puts them together and holds the
laws. Whoever imports this file alone has a mode that replaces nothing.

Laws of a replacement:
1. It is called with the mode first, then with torch's arguments. It takes its numbers by `uniform`, `normal` and `hits`, or by `next`
   and counter.py, and so counts its draws.
2. While it runs the mode is off: what it calls of torch is torch's own. Where a composite is to be entered, it says `with own:`.
3. What it cannot do raises OwnRandomnessError.

What torch.utils.checkpoint computes it computes again in the backward pass, out of the block, where the same draws must be made: it keeps
torch's own generators for that, so there torch itself draws.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..seeds import derive
from . import counter

Replacement = TypeVar("Replacement", bound=Callable[..., Any])
Rate = float | Tensor
"""A probability, () and of the member's own where it is a tensor (float64, so that it is to the bit the float it was)."""

REPLACED: dict[Any, Callable[..., Any]] = {}
"""What torch draws with, and what is called in its place: `own_randomness` first, then torch's arguments."""


def replaces(*functions: Any) -> Callable[[Replacement], Replacement]:
    """Notes what is called in the place of these functions of torch."""
    def note(replacement: Replacement) -> Replacement:
        REPLACED.update(dict.fromkeys(functions, replacement))
        return replacement

    return note


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
        self._key = key
        self._words: counter.Words | None = None
        self.calls = 0
        self._depth = 0
        self._level = 0 if torch.compiler.is_compiling() else vmap_level()
        self._before: list[Any] = []

    @property
    def words(self) -> counter.Words:
        """The key, mixed. Most models draw nothing, and need not pay for it."""
        if self._words is None:
            self._words = counter.words(self._key)
        return self._words

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
        replaced = REPLACED.get(func)
        if replaced is None:
            return func(*args, **(kwargs or {}))
        kwargs = kwargs or {}
        if not torch.compiler.is_compiling() and _made_again():
            return self._by_torch(func, args, kwargs)
        try:
            for name in ("generator", "out"):
                if kwargs.get(name) is not None:
                    raise OwnRandomnessError(f"{func.__name__}({name}=...)", f"has a {name} of its own", f"Leave out {name}=.")
            return replaced(self, *args, **kwargs)
        except OwnRandomnessError:
            if self.strict:
                raise
            return func(*args, **kwargs)

    def _by_torch(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A draw that is made again in the backward pass."""
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if not self.strict or "randomness" not in str(error):
                raise
            raise OwnRandomnessError(func.__name__, "is made again in the backward pass by torch.utils.checkpoint") from error

    def next(self, draws: int = 1) -> int:
        """The number of the coming draw; counts `draws` of them."""
        if not torch.compiler.is_compiling() and vmap_level() != self._level and _vmapped_above(self._level):
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
            threshold: Any = threshold_of(p.detach().to(device, torch.float64)).to(torch.int64)
        else:
            threshold = int(threshold_of(p))
        return hashed.to(torch.int64).lt(threshold)

    def _generators(self) -> list[Tensor]:
        states = [torch.default_generator.get_state()]
        device = self._key.device
        if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            states.append(torch.cuda.default_generators[device.index or 0].get_state())
        return states


def threshold_of(p: Any) -> Any:
    """Of the 2^32 hashes a share p lies below it. In steps of 256, so that it is exact as a float32, as what is compiled may hold it."""
    if isinstance(p, Tensor):
        return (p * 2.0**24).round().mul(2.0**8).sub(2.0**31)
    return round(p * 2**24) * 2**8 - 2**31


def vmap_level() -> int:
    """How many transforms of torch.func the call is inside of; 0 outside of them all."""
    return int(torch._C._functorch.maybe_current_level() or 0)


def _made_again() -> bool:
    """Whether the call is inside of torch.utils.checkpoint."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == _CHECKPOINT:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


_CHECKPOINT = torch.utils.checkpoint.CheckpointFunction.forward.__code__.co_filename


def _vmapped_above(level: int) -> bool:
    """Whether one of the transforms inside of this level is a vmap."""
    from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

    inside = [each for each in retrieve_all_functorch_interpreters() if each.level() > level]
    return any(each.key() == torch._C._functorch.TransformType.Vmap for each in inside)


def known(name: str, dtype: torch.dtype) -> torch.dtype:
    """`dtype` itself, if numbers of it can be drawn; else OwnRandomnessError in the name of the call."""
    if dtype.is_complex or dtype.is_floating_point and dtype not in counter.DIGITS:
        raise OwnRandomnessError(f"{name}(dtype={dtype})", "is of a type that is not drawn here", "Draw float32 and convert.")
    return dtype

"""Python values as what can be compared and hashed: whether two trials hold the same, so that one's may stand for the other's.

Laws:
1. Numbers are equal by ==, and a bool is no number; tensors by their content; functions by code, defaults and closure; lists, tuples,
   sets and dicts by what they hold.
2. Objects of a class written in Python, nn.Modules among them, by class and attributes: `self.criterion = nn.CrossEntropyLoss()` is the
   same in all trials. But for those that are large (MOST), or hold what is trained, and what is moved by being read.
3. What cannot be compared is equal to itself only: a doubt splits, and never shares.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

MOST = 200
"""Parts of an object that are looked at."""
MOST_BYTES = 1 << 16
"""Of a tensor in one."""


def frozen(value: Any) -> Hashable:
    """A value as something that can be compared and hashed."""
    return Freezer()(value)


def placed(value: Any) -> Hashable:
    """As `frozen`, for whoever notes where tensors lie: on a device, one equals itself alone, and none of them is read."""
    return Freezer(placed=True)(value)


class Same:
    """Equal where the object is the same one. It is held, so that no other gets its id."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)

    def __repr__(self) -> str:
        return f"an object of {type(self.value).__name__}"


@dataclass(frozen=True, slots=True)
class Alike:
    """An object by its class and attributes."""

    of: type
    parts: tuple[tuple[Any, Hashable], ...]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={part!r}" for name, part in self.parts if isinstance(part, (int, float, str)))
        return f"{self.of.__name__}({shown})"


class Freezer:
    """Tensors of `model` stand for their names. `placed`: a tensor on a device equals itself alone, whatever its content."""

    def __init__(self, model: nn.Module | None = None, placed: bool = False) -> None:
        self._placed = placed
        self._own: dict[int, str] = {}
        self._above: list[object] = []          # what holds the part that is looked at: a list or a closure may hold itself
        self._left: int | None = None           # within an object: how many parts may be looked at still
        if model is not None:
            tensors = [*model.named_parameters(), *model.named_buffers()]
            self._own = {id(tensor): name for name, tensor in reversed(tensors)}

    def __call__(self, value: Any) -> Hashable:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise _TooMany
        if value is None or isinstance(value, (int, float, complex, str, bytes, torch.dtype, torch.device, type)):
            return ("a bool", value) if isinstance(value, bool) else value
        if isinstance(value, weakref.ref):
            return self(value())
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, (list, tuple, set, frozenset, Mapping, FunctionType)):
            return self._within(value, self._made_of)
        if isinstance(value, partial):
            return "a partial", self(value.func), self(value.args), self(value.keywords)
        if isinstance(value, MethodType):
            return "a method", self(value.__func__), Same(value.__self__)
        if isinstance(value, BuiltinFunctionType):
            return value
        return self._within(value, self._object) if is_told(value) else Same(value)

    def _tensor(self, value: Tensor) -> Hashable:
        if id(value) in self._own:
            return "the model's", self._own[id(value)]
        in_object = self._left is not None
        if self._placed and value.device.type != "cpu" or in_object and (value.requires_grad or value.nbytes > MOST_BYTES):
            return Same(value)
        return _content(value)

    def _within(self, value: Any, look: Callable[[Any], Hashable]) -> Hashable:
        if any(value is other for other in self._above):
            return "what this is a part of"
        self._above.append(value)
        try:
            return look(value)
        finally:
            self._above.pop()

    def _made_of(self, value: Any) -> Hashable:
        if isinstance(value, FunctionType):
            cells = tuple(map(self, closed_over(value)))
            return "a function", value.__code__, self(value.__defaults__), self(value.__kwdefaults__), cells
        if isinstance(value, Mapping):
            return type(value), tuple((key, self(part)) for key, part in value.items())
        return type(value), (frozenset if isinstance(value, (set, frozenset)) else tuple)(map(self, value))

    def _object(self, value: Any) -> Hashable:
        outermost = self._left is None
        if outermost:
            self._left = MOST
        above = len(self._above)
        try:
            parts = vars(value).items()
            if isinstance(value, nn.Module):        # most of what each module has is empty
                parts = [(name, part) for name, part in parts if name not in OF_MODULES or part]
            return Alike(type(value), tuple((name, self(part)) for name, part in parts))
        except _TooMany:
            if not outermost:
                raise
            del self._above[above:]
            return Same(value)
        finally:
            if outermost:
                self._left = None


class _TooMany(Exception):
    pass


class _Plain:
    pass


def is_told(value: Any) -> bool:
    """Whether the attributes of an object tell all of it: nothing lies in slots, or in C."""
    cls: Any = type(value)
    return _told(cls)


@lru_cache(1024)
def _told(cls: type) -> bool:
    if hasattr(cls, "__next__") or issubclass(cls, torch.jit.ScriptModule):
        return False
    return all(getattr(cls, name) == getattr(_Plain, name) for name in ("__basicsize__", "__itemsize__", "__dictoffset__"))


OF_MODULES = frozenset(vars(nn.Module()))


def closed_over(function: FunctionType) -> Iterator[Any]:
    """What its closure holds; what is not filled yet holds nothing."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            pass


def _content(tensor: Tensor) -> Hashable:
    if tensor.layout != torch.strided or tensor.device.type == "meta" or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return Same(tensor)
    data = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.blake2b(data.view(torch.uint8).numpy().tobytes()).digest() if data.numel() else b""
    return "a tensor", tuple(tensor.shape), tensor.dtype, digest

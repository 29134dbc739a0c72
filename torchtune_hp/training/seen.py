"""What is looked at of a member besides its state_dicts, and how it was: each value once, by what tells later whether it is another.

Numbers are seen by value, containers by what they hold, tensors by identity, version and some of their elements (`.data` is written
without a version), all else by identity. Of what is large (`MOST`), who it is must do.
"""

from __future__ import annotations

import copy
import random
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..population.signature import REGISTRIES
from .hooks import ModelTrainable, schedulers

Data = dict[str, Any]

PLAIN = frozenset((type(None), bool, int, float, str))
MADE: dict[str, Any] = {kind.__name__: kind for kind in (list, tuple, dict, set, frozenset, deque, OrderedDict, Counter)}
MOST = {"object": 300, "values": 1000, "elements": 256, "bytes": 2**20}
_EVERY = REGISTRIES | frozenset(vars(nn.Module()))      # what each module has, and no user's
_CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, partial, Enum)
DRAWS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    random.Random: (lambda it: it.getstate(), lambda it, state: it.setstate((state[0], tuple(state[1]), state[2]))),
    np.random.Generator: (lambda it: it.bit_generator.state, lambda it, state: setattr(it.bit_generator, "state", state)),
    torch.Generator: (lambda it: it.get_state(), lambda it, state: it.set_state(state.cpu())),
}
"""Generators of random numbers: how their state is taken, and put."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A value as it was. `held`: gives the object, or None where it is gone; `mark`: what tells whether it was changed in place;
    `parts`: of what it holds, a plain value itself, else how it was seen."""

    kind: str
    of: type
    held: Callable[[], Any]
    mark: Any = None
    parts: Mapping[Any, Any] | None = None


def nothing() -> None:
    return None


NOTHING = Seen("nothing", type(None), nothing)


class Lost(Exception):
    """It was changed and cannot be stored; the text says what it is."""


class TooMany(Exception):
    pass


ABSENT = object()


class Looking:
    """Sees values. Within `_of` it is known what the member's parts are called."""

    _above: list[int]       # what holds the part that is looked at
    _left: int              # how many parts may be looked at still

    @contextmanager
    def _of(self, member: ModelTrainable) -> Iterator[None]:
        """Within, it is known what the member's parts are called."""
        self._member, self._named = member, named(member)
        self._ours = {id(value): name for name, value in self._named.items()}
        self._lies = {value.data_ptr(): name for name, value in self._named.items() if isinstance(value, Tensor) and has_content(value)}
        try:
            yield
        finally:
            self._above = []
            del self._member, self._named, self._ours, self._lies

    def _see_root(self, value: Any) -> Any:
        if type(value) in PLAIN or (type(value) is tuple and all(type(part) in PLAIN for part in value)):
            return value
        self._left = MOST["values"]
        try:
            return self._see(value)
        except Exception:       # too many, or an object that cannot be asked
            self._above = []
            return Seen("large", type(value), holder(value), large(value))

    def _attributes(self, module: nn.Module) -> dict[str, Any]:
        return {name: self._see_root(value) for name, value in attributes_of(module).items()}

    def _see(self, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise TooMany
        if type(value) in PLAIN:
            return value
        kind, of = self._kind(value), type(value)
        if kind == "ours":
            return Seen(kind, of, nothing, self._ours[id(value)])
        if kind not in ("list", "tuple", "dict", "object", "module", "stateful") or id(value) in self._above:
            return Seen(kind, of, holder(value), mark_of(kind, value))
        self._above.append(id(value))
        before, left = self._left, min(self._left // 2, MOST["object"])
        if kind in ("object", "stateful"):
            self._left = left
        try:
            parts = {key: self._see(part) for key, part in self._parts(kind, value)}
        except TooMany:
            if kind not in ("object", "stateful"):
                raise
            self._above = self._above[: self._above.index(id(value)) + 1]
            self._left = 0
            return Seen("large", of, holder(value))
        finally:
            self._above.pop()
            if kind in ("object", "stateful"):
                self._left += before - left
        return Seen(kind, of, holder(value), mark_of(kind, value), parts)

    def _kind(self, value: Any) -> str:
        if id(value) in self._ours:
            return "ours"
        for kind, of in (("tensor", Tensor), ("module", nn.Module), ("list", (list, deque)), ("tuple", tuple), ("dict", dict),
                         ("set", (set, frozenset)), ("array", np.ndarray)):  # fmt: skip
            if isinstance(value, of):
                return kind
        if isinstance(value, np.generic):
            return "number"
        if isinstance(value, tuple(DRAWS)):
            return "draws"
        if isinstance(value, weakref.ref):
            return "reference"
        if isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools"):
            return "iterator"
        if isinstance(value, _CODE) or not hasattr(value, "__dict__") or type(value).__module__ == "logging":
            return "other"
        return "stateful" if callable(getattr(value, "state_dict", None)) and hasattr(value, "load_state_dict") else "object"

    def _parts(self, kind: str, value: Any) -> list[tuple[Any, Any]]:
        if kind in ("list", "tuple"):
            return list(enumerate(value))
        if kind == "dict":
            return list(value.items())
        if kind == "object":
            return list(vars(value).items())
        if kind == "stateful":
            return [("state", value.state_dict())]
        attributes = [((path, name), part) for path, module in value.named_modules() for name, part in attributes_of(module).items()]
        return [*(((name, None), tensor) for name, tensor in tensors_of(value)), *attributes]


def own_of(member: ModelTrainable) -> dict[str, Any]:
    """What lies on `self` and has no word of its own."""
    return {name: value for name, value in vars(member).items() if name not in ("model", "optimizer", "lr_scheduler", "_here")}


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """What a module holds that its state_dict does not."""
    own = {name: value for name, value in vars(module).items() if name not in _EVERY and "_hook" not in name}
    if module._non_persistent_buffers_set:
        own |= {name: module._buffers[name] for name in module._non_persistent_buffers_set if name in module._buffers}
    return own


def tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers."""
    beside = {f"{path}.{name}".lstrip(".") for path, part in module.named_modules() for name in part._non_persistent_buffers_set}
    return [*module.named_parameters(), *((name, buffer) for name, buffer in module.named_buffers() if name not in beside)]


def named(member: ModelTrainable) -> dict[tuple[str, str], Any]:
    """What is the member's in another place: it is referred to."""
    found: dict[tuple[str, str], Any] = {("module", path): module for path, module in member.model.named_modules()}
    found |= {("tensor", name): tensor for name, tensor in tensors_of(member.model)}
    found |= {("scheduler", str(place)): scheduler for place, scheduler in enumerate(schedulers(member))}
    return {**found, ("optimizer", ""): member.optimizer, ("self", ""): member}


def set_in(own: Any, name: str, value: Any) -> None:
    if value is not ABSENT and own.get(name, ABSENT) is not value:
        own[name] = value


def _itself(value: Any) -> Any:
    return value


def holder(value: Any) -> Callable[[], Any]:
    """Gives the value; a tensor or a module only for as long as the member holds it."""
    return weakref.ref(value) if isinstance(value, (Tensor, nn.Module)) else partial(_itself, value)


def mark_of(kind: str, value: Any) -> Any:
    if kind == "tensor":
        shape = None if nn.parameter.is_lazy(value) else tuple(value.shape)
        return -1 if value.is_inference() else value._version, shape, _sample(value)
    if kind == "array":
        return value.tobytes() if value.nbytes <= MOST["bytes"] and value.dtype.kind != "O" else None
    if kind == "set":
        return set(value)
    if kind == "draws":
        return copy.deepcopy(next(take for of, (take, _) in DRAWS.items() if isinstance(value, of))(value))
    if kind == "module":
        classes = [(path, parametrize.type_before_parametrizations(part)) for path, part in value.named_modules()]
        return classes, [(name, None if nn.parameter.is_lazy(tensor) else tuple(tensor.shape)) for name, tensor in tensors_of(value)]
    return value if kind == "number" or isinstance(value, (bytes, complex, torch.dtype, torch.device)) else None


def large(value: Any) -> list[Any] | None:
    """Who is in what is large."""
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    return list(value) if isinstance(value, (list, tuple, deque)) else None


def alike(before: list[Any] | None, now: list[Any] | None) -> bool:
    return before is now or (before is not None and now is not None and len(before) == len(now) and all(map(is_, before, now)))


def has_content(tensor: Tensor) -> bool:
    return not nn.parameter.is_lazy(tensor) and tensor.layout == torch.strided and tensor.device.type != "meta" and tensor.numel() > 0


def _sample(tensor: Tensor) -> Tensor | None:
    """Some of its elements, evenly spaced."""
    if not has_content(tensor):
        return None
    most = MOST["elements"]
    flat = tensor.detach().reshape(-1) if tensor.is_contiguous() or tensor.numel() <= most else tensor.detach()[(0,) * (tensor.dim() - 1)]
    return flat[:: -(-len(flat) // most)].clone()


def unmarked(tensor: Tensor, mark: Any) -> bool:
    now = mark_of("tensor", tensor)
    return bool(now[:2] == mark[:2] and (now[2] is mark[2] or torch.equal(now[2], mark[2])))


def called(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"

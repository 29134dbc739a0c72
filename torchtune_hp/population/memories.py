"""What modules remember of their calls in Python: a counter, a flag, a list that grows.

The prototype is called once for all members, and an attempt that is put back was a call too. So what a module of the user's own counts
in Python is one count for all of them, and neither any member's nor a checkpoint's. A buffer is each member's own.

A tensor is a memory where it is written in place, and where a call reads one that an earlier call left and that is replaced (a running
mean), or that is the members' own. Who reads what is noted in the first calls of a program (`Notes`).

Not taken for a memory: what is as it was between two calls (a cache is filled in the first), new keys of a dict (a table for another
length) but for such tensors, and tensors that are replaced and that no later call has read (the activations of the last call).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .holding import attributes
from .signature import REGISTRIES, is_torch_s
from .values import Same, closed_over

Memories = dict[tuple[str, str], Any]

MANY = 10_000
"""Objects whose attributes are looked at, of those that modules hold."""


def memories(model: nn.Module) -> Memories:
    """(path, attribute) -> what the user's own modules hold, as it can be compared with another time."""
    return {
        (path, name): _told(value, set())
        for path, module in model.named_modules() if not is_torch_s(module)
        for name, value in vars(module).items() if name not in REGISTRIES and name != "_watch" and "_hooks" not in name
    }  # fmt: skip


class Notes:
    """Which of the tensors that the user's own modules hold are read: made before a call, asked for each function of torch in it."""

    def __init__(self, model: nn.Module) -> None:
        self._kept = {id(kept.tensor): kept.tensor for told in memories(model).values() for kept in _kept(told)}

    def note(self, func: Any, given: Any) -> None:
        if self._kept and func not in _FORM:
            for leaf in tree_leaves(given):
                if id(leaf) in self._kept:
                    leaf._read = True


_FORM = frozenset(
    [Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.is_floating_point]
    + [getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "requires_grad", "grad_fn", "is_leaf", "is_cuda")]
)
"""What reads no number of a tensor."""


class _Tensor:
    """As it was when it was told."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._version = -1 if tensor.is_inference() else tensor._version

    def same(self, other: _Tensor) -> bool:
        read = getattr(self.tensor, "_read", False)
        if other.tensor is not self.tensor:
            return not read
        return other._version == self._version and not (read and self.of_members())

    def of_members(self) -> bool:
        """Whether each member has its own part of it."""
        return torch._C._functorch.is_functorch_wrapped_tensor(self.tensor)


def of_members(known: Memories) -> bool:
    """Whether something is held that is each member's own."""
    return any(kept.of_members() for told in known.values() for kept in _kept(told))


def _kept(told: Any) -> Iterator[_Tensor]:
    if isinstance(told, _Tensor):
        yield told
    elif isinstance(told, (tuple, dict)):
        for part in told.values() if isinstance(told, dict) else told:
            yield from _kept(part)


def changed(before: Memories, after: Memories) -> str | None:
    """The name of the first that is another; None if none is."""
    return next((".".join(filter(None, place)) for place in after if place in before and not _same(before[place], after[place])), None)


def _told(value: Any, seen: set[int]) -> Any:
    """`seen`: the ids of containers that were told already: they may hold each other."""
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return value
    if isinstance(value, (float, complex)):
        return repr(value)      # NaN is as it was
    if isinstance(value, Tensor):
        return _Tensor(value)
    if isinstance(value, tuple):
        return tuple([_told(part, seen) for part in value])
    if id(value) in seen:
        return "told before"
    seen.add(id(value))
    if isinstance(value, Mapping):
        return {key: _told(part, seen) for key, part in value.items()}
    if isinstance(value, list):
        return tuple([_told(part, seen) for part in value])
    if isinstance(value, (set, frozenset)):
        return frozenset(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _told(getattr(value, field.name, None), seen) for field in dataclasses.fields(value)}
    if isinstance(value, FunctionType) and (value.__closure__ or vars(value)):
        return {**{f"cell {n}": _told(part, seen) for n, part in enumerate(closed_over(value))}, **_told(vars(value), seen)}
    inner = attributes(value) if len(seen) < MANY else None
    return Same(value) if not inner else {name: _told(part, seen) for name, part in inner.items()}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_same(one.get(key, part), part) for key, part in other.items())
    if isinstance(one, _Tensor) and isinstance(other, _Tensor):
        return one.same(other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)

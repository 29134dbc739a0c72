"""What modules remember of their calls in Python: a counter, a flag, a list that grows.

The prototype is called once for all members, and an attempt that is put back was a call too. So what a module of the user's own counts
in Python is one count for all of them, and neither any member's nor a checkpoint's. A buffer is each member's own.

Not taken for a memory: what is as it was between two calls (a cache is filled in the first), and tensors that are kept but not counted
(the activations of the last call), whatever they hold.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn

from .signature import REGISTRIES, is_torch_s

Memories = dict[tuple[str, str], Hashable]

_DEEP = 8       # containers in containers; what lies deeper is known by its identity


def memories(model: nn.Module) -> Memories:
    """(path, attribute) -> what the user's own modules hold, as it can be compared with another time."""
    return {
        (path, name): _told(value, 0)
        for path, module in model.named_modules() if not is_torch_s(module)
        for name, value in vars(module).items() if name not in REGISTRIES and name != "_watch" and "_hooks" not in name
    }  # fmt: skip


def changed(before: Memories, after: Memories) -> str | None:
    """The name of the first that is another; None if none is."""
    return next((".".join(filter(None, place)) for place, value in after.items() if before.get(place, value) != value), None)


def _told(value: Any, depth: int) -> Hashable:
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return value
    if isinstance(value, (float, complex)):
        return repr(value)      # NaN is as it was
    if isinstance(value, Tensor):
        return "a tensor"
    if depth < _DEEP:
        if isinstance(value, (list, tuple)):
            return "in order", tuple(_told(part, depth + 1) for part in value)
        if isinstance(value, Mapping):
            return "by key", tuple((_told(key, depth + 1), _told(part, depth + 1)) for key, part in value.items())
        if isinstance(value, (set, frozenset)):
            return "a set", frozenset(_told(part, depth + 1) for part in value)
    return type(value).__qualname__, id(value)

"""A model's parameters and buffers where they are held a second time: in a list on a module, or in what a forward hook closes over.

In a stack each member's tensors take their places in `_parameters` and `_buffers` for the time of a call. A second place goes on holding
those of one member, as they were once, untrained: a hook that reads it would silently train all members with them. So who holds one
cannot be stacked. A weak reference holds nothing, and torch's own modules look their tensors up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from .signature import HOOKS, REGISTRIES, is_torch_s
from .values import closed_over


def held_twice(model: nn.Module) -> str | None:
    """What a module of the user's own holds of the model besides its own places, and the way out; None if nothing."""
    own: dict[int, str] = {}
    for path, module in model.named_modules():
        for name, value in _attributes(module):
            own = own or named(model)
            found = within(value, own)
            if found is not None:
                place = said(path) if path else "model"
                where = f"a hook on {place}" if name in HOOKS else f"{place}.{name}"
                return f"{where} holds {said(found)} a second time, where a stack does not put each member's own. Look it up by that name"
    return None


def named(model: nn.Module) -> dict[int, str]:
    """id -> name of its parameters and buffers."""
    return {id(tensor): name for name, tensor in (*model.named_buffers(), *model.named_parameters())}


def said(name: str, model: str = "model") -> str:
    """`net.0.weight` as it is written: `model.net[0].weight`."""
    return model + "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in name.split("."))


def within(value: Any, own: Mapping[int, str], above: tuple[Any, ...] = ()) -> str | None:
    """The name of the first of `own` that lies in a value: in containers, and in what functions close over."""
    if isinstance(value, Tensor):
        return own.get(id(value))
    if not isinstance(value, _HOLDERS) or any(value is other for other in above):
        return None
    if isinstance(value, FunctionType):
        parts: Any = [value.__defaults__, value.__kwdefaults__, *closed_over(value)]
    else:
        parts = value.values() if isinstance(value, Mapping) else value
    found = (within(part, own, (*above, value)) for part in parts if isinstance(part, _HELD))
    return next((name for name in found if name is not None), None)


_HOLDERS = (list, tuple, set, frozenset, Mapping, FunctionType)
_HELD = (Tensor, *_HOLDERS)


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What may hold one."""
    plain = not is_torch_s(module)
    for name, value in vars(module).items():
        if name in HOOKS:
            if value:
                yield name, list(value.values())
        elif plain and isinstance(value, _HELD) and name not in REGISTRIES and "_hooks" not in name:
            if not (isinstance(module, nn.RNNBase) and name == "_flat_weights"):
                yield name, value

"""What Python values hold: which parts there are in turn, and what is not looked into."""

from __future__ import annotations

import enum
import io
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..training.hooks import ModelTrainable

NUMBERS = (int, float, complex)
PLAIN = (type(None), *NUMBERS, str, bytes, type, ModuleType, enum.Enum, io.IOBase, torch.dtype, torch.device)
"""What is not looked into: it does not change, or is not the trial's."""

_NOT_WALKED = {"torch", "torchtune_hp", "numpy", *sys.stdlib_module_names} - {"types", "argparse", "collections"}
"""Whose objects are not a user's, and hold nothing that a user puts there."""
_ENGINE_S = {"model", "optimizer", "lr_scheduler", "config", "hparams", "batch_size", "accumulate"}


def parts_of(value: Any) -> Iterable[Any]:
    """What a value holds."""
    if isinstance(value, Tensor):
        return (value.grad,) if value.is_leaf else ()
    if isinstance(value, FunctionType):
        return (*(value.__closure__ or ()), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), vars(value))
    if isinstance(value, CellType):
        return content_of(value)
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, partial):
        return value.func, *value.args, value.keywords, vars(value)
    if isinstance(value, ModelTrainable):
        return [part for name, part in vars(value).items() if is_own(name)]
    inner = attributes(value)
    held = () if inner is None else (inner, *(getattr(value, name) for name in slots_of(value)))
    if isinstance(value, dict):
        return *dict.values(value), *held
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return *value, *held
    return held


def attributes(value: Any) -> dict[str, Any] | None:
    """The attributes of an object, where they may be a user's."""
    if _has_attributes(type(value)):
        try:
            found = object.__getattribute__(value, "__dict__")
        except (AttributeError, TypeError):
            return {} if hasattr(type(value), "__slots__") else None
        return found if isinstance(found, dict) else None
    return None


def _once_a_class(ask: Callable[[type], bool]) -> Callable[[type], bool]:
    known: Any = lru_cache(1024)(ask)
    return known    # type: ignore[no-any-return]


@_once_a_class
def _has_attributes(cls: type) -> bool:
    return issubclass(cls, (nn.Module, Optimizer)) or cls.__module__.partition(".")[0] not in _NOT_WALKED


@_once_a_class
def is_iterator(cls: type) -> bool:
    """One that does not say what it holds."""
    return issubclass(cls, Iterator) and not _has_attributes(cls)


@_once_a_class
def is_plain(cls: type) -> bool:
    return issubclass(cls, PLAIN)


def slots_of(value: Any) -> list[str]:
    """The names of an object's slots that are filled."""
    if not hasattr(type(value), "__slots__") or attributes(value) is None:
        return []
    each = [vars(cls).get("__slots__", ()) for cls in type(value).__mro__]
    names = [name for slots in each for name in ((slots,) if isinstance(slots, str) else slots)]
    return [name for name in names if not name.startswith("__") and hasattr(value, name)]


def is_own(name: str) -> bool:
    """Whether an attribute of a trial is its own code's."""
    return not name.startswith("_") and name not in _ENGINE_S


def content_of(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:      # not filled yet
        return ()


# How it was, by what it is ------------------------------------------------------------------------------------------------------


def of_members(value: Any, depth: int = 3) -> bool:
    """Whether something in it is each member's own."""
    if isinstance(value, Tensor):
        return torch._C._functorch.is_functorch_wrapped_tensor(value)
    if is_plain(type(value)) or not depth:
        return False
    return any(of_members(part, depth - 1) for part in parts_of(value))

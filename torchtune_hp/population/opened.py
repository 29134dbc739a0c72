"""Dicts and objects on `self` in which members differ: what a hook reads of one is a read of its own (reads.py).

    self.cfg = dict(config)         self.cfg["alpha"]       ("self", "cfg", "alpha")
    self.cfg = Config(**config)     self.cfg.alpha          ("self", "cfg", Attribute("alpha"))

So that trials whose configs lie in a dict, a dataclass or a Namespace on `self` are kept apart only by what is read of it. An object is
shown as one of its class with the same attributes; what would write it raises `Written`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Protocol

from torch import nn

from .belongings import Written
from .values import OF_MODULES, is_told

Path = tuple[str, ...]


class Attribute(str):
    """The step of a path that is an object's attribute, not a key."""

    __slots__ = ()


class Noting(Protocol):
    """What is seen in a stack's calls."""

    seen: set[Path]

    def read(self, read: Path, value: Any) -> Any: ...


def opens(value: Any) -> bool:
    """Whether what is read of it can be told part by part. A module with tensors or modules of its own is read whole."""
    if isinstance(value, nn.Module):
        parts = (*value._parameters.values(), *value._buffers.values(), *value._modules.values())
        return is_told(value) and all(part is None for part in parts)
    if isinstance(value, dict) and type(value) not in (dict, OrderedDict):      # a defaultdict makes what is not there
        return _by_attribute(value)
    return isinstance(value, Mapping) or is_told(value)


def _by_attribute(value: Any) -> bool:
    """Whether it is a dict whose keys are attributes, too."""
    return isinstance(value, Mapping) and hasattr(type(value), "__getattr__")


def opened(value: Any, noting: Noting, path: Path) -> Any:
    """What is handed out for it."""
    if isinstance(value, Mapping):
        return (_Attributed if _by_attribute(value) else _Reading)(value, noting, path)
    cls: Any = type(value)
    made: Any = object.__new__(_shown_as(cls))
    object.__getattribute__(made, "__dict__").update(vars(value), _opened=(noting, path))
    return made


def part_of(found: Any, step: str) -> Any:
    """What a dict or an object has there; None where it has nothing."""
    if isinstance(step, Attribute):
        return getattr(found, "__dict__", {}).get(step, getattr(type(found), step, None))
    return found.get(step) if isinstance(found, Mapping) else None


class _Reading(Mapping[str, Any]):
    """A dict that writes down which keys are read; one that is iterated is read whole."""

    def __init__(self, content: Mapping[str, Any], noting: Noting, path: Path) -> None:
        self._content, self._noting, self._path = content, noting, path

    def __getitem__(self, key: str) -> Any:
        value, read = self._content[key], (*self._path, key)
        return opened(value, self._noting, read) if opens(value) else self._noting.read(read, value)

    def __iter__(self) -> Iterator[str]:
        for key in self._content:
            self[key]
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


class _Attributed(_Reading):
    def __getattr__(self, name: str) -> Any:
        if name not in self._content:
            self._noting.seen.add((*self._path, name))      # another member may have it
            raise AttributeError(name)
        return self[name]


class _Opened:
    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        noting, path = own["_opened"]
        if name == "__dict__":
            if not isinstance(self, nn.Module):
                noting.seen.add(path)
            return {each: part for each, part in own.items() if each != "_opened"}
        if name not in own or name in OF_MODULES and name != "training":
            if name not in own and not hasattr(type(self), name):
                noting.seen.add((*path, Attribute(name)))       # another member may have it
            return super().__getattribute__(name)
        read = (*path, Attribute(name))
        return opened(own[name], noting, read) if opens(own[name]) else noting.read(read, own[name])

    def __setattr__(self, name: str, value: Any) -> None:
        raise Written(_said(object.__getattribute__(self, "__dict__")["_opened"][1], name))

    def __delattr__(self, name: str) -> None:
        raise Written(_said(object.__getattribute__(self, "__dict__")["_opened"][1], name))


def _said(path: Path, name: str) -> str:
    return ".".join((*path, name))


@cache
def _shown_as(cls: type) -> type:
    """A class whose objects pass for those of `cls`."""
    named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__class__": property(lambda self: cls)}
    return type(cls)(cls.__name__, (_Opened, cls), named)

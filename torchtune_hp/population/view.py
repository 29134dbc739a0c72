"""`self` in a hook that runs once for many members: what it reads is written down, and what it may not write is refused.

The hooks of a trainable are methods, and what they read from `self` is a Python value: traced once, the first member's value
would silently be every member's. So they are called on a view of the first member, which shows the same attributes and

    hparams      as tensors that hold each member's own value
    model        as the model that holds each member's own tensors
    config       as a mapping that writes down which keys are read

and writes down every other attribute that is read. Whoever calls compares those between the members, and keeps apart the ones
that differ. An attribute that is written raises `Written`: there is one `self`, and there are many members.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from .signature import frozen

_WORDS = frozenset({"model", "optimizer", "lr_scheduler", "max_grad_norm", "validate_every", "_here", "batch_size", "accumulate"})
"""What belongs to the engine; members of a stack agree in it, or have their own."""


class Written(Exception):
    """A hook wrote an attribute of self; `args[0]` is its name."""


def view_of(member: Any, model: nn.Module, reads: set[str]) -> Any:
    """A stand-in for `member` as `self`. `reads` gathers the names of attributes, and of config keys as "config.<key>"."""
    made: Any = object.__new__(_view_class(type(member)))
    vars(made).update(vars(member))
    vars(made)["_view"] = (model, reads, None)
    return made


def give(view: Any, hparams: Mapping[str, Tensor]) -> None:
    """The members' own numbers for the call to come."""
    model, reads, _ = vars(view)["_view"]
    vars(view)["_view"] = (model, reads, hparams)


def value_of(member: Any, read: str) -> Any:
    """What a member has where the view was read."""
    head, dot, key = read.partition(".")
    if not dot:
        return vars(member).get(head, getattr(type(member), head, None))
    found: Any = member.config
    for part in key.split("\x1f"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def values_of(member: Any, reads: Iterable[str]) -> Hashable:
    """What a member has where the view was read, as something that can be compared."""
    return tuple((read, frozen(value_of(member, read))) for read in sorted(reads))


def shown_read(read: str) -> str:
    """A read as it was written: `self.depth`, `self.config['loss']['alpha']`."""
    head, dot, keys = read.partition(".")
    return f"self.{head}" + "".join(f"[{key!r}]" for key in keys.split("\x1f") if dot)


_classes: dict[type, type] = {}


def _view_class(cls: type) -> type:
    if cls not in _classes:
        _classes[cls] = type(cls.__name__, (_Viewing, cls), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})
    return _classes[cls]


class _Viewing:
    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        view = own.get("_view")
        if view is None or name.startswith("__"):
            return object.__getattribute__(self, name)
        model, reads, hparams = view
        if name == "model":
            return model
        if name == "hparams":
            return _Lifted(hparams)
        if name == "config":
            return _Reading(object.__getattribute__(self, name), reads)
        if name in own and name not in _WORDS and name != "_view":
            reads.add(name)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise Written(name)

    def __delattr__(self, name: str) -> None:
        raise Written(name)


class _Reading(Mapping[str, Any]):
    """A config that writes down which keys are read; one that is iterated is read whole."""

    def __init__(self, config: Mapping[str, Any], reads: set[str], path: tuple[str, ...] = ()) -> None:
        self._config, self._reads, self._path = config, reads, path

    def __getitem__(self, key: str) -> Any:
        value = self._config[key]
        if isinstance(value, Mapping):
            return _Reading(value, self._reads, (*self._path, key))
        self._reads.add("config." + "\x1f".join((*self._path, key)))
        return value

    def __iter__(self) -> Iterator[str]:
        for key in self._config:
            self[key]
        return iter(self._config)

    def __len__(self) -> int:
        return len(self._config)


class _Lifted(Mapping[str, Any]):
    """`self.hparams` over tensors by dotted names."""

    def __init__(self, tensors: Mapping[str, Tensor], path: str = "") -> None:
        self._tensors, self._path = tensors, path

    def __getitem__(self, name: str) -> Any:
        whole = self._path + name
        if whole in self._tensors:
            return self._tensors[whole]
        if any(each.startswith(whole + ".") for each in self._tensors):
            return _Lifted(self._tensors, whole + ".")
        raise KeyError(f"{whole!r} is not among the numbers of the config, which are {', '.join(map(repr, self._tensors)) or 'none'}.")

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name[len(self._path) :].partition(".")[0] for name in self._tensors if name.startswith(self._path)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

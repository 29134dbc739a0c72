"""`self` in a hook that runs once for many members: what it reads is written down, and what it may not write is refused.

The hooks of a trainable are methods, and what they read from `self` is a Python value: traced once, the first member's value
would silently be every member's. So they are called on a view of the first member, which shows the same attributes and

    hparams      as tensors that hold each member's own value
    model        as the model that holds each member's own tensors
    config       as a mapping that writes down which keys are read

and writes down every other attribute that is read (reads.py); one that is lifted is a tensor with each member's own value. An
attribute that is written raises `Written`: there is one `self`, and there are many members.

Modules are the user's own code too. Those in which members differ are watched (`watch`): reading an attribute in which they do is
written down in the same way. The others are left as they are, so watching costs nothing where there is nothing to be found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .reads import Read

_WORDS = frozenset({"model", "optimizer", "lr_scheduler", "max_grad_norm", "validate_every", "_here", "batch_size", "accumulate"})
"""What belongs to the engine; members of a stack agree in it, or have their own."""


class Written(Exception):
    """A hook wrote an attribute of self; `args[0]` is its name."""


@dataclass
class Sight:
    """What is seen in a stack's calls. `seen` gathers the reads; `opened`: dicts of which each key is a read of its own."""

    seen: set[Read]
    opened: frozenset[Read] = frozenset()
    hparams: Mapping[str, Tensor] = field(default_factory=dict)
    lifted: Mapping[Read, Tensor] = field(default_factory=dict)

    def read(self, read: Read, value: Any) -> Any:
        """What is handed out for it."""
        if isinstance(value, Mapping) and (read[0] == "config" or read in self.opened):
            return _Reading(value, self, read)
        self.seen.add(read)
        return self.lifted.get(read, value)


def view_of(member: Any, model: nn.Module, sight: Sight) -> Any:
    """A stand-in for `member` as `self`, with this model."""
    made: Any = object.__new__(_subclass(_Viewing, type(member)))
    vars(made).update(vars(member))
    vars(made)["_view"] = (model, sight)
    return made


@contextmanager
def given(sight: Sight, model: nn.Module, own: Mapping[str, Mapping[Any, Tensor]]) -> Iterator[None]:
    """A call with the members' own: "hparams", by their dotted names, and "lifted" reads."""
    sight.hparams, sight.lifted = own["hparams"], own["lifted"]
    places = [(vars(model.get_submodule(read[1])), read[2], value) for read, value in sight.lifted.items() if _is_attribute(read)]
    before = [attributes[name] for attributes, name, _ in places]
    for attributes, name, value in places:
        attributes[name] = value
    try:
        yield
    finally:
        sight.hparams, sight.lifted = {}, {}
        for (attributes, name, _), value in zip(places, before):
            attributes[name] = value


def watch(model: nn.Module, attributes: Iterable[tuple[str, str]], sight: Sight) -> None:
    """From now on these (path, name) of the model's modules write down that they are read."""
    names: dict[str, set[str]] = {}
    for path, name in attributes:
        names.setdefault(path, set()).add(name)
    for path, watched in names.items():
        module = model.get_submodule(path)
        if not isinstance(module, _Watching):
            module.__class__ = _subclass(_Watching, type(module))
        vars(module)["_watch"] = path, watched, sight


def _is_attribute(read: Read) -> bool:
    return read[0] == "model" and len(read) == 3        # what lies in a dict of a module is handed out by `read`


_classes: dict[tuple[type, type], type] = {}


def _subclass(mixin: type, cls: type) -> type:
    """`cls` with `mixin` before it, by the same name."""
    made = _classes.get((mixin, cls))
    if made is None:
        named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        made = _classes[mixin, cls] = type(cls)(cls.__name__, (mixin, cls), named)
    return made


class _Viewing:
    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        view = own.get("_view")
        if view is None or name.startswith("__"):
            return object.__getattribute__(self, name)
        model, sight = view
        if name == "model":
            return model
        if name == "hparams":
            return _Lifted(sight.hparams)
        if name == "config":
            return sight.read(("config",), object.__getattribute__(self, name))
        value = object.__getattribute__(self, name)
        return sight.read(("self", name), value) if name in own and name not in _WORDS and name != "_view" else value

    def __setattr__(self, name: str, value: Any) -> None:
        raise Written(name)

    def __delattr__(self, name: str) -> None:
        raise Written(name)


class _Watching:
    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        watched = own.get("_watch")
        if watched is not None:
            path, names, sight = watched
            if name in names and name in own:
                return sight.read(("model", path, name), own[name])
            if name == "__dict__" and _by_a_user():
                sight.seen.update(("model", path, each) for each in names)
        return super().__getattribute__(name)


def _by_a_user() -> bool:
    """Whether __dict__ is read by code that may be after a value: torch looks for its own registries there."""
    return str(sys._getframe(2).f_globals.get("__name__")).partition(".")[0] not in ("torch", "torchtune_hp")


class _Reading(Mapping[str, Any]):
    """A dict that writes down which keys are read; one that is iterated is read whole."""

    def __init__(self, content: Mapping[str, Any], sight: Sight, path: Read) -> None:
        self._content, self._sight, self._path = content, sight, path

    def __getitem__(self, key: str) -> Any:
        value, read = self._content[key], (*self._path, key)
        return _Reading(value, self._sight, read) if isinstance(value, Mapping) else self._sight.read(read, value)

    def __iter__(self) -> Iterator[str]:
        for key in self._content:
            self[key]
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


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

"""`self` in a hook that runs once for many members: what it reads is written down, and what it may not write is refused.

The hooks of a trainable are methods, and what they read from `self` is a Python value: traced once, the first member's value
would silently be every member's. So they are called on a view of the first member, which shows the same attributes and

    hparams      as tensors that hold each member's own value
    model        as the model that holds each member's own tensors
    config       as a mapping that writes down which keys are read

and writes down every other attribute that is read (reads.py), be it there or not; one that is lifted is a tensor with each member's
own value. What is written raises `Written`; what is changed in what self holds is seen by who called (belongings.py): there is one `self`,
and there are many members.
What is one member's alone and cannot be written down (`optimizer`, `lr_scheduler`, `__dict__`) raises `Hidden`, and what holds parameters
of its model (`self.decayed = list(self.model.parameters())`) raises `Held`.

Modules are the user's own code too. Those in which members differ are watched (`watch`): reading an attribute in which they do is
written down in the same way. The others are left as they are, so watching costs nothing where there is nothing to be found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from inspect import getattr_static
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from .aliases import named, said, within
from .belongings import Belongings, Written
from .opened import opened, opens
from .reads import Read

_WORDS = frozenset({"_here", "batch_size", "accumulate"})
"""What belongs to the engine, and members of a stack agree in it."""

_HIDDEN = frozenset({"optimizer", "lr_scheduler", "__dict__"})


class Hidden(Exception):
    """A hook read what is one trial's. No AttributeError: `getattr` with a default would take it for an answer."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a hook that runs once for many trials reads self.{name}, which is one trial's. self.hparams is each one's own")


class Held(Exception):
    """A hook read a parameter of one trial's model from self."""

    def __init__(self, name: str, tensor: str) -> None:
        super().__init__(f"a hook that runs once for many trials reads self.{name}, which holds one trial's {tensor}. Read {tensor} itself")


@dataclass
class Sight:
    """What is seen in a stack's calls. `seen` gathers the reads; `opened`: dicts and objects of which each part is a read of its own."""

    seen: set[Read]
    opened: frozenset[Read] = frozenset()
    hparams: Mapping[str, Tensor] = field(default_factory=dict)
    lifted: Mapping[Read, Tensor] = field(default_factory=dict)
    looked: set[str] = field(default_factory=set)       # attributes of self that hold no parameter of the model

    def read(self, read: Read, value: Any) -> Any:
        """What is handed out for it."""
        if read[0] == "config" and isinstance(value, Mapping) or read in self.opened and opens(value):
            return opened(value, self, read)
        self.seen.add(read)
        return self.lifted.get(read, value)


def view_of(member: Any, model: nn.Module, sight: Sight, held: Belongings) -> Any:
    """A stand-in for `member` as `self`, with this model. What it hands out is noted in `held`."""
    made: Any = object.__new__(_subclass(_Viewing, type(member)))
    vars(made).update(vars(member))
    vars(made)["_view"] = (model, sight, held)
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
        if view is not None and name in _HIDDEN:
            raise Hidden(name)
        if view is None or name.startswith("__"):
            return object.__getattribute__(self, name)
        model, sight, held = view
        cls: Any = type(self)
        if name == "model":
            return model
        if name == "hparams":
            return _Lifted(sight)
        if name == "config":
            return sight.read(("config",), object.__getattribute__(self, name))
        if name in _WORDS or name not in own and name != "trial_id" and _is_code(cls, name):
            return object.__getattribute__(self, name)
        try:
            value = object.__getattribute__(self, name)
        except AttributeError:
            sight.seen.add(("self", name))      # another member may have it
            raise
        if (place := f"self.{name}") not in held.names:
            held.note(place, value)
        if name not in sight.looked:
            found = within(value, named(object.__getattribute__(self, "model")))
            if found is not None:
                raise Held(name, said(found, "self.model"))
            sight.looked.add(name)
        return sight.read(("self", name), value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise Written(f"self.{name}")

    def __delattr__(self, name: str) -> None:
        raise Written(f"self.{name}")


@cache
def _is_code(cls: Any, name: str) -> bool:
    """Whether this is a method or property of the class; what it reads of a member is seen."""
    return isinstance(getattr_static(cls, name, None), (FunctionType, classmethod, staticmethod, property))


class _Watching:
    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        watched = own.get("_watch")
        if watched is not None:
            path, names, sight = watched
            if name in names:
                if name in own:
                    return sight.read(("model", path, name), own[name])
                sight.seen.add(("model", path, name))       # another member has it, and this one what its class has
            if name == "__dict__" and _by_a_user():
                sight.seen.update(("model", path, each) for each in names)
        return super().__getattribute__(name)


def _by_a_user() -> bool:
    """Whether __dict__ is read by code that may be after a value: torch looks for its own registries there."""
    return str(sys._getframe(2).f_globals.get("__name__")).partition(".")[0] not in ("torch", "torchtune_hp")


class _Lifted(Mapping[str, Any]):
    """`self.hparams` over tensors by dotted names, those that all members have. That one is missing is read: another may have it."""

    def __init__(self, sight: Sight, path: Read = ()) -> None:
        self._sight, self._path = sight, path

    def __getitem__(self, name: str) -> Any:
        tensors, path = self._sight.hparams, (*self._path, *name.split("."))
        whole = ".".join(path)
        if whole in tensors:
            return tensors[whole]
        if any(each.startswith(whole + ".") for each in tensors):
            return _Lifted(self._sight, path)
        self._sight.seen.add(("hparams", *path))
        raise KeyError(f"{whole!r} is not among the numbers of the config, which are {', '.join(map(repr, tensors)) or 'none'}.")

    def __iter__(self) -> Iterator[str]:
        self._sight.seen.add(("hparams", *self._path))
        start = "".join(f"{part}." for part in self._path)
        return iter(dict.fromkeys(name[len(start) :].partition(".")[0] for name in self._sight.hparams if name.startswith(start)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

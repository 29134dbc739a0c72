"""A trial's own Python as it was before hooks were called: what they change of it shows, and is put back.

A hook of a stack runs once for many members, on what the first of them holds: an object that counts would count once for all, and what is
kept in it would be all members' tensors at once, of no use to the one whose object it is. And an attempt that is given up was a call, too.
So what is handed out to a hook is noted before: lists, dicts and sets by what they hold, objects by their attributes, functions by what
they close over, tensors and arrays by their content, generators of random numbers by their state; and in turn all that these hold.

Laws:
1. After `put_back` what was noted holds what it held, in the same objects.
2. What is used up by reading (an iterator) cannot be put back: `note` raises UsedUp.
3. It is a change where something is another than it was. A cache that an object fills is none: what was not there, or was None, unless
   it is a number or the members' own.
4. Only so much is looked at: so many objects, and tensors of so many bytes. What is larger is not noted, but for a tensor's version.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import CellType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..training.hooks import ModelTrainable
from .holding import PLAIN, content_of, is_iterator, is_plain, of_members, parts_of, slots_of
from .notes import OfArray, OfCell, OfDict, OfMany, OfNothing, OfRandom, OfSlots, OfTensor, OfTrial, state_of
from .signature import HOOKS, REGISTRIES
from .values import is_told

_FIRST, _LATER = (5_000, 1 << 24), (100, 1 << 18)
"""(objects, bytes of tensors) that are noted where hooks are called for the first time, and afterwards."""


class Changed(Exception):
    """A hook changed what is there once."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"a hook that runs once for many trials changes {name}. A buffer of the model is each trial's own, and on_iteration_end may "
            "change anything"
        )


class Written(Changed):
    """A hook wrote to self, or filled a list, dict or set that it holds."""

    def __init__(self, name: str) -> None:
        Exception.__init__(self, f"a hook that runs once for many trials writes {name}. on_iteration_end may write it")


class Drawn(Changed):
    """A hook drew from a generator of random numbers."""

    def __init__(self, name: str) -> None:
        Exception.__init__(
            self, f"a hook that runs once for many trials draws from {name}. What torch draws without a generator is each trial's own"
        )


class UsedUp(Exception):
    """A hook read an iterator."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"a hook that runs once for many trials reads {name}, and what an iterator gives to one it gives to no other. What each "
            "trial is to have comes with the batch, from data()"
        )


class Belongings:
    """`first`: hooks are called for the first time, so that more is looked at. `common`: all trials have it in common, so that it is
    a change only where members' own tensors are left in it. `names`: of what was noted."""

    def __init__(self, first: bool = True, common: bool = False) -> None:
        self.names: set[str] = set()
        self._common = common
        self._objects, self._bytes = _FIRST if first else _LATER
        self._notes: dict[int, tuple[str, Any]] = {}        # by the id of what is noted, which a note holds

    def note(self, name: str, value: Any, lasting: bool = False) -> None:
        """Before the value is handed out. `lasting`: an iterator in it is not read."""
        self.names.add(name)
        todo: deque[tuple[Any, bool]] = deque([(value, isinstance(value, (list, deque, dict, set)))])
        while todo and self._objects:
            part, strict = todo.popleft()
            if is_plain(type(part)) or id(part) in self._notes:
                continue
            if is_iterator(type(part)):
                if lasting:
                    continue
                raise UsedUp(name)
            self._objects -= 1
            self._notes[id(part)] = (name, self._noted(part, strict))
            many = isinstance(part, (list, deque, dict, set, tuple))
            inner = [(each, strict and many) for each in parts_of(part) if not is_plain(type(each))]
            (todo.extend if many else todo.extendleft)(inner)       # an object is its attributes

    def changed(self) -> Changed | None:
        """The first change that is found."""
        for name, note in self._notes.values():
            if note.changed() and (not self._common or of_members(note.value)):
                if isinstance(note, OfRandom):
                    return Drawn(name)
                return Written(name) if getattr(note, "strict", False) else Changed(name)
        return None

    def put_back(self) -> None:
        for _, note in self._notes.values():
            note.put_back()

    def _noted(self, part: Any, strict: bool) -> Any:
        if isinstance(part, Tensor):
            plain = part.layout == torch.strided and part.device.type != "meta" and not is_lazy(part)
            return OfTensor(part, plain and self._afford(part.numel() * part.element_size()))
        if isinstance(part, np.ndarray):
            return OfArray(part, self._afford(part.nbytes))
        if isinstance(part, ModelTrainable):
            return OfTrial(part)
        if isinstance(part, dict):
            return OfDict(part, strict)
        if isinstance(part, (list, deque, set)):
            return OfMany(part, strict)
        if isinstance(part, CellType):
            return OfCell(part)
        state = state_of(part)
        if state is not None:
            return OfRandom(part, *state)
        names = slots_of(part)
        return OfSlots(part, names) if names else OfNothing(part)       # what it holds is noted by itself

    def _afford(self, size: int) -> bool:
        if size > self._bytes:
            return False
        self._bytes -= size
        return True


def _holds_something(value: Any) -> bool:
    return isinstance(value, FunctionType) and bool(value.__closure__ or vars(value))


def functions_of(model: nn.Module) -> list[tuple[str, Any]]:
    """(what it is called, the function or object): what modules hold, and their forward hooks. A copy of a model has the same functions."""
    found = []
    for path, module in model.named_modules():
        place = f"model.{path}" if path else "model"
        for name, value in vars(module).items():
            if name in HOOKS:
                found += [(f"what a hook on {place} holds", hook) for hook in value.values() if isinstance(hook, (FunctionType, partial))]
            elif name not in REGISTRIES and (_holds_something(value) or is_told(value) and not isinstance(value, nn.Module)):
                found.append((f"what {place}.{name} holds", value))
    return found


def common_to(cls: type) -> Iterator[tuple[str, Any]]:
    """(what it is called, the value): what a trainable's class holds, and the globals and closures of its methods."""
    for each in cls.__mro__:
        if each.__module__.partition(".")[0] in ("torchtune_hp", *sys.stdlib_module_names):
            continue
        for name, value in vars(each).items():
            value = getattr(value, "__func__", value)
            if isinstance(value, FunctionType):
                held = {name: value.__globals__.get(name) for name in value.__code__.co_names}
                cells = zip(value.__code__.co_freevars, value.__closure__ or ())
                held |= {name: part for name, cell in cells for part in content_of(cell) if name != "__class__"}
                yield from ((name, part) for name, part in held.items() if not isinstance(part, (FunctionType, *PLAIN)))
            elif not name.startswith("__") and not isinstance(value, property):
                yield f"{each.__name__}.{name}", value

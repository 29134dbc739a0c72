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

import enum
import io
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from operator import is_
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ..training.hooks import ModelTrainable
from .signature import HOOKS, REGISTRIES

_FIRST, _LATER = (5_000, 1 << 24), (100, 1 << 18)
"""(objects, bytes of tensors) that are noted where hooks are called for the first time, and afterwards."""

_NUMBERS = (int, float, complex)
_PLAIN = (type(None), *_NUMBERS, str, bytes, type, ModuleType, enum.Enum, io.IOBase, torch.dtype, torch.device)
"""What is not looked into: it does not change, or is not the trial's."""

_NOT_WALKED = {"torch", "torchtune_hp", "numpy", *sys.stdlib_module_names} - {"types", "argparse", "collections"}
"""Whose objects are not a user's, and hold nothing that a user puts there."""
_ENGINE_S = {"model", "optimizer", "lr_scheduler", "config", "hparams", "batch_size", "accumulate"}


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
            if _is_plain(type(part)) or id(part) in self._notes:
                continue
            if _is_iterator(type(part)):
                if lasting:
                    continue
                raise UsedUp(name)
            self._objects -= 1
            self._notes[id(part)] = (name, self._noted(part, strict))
            many = isinstance(part, (list, deque, dict, set, tuple))
            inner = [(each, strict and many) for each in _parts(part) if not _is_plain(type(each))]
            (todo.extend if many else todo.extendleft)(inner)       # an object is its attributes

    def changed(self) -> Changed | None:
        """The first change that is found."""
        for name, note in self._notes.values():
            if note.changed() and (not self._common or _of_members(note.value)):
                if isinstance(note, _Random):
                    return Drawn(name)
                return Written(name) if getattr(note, "strict", False) else Changed(name)
        return None

    def put_back(self) -> None:
        for _, note in self._notes.values():
            note.put_back()

    def _noted(self, part: Any, strict: bool) -> Any:
        if isinstance(part, Tensor):
            plain = part.layout == torch.strided and part.device.type != "meta" and not is_lazy(part)
            return _OfTensor(part, plain and self._afford(part.numel() * part.element_size()))
        if isinstance(part, np.ndarray):
            return _OfArray(part, self._afford(part.nbytes))
        if isinstance(part, ModelTrainable):
            return _OfTrial(part)
        if isinstance(part, dict):
            return _OfDict(part, strict)
        if isinstance(part, (list, deque, set)):
            return _OfMany(part, strict)
        if isinstance(part, CellType):
            return _OfCell(part)
        state = _state_of(part)
        if state is not None:
            return _Random(part, *state)
        names = _slots(part)
        return _OfSlots(part, names) if names else _Nothing(part)       # what it holds is noted by itself

    def _afford(self, size: int) -> bool:
        if size > self._bytes:
            return False
        self._bytes -= size
        return True


def functions_of(model: nn.Module) -> list[tuple[str, Any]]:
    """(what it is called, the function): what modules hold, and their forward hooks. A copy of a model has the same functions."""
    found = []
    for path, module in model.named_modules():
        place = f"model.{path}" if path else "model"
        for name, value in vars(module).items():
            if name in HOOKS:
                found += [(f"what a hook on {place} holds", hook) for hook in value.values() if isinstance(hook, (FunctionType, partial))]
            elif name not in REGISTRIES and isinstance(value, FunctionType) and (value.__closure__ or vars(value)):
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
                held |= {name: part for name, cell in cells for part in _content(cell) if name != "__class__"}
                yield from ((name, part) for name, part in held.items() if not isinstance(part, (FunctionType, *_PLAIN)))
            elif not name.startswith("__") and not isinstance(value, property):
                yield f"{each.__name__}.{name}", value


def _parts(value: Any) -> Iterable[Any]:
    """What a value holds."""
    if isinstance(value, Tensor):
        return (value.grad,) if value.is_leaf else ()
    if isinstance(value, FunctionType):
        return (*(value.__closure__ or ()), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), vars(value))
    if isinstance(value, CellType):
        return _content(value)
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, partial):
        return value.func, *value.args, value.keywords, vars(value)
    if isinstance(value, ModelTrainable):
        return [part for name, part in vars(value).items() if _is_own(name)]
    inner = attributes(value)
    held = () if inner is None else (inner, *(getattr(value, name) for name in _slots(value)))
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
def _is_iterator(cls: type) -> bool:
    """One that does not say what it holds."""
    return issubclass(cls, Iterator) and not _has_attributes(cls)


@_once_a_class
def _is_plain(cls: type) -> bool:
    return issubclass(cls, _PLAIN)


def _slots(value: Any) -> list[str]:
    """The names of an object's slots that are filled."""
    if not hasattr(type(value), "__slots__") or attributes(value) is None:
        return []
    each = [vars(cls).get("__slots__", ()) for cls in type(value).__mro__]
    names = [name for slots in each for name in ((slots,) if isinstance(slots, str) else slots)]
    return [name for name in names if not name.startswith("__") and hasattr(value, name)]


def _is_own(name: str) -> bool:
    """Whether an attribute of a trial is its own code's."""
    return not name.startswith("_") and name not in _ENGINE_S


def _content(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:      # not filled yet
        return ()


# How it was, by what it is ------------------------------------------------------------------------------------------------------


class _Nothing:
    def __init__(self, value: Any) -> None:
        self.value = value

    def changed(self) -> bool:
        return False

    def put_back(self) -> None:
        pass


class _OfSlots:
    def __init__(self, value: Any, names: list[str]) -> None:
        self.value, self.before = value, {name: getattr(value, name) for name in names}

    def changed(self) -> bool:
        return not all(_same(getattr(self.value, name, None), was) for name, was in self.before.items())

    def put_back(self) -> None:
        for name, was in self.before.items():
            object.__setattr__(self.value, name, was)


class _OfDict:
    """`strict`: what is new is a change, whatever it is. In which mode a module stands is none."""

    def __init__(self, value: dict[Any, Any], strict: bool) -> None:
        self.value, self.strict, self._kind = value, strict, OrderedDict if isinstance(value, OrderedDict) else dict
        self.before = dict(self._kind.items(value))

    def _untouched(self) -> bool:
        now, before = self.value, self.before
        return len(now) == len(before) and all(map(is_, self._kind.values(now), before.values())) and all(map(is_, now, before))

    def changed(self) -> bool:
        now, before = self.value, self.before
        if self._untouched():
            return False
        if any(key not in now for key in before):
            return True
        mode = "training" if "_modules" in before else None
        return any(not self._as_before(before.get(key), value, key in before) for key, value in dict.items(now) if key is not mode)

    def _as_before(self, was: Any, now: Any, there: bool) -> bool:
        return there and _same(now, was) or not self.strict and was is None and not isinstance(now, _NUMBERS) and not _of_members(now)

    def put_back(self) -> None:
        if not self._untouched():
            self._kind.clear(self.value)
            self._kind.update(self.value, self.before)


class _OfTrial:
    """Its attributes, but for what is the engine's."""

    def __init__(self, value: Any) -> None:
        self.value, self.before = vars(value), {name: part for name, part in vars(value).items() if _is_own(name)}

    def changed(self) -> bool:
        now = {name: part for name, part in self.value.items() if _is_own(name)}
        return now.keys() != self.before.keys() or not all(_same(now[name], part) for name, part in self.before.items())

    def put_back(self) -> None:
        for name in [name for name in self.value if _is_own(name) and name not in self.before]:
            del self.value[name]
        self.value.update(self.before)


class _OfMany:
    """A list, deque or set."""

    def __init__(self, value: Any, strict: bool) -> None:
        self.value, self.before, self.strict = value, tuple(value), strict

    def changed(self) -> bool:
        now = tuple(self.value)
        return len(now) != len(self.before) or not (all(map(is_, now, self.before)) or all(map(_same, now, self.before)))

    def put_back(self) -> None:
        if self.changed():
            kind: Any = next(kind for kind in (list, deque, set) if isinstance(self.value, kind))
            kind.clear(self.value)
            (set.update if kind is set else kind.extend)(self.value, self.before)


class _OfCell:
    """What a function closes over."""

    def __init__(self, value: CellType) -> None:
        self.value, self.before = value, _content(value)

    def changed(self) -> bool:
        now = _content(self.value)
        return len(now) != len(self.before) or not all(map(_same, now, self.before))

    def put_back(self) -> None:
        if self.before:
            self.value.cell_contents = self.before[0]
        elif _content(self.value):
            del self.value.cell_contents


class _OfTensor:
    """`held`: its content is noted, too."""

    def __init__(self, value: Tensor, held: bool) -> None:
        self.value, self._version, self._grad = value, _version(value), value.grad if value.is_leaf else None
        captured = value.is_cuda and torch.cuda.is_current_stream_capturing()       # nothing is computed before it is replayed
        held = held and not captured and not value.is_inference() and not _of_members(value)
        with torch._C.DisableTorchFunction():
            self._before = value.detach().clone() if held else None

    def changed(self) -> bool:
        return _version(self.value) != self._version or self.value.is_leaf and self.value.grad is not self._grad

    @torch.no_grad()
    def put_back(self) -> None:
        if self._before is not None and _version(self.value) != self._version:
            self.value.detach().copy_(self._before)
            self._version = _version(self.value)
        if self.value.is_leaf and self.value.grad is not self._grad:
            self.value.grad = self._grad


class _OfArray:
    def __init__(self, value: Any, held: bool) -> None:
        self.value, self._before = value, value.copy() if held and value.flags.writeable else None

    def changed(self) -> bool:
        return self._before is not None and (self.value.shape != self._before.shape or self.value.tobytes() != self._before.tobytes())

    def put_back(self) -> None:
        if self._before is not None and self.changed():
            self.value[...] = self._before


class _Random:
    """A generator of random numbers: how its state is got, and set."""

    def __init__(self, value: Any, get: Callable[[], Any], put: Callable[[Any], Any]) -> None:
        self.value, self._get, self._put, self._before = value, get, put, get()

    def changed(self) -> bool:
        return bool(_flat(self._get()) != _flat(self._before))

    def put_back(self) -> None:
        if self.changed():
            self._put(self._before)


def _state_of(value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    if isinstance(value, torch.Generator):
        return value.get_state, value.set_state
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return value.getstate, value.setstate
    if isinstance(value, np.random.RandomState):
        return partial(value.get_state, legacy=False), value.set_state
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return lambda: bits.state, partial(setattr, bits, "state")
    return None


def _flat(state: Any) -> Any:
    """A state as it can be compared."""
    if isinstance(state, dict):
        return {name: _flat(part) for name, part in state.items()}
    if isinstance(state, Tensor):
        return state.numpy().tobytes()
    return state.tobytes() if isinstance(state, np.ndarray) else state


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _same(now: Any, was: Any) -> bool:
    if now is was:
        return True
    if type(now) is not type(was):
        return False
    if isinstance(now, tuple):
        return len(now) == len(was) and all(map(_same, now, was))
    return isinstance(now, _PLAIN) and bool(now == was or now != now and was != was)


def _of_members(value: Any, depth: int = 3) -> bool:
    """Whether something in it is each member's own."""
    if isinstance(value, Tensor):
        return torch._C._functorch.is_functorch_wrapped_tensor(value)
    if _is_plain(type(value)) or not depth:
        return False
    return any(_of_members(part, depth - 1) for part in _parts(value))

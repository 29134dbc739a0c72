"""How a value was, by what it is: whether it has changed since (`changed`), and how it is made so again (`put_back`)."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from operator import is_
from types import CellType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .holding import NUMBERS, PLAIN, content_of, is_own, of_members


class OfNothing:
    def __init__(self, value: Any) -> None:
        self.value = value

    def changed(self) -> bool:
        return False

    def put_back(self) -> None:
        pass


class OfSlots:
    def __init__(self, value: Any, names: list[str]) -> None:
        self.value, self.before = value, {name: getattr(value, name) for name in names}

    def changed(self) -> bool:
        return not all(_same(getattr(self.value, name, None), was) for name, was in self.before.items())

    def put_back(self) -> None:
        for name, was in self.before.items():
            object.__setattr__(self.value, name, was)


class OfDict:
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
        return there and _same(now, was) or not self.strict and was is None and not isinstance(now, NUMBERS) and not of_members(now)

    def put_back(self) -> None:
        if not self._untouched():
            self._kind.clear(self.value)
            self._kind.update(self.value, self.before)


class OfTrial:
    """Its attributes, but for what is the engine's."""

    def __init__(self, value: Any) -> None:
        self.value, self.before = vars(value), {name: part for name, part in vars(value).items() if is_own(name)}

    def changed(self) -> bool:
        now = {name: part for name, part in self.value.items() if is_own(name)}
        return now.keys() != self.before.keys() or not all(_same(now[name], part) for name, part in self.before.items())

    def put_back(self) -> None:
        for name in [name for name in self.value if is_own(name) and name not in self.before]:
            del self.value[name]
        self.value.update(self.before)


class OfMany:
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


class OfCell:
    """What a function closes over."""

    def __init__(self, value: CellType) -> None:
        self.value, self.before = value, content_of(value)

    def changed(self) -> bool:
        now = content_of(self.value)
        return len(now) != len(self.before) or not all(map(_same, now, self.before))

    def put_back(self) -> None:
        if self.before:
            self.value.cell_contents = self.before[0]
        elif content_of(self.value):
            del self.value.cell_contents


class OfTensor:
    """`held`: its content is noted, too."""

    def __init__(self, value: Tensor, held: bool) -> None:
        self.value, self._version, self._grad = value, _version(value), value.grad if value.is_leaf else None
        captured = value.is_cuda and torch.cuda.is_current_stream_capturing()       # nothing is computed before it is replayed
        held = held and not captured and not value.is_inference() and not of_members(value)
        with torch._C.DisableTorchFunction():
            self._before = value.detach().clone() if held else None

    def changed(self) -> bool:
        with torch._C.DisableTorchFunction():       # to look at it is not to read it (module memories)
            return _version(self.value) != self._version or self.value.is_leaf and self.value.grad is not self._grad

    @torch.no_grad()
    def put_back(self) -> None:
        if self._before is not None and _version(self.value) != self._version:
            self.value.detach().copy_(self._before)
            self._version = _version(self.value)
        if self.value.is_leaf and self.value.grad is not self._grad:
            self.value.grad = self._grad


class OfArray:
    def __init__(self, value: Any, held: bool) -> None:
        self.value, self._before = value, value.copy() if held and value.flags.writeable else None

    def changed(self) -> bool:
        return self._before is not None and (self.value.shape != self._before.shape or self.value.tobytes() != self._before.tobytes())

    def put_back(self) -> None:
        if self._before is not None and self.changed():
            self.value[...] = self._before


class OfRandom:
    """A generator of random numbers: how its state is got, and set."""

    def __init__(self, value: Any, get: Callable[[], Any], put: Callable[[Any], Any]) -> None:
        self.value, self._get, self._put, self._before = value, get, put, get()

    def changed(self) -> bool:
        return bool(_flat(self._get()) != _flat(self._before))

    def put_back(self) -> None:
        if self.changed():
            self._put(self._before)


def state_of(value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
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
    return isinstance(now, PLAIN) and bool(now == was or now != now and was != was)

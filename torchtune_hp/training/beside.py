"""What training changed of a member besides what a `state_dict` holds: attributes of `self` and of the model's modules, buffers that are
not persistent, modules on `self` (an average of the weights), and what these hold.

Each value is seen once, after `setup`. What differs later is written as data, and read back into what `setup` makes.

Laws:
1. What is as `setup` left it is not saved: numbers by value, containers by what they hold, tensors by identity, version and some of their
   elements (`.data` is written without a version), all else by identity. Of what is large (`_MOST`), who it is must do.
2. What was changed in place is read in place; what was replaced is replaced, so that nothing that others hold is written to.
3. What was changed and cannot be stored is named, and left as `setup` makes it. An iterator cannot be asked whether it moved.
"""

from __future__ import annotations

import copy
import random
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..population.signature import REGISTRIES
from .carried import like, same, storable
from .hooks import ModelTrainable, schedulers

Data = dict[str, Any]

_PLAIN = frozenset((type(None), bool, int, float, str))
_MADE: dict[str, Any] = {kind.__name__: kind for kind in (list, tuple, dict, set, frozenset, deque, OrderedDict, Counter)}
_MOST = {"object": 300, "values": 1000, "elements": 256, "bytes": 2**20}
_EVERY = REGISTRIES | frozenset(vars(nn.Module()))      # what each module has, and no user's
_CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, partial, Enum)
_DRAWS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    random.Random: (lambda it: it.getstate(), lambda it, state: it.setstate((state[0], tuple(state[1]), state[2]))),
    np.random.Generator: (lambda it: it.bit_generator.state, lambda it, state: setattr(it.bit_generator, "state", state)),
    torch.Generator: (lambda it: it.get_state(), lambda it, state: it.set_state(state.cpu())),
}
"""Generators of random numbers: how their state is taken, and put."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A value as it was. `held`: gives the object, or None where it is gone; `mark`: what tells whether it was changed in place;
    `parts`: of what it holds, a plain value itself, else how it was seen."""

    kind: str
    of: type
    held: Callable[[], Any]
    mark: Any = None
    parts: Mapping[Any, Any] | None = None


def _nothing() -> None:
    return None


_NOTHING = Seen("nothing", type(None), _nothing)


class _Lost(Exception):
    """It was changed and cannot be stored; the text says what it is."""


class _TooMany(Exception):
    pass


_ABSENT = object()


class Beside:
    """Of one member. It holds none of the member's tensors and modules."""

    def __init__(self, member: ModelTrainable) -> None:
        self._above: list[int] = []     # what holds the part that is looked at
        self._left = 0                  # how many parts may be looked at still
        with self._of(member):
            self._self = {name: self._see_root(value) for name, value in _own(member).items()}
            self._model = {path: self._attributes(module) for path, module in member.model.named_modules()}

    def changed(self, member: ModelTrainable) -> tuple[Data, dict[str, str]]:
        """(what was changed since setup; of what was changed and cannot be stored, its name and what it is)"""
        lost: dict[str, str] = {}
        with self._of(member):
            own = {name: value for name, value in _own(member).items() if not (value is None or isinstance(value, (bool, int, float, str)))}
            parts = {"self": self._differing(own, self._self, "self", lost), "model": self._inside(member.model, self._model, lost)}
        return {name: part for name, part in parts.items() if part}, lost

    def put(self, member: ModelTrainable, data: Mapping[str, Any], words: Mapping[str, Any]) -> None:
        """The member, whose model and `words` were loaded, is what it was when `data` was written."""
        with self._of(member):
            self._put_inside(member.model, self._model, data.get("model", {}))
            own, told = vars(member), data.get("self", {})
            for name in dict.fromkeys((*self._self, *told)):
                if name not in words:
                    _set(own, name, self._read(told.get(name), own.get(name, _ABSENT), self._self.get(name, _ABSENT)))

    def untouched(self, member: ModelTrainable) -> list[tuple[nn.Module, str, str]]:
        """Buffers that are not persistent and are as setup made them: (module, its path, name)."""
        found = [(module, path, name) for path, module in member.model.named_modules() for name in module._non_persistent_buffers_set]
        if not found:
            return []
        with self._of(member):
            return [each for each in found if self._as_seen(each[0]._buffers[each[2]], self._model.get(each[1], {}).get(each[2], _ABSENT))]

    def moved(self, buffers: list[tuple[nn.Module, str, str]]) -> None:
        """These lie on another device now."""
        for module, path, name in buffers:
            self._model[path][name] = self._see_root(module._buffers[name])

    @contextmanager
    def _of(self, member: ModelTrainable) -> Iterator[None]:
        """Within, it is known what the member's parts are called."""
        self._member, self._named = member, _named(member)
        self._ours = {id(value): name for name, value in self._named.items()}
        self._lies = {value.data_ptr(): name for name, value in self._named.items() if isinstance(value, Tensor) and _has_content(value)}
        try:
            yield
        finally:
            self._above = []
            del self._member, self._named, self._ours, self._lies

    # Seeing -------------------------------------------------------------------------------------------------------------

    def _see_root(self, value: Any) -> Any:
        if type(value) in _PLAIN or (type(value) is tuple and all(type(part) in _PLAIN for part in value)):
            return value
        self._left = _MOST["values"]
        try:
            return self._see(value)
        except Exception:       # too many, or an object that cannot be asked
            self._above = []
            return Seen("large", type(value), _holder(value), _large(value))

    def _attributes(self, module: nn.Module) -> dict[str, Any]:
        return {name: self._see_root(value) for name, value in _attributes(module).items()}

    def _see(self, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _TooMany
        if type(value) in _PLAIN:
            return value
        kind, of = self._kind(value), type(value)
        if kind == "ours":
            return Seen(kind, of, _nothing, self._ours[id(value)])
        if kind not in ("list", "tuple", "dict", "object", "module", "stateful") or id(value) in self._above:
            return Seen(kind, of, _holder(value), _mark(kind, value))
        self._above.append(id(value))
        before, left = self._left, min(self._left // 2, _MOST["object"])
        if kind in ("object", "stateful"):
            self._left = left
        try:
            parts = {key: self._see(part) for key, part in self._parts(kind, value)}
        except _TooMany:
            if kind not in ("object", "stateful"):
                raise
            self._above = self._above[: self._above.index(id(value)) + 1]
            self._left = 0
            return Seen("large", of, _holder(value))
        finally:
            self._above.pop()
            if kind in ("object", "stateful"):
                self._left += before - left
        return Seen(kind, of, _holder(value), _mark(kind, value), parts)

    def _kind(self, value: Any) -> str:
        if id(value) in self._ours:
            return "ours"
        for kind, of in (("tensor", Tensor), ("module", nn.Module), ("list", (list, deque)), ("tuple", tuple), ("dict", dict),
                         ("set", (set, frozenset)), ("array", np.ndarray)):  # fmt: skip
            if isinstance(value, of):
                return kind
        if isinstance(value, np.generic):
            return "number"
        if isinstance(value, tuple(_DRAWS)):
            return "draws"
        if isinstance(value, weakref.ref):
            return "reference"
        if isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools"):
            return "iterator"
        if isinstance(value, _CODE) or not hasattr(value, "__dict__") or type(value).__module__ == "logging":
            return "other"
        return "stateful" if callable(getattr(value, "state_dict", None)) and hasattr(value, "load_state_dict") else "object"

    def _parts(self, kind: str, value: Any) -> list[tuple[Any, Any]]:
        if kind in ("list", "tuple"):
            return list(enumerate(value))
        if kind == "dict":
            return list(value.items())
        if kind == "object":
            return list(vars(value).items())
        if kind == "stateful":
            return [("state", value.state_dict())]
        attributes = [((path, name), part) for path, module in value.named_modules() for name, part in _attributes(module).items()]
        return [*(((name, None), tensor) for name, tensor in _tensors(value)), *attributes]

    # Writing ------------------------------------------------------------------------------------------------------------

    def _as_seen(self, value: Any, seen: Any) -> bool:
        try:
            return self._write(value, seen) is None
        except _Lost:
            return False

    def _differing(self, now: Mapping[str, Any], seen: Mapping[str, Any], where: str, lost: dict[str, str]) -> Data:
        found = {}
        for name, value in now.items():
            try:
                if (data := self._write(value, seen.get(name, _ABSENT))) is not None:
                    found[name] = data
            except Exception as error:      # of a state_dict that the library knows nothing of, say
                lost[f"{where}.{name}"] = str(error) if isinstance(error, _Lost) else _called(value)
            self._above = []
        return found

    def _inside(self, model: nn.Module, seen: Mapping[str, Mapping[str, Any]], lost: dict[str, str]) -> Data:
        each = {
            path: self._differing(_attributes(module), seen.get(path, {}), ".".join(filter(None, ("self.model", path))), lost)
            for path, module in model.named_modules()
        }
        return {path: data for path, data in each.items() if data}

    def _write(self, value: Any, seen: Any) -> Data | None:
        """None: it is as it was seen."""
        if value is seen:
            return None
        if type(seen) is tuple:
            seen = self._see_root(list(seen))
            seen = Seen("tuple", tuple, _nothing, None, seen.parts)
        if type(value) in _PLAIN:
            if seen is not _ABSENT and same(seen, value):
                return None
            return {"as": "plain", "value": value, **({"was": seen} if type(seen) in _PLAIN else {})}
        kind, was = self._kind(value), seen if isinstance(seen, Seen) else _NOTHING
        kept = was.held() is value
        if kind == "ours":
            name = self._ours[id(value)]
            return None if was.kind == kind and was.mark == name else {"as": kind, "name": list(name)}
        if was.kind == "large" and kept and _alike(was.mark, _large(value)):
            return None
        if kind == "reference":
            return None
        if id(value) in self._above:
            if kept:
                return None
            raise _Lost(_called(value))
        self._above.append(id(value))
        try:
            written: Data | None = _WRITERS.get(kind, Beside._other)(self, kind, value, was, kept)
            return written
        finally:
            self._above.pop()

    def _other(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if kind == "iterator" or not (kept or (was.kind == kind and type(value) is was.of and bool(was.mark == value))):
            raise _Lost(_called(value))
        return None

    def _tensor(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if kept and _unmarked(value, was.mark):
            return None
        if _has_content(value) and (name := self._lies.get(value.data_ptr())) and self._named[name].shape == value.shape:
            return {"as": "alias", "name": list(name)}
        if value.layout != torch.strided:
            raise _Lost(_called(value))
        here = value.device == self._member.device
        return {"as": kind, "value": storable(value, ""), "anew": not kept, "here": here, "grad": value.requires_grad and value.is_leaf}

    def _array(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if kept and was.mark == _mark(kind, value):
            return None
        if value.dtype.kind not in "biuf" or not value.dtype.isnative:
            raise _Lost(_called(value))
        return {"as": kind, "value": torch.from_numpy(value.copy()), "anew": not kept}

    def _set(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if was.of is type(value) and was.mark == value:
            return None
        if type(value).__name__ not in _MADE or not all(type(part) in _PLAIN for part in value):
            raise _Lost(_called(value))
        return {"as": kind, "type": type(value).__name__, "parts": list(value), "anew": not kept}

    def _number(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if was.kind == kind and same(was.mark.item(), value.item()):
            return None
        return {"as": "plain", "value": storable(value, "")}

    def _drawing(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if not was.kind == kind:
            raise _Lost(_called(value))
        state = storable(_mark(kind, value), "")
        return None if same(storable(was.mark, ""), state) else {"as": kind, "state": state}

    def _container(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        alike = was.of is type(value)
        before = was.parts if alike and was.parts is not None else {}
        keys, parts = [], []
        for key, part in self._parts(kind, value):
            if type(key) not in (str, int):
                if kept and self._as_seen(part, before.get(key, _ABSENT)):
                    continue
                raise _Lost(_called(value))
            keys.append(key)
            parts.append(self._write(part, before.get(key, _ABSENT)))
        if alike and was.parts is not None and len(before) == len(value) and all(part is None for part in parts):
            return None
        if len(keys) < len(value) or not (alike or (type(value).__name__ in _MADE and _MADE[type(value).__name__] is type(value))):
            raise _Lost(_called(value))
        return {"as": kind, "type": type(value).__name__, "keys": keys, "parts": parts, "anew": not kept}

    def _stateful(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if was.kind == "large" or was.of is not type(value) or was.parts is None:
            raise _Lost(_called(value))
        state = value.state_dict()  # type: ignore[attr-defined]
        return None if self._as_seen(state, was.parts["state"]) else {"as": kind, "state": storable(state, "")}

    def _object(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if was.of is not type(value) or was.parts is None:
            raise _Lost(_called(value))
        parts = {name: self._write(part, was.parts.get(name, _ABSENT)) for name, part in vars(value).items()}
        parts = {name: part for name, part in parts.items() if part is not None}
        return {"as": kind, "parts": parts, "anew": not kept} if parts else None

    def _module(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        alike = was.kind == kind and was.mark == _mark(kind, value)
        if not alike and _mark(kind, self._member.model) != _mark(kind, value):
            raise _Lost(_called(value))
        seen = was.parts if alike and was.parts is not None else {}
        tensors = {
            name: {"value": storable(tensor, ""), "grad": tensor.requires_grad}
            for name, tensor in _tensors(value) if not (kept and self._as_seen(tensor, seen.get((name, None), _ABSENT)))
        }   # fmt: skip
        attributes: Data = {}
        models = dict(self._member.model.named_modules())
        for path, module in value.named_modules():
            compared = {name: seen.get((path, name), _ABSENT) for name in _attributes(module)} if alike else vars(models[path])
            for name, part in _attributes(module).items():
                if alike or type(part) in _PLAIN:
                    data = self._write(part, compared.get(name, _ABSENT))
                    if data is not None:
                        attributes.setdefault(path, {})[name] = data
        if kept and not tensors and not attributes:
            return None
        return {"as": kind, "of": "setup" if alike else "model", "tensors": tensors, "parts": attributes, "anew": not kept}

    # Reading ------------------------------------------------------------------------------------------------------------

    def _put_inside(self, model: nn.Module, seen: Mapping[str, Mapping[str, Any]], told: Mapping[str, Any]) -> None:
        for path, module in model.named_modules():
            known, data = seen.get(path, {}), told.get(path, {})
            own = _attributes(module)
            for name in dict.fromkeys((*known, *data)):
                value = self._read(data.get(name), own.get(name, _ABSENT), known.get(name, _ABSENT))
                _set(module._buffers if name in module._non_persistent_buffers_set else vars(module), name, value)

    def _read(self, data: Any, now: Any, seen: Any) -> Any:
        """The value. `now`: what there is. `data` None: as setup made it."""
        if data is None:
            if seen is _ABSENT or now is _ABSENT or self._as_seen(now, seen):
                return now
            if not isinstance(seen, Seen):
                return seen
            if seen.kind in ("list", "tuple", "dict") and seen.parts is not None:
                keys, anew = list(seen.parts), seen.held() is not now
                data = {"as": seen.kind, "type": seen.of.__name__, "keys": keys, "parts": [None] * len(keys), "anew": anew}
            else:
                return now if seen.kind in ("object", "stateful", "module") or seen.held() is None else seen.held()
        if data["as"] == "plain":
            return seen if "was" in data and type(seen) in _PLAIN and not same(seen, data["was"]) else data["value"]
        made = seen.held() if isinstance(seen, Seen) and seen.held() is not None else now
        parts = seen.parts if isinstance(seen, Seen) and seen.parts is not None else {}
        return _READERS[data["as"]](self, data, made, parts)

    def _read_ours(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        return self._named[data["name"][0], data["name"][1]]

    def _read_alias(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        return self._named[data["name"][0], data["name"][1]].detach()

    def _read_tensor(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        value = data["value"]
        if not data["anew"] and isinstance(made, Tensor) and made.shape == value.shape:
            with torch.no_grad():
                made.detach().copy_(value)
            return made
        return value.detach().clone().to(self._member.device if data["here"] else "cpu").requires_grad_(data["grad"])

    def _read_array(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        value = data["value"].cpu().numpy()
        if data["anew"] or not isinstance(made, np.ndarray) or made.shape != value.shape:
            return value.copy()
        made[...] = value
        return made

    def _read_set(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        if data["anew"] or not isinstance(made, set):
            return _MADE[data["type"]](data["parts"])
        made.clear()
        made.update(data["parts"])
        return made

    def _read_draws(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        next(put for of, (_, put) in _DRAWS.items() if isinstance(made, of))(made, copy.deepcopy(data["state"]))
        return made

    def _read_container(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        there = dict(self._parts(data["as"], made)) if self._kind(made) == data["as"] else {}
        values = [self._read(part, there.get(key, _ABSENT), parts.get(key, _ABSENT)) for key, part in zip(data["keys"], data["parts"])]
        alike = type(made).__name__ == data["type"]
        if data["as"] == "tuple":
            of = type(made) if alike else tuple
            return of(*values) if hasattr(of, "_fields") else of(values)
        if data["anew"] or not alike:
            made = copy.copy(made) if alike else _MADE[data["type"]]()
        made.clear()
        made.update(zip(data["keys"], values)) if data["as"] == "dict" else made.extend(values)
        return made

    def _read_stateful(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        made.load_state_dict(like(made.state_dict(), data["state"]))
        return made

    def _read_object(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        made = copy.copy(made) if data["anew"] else made
        for name, part in data["parts"].items():
            vars(made)[name] = self._read(part, vars(made).get(name, _ABSENT), parts.get(name, _ABSENT))
        return made

    def _read_module(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        if data["of"] == "model" or data["anew"]:
            made = copy.deepcopy(self._member.model if data["of"] == "model" else made)
        tensors = dict(_tensors(made))
        with torch.no_grad():
            for name, part in data["tensors"].items():
                tensors[name].detach().copy_(part["value"])
                tensors[name].requires_grad_(part["grad"])
        for path, module in made.named_modules():
            for name, part in data["parts"].get(path, {}).items():
                vars(module)[name] = self._read(part, vars(module).get(name, _ABSENT), parts.get((path, name), _ABSENT))
        return made


_WRITERS: dict[str, Any] = {
    "tensor": Beside._tensor, "array": Beside._array, "set": Beside._set, "draws": Beside._drawing, "number": Beside._number,
    "list": Beside._container, "tuple": Beside._container, "dict": Beside._container, "object": Beside._object,
    "stateful": Beside._stateful, "module": Beside._module,
}  # fmt: skip
_READERS: dict[str, Any] = {
    "ours": Beside._read_ours, "alias": Beside._read_alias, "tensor": Beside._read_tensor, "array": Beside._read_array,
    "set": Beside._read_set, "draws": Beside._read_draws, "list": Beside._read_container, "tuple": Beside._read_container,
    "dict": Beside._read_container,
    "object": Beside._read_object, "stateful": Beside._read_stateful, "module": Beside._read_module,
}  # fmt: skip


def _own(member: ModelTrainable) -> dict[str, Any]:
    """What lies on `self` and has no word of its own."""
    return {name: value for name, value in vars(member).items() if name not in ("model", "optimizer", "lr_scheduler", "_here")}


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds that its state_dict does not."""
    own = {name: value for name, value in vars(module).items() if name not in _EVERY and "_hook" not in name}
    if module._non_persistent_buffers_set:
        own |= {name: module._buffers[name] for name in module._non_persistent_buffers_set if name in module._buffers}
    return own


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers."""
    beside = {f"{path}.{name}".lstrip(".") for path, part in module.named_modules() for name in part._non_persistent_buffers_set}
    return [*module.named_parameters(), *((name, buffer) for name, buffer in module.named_buffers() if name not in beside)]


def _named(member: ModelTrainable) -> dict[tuple[str, str], Any]:
    """What is the member's in another place: it is referred to."""
    found: dict[tuple[str, str], Any] = {("module", path): module for path, module in member.model.named_modules()}
    found |= {("tensor", name): tensor for name, tensor in _tensors(member.model)}
    found |= {("scheduler", str(place)): scheduler for place, scheduler in enumerate(schedulers(member))}
    return {**found, ("optimizer", ""): member.optimizer, ("self", ""): member}


def _set(own: Any, name: str, value: Any) -> None:
    if value is not _ABSENT and own.get(name, _ABSENT) is not value:
        own[name] = value


def _itself(value: Any) -> Any:
    return value


def _holder(value: Any) -> Callable[[], Any]:
    """Gives the value; a tensor or a module only for as long as the member holds it."""
    return weakref.ref(value) if isinstance(value, (Tensor, nn.Module)) else partial(_itself, value)


def _mark(kind: str, value: Any) -> Any:
    if kind == "tensor":
        shape = None if nn.parameter.is_lazy(value) else tuple(value.shape)
        return -1 if value.is_inference() else value._version, shape, _sample(value)
    if kind == "array":
        return value.tobytes() if value.nbytes <= _MOST["bytes"] and value.dtype.kind != "O" else None
    if kind == "set":
        return set(value)
    if kind == "draws":
        return copy.deepcopy(next(take for of, (take, _) in _DRAWS.items() if isinstance(value, of))(value))
    if kind == "module":
        classes = [(path, parametrize.type_before_parametrizations(part)) for path, part in value.named_modules()]
        return classes, [(name, None if nn.parameter.is_lazy(tensor) else tuple(tensor.shape)) for name, tensor in _tensors(value)]
    return value if kind == "number" or isinstance(value, (bytes, complex, torch.dtype, torch.device)) else None


def _large(value: Any) -> list[Any] | None:
    """Who is in what is large."""
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    return list(value) if isinstance(value, (list, tuple, deque)) else None


def _alike(before: list[Any] | None, now: list[Any] | None) -> bool:
    return before is now or (before is not None and now is not None and len(before) == len(now) and all(map(is_, before, now)))


def _has_content(tensor: Tensor) -> bool:
    return not nn.parameter.is_lazy(tensor) and tensor.layout == torch.strided and tensor.device.type != "meta" and tensor.numel() > 0


def _sample(tensor: Tensor) -> Tensor | None:
    """Some of its elements, evenly spaced."""
    if not _has_content(tensor):
        return None
    most = _MOST["elements"]
    flat = tensor.detach().reshape(-1) if tensor.is_contiguous() or tensor.numel() <= most else tensor.detach()[(0,) * (tensor.dim() - 1)]
    return flat[:: -(-len(flat) // most)].clone()


def _unmarked(tensor: Tensor, mark: Any) -> bool:
    now = _mark("tensor", tensor)
    return bool(now[:2] == mark[:2] and (now[2] is mark[2] or torch.equal(now[2], mark[2])))


def _called(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"

"""What differs from how it was seen, written as data: plain values, tensors, and dicts and lists of them. None: it does not differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .carried import same, storable
from .seen import (
    ABSENT,
    MADE,
    NOTHING,
    PLAIN,
    Data,
    Looking,
    Lost,
    Seen,
    alike,
    attributes_of,
    called,
    has_content,
    large,
    mark_of,
    nothing,
    tensors_of,
    unmarked,
)


class Storing(Looking):
    """Writes values."""

    def _as_seen(self, value: Any, seen: Any) -> bool:
        try:
            return self._write(value, seen) is None
        except Lost:
            return False

    def _differing(self, now: Mapping[str, Any], seen: Mapping[str, Any], where: str, lost: dict[str, str]) -> Data:
        found = {}
        for name, value in now.items():
            try:
                if (data := self._write(value, seen.get(name, ABSENT))) is not None:
                    found[name] = data
            except Exception as error:      # of a state_dict that the library knows nothing of, say
                lost[f"{where}.{name}"] = str(error) if isinstance(error, Lost) else called(value)
            self._above = []
        return found

    def _inside(self, model: nn.Module, seen: Mapping[str, Mapping[str, Any]], lost: dict[str, str]) -> Data:
        each = {
            path: self._differing(attributes_of(module), seen.get(path, {}), ".".join(filter(None, ("self.model", path))), lost)
            for path, module in model.named_modules()
        }
        return {path: data for path, data in each.items() if data}

    def _write(self, value: Any, seen: Any) -> Data | None:
        """None: it is as it was seen."""
        if value is seen:
            return None
        if type(seen) is tuple:
            seen = self._see_root(list(seen))
            seen = Seen("tuple", tuple, nothing, None, seen.parts)
        if type(value) in PLAIN:
            if seen is not ABSENT and same(seen, value):
                return None
            return {"as": "plain", "value": value, **({"was": seen} if type(seen) in PLAIN else {})}
        kind, was = self._kind(value), seen if isinstance(seen, Seen) else NOTHING
        kept = was.held() is value
        if kind == "ours":
            name = self._ours[id(value)]
            return None if was.kind == kind and was.mark == name else {"as": kind, "name": list(name)}
        if was.kind == "large" and kept and alike(was.mark, large(value)):
            return None
        if kind == "reference":
            return None
        if id(value) in self._above:
            if kept:
                return None
            raise Lost(called(value))
        self._above.append(id(value))
        try:
            written: Data | None = _WRITERS.get(kind, Storing._other)(self, kind, value, was, kept)
            return written
        finally:
            self._above.pop()

    def _other(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if kind == "iterator" or not (kept or (was.kind == kind and type(value) is was.of and bool(was.mark == value))):
            raise Lost(called(value))
        return None

    def _tensor(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if kept and unmarked(value, was.mark):
            return None
        if has_content(value) and (name := self._lies.get(value.data_ptr())) and self._named[name].shape == value.shape:
            return {"as": "alias", "name": list(name)}
        if value.layout != torch.strided:
            raise Lost(called(value))
        here = value.device == self._member.device
        return {"as": kind, "value": storable(value, ""), "anew": not kept, "here": here, "grad": value.requires_grad and value.is_leaf}

    def _array(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if kept and was.mark == mark_of(kind, value):
            return None
        if value.dtype.kind not in "biuf" or not value.dtype.isnative:
            raise Lost(called(value))
        return {"as": kind, "value": torch.from_numpy(value.copy()), "anew": not kept}

    def _set(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if was.of is type(value) and was.mark == value:
            return None
        if type(value).__name__ not in MADE or not all(type(part) in PLAIN for part in value):
            raise Lost(called(value))
        return {"as": kind, "type": type(value).__name__, "parts": list(value), "anew": not kept}

    def _number(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if was.kind == kind and same(was.mark.item(), value.item()):
            return None
        return {"as": "plain", "value": storable(value, "")}

    def _drawing(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if not was.kind == kind:
            raise Lost(called(value))
        state = storable(mark_of(kind, value), "")
        return None if same(storable(was.mark, ""), state) else {"as": kind, "state": state}

    def _container(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        alike = was.of is type(value)
        before = was.parts if alike and was.parts is not None else {}
        keys, parts = [], []
        for key, part in self._parts(kind, value):
            if type(key) not in (str, int):
                if kept and self._as_seen(part, before.get(key, ABSENT)):
                    continue
                raise Lost(called(value))
            keys.append(key)
            parts.append(self._write(part, before.get(key, ABSENT)))
        if alike and was.parts is not None and len(before) == len(value) and all(part is None for part in parts):
            return None
        if len(keys) < len(value) or not (alike or (type(value).__name__ in MADE and MADE[type(value).__name__] is type(value))):
            raise Lost(called(value))
        return {"as": kind, "type": type(value).__name__, "keys": keys, "parts": parts, "anew": not kept}

    def _stateful(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if was.kind == "large" or was.of is not type(value) or was.parts is None:
            raise Lost(called(value))
        state = value.state_dict()  # type: ignore[attr-defined]
        return None if self._as_seen(state, was.parts["state"]) else {"as": kind, "state": storable(state, "")}

    def _object(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        if was.of is not type(value) or was.parts is None:
            raise Lost(called(value))
        parts = {name: self._write(part, was.parts.get(name, ABSENT)) for name, part in vars(value).items()}
        parts = {name: part for name, part in parts.items() if part is not None}
        return {"as": kind, "parts": parts, "anew": not kept} if parts else None

    def _module(self, kind: str, value: Any, was: Seen, kept: bool) -> Data | None:
        alike = was.kind == kind and was.mark == mark_of(kind, value)
        if not alike and mark_of(kind, self._member.model) != mark_of(kind, value):
            raise Lost(called(value))
        seen = was.parts if alike and was.parts is not None else {}
        tensors = {
            name: {"value": storable(tensor, ""), "grad": tensor.requires_grad}
            for name, tensor in tensors_of(value) if not (kept and self._as_seen(tensor, seen.get((name, None), ABSENT)))
        }   # fmt: skip
        attributes: Data = {}
        models = dict(self._member.model.named_modules())
        for path, module in value.named_modules():
            compared = {name: seen.get((path, name), ABSENT) for name in attributes_of(module)} if alike else vars(models[path])
            for name, part in attributes_of(module).items():
                if alike or type(part) in PLAIN:
                    data = self._write(part, compared.get(name, ABSENT))
                    if data is not None:
                        attributes.setdefault(path, {})[name] = data
        if kept and not tensors and not attributes:
            return None
        return {"as": kind, "of": "setup" if alike else "model", "tensors": tensors, "parts": attributes, "anew": not kept}


_WRITERS: dict[str, Any] = {
    "tensor": Storing._tensor, "array": Storing._array, "set": Storing._set, "draws": Storing._drawing, "number": Storing._number,
    "list": Storing._container, "tuple": Storing._container, "dict": Storing._container, "object": Storing._object,
    "stateful": Storing._stateful, "module": Storing._module,
}  # fmt: skip

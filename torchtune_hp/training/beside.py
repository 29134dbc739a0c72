"""What training changed of a member besides what a `state_dict` holds: attributes of `self` and of the model's modules, buffers that are
not persistent, modules on `self` (an average of the weights), and what these hold.

Each value is seen once, after `setup`. What differs later is written as data, and read back into what `setup` makes.

Laws:
1. What is as `setup` left it is not saved: numbers by value, containers by what they hold, tensors by identity, version and some of their
   elements (`.data` is written without a version), all else by identity. Of what is large (`seen.MOST`), who it is must do.
2. What was changed in place is read in place; what was replaced is replaced, so that nothing that others hold is written to.
3. What was changed and cannot be stored is named, and left as `setup` makes it. An iterator cannot be asked whether it moved.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .carried import like, same
from .hooks import ModelTrainable
from .seen import ABSENT, DRAWS, MADE, PLAIN, Data, Seen, attributes_of, own_of, set_in, tensors_of
from .stored import Storing


class Beside(Storing):
    """Of one member. It holds none of the member's tensors and modules."""

    def __init__(self, member: ModelTrainable) -> None:
        self._above: list[int] = []     # what holds the part that is looked at
        self._left = 0                  # how many parts may be looked at still
        with self._of(member):
            self._self = {name: self._see_root(value) for name, value in own_of(member).items()}
            self._model = {path: self._attributes(module) for path, module in member.model.named_modules()}

    def changed(self, member: ModelTrainable) -> tuple[Data, dict[str, str]]:
        """(what was changed since setup; of what was changed and cannot be stored, its name and what it is)"""
        lost: dict[str, str] = {}
        with self._of(member):
            words = (type(None), bool, int, float, str)
            own = {name: value for name, value in own_of(member).items() if not isinstance(value, words)}
            parts = {"self": self._differing(own, self._self, "self", lost), "model": self._inside(member.model, self._model, lost)}
        return {name: part for name, part in parts.items() if part}, lost

    def put(self, member: ModelTrainable, data: Mapping[str, Any], words: Mapping[str, Any]) -> None:
        """The member, whose model and `words` were loaded, is what it was when `data` was written."""
        with self._of(member):
            self._put_inside(member.model, self._model, data.get("model", {}))
            own, told = vars(member), data.get("self", {})
            for name in dict.fromkeys((*self._self, *told)):
                if name not in words:
                    set_in(own, name, self._read(told.get(name), own.get(name, ABSENT), self._self.get(name, ABSENT)))

    def untouched(self, member: ModelTrainable) -> list[tuple[nn.Module, str, str]]:
        """Buffers that are not persistent and are as setup made them: (module, its path, name)."""
        found = [(module, path, name) for path, module in member.model.named_modules() for name in module._non_persistent_buffers_set]
        if not found:
            return []
        with self._of(member):
            return [each for each in found if self._as_seen(each[0]._buffers[each[2]], self._model.get(each[1], {}).get(each[2], ABSENT))]

    def moved(self, buffers: list[tuple[nn.Module, str, str]]) -> None:
        """These lie on another device now."""
        for module, path, name in buffers:
            self._model[path][name] = self._see_root(module._buffers[name])

    # Reading ------------------------------------------------------------------------------------------------------------

    def _put_inside(self, model: nn.Module, seen: Mapping[str, Mapping[str, Any]], told: Mapping[str, Any]) -> None:
        for path, module in model.named_modules():
            known, data = seen.get(path, {}), told.get(path, {})
            own = attributes_of(module)
            for name in dict.fromkeys((*known, *data)):
                value = self._read(data.get(name), own.get(name, ABSENT), known.get(name, ABSENT))
                set_in(module._buffers if name in module._non_persistent_buffers_set else vars(module), name, value)

    def _read(self, data: Any, now: Any, seen: Any) -> Any:
        """The value. `now`: what there is. `data` None: as setup made it."""
        if data is None:
            if seen is ABSENT or now is ABSENT or self._as_seen(now, seen):
                return now
            if not isinstance(seen, Seen):
                return seen
            if seen.kind in ("list", "tuple", "dict") and seen.parts is not None:
                keys, anew = list(seen.parts), seen.held() is not now
                data = {"as": seen.kind, "type": seen.of.__name__, "keys": keys, "parts": [None] * len(keys), "anew": anew}
            else:
                return now if seen.kind in ("object", "stateful", "module") or seen.held() is None else seen.held()
        if data["as"] == "plain":
            return seen if "was" in data and type(seen) in PLAIN and not same(seen, data["was"]) else data["value"]
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
            return MADE[data["type"]](data["parts"])
        made.clear()
        made.update(data["parts"])
        return made

    def _read_draws(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        next(put for of, (_, put) in DRAWS.items() if isinstance(made, of))(made, copy.deepcopy(data["state"]))
        return made

    def _read_container(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        there = dict(self._parts(data["as"], made)) if self._kind(made) == data["as"] else {}
        values = [self._read(part, there.get(key, ABSENT), parts.get(key, ABSENT)) for key, part in zip(data["keys"], data["parts"])]
        alike = type(made).__name__ == data["type"]
        if data["as"] == "tuple":
            of = type(made) if alike else tuple
            return of(*values) if hasattr(of, "_fields") else of(values)
        if data["anew"] or not alike:
            made = copy.copy(made) if alike else MADE[data["type"]]()
        made.clear()
        made.update(zip(data["keys"], values)) if data["as"] == "dict" else made.extend(values)
        return made

    def _read_stateful(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        made.load_state_dict(like(made.state_dict(), data["state"]))
        return made

    def _read_object(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        made = copy.copy(made) if data["anew"] else made
        for name, part in data["parts"].items():
            vars(made)[name] = self._read(part, vars(made).get(name, ABSENT), parts.get(name, ABSENT))
        return made

    def _read_module(self, data: Any, made: Any, parts: Mapping[Any, Any]) -> Any:
        if data["of"] == "model" or data["anew"]:
            made = copy.deepcopy(self._member.model if data["of"] == "model" else made)
        tensors = dict(tensors_of(made))
        with torch.no_grad():
            for name, part in data["tensors"].items():
                tensors[name].detach().copy_(part["value"])
                tensors[name].requires_grad_(part["grad"])
        for path, module in made.named_modules():
            for name, part in data["parts"].get(path, {}).items():
                vars(module)[name] = self._read(part, vars(module).get(name, ABSENT), parts.get((path, name), ABSENT))
        return made


_READERS: dict[str, Any] = {
    "ours": Beside._read_ours, "alias": Beside._read_alias, "tensor": Beside._read_tensor, "array": Beside._read_array,
    "set": Beside._read_set, "draws": Beside._read_draws, "list": Beside._read_container, "tuple": Beside._read_container,
    "dict": Beside._read_container,
    "object": Beside._read_object, "stateful": Beside._read_stateful, "module": Beside._read_module,
}  # fmt: skip

"""What `data()` gave: called once per (class, keywords, device) and process, and what its trials train on is cut from it once."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..errors import ConfigurationError
from ..seeds import derive
from .data import Data, Loaded
from .feed import SHARED, Table
from .folds import classes_of, held_out, parts
from .seeding import seeded


class Made:
    """One data set (its name is ""), or several by name, on a device. Each part is made when it is first asked for, then it is the same."""

    def __init__(self, name: str, data: Mapping[str, Data], device: torch.device) -> None:
        self._name, self._data, self._device = name, data, device       # the class itself would never go, nor its data
        self._known: dict[Any, Any] = {}

    @property
    def names(self) -> Sequence[str]:
        return tuple(self._data)

    def whole(self, name: str) -> Loaded:
        """The data set as `data()` splits it."""
        with _making:
            if name not in self._known:
                self._known[name] = self._data[name].on(self._device)
            return self._known[name]  # type: ignore[no-any-return]

    def folds(self, name: str, count: int, random_state: int) -> list[Loaded]:
        """Fold k trains on all but the samples that it holds out, and is validated on those. ConfigurationError where it cannot be cut."""
        with _making:
            if (name, count, random_state) not in self._known:
                self._known[name, count, random_state] = self._cut(name, count, random_state)
            return self._known[name, count, random_state]  # type: ignore[no-any-return]

    def _cut(self, name: str, count: int, random_state: int) -> list[Loaded]:
        data, where = self._data[name], f"{self._name}.data"
        if not isinstance(data.train, Table):
            raise ConfigurationError(
                f"folds: {where} gives a DataLoader to train on, which cannot be cut. Pass train=loader.dataset, which is read once."
            )
        if data.val:
            raise ConfigurationError(
                f"folds: each fold holds out a part of the training set, but {where} gives a validation set of its own. Leave out val, or "
                "call it test: results.best.test() runs it."
            )
        if (name, "whole") not in self._known:      # on the device once, however many folds there are
            self._known[name, "whole"] = data.on(self._device, whole=True)
        whole: Loaded = self._known[name, "whole"]
        table = whole.train
        assert isinstance(table, Table)
        held, how = held_out(table.size, classes_of(table.tree), count, random_state)
        instead = "" if data.val_fraction is None else f"; in the place of val_fraction={data.val_fraction}"
        cuts = [parts(held, fold, self._device) for fold in range(count)]
        return [replace(whole, train=table.part(train), val={"": table.part(val)}, cut=(whole, how + instead)) for train, val in cuts]


_made: WeakKeyDictionary[type, list[tuple[Mapping[str, Any], torch.device, Made]]] = WeakKeyDictionary()
_making = threading.RLock()


def made_of(cls: type, keywords: Mapping[str, Any], device: torch.device) -> Made:
    """`cls.data(**keywords)` on the device: called the first time, then the same object again."""
    with _making:
        for known, place, made in _made.get(cls, []):
            if place == device and known.keys() == keywords.keys() and all(_same(known[key], keywords[key]) for key in keywords):
                return made
        with seeded(derive(SHARED, "data")):
            data = cls.data(**keywords)  # type: ignore[attr-defined]
        several = dict(data) if isinstance(data, Mapping) else {"": data}
        wrong = [value for value in several.values() if not isinstance(value, Data)]
        if wrong or not several:
            what = type(wrong[0] if wrong else data).__name__
            raise ConfigurationError(f"{cls.__name__}.data must return an hp.Data, or a dict of several by name, but it returned {what}.")
        if isinstance(data, Mapping) and not all(isinstance(name, str) and name for name in several):
            raise ConfigurationError(f"{cls.__name__}.data: each of several data sets needs a name, but got {list(several)!r}.")
        made = Made(cls.__name__, several, device)
        _made.setdefault(cls, []).append((dict(keywords), device, made))
        return made


def _same(a: Any, b: Any) -> bool:
    """Only plain values are compared: `==` of arrays is not a bool, and other objects may change after they were compared."""
    return a is b or (type(a) is type(b) and isinstance(a, (int, float, str, bytes, bool)) and a == b)

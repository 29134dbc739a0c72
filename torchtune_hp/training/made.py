"""What `data()` gave: called once per (class, keywords, device) and process, and what its trials train on is cut from it once.

What an hp.Trainer is given is made once for each device too: a function that makes it is known by its code, its defaults and what it
closes over, for one that stands in a train function is another object in each trial.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..errors import ConfigurationError
from ..population.values import Same
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


_made: WeakKeyDictionary[type, dict[Any, Made]] = WeakKeyDictionary()
_making = threading.RLock()


def made_of(cls: type, keywords: Mapping[str, Any], device: torch.device) -> Made:
    """`cls.data(**keywords)` on the device: called the first time, then the same object again."""
    with _making:
        key = device, tuple([(name, _part(keywords[name])) for name in sorted(keywords)])
        if key in (known := _made.setdefault(cls, {})):
            return known[key]
        with seeded(derive(SHARED, "data")):
            data = cls.data(**keywords)  # type: ignore[attr-defined]
        several = dict(data) if isinstance(data, Mapping) else {"": data}
        wrong = [value for value in several.values() if not isinstance(value, Data)]
        if wrong or not several:
            what = type(wrong[0] if wrong else data).__name__
            raise ConfigurationError(f"{cls.__name__}.data must return an hp.Data, or a dict of several by name, but it returned {what}.")
        if isinstance(data, Mapping) and not all(isinstance(name, str) and name for name in several):
            raise ConfigurationError(f"{cls.__name__}.data: each of several data sets needs a name, but got {list(several)!r}.")
        known[key] = Made(cls.__name__, several, device)
        return known[key]


_DATA = "hp.Trainer: data must be an hp.Data, or a function that returns one"
_given: WeakKeyDictionary[Any, dict[Any, Made]] = WeakKeyDictionary()
_AT_ONCE = 8
"""Data sets that are held of one function, which may be called with others again and again; the oldest goes."""


def given_data(given: Any, device: torch.device, name: str) -> Loaded:
    """An hp.Data, or what a function without arguments gives as one, on the device. ConfigurationError where it is none."""
    if isinstance(given, Data):
        return given.made.setdefault(device, Made(name, {"": given}, device)).whole("")  # type: ignore[no-any-return]
    holder, key = _known_by(given)
    _called_without(given)
    with _making:
        known = _given.setdefault(holder, {})
        if (key, device) not in known:
            with seeded(derive(SHARED, "data")):
                data = given()
            if not isinstance(data, Data):
                raise ConfigurationError(f"{_DATA}, but gave a {type(data).__name__}.")
            while len(known) >= _AT_ONCE:
                del known[next(iter(known))]
            known[key, device] = Made(name, {"": data}, device)
        return known[key, device].whole("")


def _called_without(given: Any) -> None:
    try:
        inspect.signature(given).bind()
    except TypeError:
        raise ConfigurationError(f"{_DATA} and takes no arguments, but got {given!r:.70}. functools.partial gives them.") from None
    except ValueError:      # nobody knows its signature
        pass


def _known_by(given: Any) -> tuple[Any, Any]:
    """(what the data goes with, and what is told apart in it)"""
    if isinstance(given, partial):
        holder, key = _known_by(given.func)
        return holder, (key, *map(_part, given.args), *((name, _part(value)) for name, value in sorted(given.keywords.items())))
    if isinstance(given, FunctionType):
        cells = [cell.cell_contents for cell in given.__closure__ or ()]
        defaults = [*(given.__defaults__ or ()), *(given.__kwdefaults__ or {}).values()]
        read = [given.__globals__[name] for name in given.__code__.co_names if name in given.__globals__]
        return given.__code__, tuple([_part(value, whole=False) for value in (*cells, *defaults, *read)])
    if isinstance(given, MethodType):
        holder, key = _known_by(given.__func__)
        return holder, (key, _part(given.__self__))
    if callable(given):
        return type(given), _part(given)
    raise ConfigurationError(f"{_DATA}, but got a {type(given).__name__}.")


def _part(value: Any, whole: bool = True) -> Any:
    """What stands for an argument: a plain value by its type and itself, anything else by which object it is; and where it is `whole`, a
    list or dict of plain values also by what it holds now, for that may be changed before the next study."""
    if isinstance(value, (int, float, str, bytes)):
        return type(value), value
    return Same(value), _content(value, [_MANY]) if whole and isinstance(value, (list, tuple, dict, set)) else None


_MANY = 1000
"""Values in a container beyond which it is known by which object it is alone."""


def _content(value: Any, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        return None
    if isinstance(value, dict):
        return tuple([(_content(name, left), _content(part, left)) for name, part in value.items()])
    if isinstance(value, (list, tuple)):
        return tuple([_content(part, left) for part in value])
    if isinstance(value, set):
        return frozenset(value)
    return (type(value), value) if isinstance(value, (int, float, str, bytes)) else Same(value)

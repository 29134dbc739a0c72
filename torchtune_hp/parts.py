"""What the constructors of a study's parts take: searchers, schedulers, stop rules and executors.

Laws:
1. A keyword that a part does not have is a TypeError that says so, with the nearest one there is.
2. A whole number of numpy's is the int it stands for. A bool stays a bool, which no whole number is asked to be.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import operator
from collections.abc import Iterable
from numbers import Integral
from typing import Any, TypeVar

C = TypeVar("C", bound=type)
T = TypeVar("T")


def part(cls: C) -> C:
    """Gives the constructor of a part these laws. Its signature stays what it was: a journal is written from it."""
    init: Any = _nothing if cls.__init__ is object.__init__ else cls.__init__  # type: ignore[misc]
    names = tuple(inspect.signature(cls).parameters)

    @functools.wraps(init)
    def checked(self: Any, *given: Any, **named: Any) -> None:
        if init is _nothing and type(self) is not cls:      # whoever comes after it in a subclass may take arguments
            super(cls, self).__init__(*given, **named)  # type: ignore[arg-type]
            return
        lines = [f"`{name}` is not an argument{_way_out(name, names)}" for name in named if name not in names]
        if len(given) > len(names):
            lines.append(f"at most {len(names)} arguments are taken, but got {len(given)}.")
        if lines:
            raise TypeError(f"{cls.__name__}: {' '.join(lines)}")
        init(self, *map(as_int, given), **{name: as_int(value) for name, value in named.items()})

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def as_int(value: T) -> T:
    """A whole number of any library as the int it stands for; anything else as it is, for whoever checks it."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[return-value]
        except TypeError:       # numpy counts a timedelta among the integers
            pass
    return value


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Which of the known names was probably meant."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def _nothing(self: object) -> None:
    """The constructor of a class without one: object's own has no signature to show."""


def _way_out(name: str, known: tuple[str, ...]) -> str:
    near = nearest(name, known)
    return f"; did you mean {near}=?" if near else f"; there {'are ' + ', '.join(known) if known else 'is none'}."

"""One hyperparameter as one coordinate: how u in [0, 1] becomes a value, and a value u.

    Continuum   a scale, and values rounded to digits
    Integers    cells of the unit interval, each an integer
    Multiples   cells, each a multiple of q
    Items       cells, each one of the objects given

A cell has a canonical point, its middle; a continuum's canonical point is the place of the rounded value. Hence the laws
(`settle` is what makes a coordinate canonical):
1. places(values(u)) == settle(u), bit for bit.
2. settle(settle(u)) == settle(u), bit for bit.
3. values(settle(u)) == values(u).
4. Every u in [0, 1] has a legal value, and it does not depend on who stands beside it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import SpaceError
from ..trial import DimKind
from .domains import own
from .scales import Array, Scale, between, to_decimals, to_digits

Indices = NDArray[np.int64]


class Column(Protocol):
    """One coordinate. `text` is the domain as it was written, for errors; `levels` is None for a continuum."""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def kind(self) -> DimKind: ...
    @property
    def levels(self) -> int | None: ...

    def settle(self, u: Array) -> Array: ...
    def values(self, u: Array) -> Sequence[Any]: ...
    def places(self, values: Sequence[Any]) -> Array: ...


@dataclass(frozen=True, slots=True)
class Continuum:
    """Floats in [low, high]. `decimals`: rounded to that many decimal places; None: to `digits` significant digits."""

    name: str
    text: str
    scale: Scale
    low: float
    high: float
    digits: int
    decimals: int | None

    @property
    def kind(self) -> DimKind:
        return "float"

    @property
    def levels(self) -> None:
        return None

    def settle(self, u: Array) -> Array:
        return self.scale.place(self._rounded(self.scale.value(u)))

    def values(self, u: Array) -> Sequence[float]:
        return _floats(self._rounded(self.scale.value(u)))

    def places(self, values: Sequence[Any]) -> Array:
        given = numbers(self.name, self.text, values)
        # What a user's own arithmetic leaves over is forgiven: a bound plus a rounding error is the bound.
        slack = 10.0**-self.digits * (self.high - self.low if self.decimals is not None else np.abs(given))
        inside = (given >= self.low - slack) & (given <= self.high + slack)
        if not inside.all():
            raise outside(self.name, self.text, values[int(np.flatnonzero(~inside)[0])])
        return self.scale.place(self._rounded(given))

    def _rounded(self, v: Array) -> Array:
        near = to_digits(v, self.digits) if self.decimals is None else to_decimals(v, self.decimals)
        return between(near, self.low, self.high)


class Cells(Protocol):
    """The unit interval cut into n cells. `index(u)`: whose cell; `middle(k)`: its canonical point."""

    @property
    def n(self) -> int: ...
    def index(self, u: Array) -> Indices: ...
    def middle(self, k: Indices) -> Array: ...


@dataclass(frozen=True, slots=True)
class Equal:
    """Cell k is [k / n, (k + 1) / n)."""

    n: int

    def index(self, u: Array) -> Indices:
        return _settled((u * self.n).astype(np.int64), u, self.n, lambda k: k / self.n)

    def middle(self, k: Indices) -> Array:
        return (k + 0.5) / self.n


@dataclass(frozen=True, slots=True)
class Rounded:
    """Cell k is where a variable on `scale`, rounded to the nearest of first, first + q, ..., gives the k-th of n.

    `shift`: 1/2 where the variable is rounded down to an integer first, so that an integer v stands for [v, v + 1).
    """

    n: int
    scale: Scale
    first: float
    q: float
    shift: float

    def index(self, u: Array) -> Indices:
        guess = np.floor((self.scale.value(u) - self.shift - self.first) / self.q + 0.5)
        return _settled(guess.astype(np.int64), u, self.n, self._edge)

    def middle(self, k: Indices) -> Array:
        return (self._edge(k) + self._edge(k + 1)) / 2.0

    def _edge(self, k: Indices) -> Array:
        inner = self.scale.place(self.first + (k.astype(np.float64) - 0.5) * self.q + self.shift)
        return np.where(k <= 0, 0.0, np.where(k >= self.n, 1.0, inner))


def _settled(guess: Indices, u: Array, n: int, edge: Callable[[Indices], Array]) -> Indices:
    """The guess, which rounding may have put one cell off, moved into the cell whose edges enclose u."""
    k = between(guess, 0, n - 1)
    k = k - (u < edge(k))
    return between(k + (u >= edge(k + 1)), 0, n - 1)


@dataclass(frozen=True, slots=True)
class Integers:
    """first, first + q, ..., as Python integers."""

    name: str
    text: str
    cells: Cells
    first: int
    q: int

    @property
    def kind(self) -> DimKind:
        return "int"

    @property
    def levels(self) -> int:
        return self.cells.n

    def settle(self, u: Array) -> Array:
        return self.cells.middle(self.cells.index(u))

    def values(self, u: Array) -> list[int]:
        integers: list[int] = (self.first + self.cells.index(u) * self.q).tolist()
        return integers

    def places(self, values: Sequence[Any]) -> Array:
        given = numbers(self.name, self.text, values)
        k = (given - self.first) / self.q
        legal = (k == np.rint(k)) & (k >= 0) & (k <= self.cells.n - 1)
        if not legal.all():
            raise outside(self.name, self.text, values[int(np.flatnonzero(~legal)[0])])
        return self.cells.middle(k.astype(np.int64))


@dataclass(frozen=True, slots=True)
class Multiples:
    """first * q, (first + 1) * q, ..., as floats without the dust of multiplication: 0.3, not 0.30000000000000004."""

    name: str
    text: str
    cells: Cells
    first: int
    q: float
    low: float
    high: float

    @property
    def kind(self) -> DimKind:
        return "float"

    @property
    def levels(self) -> int:
        return self.cells.n

    def settle(self, u: Array) -> Array:
        return self.cells.middle(self.cells.index(u))

    def values(self, u: Array) -> Sequence[float]:
        exact = (self.first + self.cells.index(u)).astype(np.float64) * self.q
        return _floats(between(to_digits(exact, 15), self.low, self.high))

    def places(self, values: Sequence[Any]) -> Array:
        given = numbers(self.name, self.text, values)
        k = np.rint(given / self.q) - self.first
        near = np.abs((k + self.first) * self.q - given) <= 1e-9 * self.q + 1e-14 * np.abs(given)
        legal = near & (k >= 0) & (k <= self.cells.n - 1)
        if not legal.all():
            raise outside(self.name, self.text, values[int(np.flatnonzero(~legal)[0])])
        return self.cells.middle(k.astype(np.int64))


@dataclass(frozen=True, slots=True)
class Items:
    """The objects given, in equal cells. `table`: their positions, where all of them can be hashed."""

    name: str
    text: str
    kind: DimKind
    items: tuple[Any, ...]
    table: dict[Any, int] | None

    @property
    def cells(self) -> Equal:
        return Equal(len(self.items))

    @property
    def levels(self) -> int:
        return len(self.items)

    def settle(self, u: Array) -> Array:
        return self.cells.middle(self.cells.index(u))

    def values(self, u: Array) -> list[Any]:
        found = list(map(self.items.__getitem__, self.cells.index(u).tolist()))
        return found if self.table is not None else list(map(own, found))

    def places(self, values: Sequence[Any]) -> Array:
        return self.cells.middle(self.positions(values))

    def positions(self, values: Sequence[Any]) -> Indices:
        if self.table is not None:
            try:
                return np.fromiter(map(self.table.__getitem__, values), np.int64, len(values))
            except (KeyError, TypeError):
                pass        # which one, is said below
        here = {id(item): k for k, item in enumerate(self.items)}
        return np.array([here[id(value)] if id(value) in here else self._position(value) for value in values], np.int64)

    def _position(self, value: Any) -> int:
        for k, item in enumerate(self.items):
            if same(item, value):
                return k
        raise outside(self.name, self.text, value)


def same(a: Any, b: Any) -> bool:
    """Equal as a user means it: arrays and tensors by all of their elements."""
    if a is b:
        return True
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):       # elementwise comparison has no single answer
        return type(a) is type(b) and np.array_equal(np.asarray(a), np.asarray(b))


def numbers(name: str, text: str, values: Sequence[Any]) -> Array:
    """The values as floats, all finite. bool and str are no numbers here, though Python would let them pass."""
    if not set(map(type, values)) <= {int, float}:
        for value in values:
            if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
                raise outside(name, text, value)
    try:
        found = np.array(values, np.float64)
    except OverflowError:       # an integer beyond the largest float lies outside of everything
        found = np.array([float(value) if abs(value) < 2**1000 else np.inf for value in values], np.float64)
    if not np.isfinite(found).all():
        raise outside(name, text, values[int(np.flatnonzero(~np.isfinite(found))[0])])
    return found


def _floats(v: Array) -> Sequence[float]:
    """Floats that are made where they are read: those of one config then lie beside each other in memory, not a block apart."""
    return array("d", v.tobytes())


def outside(name: str, text: str, value: Any) -> SpaceError:
    return SpaceError(f"{name}: {value!r} is not a value of {text}. Give one that is, or change the space.")

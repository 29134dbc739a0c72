"""A table of configs as a space: exactly these, each at its own point of the cube."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import SpaceError
from ..trial import Dim
from .columns import Indices
from .domains import own
from .scales import Array
from .tree import Points

WIDE = 100.0
"""Positive numbers that span more than this factor are placed by their logarithm."""
_AT_ONCE = 2**22        # distances held in memory while the nearest row is sought


class Table:
    """The rows as a Node. `points` (m, d): their coordinates; `given`: the rows as plain dicts, in order.

    Every row is canonical. A point that is no row stands for the nearest one in Euclidean distance, the first of several.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.given = _checked(rows)
        dims, columns = [], []
        for key in self.given[0]:
            dim, column = _column(key, [row[key] for row in self.given])
            if dim is not None:
                dims.append(dim)
                columns.append(column)
        self.dims = tuple(dims)
        self.points: Points = np.stack(columns, axis=1)
        self._by_point: dict[bytes, int] = {}
        self._by_values: dict[Any, int] = {}
        for i, (point, row) in enumerate(zip(self.points, self.given)):
            j = self._by_point.setdefault(point.tobytes(), i)
            if j != i:
                raise SpaceError(f"rows: numbers {j} and {i} differ by less than a float64 can tell: {row!r}. Leave one of them out.")
            self._by_values[_frozen(row)] = i

    def values(self, x: Points, rows: Indices) -> list[dict[str, Any]]:
        return [_copied(self.given[i]) for i in self._nearest(x[rows])]

    def settle(self, x: Points, rows: Indices, out: Points) -> None:
        out[rows] = self.points[self._nearest(x[rows])]

    def places(self, values: Sequence[Any], rows: Indices, out: Points) -> None:
        out[rows] = self.points[[self._row(value) for value in values]]

    def _row(self, config: Any) -> int:
        try:
            return self._by_values[_frozen({key: config[key] for key in self.given[0]} if len(config) == len(self.given[0]) else {})]
        except (KeyError, TypeError):
            raise SpaceError(f"config: {config!r} is none of the {len(self.given)} rows of this space. Give one that is.") from None

    def _nearest(self, x: Points) -> list[int]:
        found = [self._by_point.get(point.tobytes(), -1) for point in np.ascontiguousarray(x)]
        others = [i for i, row in enumerate(found) if row < 0]
        block = max(1, _AT_ONCE // len(self.given))
        for start in range(0, len(others), block):
            some = others[start : start + block]
            distance = np.zeros((len(some), len(self.given)))
            for k in range(x.shape[1]):
                distance += (x[some, k, None] - self.points[None, :, k]) ** 2
            for i, row in zip(some, distance.argmin(1).tolist()):        # argmin: the first of several
                found[i] = row
        return found


def _checked(rows: Any) -> list[dict[str, Any]]:
    if isinstance(rows, (Mapping, str)) or not isinstance(rows, Sequence):
        raise SpaceError(f"rows: a list of dicts is expected, but got {type(rows).__name__}. For a DataFrame: frame.to_dict('records').")
    if len(rows) < 2:
        raise SpaceError(f"rows: at least two configs are needed, but got {len(rows)}. There is nothing to choose from.")
    seen: dict[Any, int] = {}
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping) or not row:
            raise SpaceError(f"rows[{i}]: a dict is expected, but got {row!r}. Write {{'lr': 0.1, ...}}.")
        if row.keys() != rows[0].keys():
            odd = sorted(map(str, row.keys() ^ rows[0].keys()))
            raise SpaceError(f"rows[{i}]: all rows must have the same keys, but {odd} differ from rows[0]. Fill in what is missing.")
        for key, value in row.items():
            _check_value(f"rows[{i}]", key, value)
        j = seen.setdefault(_frozen(row), i)
        if j != i:
            raise SpaceError(f"rows: numbers {j} and {i} are equal: {dict(row)!r}. Leave one of them out.")
    return [_copied(row) for row in rows]


def _check_value(where: str, key: Any, value: Any) -> None:
    if not isinstance(key, str) or not key:
        raise SpaceError(f"{where}: names must be strings, not empty, but got {key!r}. Write {str(key)!r}.")
    if isinstance(value, Mapping):
        raise SpaceError(f"{where}.{key}: rows must be flat, but got the dict {value!r}. Write one key for each of its values.")
    if isinstance(value, (float, np.floating)) and not math.isfinite(value):
        raise SpaceError(f"{where}.{key}: a value must be finite, but got {value!r}. Leave the row out, or write None.")
    try:
        hash(_frozen(value))
    except TypeError:
        raise SpaceError(f"{where}.{key}: {value!r} cannot be looked up. Use numbers, strings, tuples or lists of them.") from None


def _column(key: str, values: list[Any]) -> tuple[Dim | None, Array]:
    """The dimension of a column and its coordinates (m,); no dimension if it never varies."""
    categories = {value: k for k, value in enumerate(dict.fromkeys(map(_frozen, values)))}
    n = len(categories)
    if n == 1:
        return None, np.empty(0)
    if not all(isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool) for value in values):
        return Dim(key, "category", n), (np.array([categories[_frozen(value)] for value in values]) + 0.5) / n
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        raise SpaceError(f"{key}: {max(values, key=abs)!r} does not fit a float64. Use its logarithm, or strings.") from None
    log = bool(numbers.min() > 0 and numbers.max() / numbers.min() > WIDE)
    axis = np.log(numbers) if log else numbers
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (axis - axis.min()) / (axis.max() - axis.min())
    if not np.isfinite(scaled).all():
        raise SpaceError(f"{key}: the numbers from {numbers.min()} to {numbers.max()} cannot be told apart on one axis. Change the unit.")
    whole = all(isinstance(value, (int, np.integer)) for value in values)
    return Dim(key, "int" if whole else "float", None, log), scaled


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((key, _frozen(part)) for key, part in sorted(value.items()))
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _copied(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: own(value) for key, value in row.items()}

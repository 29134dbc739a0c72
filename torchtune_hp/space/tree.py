"""A spec as a tree of nodes: nested configs on one side, columns of the cube on the other.

    Group       a dict: keys in the order they were written
    Leaf        one hyperparameter
    Constant    anything else
    Branches    one of several groups, and the coordinate that says which
    Mapped      what the user reads is a function of what is searched

Every node works on blocks: `x` (n, d) float64 is the whole cube, `rows` (m,) says which of its points the node is asked
about (those in whose branch it stands). Coordinates of absent hyperparameters are never read, and stay at 0.5.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import SpaceError
from .columns import Column, Indices, Items, outside, same

Points = NDArray[np.float64]


class Node(Protocol):
    """Law: `settle` and `places` of what `values` gave write the same bits."""

    def values(self, x: Points, rows: Indices) -> Sequence[Any]:
        """What stands here in the config of each of the rows."""
        ...

    def settle(self, x: Points, rows: Indices, out: Points) -> None:
        """Write the canonical coordinates of these rows into `out`."""
        ...

    def places(self, values: Sequence[Any], rows: Indices, out: Points) -> None:
        """The same from given values; SpaceError where one is not legal."""
        ...


@dataclass(frozen=True, slots=True)
class Leaf:
    column: Column
    at: int

    def values(self, x: Points, rows: Indices) -> Sequence[Any]:
        return self.column.values(x[rows, self.at])

    def settle(self, x: Points, rows: Indices, out: Points) -> None:
        out[rows, self.at] = self.column.settle(x[rows, self.at])

    def places(self, values: Sequence[Any], rows: Indices, out: Points) -> None:
        out[rows, self.at] = self.column.places(values)


@dataclass(frozen=True, slots=True)
class Constant:
    name: str
    value: Any

    def values(self, x: Points, rows: Indices) -> list[Any]:
        if isinstance(self.value, (list, dict, set)):       # a trial may change its own
            return [copy.deepcopy(self.value) for _ in rows]
        return [self.value] * len(rows)

    def settle(self, x: Points, rows: Indices, out: Points) -> None:
        """There is no coordinate."""

    def places(self, values: Sequence[Any], rows: Indices, out: Points) -> None:
        for value in values:
            if not same(value, self.value):
                raise SpaceError(f"{self.name}: the constant {self.value!r} is expected, but got {value!r}. Leave it out.")


@dataclass(frozen=True, slots=True)
class Group:
    """`children` in order; `computed`: keys of sample_from, which have no coordinate and may be missing or anything."""

    name: str
    children: tuple[tuple[str, Node], ...]
    computed: frozenset[str] = frozenset()

    def values(self, x: Points, rows: Indices) -> list[Any]:
        if not self.children:
            return [{} for _ in rows]
        keys = [key for key, _ in self.children]
        return [dict(zip(keys, row)) for row in zip(*(node.values(x, rows) for _, node in self.children))]

    def settle(self, x: Points, rows: Indices, out: Points) -> None:
        for _, node in self.children:
            node.settle(x, rows, out)

    def places(self, values: Sequence[Any], rows: Indices, out: Points) -> None:
        needed = {key for key, node in self.children if _searched(node)}
        known = {key for key, _ in self.children} | self.computed
        for value in values:
            if type(value) is not dict and not isinstance(value, Mapping):      # the first test is ten times faster
                raise SpaceError(f"{self.name or 'config'}: a dict with {sorted(known)} is expected, but got {value!r}. Give a dict.")
            if not needed <= value.keys() <= known:
                raise self._wrong_keys(value, needed, known)
        for key, node in self.children:
            if key in needed:
                node.places([value[key] for value in values], rows, out)
            else:       # no coordinate: whose config it is does not matter
                node.places([value[key] for value in values if key in value], rows, out)

    def _wrong_keys(self, value: Mapping[Any, Any], needed: set[str], known: set[str]) -> SpaceError:
        prefix = f"{self.name}." if self.name else ""
        missing = [key for key, _ in self.children if key in needed and key not in value]
        if missing:
            return SpaceError(f"{prefix}{missing[0]}: missing in the config {dict(value)!r}. Give a value for it.")
        unknown = next(key for key in value if key not in known)
        return SpaceError(f"{prefix}{unknown}: not a parameter of this space; there are {sorted(known)}. Leave it out or change the space.")


def _searched(node: Node) -> bool:
    """Whether any coordinate stands below, so that a config needs a value here."""
    if isinstance(node, Group):
        return any(_searched(child) for _, child in node.children)
    return not isinstance(node, Constant)


@dataclass(frozen=True, slots=True)
class Branches:
    """`column` chooses among the names; each group holds its own name as the constant "name"."""

    column: Items
    at: int
    groups: tuple[Group, ...]

    def values(self, x: Points, rows: Indices) -> list[Any]:
        found: list[Any] = [None] * len(rows)
        for group, here in self._shares(self.column.cells.index(x[rows, self.at])):
            for position, value in zip(here.tolist(), group.values(x, rows[here])):
                found[position] = value
        return found

    def settle(self, x: Points, rows: Indices, out: Points) -> None:
        out[rows, self.at] = self.column.settle(x[rows, self.at])
        for group, here in self._shares(self.column.cells.index(x[rows, self.at])):
            group.settle(x, rows[here], out)

    def places(self, values: Sequence[Any], rows: Indices, out: Points) -> None:
        for value in values:
            if not isinstance(value, Mapping) or "name" not in value:
                raise outside(self.column.name, f'branches {list(self.column.items)}, read as {{"name": ..., ...}}', value)
        chosen = self.column.positions([value["name"] for value in values])
        out[rows, self.at] = self.column.cells.middle(chosen)
        for group, here in self._shares(chosen):
            group.places([values[position] for position in here.tolist()], rows[here], out)

    def _shares(self, chosen: Indices) -> list[tuple[Group, Indices]]:
        shares = ((group, np.flatnonzero(chosen == k)) for k, group in enumerate(self.groups))
        return [(group, here) for group, here in shares if len(here)]


@dataclass(frozen=True, slots=True)
class Mapped:
    """`forward` of what stands at `inner`, one hyperparameter or a group."""

    name: str
    inner: Node
    forward: Callable[[Any], Any]
    inverse: Callable[[Any], Any]

    def values(self, x: Points, rows: Indices) -> list[Any]:
        return [self._apply("forward", self.forward, value) for value in self.inner.values(x, rows)]

    def settle(self, x: Points, rows: Indices, out: Points) -> None:
        self.inner.settle(x, rows, out)

    def places(self, values: Sequence[Any], rows: Indices, out: Points) -> None:
        self.inner.places([self._apply("inverse", self.inverse, value) for value in values], rows, out)

    def check(self, x: Points) -> None:
        """SpaceError unless the pair is one-to-one at these points, each inverted to the very same coordinates."""
        everyone = np.arange(len(x))
        settled, back = np.full_like(x, 0.5), np.full_like(x, 0.5)
        self.inner.settle(x, everyone, settled)
        inner, outer = self.inner.values(x, everyone), self.values(x, everyone)
        for i, value in enumerate(outer):
            try:
                self.places([value], everyone[i : i + 1], back)
                problem = "" if np.array_equal(back[i], settled[i]) else f"inverse({value!r}) is {self.inverse(value)!r}"
            except SpaceError as error:
                problem = str(error)
            if not problem:
                continue
            for j in range(len(outer)):
                if same(outer[j], value) and not np.array_equal(settled[j], settled[i]):
                    raise SpaceError(
                        f"{self.name}: `forward` must be one-to-one, but both {inner[j]!r} and {inner[i]!r} become {value!r}. "
                        "Narrow the domain to where it is, or search what is distinct."
                    )
            raise SpaceError(
                f"{self.name}: `inverse` must undo `forward` to 9 digits, but forward({inner[i]!r}) is {value!r} and {problem}. "
                "Correct `inverse`, or narrow the domain to where the pair is exact."
            )

    def _apply(self, word: str, function: Callable[[Any], Any], value: Any) -> Any:
        try:
            return function(value)
        except Exception as error:
            raise SpaceError(
                f"{self.name}: `{word}` failed on {value!r}: {type(error).__name__}: {error}. It must accept every value of its domain."
            ) from error

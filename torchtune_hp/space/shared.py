"""What a config of another space says in the coordinates of this one: hyperparameters of the same name, whose value is legal here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import SpaceError
from .columns import Column
from .tree import Branches, Constant, Group, Leaf, Mapped, Node, Points

ABSENT, OUTSIDE = -1.0, -2.0
"""In the place of a coordinate: the config has no such hyperparameter; it has a value of it that is none of this space."""

_NOTHING = object()     # is legal nowhere


def places(root: Node, configs: Sequence[Any], dims: int) -> Points:
    """(n, dims) float64: coordinates, canonical, or ABSENT, or OUTSIDE. What stands below a branch that was not taken is ABSENT."""
    out = np.full((len(configs), dims), ABSENT)
    for row, config in enumerate(configs):
        _fill(root, config, out[row : row + 1])
    return out


def _fill(node: Node, value: Any, out: Points) -> None:
    if isinstance(node, Group):
        if isinstance(value, Mapping):
            for key, child in node.children:
                if key in value:
                    _fill(child, value[key], out)
    elif isinstance(node, Branches):
        name = value.get("name") if isinstance(value, Mapping) else _NOTHING
        out[0, node.at] = _place(node.column, name)
        if name in node.column.items:
            _fill(node.groups[node.column.items.index(name)], value, out)
    elif isinstance(node, Leaf):
        out[0, node.at] = _place(node.column, value)
    elif isinstance(node, Mapped):
        try:
            inner = node.inverse(value)
        except Exception:       # a user's function, of a value that it was not made for
            inner = _NOTHING
        if isinstance(node.inner, Group) and not isinstance(inner, Mapping):
            out[0, list(_columns(node.inner))] = OUTSIDE
        else:
            _fill(node.inner, inner, out)
    elif not isinstance(node, Constant):        # a table of rows: each is a point as a whole
        _fill_row(node, value, out)


def _columns(node: Node) -> Iterator[int]:
    """Where the coordinates below a node of a tree stand."""
    if isinstance(node, (Leaf, Branches)):
        yield node.at
    parts: Sequence[Node] = ()
    if isinstance(node, Group):
        parts = [child for _, child in node.children]
    elif isinstance(node, Branches):
        parts = node.groups
    elif isinstance(node, Mapped):
        parts = [node.inner]
    for part in parts:
        yield from _columns(part)


def _place(column: Column, value: Any) -> float:
    try:
        return float(column.places([value])[0])
    except SpaceError:
        return OUTSIDE


def _fill_row(node: Node, value: Any, out: Points) -> None:
    try:
        node.places([value], np.arange(1), out)
    except SpaceError:
        out[:] = OUTSIDE

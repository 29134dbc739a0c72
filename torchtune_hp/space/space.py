"""The search space: configs on one side, points of the unit cube (n, d) float64 on the other, and nothing else in between.

Laws:
1. encode(decode(x)) == canonical(x) and canonical(canonical(x)) == canonical(x), bit for bit.
2. decode(canonical(x)) == decode(x), and a point's config does not depend on which others it is decoded with.
3. Every point of the cube, faces included, is a config that the spec allows; constraints apart.
4. A coordinate whose hyperparameter is absent from the config is 0.5 in a canonical point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import SpaceError
from ..packing import Layout, layout
from ..trial import Config, Dim
from . import described, shared
from .build import Builder
from .columns import Column, Indices
from .domains import Domain, kept
from .laws import not_a_foreigner
from .rows import Table
from .sampled import Sampled, fill, stands_in
from .tree import Group, Leaf, Mapped, Node, Points

RARE = 1e-4
"""The smallest share of the cube that constraints may leave."""
_DRAWN, _BLOCK, _ENOUGH = 2**16, 2**11, 8

Constraint = Callable[[dict[str, Any]], bool]


class Space:
    """What is searched. `spec`: a dict of domains, constants and dicts of them; see `domains` for the words.

    `constraints`: functions config -> bool, all of which must hold; `sample_from` keys are absent from what they read.
    Raises SpaceError, which names the parameter, the value and the way out.

    >>> space = Space({"lr": Domain("loguniform", (1e-4, 1e-1)), "width": Domain("choice", ([16, 32],)), "epochs": 3})
    >>> space.names
    ('lr', 'width')
    >>> space.decode(torch.tensor([[0.0, 0.9]]))
    [{'lr': 0.0001, 'width': 32, 'epochs': 3}]
    """

    dims: tuple[Dim, ...]
    names: tuple[str, ...]
    rows: Tensor | None
    sampled: tuple[str, ...]
    constrained: bool
    lists: dict[str, list[Any]]

    def __init__(self, spec: Mapping[str, Any], *, constraints: Sequence[Constraint] = ()) -> None:
        self._spec: Any = kept(_mapping(spec))
        built = Builder(self._spec)
        if not built.dims:
            raise SpaceError(
                f"space: nothing in {spec!r} can be searched. Give a parameter a domain: {{'lr': loguniform(1e-4, 1e-1), "
                "'width': choice([16, 32])}; a plain list is a constant."
            )
        self._begin(built.root, built.dims, built.sampled, _callables(constraints), tuple(built.columns))
        self.lists = {constant.name: constant.value for constant in built.lists}
        _check_mapped(built.mapped, len(built.dims))
        if self._constraints:
            self._check_feasible()

    def _begin(
        self, node: Node, dims: Iterable[Dim], sampled: Iterable[Sampled], constraints: tuple[Constraint, ...],
        columns: tuple[Column, ...] = (),
    ) -> None:  # fmt: skip
        self._node, self._sampled, self._constraints = node, tuple(sampled), constraints
        self.dims = tuple(dims)
        self.names = tuple(dim.name for dim in self.dims)
        self.sampled = tuple(one.name for one in self._sampled)
        self.constrained = bool(constraints)
        self.lists = {}
        self.rows = None
        self._columns = columns

    @classmethod
    def of(cls, space: Space | Mapping[str, Any]) -> Space:
        """A Space as it is; a plain dict as a Space."""
        return space if isinstance(space, Space) else cls(space)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> Space:
        """Exactly these configs, flat dicts with the same keys.

        A column of numbers is scaled to the cube, by its logarithm if all are positive and the largest is more than
        100 times the smallest; any other column is a category for each value, in order of appearance; a column that
        never varies is a constant. A point stands for the nearest row (the first of several).
        """
        table = Table(rows)
        space = cls.__new__(cls)
        space._spec = table.given
        space._begin(table, table.dims, (), ())
        space.rows = torch.from_numpy(table.points.copy())
        return space

    @classmethod
    def from_yaml(cls, text: str) -> Space:
        """From the text of a YAML file: `lr: {loguniform: [1e-4, 1e-1]}`, `width: {choice: [16, 32]}`. See `yaml_text`."""
        from .yaml_text import read

        return cls(read(text))

    @classmethod
    def rebuild(cls, description: Mapping[str, Any]) -> Space:
        """The space that `describe` described. SpaceError, by name, where a function or object cannot be found again."""
        if "rows" in description:
            return cls.from_rows(described.rows_from(description))
        spec, constraints = described.spec_from(description)
        return cls(spec, constraints=constraints)

    def describe(self) -> dict[str, Any]:
        """This space as JSON. Functions are "module:qualname", or a hash of their source."""
        return described.of_rows(self._spec) if self.rows is not None else described.of_spec(self._spec, self._constraints)

    def decode(self, x: Tensor, seeds: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Points (n, d), anywhere in the cube -> n configs. `seeds`: one a point, under which sample_from runs; None: left out."""
        points, everyone = self._points(x)
        configs: list[dict[str, Any]] = list(self._node.values(points, everyone))
        if seeds is not None:
            if len(seeds) != len(configs):
                raise SpaceError(f"seeds: one for each of the {len(configs)} points is needed, but got {len(seeds)}.")
            if self._sampled:
                for config, seed in zip(configs, seeds):
                    fill(config, self._sampled, seed)
        return configs

    def packed(self, x: Tensor) -> tuple[Layout, list[bytes]] | None:
        """Points (n, d) that are canonical, with their configs, n objects in all (see `packing`); None unless those hold floats alone."""
        children = self._node.children if isinstance(self._node, Group) else ()
        leaves = [node for _, node in children if isinstance(node, Leaf) and node.column.kind == "float"]
        form = layout(len(self.dims), tuple(key for key, _ in children))
        if not len(leaves) == len(children) > 0 or self._sampled or form is None:
            return None
        points, everyone = self._points(x)
        rows = np.column_stack([points, *(leaf.values(points, everyone) for leaf in leaves)]).astype("<f8")
        return form, list(map(bytes, rows))

    def encode(self, configs: Sequence[Config]) -> Tensor:
        """n configs -> canonical points (n, d) float64. Constants and sample_from keys may be left out."""
        configs = list(configs)
        out = np.full((len(configs), len(self.dims)), 0.5)
        self._node.places(configs, np.arange(len(configs)), out)
        return torch.from_numpy(out)

    def drawn_in(self, config: Config) -> list[str]:
        """The names of sample_from keys that a legal config gives values for; they count for nothing."""
        return [one.name for one in self._sampled if stands_in(config, one)]

    def shared(self, configs: Sequence[Config]) -> Tensor:
        """n configs of any space -> (n, d) float64: coordinates in this one where a hyperparameter of the same name has a value that is
        legal here; `shared.ABSENT` where there is none, `shared.OUTSIDE` where its value is not legal. Of rows: all or nothing."""
        return torch.from_numpy(shared.places(self._node, configs, len(self.dims)))

    def canonical(self, x: Tensor) -> Tensor:
        """Points (n, d) -> the canonical points (n, d) float64 of the same configs: encode(decode(x)), without the configs."""
        points, everyone = self._points(x)
        out = np.full_like(points, 0.5)
        self._node.settle(points, everyone, out)
        return torch.from_numpy(out)

    def levels(self, k: int, most: int) -> Tensor:
        """Canonical coordinates of the levels of dimension k, (m,) float64, ascending: all of them, or about `most` evenly spread.

        Spread over the cube, so that levels of a log domain are thinned out evenly on a log scale.
        """
        column = self._columns[k]
        n = column.levels
        cells = getattr(column, "cells", None)
        if cells is not None and n is not None and n <= most:
            return torch.from_numpy(cells.middle(np.arange(n)))
        return torch.from_numpy(np.unique(column.settle((np.arange(most) + 0.5) / most)))

    def feasible(self, x: Tensor) -> Tensor:
        """Points (n, d) -> (n,) bool: whether every constraint holds."""
        points, everyone = self._points(x)
        if not self._constraints:
            return torch.ones(len(points), dtype=torch.bool)
        return torch.tensor([self._holds(config) for config in self._node.values(points, everyone)], dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.dims)

    def __repr__(self) -> str:
        if self.rows is not None:
            return f"Space.from_rows({len(self.rows)} rows of {', '.join(self.names)})"
        return f"Space({self._spec!r})"

    def _points(self, x: Tensor) -> tuple[Points, Indices]:
        points = torch.as_tensor(x, dtype=torch.float64).detach().cpu().numpy()
        if points.ndim != 2 or points.shape[1] != len(self.dims):
            raise SpaceError(f"x: points (n, {len(self.dims)}) are expected, one column for each name, but got shape {points.shape}.")
        if np.isnan(points).any():
            column = self.names[int(np.flatnonzero(np.isnan(points).any(0))[0])]
            raise SpaceError(f"{column}: a coordinate must be a number in [0, 1], but got nan.")
        return np.clip(points, 0.0, 1.0), np.arange(len(points))

    def _holds(self, config: dict[str, Any]) -> bool:
        for number, constraint in enumerate(self._constraints):
            name = f"constraints[{number}] ({getattr(constraint, '__qualname__', repr(constraint))})"
            try:
                verdict = constraint(config)
            except Exception as error:
                raise SpaceError(
                    f"{name} failed on {config!r}: {type(error).__name__}: {error}. It must accept every config; parameters of other "
                    "branches and of sample_from are absent: use config.get."
                ) from error
            if not isinstance(verdict, (bool, np.bool_)):
                raise SpaceError(f"{name} must return True or False, but returned {verdict!r} for {config!r}. Return a comparison.")
            if not verdict:
                return False
        return True

    def _check_feasible(self) -> None:
        """Law: at least 1 point in 10,000 is feasible. Of 65,536 that is 6.6 points on average: 8 are plenty, and end it early."""
        generator = np.random.default_rng(0)
        found = drawn = 0
        while found < _ENOUGH and drawn < _DRAWN:
            found += int(self.feasible(torch.from_numpy(generator.random((_BLOCK, len(self.dims))))).sum())
            drawn += _BLOCK
        if found < RARE * drawn and found < _ENOUGH:
            raise SpaceError(
                f"constraints: at least 1 in 10,000 points must satisfy them, but of {drawn} random points {found} did. "
                "Correct the constraints, or write the domains so that most of their points are allowed."
            )


def _mapping(spec: Any) -> Mapping[str, Any]:
    if isinstance(spec, Mapping):
        return spec
    not_a_foreigner("space", spec)
    raise SpaceError(f"space: a dict of names and domains is expected, but got {spec!r}. Write {{'lr': loguniform(1e-4, 1e-1)}}.")


def _callables(constraints: Sequence[Constraint]) -> tuple[Constraint, ...]:
    if callable(constraints) or isinstance(constraints, (str, Mapping)):
        raise SpaceError(f"constraints: a list of functions is expected, but got {constraints!r}. Write constraints=[...].")
    for number, constraint in enumerate(constraints):
        if not callable(constraint):
            raise SpaceError(f"constraints[{number}]: a function config -> bool is expected, but got {constraint!r}. Write one.")
    return tuple(constraints)


def _check_mapped(mapped: Sequence[Mapped], d: int) -> None:
    if mapped:
        engine = torch.quasirandom.SobolEngine(d, seed=0)  # type: ignore[no-untyped-call]
        sobol = engine.draw(256, dtype=torch.float64).numpy()
        faces = np.array([[0.0] * d, [1.0] * d])
        for one in mapped:
            one.check(np.concatenate([sobol, faces]))


__all__ = ["Domain", "Space"]

"""Grid search: every combination of the axes' levels, each once.

The axes are crossed in the order of the dimensions, the last one fastest. A hyperparameter of a branch is crossed inside its
branch only, so that no configuration comes twice. What is not an axis is drawn, as random search would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigurationError, SpaceError
from ..parts import as_int, part
from ..seeds import derive
from ..trial import Dim, Setting
from .base import Base
from .streams import TRIES, make_feasible, nowhere, redraws, uniform

MOST = 10_000_000
"""The largest grid there may be."""

_PROBES = 1024           # draws of the other hyperparameters before a combination counts as infeasible
_CHUNK = 1 << 16         # combinations judged at once

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Axes = dict[int, Floats]
"""The number of a dimension -> the coordinates of its levels on the grid; in the order they are crossed, parents first."""


@part
class GridSearch(Base):
    """All combinations of the axes.

    The axes are the dimensions written as `grid_search` or, if there are none, all that have finitely many levels; beyond
    these, whatever `points` gives levels to:
        an int: every continuous dimension gets so many levels;
        a dict: the dimensions it names get so many, one with fewer levels of its own keeps all of those.
    What gets levels has them at the middles of so many equal parts of the unit interval, so those of a log domain are evenly
    spaced in its logarithm; of a dimension with levels of its own, they are the ones that cover these points, which may be
    fewer. The categorical dimension whose branch an axis belongs to is an axis too.

    Combinations that are infeasible are left out; where some hyperparameters are drawn, those of which 1,024 draws are.
    The draws depend on (seed, i) and are feasible. Given rows are the grid, in their own order.

    Raises ConfigurationError where `points` makes no sense, where there is no axis and where there are more than 10,000,000
    combinations; SpaceError where no combination is feasible.
    """

    def __init__(self, points: int | Mapping[str, int] | None = None) -> None:
        if isinstance(points, Mapping):
            points = {name: as_int(number) for name, number in points.items()}
        numbers = list(points.values()) if isinstance(points, Mapping) else [] if points is None else [points]
        if any(type(number) is not int or number < 1 for number in numbers):
            raise ConfigurationError(
                f"points: whole numbers of at least 1 are needed, one for all or a dict by name, but got {points!r}."
            )
        self.points = points

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        if setting.rows is not None:
            return
        sizes = _sizes(setting.dims, self.points)
        self._axes: Axes = {k: _coordinates(setting, k, size) for k, size in sizes.items()}
        self._levels = _crossed(setting.dims, self._axes)
        probe = derive(setting.seed, "grid", "probe")       # not the seed of `ask`: `left` is known before anything is asked
        infeasible = [
            start + self._points(start, _CHUNK, probe, _PROBES)[1] for start in range(0, len(self._levels), _CHUNK)
        ]
        self._levels = np.delete(self._levels, torch.cat(infeasible).numpy(), axis=0)
        if not len(self._levels):
            raise SpaceError("A grid needs feasible combinations, but none is. Loosen the constraints, or give the axes other values.")

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        """(n, d) float64."""
        if self.setting.rows is not None:
            return self.setting.rows[index : index + n].clone()
        x, missing = self._points(index, n, seed, TRIES)
        if len(missing):
            raise nowhere(index + int(missing[0]))
        return x

    def left(self) -> int | None:
        return len(self._levels) if self.setting.rows is None else len(self.setting.rows)

    def _points(self, index: int, n: int, seed: int, tries: int) -> tuple[Tensor, Tensor]:
        """Combinations `index` to at most `index + n - 1`: (n, d), and those (b,) for which no draw is feasible."""
        d = len(self.setting.dims)
        levels = self._levels[index : index + n]
        columns = [coordinates[levels[:, a]] for a, coordinates in enumerate(self._axes.values())]
        places = torch.from_numpy(np.column_stack(columns))

        def candidates(rows: Tensor, start: int, count: int) -> Tensor:
            return self._placed(redraws(rows + index, start, count, d, seed), places[rows, None])

        x = self._placed(uniform(len(levels), d, index, seed), places)
        return make_feasible(x, self.setting.feasible, candidates, tries if len(self._axes) < d else 0)

    def _placed(self, x: Tensor, places: Tensor) -> Tensor:
        """`x` (..., d) moved to the axes' `places` (..., a), and to 0.5 outside of a dimension's branch."""
        dims = self.setting.dims
        x[..., list(self._axes)] = places
        chosen = (x * torch.tensor([dim.levels or 1 for dim in dims])).long()
        for k in range(len(dims)):
            for parent, category in _ancestors(dims, k):
                x[..., k] = x[..., k].where(chosen[..., parent] == category, 0.5)
        return x


def _sizes(dims: Sequence[Dim], points: int | Mapping[str, int] | None) -> dict[int, int]:
    """Which dimensions are axes, parents first, and how many levels each may have at most."""
    named = points if isinstance(points, Mapping) else {}
    unknown = sorted(set(named) - {dim.name for dim in dims})
    if unknown:
        names = [dim.name for dim in dims]
        raise ConfigurationError(f"points: each name must be a hyperparameter's, but got {unknown}. There are {names}.")
    marked = any(dim.grid for dim in dims)
    sizes: dict[int, int] = {}
    for k, dim in enumerate(dims):
        size = named.get(dim.name)
        if size is None and dim.levels is None and isinstance(points, int):
            size = points
        if size is not None or (dim.levels is not None and (dim.grid or not marked)):
            for parent, _ in reversed(_ancestors(dims, k)):
                sizes.setdefault(parent, _size(dims[parent], named.get(dims[parent].name)))
            sizes[k] = _size(dim, size)
    if not sizes:
        raise ConfigurationError(
            "searcher: a grid needs an axis, but no hyperparameter is written as grid_search or has finitely many values. "
            "Say how many values the continuous ones get, as in GridSearch(points=5), or use RandomSearch()."
        )
    for size in sizes.values():
        _check(size, dims, sizes)
    return sizes


def _size(dim: Dim, wanted: int | None) -> int:
    return min(size for size in (wanted, dim.levels) if size is not None)


def _check(total: int, dims: Sequence[Dim], sizes: Mapping[int, int]) -> None:
    if total > MOST:
        shape = ", ".join(f"{dims[k].name}: {size:,}" for k, size in sizes.items())
        raise ConfigurationError(
            f"searcher: a grid has at most {MOST:,} combinations, but this one has at least {total:,} ({shape}). "
            "Give an axis fewer values, as in GridSearch(points={name: 5}), or use RandomSearch()."
        )


def _coordinates(setting: Setting, k: int, size: int) -> Floats:
    """Where the levels of axis `k` stand, ascending: at most `size` of them."""
    levels = setting.dims[k].levels
    if levels is not None and setting.levels is not None:
        coordinates: Floats = setting.levels(k, size).numpy()
        return coordinates
    middles = (np.arange(size) + 0.5) / size
    if levels is None or levels == size:
        return middles
    return (np.floor(middles * levels) + 0.5) / levels


def _crossed(dims: Sequence[Dim], axes: Axes) -> np.ndarray[tuple[int, int], np.dtype[np.integer]]:
    """Every combination of levels: (m, a). An axis outside its branch has level 0."""
    columns = list(axes)
    sizes = {k: len(coordinates) for k, coordinates in axes.items()}
    levels = np.zeros((1, 0), np.min_scalar_type(max(sizes.values())))       # small: there may be ten million rows
    for k, size in sizes.items():
        inside = np.ones(len(levels), bool)
        for parent, category in _ancestors(dims, k):
            chosen = (axes[parent] * (dims[parent].levels or 1)).astype(int)
            inside &= chosen[levels[:, columns.index(parent)]] == category
        repeats = np.where(inside, size, 1)
        total = int(repeats.sum())
        _check(total, dims, sizes)
        level = np.arange(total) - np.repeat(repeats.cumsum() - repeats, repeats)
        levels = np.column_stack([np.repeat(levels, repeats, axis=0), level.astype(levels.dtype)])
    return levels


def _ancestors(dims: Sequence[Dim], k: int) -> list[tuple[int, int]]:
    """The categorical dimensions whose branch dimension `k` belongs to, nearest first, each with its category."""
    names = [dim.name for dim in dims]
    line = []
    while (branch := dims[k].parent) is not None:
        k = names.index(branch[0])
        line.append((k, branch[1]))
    return line

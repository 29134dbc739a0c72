"""What a Setting is to the Gaussian process: its kernel, and the cube that its acquisitions are climbed in.

Points of the process have one column more than the setting has dimensions: the last is the fidelity t, the share of the full
budget. In the cube that column has one level, t = 1: what is suggested is worth what it will be when it is fully trained.
Where observations are standings of trials (`gp_standings`) it says nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..gp.climb import Column, Cube
from ..gp.kernel import REST, Kernel, active
from ..gp.maximize import leveled
from ..trial import Dim, Setting

_MOST = 1024        # levels of one dimension that are told apart in a climb; of more, so many are spread over the cube
_BENT = 16          # levels from which a column is worth the two hyperparameters of a warp


def kernel_of(setting: Setting, looks: bool, warp: bool = False) -> Kernel:
    """Floats, ints and ordinals are numbers; a category is equal or not; a branch's columns exist under their category alone.

    `looks`: observations are looks at trials that were trained to different lengths; there is a fidelity, unless a trial has one step.
    `warp`: floats and ints of _BENT levels or more are warped. How far apart few levels are tells no bend, nor do an ordinal's names.
    """
    dims = setting.dims
    place = {dim.name: k for k, dim in enumerate(dims)}
    under = {k: (place[dim.parent[0]], dim.parent[1]) for k, dim in enumerate(dims) if dim.parent is not None}

    def depth(k: int) -> int:
        return 1 + depth(under[k][0]) if k in under else 0

    return Kernel(
        numbers=tuple(k for k, dim in enumerate(dims) if dim.kind != "category"),
        categories=tuple((k, dim.levels or 1) for k, dim in enumerate(dims) if dim.kind == "category"),
        conditions=tuple((k, *under[k]) for k in sorted(under, key=lambda k: (depth(k), k))),
        fidelity=len(dims) if looks and setting.max_t != 1 else None,
        warped=tuple(k for k, dim in enumerate(dims) if warp and _bends(dim)),
    )


def _bends(dim: Dim) -> bool:
    return dim.kind in ("float", "int") and (dim.levels is None or dim.levels >= _BENT)


def cube_of(setting: Setting, kernel: Kernel) -> Cube:
    """Where points may lie: on levels, at rest where they do not exist, at t = 1, feasible."""
    columns = [_column(setting, k, dim) for k, dim in enumerate(setting.dims)]
    columns.append(Column(torch.ones(1, dtype=torch.float64)))
    parts = sorted({k for k, _, _ in kernel.conditions})

    def canonical(x: Tensor) -> Tensor:
        x = leveled(columns, x)
        if parts:
            x[:, parts] = torch.where(active(kernel, x)[:, parts], x[:, parts], REST)
        return x

    return Cube(columns, canonical, lambda x: setting.feasible(x[:, :-1]))


def trained(x: Tensor) -> Tensor:
    """Points (n, d) of the setting as points (n, d + 1) of the process, fully trained."""
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def _column(setting: Setting, k: int, dim: Dim) -> Column:
    if dim.levels is None:
        return Column()
    if setting.levels is not None and dim.kind != "category":
        return Column(setting.levels(k, _MOST))
    return Column((torch.arange(dim.levels, dtype=torch.float64) + 0.5) / dim.levels, ordered=dim.kind != "category")

"""Sobol search: points that fill the unit cube more evenly than random ones.

I. M. Sobol, 1967; scrambled after J. Matousek, "On the L2-discrepancy for anchored boxes", J. Complexity 14 (1998), as
`torch.quasirandom.SobolEngine` does it. The first point is kept: without it the others lose their balance (A. Owen, "On
dropping the first Sobol' point", 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from ..errors import ConfigurationError
from ..parts import part
from ..seeds import derive
from ..trial import Setting
from .base import Base
from .streams import make_feasible, nowhere, shuffled, uniform

_SCALE = 2.0**SobolEngine.MAXBIT        # coordinates are whole numbers of 1 / _SCALE


@part
class SobolSearch(Base):
    """A scrambled Sobol sequence, the scrambling drawn from the seed. Point i depends on (seed, i) alone.

    An infeasible point i is replaced by point i of the same sequence under another scrambling (a random digital shift,
    numbered from 0 for every point), until one is feasible: each attempt is itself a low-discrepancy sequence.
    Of given rows, each comes once, in the order of a seeded permutation: evenness means nothing there.

    Raises ConfigurationError beyond 21,201 dimensions, SpaceError where no feasible point is found.
    """

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        if setting.rows is None and len(setting.dims) > SobolEngine.MAXDIM:
            raise ConfigurationError(
                f"searcher: a Sobol sequence has at most {SobolEngine.MAXDIM:,} dimensions, but the space has "
                f"{len(setting.dims):,}. Use RandomSearch()."
            )

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        """(n, d) float64."""
        setting = self.setting
        if setting.rows is not None:
            return shuffled(setting.rows, n, index, seed)
        x = _sequence(n, len(setting.dims), index, derive(seed, "sobol"))
        x, missing = make_feasible(x, setting.feasible, lambda rows, start, count: _shifted(x[rows], start, count, seed))
        if len(missing):
            raise nowhere(index + int(missing[0]))
        return x


def _sequence(n: int, d: int, index: int, seed: int) -> Tensor:
    """Points `index` to `index + n - 1`: (n, d) float64."""
    if n == 0 or d == 0:
        return torch.zeros(n, d, dtype=torch.float64)
    engine: Any = SobolEngine(d, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    if index:
        return torch.as_tensor(engine.fast_forward(index).draw(n, dtype=torch.float64))
    # The engine rounds its first point to the default dtype, which is not ours to choose; the shift is that point, exact.
    first = engine.shift.double().unsqueeze(0) / _SCALE
    return torch.cat([first, engine.fast_forward(1).draw(n - 1, dtype=torch.float64)])


def _shifted(x: Tensor, start: int, count: int, seed: int) -> Tensor:
    """The points (b, d) under scramblings `start` to `start + count - 1`: (b, count, d)."""
    shifts = (uniform(count, x.shape[1], start, derive(seed, "sobol", "shift")) * _SCALE).long()
    digits = (x * _SCALE).long()
    return (digits[:, None, :] ^ shifts).double() / _SCALE

"""Random search: every point uniform in the unit cube, independent of all others.

J. Bergstra and Y. Bengio, "Random search for hyper-parameter optimization", JMLR 13 (2012). The baseline that every other
searcher has to beat, and the right choice for a first look at a space.
"""

from __future__ import annotations

from torch import Tensor

from ..parts import part
from .base import Base
from .streams import make_feasible, nowhere, redraws, shuffled, uniform


@part
class RandomSearch(Base):
    """Uniform points. Point i depends on (seed, i) alone; an infeasible one is redrawn from a stream of its own.

    Of given rows, each comes once, in the order of a seeded permutation.

    Raises SpaceError where no feasible point is found.
    """

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        """(n, d) float64."""
        setting = self.setting
        if setting.rows is not None:
            return shuffled(setting.rows, n, index, seed)
        d = len(setting.dims)
        x, missing = make_feasible(
            uniform(n, d, index, seed), setting.feasible, lambda rows, start, count: redraws(rows + index, start, count, d, seed)
        )
        if len(missing):
            raise nowhere(index + int(missing[0]))
        return x

"""What GPSearch looks for: improvement of one process, or of the front of several. Two kinds of one thing, an `Aim`.

An aim imagines what is not known yet, at the points that may be the best and at all that are pending, and then says what a point is
worth (`score`, a logarithm), which of some are worth most together (`choose`), and what to run of a pool (`batch`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..gp import fantasies, fronts
from ..gp.climb import Cube, scored
from ..gp.maximize import Pool, batch
from ..gp.regression import Fitted
from .gp_space import trained

Score = Callable[[Tensor], Tensor]

_MANY = 64
_SAMPLES = (32, 8)      # of what is not known yet: for up to _MANY points at once, and for more
_INCUMBENTS = 16        # observed points that may be the best
_FRONTS = (8, 2)        # samples of a front: for up to _FEW points at once, and for more
_FEW = 16
_FRONT = 64             # observed points that may be on the front


class Aim(Protocol):
    """`best` (b, d + 1): observed points that may be the best, fully trained. Points below have the fidelity's column too."""

    best: Tensor

    def score(self, x: Tensor) -> Tensor:
        """(q,) at x (q, d + 1), a logarithm, larger is better. Differentiable."""
        ...

    def choose(self, x: Tensor, n: int, bonus: Score | None) -> Tensor:
        """Which n of x (p, d + 1), or all, are worth most together: int64, in order."""
        ...

    def batch(self, cube: Cube, pool: Pool, taken: Tensor, n: int, bonus: Score | None) -> Tensor:
        """n points to run at once (m, d + 1), where the pool has so many."""
        ...


class Improvement:
    """Of one process: noisy expected improvement."""

    def __init__(self, fitted: Fitted, observed: Tensor, pending: Tensor, n: int, generator: torch.Generator) -> None:
        """`observed` (., d + 1), fully trained, and `pending` (., d): for n points, with normals of the generator."""
        samples = _SAMPLES[n > _MANY]
        self.best = fantasies.incumbents(fitted, observed, _INCUMBENTS)
        unknown = torch.unique(torch.cat([self.best, trained(pending)]), dim=0)
        self._drawn = fantasies.fantasize(fitted, unknown, _normals(samples, len(unknown), generator))
        self._normals = _normals(samples, n, generator)

    def score(self, x: Tensor) -> Tensor:
        return fantasies.log_noisy_expected_improvement(self._drawn, x)

    def choose(self, x: Tensor, n: int, bonus: Score | None) -> Tensor:
        return fantasies.choose(self._drawn, x, self._normals[:, : min(n, len(x))], bonus=_worth(bonus, x))

    def batch(self, cube: Cube, pool: Pool, taken: Tensor, n: int, bonus: Score | None) -> Tensor:
        return batch(self._drawn, cube, pool, taken, self._normals[:, : min(n, len(pool.x))], bonus=bonus)


class FrontImprovement:
    """Of several processes' front: noisy expected hypervolume improvement."""

    def __init__(
        self, processes: Sequence[Fitted], reference: Tensor, observed: Tensor, pending: Tensor, n: int, generator: torch.Generator
    ) -> None:
        m, samples = len(processes), _FRONTS[n > _FEW]
        self.best = fronts.on_the_front(processes, observed, _INCUMBENTS, _FRONT)
        unknown = torch.unique(torch.cat([self.best, trained(pending)]), dim=0)
        normals = _normals(m * samples, len(unknown), generator).view(m, samples, len(unknown))
        self._drawn = fronts.imagine(processes, unknown, reference, normals)
        self._normals = _normals(m * samples, n, generator).view(m, samples, n)

    def score(self, x: Tensor) -> Tensor:
        return fronts.log_improvement(self._drawn, x)

    def choose(self, x: Tensor, n: int, bonus: Score | None) -> Tensor:
        return fronts.choose(self._drawn, x, self._normals[:, :, : min(n, len(x))], bonus=_worth(bonus, x))

    def batch(self, cube: Cube, pool: Pool, taken: Tensor, n: int, bonus: Score | None) -> Tensor:
        return pool.x[self.choose(pool.x, n, bonus)]


def _worth(bonus: Score | None, x: Tensor) -> Tensor | None:
    return None if bonus is None else scored(lambda x, _: bonus(x), x, x[:, 0])


def _normals(s: int, m: int, generator: torch.Generator) -> Tensor:
    return torch.randn(s, m, dtype=torch.float64, generator=generator)

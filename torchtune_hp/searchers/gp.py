"""Bayesian optimization with a Gaussian process that learns from every look at every trial.

What a point is worth when it is fully trained is predicted from all looks told, at whatever step (a fidelity kernel), and the next
points are where the expected improvement is largest, given what runs already (`gp.fantasies`, log NEI) and where trials failed
(`gp.feasibility`). The first points are a Sobol sequence.

Laws:
1. Until `startup` trials were told, two of them with finite values, points are those of `SobolSearch`; of rows, a seeded permutation.
   From then on every point is the process's, but where no untried one can be found: then the rest come from SobolSearch again.
2. Hyperparameters are fitted at the milestones of `gp_history`, each fit started from the milestone's before it, and are functions of what
   was told alone: whether and when `ask` was called changes no bit. Between milestones they are kept, and all rows are conditioned on.
3. Several objectives are several scalarizations with fixed weights (ParEGO), one process each, fitted as one batch; points take turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..gp.fantasies import Fantasies, choose, fantasize, incumbents, log_noisy_expected_improvement
from ..gp.feasibility import deterrence
from ..gp.fit import fit
from ..gp.kernel import unpack
from ..gp.maximize import batch, best_rows, pool, starts
from ..gp.regression import condition
from ..seeds import derive
from ..trial import Report, Setting
from .base import Base
from .gp_history import History, Row, scalarized
from .gp_space import cube_of, kernel_of, trained
from .sobol import SobolSearch
from .streams import shuffled, uniform

Score = Callable[[Tensor], Tensor]

_SCALARIZATIONS = 8     # of several objectives
_SAMPLES = (32, 8)      # of what is not known yet: for up to _MANY points at once, and for more
_MANY = 64
_INCUMBENTS = 16        # observed points that may be the best
_STARTS = 512           # and one for each point that is asked for
_CLIMBS = 16
_NEAR = 0.1             # times the root of d: failures are no smoother than this, however smooth the outcome is
_LONG = 64              # up to so many rows every fit has four starts of its own; beyond, one beside the last fit


class GPSearch(Base):
    """Where improvement is expected. Learns from running, stopped and failed trials; made for hundreds of points at once.

    `startup`: so many trials are told before the process is asked; None: 8, or one more than there are dimensions.
    `exact`: so many rows are conditioned on, all there are up to it; beyond, a subset (see `gp_history`), and the log says so. Failures
    are learned from among the newest `exact` trials.

    Raises ConfigurationError for `startup` < 2 or `exact` < 16, and as SobolSearch does; SpaceError as SobolSearch does.
    """

    adaptive = True

    def __init__(self, startup: int | None = None, exact: int = 1000) -> None:
        for name, number, least in (("startup", startup, 2), ("exact", exact, 16)):
            if number is not None and (type(number) is not int or number < least):
                raise ConfigurationError(f"{name}: a whole number of at least {least} is needed, but got {number!r}.")
        self.startup = startup
        self.exact = exact

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._sobol = SobolSearch()
        self._sobol.begin(setting)
        self._first = self.startup or max(8, len(setting.dims) + 1)
        self._kernel = kernel_of(setting)
        self._cube = cube_of(setting, self._kernel)
        self._history = History(setting.max_t, self.exact)
        self._raw: Tensor | None = None         # (k, p): of the milestones fitted so far
        self._fitted = 0
        self._weights = torch.ones(1, 1, dtype=torch.float64)
        if setting.objectives > 1:
            drawn = -torch.log1p(-uniform(_SCALARIZATIONS, setting.objectives, 0, derive(setting.seed, "scalarizations")))
            self._weights = drawn / drawn.sum(1, keepdim=True)
        kind = "a seeded permutation of the rows" if setting.rows is not None else "a Sobol sequence"
        self._notes = [
            f"GPSearch: until {self._first} trials are told, two of them with finite values, points are {kind}; then the Gaussian process "
            "suggests them, and that again only where the process finds nothing untried"
        ]

    def tell(self, reports: Sequence[Report]) -> None:
        cut = self._history.cut
        self._history.tell(reports)
        if self._history.cut and not cut:
            self._notes.append(
                f"GPSearch: there are more than {self.exact:,} observations; from now on it is conditioned on {self.exact:,} of them: "
                "the best, the newest, and others spread over the study"
            )

    def notes(self) -> list[str]:
        said, self._notes = self._notes, []
        return said

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        """(n, d) float64."""
        history = self._history
        d = len(self.setting.dims)
        tried = torch.tensor(list(history.tried.values()), dtype=torch.float64).reshape(len(history.tried), d)
        taken = torch.cat([tried, pending])
        if n == 0 or d == 0 or len(tried) < self._first or len(history.rows) < 2:
            return self._even(n, taken, index, seed)
        rows = history.training_set()
        self._fit()
        x, y = history.points(rows), self._outcomes(rows)
        k = len(y)
        found = pending[:0]
        for turn in range(min(n, k)):
            which = (index + turn) % k
            share = len(range(turn, n, k))
            some = self._suggested(which, share, x, y[which], tried, torch.cat([pending, found]), taken, derive(seed, "gp", index, turn))
            found, taken = torch.cat([found, some]), torch.cat([taken, some])
        return found if len(found) == n else torch.cat([found, self._even(n - len(found), taken, index, derive(seed, "more"))])

    # The process -----------------------------------------------------------------------------------------------------

    def _outcomes(self, rows: Sequence[Row]) -> Tensor:
        """(k, n): one for each scalarization."""
        return scalarized(torch.tensor([row.values for row in rows], dtype=torch.float64).T, self._weights)

    def _fit(self) -> None:
        """The milestones that are due, in order."""
        due = self._history.milestones
        while self._fitted < len(due):
            rows, due[self._fitted] = due[self._fitted], []
            start = None if self._raw is None else self._raw[:, None]
            restarts = 4 if len(rows) <= _LONG else 1
            x, y = self._history.points(rows), self._outcomes(rows)
            self._raw = fit(self._kernel, x, y, start=start, restarts=restarts, seed=self._fitted).raw
            self._fitted += 1

    def _suggested(
        self, which: int, n: int, x: Tensor, y: Tensor, tried: Tensor, pending: Tensor, taken: Tensor, seed: int
    ) -> Tensor:
        """Up to n points (m, d) by scalarization number `which`; `pending` is imagined, what is `taken` is not suggested."""
        assert self._raw is not None
        fitted = condition(self._kernel, x, y, unpack(self._kernel, self._raw[which]))
        generator = torch.Generator().manual_seed(seed)
        samples = _SAMPLES[n > _MANY]
        best = incumbents(fitted, trained(torch.unique(x[:, :-1], dim=0)), _INCUMBENTS)
        unknown = torch.unique(torch.cat([best, trained(pending)]), dim=0)
        fantasies = fantasize(fitted, unknown, _normals(samples, len(unknown), generator))
        failed = torch.tensor([trial in self._history.failed for trial in self._history.tried][-self.exact :])
        everywhere = trained(tried[-self.exact :])

        near = fitted.hyper._replace(lengthscale=fitted.hyper.lengthscale.clamp_max(_NEAR * len(self.setting.dims) ** 0.5))

        def success(at: Tensor) -> Tensor:
            return deterrence(self._kernel, near, everywhere, failed, at)

        def score(at: Tensor) -> Tensor:
            value = log_noisy_expected_improvement(fantasies, at)
            return value if bonus is None else value + bonus(at)

        bonus = success if failed.any() else None

        normals = _normals(samples, n, generator)
        if self.setting.rows is not None:
            return self._of_rows(score, fantasies, bonus, normals, taken)
        seeds = (derive(seed, "starts"), derive(seed, "even"))
        begun = starts(self._cube, _STARTS + n, best, seeds[0])
        if len(begun) < _STARTS // 8:       # most of the cube is infeasible
            begun = torch.cat([begun, self._cube.canonical(trained(self._sobol.ask(8 + n, pending=taken[:0], index=0, seed=seeds[1])))])
        offered = pool(score, self._cube, begun, trained(taken), climbs=_CLIMBS)
        if n == 1 or not len(offered.x):
            return offered.x[:1, :-1]
        normals = normals[:, : len(offered.x)]
        return batch(fantasies, self._cube, offered, trained(taken), normals, bonus=bonus)[:, :-1]

    def _of_rows(self, score: Score, fantasies: Fantasies, bonus: Score | None, normals: Tensor, taken: Tensor) -> Tensor:
        """The rows that are worth most, each given those before it."""
        left = trained(self._untaken(taken))
        n = normals.shape[1]
        few = left[best_rows(score, left, left[:0], 1 if n == 1 else max(_STARTS, 2 * n))]
        if n == 1:
            return few[:, :-1]
        worth = None if bonus is None else bonus(few)
        return few[choose(fantasies, few, normals[:, : len(few)], bonus=worth)][:, :-1]

    # Beside the process ----------------------------------------------------------------------------------------------

    def _even(self, n: int, taken: Tensor, index: int, seed: int) -> Tensor:
        """Points of SobolSearch or, where there are rows, the next ones of a permutation."""
        if self.setting.rows is None:
            return self._sobol.ask(n, pending=taken[:0], index=index, seed=seed)
        return self._untaken(taken, derive(self.setting.seed, "rows"))[:n]

    def _untaken(self, taken: Tensor, seed: int | None = None) -> Tensor:
        """The rows that were not taken (m, d), each as often as it is there; in their order, or in that of the seed's permutation."""
        assert self.setting.rows is not None
        rows = self.setting.rows if seed is None else shuffled(self.setting.rows, len(self.setting.rows), 0, seed)
        gone = Counter(map(tuple, taken.tolist()))
        left = []
        for k, row in enumerate(map(tuple, rows.tolist())):
            if gone[row]:
                gone[row] -= 1
            else:
                left.append(k)
        return rows[left]


def _normals(s: int, m: int, generator: torch.Generator) -> Tensor:
    return torch.randn(s, m, dtype=torch.float64, generator=generator)

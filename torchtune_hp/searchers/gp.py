"""Bayesian optimization with a Gaussian process that learns from every look at every trial.

What a point is worth when it is fully trained is predicted from all looks told, at whatever step: of one objective from the standings
of trials, of several by a fidelity kernel. The next points are where the expected improvement is largest, given what runs already
(`gp.fantasies`, log NEI) and where trials failed (`gp.feasibility`). The first points are a Sobol sequence.

Laws:
1. Until `startup` trials were told, two of them with finite values, points are those of `SobolSearch`, of rows a seeded permutation (but
   see 3). From then on points are the process's, but where no untried one can be found: then the rest come from SobolSearch again.
2. Hyperparameters are fitted at the milestones of `gp_history`, each fit started from the milestone's before it, and are functions of what
   was told alone: whether and when `ask` was called changes no bit. Between milestones they are kept, and all rows are conditioned on.
3. Of earlier studies (`Setting.sources`, see `gp_sources`) every second of the first points is one of their best or, from three looks
   on, what the process with them suggests; later they are its mean, as far as they rank trials right. Where none does, all is as without.
4. While most trials were stopped early, all in one bracket (`gp_history`, law 8), every third point is even, as in 1: what begins well
   may end badly, and a process that is told of beginnings asks for nothing else (BOHB's rho, Falkner et al., ICML 2018). Brackets, as of
   Hyperband, hedge by themselves.
5. Two or three objectives are a process each, fitted as one batch, and improvement is that of their front's hypervolume (`gp.fronts`);
   points take turns between the two reference points of `gp_objectives`. More are 8 scalarizations with fixed weights (ParEGO), a process
   each; points take turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..gp.feasibility import deterrence
from ..gp.fit import fit
from ..gp.kernel import unpack
from ..gp.maximize import best_rows, enough, pool, starts
from ..gp.priors import searched
from ..gp.regression import Fitted, condition
from ..gp.slopes import scales
from ..gp.threads import bounded
from ..parts import part
from ..seeds import derive
from ..trial import Report, Setting
from .base import Base
from .gp_aims import Aim, FrontImprovement, Improvement, Score
from .gp_history import History, Row
from .gp_objectives import MOST, in_units_of_the_front
from .gp_sources import FEWEST, Sources
from .gp_space import cube_of, kernel_of, trained
from .gp_values import scalarized, standardized, tamed
from .sobol import SobolSearch
from .streams import shuffled, uniform

_SCALARIZATIONS = 8     # of more objectives than MOST
_STARTS = 512           # and one for each point that is asked for
_CLIMBS = 16
_NEAR = 0.1             # times the root of d: failures are no smoother than this, however smooth the outcome is
_GAIN = 1e-3            # of the log posterior: less is not worth a step of a fit
_EVEN = 3               # while most trials are known by how they began, every so many-th point is even
_LONG = 16              # up to so many rows every fit has four starts of its own; beyond, one beside the last fit: the mode of the prior


@part
class GPSearch(Base):
    """Where improvement is expected. Learns from running, stopped and failed trials; made for hundreds of points at once.

    `startup`: so many trials are told before the process is asked; None: 8, or one more than there are dimensions.
    `exact`: so many rows are conditioned on, all there are up to it; beyond, a subset (see `gp_history`), and the log says so. Failures
    are learned from among the newest `exact` trials.
    `warp`: whether the axis of each float and int of 16 levels or more may bend (`gp.warp`), so that a loss that is wiggly near one end
    of a range, and flat elsewhere, is one process. For ranges whose scale may be wrong; where it is right nothing is gained (docs/gp.md).

    Raises ConfigurationError for `startup` < 2, `exact` < 16 and a `warp` that is no bool, and as SobolSearch does; SpaceError as it does.
    """

    adaptive = True
    learns_from_sources = True

    def __init__(self, startup: int | None = None, exact: int = 1000, warp: bool = False) -> None:
        for name, number, least in (("startup", startup, 2), ("exact", exact, 16)):
            if number is not None and (type(number) is not int or number < least):
                raise ConfigurationError(f"{name}: a whole number of at least {least} is needed, but got {number!r}.")
        if type(warp) is not bool:
            raise ConfigurationError(f"warp: True or False is needed, but got {warp!r}.")
        self.startup = startup
        self.exact = exact
        self.warp = warp

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._sobol = SobolSearch()
        self._sobol.begin(setting)
        self._first = self.startup or max(8, len(setting.dims) + 1)
        self._kernel = kernel_of(setting, looks=setting.objectives > 1, warp=self.warp)
        self._cube = cube_of(setting, self._kernel)
        self._history = History(setting.max_t, self.exact, setting.objectives)
        self._raw: Tensor | None = None         # (k, p): of the milestones fitted so far
        self._fitted = 0
        self._weights = torch.ones(1, 1, dtype=torch.float64)
        if setting.objectives > MOST:
            drawn = -torch.log1p(-uniform(_SCALARIZATIONS, setting.objectives, 0, derive(setting.seed, "scalarizations")))
            self._weights = drawn / drawn.sum(1, keepdim=True)
        self._sources = Sources(setting, self._kernel, self._reported) if setting.sources else None
        kind = "a seeded permutation of the rows" if setting.rows is not None else "a Sobol sequence"
        first = ", but for every second one, which is of the earlier studies while one ranks the trials right" if setting.sources else ""
        self._notes = [
            f"GPSearch: until {self._first} trials are told, two of them with finite values, points are {kind}{first}; then the Gaussian "
            f"process suggests them, and {kind} again where it finds nothing untried and, while trials are stopped early, every third one"
        ]
        if self.warp and not self._kernel.warped:
            self._notes.append("GPSearch: warp=True bends floats and ints of 16 levels or more; the space has none, so nothing bends")
        if setting.objectives > MOST:
            self._notes.append(
                f"GPSearch: with {setting.objectives} objectives points are those of {_SCALARIZATIONS} weighted scalarizations in turn; "
                f"hypervolume is improved with up to {MOST}"
            )

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
        if n == 0 or d == 0:
            return self._even(n, taken, index, seed)
        if len(tried) < self._first or len(history) < 2:
            return self._early(n, tried, pending, index, seed)
        if not history.beginnings:
            return self._by_process(n, tried, pending, index, seed, index)
        theirs = torch.arange(index, index + n) % _EVEN < _EVEN - 1
        found = self._by_process(int(theirs.sum()), tried, pending, index, seed, index)
        return self._among_even(found, theirs, taken, index, seed)

    def _by_process(self, n: int, tried: Tensor, pending: Tensor, index: int, seed: int, turn: int) -> Tensor:
        """n points (n, d) of the process, or of SobolSearch where it finds no more. `turn`: whose the first one is, modulo k."""
        taken = torch.cat([tried, pending])
        self._fit()
        x, y, references = self._observed()
        k = len(y if references is None else references)
        found = pending[:0]
        for j in range(min(n, k)):
            which, share = (turn + j) % k, len(range(j, n, k))
            running, drawn = torch.cat([pending, found]), derive(seed, "gp", index, j)
            reference = None if references is None else references[which]
            with bounded(len(x)):
                processes = [self._process(one, x, y[one]) for one in ([which] if references is None else range(len(y)))]
                some = self._suggested(processes, reference, share, tried, running, taken, drawn)
            found, taken = torch.cat([found, some]), torch.cat([taken, some])
        return found if len(found) == n else torch.cat([found, self._even(n - len(found), taken, index, derive(seed, "more"))])

    # The process -----------------------------------------------------------------------------------------------------

    def _observed(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Points (n, d + 1), and `_outcomes` there."""
        rows = self._history.training_set()
        return self._history.points(rows), *self._outcomes(rows)

    def _outcomes(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor | None]:
        """(k, n): one for each process. And the reference points (2, k), if their front is searched for."""
        values = torch.tensor([row.values for row in rows], dtype=torch.float64).T
        if len(values) == 1:
            return standardized(values), None
        return in_units_of_the_front(values) if len(values) <= MOST else (scalarized(values, self._weights), None)

    def _reported(self, rows: Sequence[Row]) -> Tensor:
        """(k, n): as `_outcomes` of an earlier study's trials, whose values are what they reported, of one objective too."""
        if self.setting.objectives > 1:
            return self._outcomes(rows)[0]
        return tamed(torch.tensor([[row.values[0] for row in rows]], dtype=torch.float64))

    def _fit(self) -> None:
        """The milestones that are due, in order."""
        due = self._history.milestones
        while self._fitted < len(due):
            rows, due[self._fitted] = due[self._fitted], []
            start = None if self._raw is None else self._raw[:, None]
            restarts = 4 if len(rows) <= _LONG else 1
            x, (y, _) = self._history.points(rows), self._outcomes(rows)
            prior = searched(self._kernel) if self.setting.objectives == 1 else None
            self._raw = fit(self._kernel, x, y, prior, start=start, restarts=restarts, seed=self._fitted, gain=_GAIN).raw
            self._fitted += 1

    def _process(self, number: int, x: Tensor, y: Tensor) -> Fitted:
        assert self._raw is not None
        hyper = unpack(self._kernel, self._raw[number])
        return condition(self._kernel, x, y, hyper) if self._sources is None else self._sources.condition(number, x, y, hyper)

    def _suggested(
        self, processes: Sequence[Fitted], reference: Tensor | None, n: int, tried: Tensor, pending: Tensor, taken: Tensor, seed: int
    ) -> Tensor:
        """Up to n points (m, d) that improve one process or, up to the reference point, the front of several.

        `pending` is imagined, what is `taken` is not suggested.
        """
        generator = torch.Generator().manual_seed(seed)
        x = processes[0].x      # without a fidelity all are fully trained already
        observed = x if self._kernel.fidelity is None else trained(torch.unique(x[:, :-1], dim=0))
        aim: Aim
        if reference is None:
            aim = Improvement(processes[0], observed, pending, n, generator)
        else:
            aim = FrontImprovement(processes, reference, torch.unique(observed, dim=0), pending, n, generator)
        bonus = self._success(processes, tried)

        def score(at: Tensor) -> Tensor:
            value = aim.score(at)
            return value if bonus is None else value + bonus(at)

        if self.setting.rows is not None:       # those that are worth most, each given those before it
            left = trained(self._untaken(taken))
            few = left[best_rows(score, left, left[:0], 1 if n == 1 else enough(n))]
            return few[:, :-1] if n == 1 else few[aim.choose(few, n, bonus)][:, :-1]
        seeds = (derive(seed, "starts"), derive(seed, "even"))
        begun = starts(self._cube, _STARTS + n, aim.best, seeds[0])
        if len(begun) < _STARTS // 8:       # most of the cube is infeasible
            even = trained(self._sobol.ask(8 + n, pending=taken[:0], index=0, seed=seeds[1]))
            there = self._cube.canonical(even)      # of very many levels the nearest that a climb knows: another value, to be judged anew
            begun = torch.cat([begun, torch.where(self.setting.feasible(there[:, :-1])[:, None], there, even)])
        scale = torch.stack([scales(self._kernel, one.hyper, one.x.shape[1]) for one in processes]).amin(0)
        offered = pool(score, self._cube, begun, trained(taken), climbs=_CLIMBS, scale=scale)
        if n == 1 or not len(offered.x):
            return offered.x[:1, :-1]
        return aim.batch(self._cube, offered, trained(taken), n, bonus)[:, :-1]

    def _success(self, processes: Sequence[Fitted], tried: Tensor) -> Score | None:
        """What is added for the chance not to fail; None where nothing did."""
        failed = torch.tensor([trial in self._history.failed for trial in self._history.tried][-self.exact :])
        if not failed.any():
            return None
        everywhere = trained(tried[-self.exact :])
        shortest = torch.stack([one.hyper.lengthscale for one in processes]).amin(0)
        # Without the warp, which may take any part of a column for one place: a single failure would speak for all of it.
        plain = replace(self._kernel, warped=())
        near = processes[0].hyper._replace(lengthscale=shortest.clamp_max(_NEAR * len(self.setting.dims) ** 0.5), warp=None)
        return lambda at: deterrence(plain, near, everywhere, failed, at)

    # Beside the process ----------------------------------------------------------------------------------------------

    def _early(self, n: int, tried: Tensor, pending: Tensor, index: int, seed: int) -> Tensor:
        """The first points (n, d): even ones; every second one is the sources' while one of them ranks trials right (law 3)."""
        taken = torch.cat([tried, pending])
        theirs = torch.arange(index, index + n) % 2 == 0
        few = len({row.x for row in self._history.training_set()}) < FEWEST      # of places, as a source is weighed
        if self._sources is None or not theirs.any() or not (few or self._heard()):
            return self._even(n, taken, index, seed)
        count, turn = int(theirs.sum()), (index + 1) // 2       # of even indices the turn is half
        if few:
            found = self._champions(count, taken, index, seed, turn)
        else:
            found = self._by_process(count, tried, pending, index, seed, turn)
        return self._among_even(found, theirs, taken, index, seed)

    def _among_even(self, found: Tensor, theirs: Tensor, taken: Tensor, index: int, seed: int) -> Tensor:
        """(n, d): what was found at the places of `theirs` (n,) bool, even points at the others and where nothing was found."""
        n = len(theirs)
        if self.setting.rows is not None:
            return torch.cat([found, self._even(n - len(found), torch.cat([taken, found]), index, seed)])
        even = self._even(n, taken, index, seed)
        even[theirs.nonzero()[: len(found), 0]] = found
        return even

    def _heard(self) -> bool:
        """Whether a source has weight."""
        self._fit()
        x, y, _ = self._observed()
        with bounded(len(x)):
            return any(self._process(which, x, told).trend is not None for which, told in enumerate(y))

    def _champions(self, n: int, taken: Tensor, index: int, seed: int, turn: int) -> Tensor:
        """Up to n points (m, d) where sources were best."""
        assert self._sources is not None
        told = self._observed()[:2] if len(self._history) > 1 else None
        found = self._sources.champions(turn, n, taken, self._even(n, taken, index, seed), told)
        if self.setting.rows is None:
            found = self._cube.canonical(trained(found))[:, :-1]
            return found[self.setting.feasible(found)]
        left = self._untaken(taken)
        nearest: list[int] = []
        for far in torch.cdist(found, left):
            far[nearest] = torch.inf
            nearest.append(int(far.argmin()))
        return left[nearest]

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

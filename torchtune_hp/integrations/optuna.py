"""Our Gaussian process as an Optuna sampler.

    import optuna
    from torchtune_hp.integrations.optuna import GPSampler

    study = optuna.create_study(sampler=GPSampler(seed=0))

Beyond Optuna's own GPSampler it learns from pruned trials (each intermediate value is a look at a share of the largest step
reported so far), from failed ones (where trials fail is suggested less), and from what runs in parallel, in any number of
objectives. As for every relative sampler of Optuna, what is suggested together is what all finished trials have in common; other
parameters, and the first trial, are drawn at random.

Laws, beside those of Optuna's own suite for samplers (optuna.testing.pytest_samplers, run in our tests):
1. What is learned is a function of the trials in the study's storage alone, in the order in which they ended (by the storage's clock);
   what was told before is kept, never told twice.
2. The value of a finished trial is the one it ended with: an intermediate value of it that is better counts as no better.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

try:
    import optuna
except ImportError as error:
    raise ImportError("torchtune_hp.integrations.optuna needs Optuna: pip install 'torchtune-hp[optuna]'") from error
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..searchers import GPSearch
from ..seeds import derive
from ..space import Space, choice, lograndint, loguniform, randint, uniform
from ..space.domains import Domain
from .suggester import Suggester

_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class GPSampler(optuna.samplers.BaseSampler):  # type: ignore[misc]
    """Suggests by `GPSearch`. `startup`, `exact`, `warp`: its arguments. `seed`: of everything drawn; None: a fresh one.

    A copy, or one that was pickled, learns from the storage anew and suggests the same.

    Raises ConfigurationError as GPSearch does. Where a trial is first suggested from it, SpaceError for a range that cannot be searched:
    integers of more than 2**40 values, or with log beyond 2**45; floats closer together than 1e-12 of their size (with log 1e-9), or
    not 1e-100 to 1e100 in size.
    """

    def __init__(self, *, startup: int | None = None, exact: int = 1000, warp: bool = False, seed: int | None = None) -> None:
        GPSearch(startup, exact, warp)          # its errors, now
        self._startup, self._exact, self._warp = startup, exact, warp
        self._seed = secrets.randbits(63) if seed is None else seed
        self._independent = optuna.samplers.RandomSampler(seed=derive(self._seed, "independent") % 2**32)
        self._common = IntersectionSearchSpace(include_pruned=True)
        self._learned: WeakKeyDictionary[Study, _Learned] = WeakKeyDictionary()
        self._lock = Lock()

    def reseed_rng(self) -> None:
        """Optuna calls this before every trial of a study with n_jobs > 1: what is drawn at random must not be the same in each.

        What the process suggests differs by the trial's number, so its seed, and all that was learned, is kept.
        """
        self._independent.reseed_rng()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_learned", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._learned, self._lock = WeakKeyDictionary(), Lock()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: found for name, found in self._common.calculate(study).items() if not found.single()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """A value for every name of the search space."""
        searched = {name: found for name, found in search_space.items() if not found.single()}
        values = {name: _outer(found, _only(found)) for name, found in search_space.items() if found.single()}
        if searched:
            with self._lock:
                values |= self._suggested(study, trial, searched)
        return {name: values[name] for name in search_space}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._independent.after_trial(study, trial, state, values)

    def _suggested(self, study: Study, trial: FrozenTrial, searched: dict[str, BaseDistribution]) -> dict[str, Any]:
        trials = study.get_trials(deepcopy=False, states=(*_OVER, TrialState.RUNNING))
        looks = any(past.intermediate_values for past in trials if past.state in _OVER)
        learned = self._learned.get(study)
        if learned is None or not learned.is_of(searched, looks, self._seed):
            searcher = GPSearch(self._startup, self._exact, self._warp)
            learned = self._learned[study] = _Learned(searcher, searched, study.directions, looks=looks, seed=self._seed)
        over = [past for past in trials if past.state in _OVER]
        learned.tell(sorted(over, key=lambda past: (past.datetime_complete, past.number)))
        return learned.ask(trial, [other for other in trials if other.state == TrialState.RUNNING and other.number != trial.number])


class _Learned:
    """What one search space of one study has taught so far."""

    def __init__(
        self, searcher: GPSearch, searched: Mapping[str, BaseDistribution], directions: Sequence[StudyDirection], *, looks: bool, seed: int
    ) -> None:
        self._key = (dict(searched), looks, seed)
        self._searched = self._key[0]
        self._signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
        space = Space({name: _domain(found) for name, found in searched.items()})
        self._suggester = Suggester(searcher, space, len(directions), looks=looks, seed=seed)
        self._told: set[int] = set()

    def is_of(self, searched: Mapping[str, BaseDistribution], looks: bool, seed: int) -> bool:
        return self._key == (searched, looks, seed)

    def tell(self, trials: Sequence[FrozenTrial]) -> None:
        for trial in trials:
            if trial.number in self._told:
                continue
            self._told.add(trial.number)
            x = self._point(trial)
            if x is not None:
                failed = trial.state == TrialState.FAIL
                self._suggester.tell(trial.number, x, self._looks(trial), ended=trial.state == TrialState.COMPLETE, failed=failed)

    def ask(self, trial: FrozenTrial, running: Sequence[FrozenTrial]) -> dict[str, Any]:
        points = [x for other in running if (x := self._point(other)) is not None]
        config = self._suggester.ask(points, trial.number)
        return {name: _outer(found, config[name]) for name, found in self._searched.items()}

    def _point(self, trial: FrozenTrial) -> tuple[float, ...] | None:
        """None where a parameter is missing, was searched within other bounds, or was set to what is not within them."""
        params, found = trial.params, trial.distributions
        if any(name not in params or found[name] != wanted for name, wanted in self._searched.items()):
            return None
        return self._suggester.point({name: _inner(wanted, params[name]) for name, wanted in self._searched.items()})

    def _looks(self, trial: FrozenTrial) -> list[tuple[int, list[float]]]:
        """Steps of Optuna count from 0 or from 1; ours are one more."""
        seen = sorted((step + 1, value) for step, value in trial.intermediate_values.items() if not math.isnan(value))
        if trial.state != TrialState.COMPLETE:
            return [(step, [self._signs[0] * value]) for step, value in seen]
        final = [sign * value for sign, value in zip(self._signs, trial.values)]
        looks = [(step, [max(self._signs[0] * value, final[0])]) for step, value in seen]
        return [*looks, (looks[-1][0] if looks else 1, final)]


# Distributions as domains: what is stepped or listed is searched by its number ------------------------------------------------


def _domain(found: BaseDistribution) -> Domain:
    if isinstance(found, CategoricalDistribution):
        return choice(range(len(found.choices)))
    assert isinstance(found, (FloatDistribution, IntDistribution))
    if isinstance(found, FloatDistribution) and found.step is None:
        return loguniform(found.low, found.high) if found.log else uniform(found.low, found.high)
    if found.log:
        return lograndint(int(found.low), int(found.high) + 1)
    assert found.step is not None
    return randint(0, round((found.high - found.low) / found.step) + 1)


def _inner(found: BaseDistribution, value: Any) -> Any:
    """Optuna's value as the domain's."""
    if isinstance(found, CategoricalDistribution):
        return int(found.to_internal_repr(value))
    assert isinstance(found, (FloatDistribution, IntDistribution))
    if found.log or found.step is None:
        return value
    return round((value - found.low) / found.step)


def _outer(found: BaseDistribution, value: Any) -> Any:
    """The domain's value as Optuna's."""
    if isinstance(found, CategoricalDistribution):
        return found.choices[value]
    assert isinstance(found, (FloatDistribution, IntDistribution))
    if found.log or found.step is None:
        return value
    return min(found.low + value * found.step, found.high)


def _only(found: BaseDistribution) -> Any:
    """The domain's value of a distribution with one."""
    if isinstance(found, (FloatDistribution, IntDistribution)) and (found.log or found.step is None):
        return found.low
    return 0

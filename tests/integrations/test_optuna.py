"""GPSampler in Optuna: its own suite for samplers, and what it learns from."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest

optuna = pytest.importorskip("optuna")
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase  # noqa: E402

from torchtune_hp.errors import ConfigurationError, SpaceError  # noqa: E402
from torchtune_hp.integrations.optuna import GPSampler  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TestOptunasOwnSuite(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], Any]:
        return lambda: GPSampler(startup=2, seed=0)


def bowl(trial: Any) -> float:
    x, y = trial.suggest_float("x", -5.0, 5.0), trial.suggest_float("y", 1e-4, 1.0, log=True)
    layers, kind = trial.suggest_int("layers", 1, 9, step=2), trial.suggest_categorical("kind", ["a", "b"])
    return (x - 1) ** 2 + (math.log10(y) + 2) ** 2 + 0.1 * (layers - 5) ** 2 + (kind == "a")


def test_it_finds_a_minimum_that_random_search_does_not() -> None:
    """Slow: 27 suggestions, one by one."""
    best = {}
    for name, sampler in {"gp": GPSampler(seed=1), "random": optuna.samplers.RandomSampler(seed=1)}.items():
        study = optuna.create_study(sampler=sampler)
        study.optimize(bowl, n_trials=35)
        best[name] = study.best_value
    assert best["gp"] < 0.1 < best["random"]


def test_same_seed_same_study() -> None:
    def params() -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=GPSampler(seed=3), direction="maximize")
        study.optimize(lambda trial: -bowl(trial), n_trials=14)
        return [trial.params for trial in study.trials]

    assert params() == params()


def test_a_study_that_goes_on_with_a_new_sampler_suggests_what_the_old_one_would_have() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(sampler=GPSampler(seed=3), storage=storage, study_name="s")
    study.optimize(bowl, n_trials=12)
    space = study.sampler.infer_relative_search_space(study, study.trials[-1])
    again = optuna.load_study(sampler=GPSampler(seed=3), storage=storage, study_name="s")
    trial = study.ask()._trial_id
    frozen = storage.get_trial(trial)
    assert study.sampler.sample_relative(study, frozen, space) == again.sampler.sample_relative(again, frozen, space)


def next_of(study: Any) -> dict[str, Any]:
    """What is suggested for the next trial, which is begun."""
    frozen = study._storage.get_trial(study.ask()._trial_id)
    return dict(study.sampler.sample_relative(study, frozen, study.sampler.infer_relative_search_space(study, frozen)))


def test_reseeding_for_the_next_trial_of_several_jobs_keeps_the_seed_and_what_was_learned() -> None:
    def grown() -> Any:
        study = optuna.create_study(sampler=GPSampler(seed=3))
        study.optimize(bowl, n_trials=10)
        return study

    study, other = grown(), grown()
    next_of(study), next_of(other)
    learned = study.sampler._learned[study]
    study.sampler.reseed_rng()
    assert next_of(study) == next_of(other) and study.sampler._learned[study] is learned


def test_trials_that_end_out_of_order_teach_a_new_sampler_what_they_taught_the_old_one() -> None:
    study = optuna.create_study(sampler=GPSampler(startup=2, seed=3))
    x = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    trials = [study.ask(x) for _ in range(7)]
    for k in (6, 0, 3, 1, 5, 2):
        study.tell(trials[k], (trials[k].params["x"] - 0.3) ** 2)
        last = study._storage.get_trial(study.ask()._trial_id)
        by_old = study.sampler.sample_relative(study, last, x)
    assert GPSampler(startup=2, seed=3).sample_relative(study, last, x) == by_old


def test_a_pickled_or_copied_sampler_suggests_what_the_first_would_have() -> None:
    study = optuna.create_study(sampler=GPSampler(startup=2, seed=3))
    study.optimize(bowl, n_trials=6)
    frozen = study._storage.get_trial(study.ask()._trial_id)
    space = study.sampler.infer_relative_search_space(study, frozen)
    some = [pickle.loads(pickle.dumps(study.sampler)), copy.deepcopy(study.sampler), study.sampler]
    first, second, third = (sampler.sample_relative(study, frozen, space) for sampler in some)
    assert first == second == third


def test_a_range_that_cannot_be_searched_is_refused_by_name() -> None:
    for found in (
        optuna.distributions.FloatDistribution(1.0, 1.0 + 1e-13), optuna.distributions.FloatDistribution(1e-150, 1.0, log=True),
        optuna.distributions.FloatDistribution(-1e200, 1e200), optuna.distributions.IntDistribution(0, 2**41),
    ):  # fmt: skip
        study = optuna.create_study(sampler=GPSampler(startup=2, seed=0))
        trial = study.ask({"width": found})
        study.tell(trial, 0.0)
        with pytest.raises(SpaceError, match="^width: "):
            study.ask({"width": found})


def ended(x: float, value: float | None, seen: dict[int, float], state: Any) -> Any:
    space = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    return optuna.trial.create_trial(state=state, params={"x": x}, distributions=space, value=value, intermediate_values=seen)


def suggested(*trials: Any, direction: str = "minimize") -> float:
    study = optuna.create_study(sampler=GPSampler(startup=2, seed=0), direction=direction)
    study.add_trials(trials)
    return float(study.ask().suggest_float("x", 0.0, 1.0))


def test_pruned_trials_teach_by_what_they_reported() -> None:
    """All that ended well says nothing of where to go; the pruned ones say that the left is better."""
    complete, pruned = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
    curves = [ended(x, None, {0: 4 * x, 1: 2 * x, 2: x}, pruned) for x in (0.1, 0.35, 0.6, 0.85)]
    level = [ended(0.5, 0.5, {0: 2.0, 1: 1.0, 2: 0.5, 3: 0.5}, complete), ended(0.7, 0.7, {0: 2.8, 1: 1.4, 2: 0.7, 3: 0.7}, complete)]
    assert suggested(*curves, *level) < 0.35
    up = [ended(x, None, {0: 4 * x, 1: 2 * x, 2: x}, pruned) for x in (0.1, 0.35, 0.6, 0.85)]
    assert suggested(*up, *level, direction="maximize") > 0.6


def test_a_finished_trial_is_worth_what_it_ended_with() -> None:
    from torchtune_hp.integrations.optuna import _Learned
    from torchtune_hp.searchers import GPSearch

    space = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    learned = _Learned(GPSearch(), space, [optuna.study.StudyDirection.MAXIMIZE], looks=True, seed=0)
    complete = ended(0.5, 0.7, {0: 0.2, 3: 0.9, 5: math.nan}, optuna.trial.TrialState.COMPLETE)
    assert learned._looks(complete) == [(1, [-0.2]), (4, [-0.7]), (4, [-0.7])]
    pruned = ended(0.5, None, {3: 0.9, 0: 0.2}, optuna.trial.TrialState.PRUNED)
    assert learned._looks(pruned) == [(1, [-0.2]), (4, [-0.9])]


def test_a_trial_that_recovered_from_an_infinite_value_has_not_failed() -> None:
    complete = optuna.trial.TrialState.COMPLETE
    left = [ended(x, 1 - x, {1: 1 - x}, complete) for x in (0.05, 0.2, 0.35)]
    unseen, wild = ([ended(x, 1 - x, {**first, 1: 1 - x}, complete) for x in (0.5, 0.65, 0.8)] for first in ({}, {0: math.inf}))
    assert suggested(*left, *unseen) == suggested(*left, *wild) > 0.8


def test_where_trials_fail_is_suggested_less() -> None:
    complete, fail = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL
    level = [ended(x, 1 - x, {}, complete) for x in (0.05, 0.15, 0.25, 0.35, 0.45, 0.55)]      # better to the right, where all fail
    failed = [ended(x, None, {}, fail) for x in (0.62, 0.66, 0.7, 0.74, 0.78, 0.82, 0.86, 0.9, 0.94, 0.98)]
    assert suggested(*level) > 0.6
    assert suggested(*level, *failed) < 0.62


def test_running_trials_are_kept_away_from() -> None:
    study = optuna.create_study(sampler=GPSampler(startup=2, seed=0))
    study.add_trials([ended(x, (x - 0.4) ** 2, {}, optuna.trial.TrialState.COMPLETE) for x in (0.0, 0.2, 0.6, 1.0)])
    several = [study.ask().suggest_float("x", 0.0, 1.0) for _ in range(5)]
    assert len({round(x, 3) for x in several}) == 5


def test_a_value_from_other_bounds_is_no_observation_and_enqueued_trials_are() -> None:
    complete, within = optuna.trial.TrialState.COMPLETE, optuna.distributions.FloatDistribution(0.0, 1.0)
    study = optuna.create_study(sampler=GPSampler(startup=2, seed=0))
    study.enqueue_trial({"x": 0.6})
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0) - 0.6, n_trials=1)
    assert study.trials[0].params == {"x": 0.6}

    def suggested_with(one: Any) -> Any:
        study = optuna.create_study(sampler=GPSampler(startup=2, seed=0))
        study.add_trials([one, *(ended(x, (x - 0.6) ** 2, {}, complete) for x in (0.1, 0.4, 0.9))])
        frozen = study._storage.get_trial(study.ask()._trial_id)
        return study.sampler.sample_relative(study, frozen, {"x": within})

    def elsewhere(x: float, value: float) -> Any:
        wide = {"x": optuna.distributions.FloatDistribution(0.0, 9.0)}
        return optuna.trial.create_trial(state=complete, params={"x": x}, distributions=wide, value=value)

    assert suggested_with(elsewhere(0.6, 0.0)) == suggested_with(elsewhere(0.2, 7.0)) != suggested_with(study.trials[0])
    assert suggested_with(study.trials[0]) == suggested_with(ended(0.6, 0.0, {}, complete))


def test_wrong_arguments_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="startup"):
        GPSampler(startup=1)
    with pytest.raises(ConfigurationError, match="warp: True or False"):
        GPSampler(warp=1)


def test_the_axes_of_a_warped_sampler_bend() -> None:
    found = []
    for warp in (False, True):
        study = optuna.create_study(sampler=GPSampler(startup=6, warp=warp, seed=0))
        study.optimize(lambda trial: (trial.suggest_float("x", 0.0, 1.0) ** 0.2 - 0.4) ** 2, n_trials=8)
        found.append([trial.params["x"] for trial in study.trials])
    assert found[0][:6] == found[1][:6] and found[0][6:] != found[1][6:]

"""GPSearch in Ray Tune: real studies, and what it learns from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

ray = pytest.importorskip("ray")
pytest.importorskip("ray.tune")
from ray import tune  # noqa: E402

import torchtune_hp as hp  # noqa: E402
from torchtune_hp.errors import ConfigurationError, SpaceError  # noqa: E402
from torchtune_hp.integrations.ray_tune import GPSearch, translated  # noqa: E402

SPACE = {"lr": tune.loguniform(1e-4, 1e-1), "net": {"width": tune.randint(4, 17), "act": tune.choice(["relu", "tanh"])}, "fixed": 7}


def loss(config: dict[str, Any]) -> float:
    return (math.log10(config["lr"]) + 2) ** 2 + 0.05 * (config["net"]["width"] - 9) ** 2 + (config["net"]["act"] == "tanh")


def train(config: dict[str, Any]) -> None:
    assert config["fixed"] == 7
    for step in range(1, 5):
        tune.report({"loss": loss(config) + 1.0 / step})


@pytest.fixture(scope="module")
def cluster() -> Any:
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_real_study_of_ray_tune_runs_with_early_stopping(cluster: Any, tmp_path: Path) -> None:
    search = GPSearch(startup=4, seed=1)
    found = tune.Tuner(
        train, param_space=SPACE,
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", num_samples=6, max_concurrent_trials=2, search_alg=search,
            scheduler=tune.schedulers.ASHAScheduler(max_t=4, grace_period=1, reduction_factor=2),
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()  # fmt: skip
    assert len(found) == 6 and not found.errors
    told = {number: (looks, ended, failed) for number, _, looks, ended, failed in search._told}
    assert sorted(told) == list(range(6)) and not search._running
    for result in found:
        looks, ended, failed = told[search._numbers[result.metrics["trial_id"]]]
        assert looks[-1] == [result.metrics["training_iteration"], result.metrics["loss"]]
        assert not ended and not failed         # ASHA stopped them all: at max_t, or before


def driven(search: GPSearch, trials: int, first: int = 0) -> list[float]:
    """A study of one step a trial, without a cluster: the losses."""
    losses = []
    for k in range(first, first + trials):
        config = search.suggest(f"t{k}")
        losses.append(loss(config))
        search.on_trial_complete(f"t{k}", {"loss": losses[-1], "training_iteration": 1, "done": True})
    return losses


def ready(**words: Any) -> GPSearch:
    search = GPSearch(**words)
    assert search.set_search_properties("loss", "min", SPACE)
    return search


def test_it_finds_a_minimum_that_random_search_does_not() -> None:
    space = hp.Space(translated(SPACE))
    drawn = space.decode(torch.rand(24, len(space), dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    assert min(driven(ready(startup=6, seed=0), 24)) < 0.01 < min(map(loss, drawn))


def test_a_restored_search_suggests_what_the_saved_one_would_have(tmp_path: Path) -> None:
    search = ready(startup=4, warp=True, seed=2)
    driven(search, 7)
    search.suggest("running")
    search.on_trial_result("running", {"loss": 3.0, "training_iteration": 1})
    search.save(str(tmp_path / "state"))
    json.loads((tmp_path / "state").read_text())
    for other in (GPSearch(startup=4, warp=True), ready(startup=4, warp=True)):
        other.restore(str(tmp_path / "state"))
        assert other._seen == search._seen and other._running == search._running
        assert other.suggest("next") == search.suggest("next")
        search.on_trial_complete("next")        # it never began: nothing is told
    with pytest.raises(ConfigurationError, match="was saved for"):
        GPSearch({"x": hp.uniform(0.0, 1.0)}).restore(str(tmp_path / "state"))


def test_a_restored_search_has_the_arguments_of_the_saved_one(tmp_path: Path) -> None:
    search = ready(startup=2, exact=16, warp=True, seed=2)
    driven(search, 4)
    search.save(str(tmp_path / "state"))
    following = search.suggest("next")
    for other in (GPSearch(), ready()):
        other.restore(str(tmp_path / "state"))
        assert other.suggest("next") == following


def test_a_result_that_recovered_is_no_failure_and_the_last_one_is() -> None:
    def after(first: float, last: float) -> Any:
        search = ready(startup=2, seed=0)
        driven(search, 3)
        search.suggest("one")
        search.on_trial_result("one", {"loss": first, "training_iteration": 1})
        search.on_trial_result("one", {"loss": last, "training_iteration": 2})
        search.on_trial_complete("one", {"loss": last, "training_iteration": 2})
        return search._process._history.failed

    assert after(math.nan, 3.0) == after(9.0, 3.0) == set() and after(3.0, math.nan) == {3}


CALLED: list[Any] = []


def noted(value: Any) -> Any:
    CALLED.append(value)
    return value


def test_restoring_calls_no_function_that_the_file_names(tmp_path: Path) -> None:
    space = hp.Space({"x": hp.mapped(hp.uniform(0.0, 1.0), noted, noted)})
    search = GPSearch(space, "loss", "min")
    search.save(str(tmp_path / "state"))
    CALLED.clear()
    with pytest.raises(SpaceError, match=r"it holds mapped, .* Pass space= again"):
        GPSearch().restore(str(tmp_path / "state"))
    assert CALLED == []
    GPSearch(space, "loss", "min").restore(str(tmp_path / "state"))


def test_maximized_metrics_failures_and_nan_are_told_in_our_signs() -> None:
    search = GPSearch({"x": hp.uniform(0.0, 1.0)}, metric="accuracy", mode="max")
    for name in ("a", "b", "c"):
        search.suggest(name)
    search.on_trial_result("a", {"accuracy": 0.5, "training_iteration": 3})
    search.on_trial_complete("a", {"accuracy": 0.5, "training_iteration": 3, "done": True})     # ended by itself
    search.on_trial_complete("b", error=True)
    search.on_trial_complete("c", {"accuracy": math.nan, "training_iteration": 2})
    search.on_trial_complete("c", {"accuracy": 0.9, "training_iteration": 2})      # heard twice, and not of ours:
    search.on_trial_complete("nobody", error=True)
    search.add_evaluated_point({"x": 0.5}, 0.8, intermediate_values=[0.1, 0.3])
    assert [(looks, ended, failed) for _, _, looks, ended, failed in search._told] == [
        ([[3, -0.5]], True, False), ([], False, True), ([[2, math.inf]], False, False), ([[1, -0.1], [2, -0.3], [2, -0.8]], True, False),
    ]  # fmt: skip


def test_rays_domains_are_ours() -> None:
    found = translated({
        "a": tune.uniform(0, 1), "b": tune.quniform(0, 1, 0.25), "c": tune.loguniform(1e-3, 1), "d": tune.qloguniform(0.1, 1, 0.1),
        "e": tune.randn(1.0, 2.0), "f": tune.qrandn(0.0, 1.0, 0.5), "g": tune.randint(0, 5), "h": tune.qrandint(0, 10, 5),
        "i": tune.lograndint(1, 9), "j": tune.qlograndint(2, 8, 2), "k": {"l": tune.choice([1, 2])}, "m": "constant",
    })  # fmt: skip
    assert repr(found) == repr({
        "a": hp.uniform(0, 1), "b": hp.quniform(0, 1, 0.25), "c": hp.loguniform(1e-3, 1), "d": hp.qloguniform(0.1, 1, 0.1),
        "e": hp.randn(1.0, 2.0), "f": hp.qrandn(0.0, 1.0, 0.5), "g": hp.randint(0, 5), "h": hp.qrandint(0, 10, 5),
        "i": hp.lograndint(1, 9), "j": hp.qlograndint(2, 8, 2), "k": {"l": hp.choice([1, 2])}, "m": "constant",
    })  # fmt: skip


@pytest.mark.parametrize(
    "config, said",
    [
        ({"net": {"x": tune.grid_search([1, 2])}}, r"net\.x: a grid .* tune\.choice\(\[1, 2\]\)"),
        ({"x": tune.sample_from(lambda spec: 3)}, "x: sample_from cannot be searched"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(config: dict[str, Any], said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        GPSearch().set_search_properties("loss", "min", config)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigurationError, match="metric=None, mode=None and no space"):
        GPSearch().suggest("a")
    search = GPSearch({"x": hp.uniform(0.0, 1.0)}, metric="loss", mode="min")
    assert not search.set_search_properties(None, None, SPACE)
    with pytest.raises(SpaceError, match="is not in"):
        search.add_evaluated_point({"x": 3.0}, 0.1)

"""Results: the best, the front and the rest, read from the journal alone."""

from __future__ import annotations

import builtins
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from torchtune_hp.configs import whole_config
from torchtune_hp.errors import CheckpointError, ConfigurationError, SeveralObjectivesError, StudyNotFoundError, TorchtuneError
from torchtune_hp.journal import Journal
from torchtune_hp.journal_text import from_json, to_json
from torchtune_hp.result import flat, front, line_of
from torchtune_hp.results import Results
from torchtune_hp.space import Space, choice, uniform
from torchtune_hp.testing.journal_suite import HEADER, trial
from torchtune_hp.training.runner import Place
from torchtune_hp.trial import Drop, Failed, Launch, Limits, Note, Reached, Train, Trial
from torchtune_hp.vault import Vault

NAN, INF = math.nan, math.inf
ONE = Limits(9)
BOTH: dict[str, Any] = {"metric": ["a", "b"], "mode": ["min", "max"], "outcome_constraints": []}


def study(looks: list[list[tuple[Any, ...]]], trials: int = 4, folder: Path | None = None, **header: Any) -> Journal:
    """A journal with a turn for each list of (trial, step, loss or metrics, done)."""
    journal = Journal.create(folder, HEADER | header)
    journal.append((), ONE, [Launch(trial(id), 1) for id in range(trials)])
    for number, turn in enumerate(looks, 1):
        events = [
            Reached(id, step, metrics if isinstance(metrics, dict) else {"loss": metrics}, number * 10.0, bool(done))
            for id, step, metrics, *done in turn
        ]
        journal.append(events, ONE, [])
    return journal


class Recipe:
    """Gives back what it was given."""

    saves, name, ends = True, "recipe", True
    max_t: int | None = None

    def start(self, trial: Trial, place: Place, state: Any = None, step: int = 0) -> Any:
        raise NotImplementedError

    def restore(self, trial: Trial, place: Place, state: Any, step: int) -> Any:
        return trial, trial.config, place, state, step

    def test(self, trial: Trial, place: Place, state: Any, step: int) -> dict[str, Any]:
        return {"trial": trial.id, **state, "step": step}


# The best -----------------------------------------------------------------------------------------------------------------


def test_the_best_is_the_best_report_and_of_equals_the_earliest() -> None:
    results = Results(study([[(2, 1, 0.5), (1, 1, 0.5)], [(0, 1, 0.5), (1, 2, 0.7)], [(3, 1, 0.5)]]))
    assert (results.best.trial, results.best.step, results.best.metrics["loss"]) == (1, 1, 0.5)
    assert [(result.trial, result.step) for result in results.top(9)] == [(1, 1), (2, 1), (0, 1), (3, 1)]
    assert [result.trial for result in results.top(2)] == [1, 2]
    assert results.top(0) == []


def test_top_names_each_trial_once_with_its_best_report() -> None:
    results = Results(study([[(0, 1, 0.1), (1, 1, 0.3)], [(0, 2, 0.2), (1, 2, 0.25)]]))
    assert [(result.trial, result.step) for result in results.top(2)] == [(0, 1), (1, 2)]


def test_the_direction_is_the_users() -> None:
    results = Results(study([[(0, 1, 0.1), (1, 1, 0.3), (2, 1, INF)]], mode="max"))
    assert results.best.trial == 1


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 1e30, 1e31])
def test_what_is_not_finite_is_never_best(bad: float) -> None:
    assert Results(study([[(0, 1, bad)], [(1, 1, 5.0)]])).best.trial == 1
    message = r"finite 'loss' within the constraints, but none was reported yet \(trials: \{'resting': 1, 'running': 3\}\)\."
    with pytest.raises(TorchtuneError, match=message):
        _ = Results(study([[(0, 1, bad)]])).best


def test_what_violates_a_constraint_is_never_best() -> None:
    looks = [[(0, 1, {"loss": 0.1, "params": 11}), (1, 1, {"loss": 0.2, "params": 10}), (2, 1, {"loss": 0.0})]]
    results = Results(study(looks, outcome_constraints=["params <= 10"]))
    assert [result.trial for result in results.top(9)] == [1]
    assert results.get_best_result("params", "max").trial == 1


def test_a_study_without_reports_has_no_best_and_names_its_first_failure() -> None:
    journal = study([])
    journal.append([Failed(2, 1, "error", "Traceback (most recent call last):\n  x\nValueError: no", 1.0)], ONE, [Drop(2)])
    with pytest.raises(TorchtuneError, match="The first failure: ValueError: no"):
        _ = Results(journal).best


def test_the_best_of_several_objectives_is_refused_and_names_the_front() -> None:
    results = Results(study([[(0, 1, {"a": 1.0, "b": 1.0})]], **BOTH))
    for ask in (lambda: results.best, lambda: results.top(1), lambda: results.get_best_result()):
        with pytest.raises(SeveralObjectivesError, match=r"results\.pareto"):
            ask()
    assert results.get_best_result("b").trial == 0


def test_the_best_by_another_metric_and_by_last_reports() -> None:
    looks = [
        [(0, 1, {"loss": 0.1, "acc": 0.2}), (1, 1, {"loss": 0.9, "acc": 0.1})],
        [(1, 2, {"loss": 0.2, "acc": 0.9}), (0, 2, {"loss": 0.5, "acc": 0.9})],
        [(1, 3, {"loss": 0.4, "acc": 0.3}), (2, 1, {"loss": NAN, "acc": NAN})],
    ]
    results = Results(study(looks))

    def found(*arguments: Any, **keywords: Any) -> tuple[int, int | None]:
        result = results.get_best_result(*arguments, **keywords)
        return result.trial, result.step

    assert found() == found("loss", "min") == (0, 1)
    assert found("loss", "max") == (1, 1)
    assert found("acc", "max") == (0, 2)
    assert found("acc", "min") == (1, 1)
    assert found(scope="last") == (1, 3)
    assert found("acc", "max", scope="last") == (0, 2)
    with pytest.raises(ConfigurationError, match='mode: "min" or "max" is needed for \'acc\''):
        results.get_best_result("acc")
    with pytest.raises(ConfigurationError, match="scope: must be"):
        results.get_best_result(scope="all")  # type: ignore[arg-type]
    with pytest.raises(TorchtuneError, match="finite 'nope'"):
        results.get_best_result("nope", "min")


# The front ----------------------------------------------------------------------------------------------------------------

SMALL = st.integers(0, 4).map(float)


@given(st.integers(1, 4).flatmap(lambda m: st.lists(st.tuples(*[SMALL] * m), max_size=25)))
@settings(max_examples=150, deadline=None)
def test_the_front_is_what_brute_force_says(values: list[tuple[float, ...]]) -> None:
    points = [(value, 0, number, number, 1) for number, value in enumerate(values)]

    def dominated(value: tuple[float, ...]) -> bool:
        return any(other != value and all(a <= b for a, b in zip(other, value)) for other in values)

    assert list(front(points)) == sorted(point for point in points if not dominated(point[0]))


def test_the_front_names_each_trial_once_with_the_kept_report_or_the_earliest() -> None:
    looks = [
        [(0, 1, {"a": 1.0, "b": 1.0}), (1, 1, {"a": 2.0, "b": 5.0}), (2, 1, {"a": 3.0, "b": 4.0}), (3, 1, {"a": NAN, "b": 9.0})],
        [(0, 2, {"a": 0.5, "b": 0.5}), (1, 2, {"a": 3.0, "b": 6.0}), (3, 2, {"a": 0.0, "b": INF})],
    ]
    journal = study(looks, **BOTH)
    results = Results(journal)
    assert [(result.trial, result.step) for result in results.pareto] == [(0, 1), (1, 1)]
    journal.add_checkpoint(0, 2, "keep", "a", 1, "", "state")
    journal.add_checkpoint(1, 2, "resume", "b", 1, "", "state")
    assert [(result.trial, result.step) for result in results.pareto] == [(0, 2), (1, 1)]
    assert [(result.trial, result.step) for result in results] == [(0, 2), (1, 2), (2, 1), (3, 2)]


def test_the_hypervolume_grows_with_each_report_that_adds_to_the_front() -> None:
    looks = [
        [(0, 1, {"a": 1.0, "b": 1.0}), (1, 1, {"a": NAN, "b": 9.0})],
        [(2, 1, {"a": 2.0, "b": 2.0}), (0, 2, {"a": 1.5, "b": 0.5})],       # the last is dominated
        [(3, 1, {"a": 9.0, "b": 9.0}), (2, 2, {"a": 0.0, "b": 3.0})],       # beyond the reference; then one that dominates all
    ]
    results = Results(study(looks, **BOTH))
    assert results.hypervolume((4, 0)) == [(0, 1, 10.0, 1, 3.0), (2, 1, 20.0, 3, 5.0), (2, 2, 30.0, 4, 12.0)]
    assert results.hypervolume((4, 0))[-1].hypervolume == 12.0
    assert results.hypervolume((0, 9)) == []


def test_the_reference_of_a_hypervolume_is_found_behind_the_front() -> None:
    looks = [[(0, 1, {"a": 0.0, "b": 0.0}), (1, 1, {"a": 10.0, "b": 20.0}), (2, 1, {"a": 99.0, "b": -99.0})]]
    results = Results(study(looks, **BOTH))
    assert results.hypervolume() == results.hypervolume((11, -2))
    assert results.hypervolume()[-1].hypervolume == pytest.approx(11 * 2 + 1 * 20)
    assert Results(study([], **BOTH)).hypervolume() == Results(study([[(0, 1, {"a": NAN, "b": 1})]], **BOTH)).hypervolume() == []


def test_a_report_that_violates_a_constraint_adds_nothing_to_the_hypervolume() -> None:
    looks = [[(0, 1, {"a": 1.0, "b": 1.0, "c": 5.0}), (1, 1, {"a": 0.5, "b": 1.0, "c": 0.0})]]
    results = Results(study(looks, **BOTH | {"outcome_constraints": ["c <= 1"]}))
    assert [row.trial for row in results.hypervolume((2.0, 0.0))] == [1]


@pytest.mark.parametrize("reference", [(1.0,), (1.0, 2.0, 3.0), (1.0, NAN), (1.0, INF), (1.0, "2"), 3, (1.0, True), "ab"])
def test_a_reference_is_one_finite_number_for_each_metric(reference: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"reference: one finite number for each of \['a', 'b'\]"):
        Results(study([], **BOTH)).hypervolume(reference)


def test_the_front_of_one_objective_is_the_best_and_its_equals() -> None:
    results = Results(study([[(0, 1, 0.5), (1, 1, 0.2)], [(2, 1, 0.2), (1, 2, 0.2, True)]]))
    assert [(result.trial, result.step) for result in results.pareto] == [(1, 1), (2, 1)]
    assert Results(study([])).pareto == []


# Single trials ------------------------------------------------------------------------------------------------------------


def test_a_result_tells_of_its_trial_as_ray_would(tmp_path: Path) -> None:
    results = Results(study([[(1, 1, 0.5)], [(1, 2, {"loss": 0.3, "done": "mine"})], [(1, 3, 0.4)]], folder=tmp_path))
    result = results.best
    config = {"lr": 1 / 3, "net": {"width": 8}}
    assert (result.trial, result.config, result.step, result.state, result.error) == (1, config, 2, "resting", None)
    assert result.metrics == {
        "training_iteration": 2, "time_total_s": 20.0, "trial_id": 1, "config": config, "done": "mine", "loss": 0.3,
    }   # fmt: skip
    assert result.reported == {"loss": 0.3, "done": "mine"}
    assert result.path == tmp_path / "trials" / "000001"


def test_a_trial_without_reports_has_no_step_and_no_metrics() -> None:
    results = Results(study([[(0, 1, 0.5)]]))
    assert (results[2].step, results[2].metrics, results[2].reported, results[2].state, results[2].path) == (None, {}, {}, "running", None)
    with pytest.raises(CheckpointError):
        _ = results[2].checkpoint


def test_results_are_a_sequence_by_trial() -> None:
    results = Results(study([[(1, 1, 0.5), (0, 1, NAN)], [(1, 2, 0.4)], [(1, 3, 0.6), (0, 2, -INF)], [(0, 3, 0.9)]]))
    assert len(results) == 4
    assert [(result.trial, result.step) for result in results] == [(0, 3), (1, 2), (2, None), (3, None)]
    assert (results[1].step, results[-3].step, results[-4].trial) == (2, 2, 0)
    for index in (4, -5):
        with pytest.raises(IndexError, match="trials 0 to 3"):
            results[index]
    for part in (slice(0, 1), slice(None), slice(3, 0, -2), slice(-2, 99), slice(7, None)):
        assert [result.trial for result in results[part]] == list(range(4))[part]
    assert results[np.int64(1)].trial == 1 and isinstance(results[:2], list)
    with pytest.raises(TypeError, match="integer"):
        results["loss"]  # type: ignore[call-overload]


def test_errors_name_the_trial_the_kind_and_the_line_that_says_why() -> None:
    journal = study([[(0, 1, 0.5), (1, 1, NAN), (3, 1, 0.1)]])
    began = "Traceback (most recent call last):\n"
    trace = f"{began}  File x\nKeyError: 1\n\nDuring ...:\n\n{began}  y\nValueError: no\nreally"
    journal.append([Failed(0, 2, "error", trace, 1.0)], ONE, [Drop(0), Drop(1)])
    journal.append([Failed(2, 1, "oom", "out of memory\nand more", 1.0)], ONE, [Drop(2)])
    results = Results(journal)
    assert results.errors == [
        (0, "error", "ValueError: no", trace),
        (1, "diverged", "DivergedError: loss = nan at step 1", "DivergedError: loss = nan at step 1"),
        (2, "oom", "out of memory", "out of memory\nand more"),
    ]
    assert results.counts() == {"failed": 3, "resting": 1}
    assert (results[0].error, results[1].error, results[3].error) == (trace, "DivergedError: loss = nan at step 1", None)


def test_the_line_of_an_empty_error_is_empty() -> None:
    assert line_of("") == "" and line_of("\n  indented") == ""


def test_curves_show_each_look_once() -> None:
    results = Results(study([[(0, 1, 0.5), (1, 1, NAN)], [(0, 2, 0.4, True)], [(1, 1, NAN, True)], [(2, 1, 0.1, True)]]))
    curves = results.curves()
    expected = {0: [(0.5, 1), (0.4, 2)], 1: [(NAN, 1)], 2: [(0.1, 1)], 3: []}
    assert repr(curves) == repr({id: [{"loss": loss, "step": step} for loss, step in curve] for id, curve in expected.items()})


def test_a_metric_called_step_does_not_hide_the_step_of_a_curve_nor_the_step_it() -> None:
    curves = Results(study([[(0, 1, {"loss": 0.5, "step": 9, "time": 8})]], trials=1)).curves()
    assert curves == {0: [{"loss": 0.5, "metrics.step": 9, "time": 8, "step": 1}]}


def test_the_frame_has_a_row_for_each_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = study([[(0, 1, {"loss": 0.5, "time": 3.0})], [(0, 2, {"loss": 0.4, "acc": 1})]], trials=2)
    journal.append((), ONE, [Launch(trial(2, config={"net": {}, "act": int}), 1)])
    results = Results(journal)
    rows = [
        {"trial": 0, "state": "resting", "step": 2, "loss": 0.4, "acc": 1, "config.lr": 0.0, "config.net.width": 8, "config.net": None,
         "config.act": None, "time": 20.0},
        {"trial": 1, "state": "running", "step": None, "loss": None, "acc": None, "config.lr": 1 / 3, "config.net.width": 8,
         "config.net": None, "config.act": None, "time": None},
        {"trial": 2, "state": "running", "step": None, "loss": None, "acc": None, "config.lr": None, "config.net.width": None,
         "config.net": {}, "config.act": "<class 'int'>", "time": None},
    ]   # fmt: skip
    frame = results.get_dataframe()
    assert list(frame.columns) == list(rows[0])
    assert (frame["trial"].tolist(), frame["loss"].tolist()[0]) == ([0, 1, 2], 0.4)
    assert frame["time"].isna().tolist() == [False, True, True]
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert results.get_dataframe() == rows
    assert [list(row) for row in results.get_dataframe()] == [list(rows[0])] * 3


def test_a_metric_named_like_a_column_does_not_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    (row,) = Results(study([[(0, 1, {"loss": 0.5, "step": 9, "time": 8})]], trials=1)).get_dataframe()
    assert (row["step"], row["time"], row["metrics.step"], row["metrics.time"]) == (1, 10.0, 9, 8)


def test_records_are_the_rows_of_the_frame_one_by_one() -> None:
    records = Results(study([[(0, 1, {"loss": 0.5, "step": 9})]], trials=2)).records()
    assert next(records) == ((0, "resting", 1, 10.0), {"loss": 0.5, "metrics.step": 9}, {"config.lr": 0.0, "config.net.width": 8})
    assert next(records) == ((1, "running", None, None), {}, {"config.lr": 1 / 3, "config.net.width": 8})
    assert list(records) == []


def test_flat_names_keep_objects_as_text() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": {"__repr__": "x"}}, "e": []}) == {"config.a.b.c": 1, "config.a.d": "x", "config.e": []}


def test_the_rest_is_the_journals() -> None:
    journal = study([[(0, 1, 0.5)]])
    journal.note(Note("choice", "this", None, 99.0))
    results = Results(journal)
    assert results.log == [Note("choice", "this", None, 99.0)]
    assert (results.seconds, results.stacks, results.header["name"]) == (99.0, [], "suite")
    assert repr(results) == "Results('suite', 4 trials: {'resting': 1, 'running': 3})"


# Models -------------------------------------------------------------------------------------------------------------------


def test_the_kept_model_of_the_best_report_is_loaded_and_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with study([[(0, 1, 0.5), (1, 1, 0.7)], [(0, 2, 0.3), (1, 2, 0.4)], [(0, 3, 0.6)]], folder=tmp_path) as journal:
        Vault(tmp_path, journal).put(0, 2, {"w": 2}, purpose="keep")
    import torchtune_hp.training.recipe as recipes

    monkeypatch.setattr(recipes, "recipe_of", lambda trainable, seeds, folds: Recipe() if trainable == "mine" else None)
    with Results.open(tmp_path, trainable="mine") as results:
        best = results.best
        spec, config, place, state, step = best.load()
        assert (spec, config, state, step) == (trial(0), trial(0).config, {"w": 2}, 2)
        assert place == Place(tmp_path / "trials" / "000000", "cpu", 9, ("loss",), "suite")
        assert best.test() == {"trial": 0, "w": 2, "step": 2}
        assert best.checkpoint == {"w": 2}
        with pytest.raises(CheckpointError, match="trial 1 at step 2 were not kept. `keep=k`"):
            results[1].load()
        with pytest.raises(CheckpointError, match="trial 0 at step 3 were not kept"):
            results.get_best_result("loss", "max", scope="last").load()
    with Results.open(tmp_path) as results, pytest.raises(ConfigurationError, match=r"Results\.open\(path, trainable=\.\.\.\)"):
        results.best.load()


def test_a_study_in_memory_loads_from_its_vault() -> None:
    journal = study([[(0, 1, 0.5)]])
    held = Vault(None, journal)
    held.put(0, 1, {"w": torch.ones(1)}, purpose="keep")
    spec, _, place, state, _ = Results(journal, Recipe(), held).best.load()
    assert (spec.id, place.folder, state["w"].tolist()) == (0, None, [1.0])
    with pytest.raises(CheckpointError, match="in memory are gone with it"):
        Results(journal, Recipe()).best.load()


def test_objects_in_a_config_come_from_the_space_again() -> None:
    space = Space({"act": choice([torch.nn.ReLU, torch.nn.Tanh]), "lr": uniform(0, 1)})
    x = space.canonical(torch.tensor([[0.9, 0.5]], dtype=torch.float64))
    config = space.decode(x, [0])[0]
    for header, given_ in (({"space": space.describe()}, None), ({}, space)):
        journal = Journal.create(None, HEADER | header)
        journal.append((), ONE, [Launch(Trial(0, tuple(x[0].tolist()), config, 0), 1)])
        journal.append([Reached(0, 1, {"loss": 1.0}, 1.0)], ONE, [Train(0, 2)])
        held = Vault(None, journal)
        held.put(0, 1, {"w": 1}, purpose="keep")
        _, loaded, *_ = Results(journal, Recipe(), held, space=given_).best.load()
        assert loaded == config and config["act"] is torch.nn.Tanh
    with pytest.raises(ConfigurationError, match=r"cannot be rebuilt \('space'\)\. Pass space="):
        Results(journal, Recipe(), held).best.load()


def test_a_whole_config_has_its_objects_and_tuples_again_if_its_space_gives_the_same() -> None:
    def deed() -> None: ...

    space = Space({"act": choice([deed, len]), "pair": (1, 2), "lr": uniform(0, 1)})
    x = space.canonical(torch.tensor([[0.1, 0.5]], dtype=torch.float64))
    fresh = space.decode(x, [0])[0]
    text = to_json(fresh)
    recorded = [text, text.replace(" at 0x", " at 0xf"), text.replace("0.5", "0.25")]     # the second: of another process
    configs = [from_json(config) for config in recorded]
    trials = [Trial(0, tuple(x[0].tolist()), config, 0) for config in configs]
    assert text.count(" at 0x") == 1
    assert [whole_config(trial, space) for trial in trials] == [fresh, fresh, configs[2]]
    journal = Journal.create(None, HEADER)
    journal.append((), ONE, [Launch(trials[1], 1)])
    assert Results(journal, space=space).launched(0).config == fresh


def test_a_config_without_objects_needs_no_space() -> None:
    assert Results(study([])).launched(1).config == trial(1).config


def test_a_missing_study_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(StudyNotFoundError):
        Results.open(tmp_path / "no")


def test_opening_results_reads_no_pandas_and_no_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study([[(0, 1, 0.5)]], folder=tmp_path).close()
    real, asked = builtins.__import__, set()

    def spy(name: str, *arguments: Any) -> Any:
        asked.add(name.partition(".")[0])
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", spy)
    with Results.open(tmp_path) as results:
        assert (results.best.trial, len(results), results.counts(), len(results.curves())) == (0, 4, {"resting": 1, "running": 3}, 4)
    assert not asked & {"torch", "pandas", "numpy"}

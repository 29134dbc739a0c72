"""The benchmarks run in tiny sizes, and count what they say they count. What they measure is no test."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import torchtune_hp as hp

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark by name, as its own folder sees it."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> ModuleType:
        common = importlib.import_module("common")
        monkeypatch.setattr(common, "probes", lambda: {"empty_op_us": 1.0})     # they take a second
        return importlib.import_module(name)

    yield load
    for name in ("common", "early_stopping", "fused_costs", "overhead", "scale", "study_vs_peers"):
        sys.modules.pop(name, None)


@pytest.fixture
def curves(tmp_path: Path) -> str:
    """Two tasks of 90 rows: row i ends at a loss of i (task "up") or 89 - i ("down"), every fourth of "down" diverges at step 3."""
    rng = np.random.default_rng(0)
    configs = rng.uniform(0.1, 1.0, (90, 2))
    end = np.arange(90.0)
    shape = 100.0 * 0.7 ** np.arange(51.0)
    up = end[:, None] + shape
    down = end[::-1, None] + shape
    down[::4, 3:] = math.nan
    path = tmp_path / "curves.npz"
    np.savez(path, tasks=["up", "down"], hyperparameters=["a", "b"], **{
        "up/configs": configs, "down/configs": configs, "up/valid_loss": up.astype(np.float32), "down/valid_loss": down.astype(np.float32),
    })  # fmt: skip
    return str(path)


def test_overhead_times_our_executors_and_leaves_out_what_is_absent(benchmark: Any, tmp_path: Path, capsys: Any) -> None:
    found = benchmark("overhead").main(
        ["--quick", "--trials", "4", "--rounds", "1", "--without", "processes,optuna,ray", "--results", str(tmp_path)]
    )
    assert found["ms_a_trial_of_whole_run"]["ours, serial"] > 0
    assert math.isnan(found["ms_a_trial"]["Ray Tune"])
    assert "absent" in capsys.readouterr().out
    [written] = tmp_path.glob("overhead-cpu*.json")
    assert json.loads(written.read_text())["ms_a_trial"]["Ray Tune"] is None


def test_overhead_refuses_runs_of_unequal_work(benchmark: Any) -> None:
    with pytest.raises(RuntimeError, match="Ray Tune made 9 trials and 90 reports, where 10 and 100"):
        benchmark("overhead").check("Ray Tune", 9, 10, 90, 100)


def test_a_study_is_the_same_work_for_everyone(benchmark: Any) -> None:
    """Two of the systems, in this process: epochs are counted, and nobody's trial is left out."""
    module = benchmark("study_vs_peers")
    for how in ("fused", "alone"):
        found = module.ours(how, 4, 0)
        assert found["trials"] == 4 and 4 <= found["epochs"] <= 4 * module.EPOCHS and 0.1 < found["accuracy"] <= 1.0
    assert len(list(module.epochs_of({"lr": 1e-3, "wd": 0.0, "dropout": 0.1, "beta1": 0.9}, *module.digits()))) == module.EPOCHS


def test_fused_costs_leaves_the_methods_that_it_times_as_they_were(benchmark: Any, tmp_path: Path, monkeypatch: Any) -> None:
    module = benchmark("fused_costs")
    methods = [getattr(owner, name) for owner, name in [*module.SCHEDULES, *module.WORK]]
    monkeypatch.setattr(module, "SAMPLES", 200)
    found = module.main(["--quick", "--device", "cpu", "--rounds", "1", "--results", str(tmp_path)])
    assert [getattr(owner, name) for owner, name in [*module.SCHEDULES, *module.WORK]] == methods
    assert all(0 < cost["schedules_percent"] < 100 and 0 < cost["bookkeeping_percent"] < 100 for cost in found["costs"])
    assert [(row["P"], row["at_once"]) for row in found["refill_ms"]] == [(8, 1), (8, 8), (32, 1), (32, 8)]


def test_scale_counts_the_same_reports_with_and_without_a_journal(benchmark: Any, tmp_path: Path) -> None:
    scale = benchmark("scale")
    alone = scale.loop(600, 4, str(tmp_path))
    kept = scale.journal(600, 4, str(tmp_path))
    assert (alone["trials"], alone["reports"]) == (kept["trials"], kept["reports"])
    assert kept["reports"] > 600
    opened = scale.opened(600, 4, str(tmp_path))
    assert opened["trials"] == 600
    assert opened["best"] == kept["best"]
    resumed = scale.resume(600, 4, str(tmp_path))
    assert resumed["trials"] == 600 + scale.WORKERS
    assert resumed["new_reports"] > 0


def test_early_stopping_runs_on_small_tables(benchmark: Any, curves: str, tmp_path: Path) -> None:
    found = benchmark("early_stopping").main([curves, "--quick", "--seeds", "1", "--results", str(tmp_path)])
    assert set(found["equal_quality"]["ASHA, 1 slot"]["vs_64"]) == {"up", "down"}
    assert found["diverged"]["down"]["ended_late"] == 0
    assert [goal["reached"] for goal in found["goals"] if goal["goal"].startswith("(c)")] == [True]


def test_ours_is_compared_with_the_best_peer_at_each_budget(benchmark: Any, curves: str, tmp_path: Path, monkeypatch: Any) -> None:
    early = benchmark("early_stopping")
    monkeypatch.setattr(early, "PEERS", tmp_path)
    for name, up, down in (("perfect", 0, 89), ("poor", 60, 0)):
        said = {"name": name, "budgets": [500, 1000, 2500], "rows": {"up": [[up] * 3] * 2, "down": [[down] * 3] * 2}}
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
    (tmp_path / "other.json").write_text(json.dumps({"name": "other", "budgets": [1], "rows": {}}))
    tasks = early.tasks_of(curves)
    assert sorted(early.peer_rows(tasks, 2)) == ["perfect", "poor"]
    found = early.equal_epochs(tasks, 2)
    assert found["mean_regret"]["perfect"] == [0.0, 0.0, 0.0]
    assert {entry["peer"] for entry in found["compared"]} == {"perfect"}
    asha = [entry for entry in found["compared"] if entry["ours"] == "ASHA, 1 slot"]
    assert [entry["full_runs"] for entry in asha] == [10, 20, 50]
    assert all(entry["low"] <= entry["difference"] <= entry["high"] for entry in asha)
    assert asha[2]["difference"] == found["mean_regret"]["ASHA, 1 slot"][2]


def test_not_worse_needs_an_interval_that_reaches_zero(benchmark: Any, curves: str) -> None:
    early = benchmark("early_stopping")
    ours, peer = np.full((2, 3, 3), 0.5), np.zeros((2, 3, 3))
    found = early._compare("ours", 1, {"ours": ours, "peer": peer}, ["peer"])
    assert (found["low"], found["difference"], found["high"], found["seeds"]) == (0.5, 0.5, 0.5, 3)
    assert early._verdict(found["low"]) == "WORSE"
    assert early._verdict(0.0) == "not worse"


def test_early_stopping_without_its_data_says_where_to_read_of_it(benchmark: Any, capsys: Any) -> None:
    assert benchmark("early_stopping").main([]) is None
    assert "skipped" in capsys.readouterr().out


def test_a_target_is_the_best_of_the_full_runs_and_counts_only_at_max_t(benchmark: Any, curves: str) -> None:
    early = benchmark("early_stopping")
    up = early.tasks_of(curves)[0]
    target, first, spent = early.full_runs(up, seed=3, n=8)
    order = [look for look in up.looks(hp.FullRuns(50), workers=1, seed=3) if look.step == 50][:8]
    assert spent == 8 * 50
    assert target == min(look.value for look in order)
    assert first == next(look.epochs for look in order if look.value == target)
    assert early.until(up, hp.FullRuns(50), 1, 3, target) == first
    assert early.until(up, hp.FullRuns(50), 1, 3, -1.0) == math.inf


def test_epochs_in_flight_are_counted(benchmark: Any, curves: str) -> None:
    up = benchmark("early_stopping").tasks_of(curves)[0]
    by_grant = [look.epochs for look in up.looks(hp.ASHA(max_t=50), workers=4, seed=0, look_every="grant")]
    by_step = [look.epochs for look in up.looks(hp.ASHA(max_t=50), workers=4, seed=0, look_every=1)]
    assert set(by_grant) <= set(by_step)
    assert by_grant[-1] == by_step[-1]
    assert by_grant == sorted(by_grant)


def test_a_diverged_row_has_the_worst_regret_and_the_best_row_none(benchmark: Any, curves: str) -> None:
    down = benchmark("early_stopping").tasks_of(curves)[1]
    assert down.regret[89] == 0.0 and down.rank[89] == 0.0
    assert down.regret[0] == 1.0
    assert down.rank[0] == 67 / 90       # behind every finite row


def test_recommended_is_the_lowest_loss_within_each_budget(benchmark: Any, curves: str) -> None:
    early = benchmark("early_stopping")
    up = early.tasks_of(curves)[0]
    rows = up.rows
    seen = [early.Look(0, rows[5], 1, math.nan, 499), early.Look(1, rows[7], 1, 9.0, 500), early.Look(2, rows[2], 1, 8.0, 501),
            early.Look(3, rows[1], 1, 8.5, 2500), early.Look(4, rows[0], 1, 0.0, 2501)]  # fmt: skip
    assert early.recommended(up, iter(seen)) == [7, 2, 2]
    assert early.recommended(up, iter(seen[:2])) == [7, 7, 7]


def test_a_goal_is_reached_missed_or_not_measured(benchmark: Any) -> None:
    goal = benchmark("common").Goal
    assert [goal("g", value, "<=", 2.0).reached for value in (2.0, 2.1, math.nan)] == [True, False, None]
    assert [goal("g", value, ">=", 2.0).reached for value in (2.0, 1.9)] == [True, False]
    assert goal("g", math.nan, ">=", 2.0, "x").row() == ["g", "absent", ">= 2x", "not measured"]


def test_cases_are_interleaved_and_some_take_part_in_fewer_rounds(benchmark: Any) -> None:
    called: list[str] = []
    cases = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    benchmark("common").interleaved(cases, 3, {"b": 1})
    assert "".join(called) == "abaa"

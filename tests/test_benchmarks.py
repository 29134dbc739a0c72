"""The benchmarks run in tiny sizes, and count what they say they count. What they measure is no test."""

from __future__ import annotations

import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

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
    for name in (
        "cifar10", "cifar10_tasks", "common", "early_stopping", "frozen", "fused_costs", "fused_training_spaces", "networks", "overhead",
        "pairing", "pairing_digits", "scale", "scale_pace", "spaces", "study_vs_peers", "suggest_fit", "suggest_latency",
        "suggest_objectives", "suggest_objectives_tasks", "suggest_ours", "suggest_peers", "suggest_quality", "suggest_tasks", "trainer",
        "warm_start",
    ):  # fmt: skip
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
    """Two of the systems, in this process: epochs are counted, and nobody's trial is left out. Slow: scikit-learn, and nine trainings."""
    module = benchmark("study_vs_peers")
    for how in ("fused", "alone"):
        found = module.ours(how, 4, 0)
        assert found["trials"] == 4 and 4 <= found["epochs"] <= 4 * module.EPOCHS and 0.1 < found["accuracy"] <= 1.0
    assert len(list(module.epochs_of({"lr": 1e-3, "wd": 0.0, "dropout": 0.1, "beta1": 0.9}, *module.digits()))) == module.EPOCHS


def test_a_loop_of_ones_own_is_timed_against_a_class_that_reports_the_same(benchmark: Any) -> None:
    module = benchmark("trainer")
    looks = [module.study(trainable, "vmap", 4)[1] for trainable in (module.Digits, module.train)]
    assert looks[0] == looks[1] and len(looks[0]) >= 4


def test_whole_spaces_are_trained_the_same_in_every_way(benchmark: Any) -> None:
    module = benchmark("spaces")
    name, space, build = next(each for each in module.spaces() if each[0] == "one width")
    found = module.measured(name, space, build, 6, 1)
    assert found["updates"] == 6 * 20 and found["memory"]["equal shapes"] == 1.0
    assert set(found["seconds"]) == set(module.WAYS)


def test_a_frozen_backbone_is_measured_in_a_process_of_its_own(benchmark: Any, monkeypatch: Any) -> None:
    module = benchmark("frozen")
    monkeypatch.setattr(module, "LAYERS", 1)
    monkeypatch.setattr(module.Path, "write_text", lambda self, text: None)      # this process's own peak stays,
    monkeypatch.setattr(module.torch, "set_num_threads", lambda number: None)    # and so do its threads
    found = module.case("LoRA", 3, "one stack")
    assert found["own_MB"] == 4 * 4 * module.WIDTH * module.RANK / 1e6 and found["seconds"] > 0


def test_fused_costs_leaves_the_methods_that_it_times_as_they_were(benchmark: Any, tmp_path: Path, monkeypatch: Any) -> None:
    module = benchmark("fused_costs")
    methods = [getattr(owner, name) for owner, name in [*module.SCHEDULES, *module.WORK]]
    monkeypatch.setattr(module, "SAMPLES", 200)
    found = module.main(["--quick", "--device", "cpu", "--rounds", "1", "--results", str(tmp_path)])
    assert [getattr(owner, name) for owner, name in [*module.SCHEDULES, *module.WORK]] == methods
    assert all(math.isfinite(cost["schedules_percent"]) and math.isfinite(cost["bookkeeping_percent"]) for cost in found["costs"])
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


RUN = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from scale_pace import MARKS, Pace
pace = Pace(20 * MARKS, sys.argv[2])
pace.begin(None)
for report in range(20):
    time.sleep(0.5 if sys.argv[2] == "first" and report < 2 else 0.01)
    with open(sys.argv[3], "a") as file:
        file.write(sys.argv[2][0])
    pace.told([None] * MARKS, ())
pace.end(None)
print(json.dumps(pace.figures()))
"""


def test_a_first_and_a_last_tenth_take_turns_and_no_clock_runs_for_who_waits(benchmark: Any, tmp_path: Path) -> None:
    pace = benchmark("scale_pace")
    script, said = tmp_path / "run.py", tmp_path / "said"
    script.write_text(RUN)
    figures = pace.side_by_side(str(script), [str(FOLDER), "last", str(said)], [str(FOLDER), "first", str(said)])
    assert said.read_text() == 18 * "l" + "lflf"
    assert figures["reports"] == 20 * pace.MARKS
    assert figures["last_to_first"] == figures["us_last_tenth"] / figures["us_first_tenth"]
    assert figures["us_last_tenth"] * pace.MARKS < 0.4e6 < figures["us_first_tenth"] * pace.MARKS


def test_a_run_that_is_too_short_for_a_tenth_has_no_ratio(benchmark: Any, tmp_path: Path) -> None:
    pace = benchmark("scale_pace")
    script, said = tmp_path / "run.py", tmp_path / "said"
    script.write_text(RUN.replace("[None] * MARKS", "[None]"))
    figures = pace.side_by_side(str(script), [str(FOLDER), "last", str(said)], [str(FOLDER), "first", str(said)])
    assert figures["reports"] == 20 and math.isnan(figures["last_to_first"])


def test_what_fails_in_its_turn_is_an_error(benchmark: Any, tmp_path: Path) -> None:
    pace = benchmark("scale_pace")
    script = tmp_path / "run.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="ended with 3"):
        pace.side_by_side(str(script), [], [])


def test_our_fits_are_compared_with_botorchs_of_the_same_problems(benchmark: Any, tmp_path: Path, monkeypatch: Any) -> None:
    loaded = benchmark("suggest_fit")
    every = loaded.problems
    small = [problem for problem in every(60) if len(problem.y) <= 20][:6]
    monkeypatch.setattr(loaded, "problems", lambda: iter(small))
    found = loaded.main(["--quick", "--results", str(tmp_path)])
    assert [row["problem"] for row in found["problems"]] == [problem.number for problem in small]
    assert all(row["gain"] >= -1e-2 and row["disagree"] < 1e-5 for row in found["problems"])
    assert json.loads(next(tmp_path.glob("suggest_fit-*.json")).read_text())["goals"][0]["value"] == 100
    kept = json.loads((FOLDER / "peers" / "suggest_fit.json").read_text())
    assert len(kept["problems"]) == loaded.PROBLEMS and kept["botorch"] and kept["gpytorch"]


def test_the_problems_of_fits_are_of_all_sizes_and_standardised(benchmark: Any) -> None:
    found = list(benchmark("suggest_fit").problems())
    sizes = sorted(len(problem.y) for problem in found)
    assert sizes[0] >= 5 and sizes[-1] <= 500 and sizes[0] < 8 and sizes[-1] > 400
    assert {problem.x.shape[1] for problem in found} == set(range(1, 21))
    assert all(abs(float(problem.y.mean())) < 1e-9 and abs(float(problem.y.std()) - 1) < 1e-9 for problem in found)


def test_suggestions_are_timed_and_a_batch_is_of_distinct_points(benchmark: Any) -> None:
    latency = benchmark("suggest_latency")
    one = latency.one_suggestion([12], 1, set())
    assert one["12"]["ours"] > 0
    many = latency.many_suggestions(12, 4, 2, 1, set())
    most = latency.largest(15, 3, 40)
    assert 0 < most["GiB_before"] <= most["GiB"]
    fitted = latency.fits(2, 2, 10, 1)
    assert fitted["apart"] < 1e-6
    goals = latency.show(one, many, most, fitted, latency.threads(12, 1), True)
    assert [goal.reached for goal in goals[:6]] == [None] * 6 and goals[-1].reached in (True, False)


def test_our_suggestions_are_as_good_as_botorchs_on_the_same_observations(benchmark: Any) -> None:
    pytest.importorskip("botorch")
    latency = benchmark("suggest_latency")
    found = latency.worth(*latency.observed(40, 6, seed=0))
    assert found["log_posterior_gain"] >= -1e-2 and found["log_ei_gain"] >= math.log(0.99)


def test_quality_runs_and_counts_what_it_says(benchmark: Any, tmp_path: Path, monkeypatch: Any) -> None:
    quality = benchmark("suggest_quality")
    said = {"name": "perfect", "versions": {}, "values": {"branin": [[0.39788735772973816] * 60]}}
    monkeypatch.setattr(quality, "peers", lambda: {"perfect": said})
    found = quality.main(["--quick", "--tasks", "branin", "--seeds", "1", "--evaluations", "10", "--results", str(tmp_path)])
    run = found["values"]["branin"][0]
    assert len(run) == 10 and run == quality.ours(quality.tasks()["branin"], 0, 10)
    [row] = found["compared"]
    assert row["difference"] == pytest.approx(math.log10(min(run) - 0.39788735772973816) + 6) and row["low"] == row["high"]
    assert [goal["reached"] for goal in found["goals"]] == [None, None]        # a quick form measures no goal
    assert json.loads(next(tmp_path.glob("suggest_quality-*.json")).read_text())["seeds"] == 1


def test_a_batch_needs_as_many_more_evaluations_as_it_takes_to_be_where_one_at_a_time_was(benchmark: Any) -> None:
    quality = benchmark("suggest_quality")
    branin = quality.tasks()["branin"]
    sequential, batched = [[9.0, 4.0, 2.0, 1.0]], [[9.0, 9.0, 3.0, 3.0, 3.0, 2.0, 1.0, 1.0]]
    assert quality.more_evaluations(branin, sequential, batched, 3) == pytest.approx(100.0)
    assert quality.more_evaluations(branin, sequential, [[9.0] * 12], 3) == pytest.approx(300.0)


def test_warm_start_counts_evaluations_to_the_target(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warm = benchmark("warm_start")
    space = hp.Space({"a": hp.uniform(0.0, 1.0)})

    def value(config: Any) -> float:
        return float((config["a"] - 0.3) ** 2)

    alike = {"itself": value, "reflected": warm.others(space, value)["reflected"]}
    assert alike["reflected"]({"a": 0.9}) == pytest.approx(value({"a": 0.1}))
    found = warm.compared(space, value, alike, 3, 4, 9)
    cold = [warm.run(space, value, seed, 9) for seed in range(3)]
    other = [warm.run(space, value, warm.OTHERS + seed, 4) for seed in range(3)]
    assert found["target"] == float(np.median([min(values) for values in other]))
    assert found["evaluations"]["none"] == [next((k + 1 for k, v in enumerate(run) if v <= found["target"]), 9) for run in cold]
    assert np.median(found["evaluations"]["itself"]) <= np.median(found["evaluations"]["none"])
    assert warm.ratio([3, 3, 3], [2, 2, 2]) == (1.5, 1.5, 1.5)
    counts = {"evaluations": {"none": [1, 2, 3], "reflected": [2, 4, 6], "negated": [8, 16, 24], "itself": [1, 1, 1]}}
    assert warm.together({"a": counts}) == pytest.approx((4, 4, 4))
    monkeypatch.setattr(warm, "compared", lambda *_: found)     # what is printed and written of it
    result = warm.main(["--quick", "--results", str(tmp_path)])
    assert [row["source"] for row in result["compared"]] == list(alike) and list(tmp_path.glob("warm_start-*.json"))


def test_the_tasks_before_digits_are_other_tasks(benchmark: Any) -> None:
    pytest.importorskip("sklearn")
    space, value, earlier = benchmark("warm_start").digits()
    config = {"lr": 0.1, "width": 8, "momentum": 0.9, "decay": 1e-5}
    assert set(config) == set(space.names)
    assert value(config) == value(config) < earlier["a quarter of the data"](config) < earlier["labels shuffled"](config)


def test_the_functions_have_the_least_values_that_are_stated(benchmark: Any) -> None:
    found = benchmark("suggest_tasks").tasks()
    six = [0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573]
    places = {
        "branin": [math.pi, 2.275], "hartmann-3": [0.114614, 0.555649, 0.852547], "hartmann-6": six, "ackley-5": [0.0] * 5,
        "ackley-10": [0.0] * 10, "levy-6": [1.0] * 6, "rosenbrock-4": [1.0] * 4, "stybtang-5": [-2.903534] * 5,
    }  # fmt: skip
    for name, place in places.items():
        assert found[name].value({f"x{k}": x for k, x in enumerate(place)}) == pytest.approx(found[name].least, abs=1e-4)
    mixed = found["ackley-5 mixed"]
    # Level 2 of the shuffled category is "e"; the middle of an interval that is not centred is 2.25 off the minimum.
    assert mixed.value({"x0": "e", "x1": 4, "x2": 0.0, "x3": 0.0, "x4": 0.0}) == pytest.approx(mixed.least)
    noisy = found["branin noisy"]
    assert noisy.noise > 0 and noisy.observed(1.0, 3, 4) == noisy.observed(1.0, 3, 4) != noisy.observed(1.0, 3, 5)


def test_hypervolume_is_compared_by_the_seeds_that_both_ran(benchmark: Any, tmp_path: Path, monkeypatch: Any) -> None:
    objectives = benchmark("suggest_objectives")
    ideal = [[0.9 * k / 9, 1 - math.sqrt(0.9 * k / 9)] for k in range(10)]
    said = {"name": "perfect", "versions": {}, "values": {"zdt1": [ideal[:3], ideal]}}
    monkeypatch.setattr(objectives, "peers", lambda: {"perfect": said})
    found = objectives.main(["--quick", "--tasks", "zdt1", "--seeds", "2", "--evaluations", "10", "--results", str(tmp_path)])
    zdt1 = objectives.tasks()["zdt1"]
    assert found["values"]["zdt1"][1] == objectives.ours(zdt1, 1, 10)
    [row] = found["compared"]
    assert row["seeds"] == 1 and row["low"] == row["high"] == pytest.approx(row["ours"] - row["theirs"])
    assert row["theirs"] == pytest.approx(objectives.hypervolume(map(tuple, ideal), (1.1, 1.1)) / zdt1.volume)
    assert found["goals"] == []
    assert json.loads(next(tmp_path.glob("suggest_objectives-*.json")).read_text())["seeds"] == 2


def test_the_fronts_have_the_hypervolumes_that_are_stated(benchmark: Any) -> None:
    """ZDT's by integration of the second objective by the first; a point of each front is on it."""
    found = benchmark("suggest_objectives_tasks").tasks()
    on_it = {"x0": 0.25} | {f"x{k}": 0.0 for k in range(1, 6)}
    assert found["zdt1"].values(on_it) == (0.25, 0.5) and found["zdt1"].volume == pytest.approx(1.21 - 1 / 3, abs=1e-4)
    assert found["zdt2"].values(on_it) == (0.25, 1 - 0.25**2) and found["zdt2"].volume == pytest.approx(1.21 - 2 / 3, abs=1e-4)
    assert found["zdt3"].values(on_it) == pytest.approx((0.25, 0.25)) and found["zdt3"].volume > 1.3
    middle = dict.fromkeys(on_it, 0.5) | {"x0": 0.3}
    for name in ("dtlz2-2", "dtlz2-3"):
        assert math.hypot(*found[name].values(middle)) == pytest.approx(1.0)
        assert sum(value > 0 for value in found[name].values(middle)) == len(found[name].reference)
    digits = found["digits"]
    best = digits.values({"width": 128, "depth": 2, "activation": "tanh", "lr": 3e-3, "dropout": 0.0})
    assert 0 < best[0] < 0.06 and best[1] == math.log10(65 * 128 + 129 * 128 + 129 * 10)
    assert all(peer["versions"]["optuna"] for peer in benchmark("suggest_objectives").peers().values())


def test_early_stopping_runs_on_small_tables(benchmark: Any, curves: str, tmp_path: Path) -> None:
    found = benchmark("early_stopping").main([curves, "--quick", "--seeds", "1", "--results", str(tmp_path)])
    assert set(found["equal_quality"]["ASHA, 1 slot"]["vs_64"]) == {"up", "down"}
    assert found["diverged"]["down"]["ended_late"] == 0
    assert [goal["reached"] for goal in found["goals"] if goal["goal"].startswith("(c)")] == [True]


def test_ours_is_compared_with_the_best_peer_at_each_budget(benchmark: Any, curves: str, tmp_path: Path, monkeypatch: Any) -> None:
    early = benchmark("early_stopping")
    monkeypatch.setattr(early, "PEERS", tmp_path)
    monkeypatch.setattr(early, "GP_SEEDS", 1)
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


def test_searchers_are_paired_with_schedulers_and_what_has_ended_is_not_run_again(
    benchmark: Any, curves: str, tmp_path: Path, monkeypatch: Any
) -> None:
    pairing = benchmark("pairing")
    monkeypatch.setitem(pairing.SEARCHERS, "GP", hp.RandomSearch)       # so each pair is of equals
    given = [curves, "--quick", "--tasks", "2", "--seeds", "2", "--so-far", str(tmp_path / "so_far"), "--results", str(tmp_path)]
    found = pairing.main(given)
    assert found["rows"]["ASHA + GP"] == found["rows"]["ASHA + random"] != found["rows"]["full runs + GP"]
    assert [pair["rival"] for pair in found["pairs"]] == ["ASHA + random", "Hyperband + random", "full runs + GP", pairing.GP]
    assert [goal["reached"] for goal in found["goals"]][:2] == [True, True] and found["goals"][-1]["reached"] is None
    assert len((tmp_path / "so_far").read_text().splitlines()) == len(pairing.METHODS) * 2 * 2
    monkeypatch.setattr(pairing, "recommended", None)
    assert pairing.main(given)["rows"] == found["rows"]
    monkeypatch.setattr(pairing.common, "_commit", lambda: "0000000")
    with pytest.raises(SystemExit, match="studies of .*commit.* Name another file"):
        pairing.main(given)
    assert pairing.main([]) is None


def test_trainings_are_the_same_for_everyone(benchmark: Any, tmp_path: Path, monkeypatch: Any) -> None:
    digits = benchmark("pairing_digits")
    monkeypatch.setattr(digits, "MAX_T", 2)
    for name in digits.SPACES:
        space = hp.Space(digits.SPACES[name])
        few, more = space.decode(space.canonical(torch.tensor([[0.7] * 5, [0.8] * 5], dtype=torch.float64)))
        one, other = digits.Digits(name), digits.Digits(name)
        alone = [other.loss(other.row(more), step) for step in (1, 2)]
        mixed = [one.curve(config, step)["loss"] for step in (1, 2) for config in (few, more)]
        assert mixed[1::2] == alone and mixed[0] != alone[0] and one.row(few) == 0 and math.isnan(one.loss(0, 3))
    Look = digits.Look
    seen = [Look(0, {}, 1, 3.0, 1), Look(0, {}, 2, math.nan, 2), Look(1, {}, 1, 2.0, 4), Look(1, {}, 2, 1.0, 6)]
    assert digits.lowest(iter(seen), (2, 4, 5, 9)) == [3.0, 2.0, 2.0, 1.0]
    random = np.array([[1.0, 3.0, math.nan]])
    found = digits.regrets(np.array([0.5, 2.0, 1.25, math.nan]).reshape(4, 1, 1, 1), random)
    assert found.ravel().tolist() == [0.0, 1.0, 0.5, 1.0]       # the best is 0.5, the median of random ones 2


def test_a_pair_is_compared_task_by_task_and_seed_by_seed(benchmark: Any) -> None:
    ours, theirs = np.array([[0.1, 0.2, 0.3], [0.0, 0.0, 0.9]]), np.array([[0.4, 0.5, 0.6], [0.1, 0.1, 0.0]])
    middle, low, high = benchmark("pairing").compared(ours, theirs)
    assert middle == pytest.approx((-0.3 - 0.1) / 2) and low <= middle <= high and high > 0


@pytest.mark.parametrize("more, reached", [(0.0, True), (-0.1, True), (0.1, False)])
def test_no_worse_is_reached_by_equals_and_missed_by_what_is_worse(benchmark: Any, more: float, reached: bool) -> None:
    pairing = benchmark("pairing")
    regret = np.random.default_rng(0).uniform(0.2, 0.3, (2, 4, 1))
    found = {f"{scheduler} + {searcher}": regret + more * (searcher == "GP") for scheduler, searcher in pairing.METHODS}
    pairs, goals = pairing.paired(found, pairing.BUDGETS[:1])
    assert [goal.reached for goal in goals] == [reached, reached, True, None], "full runs are those of the GP too"
    assert pairs[0]["low"] == pytest.approx(more) == pairs[0]["high"]


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


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An image folder of three classes, 42 images to train on and 9 to test in each, of several sizes."""
    monkeypatch.setenv("TORCHTUNE_HP_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split, n in (("train", 42), ("test", 9)):
        for label, name in enumerate(("a", "b", "c")):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                noise = rng.integers(0, 128, (30 + i % 3, 32, 3), dtype=np.uint8)
                Image.fromarray(noise + 60 * np.eye(3, dtype=np.uint8)[label]).save(folder / f"{i}.png")
    return str(tmp_path / "pictures")


@pytest.mark.parametrize("task", ["convnet", "small-cnn", "resnet"])
def test_cifar10_runs_each_task_on_an_image_folder(
    benchmark: Any, pictures: str, tmp_path: Path, capsys: Any, monkeypatch: Any, task: str
) -> None:
    cifar10 = benchmark("cifar10")
    cls, full, quick = cifar10.TASKS[task]
    tiny = {"filters": hp.choice([16]), "layers": hp.choice([2]), "batch_size": hp.choice([64])} if task == "small-cnn" else {}
    monkeypatch.setattr(cls, "space", {**cls.space, **tiny})
    monkeypatch.setitem(cifar10.TASKS, task, (cls, full, replace(quick, trials=3, max_t=4, unit=1, most=100, sample=2, seconds=None)))
    found = cifar10.main(["--quick", "--task", task, "--data", pictures, "--device", "cpu", "--results", str(tmp_path)])["tasks"][task]
    assert found["trials"] == 3 and sum(found["ends"].values()) == 3
    assert found["images"] == {"train": 100, "val": 25}
    assert found["one_after_another"]["units"] >= 3 and found["one_after_another"]["s"] > 0
    assert 0 <= found["validation_error"] <= 1 and 0 <= found["test_error"] <= 1
    curve = [point["error"] for point in found["curve"]]
    assert curve == sorted(curve, reverse=True) and curve[-1] == found["validation_error"]
    said = capsys.readouterr().out
    assert "EXTRAPOLATED from 2 of" in said and "It shows that all of this works, and no quality" in said
    [written] = tmp_path.glob("cifar10-cpu*.json")
    assert json.loads(written.read_text())["tasks"][task]["trials"] == 3


def test_cifar10_without_data_or_network_says_what_to_pass(benchmark: Any, capsys: Any, monkeypatch: Any) -> None:
    def offline(*arguments: Any, **words: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", offline)
    assert benchmark("cifar10").main(["--quick", "--device", "cpu"]) is None
    assert "skipped: CIFAR-10 could not be downloaded (<urlopen error no network>). Pass --data FOLDER" in capsys.readouterr().out


def test_cifar10_takes_a_folder_of_classes_without_a_test_set(benchmark: Any, pictures: str) -> None:
    tasks = benchmark("cifar10_tasks")
    assert tasks.sets(f"{pictures}/test")[1] is None and len(tasks.sets(f"{pictures}/test")[0]) == 27
    data = tasks.Pictures.data(f"{pictures}/test", None)
    assert (data.train.size, data.val[""].size, data.test) == (22, 5, {})


def test_the_networks_have_the_published_shapes(benchmark: Any) -> None:
    benchmark("common")
    networks = importlib.import_module("networks")

    def size(model: Any) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    assert size(networks.cuda_convnet()) == 89_578
    assert size(networks.resnet(16, 3)) == 269_722 + 16 * 32 + 32 * 64      # He et al.'s ResNet-20, and two shortcuts of 1 x 1
    shapes = {(layers, filters): networks.asha_cnn({"layers": layers, "filters": filters}) for layers in (2, 3, 4) for filters in (16, 64)}
    for (layers, filters), model in shapes.items():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
        assert len(networks.layers_of(model)) == layers + 2
        assert networks.layers_of(model)[-1].in_features == filters * 2 ** (layers - 1)


def test_the_published_tasks_decay_each_layer_by_its_own_cost_and_step_their_rates(benchmark: Any) -> None:
    tasks = benchmark("cifar10_tasks")
    config = {"lr": 1.0, "lr_steps": 3, "lrn_scale": 0.5, "lrn_power": 2.0, **{f"weight_cost_{k}": float(k) for k in (1, 2, 3, 4)}}
    model, optimizer, scheduler = tasks.Convnet.parts(config, 10, 30)
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [
        (1.0, 1.0, 1), (1.0, 2.0, 1), (1.0, 3.0, 1), (1.0, 4.0, 1), (2.0, 0.0, 4),
    ]  # fmt: skip
    assert [(norm.alpha, norm.beta) for norm in model if isinstance(norm, torch.nn.LocalResponseNorm)] == [(0.5, 2.0)] * 2
    optimizer.step()
    rates = []
    for _ in range(30):
        rates.append(round(scheduler.get_last_lr()[0], 9))
        scheduler.step()
    assert rates == [1.0] * 10 + [0.1] * 10 + [0.01] * 10
    small = {"lr": 0.5, "layers": 3, "filters": 16, **{f"{word}_{k}": k / 10 for word in ("init_std", "weight_cost") for k in (1, 2, 3)}}
    model, optimizer, _ = tasks.SmallCNN.parts(small, 10, 30)
    assert [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [(0.1, 3), (0.2, 1), (0.3, 1), (0.0, 5)]
    assert len(tasks.Convnet.space) == 8 and len(tasks.SmallCNN.space) == 10


def test_a_units_epochs_and_the_sampled_units_are_counted(benchmark: Any) -> None:
    tasks = benchmark("cifar10_tasks")
    factor = tasks.one_cycle(4, 12)
    assert [factor(k) for k in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(4) == 1.0 and factor(8) == pytest.approx(0.5) and factor(12) == pytest.approx(0.0)
    assert tasks.Pictures.unit(400) == 400 and type("T", (tasks.Pictures,), {"iteration": 7}).unit(400) == 7

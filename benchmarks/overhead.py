"""What a trial costs when it does nothing: the tuner's own time for a trial of 10 reports.

Measured: the same trainable everywhere, a function that reports the same ten numbers of its one hyperparameter and does
nothing else; random search, no early stopping, so that every system makes exactly `trials` trials and 10 reports of each.

    ours, serial / processes       Tuner on disk, the default look_every=1: each report is a turn, durable when it is done
    ours, ... grant                look_every="grant": one turn a trial
    Optuna, memory / sqlite        ask, suggest, 10 x (report, should_prune), tell; NopPruner (its cheapest), RandomSampler;
                                   sqlite through its RDBStorage with its own settings, on the same disk as ours
    Ray Tune                       a function trainable with 10 tune.report; ray.init (no dashboard) apart, shown as startup;
                                   shut down after each round, so that its daemons take no time from the others

Every system is timed over `trials` trials and over a tenth of them; "ms a trial" is the difference, by trial, so that what
is paid once (worker processes, a database) is left out, and "whole run" is the larger run divided by its trials, with all of
that in it. Rounds are interleaved, medians of them. A system that is not installed is absent.

The claim would be false if a report were lost on a kill (tests/faults show that none is), if the systems did not do equal
work (each run's reports are counted), or if the ratio came from what is paid once (so the goals are judged by the figure
that is worse for us: the whole run for ours, but for the start of worker processes, and ms a trial for the others).

    python benchmarks/overhead.py [--quick] [--trials 100] [--rounds 5] [--ray-rounds 2] [--without ray,optuna] [--results DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

import torchtune_hp as hp

REPORTS = 10
LOW, HIGH = 0.0, 1.0


def loss(x: float, step: int) -> float:
    return (x - 0.3) ** 2 + 1.0 / step


def nothing(config: dict[str, Any]) -> None:
    for step in range(1, REPORTS + 1):
        hp.report(loss=loss(config["x"], step))


def ours(trials: int, folder: Path, executor: Callable[[], Any], look_every: Any) -> float:
    tuner = hp.Tuner(
        nothing, {"x": hp.uniform(LOW, HIGH)}, metric="loss", mode="min", trials=trials, searcher=hp.RandomSearch(), executor=executor(),
        storage=folder, name="ours", verbose=0, look_every=look_every,
    )  # fmt: skip
    began = time.perf_counter()
    results = tuner.fit()
    took = time.perf_counter() - began
    # An end without a further report is journaled with the step of the last one: it is not counted again.
    reports = next(results.journal.rows("SELECT count(*) FROM (SELECT DISTINCT trial, step FROM report)"))[0]
    check("ours", len(results), trials, reports, trials * (1 if look_every == "grant" else REPORTS))
    results.close()
    return took


def optuna_run(trials: int, folder: Path, sqlite: bool) -> float:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began = time.perf_counter()
    storage = f"sqlite:///{folder / 'optuna.db'}" if sqlite else None
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0), pruner=optuna.pruners.NopPruner())

    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", LOW, HIGH)
        for step in range(1, REPORTS + 1):
            trial.report(loss(x, step), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss(x, REPORTS)

    study.optimize(objective, n_trials=trials)
    took = time.perf_counter() - began
    check("Optuna", len(study.trials), trials, sum(len(trial.intermediate_values) for trial in study.trials), trials * REPORTS)
    return took


STARTUPS: list[float] = []


def ray_run(trials: int, folder: Path) -> float:
    import ray
    from ray import tune

    def objective(config: dict[str, Any]) -> None:
        for step in range(1, REPORTS + 1):
            tune.report({"loss": (config["x"] - 0.3) ** 2 + 1.0 / step})

    began = time.perf_counter()
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", configure_logging=True)
    STARTUPS.append(time.perf_counter() - began)
    tuner = tune.Tuner(
        objective, param_space={"x": tune.uniform(LOW, HIGH)},
        tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=trials),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )  # fmt: skip
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        grid = tuner.fit()
    took = time.perf_counter() - began
    ray.shutdown()
    check("Ray Tune", len(grid), trials, sum(result.metrics["training_iteration"] for result in grid), trials * REPORTS)
    return took


def check(who: str, trials: int, wanted: int, reports: int, expected: int) -> None:
    if (trials, reports) != (wanted, expected):
        raise RuntimeError(f"{who} made {trials} trials and {reports} reports, where {wanted} and {expected} were to be made.")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 trials, 3 rounds, no Ray Tune; writes nothing without --results")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--ray-rounds", type=int)
    parser.add_argument("--without", default="", help="systems to leave out, by name: processes, optuna, ray")
    parser.add_argument("--results", help="folder for the result; the full form's default is benchmarks/results")
    options = parser.parse_args(arguments)
    trials = options.trials or (20 if options.quick else 100)
    rounds = options.rounds or (3 if options.quick else 5)
    ray_rounds = options.ray_rounds if options.ray_rounds is not None else (0 if options.quick else 2)
    without = set(options.without.split(","))

    where = common.environment("optuna", "ray")
    probed = common.probes()
    common.heading(where, probed)
    cases = {
        "ours, serial": lambda n, f: ours(n, f, hp.Serial, 1),
        "ours, serial, grant": lambda n, f: ours(n, f, hp.Serial, "grant"),
        "ours, processes": lambda n, f: ours(n, f, hp.Processes, 1),
        "ours, processes, grant": lambda n, f: ours(n, f, hp.Processes, "grant"),
        "Optuna, memory": lambda n, f: optuna_run(n, f, sqlite=False),
        "Optuna, sqlite": lambda n, f: optuna_run(n, f, sqlite=True),
        "Ray Tune": ray_run,
    }
    if "processes" in without:
        cases = {name: case for name, case in cases.items() if "processes" not in name}
    absent = {name for name in cases if name.startswith("Optuna") and (where["optuna"] is None or "optuna" in without)}
    if where["ray"] is None or "ray" in without or not ray_rounds:
        absent.add("Ray Tune")
    few = max(1, trials // 10)
    for name, case in cases.items():
        if name not in absent and name != "Ray Tune":
            _fresh(case, 1)         # what is imported at the first use
    timed = {name: _twice(case, few, trials) for name, case in cases.items() if name not in absent}
    found = common.interleaved(timed, rounds, {"Ray Tune": ray_rounds})
    startup = common.median(STARTUPS) if STARTUPS else None
    each = {name: common.median([pair[0] for pair in found.get(name, [])]) for name in cases}
    whole = {name: common.median([pair[1] for pair in found.get(name, [])]) for name in cases}
    base = each["ours, serial"]
    common.table(
        f"{trials} trials of {REPORTS} reports, medians of {rounds} interleaved rounds",
        ["system", "ms a trial", "whole run, ms a trial", "x ours, serial"],
        [[name, each[name], whole[name], each[name] / base] for name in cases],
    )
    if startup is not None:
        print(f"  Ray's own startup (ray.init), not counted above: {startup:.1f} s")
    goals = [
        common.Goal("ours, serial, every report journaled", whole["ours, serial"], "<=", 2.0, " ms"),
        common.Goal("ours, serial, look_every='grant'", whole["ours, serial, grant"], "<=", 1.0, " ms"),
        common.Goal("Optuna sqlite / ours, serial", each["Optuna, sqlite"] / whole["ours, serial"], ">=", 30.0, "x"),
        common.Goal("Ray Tune / ours, serial", each["Ray Tune"] / whole["ours, serial"], ">=", 500.0, "x"),
    ]
    if "ours, processes" in cases:
        name = "ours, processes, every report journaled (workers' start left out)"
        goals.insert(1, common.Goal(name, each["ours, processes"], "<=", 2.0, " ms"))
    common.show_goals(goals)
    result = {
        "environment": where, "probes": probed, "quick": options.quick, "trials": trials, "reports": REPORTS, "rounds": rounds,
        "ms_a_trial": each, "ms_a_trial_of_whole_run": whole, "ray_init_s": startup,
        "rounds_of": {name: [list(pair) for pair in pairs] for name, pairs in found.items()}, "goals": common.goals_json(goals),
    }  # fmt: skip
    common.save("overhead", options.results or (None if options.quick else common.HERE / "results"), result)
    return result


def _twice(case: Callable[[int, Path], float], few: int, trials: int) -> Callable[[], tuple[float, float]]:
    """-> (ms a trial without what is paid once, ms a trial of the whole run)."""

    def run() -> tuple[float, float]:
        small, large = _fresh(case, few), _fresh(case, trials)
        each = (large - small) / max(1, trials - few)
        return each * 1e3, large / trials * 1e3

    return run


def _fresh(case: Callable[[int, Path], float], trials: int) -> float:
    folder = Path(tempfile.mkdtemp(prefix="overhead-"))
    try:
        return case(trials, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

"""Runs the peers of early_stopping.py (b) and (c), once, and keeps what came of them in small files beside this one.

Every peer searches the same 1,000 rows, one trial at a time, through its public API and with its own default settings (where
eta 4 is not its default, both are run). Like ours it pays one epoch for a step, and nothing again for a step it has paid for;
what is kept is the row with the lowest loss reported within each budget, whatever the peer itself would name as best.

What was done for them, never against them:
- A sampler of boxes (Optuna) is given the 8 hyperparameters as log or linear floats over the rows' range; the nearest row
  that was not tried yet, in the scaled box, is trained and told as if it were the point asked for. Each is run a second time
  with the row's number as one categorical parameter (a number that comes again stands for a random row that was not tried).
- A diverged loss is told as Optuna knows it (NaN at the step, and a trial that ended so is told as pruned); to Syne Tune and
  SMAC as +inf or the largest loss, because a NaN would pass their rungs.
- SMAC's Hyperband asks for a row with a budget; a row that comes back with a larger one pays only the difference.

    python benchmarks/peers/early_stopping.py TASKSET_CURVES.npz [--seeds 20] [--only optuna] [--to DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import random
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import common  # noqa: E402
import numpy as np  # noqa: E402
from early_stopping import BUDGETS, MAX_T, Task, spoiled, tasks_of  # noqa: E402

LARGEST = 1e30


class Spent(Exception):
    """The largest budget is used up."""


class Purse:
    """A task's curves, paid for by the epoch. `rows`: the best row within each budget so far."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.rng = np.random.default_rng([seed, 77])
        self.points = task.space.rows.numpy()
        self.unused = np.ones(len(task.rows), bool)
        self.epochs = 0
        self.best, self.row = math.inf, -1
        self.rows: list[int] = []

    def nearest(self, point: np.ndarray) -> int:
        distance = np.where(self.unused, ((self.points - point) ** 2).sum(1), np.inf)
        return self._take(int(distance.argmin()))

    def numbered(self, row: int) -> int:
        return self._take(row if self.unused[row] else int(self.rng.choice(np.flatnonzero(self.unused))))

    def look(self, row: int, step: int) -> float:
        """The loss after one more epoch."""
        self.epochs += 1
        if self.epochs > BUDGETS[len(self.rows)]:
            self.rows.append(self.row)
            if len(self.rows) == len(BUDGETS):
                raise Spent
        value = self.task.losses[row][step]
        if value < self.best or self.row < 0:
            self.best, self.row = (value if math.isfinite(value) else math.inf), row
        return value

    def _take(self, row: int) -> int:
        self.unused[row] = False
        if not self.unused.any():
            self.unused[:] = True
        return row


# The peers ---------------------------------------------------------------------------------------------------------------------


def optuna(sampler: str, pruner: Callable[[Any], Any], mode: str) -> Callable[[Purse, int], None]:
    def run(purse: Purse, seed: int) -> None:
        import optuna as peer

        peer.logging.set_verbosity(peer.logging.ERROR)
        study = peer.create_study(sampler=getattr(peer.samplers, sampler)(seed=seed), pruner=pruner(peer.pruners))
        pruned = peer.trial.TrialState.PRUNED
        while True:
            trial = study.ask()
            if mode == "box":       # Space.from_rows has scaled the columns, by their logarithm where they are wide
                row = purse.nearest(np.array([trial.suggest_float(dim.name, 0.0, 1.0) for dim in purse.task.space.dims]))
            else:
                row = purse.numbered(trial.suggest_categorical("row", range(len(purse.task.rows))))
            for step in range(1, MAX_T + 1):
                value = purse.look(row, step)
                trial.report(value, step)
                if not math.isfinite(value) or trial.should_prune():
                    study.tell(trial, state=pruned)
                    break
            else:
                study.tell(trial, value)

    return run


def syne_tune(eta: int) -> Callable[[Purse, int], None]:
    def run(purse: Purse, seed: int) -> None:
        from syne_tune.backend.trial_status import Trial
        from syne_tune.config_space import choice
        from syne_tune.optimizer.baselines import ASHA

        np.random.seed(seed)
        numbers = list(range(len(purse.task.rows)))
        scheduler = ASHA(
            {"row": choice(numbers)}, metric="loss", do_minimize=True, time_attr="step", max_t=MAX_T, grace_period=1,
            reduction_factor=eta, random_seed=seed,
        )  # fmt: skip
        id = 0
        while (suggestion := scheduler.suggest()) is not None:
            trial = Trial(id, suggestion.config, None)
            scheduler.on_trial_add(trial)
            row = purse.numbered(int(suggestion.config["row"]))
            for step in range(1, MAX_T + 1):
                value = purse.look(row, step)
                told = {"loss": value if math.isfinite(value) else LARGEST, "step": step}
                if scheduler.on_trial_result(trial, told) != "CONTINUE" or not math.isfinite(value):
                    break
            id += 1

    return run


def smac(eta: int) -> Callable[[Purse, int], None]:
    def run(purse: Purse, seed: int) -> None:
        from ConfigSpace import Categorical, ConfigurationSpace
        from smac import HyperbandFacade, Scenario
        from smac.runhistory import TrialValue

        configs = ConfigurationSpace(seed=seed)
        configs.add(Categorical("row", list(range(len(purse.task.rows)))))
        with tempfile.TemporaryDirectory() as folder:
            scenario = Scenario(
                configs, deterministic=True, n_trials=10**6, min_budget=1, max_budget=MAX_T, seed=seed, output_directory=Path(folder)
            )
            intensifier = HyperbandFacade.get_intensifier(scenario, eta=eta)
            facade = HyperbandFacade(scenario, _unused, intensifier=intensifier, overwrite=True, logging_level=False)
            paid: dict[int, int] = {}
            while True:
                info = facade.ask()
                row, until = int(info.config["row"]), max(1, int(info.budget))
                value = purse.task.losses[row][paid.get(row, 0)]
                for step in range(paid.get(row, 0) + 1, until + 1):
                    value = purse.look(row, step)
                    paid[row] = step
                    if not math.isfinite(value):
                        break
                facade.tell(info, TrialValue(cost=value if math.isfinite(value) else LARGEST))

    return run


def _unused(config: Any, seed: int, budget: float) -> float:
    """SMAC wants a target function; asked and told, it never calls it."""
    return 0.0


PEERS: dict[str, tuple[str, str, Callable[[Purse, int], None]]] = {
    "optuna_tpe_hyperband_box": (
        "optuna", "Optuna TPE + Hyperband", optuna("TPESampler", lambda p: p.HyperbandPruner(min_resource=1, max_resource=MAX_T), "box")),
    "optuna_tpe_hyperband_eta4_box": (
        "optuna", "Optuna TPE + Hyperband, eta 4",
        optuna("TPESampler", lambda p: p.HyperbandPruner(min_resource=1, max_resource=MAX_T, reduction_factor=4), "box")),
    "optuna_tpe_hyperband_index": (
        "optuna", "Optuna TPE + Hyperband, rows by number",
        optuna("TPESampler", lambda p: p.HyperbandPruner(min_resource=1, max_resource=MAX_T), "index")),
    "optuna_gp_full_box": ("optuna", "Optuna GP, full runs", optuna("GPSampler", lambda p: p.NopPruner(), "box")),
    "optuna_random_sha_index": (
        "optuna", "Optuna random + SHA", optuna("RandomSampler", lambda p: p.SuccessiveHalvingPruner(min_resource=1), "index")),
    "optuna_random_sha_box": (
        "optuna", "Optuna random + SHA, box", optuna("RandomSampler", lambda p: p.SuccessiveHalvingPruner(min_resource=1), "box")),
    "syne_tune_asha_eta3": ("syne-tune", "Syne Tune ASHA", syne_tune(3)),
    "syne_tune_asha_eta4": ("syne-tune", "Syne Tune ASHA, eta 4", syne_tune(4)),
    "smac_hyperband_eta3": ("smac", "SMAC Hyperband", smac(3)),
    "smac_hyperband_eta4": ("smac", "SMAC Hyperband, eta 4", smac(4)),
}  # fmt: skip


def ray_diverged(task: Task, seeds: int) -> float:
    """(c): the share of all epochs that Ray's ASHA spends on trials after their first NaN."""
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import ASHAScheduler

    spent = beyond = 0
    for seed in range(seeds):
        scheduler = ASHAScheduler(time_attr="step", metric="loss", mode="min", max_t=MAX_T, grace_period=1, reduction_factor=4)
        for row in np.random.default_rng(seed).permutation(len(task.rows)):
            trial = Trial("curve", stub=True)
            scheduler.on_trial_add(None, trial)
            for step in range(1, MAX_T + 1):
                value = task.losses[row][step]
                spent += 1
                beyond += not math.isfinite(task.losses[row][step - 1])
                if scheduler.on_trial_result(None, trial, {"loss": value, "step": step}) != "CONTINUE":
                    break
    return beyond / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default="", help="peers whose file name starts so")
    parser.add_argument("--to", default=str(HERE), help="folder of the files")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    tasks = tasks_of(options.curves)
    for file, (package, name, run) in PEERS.items():
        if not file.startswith(options.only) or common.version(package) is None:
            continue
        rows: dict[str, list[list[int]]] = {}
        for task in tasks:
            rows[task.name] = []
            for seed in range(options.seeds):
                random.seed(seed)
                purse = Purse(task, seed)
                with contextlib.suppress(Spent), contextlib.redirect_stdout(io.StringIO()):
                    run(purse, seed)
                rows[task.name].append(purse.rows + [purse.row] * (len(BUDGETS) - len(purse.rows)))
            print(file, task.name, flush=True)
        said = {"name": name, "package": package, "version": common.version(package), "max_t": MAX_T, "budgets": list(BUDGETS)}
        _write(Path(options.to) / f"{file}.json", SimpleNamespace(**said, seeds=options.seeds, rows=rows))
    if "ray_asha_diverged".startswith(options.only) and common.version("ray") is not None:
        shares = {task.name: ray_diverged(some, min(3, options.seeds)) for task in tasks if (some := spoiled(task, 0)) is not None}
        said = {"name": "Ray ASHA", "package": "ray", "version": common.version("ray"), "rows": {}}
        _write(Path(options.to) / "ray_asha_diverged.json", SimpleNamespace(**said, beyond_first_nan=shares))


def _write(path: Path, what: SimpleNamespace) -> None:
    path.write_text(json.dumps(vars(what), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

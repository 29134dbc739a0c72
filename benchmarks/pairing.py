"""GPSearch with early stopping, on real learning curves: what a searcher that learns from every look adds, and what looking early costs.

The curves, the rows, the epochs, the recommendation and the regret are those of early_stopping.py (b): one slot, 10, 20 and 50 full
runs' worth of epochs. Searched are the same rows by GPSearch and by random search, under ASHA, under Hyperband, and in full runs.

Compared is regret, pair by pair (same task, same seed): per task the median over seeds of the difference, then the median over tasks,
with a 95 % interval from a bootstrap (seeds resampled within tasks). Goals, at every budget:
- ASHA + GP and Hyperband + GP against the same scheduler with random search: no worse, the interval's upper end is at most 0. Equals
  reach that too, and many pairs are equal, for they end at the table's best row. Better is only what lies below 0 with its interval,
  as the second table shows; means stand in the first.
- ASHA + GP against Optuna's TPE + Hyperband, whichever of its forms did best at that budget, and against Optuna's GP with full runs
  (peers/early_stopping.py makes their runs): no worse, likewise.
- Hyperband + GP against the best of all peers that stop early, whichever did best at that budget: no worse, likewise.
- ASHA + GP against GPSearch with full runs: early stopping does not cost the answer, the interval's upper end is at most 0.01.

A study of the GP takes a minute or more, so each is written to a file when it ends, and a second run goes on from there; one of another
commit or of other versions is refused.

    python benchmarks/pairing.py [TASKSET_CURVES.npz] [--quick] [--seeds 10] [--tasks 6] [--so-far FILE] [--results DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Goal
from early_stopping import BUDGETS, ETA, MAX_T, RESAMPLES, Task, peer_rows, recommended, tasks_of

import torchtune_hp as hp

SCHEDULERS: dict[str, Callable[[], Any]] = {
    "ASHA": lambda: hp.ASHA(max_t=MAX_T, reduction_factor=ETA),
    "Hyperband": lambda: hp.Hyperband(max_t=MAX_T, reduction_factor=ETA),
    "full runs": lambda: hp.FullRuns(MAX_T),
}
SEARCHERS: dict[str, Callable[[], Any]] = {"GP": hp.GPSearch, "random": hp.RandomSearch}
METHODS = [(scheduler, searcher) for scheduler in SCHEDULERS for searcher in SEARCHERS]
OURS = "ASHA + GP"
TPE, GP = "Optuna TPE + Hyperband", "Optuna GP, full runs"
COST = 0.01     # of regret, where that of a median row is 1
CODE = ("commit", "python", "torch")    # what a study of ours depends on


class SoFar:
    """Studies that have ended, each a line of a file once there is one. What it holds is not run again.

    Raises SystemExit if one was made by other code than this, {commit and versions}.
    """

    def __init__(self, path: Path | None, code: dict[str, Any]) -> None:
        self._path, self._code = path, code
        lines = list(map(json.loads, path.read_text().splitlines())) if path is not None and path.exists() else []
        other = next((line.get("code") for line in lines if line.get("code") != code), code)
        if other != code:
            raise SystemExit(f"--so-far: one code is compared, but {path} has studies of {other}, and this is {code}. Name another file.")
        self._known = {line["study"]: line["found"] for line in lines}

    def __call__(self, study: str, run: Callable[[], list[Any]]) -> list[Any]:
        """What a study found, by `run` if it is not known yet."""
        if study not in self._known:
            began = time.perf_counter()
            self._known[study] = found = run()
            if self._path is not None:
                line = {"study": study, "found": found, "seconds": round(time.perf_counter() - began, 1), "code": self._code}
                with self._path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        return self._known[study]


def studies(tasks: list[Task], seeds: int, budgets: tuple[int, ...], so_far: SoFar) -> dict[str, dict[str, list[list[int]]]]:
    """The recommended rows of each method, task and seed; {method: {task: [seed][budget]}}."""

    def rows(task: Task, scheduler: str, searcher: str, seed: int) -> list[int]:
        return recommended(task, task.looks(SCHEDULERS[scheduler](), workers=1, seed=seed, searcher=SEARCHERS[searcher]()), budgets)

    def named(scheduler: str, searcher: str, task: Task, seed: int) -> list[int]:
        return so_far(f"{scheduler} + {searcher}, {task.name}, {seed}, {budgets}", lambda: rows(task, scheduler, searcher, seed))

    return {
        f"{scheduler} + {searcher}": {task.name: [named(scheduler, searcher, task, seed) for seed in range(seeds)] for task in tasks}
        for scheduler, searcher in METHODS
    }


def regrets(tasks: list[Task], rows: dict[str, list[list[int]]]) -> np.ndarray:
    """(tasks, seeds, budgets)."""
    return np.stack([task.regret[np.array(rows[task.name])] for task in tasks])


def compared(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Regret (tasks, seeds) of ours minus theirs, paired: the median over tasks of medians over seeds, and its 95 % interval."""
    n = min(ours.shape[1], theirs.shape[1])
    difference = ours[:, :n] - theirs[:, :n]
    picks = np.random.default_rng(0).integers(0, n, (RESAMPLES, len(difference), n))
    medians = np.median(np.median(np.take_along_axis(difference[None], picks, 2), axis=2), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(np.median(difference, axis=1))), float(low), float(high)


def rivals(found: dict[str, np.ndarray], k: int) -> list[tuple[str, str, float]]:
    """(ours, the rival, what the interval's upper end may be) at budget number k."""
    pairs = [(OURS, "ASHA + random", 0.0), ("Hyperband + GP", "Hyperband + random", 0.0), (OURS, "full runs + GP", COST)]
    forms = [name for name in found if name.startswith(TPE)]
    if forms:
        pairs.append((OURS, min(forms, key=lambda name: float(found[name][:, :, k].mean())), 0.0))
    peers = [name for name in found if name not in {f"{scheduler} + {searcher}" for scheduler, searcher in METHODS} | {GP}]
    if peers:
        pairs.append(("Hyperband + GP", min(peers, key=lambda name: float(found[name][:, :, k].mean())), 0.0))
    return pairs + [(OURS, GP, 0.0)]


def paired(found: dict[str, np.ndarray], budgets: tuple[int, ...]) -> tuple[list[dict[str, Any]], list[Goal]]:
    """Every pair at every budget, and the goal that it is."""
    pairs, goals = [], []
    for k, budget in enumerate(budgets):
        runs = budget // MAX_T
        for ours, rival, bound in rivals(found, k):
            middle, low, high = (math.nan,) * 3 if rival not in found else compared(found[ours][:, :, k], found[rival][:, :, k])
            pairs.append({"ours": ours, "rival": rival, "full_runs": runs, "difference": middle, "low": low, "high": high})
            goals.append(Goal(f"{ours} no worse than {rival}, {runs} runs: upper end", high, "<=", bound))
    return pairs, goals


def shown(pairs: list[dict[str, Any]], goals: list[Goal]) -> tuple[list[dict[str, Any]], list[Goal]]:
    """Prints both, and gives them back."""
    common.table(
        "ours - rival: median regret, 95 % interval",
        ["ours", "rival", "runs", "difference", "from", "to"],
        [[*(pair[key] for key in ("ours", "rival", "full_runs", "difference", "low", "high"))] for pair in pairs],
    )
    common.show_goals(goals)
    return pairs, goals


def main(arguments: list[str] | None = None) -> dict[str, Any] | None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", nargs="?", help="taskset_curves.npz; without it there is nothing to measure")
    parser.add_argument("--quick", action="store_true", help="one task, one seed, 10 full runs' worth; writes nothing without --results")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--tasks", type=int, help="only the first so many tasks")
    parser.add_argument("--so-far", type=Path, help="file of the studies that have ended; those in it are not run again")
    parser.add_argument("--results", help="folder for the result; the full form's default is benchmarks/results")
    options = parser.parse_args(arguments)
    if options.curves is None or not Path(options.curves).exists():
        print("pairing: skipped. Pass the path of taskset_curves.npz (benchmarks/README.md says what is in it).")
        return None
    seeds = options.seeds or (1 if options.quick else 10)
    budgets = BUDGETS[:1] if options.quick else BUDGETS
    where, probed = common.environment("optuna"), common.probes()
    common.heading(where, probed)
    tasks = list(islice(tasks_of(options.curves), options.tasks or (1 if options.quick else None)))
    rows = studies(tasks, seeds, budgets, SoFar(options.so_far, {name: str(where[name]) for name in CODE}))
    found = {name: regrets(tasks, by_task) for name, by_task in (rows | peer_rows(tasks, seeds)).items()}
    common.table(
        "mean normalized regret",
        ["method", *(f"{budget // MAX_T} runs" for budget in budgets), "seeds"],
        [[name, *regret.mean((0, 1))[: len(budgets)], regret.shape[1]] for name, regret in found.items()],
    )
    pairs, goals = shown(*paired(found, budgets))
    result = {"environment": where, "probes": probed, "quick": options.quick, "seeds": seeds, "max_t": MAX_T, "eta": ETA, "rows": rows}
    result |= {"mean_regret": {name: regret.mean((0, 1)).tolist() for name, regret in found.items()}, "pairs": pairs}
    result["goals"] = common.goals_json(goals)
    common.save("pairing", options.results or (None if options.quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

"""Runs the peers of suggest_objectives.py, once, and keeps the values they evaluated in suggest_objectives_*.json beside this file.

Optuna's GPSampler (expected hypervolume improvement) and NSGAIISampler, both with their defaults, on Optuna's own distributions.
A run that is there already (as long, of that seed) is not run again.

    python benchmarks/peers/suggest_objectives.py [--peers optuna_gp,optuna_nsga2] [--tasks ...] [--seeds 10] [--evaluations 100]
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))         # suggest_quality is the one beside this file

from suggest_objectives_tasks import Task, tasks  # noqa: E402
from suggest_quality import kept_in, suggested  # noqa: E402

PEERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "optuna_gp": ("Optuna, GP", "GPSampler", ("optuna", "torch")),
    "optuna_nsga2": ("Optuna, NSGA-II", "NSGAIISampler", ("optuna",)),
}


def optuna_by(make: str, task: Task, seed: int, evaluations: int) -> list[tuple[float, ...]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * len(task.reference), sampler=getattr(optuna.samplers, make)(seed=seed))
    found: list[tuple[float, ...]] = []

    def objective(trial: Any) -> tuple[float, ...]:
        found.append(task.values({name: suggested(trial, name, domain) for name, domain in task.space.items()}))
        return found[-1]

    study.optimize(objective, n_trials=evaluations)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--tasks", default="", help="names, separated by commas; default: all")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--to", default=str(HERE), help="folder of the files")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = tasks()
    for peer in options.peers.split(","):
        name, make, packages = PEERS[peer]
        path = Path(options.to) / f"suggest_objectives_{peer}.json"
        said = kept_in(path, name, packages)
        for seed in range(options.seeds):
            for task in options.tasks.split(",") if options.tasks else found:
                kept = said["values"].setdefault(task, [])
                if seed < len(kept) and len(kept[seed]) >= options.evaluations:
                    continue
                values = optuna_by(make, found[task], seed, options.evaluations)
                kept[seed : seed + 1] = [[[float(f"{value:.5g}") for value in point] for point in values]]
                path.write_text(json.dumps(said, separators=(",", ":")) + "\n")
                print(name, task, seed, flush=True)


if __name__ == "__main__":
    main()

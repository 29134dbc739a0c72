"""Runs the peers of suggest_quality.py, once, and keeps what they evaluated in suggest_quality_*.json beside this file.

- BoTorch: 2 (d + 1) points of a scrambled Sobol sequence, then SingleTaskGP (MixedSingleTaskGP where there are categories) fitted by
  `fit_gpytorch_mll`, and LogExpectedImprovement by `optimize_acqf` with 10 restarts of 512 raw samples; where coordinates have levels,
  by `optimize_acqf_mixed_alternating` with its defaults. Points are of the unit cube that our space gives everyone.
- Optuna: GPSampler and TPESampler with their defaults, on Optuna's own distributions.

Everyone sees the same noise. A run that is there already (as long, of that seed) is not run again.

    python benchmarks/peers/suggest_quality.py [--peers botorch,optuna_gp,optuna_tpe] [--tasks ...] [--seeds 10] [--evaluations 100]
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
from suggest_tasks import Task, tasks  # noqa: E402
from torch import Tensor  # noqa: E402

import torchtune_hp as hp  # noqa: E402


def botorch(task: Task, seed: int, evaluations: int) -> list[float]:
    from botorch.acquisition import LogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import MixedSingleTaskGP, SingleTaskGP
    from botorch.optim import optimize_acqf, optimize_acqf_mixed_alternating
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(seed)
    space = hp.Space(task.space)
    d = len(space)
    levels = {k: space.levels(k, 2**10).tolist() for k, dim in enumerate(space.dims) if dim.levels is not None}
    listed = {k: values for k, values in levels.items() if space.dims[k].kind == "category"}
    bounds = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, d)
    x = space.canonical(torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(2 * (d + 1), dtype=torch.float64))
    values: list[float] = []
    told: list[float] = []

    def evaluate(points: Tensor) -> None:
        for config in space.decode(points):
            values.append(task.value(config))
            told.append(-task.observed(values[-1], seed, len(values) - 1))      # it maximizes

    evaluate(x[:evaluations])
    while len(values) < evaluations:
        y = torch.tensor(told, dtype=torch.float64)[:, None]
        model: Any = MixedSingleTaskGP(x, y, cat_dims=list(listed)) if listed else SingleTaskGP(x, y)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        worth = LogExpectedImprovement(model, best_f=y.amax())
        if levels:
            numbers = {k: found for k, found in levels.items() if k not in listed}
            found, _ = optimize_acqf_mixed_alternating(worth, bounds, discrete_dims=numbers or None, cat_dims=listed or None)
        else:
            found, _ = optimize_acqf(worth, bounds, q=1, num_restarts=10, raw_samples=512)
        point = space.canonical(found.detach())
        x = torch.cat([x, point])
        evaluate(point)
    return values


def optuna_by(make: str) -> Callable[[Task, int, int], list[float]]:
    def run(task: Task, seed: int, evaluations: int) -> list[float]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=getattr(optuna.samplers, make)(seed=seed))
        values: list[float] = []

        def objective(trial: Any) -> float:
            values.append(task.value({name: suggested(trial, name, domain) for name, domain in task.space.items()}))
            return task.observed(values[-1], seed, len(values) - 1)

        study.optimize(objective, n_trials=evaluations)
        return values

    return run


def suggested(trial: Any, name: str, domain: Any) -> Any:
    """Of a domain of ours. Numbers in order that are no interval are suggested by their place."""
    if domain.word == "uniform":
        return trial.suggest_float(name, *domain.arguments)
    if domain.word == "randint":
        return trial.suggest_int(name, domain.arguments[0], domain.arguments[1] - 1)
    values = domain.arguments[0]
    return trial.suggest_categorical(name, values) if domain.word == "choice" else values[trial.suggest_int(name, 0, len(values) - 1)]


PEERS: dict[str, tuple[str, tuple[str, ...], Callable[[Task, int, int], list[float]]]] = {
    "botorch": ("BoTorch, log EI", ("botorch", "gpytorch", "torch"), botorch),
    "optuna_gp": ("Optuna, GP", ("optuna", "torch"), optuna_by("GPSampler")),
    "optuna_tpe": ("Optuna, TPE", ("optuna",), optuna_by("TPESampler")),
}


def kept_in(path: Path, name: str, packages: tuple[str, ...]) -> dict[str, Any]:
    """What the file holds of a peer's runs; nothing yet if it ran in other versions, for those are not mixed with these."""
    versions = {package: version(package) for package in packages}
    said: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return said if said.get("versions") == versions else {"name": name, "versions": versions, "values": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--tasks", default="", help="names, separated by commas; default: all")
    parser.add_argument("--tables", help="fcnet_tables.npz: its two tasks as well")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--to", default=str(HERE), help="folder of the files")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = tasks(options.tables)
    for peer in options.peers.split(","):
        name, packages, run = PEERS[peer]
        path = Path(options.to) / f"suggest_quality_{peer}.json"
        said = kept_in(path, name, packages)
        for task in options.tasks.split(",") if options.tasks else found:
            kept = said["values"].setdefault(task, [])
            for seed in range(options.seeds):
                if seed < len(kept) and len(kept[seed]) >= options.evaluations:
                    continue
                kept[seed : seed + 1] = [[float(f"{value:.9g}") for value in run(found[task], seed, options.evaluations)]]
                path.write_text(json.dumps(said, separators=(",", ":")) + "\n")
                print(name, task, seed, min(kept[seed]), flush=True)


if __name__ == "__main__":
    main()

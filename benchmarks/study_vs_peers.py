"""The same study, whole, with this library, an Optuna loop and Ray Tune: 100 trials of a small network on real data, with ASHA.

Measured: an MLP 64-64-64-10 on scikit-learn's digits, batch 64, AdamW, at most 10 epochs, four hyperparameters (learning rate, weight
decay, dropout, beta1); ASHA (eta 3, from 1 epoch). Everyone trains the same model on the same split and reports the validation
accuracy of each epoch; every run is a process of its own, from before its imports to its best result.

    ours, fused        Tuner with executor=Fused(50): a ModelTrainable, as one tensor program; 50 slots, so that every run decides the same
    ours, alone        the same with strategy="loop": what fusing adds, with everything else the same
    ours, processes    the same in as many worker processes as there are cores: k processes on one device
    Optuna             ask, train, report, should_prune, tell; RandomSampler, SuccessiveHalvingPruner(1, 3), in memory
    Ray Tune           a function trainable, ASHAScheduler(max_t=10, grace_period=1, reduction_factor=3), random search
    Optuna, no stop    every trial trained to its end: what early stopping adds

"study" is the time of the study itself: imports and the start of ray are left out and shown beside it. The product of three
factors is printed: overhead (Ray Tune against an Optuna loop, both train one after another with ASHA), fusion (alone against
fused), early stopping (Optuna without against with).

The claim would be false if qualities differed (best accuracies over all seeds are printed with their spread; the goals count only
if ours is not worse than the peers' by more than a standard error), if epochs were skipped (they are counted), or if a peer were
run against its own advice (its settings are its documentation's).

    python benchmarks/study_vs_peers.py [--quick] [--seeds 5] [--ray-seeds 5] [--trials 100] [--without ray,optuna] [--results DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from typing import Any

BEGAN = time.perf_counter()
EPOCHS, BATCH, ETA = 10, 64, 3
SPACE = {"lr": (1e-4, 1e-1), "wd": (1e-5, 1e-1), "dropout": (0.0, 0.6), "beta1": (0.7, 0.98)}


def digits() -> Any:
    """(x, y) to train on, (x, y) to choose by; 1,200 and 597 images."""
    import torch
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = torch.as_tensor(x / 16, dtype=torch.float32)[order], torch.as_tensor(y)[order]
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


def mlp(config: Any) -> Any:
    from torch import nn

    def block(width: int) -> list[Any]:
        return [nn.Linear(width, 64), nn.ReLU(), nn.Dropout(config["dropout"])]

    return nn.Sequential(*block(64), *block(64), nn.Linear(64, 10))


def adamw(model: Any, config: Any) -> Any:
    import torch

    return torch.optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=config["wd"], betas=(config["beta1"], 0.999))


def epochs_of(config: Any, train: Any, val: Any) -> Any:
    """An ordinary training loop: the validation accuracy after each epoch."""
    import torch
    from torch.nn import functional as F

    model = mlp(config)
    optimizer = adamw(model, config)
    x, y = train
    for _ in range(EPOCHS):
        model.train()
        order = torch.randperm(len(y))
        for k in range(len(y) // BATCH):
            index = order[k * BATCH : (k + 1) * BATCH]
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            yield (model(val[0]).argmax(-1) == val[1]).float().mean().item()


# The systems, each in a process of its own ---------------------------------------------------------------------------------------


def ours(how: str, trials: int, seed: int) -> dict[str, Any]:
    import torch
    from torch.nn import functional as F

    import torchtune_hp as hp

    class Digits(hp.ModelTrainable):
        def setup(self, config: Any) -> None:
            self.model = mlp(config)
            self.optimizer = adamw(self.model, config)

        @classmethod
        def data(cls) -> hp.Data:
            train, val = digits()
            return hp.Data(train=train, val=val, batch_size=BATCH)

        def training_step(self, model: Any, batch: Any) -> Any:
            return F.cross_entropy(model(batch[0]), batch[1])

        def validation_step(self, model: Any, batch: Any) -> Any:
            return {"accuracy": (model(batch[0]).argmax(-1) == batch[1]).float().mean()}

    tune, asha, random = hp.tune, hp.ASHA(max_t=EPOCHS, reduction_factor=ETA), hp.RandomSearch()      # a name is imported at its first use
    executor = {"fused": hp.Fused(50), "alone": hp.Fused(50, strategy="loop"), "processes": hp.Processes()}[how]
    space = {name: hp.uniform(*bounds) if name in ("dropout", "beta1") else hp.loguniform(*bounds) for name, bounds in SPACE.items()}
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])      # the first optimizer of a process imports what it needs
    digits()        # imports scikit-learn, as it is imported before the others' studies begin
    folder = tempfile.mkdtemp(prefix="study-")
    began = time.perf_counter()
    results = tune(
        Digits, space, metric="accuracy", mode="max", trials=trials, seed=seed, scheduler=asha, searcher=random, executor=executor,
        storage=folder, name="study", verbose=0,
    )  # fmt: skip
    took = time.perf_counter() - began
    epochs = next(results.journal.rows("SELECT count(*) FROM report"))[0]
    best = results.best.metrics["accuracy"]
    results.close()
    shutil.rmtree(folder, ignore_errors=True)
    return {"study_s": took, "trials": trials, "epochs": epochs, "accuracy": best}


def optuna_loop(how: str, trials: int, seed: int) -> dict[str, Any]:
    import optuna
    import torch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.manual_seed(seed)
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    train, val = digits()
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=ETA) if how == "asha" else optuna.pruners.NopPruner()
    began = time.perf_counter()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed), pruner=pruner)
    counted = 0

    def objective(trial: Any) -> float:
        nonlocal counted
        config = {name: trial.suggest_float(name, *bounds, log=name in ("lr", "wd")) for name, bounds in SPACE.items()}
        best = 0.0
        for epoch, accuracy in enumerate(epochs_of(config, train, val), 1):
            counted += 1
            best = max(best, accuracy)
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best

    study.optimize(objective, n_trials=trials)
    took = time.perf_counter() - began
    best = max(max(trial.intermediate_values.values()) for trial in study.trials)
    return {"study_s": took, "trials": len(study.trials), "epochs": counted, "accuracy": best}


def ray_tune(how: str, trials: int, seed: int) -> dict[str, Any]:
    import ray
    from ray import tune

    train, val = digits()

    def objective(config: Any) -> None:
        import torch

        torch.manual_seed(seed)
        for accuracy in epochs_of(config, train, val):
            tune.report({"accuracy": accuracy})

    folder = tempfile.mkdtemp(prefix="study-")
    began = time.perf_counter()
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", configure_logging=True)
    started = time.perf_counter()
    space = {name: tune.loguniform(*bounds) if name in ("lr", "wd") else tune.uniform(*bounds) for name, bounds in SPACE.items()}
    scheduler = tune.schedulers.ASHAScheduler(max_t=EPOCHS, grace_period=1, reduction_factor=ETA)
    config = tune.TuneConfig(metric="accuracy", mode="max", num_samples=trials, scheduler=scheduler)
    tuner = tune.Tuner(objective, param_space=space, tune_config=config, run_config=tune.RunConfig(storage_path=folder, verbose=0))
    with contextlib.redirect_stdout(io.StringIO()):
        grid = tuner.fit()
    took = time.perf_counter() - started
    best = max(float(result.metrics_dataframe["accuracy"].max()) for result in grid)
    epochs = sum(int(result.metrics["training_iteration"]) for result in grid)
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    return {"study_s": took, "trials": len(grid), "epochs": epochs, "accuracy": best, "startup_s": started - began}


SYSTEMS = {
    "ours, fused": (ours, "fused"),
    "ours, alone": (ours, "alone"),
    "ours, processes": (ours, "processes"),
    "Optuna": (optuna_loop, "asha"),
    "Ray Tune": (ray_tune, "asha"),
    "Optuna, no stop": (optuna_loop, "full"),
}


def peak_GB() -> float:
    """The largest resident memory of this process and, on Linux, of its children so far."""
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, children) * (1 if sys.platform == "darwin" else 1024) / 1e9


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 trials, 1 seed, no Ray Tune; writes nothing without --results")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--ray-seeds", type=int, help="seeds of Ray Tune, whose study takes many minutes (default: --seeds)")
    parser.add_argument("--without", default="", help="systems to leave out: ray, optuna, processes")
    parser.add_argument("--results", help="folder for the result; the full form's default is benchmarks/results")
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    trials, seeds = options.trials or (30 if options.quick else 100), options.seeds or (1 if options.quick else 5)
    if options.system:
        run, how = SYSTEMS[options.system]
        found = run(how, trials, options.seed)
        if found["trials"] != trials:
            raise RuntimeError(f"{options.system} made {found['trials']} trials, where {trials} were to be made.")
        found |= {"whole_s": time.perf_counter() - BEGAN, "peak_GB": peak_GB()}
        print(json.dumps(found))
        sys.stdout.flush()
        os._exit(0)         # what a system leaves behind in threads is not waited for
    import common

    where, probed = common.environment("optuna", "ray"), common.probes()
    common.heading(where, probed)
    without = {word for word in options.without.split(",") if word} | ({"ray"} if options.quick else set())
    names = [
        name for name in SYSTEMS
        if not any(word in name.lower() for word in without)
        and not (name.startswith("Optuna") and where["optuna"] is None) and not (name.startswith("Ray") and where["ray"] is None)
    ]  # fmt: skip
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    ray_seeds = seeds if options.ray_seeds is None else options.ray_seeds
    for seed in range(seeds):       # interleaved
        for name in names:
            if name == "Ray Tune" and seed >= ray_seeds:
                continue
            runs[name].append(common.child(__file__, "--system", name, "--trials", str(trials), "--seed", str(seed)))

    def middle(name: str, what: str) -> float:
        return common.median([run[what] for run in runs.get(name, [])])

    common.table(
        f"{trials} trials of at most {EPOCHS} epochs with ASHA; medians of {seeds} seeds (Ray Tune: {min(seeds, ray_seeds)})",
        ["system", "study, s", "with imports, s", "epochs", "best accuracy", "peak memory, GB", "x ours, fused"],
        [
            [name, middle(name, "study_s"), middle(name, "whole_s"), middle(name, "epochs"), middle(name, "accuracy"),
             middle(name, "peak_GB"), middle(name, "study_s") / middle("ours, fused", "study_s")]
            for name in names
        ],
    )  # fmt: skip
    base = middle("ours, fused", "study_s")
    factors = {
        "overhead (Ray Tune / Optuna)": middle("Ray Tune", "study_s") / middle("Optuna", "study_s"),
        "fusion (alone / fused)": middle("ours, alone", "study_s") / base,
        "early stopping (Optuna without / with)": middle("Optuna, no stop", "study_s") / middle("Optuna", "study_s"),
    }
    for name, value in factors.items():
        print(f"  {name}: {common.number(value)}x")
    product = 1.0
    for value in factors.values():
        product *= value
    print(f"  their product: {common.number(product)}x")
    goals = [
        common.Goal("Ray Tune / ours, fused", middle("Ray Tune", "study_s") / base, ">=", 50.0, "x"),
        common.Goal("Optuna / ours, fused", middle("Optuna", "study_s") / base, ">=", 8.0, "x"),
        common.Goal("best accuracy, ours less Optuna's", middle("ours, fused", "accuracy") - middle("Optuna", "accuracy"), ">=", -0.005),
    ]
    common.show_goals(goals)
    result = {"environment": where, "probes": probed, "quick": options.quick, "trials": trials, "seeds": seeds, "runs": runs}
    result |= {"ray_seeds": min(seeds, ray_seeds), "factors": factors, "product": product, "goals": common.goals_json(goals)}
    common.save("study_vs_peers", options.results or (None if options.quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

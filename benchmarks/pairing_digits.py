"""GPSearch with early stopping, on trainings of its own: what pairing.py measures on tables, where every configuration can be asked for.

Two networks on scikit-learn's digits, at most 50 epochs each, judged by the validation loss on 720 others:
  sgd     480 digits, batch 32, SGD: learning rate, momentum, weight decay, dropout, width
  adamw   160 digits, batch 16, AdamW: learning rate, weight decay, first beta, dropout, width
A configuration is trained from the same initial weights and in the same order by everyone, so a loss is a function of configuration
and epoch; it is trained when it is first asked for. An epoch is one step of one trial, and who goes on pays only for what is new.

Methods, budgets (10, 20 and 50 full runs' worth of epochs, one slot), pairs, intervals and goals are those of pairing.py; the peers are
Optuna's TPE with its HyperbandPruner (reduction factor 3, its default, and 4), and its GPSampler with full runs, in the same space. What a
method has found is the lowest loss reported so far, of whatever step, for the weights of that report are what is kept; pairing.py, whose
curves have no weights, asks how a row ends, and a network may end worse than it was at its best. Regret is
(loss - best) / (median - best), cut at 1 (a NaN is 1): `best` is the least that anyone found, here or among 64 random configurations
trained to their end, and `median` is of what those were at their best.

The claims would be false if anyone saw a loss before paying for it, or if a configuration were worth one thing to us and another to a peer.

    python benchmarks/pairing_digits.py [--quick] [--seeds 10] [--tasks sgd,adamw] [--so-far FILE] [--results DIR]
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from common import Look
from early_stopping import BUDGETS, MAX_T
from pairing import CODE, GP, METHODS, SCHEDULERS, SEARCHERS, TPE, SoFar, paired, shown
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp

RANDOM = 64
WIDTHS = [8, 16, 32, 64]
SPACES: dict[str, dict[str, Any]] = {
    "sgd": {
        "lr": hp.loguniform(1e-4, 1.0), "momentum": hp.uniform(0.0, 0.99), "wd": hp.loguniform(1e-6, 1e-1), "dropout": hp.uniform(0.0, 0.6),
        "width": hp.ordinal(WIDTHS),
    },
    "adamw": {
        "lr": hp.loguniform(1e-5, 1e-1), "wd": hp.loguniform(1e-4, 10.0), "beta1": hp.uniform(0.5, 0.99), "dropout": hp.uniform(0.0, 0.6),
        "width": hp.ordinal(WIDTHS),
    },
}  # fmt: skip
DIGITS = {"sgd": (480, 32), "adamw": (160, 16)}     # how many to learn from, and of a batch


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """All of them, in an order of their own, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.as_tensor(images, dtype=torch.float32)[order] / 16, torch.as_tensor(labels)[order]


def training(name: str, config: dict[str, Any]) -> Iterator[float]:
    """The validation loss after each epoch; NaN from where it is no number."""
    x, y = digits()
    count, batch = DIGITS[name]
    state = torch.Generator().manual_seed(1).get_state()        # of this training's own draws; others run in between
    width, p = config["width"], config["dropout"]
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(state)
        model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(p), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
        state = torch.get_rng_state()
    if name == "sgd":
        optimizer: Any = torch.optim.SGD(model.parameters(), config["lr"], config["momentum"], weight_decay=config["wd"])
    else:
        optimizer = torch.optim.AdamW(model.parameters(), config["lr"], (config["beta1"], 0.999), weight_decay=config["wd"])
    for _ in range(MAX_T):
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            model.train()
            for index in torch.randperm(count).split(batch):
                optimizer.zero_grad()
                F.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()
            state = torch.get_rng_state()
        model.eval()
        with torch.no_grad():
            loss = float(F.cross_entropy(model(x[-720:]), y[-720:]))
        if not math.isfinite(loss):
            break
        yield loss
    while True:
        yield math.nan


class Digits:
    """One of the networks. Configurations are known by their number, in the order in which they were first asked for."""

    def __init__(self, name: str) -> None:
        self.name, self.space = name, hp.Space(SPACES[name])
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._trainings: list[Iterator[float]] = []
        self._losses: list[list[float]] = []

    def row(self, config: Any) -> int:
        number = self._numbers.setdefault(tuple(config.values()), len(self._numbers))
        if number == len(self._losses):
            self._trainings.append(training(self.name, dict(config)))
            self._losses.append([])
        return number

    def loss(self, number: int, step: int) -> float:
        losses = self._losses[number]
        while len(losses) < step:
            losses.append(next(self._trainings[number]))
        return losses[step - 1]

    def curve(self, config: Any, step: int) -> dict[str, float]:
        return {"loss": self.loss(self.row(config), step)}


def ours(task: Digits, scheduler: str, searcher: str, seed: int) -> Iterator[Look]:
    return common.looks(task.space, SCHEDULERS[scheduler](), task.curve, workers=1, seed=seed, searcher=SEARCHERS[searcher]())


def suggested(trial: Any, task: Digits) -> dict[str, Any]:
    def one(name: str, domain: Any) -> Any:
        if domain.word == "ordinal":
            return domain.arguments[0][trial.suggest_int(name, 0, len(domain.arguments[0]) - 1)]
        return trial.suggest_float(name, *domain.arguments, log=domain.word == "loguniform")

    return {name: one(name, domain) for name, domain in SPACES[task.name].items()}


def optuna(sampler: str, pruner: Callable[[Any], Any]) -> Callable[[Digits, int], Iterator[Look]]:
    def run(task: Digits, seed: int) -> Iterator[Look]:
        import optuna as peer

        peer.logging.set_verbosity(peer.logging.ERROR)
        study = peer.create_study(sampler=getattr(peer.samplers, sampler)(seed=seed), pruner=pruner(peer.pruners))
        spent = 0
        while True:
            trial = study.ask()
            config = suggested(trial, task)
            for step in range(1, MAX_T + 1):
                value = task.loss(task.row(config), step)
                spent += 1
                yield Look(trial.number, config, step, value, spent)
                trial.report(value, step)
                if not math.isfinite(value) or trial.should_prune():
                    study.tell(trial, state=peer.trial.TrialState.PRUNED)
                    break
            else:
                study.tell(trial, value)

    return run


PEERS = {
    TPE: optuna("TPESampler", lambda p: p.HyperbandPruner(min_resource=1, max_resource=MAX_T)),
    f"{TPE}, eta 4": optuna("TPESampler", lambda p: p.HyperbandPruner(min_resource=1, max_resource=MAX_T, reduction_factor=4)),
    GP: optuna("GPSampler", lambda p: p.NopPruner()),
}


def methods(peers: bool) -> dict[str, Callable[[Digits, int], Iterator[Look]]]:
    def of(scheduler: str, searcher: str) -> Callable[[Digits, int], Iterator[Look]]:
        return lambda task, seed: ours(task, scheduler, searcher, seed)

    return {f"{scheduler} + {searcher}": of(scheduler, searcher) for scheduler, searcher in METHODS} | (PEERS if peers else {})


def lowest(seen: Iterator[Look], budgets: tuple[int, ...]) -> list[float]:
    """The lowest loss reported within each budget."""
    best, found = math.inf, []
    for look in seen:
        while len(found) < len(budgets) and look.epochs > budgets[len(found)]:
            found.append(best)
        if len(found) == len(budgets):
            break
        best = min(best, look.value) if math.isfinite(look.value) else best
    return found + [best] * (len(budgets) - len(found))


def at_their_best(task: Digits, n: int) -> list[float]:
    """The lowest losses of random configurations; NaN where there is none."""
    x = task.space.canonical(torch.from_numpy(np.random.default_rng(0).random((n, len(task.space)))))
    numbers = [task.row(config) for config in task.space.decode(x)]
    return [float(np.fmin.reduce([task.loss(number, step) for step in range(1, MAX_T + 1)])) for number in numbers]


def regrets(losses: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Of losses (methods, tasks, seeds, budgets), and random configurations' (tasks, n)."""
    best = np.minimum(np.nanmin(losses, axis=(0, 2, 3)), np.nanmin(random, axis=1))[:, None, None]
    middle = np.nanmedian(random, axis=1)[:, None, None]
    return np.asarray(np.minimum(1.0, np.nan_to_num((losses - best) / (middle - best), nan=1.0)))


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one network, one seed, 10 full runs' worth; writes nothing without --results")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--tasks", help="names, separated by commas; default: both")
    parser.add_argument("--so-far", type=Path, help="file of the studies that have ended; those in it are not run again")
    parser.add_argument("--results", help="folder for the result; the full form's default is benchmarks/results")
    options = parser.parse_args(arguments)
    quick = options.quick
    seeds, budgets = options.seeds or (1 if quick else 10), BUDGETS[:1] if quick else BUDGETS
    names = options.tasks.split(",") if options.tasks else list(SPACES)[: 1 if quick else None]
    where, probed = common.environment("optuna"), common.probes()
    common.heading(where, probed)
    so_far = SoFar(options.so_far, {name: str(where[name]) for name in CODE})
    tasks = [Digits(name) for name in names]
    n = 16 if quick else RANDOM
    random = np.array([so_far(f"random, {task.name}, {n}", lambda task=task: at_their_best(task, n)) for task in tasks])
    losses: dict[str, list[list[list[float]]]] = {name: [[] for _ in tasks] for name in methods(where["optuna"] is not None)}
    for seed in range(seeds):
        for name, run in methods(where["optuna"] is not None).items():
            for k, task in enumerate(tasks):
                study = f"{name}, {task.name}, {seed}, {budgets}"
                losses[name][k].append(so_far(study, lambda run=run, task=task, seed=seed: lowest(run(task, seed), budgets)))
    found = dict(zip(losses, regrets(np.array(list(losses.values())), random)))
    common.table(
        f"mean normalized regret, {seeds} seeds",
        ["method", *(f"{budget // MAX_T} runs" for budget in budgets)],
        [[name, *regret.mean((0, 1))] for name, regret in found.items()],
    )
    pairs, goals = shown(*paired(found, budgets))
    result = {"environment": where, "probes": probed, "quick": quick, "seeds": seeds, "tasks": names, "max_t": MAX_T}
    result |= {"random": random.tolist(), "losses": losses, "pairs": pairs, "goals": common.goals_json(goals)}
    common.save("pairing_digits", options.results or (None if quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

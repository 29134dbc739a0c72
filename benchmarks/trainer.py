"""What does it cost to keep one's own loop? The study of study_vs_peers.py, of a train function with hp.Trainer, against a ModelTrainable.

Measured: 100 trials of an MLP on digits, at most 10 epochs, ASHA by promotion, 50 slots, in one process, rounds interleaved.

    class         a ModelTrainable
    function      a train function: for each epoch `trainer.train()`, `hp.report(trainer.evaluate())`
    one by one    the function with Fused(50, strategy="loop"): what standing together in calls is worth

All begin with the same weights of each trial, so class and function must come to the same results: the largest difference of any
reported accuracy is printed. The claim would be false if the function trained less, or otherwise.

    python benchmarks/trainer.py [--quick] [--rounds 7] [--results DIR]
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import common
import torch
from study_vs_peers import BATCH, EPOCHS, ETA, SPACE, adamw, digits, mlp
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp


def build(config: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(hp.context().seed)
    model = mlp(config)
    return model, adamw(model, config)


def load() -> hp.Data:
    train, val = digits()
    return hp.Data(train=train, val=val, batch_size=BATCH)


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def metrics(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {"accuracy": (model(batch[0]).argmax(-1) == batch[1]).float().mean()}


class Digits(hp.ModelTrainable):
    def setup(self, config: Any) -> None:
        self.model, self.optimizer = build(config)

    @classmethod
    def data(cls) -> hp.Data:
        return load()

    def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return loss_fn(model, batch)

    def validation_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return metrics(model, batch)


def train(config: Any) -> None:
    trainer = hp.Trainer(*build(config), loss_fn, data=load, metrics=metrics)
    for _ in range(EPOCHS):
        trainer.train()
        hp.report(trainer.evaluate())


def study(trainable: Any, strategy: Any, trials: int) -> tuple[float, list[float]]:
    """(seconds, every accuracy that was reported, by trial and step)"""
    space = {name: hp.uniform(*bounds) if name in ("dropout", "beta1") else hp.loguniform(*bounds) for name, bounds in SPACE.items()}
    began = time.perf_counter()
    results = hp.tune(
        trainable, space, metric="accuracy", mode="max", trials=trials, searcher=hp.RandomSearch(), seed=0, storage=None, verbose=0,
        scheduler=hp.ASHA(max_t=EPOCHS, reduction_factor=ETA, variant="promotion"), executor=hp.Fused(50, strategy=strategy),
    )  # fmt: skip
    took = time.perf_counter() - began
    found = [look["accuracy"] for _, curve in sorted(results.curves().items()) for look in curve]
    results.close()
    return took, found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 trials, 2 rounds; writes nothing without --results")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--results", type=Path, help="folder for the result; the full form's default is benchmarks/results")
    options = parser.parse_args(arguments)
    trials, rounds = (30, options.rounds or 2) if options.quick else (100, options.rounds or 7)
    where, probed = common.environment(), common.probes()
    common.heading(where, probed)
    cases = {"class": (Digits, "vmap"), "function": (train, "vmap"), "one by one": (train, "loop")}
    for trainable, strategy in cases.values():      # what is done for the first time takes longer
        study(trainable, strategy, 4)
    runs = common.interleaved({name: (lambda case=case: study(*case, trials)) for name, case in cases.items()}, rounds, {"one by one": 2})
    seconds = {name: [took for took, _ in each] for name, each in runs.items()}
    looks = {name: each[0][1] for name, each in runs.items()}
    lengths = {name: len(each) for name, each in looks.items()}
    pairs = list(zip(looks["class"], looks["function"])) if lengths["class"] == lengths["function"] else [(0.0, math.nan)]
    apart = max(abs(a - b) for a, b in pairs)
    speed = common.median([a / b for a, b in zip(seconds["class"], seconds["function"])])
    worth = common.median([a / b for a, b in zip(seconds["one by one"], seconds["function"])])
    rows = [[name, common.median(each), ", ".join(f"{value:.2f}" for value in each), lengths[name]] for name, each in seconds.items()]
    common.table(f"{trials} trials, seconds", ["", "median", "rounds", "epochs"], rows)
    print(f"the function's speed, of the class's: {speed:.3g}; one by one / function: {worth:.3g}; accuracies apart by at most {apart:.2g}")
    goals = [
        common.Goal("the function's speed, of the class's", speed, ">=", 0.9), common.Goal("accuracies apart", apart, "<=", 0.0),
    ]  # fmt: skip
    common.show_goals(goals)
    result = {
        "environment": where, "probes": probed, "quick": options.quick, "trials": trials, "rounds": rounds, "seconds": seconds,
        "epochs": lengths, "speed": speed, "one_by_one": worth, "apart": apart, "goals": common.goals_json(goals),
    }  # fmt: skip
    common.save("trainer", options.results or (None if options.quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

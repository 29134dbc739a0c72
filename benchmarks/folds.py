"""A cross-validation of every configuration: all folds of all of them as one study, and scikit-learn's folds trained one by one.

Measured: 64 configurations (learning rate, weight decay, first beta, width) of an MLP with one hidden layer on the 569 tumours of
scikit-learn's breast-cancer table, 5 folds, 9 epochs, batch 32, AdamW: 320 trainings, judged by the mean AUC over the folds.

    ours         hp.tune(..., folds=5, executor=Fused(64, strategy="vmap")): 320 models at a time, in stacks by size of fold
    one by one   StratifiedKFold(5, shuffle=True, random_state=0), a training loop by hand for each fold of each configuration, from the
                 initial weights and in the order of the same seeds; AUC by scikit-learn

In float64 both give the same numbers, or the goal is missed: the largest difference between two mean AUCs, and between two mean losses
relative to their size. In float32, where rounding differs, both are timed, in turn; data are loaded and torch is warm by then.

The claim would be false if the folds were others, if a fold's model saw what it is judged by, or if one side trained less than the other.

    python benchmarks/folds.py [--quick] [--rounds 3] [--results DIR]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.seeds import derive

FOLDS, EPOCHS, BATCH = 5, 9, 32
SPACE = {"lr": hp.loguniform(1e-4, 3e-2), "wd": hp.loguniform(1e-4, 1.0), "beta1": hp.uniform(0.7, 0.98), "width": hp.choice([16, 32])}


def tumours(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x, y = load_breast_cancer(return_X_y=True)
    return torch.as_tensor((x - x.mean(0)) / x.std(0), dtype=dtype), torch.as_tensor(y)


def network(config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    return nn.Sequential(nn.Linear(30, config["width"]), nn.ReLU(), nn.Linear(config["width"], 2)).to(dtype)


def adamw(model: nn.Module, config: Mapping[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=config["wd"], betas=(config["beta1"], 0.999))


class Tumours(hp.ModelTrainable):
    def setup(self, config: dict[str, Any], dtype: torch.dtype) -> None:
        self.model = network(config, dtype)
        self.optimizer = adamw(self.model, config)

    @classmethod
    def data(cls, dtype: torch.dtype) -> hp.Data:
        return hp.Data(train=tumours(dtype), batch_size=BATCH)

    def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def validation_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        logits = model(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "scores": logits[:, 1] - logits[:, 0], "labels": batch[1]}

    def validation_end(self, gathered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"auc": hp.metrics.roc_auc(gathered["scores"], gathered["labels"])}


def study(trials: int, dtype: torch.dtype) -> hp.Results:
    """In memory: what is written down is no part of what is compared."""
    return hp.tune(
        hp.with_parameters(Tumours, dtype=dtype), SPACE, metric="auc", mode="max", trials=trials, folds=FOLDS, searcher=hp.RandomSearch(),
        stop=hp.MaxSteps(EPOCHS), executor=hp.Fused(trials, strategy="vmap"), seed=0, storage=None, verbose=0,
    )  # fmt: skip


def by_hand(config: Mapping[str, Any], seed: int, x: Tensor, y: Tensor) -> tuple[float, float]:
    """(mean AUC, mean loss) over the folds, after the last epoch."""
    found = []
    for k, (train, val) in enumerate(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y)):
        own = derive(seed, "replica", f"seed 0, fold {k}")
        torch.manual_seed(derive(own, "setup"))
        model = network(config, x.dtype)
        optimizer = adamw(model, config)
        inputs, labels = x[train], y[train]
        for epoch in range(EPOCHS):
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive(own, "order", epoch)))
            for index in order[: len(order) // BATCH * BATCH].split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs[index]), labels[index]).backward()
                optimizer.step()
        with torch.no_grad():
            logits = model(x[val])
        loss = F.cross_entropy(logits, y[val]).item()
        found.append((roc_auc_score(y[val], logits[:, 1] - logits[:, 0]), loss))
    return tuple(np.mean(found, 0))


def one_by_one(drawn: list[tuple[dict[str, Any], int]], dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """(configurations, 2): mean AUC and mean loss of each."""
    x, y = tumours(dtype)
    return np.array([by_hand(config, seed, x, y) for config, seed in drawn])


def timed_study(trials: int) -> float:
    began = time.perf_counter()
    study(trials, torch.float32).close()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 configurations, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=None)
    options = parser.parse_args()
    trials, rounds = (8, 1) if options.quick else (64, options.rounds)
    where, probed = common.environment("scikit-learn"), common.probes()
    common.heading(where, probed)

    ours = study(trials, torch.float64)
    drawn = [(result.config, ours.launched(result.trial).seed) for result in ours]
    mine = np.array([[reports[-1][name] for name in ("auc", "loss")] for _, reports in sorted(ours.curves().items())])
    theirs = one_by_one(drawn, torch.float64)
    apart = np.abs(mine - theirs)
    auc, loss = float(apart[:, 0].max()), float((apart[:, 1] / theirs[:, 1]).max())
    rows = [["largest difference of mean AUCs", auc], ["largest difference of mean losses, relative", loss]]
    common.table(f"{trials} configurations x {FOLDS} folds, float64", ["", "ours and one by one"], rows)
    stacks = str(ours.members_per_stack)

    cases = {"ours": lambda: timed_study(trials), "one by one": common.timed(one_by_one, drawn, torch.float32)}
    seconds = common.interleaved(cases, rounds)
    ratio = common.median([slow / fast for slow, fast in zip(seconds["one by one"], seconds["ours"])])
    times = [[name, common.median(each), ", ".join(f"{value:.2f}" for value in each)] for name, each in seconds.items()]
    common.table("float32, seconds", ["", "median", "rounds"], times)
    goals = [
        common.Goal("mean AUCs apart, float64", auc, "<=", 1e-9), common.Goal("mean losses apart, float64, relative", loss, "<=", 1e-7),
    ]  # fmt: skip
    print(f"one by one / ours: {ratio:.3g}")
    common.show_goals(goals)
    common.save(
        "folds", options.results,
        {
            "environment": where, "probes": probed, "quick": options.quick, "trials": trials, "auc_apart": auc, "loss_apart": loss,
            "seconds": seconds, "ratio": ratio, "members_per_stack": stacks, "goals": common.goals_json(goals),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""A cross-validation of every trial: 48 configurations x 5 folds of a table are 240 models, 120 of them at a time in one stack.

What is optimized is the mean AUC over the folds; how far the folds are apart stands beside it. At the end the five models of the best
trial vote on a test set that no fold saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

import torchtune_hp as hp

inputs, labels = load_breast_cancer(return_X_y=True)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
x = torch.as_tensor((inputs - inputs.mean(0)) / inputs.std(0), dtype=torch.float32)[order]
y = torch.as_tensor(labels)[order]


class Tumors(hp.ModelTrainable):
    """Benign or malignant, from 30 measurements."""

    def setup(self, config: dict[str, Any]) -> None:
        width = config["width"]
        self.model = nn.Sequential(nn.Linear(30, width), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(width, 2))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config["lr"], weight_decay=config["wd"])

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data(train=(x[:400], y[:400]), test=(x[400:], y[400:]), batch_size=32)

    def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def validation_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        logits = model(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "scores": logits[:, 1] - logits[:, 0], "labels": batch[1]}

    def validation_end(self, gathered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"auc": hp.metrics.roc_auc(gathered["scores"], gathered["labels"])}


results = hp.Tuner(
    Tumors,
    {
        "lr": hp.loguniform(1e-4, 1e-1), "wd": hp.loguniform(1e-4, 1.0), "dropout": hp.uniform(0.0, 0.6),
        "width": hp.choice([8, 16, 32]),
    },
    metric="auc", mode="max", trials=48, folds=5, scheduler=hp.ASHA(max_t=18, reduction_factor=3),
    executor=hp.Fused(24, strategy="vmap"), seed=1,
).fit()  # fmt: skip

best = results.best
print(f"AUC of the best of {len(results)} trials over 5 folds: {best.metrics['auc']:.4f}, give or take {best.metrics['auc_std']:.4f}")
print(f"trained as {results.members_per_stack}")
votes = hp.Population(best.load()).predict(x[400:]).softmax(-1).mean(0)
right = (votes.argmax(-1) == y[400:]).float().mean()
print(f"on the test set its five models have an AUC of {best.test()['auc']:.4f} on average, and a vote of them is right on {right:.1%}")

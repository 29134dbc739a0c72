"""A ModelTrainable: hand over model, optimizer, loss and data; every loop is the library's.

What is shown beside the bare minimum: a schedule, clipping, a hyperparameter inside the loss (`self.hparams`), a metric of the
whole validation set (`validation_end`), and a test set that no search sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchtune_hp as hp


class Tumors(hp.ModelTrainable):
    """Benign or malignant, from 30 measurements."""

    max_grad_norm = 1.0

    def setup(self, config: dict[str, Any]) -> None:
        width = config["width"]
        self.model = nn.Sequential(nn.Linear(30, width), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(width, 1), nn.Flatten(-2))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config["lr"])
        self.lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=self.max_t or 1)

    @classmethod
    def data(cls) -> hp.Data:
        from sklearn.datasets import load_breast_cancer

        inputs, labels = load_breast_cancer(return_X_y=True)
        x = torch.as_tensor((inputs - inputs.mean(0)) / inputs.std(0), dtype=torch.float32)
        y = torch.as_tensor(labels, dtype=torch.float32)
        return hp.Data(train=(x[:400], y[:400]), val_fraction=0.25, test=(x[400:], y[400:]), batch_size=50)

    def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(model(x), y, pos_weight=self.hparams["pos_weight"])

    def validation_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        logits = model(x)
        return {"accuracy": ((logits > 0) == (y > 0)).float().mean(), "logits": logits, "labels": y}

    def validation_end(self, gathered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The area under the ROC curve: how often a benign sample scores above a malignant one."""
        benign = gathered["labels"] > 0
        above = gathered["logits"][benign].unsqueeze(1) - gathered["logits"][~benign]
        return {"auc": (above > 0).float().mean() + 0.5 * (above == 0).float().mean()}


results = hp.Tuner(
    Tumors,
    {
        "width": hp.ordinal([8, 16, 32]),
        "dropout": hp.uniform(0.0, 0.5),
        "lr": hp.loguniform(1e-4, 1e-1),
        "pos_weight": hp.loguniform(0.2, 5.0),
    },
    metric="auc",
    mode="max",
    trials=24,
    scheduler=hp.ASHA(max_t=9, reduction_factor=3),
    executor=hp.Fused(slots=24),        # "auto" would measure how many; results depend on it
).fit()
best = results.best
print(f"best: {best.config}")
print(f"validation: auc {best.metrics['auc']:.4f}; test: {', '.join(f'{name} {value:.4f}' for name, value in best.test().items())}")
print(f"a plain module to go on with: {best.load()}")

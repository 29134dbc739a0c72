"""The demo: 64 small CNNs on scikit-learn's digits, sixteen at once as one tensor program, tuned with ASHA, in under a minute
on two cores.

Six hyperparameters: two of the architecture, one of regularization, three of the optimizer. The search sees the training and
the validation set; at the end the best model and one with default hyperparameters meet the test set, which nobody saw before.

Press Ctrl-C at any time: nothing is lost, and the command that goes on is printed. That command imports this file to find
`Digits`, so the study is started under `if __name__ == "__main__"`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchtune_hp as hp

MAX_T = 27
SPACE = {
    "filters": hp.ordinal([8, 16, 32]),
    "units": hp.ordinal([32, 64, 128]),
    "dropout": hp.uniform(0.0, 0.6),
    "lr": hp.loguniform(3e-4, 3e-2),
    "weight_decay": hp.loguniform(1e-5, 1e-1),
    "beta1": hp.uniform(0.7, 0.98),
}
DEFAULT = {"filters": 16, "units": 64, "dropout": 0.25, "lr": 1e-3, "weight_decay": 1e-2, "beta1": 0.9}


class Digits(hp.ModelTrainable):
    """A CNN with two convolutions for images of 8 x 8; AdamW with a cosine to zero."""

    def setup(self, config: dict[str, Any]) -> None:
        filters, units = config["filters"], config["units"]
        self.model = nn.Sequential(
            nn.Conv2d(1, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(filters, 2 * filters, 3, padding=1), nn.BatchNorm2d(2 * filters), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(8 * filters, units), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(units, 10),
        )  # fmt: skip
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config["lr"], betas=(config["beta1"], 0.999), weight_decay=config["weight_decay"]
        )
        self.lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=MAX_T)

    @classmethod
    def data(cls) -> hp.Data:
        """60 % to train on, 20 % to choose by, 20 % to test: the same stratified split always."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        x = torch.as_tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
        y = torch.as_tensor(labels)
        rest, test = train_test_split(range(len(y)), test_size=0.2, stratify=labels, random_state=0)
        train, val = train_test_split(rest, test_size=0.25, stratify=labels[rest], random_state=0)
        return hp.Data(train=(x[train], y[train]), val=(x[val], y[val]), test=(x[test], y[test]), batch_size=64)

    def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y)

    def validation_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        logits = model(x)
        return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(-1) == y).float().mean()}


def main(seed: int = 0, trials: int = 64) -> hp.Results:
    goal: dict[str, Any] = {"metric": "accuracy", "mode": "max", "seed": seed}
    results = hp.Tuner(
        Digits, SPACE, trials=trials, scheduler=hp.ASHA(max_t=MAX_T, grace_period=1, reduction_factor=3),
        executor=hp.Fused(slots=16, strategy="vmap"), **goal,       # both fixed, so that no clock has a say: one seed, one result
    ).fit()  # fmt: skip
    default = hp.Tuner(
        Digits, SPACE, trials=1, points=[DEFAULT], scheduler=hp.FullRuns(max_t=MAX_T), storage=None, verbose=0, **goal
    ).fit()  # fmt: skip

    best = results.best
    print("The best configuration:")
    for name, value in best.config.items():
        print(f"  {name:13} {value:.4g}")
    print(f"Its test accuracy:       {best.test()['accuracy']:.4f}")
    print(f"The default's, {MAX_T} epochs: {default.best.test()['accuracy']:.4f}")
    folder, command = results.path, shutil.which("torchtune-hp") or Path(sys.executable).with_name("torchtune-hp")
    print(f"The study lies in {folder}. To look at it: {command} show {folder}")
    return results


if __name__ == "__main__":
    try:
        main()
    except hp.StudyInterrupted as interrupted:
        print(interrupted, file=sys.stderr)
        raise SystemExit(128 + interrupted.signum) from None

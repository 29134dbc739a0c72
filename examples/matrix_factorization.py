"""Matrix factorization: which rank, and how much L2, fill in what is missing of a table.

The table is 1,797 handwritten digits by 64 pixels, of which 30 % are known: five sixths of those to train on, the others to choose by.
A prediction is the inner product of a factor of the row and one of the column, and two biases. The penalty is on the factors that a
batch looks up; it enters the loss as `self.hparams["l2"]`, a tensor with each trial's own value. A rank is a size of the tables, which
are not padded, so that each of the three has a stack of its own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import torchtune_hp as hp

table = torch.as_tensor(load_digits().data / 16, dtype=torch.float32)
known = torch.randperm(table.numel(), generator=torch.Generator().manual_seed(0))
cells = torch.stack([known // table.shape[1], known % table.shape[1]], 1)      # (row, column), in no order
values = table[cells[:, 0], cells[:, 1]]
SEEN = 3 * len(cells) // 10


class Factors(nn.Module):
    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.row, self.column = nn.Embedding(rows, rank), nn.Embedding(columns, rank)
        self.of_row, self.of_column = nn.Embedding(rows, 1), nn.Embedding(columns, 1)
        for part in self.children():
            nn.init.normal_(part.weight, std=0.1)

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """(predictions, squared norms of the factors they are made of); both (n,)."""
        row, column = self.row(cells[:, 0]), self.column(cells[:, 1])
        biases = self.of_row(cells[:, 0]) + self.of_column(cells[:, 1])
        return (row * column).sum(-1) + biases.squeeze(-1), (row**2).sum(-1) + (column**2).sum(-1)


class Completion(hp.ModelTrainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.model = Factors(*table.shape, config["rank"])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["lr"])

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data(train=(cells[:SEEN], values[:SEEN]), val_fraction=1 / 6, test=(cells[SEEN:], values[SEEN:]), batch_size=1024)

    def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        found, norms = model(batch[0])
        return F.mse_loss(found, batch[1]) + self.hparams["l2"] * norms.mean()

    def validation_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"mse": F.mse_loss(model(batch[0])[0], batch[1])}


results = hp.Tuner(
    Completion,
    {"rank": hp.ordinal([4, 8, 16]), "l2": hp.loguniform(1e-5, 1e-1), "lr": hp.loguniform(1e-3, 1e-1)},
    metric="mse", mode="min", trials=60, scheduler=hp.ASHA(max_t=9, reduction_factor=3), executor=hp.Fused(60, strategy="vmap"), seed=0,
).fit()  # fmt: skip

best = results.best
print(f"trained as {results.members_per_stack}")
print(f"the best of {len(results)}: {best.config}")
blind = (values[SEEN:] - table.mean()).square().mean()
print(f"squared error of the 70 % that nobody saw: {best.test()['mse']:.4f}; of the mean of all: {blind:.4f}")

"""A cross-validation trained as one population: 5 folds x 8 learning rates are 40 members, each fed with its own fold.

No study and no tuner: `hp.Population` takes ordinary modules and ordinary optimizers, and every `step` is one update of all 40.
With `in_dims=0` the leading dimension of a batch is the member, so the folds stay apart. At the end the same 40 trainings run
one after another, in the loop that anyone would write, for the time it takes and for the same accuracies.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import torchtune_hp as hp

FOLDS, EPOCHS, BATCH = 5, 6, 64
RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
MEMBERS = [(fold, lr) for lr in RATES for fold in range(FOLDS)]

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x = torch.as_tensor(images / 16, dtype=torch.float32)
y = torch.as_tensor(labels)
parts = torch.randperm(len(x))[: len(x) // FOLDS * FOLDS].view(FOLDS, -1)        # equal folds: two of the 1797 images are left out
rest = torch.stack([torch.cat([parts[other] for other in range(FOLDS) if other != fold]) for fold in range(FOLDS)])
fold_of = torch.tensor([fold for fold, _ in MEMBERS])


def member(fold: int, lr: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(fold)     # the same initial weights for every learning rate
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return model, torch.optim.Adam(model.parameters(), lr=lr)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def accuracy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]).argmax(-1) == batch[1]).float().mean()


# One order for each fold, (steps, FOLDS, BATCH): learning rates are compared on the same batches.
order = torch.Generator().manual_seed(1)
steps = rest.shape[1] // BATCH
shuffled = [torch.stack([part[torch.randperm(len(part), generator=order)[: steps * BATCH]] for part in rest]) for _ in range(EPOCHS)]
batches = torch.cat([pass_.view(FOLDS, steps, BATCH).transpose(0, 1) for pass_ in shuffled])

members = [member(fold, lr) for fold, lr in MEMBERS]
began = time.perf_counter()
population = hp.Population([model for model, _ in members], [optimizer for _, optimizer in members])
for index in batches:
    index = index[fold_of]
    population.step(loss, (x[index], y[index]), in_dims=0)
held_out = parts[fold_of]
together = population.evaluate(accuracy, (x[held_out], y[held_out]), in_dims=0)
seconds = time.perf_counter() - began

began = time.perf_counter()
alone = []
for fold, lr in MEMBERS:
    model, optimizer = member(fold, lr)
    for index in batches[:, fold]:
        optimizer.zero_grad()
        loss(model, (x[index], y[index])).backward()
        optimizer.step()
    with torch.no_grad():
        alone.append(accuracy(model, (x[parts[fold]], y[parts[fold]])))
one_after_another = time.perf_counter() - began

table = together.view(len(RATES), FOLDS)
errors = table.std(1) / FOLDS**0.5
print("learning rate   accuracy of 5 folds")
for lr, mean, error in zip(RATES, table.mean(1).tolist(), errors.tolist()):
    print(f"{lr:13g}   {mean:.4f} +- {error:.4f}")
best = int(table.mean(1).argmax())
print(f"best learning rate {RATES[best]:g}: accuracy {table[best].mean():.4f} +- {errors[best]:.4f}")
print(f"{len(MEMBERS)} trainings of {len(batches)} updates: {seconds:.2f} s at once, {one_after_another:.2f} s one after another")
print(f"mean difference between the two in accuracy: {(together - torch.stack(alone)).abs().mean():.4f}")

"""hp.Trainer: the loop stays in a function of your own, and in a study all trials' models are trained at once.

Called by hand, the function trains one model as ever. Here each trial keeps a moving average of its weights and reports what that is
worth, which no hook of a ModelTrainable would be asked for.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_wine
from torch import Tensor, nn

import torchtune_hp as hp


def wine() -> hp.Data:
    inputs, labels = load_wine(return_X_y=True)
    x = torch.as_tensor((inputs - inputs.mean(0)) / inputs.std(0), dtype=torch.float32)
    return hp.Data(train=(x, torch.as_tensor(labels)), val_fraction=0.3, batch_size=16)


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def metrics(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {"loss": loss_fn(model, batch)}


@hp.trainable(space={"lr": hp.loguniform(1e-3, 1.0), "decay": hp.uniform(0.0, 0.95)}, metric="loss", mode="min")
def train(config: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
    trainer = hp.Trainer(model, optimizer, loss_fn, data=wine, metrics=metrics)
    average = copy.deepcopy(model)
    held_out = hp.Trainer(average, torch.optim.SGD(average.parameters(), lr=0.0), loss_fn, data=wine, metrics=metrics)
    for _ in range(27):
        trainer.train(epochs=1)             # in a study: waits until all that run stand here
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), model.parameters()):
                mean.lerp_(parameter, 1 - config["decay"])
        hp.report(held_out.evaluate(), raw=trainer.evaluate()["loss"], checkpoint=average.state_dict())


train({"lr": 0.1, "decay": 0.9})            # one, by hand
results = train.tune(trials=60, scheduler=hp.ASHA(max_t=27, reduction_factor=3), executor=hp.Fused(16))

best = results.best
print(results.stacks[0])
print(f"best of {len(results)}: {best.config}, loss {best.metrics['loss']:.4f} of the average, {best.metrics['raw']:.4f} of the weights")

"""What `cifar10.py` trains: its images, and the three tasks as ModelTrainables; `networks.py` has the networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import networks
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR
from torch.utils.data import Subset

import torchtune_hp as hp
from torchtune_hp.training.cache import folder as cache_folder

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
Parts = tuple[nn.Module, Optimizer, LRScheduler]


# Data -------------------------------------------------------------------------------------------------------------------------


class NoData(Exception):
    """There is nothing to train on; the text says why."""


def sets(data: str | None) -> tuple[Any, Any]:
    """(the training set, the test set or None) of a folder, or of CIFAR-10."""
    from torchvision.datasets import CIFAR10, ImageFolder
    from torchvision.transforms import Resize

    if data is None:
        root = cache_folder() or Path("data")
        try:
            return CIFAR10(str(root), train=True, download=True), CIFAR10(str(root), train=False, download=True)
        except (OSError, RuntimeError) as error:        # RuntimeError: what was downloaded is not what it should be
            raise NoData(f"CIFAR-10 could not be downloaded ({error}). Pass --data FOLDER, with folders of images in it.") from error
    folder = Path(data)
    if not (folder / "train").is_dir():
        return ImageFolder(folder, transform=Resize((32, 32))), None
    train = ImageFolder(folder / "train", transform=Resize((32, 32)))
    return train, ImageFolder(folder / "test", transform=Resize((32, 32))) if (folder / "test").is_dir() else None


def drawn(dataset: Any, most: int | None) -> list[int]:
    """All samples in an order of chance, always the same; or the first `most` of them."""
    return torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()[:most]


class Pictures(hp.ModelTrainable):
    """What the tasks share. `data`: the folder; `most`: how many images are used."""

    space: ClassVar[Mapping[str, Any]]
    lr_step = "update"

    def setup(self, config: Any, classes: int) -> None:
        assert self.max_t is not None
        self.batch_size = config.get("batch_size")
        self.model, self.optimizer, self.lr_scheduler = self.parts(config, classes, self.max_t * self.unit(self.updates_per_epoch))

    @classmethod
    def parts(cls, config: Any, classes: int, updates: int) -> Parts:
        """Model, optimizer and schedule of a training of so many updates."""
        raise NotImplementedError

    @classmethod
    def unit(cls, updates_per_epoch: int) -> int:
        """Updates in one unit of budget."""
        return updates_per_epoch if cls.iteration == "epoch" else cls.iteration

    @classmethod
    def data(cls, data: str | None, most: int | None) -> hp.Data:
        train, test = sets(data)
        order = drawn(train, None if most is None else most + most // 4)
        fifth = len(order) // 5
        tested = None if test is None else Subset(test, drawn(test, None if most is None else most // 4))
        return hp.Data(train=Subset(train, order[fifth:]), val=Subset(train, order[:fifth]), test=tested, batch_size=100)

    def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(hp.normalize(x, MEAN, STD)), y)

    def validation_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        return {"error": (model(hp.normalize(x, MEAN, STD)).argmax(-1) != y).float().mean()}


# The tasks --------------------------------------------------------------------------------------------------------------------


class Convnet(Pictures):
    space: ClassVar = {
        "lr": hp.loguniform(5e-5, 5), "lr_steps": hp.randint(1, 5),
        "weight_cost_1": hp.loguniform(5e-5, 5), "weight_cost_2": hp.loguniform(5e-5, 5), "weight_cost_3": hp.loguniform(5e-3, 5),
        "weight_cost_4": hp.loguniform(5e-3, 500), "lrn_scale": hp.loguniform(5e-6, 5), "lrn_power": hp.uniform(0.01, 3),
    }  # fmt: skip

    @classmethod
    def parts(cls, config: Any, classes: int, updates: int) -> Parts:
        model = networks.cuda_convnet(config["lrn_scale"], config["lrn_power"], classes)
        costs = [config[f"weight_cost_{k}"] for k in (1, 2, 3, 4)]
        own = [([layer], cost) for layer, cost in zip(networks.layers_of(model), costs)]
        optimizer = SGD(networks.groups(own, config["lr"]), lr=config["lr"], momentum=0.9)
        return model, optimizer, StepLR(optimizer, max(1, updates // config["lr_steps"]), 0.1)


class SmallCNN(Pictures):
    space: ClassVar = {
        "lr": hp.loguniform(1e-5, 10), "batch_size": hp.choice([64, 128, 256, 512]), "layers": hp.choice([2, 3, 4]),
        "filters": hp.choice([16, 32, 48, 64]), "init_std_1": hp.loguniform(1e-4, 1e-1), "init_std_2": hp.loguniform(1e-3, 1),
        "init_std_3": hp.loguniform(1e-3, 1), "weight_cost_1": hp.loguniform(1e-5, 1), "weight_cost_2": hp.loguniform(1e-5, 1),
        "weight_cost_3": hp.loguniform(1e-3, 100),
    }  # fmt: skip

    @classmethod
    def parts(cls, config: Any, classes: int, updates: int) -> Parts:
        """1 is of the convolutions, 2 of the hidden dense layer, 3 of the last one."""
        model = networks.asha_cnn(config, classes)
        *convolutions, hidden, last = networks.layers_of(model)
        own = list(zip((convolutions, [hidden], [last]), [config[f"weight_cost_{k}"] for k in (1, 2, 3)]))
        for k, (layers, _) in enumerate(own, 1):
            networks.begin(layers, [config[f"init_std_{k}"]] * len(layers))
        optimizer = SGD(networks.groups(own, config["lr"]), lr=config["lr"], momentum=0.9)
        return model, optimizer, StepLR(optimizer, max(1, updates // 3), 0.1)


class ResNet(Pictures):
    shape = (16, 3)     # width, blocks in a stage
    space: ClassVar = {
        "lr": hp.loguniform(1e-2, 3), "momentum": hp.uniform(0.8, 0.98), "weight_decay": hp.loguniform(1e-5, 1e-2),
        "dropout": hp.uniform(0, 0.5), "warmup": hp.uniform(0.02, 0.4),
    }  # fmt: skip

    @classmethod
    def parts(cls, config: Any, classes: int, updates: int) -> Parts:
        model = networks.resnet(*cls.shape, config["dropout"], classes)
        optimizer = SGD(model.parameters(), config["lr"], config["momentum"], weight_decay=config["weight_decay"], nesterov=True)
        return model, optimizer, LambdaLR(optimizer, one_cycle(max(1, round(config["warmup"] * updates)), updates))

    def augment(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, y = batch
        return hp.cutout(hp.random_flip(hp.random_crop(x, 4)), 8), y

    def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(hp.normalize(x, MEAN, STD)), y, label_smoothing=0.1)


def one_cycle(warm: int, updates: int) -> Callable[[int], float]:
    """The learning rate's factor: up in a line for `warm` updates, then down in half a cosine (Smith 2018)."""

    def factor(k: int) -> float:
        return (k + 1) / warm if k < warm else 0.5 * (1 + math.cos(math.pi * min(1.0, (k - warm) / max(1, updates - warm))))

    return factor

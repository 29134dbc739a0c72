"""The networks of the benchmarks on 32 x 32 images, in plain PyTorch, and the param groups they are trained with.

    cuda_convnet     Krizhevsky's, 89,578 parameters: one shape, whatever the hyperparameters
    asha_cnn         48 shapes with 2 to 4 blocks and 16 to 512 filters; both are tasks of Li et al. (ASHA, MLSys 2020)
    resnet           He et al. 2016 for CIFAR, with the usual small changes since: each residual branch begins as zero
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


def cuda_convnet(alpha: float = 5e-5, beta: float = 0.75, classes: int = 10) -> nn.Sequential:
    """`alpha`, `beta`: of both layers that normalize local responses."""
    halved: dict[str, Any] = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
    norm = partial(nn.LocalResponseNorm, 3, alpha=alpha, beta=beta)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(**halved), nn.ReLU(), norm(),
        nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.AvgPool2d(**halved), norm(),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.AvgPool2d(**halved), nn.Flatten(), nn.Linear(64 * 4 * 4, classes),
    )  # fmt: skip
    begin(layers_of(model), (1e-4, 1e-2, 1e-2, 1e-2))
    return model


def asha_cnn(config: Mapping[str, Any], classes: int = 10) -> nn.Sequential:
    """config: `layers` blocks of `filters`, doubled in each further one; then two dense layers. Initial weights are torch's."""
    layers: list[nn.Module] = []
    width, side, before = config["filters"], 32, 3
    for k in range(config["layers"]):
        width, side = config["filters"] * 2**k, side // 2
        layers += [nn.Conv2d(before, width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side**2, width), nn.ReLU(), nn.Linear(width, classes))


def resnet(width: int, blocks: int, dropout: float = 0.0, classes: int = 10) -> nn.Sequential:
    """Three stages of `blocks` residual blocks with `width`, 2 `width` and 4 `width` channels: 6 `blocks` + 2 layers."""
    stages: list[nn.Module] = []
    before = width
    for stage in range(3):
        for k in range(blocks):
            own = width * 2**stage
            stages.append(Residual(before, own, stride=2 if stage and not k else 1))
            before = own
    first = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*first, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(before, classes))


class Residual(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), last := nn.BatchNorm2d(width),
        )  # fmt: skip
        nn.init.zeros_(last.weight)
        self.same = nn.Identity() if before == width else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.same(x) + self.branch(x))


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Those with a weight and a bias to be set, in order."""
    return [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


def begin(layers: Sequence[nn.Module], stds: Sequence[float]) -> None:
    """Normal weights of these standard deviations, biases 0."""
    for layer, std in zip(layers, stds, strict=True):
        nn.init.normal_(layer.get_parameter("weight"), std=std)
        nn.init.zeros_(layer.get_parameter("bias"))


def groups(parts: Sequence[tuple[Sequence[nn.Module], float]], lr: float) -> list[dict[str, Any]]:
    """Param groups as cuda-convnet has them, from (layers, the decay of their weights): biases learn twice as fast, without decay."""
    found = [{"params": [layer.get_parameter("weight") for layer in own], "lr": lr, "weight_decay": decay} for own, decay in parts]
    biases = [layer.get_parameter("bias") for own, _ in parts for layer in own]
    return [*found, {"params": biases, "lr": 2 * lr, "weight_decay": 0.0}]

"""Trains every multilayer perceptron of the table behind the task "digits" of suggest_objectives.py, once, into digits_mlps.json.

864 networks: width, depth, activation, learning rate and dropout, crossed; those of one architecture are trained together, by hand, as
stacked tensors. Each sees 1,077 of scikit-learn's digits for 12 epochs of Adam, and is judged on 360 others. `error`: the share of
those that is wrong. `parameters`: how many numbers are learned. Both in the order of itertools.product over `axes`.

    python benchmarks/digits_mlps.py        # a minute or two on two cores
"""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import common
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from suggest_objectives_tasks import TABLE
from torch import Tensor

EPOCHS, BATCH = 12, 64
AXES: dict[str, list[Any]] = {
    "width": [4, 6, 8, 12, 16, 32, 64, 128],
    "depth": [1, 2, 3],
    "activation": ["relu", "tanh"],
    "lr": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1],
    "dropout": [0.0, 0.2, 0.4],
}


def split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The digits to train on and their labels, and those to judge by. 360 more are in neither."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, y = torch.as_tensor(images, dtype=torch.float32)[order] / 16, torch.as_tensor(labels)[order]
    return x[720:], y[720:], x[:360], y[:360]


def sizes(width: int, depth: int) -> list[tuple[int, int]]:
    return [(width if k else 64, width) for k in range(depth)] + [(width, 10)]


def logits(layers: list[tuple[Tensor, Tensor]], x: Tensor, activation: str, dropout: Tensor | None) -> Tensor:
    """(k, n, 10) of k networks at x (n, 64); `dropout` (k, 1, 1), or None: as they are judged."""
    y = x.expand(len(layers[0][0]), *x.shape)
    for weight, bias in layers[:-1]:
        y = getattr(torch, activation)(torch.baddbmm(bias, y, weight))
        if dropout is not None:
            y = y * (torch.rand_like(y) >= dropout) / (1 - dropout)
    weight, bias = layers[-1]
    return torch.baddbmm(bias, y, weight)


def errors(width: int, depth: int, activation: str, rates: Tensor, dropouts: Tensor) -> list[float]:
    """Of k networks of one architecture, with learning rates and dropouts (k,)."""
    torch.manual_seed(0)
    x, y, judged, truth = split()
    k = len(rates)
    layers = []
    for before, after in sizes(width, depth):       # the same first weights for all, as nn.Linear draws them
        bound = before**-0.5
        drawn = [torch.empty(1, rows, after).uniform_(-bound, bound).repeat(k, 1, 1) for rows in (before, 1)]
        layers.append((drawn[0].requires_grad_(), drawn[1].requires_grad_()))
    parameters = [tensor for layer in layers for tensor in layer]
    first, second = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters]
    step = 0
    for _ in range(EPOCHS):
        for some in torch.randperm(len(y)).split(BATCH):
            step += 1
            out = logits(layers, x[some], activation, dropouts[:, None, None])
            loss = F.cross_entropy(out.flatten(0, 1), y[some].repeat(k)) * k        # the sum of the networks' means
            for p, g, m, v in zip(parameters, torch.autograd.grad(loss, parameters), first, second):
                m.lerp_(g, 0.1)
                v.lerp_(g * g, 0.001)
                p.data -= rates[:, None, None] * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    with torch.no_grad():
        return (logits(layers, judged, activation, None).argmax(-1) != truth).float().mean(-1).tolist()


def main() -> None:
    error: list[float] = []
    parameters: list[int] = []
    rates, dropouts = torch.tensor(list(product(AXES["lr"], AXES["dropout"]))).unbind(1)
    for width, depth, activation in product(AXES["width"], AXES["depth"], AXES["activation"]):
        error += [round(value, 6) for value in errors(width, depth, activation, rates, dropouts)]
        parameters += [sum((before + 1) * after for before, after in sizes(width, depth))] * len(rates)
        print(width, depth, activation, parameters[-1], min(error[-len(rates) :]), flush=True)
    said = {"epochs": EPOCHS, "torch": torch.__version__, "axes": AXES, "error": error, "parameters": parameters}
    TABLE.write_text(json.dumps(said, separators=(",", ":")) + "\n")
    print(f"written to {TABLE.relative_to(common.HERE)}")


if __name__ == "__main__":
    main()

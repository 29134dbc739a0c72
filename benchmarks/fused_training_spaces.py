"""Whole spaces, not one shape: how many stacks do 128 random configurations make? Shown by fused_training.py, trained by nobody."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import common  # noqa: F401     # the checkout's own package
import torch
from networks import asha_cnn
from torch import nn
from torch.optim import Adam

import torchtune_hp as hp
from torchtune_hp.population.activations import PLACE, may_join, places
from torchtune_hp.population.padding import rounded
from torchtune_hp.population.signature import structure

PADDED = {"padded, CPU": "cpu", "padded, GPU": "cuda"}
"""In whole spaces: what is padded follows from the kind of device."""


def stacks_of(space: Mapping[str, Any], model: Callable[[Mapping[str, Any]], nn.Module], n: int = 128) -> dict[str, list[int]]:
    """Members of each stack that n random configurations make, by what shares one besides a batch size; the largest first."""
    x = torch.rand(n, len(hp.Space(space)), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts: dict[str, Counter[Any]] = {way: Counter() for way in ("equal shapes", *PADDED)}
    for config in hp.Space(space).decode(x):
        with torch.device("meta"):      # shapes are all that counts
            made = model(config)
        optimizer = Adam(made.parameters())
        counts["equal shapes"][config["batch_size"], structure(made, optimizer)] += 1
        for way, device in PADDED.items():
            batch = config["batch_size"]
            sizes = rounded(made, optimizer, device, batch)
            standing = dict.fromkeys(places(made), PLACE) if may_join(made, device, batch, sizes) else {}
            counts[way][batch, structure(made, optimizer, sizes, standing)] += 1
    return {way: sorted(found.values(), reverse=True) for way, found in counts.items()}


def one_shape(config: Mapping[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(64, 10))


def one_width(config: Mapping[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear(64, config["width"]), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(config["width"], 10))


def fcnet(config: Mapping[str, Any]) -> nn.Module:
    """Klein and Hutter 2019: two hidden layers."""
    layers: list[nn.Module] = []
    for n, m, k in ((9, config["n_units_1"], 1), (config["n_units_1"], config["n_units_2"], 2)):
        layers += [nn.Linear(n, m), {"relu": nn.ReLU, "tanh": nn.Tanh}[config[f"activation_{k}"]](), nn.Dropout(config[f"dropout_{k}"])]
    return nn.Sequential(*layers, nn.Linear(config["n_units_2"], 1))


def lcbench(config: Mapping[str, Any]) -> nn.Module:
    """After Zimmer et al. 2021: layers of one width."""
    widths = [54, *[config["width"]] * config["layers"]]
    hidden = [part for n, m in itertools.pairwise(widths) for part in (nn.Linear(n, m), nn.ReLU(), nn.Dropout(config["dropout"]))]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], 7))


def spaces() -> Iterator[tuple[str, dict[str, Any], Callable[[Mapping[str, Any]], nn.Module]]]:
    units = hp.choice([2**k for k in range(4, 10)])
    relu_tanh, dropout = hp.choice(["relu", "tanh"]), hp.choice([0.0, 0.3, 0.6])
    own = {"n_units_1": units, "n_units_2": units, "activation_1": relu_tanh, "activation_2": relu_tanh}
    yield "one shape", {"batch_size": hp.choice([64]), "dropout": hp.uniform(0.0, 0.8)}, one_shape
    yield "FCNet's grid", {**own, "dropout_1": dropout, "dropout_2": dropout, "batch_size": hp.choice([8, 16, 32, 64])}, fcnet
    sizes = {"batch_size": hp.choice([64, 128, 256, 512]), "layers": hp.choice([2, 3, 4]), "filters": hp.choice([16, 32, 48, 64])}
    yield "ASHA's small CNN", sizes, asha_cnn
    ranges = {"layers": hp.randint(1, 6), "width": hp.lograndint(64, 1025), "batch_size": hp.lograndint(16, 513)}
    yield "one width", {"width": hp.lograndint(8, 512), "batch_size": hp.choice([64]), "dropout": hp.uniform(0.0, 0.8)}, one_width
    yield "LCBench's", {**ranges, "dropout": hp.uniform(0.0, 1.0)}, lcbench

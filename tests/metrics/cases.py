"""Random samples for tests of metrics, scikit-learn's numbers of them, and every metric by a name with inputs that suit it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sklearn.metrics as sk
import torch
from torch import Tensor

from torchtune_hp import metrics

AVERAGES = ("binary", "macro", "micro", "weighted")
SEEDS = range(6)
CLOSE = {torch.float64: 1e-10, torch.float32: 2e-7}
BY_CLASS = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
REGRESSION = {"mse": sk.mean_squared_error, "mae": sk.mean_absolute_error, "r2": sk.r2_score}
RANKING = {"roc_auc": sk.roc_auc_score, "average_precision": sk.average_precision_score}


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """One thread; and a slow path of `vmap`, of which torch warns, is an error."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*performance drop.*")
        yield
    torch.set_num_threads(threads)


class Case:
    """Random samples of `classes`, with ties among the scores, and weights of which some are 0."""

    def __init__(self, seed: int, lead: tuple[int, ...] = (), dtype: torch.dtype = torch.float64, classes: int = 4) -> None:
        self.chance = torch.Generator().manual_seed(seed)
        self.n = (2, 3, 7, 40, 200)[seed % 5]
        self.lead, self.dtype, self.classes = lead, dtype, classes
        self.shape = (*lead, self.n)

    def whole(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.chance)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.chance, dtype=torch.float64).to(self.dtype)

    def tied(self, *shape: int) -> Tensor:
        return (self.normal(*shape) * 2).round() / 7

    def labels(self, shared: bool = False) -> Tensor:
        return self.whole(self.classes, *(self.shape[-1:] if shared else self.shape))

    def binary(self, shared: bool = False) -> Tensor:
        """Of which both classes occur, everywhere."""
        labels = self.whole(2, *(self.shape[-1:] if shared else self.shape))
        labels[..., 0], labels[..., 1] = 0, 1
        return labels

    def weight(self, shared: bool = False) -> Tensor:
        shape = self.shape[-1:] if shared else self.shape
        weight = torch.rand(shape, generator=self.chance, dtype=torch.float64).to(self.dtype) * (self.whole(4, *shape) > 0)
        weight[..., :2] += 0.25
        return weight


def reference(score: Callable[..., float], first: Tensor, second: Tensor, weight: Tensor | None = None, **options: Any) -> float:
    """scikit-learn's, whose arguments are (targets, predictions)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(score(second.numpy(), first.numpy(), sample_weight=None if weight is None else weight.numpy(), **options))


def agree(ours: Tensor, theirs: float, dtype: torch.dtype = torch.float64) -> None:
    assert ours.shape == () and ours.dtype == dtype, f"{ours!r}, expected as {dtype}"
    assert ours.item() == pytest.approx(theirs, rel=CLOSE[dtype], abs=CLOSE[dtype], nan_ok=True), f"{ours.item()!r}, expected {theirs!r}"


SCORES = {
    "accuracy": metrics.accuracy,
    "top_k": lambda scores, targets, weight=None: metrics.top_k(scores, targets, 2, weight),
    "ovr": partial(metrics.roc_auc, multi_class="ovr"),
    **{f"{name}-{average}": partial(getattr(metrics, name), average=average) for name in BY_CLASS for average in AVERAGES[1:]},
}
LABELS = {
    "accuracy-labels": metrics.accuracy,
    **{f"{name}-labels": partial(getattr(metrics, name), average="macro", num_classes=4) for name in BY_CLASS},
}
BINARY = {name: getattr(metrics, name) for name in RANKING}
NUMBERS = {name: getattr(metrics, name) for name in REGRESSION}
EVERY = {**SCORES, **LABELS, **BINARY, **NUMBERS}


def inputs(name: str, case: Case, shared: bool) -> tuple[Tensor, Tensor]:
    if name in SCORES:
        targets = case.labels(shared)
        targets[..., :4] = torch.arange(4)[: case.n]
        return case.tied(*case.shape, 4), targets
    if name in LABELS:
        return case.labels(), case.labels(shared)
    return (case.tied(*case.shape), case.binary(shared)) if name in BINARY else (case.normal(*case.shape), case.normal(*case.shape))

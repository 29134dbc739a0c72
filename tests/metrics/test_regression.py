"""Metrics of predicted numbers have scikit-learn's, far from 0 too."""

from __future__ import annotations

import pytest
import sklearn.metrics as sk
import torch

from torchtune_hp import metrics

from .cases import REGRESSION, SEEDS, Case, agree, reference, strict  # noqa: F401  (a fixture for all of them)


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", SEEDS)
def test_regression(seed: int, dtype: torch.dtype, name: str) -> None:
    case = Case(seed, dtype=dtype)
    found, targets, weight = case.normal(case.n) + 1000, case.normal(case.n) + 1000, case.weight()
    for w in (None, weight):
        exact = (None if w is None else w.double(),)
        agree(getattr(metrics, name)(found, targets, w), reference(REGRESSION[name], found.double(), targets.double(), *exact), dtype)


@pytest.mark.parametrize("value", [3.0, 0.1])
def test_r2_of_equal_targets(value: float) -> None:
    targets = torch.full((3, 7), value, dtype=torch.float64)
    found = targets.clone()
    found[1, 2] += 1
    found[2, 0] += 1
    weight = torch.ones(3, 7)
    weight[2, 0] = 0
    targets[2, 0] = -5
    assert metrics.r2(found, targets, weight).tolist() == [1, 0, 1]
    assert reference(sk.r2_score, found[1], torch.full((7,), 3.0)) == 0


def test_a_million_float32_numbers_far_from_0_lose_nothing() -> None:
    targets = torch.arange(1_000_000, dtype=torch.float32) % 100 + 10_000
    agree(metrics.r2(targets + 1, targets), 1 - 1 / (9999 / 12), torch.float32)

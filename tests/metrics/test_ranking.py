"""Metrics of the order of scores have scikit-learn's numbers, ties, infinities and weights included."""

from __future__ import annotations

import math

import pytest
import sklearn.metrics as sk
import torch

from torchtune_hp import metrics

from .cases import RANKING, SEEDS, Case, agree, reference, strict  # noqa: F401  (a fixture for all of them)


@pytest.mark.parametrize("name", RANKING)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", SEEDS)
def test_ranking(seed: int, dtype: torch.dtype, name: str) -> None:
    case = Case(seed, dtype=dtype)
    targets = case.binary()
    for scores in (case.normal(case.n), case.tied(case.n), torch.zeros(case.n, dtype=dtype)):
        for w in (None, case.weight()):
            expected = reference(RANKING[name], scores, targets, w)
            for same in (targets, targets.bool(), targets.to(dtype), 2 * targets - 1):
                agree(getattr(metrics, name)(scores, same, w), expected, dtype)


def test_ranking_takes_whole_numbers_infinities_and_both_zeros() -> None:
    targets = torch.tensor([0, 1, 0, 1, 1, 0])
    scores = torch.tensor([-math.inf, 0.0, -0.0, math.inf, -math.inf, 3.0])
    places = torch.tensor([0, 1, 1, 3, 0, 2])
    for name, score in RANKING.items():
        ours = getattr(metrics, name)
        assert ours(scores, targets).item() == ours(places, targets).item() == pytest.approx(reference(score, places, targets))


@pytest.mark.parametrize("seed", SEEDS)
def test_roc_auc_of_several_classes(seed: int) -> None:
    case = Case(seed)
    probabilities = torch.cat([torch.eye(4, dtype=torch.float64)] * 2 + [(case.tied(case.n, 4) * 5).softmax(-1)])
    targets = torch.cat([torch.arange(4).repeat(2).roll(seed), case.labels()])
    for w in (None, torch.rand(len(targets), generator=case.chance, dtype=torch.float64)):
        expected = reference(sk.roc_auc_score, probabilities, targets, w, multi_class="ovr")
        agree(metrics.roc_auc(probabilities, targets, w, multi_class="ovr"), expected)


def test_scores_that_are_equal_in_float32_tie() -> None:
    scores, targets = torch.tensor([0.5, 0.5 + 1e-9], dtype=torch.float64), torch.tensor([0, 1])
    assert metrics.roc_auc(scores, targets).item() == 1
    assert metrics.roc_auc(scores.float(), targets).item() == 0.5

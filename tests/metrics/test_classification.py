"""Metrics of predicted classes have scikit-learn's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import torch

from torchtune_hp import metrics

from .cases import AVERAGES, BY_CLASS, SEEDS, Case, agree, reference, strict  # noqa: F401  (a fixture for all of them)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", SEEDS)
def test_accuracy_and_top_k(seed: int, dtype: torch.dtype) -> None:
    case = Case(seed, dtype=dtype)
    scores, targets, weight = case.tied(case.n, 4), case.labels(), case.weight()
    for w in (None, weight):
        found = scores.argmax(-1)
        expected = reference(sk.accuracy_score, found, targets, w)
        agree(metrics.accuracy(scores, targets, w), expected, dtype)
        agree(metrics.accuracy(found, targets, w), expected, torch.float32 if w is None else dtype)
        for k in (1, 2, 3, 4, 5):
            theirs = reference(sk.top_k_accuracy_score, scores, targets, w, k=k, labels=np.arange(4))
            agree(metrics.top_k(scores, targets, k, w), theirs, dtype)


@pytest.mark.parametrize("name", BY_CLASS)
@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("seed", SEEDS)
def test_precision_recall_and_f1(seed: int, average: Any, name: str) -> None:
    # Of 40 classes, most do not occur among few samples.
    case = Case(seed, classes=2 if average == "binary" else (3, 40)[seed % 2])
    scores, targets = case.tied(case.n, case.classes), case.binary() if average == "binary" else case.labels()
    found, ours, theirs = scores.argmax(-1), getattr(metrics, name), BY_CLASS[name]
    whole = case.whole(3, case.n)
    whole[0] = 1
    for w in (None, case.weight(), whole):
        expected = reference(theirs, found, targets, w, average=average)
        agree(ours(scores, targets, w, average=average), expected)
        by_label = ours(found, targets, w, average=average, num_classes=case.classes)
        assert by_label.item() == pytest.approx(expected, rel=2e-7)


def test_a_class_that_occurs_nowhere_is_left_out_of_the_macro_mean() -> None:
    found, targets = torch.tensor([0, 0, 3]), torch.tensor([0, 2, 2])
    assert metrics.recall(found, targets, average="macro", num_classes=50).item() == pytest.approx((1 + 0 + 0) / 3)
    assert metrics.recall(found, targets, average="weighted", num_classes=50).item() == pytest.approx(1 / 3)


def test_classes_of_weight_0_occur_but_padding_is_no_class() -> None:
    found, targets, weight = torch.tensor([1, 1, 2, 1]), torch.tensor([1, 1, 3, -100]), torch.tensor([1, 1, 0, 0])
    assert metrics.recall(found, targets, weight, average="macro", num_classes=9).item() == pytest.approx(1 / 3)
    agree(metrics.recall(found, targets, weight.double(), average="macro", num_classes=9), 1 / 3)
    mask = weight.bool()
    assert metrics.recall(found, targets, mask, average="macro", num_classes=9).item() == pytest.approx(1 / 3)
    assert reference(sk.recall_score, found[:3], targets[:3], weight[:3], average="macro") == pytest.approx(1 / 3)


def test_nothing_predicted_and_nothing_to_find_is_0() -> None:
    none, some = torch.tensor([0, 0, 0]), torch.tensor([0, 1, 0])
    assert [metrics.precision(none, some).item(), metrics.recall(some, none).item(), metrics.f1(none, none).item()] == [0, 0, 0]


def test_binary_labels_may_be_bools_or_signs() -> None:
    case = Case(3)
    found, targets = case.labels() > 1, case.labels() > 0
    expected = reference(sk.f1_score, found, targets)
    for a, b in ((found, targets), (found.int(), targets), (2 * found.int() - 1, 2 * targets.int() - 1), (found, targets.to(torch.uint8))):
        assert metrics.f1(a, b).item() == pytest.approx(expected, rel=1e-6)

"""What is undefined or spoiled is NaN, for its entry alone; what does not fit is an error that says so."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from torchtune_hp import metrics

from .cases import BINARY, EVERY, LABELS, NUMBERS, SCORES, Case, inputs, strict  # noqa: F401  (a fixture for all of them)


def test_one_class_only_is_nan_for_its_entry_alone() -> None:
    scores = torch.tensor([0.1, 0.4, 0.4, 0.9]).expand(3, 4)
    targets = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]])
    assert metrics.roc_auc(scores, targets).isnan().tolist() == [True, True, False]
    precisions = metrics.average_precision(scores, targets)
    assert precisions.isnan().tolist() == [True, False, False] and precisions[1] == 1
    assert metrics.roc_auc(scores, targets[2], torch.tensor([1, 0, 1, 0])).isnan().all(), "a class without weight is not there"
    probabilities = torch.eye(3)[[0, 1, 2, 0]].expand(2, 4, 3)
    labels = torch.tensor([[0, 1, 2, 0], [0, 1, 1, 0]])
    assert metrics.roc_auc(probabilities, labels, multi_class="ovr").isnan().tolist() == [False, True]


def test_no_weight_at_all_is_undefined() -> None:
    for name in ("accuracy", "accuracy-labels", "top_k", *BINARY, *NUMBERS):
        case = Case(2)
        assert EVERY[name](*inputs(name, case, False), torch.zeros(case.n)).isnan(), name
    assert metrics.r2(torch.zeros(3, 1), torch.zeros(3, 1)).isnan().all()


@pytest.mark.parametrize("name", [name for name in EVERY if name not in LABELS])
def test_a_nan_makes_nan_of_its_entry_alone_unless_it_has_no_weight(name: str) -> None:
    metric, case = EVERY[name], Case(3, lead=(3,))
    first, targets = inputs(name, case, False)
    weight = case.weight()
    weight[1, 5], weight[2, 5] = 0.5, 0
    clean = metric(first, targets, weight)
    first[1:, 5] = math.nan
    spoiled = metric(first, targets, weight)
    assert spoiled.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(spoiled[[0, 2]], clean[[0, 2]], rtol=1e-12, atol=0)
    assert not clean.isnan().any()
    if name in BINARY or name in NUMBERS:
        first[1:, 5], targets = 0, targets.double()
        targets[1:, 5] = math.nan
        assert metric(first, targets, weight).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", [name for name in (*SCORES, *LABELS) if name != "accuracy-labels"])     # which has no range
@pytest.mark.parametrize("label", [-100, 4])
def test_a_label_out_of_range_makes_nan_of_its_entry_alone_unless_it_has_no_weight(name: str, label: int) -> None:
    metric, case = EVERY[name], Case(3, lead=(3,))
    first, targets = inputs(name, case, False)
    weight = case.weight()
    weight[1, 5], weight[2, 5] = 0.5, 0
    clean = metric(first, targets, weight)
    targets[1:, 5] = label
    spoiled = metric(first, targets, weight)
    assert spoiled.isnan().tolist() == [False, True, False] and torch.equal(spoiled[[0, 2]], clean[[0, 2]])
    if name in LABELS:
        targets[1, 5] = 0
        first[1:, 5] = label
        assert metric(first, targets, weight).isnan().tolist() == [False, True, False]


ZEROS, LONGS = torch.zeros, partial(torch.zeros, dtype=torch.int64)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: metrics.accuracy(ZEROS(5, 3), LONGS(4)), ["accuracy: targets", "(5,)", "(5, 3)", "(4,)"]),
        (lambda: metrics.accuracy(ZEROS(2, 5, 3), LONGS(2, 4)), ["(2, 5) or (5,)", "(2, 4)"]),
        (lambda: metrics.accuracy(ZEROS(5, 3), LONGS(5, 3)), ["(5, 3)", "argmax(-1)"]),
        (lambda: metrics.accuracy(LONGS(5), LONGS(3, 5)), ["(5,)", "(3, 5)"]),
        (lambda: metrics.accuracy(ZEROS(5), LONGS(5)), ["(..., n, C)", "(5,)"]),
        (lambda: metrics.accuracy(ZEROS(5, 1), LONGS(5)), ["two classes", "squeeze(-1) > 0"]),
        (lambda: metrics.accuracy(LONGS(5), ZEROS(5)), ["float32", "targets.long()", "interchanged"]),
        (lambda: metrics.accuracy(LONGS(0), LONGS(0)), ["at least one sample", "(0,)"]),
        (lambda: metrics.accuracy(np.zeros((5, 3)), LONGS(5)), ["predictions must be a tensor", "ndarray", "as_tensor"]),
        (lambda: metrics.accuracy(LONGS(5), LONGS(5), [1] * 5), ["weight must be a tensor", "list"]),
        (lambda: metrics.top_k(ZEROS(5, 3), LONGS(5), 0), ["k must be at least 1", "0"]),
        (lambda: metrics.f1(ZEROS(5, 3), LONGS(5)), ['average="binary"', "3", '"macro"']),
        (lambda: metrics.f1(LONGS(5), LONGS(5), average="macro"), ["f1", "num_classes=", "(5,)"]),
        (lambda: metrics.f1(ZEROS(5, 3), LONGS(5), average="macro", num_classes=4), ["num_classes is 4", "have 3"]),
        (lambda: metrics.recall(LONGS(5), LONGS(5), average="samples"), ["recall: average", "'weighted'", "'samples'"]),
        (lambda: metrics.precision(LONGS(5), LONGS(5), ZEROS(4)), ["precision: weight", "(5,)", "(4,)"]),
        (lambda: metrics.roc_auc(ZEROS(5, 3), LONGS(5)), ["(5, 3) or (3,)", "(5,)"]),
        (lambda: metrics.roc_auc(ZEROS(5), LONGS(5), multi_class="ovo"), ["'ovo'", '"ovr"']),
        (lambda: metrics.roc_auc(ZEROS(5, 3), ZEROS(5), multi_class="ovr"), ["float32"]),
        (lambda: metrics.mse(ZEROS(5, 1), ZEROS(5)), ["mse: targets", "(5, 1)", "(5,)", "squeeze(-1)"]),
        (lambda: metrics.r2(ZEROS(()), ZEROS(())), ["at least one sample", "()"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_shapes_and_the_way_out(call: Any, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)

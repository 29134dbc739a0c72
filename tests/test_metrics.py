"""Metrics: scikit-learn's numbers, alone, batched and under `vmap`; what is undefined or spoiled is NaN, for its entry alone."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from torch import Tensor
from torch.func import vmap

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
    assert ours.shape == () and ours.dtype == dtype
    assert ours.item() == pytest.approx(theirs, rel=CLOSE[dtype], abs=CLOSE[dtype], nan_ok=True)


# scikit-learn's numbers --------------------------------------------------------------------------------------------------


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


# Batched, alone, under vmap ----------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_batched_is_vmap_is_one_at_a_time(name: str, shared: bool, dtype: torch.dtype) -> None:
    metric = EVERY[name]
    for seed in (2, 3):
        case = Case(seed, lead=(2, 3), dtype=dtype)
        first, targets = inputs(name, case, shared)
        every = targets.expand(2, 3, case.n)
        for weight in (None, case.weight(shared)):
            batched = metric(first, targets, weight)
            weights = None if weight is None else weight.expand(2, 3, case.n)
            one = [
                [metric(first[i, j], every[i, j], None if weights is None else weights[i, j]) for j in range(3)] for i in range(2)
            ]
            assert batched.shape == (2, 3) and not batched.isnan().all()
            assert batched.dtype == one[0][0].dtype == (torch.float32 if name in LABELS and weight is None else dtype)
            dims = (0, None if targets.dim() == 1 else 0, None if weight is None or weight.dim() == 1 else 0)
            lifted = vmap(vmap(metric, in_dims=dims), in_dims=dims)(first, targets, weight)
            alone = torch.stack([torch.stack(row) for row in one])
            torch.testing.assert_close(batched, alone, rtol=1e-12, atol=1e-12, equal_nan=True)
            torch.testing.assert_close(lifted, alone, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_summed_exactly(dtype: torch.dtype) -> None:
    scores = torch.linspace(0, 1, 5000).to(dtype)
    targets = torch.arange(5000) % 3 > 0
    for name in RANKING:
        found = getattr(metrics, name)(scores, targets)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(getattr(metrics, name)(scores.double(), targets).item(), rel=1e-7)
    assert metrics.mse(scores, targets.to(dtype)).item() == pytest.approx(metrics.mse(scores.double(), targets.double()).item(), rel=1e-7)


def test_a_million_float32_numbers_far_from_0_lose_nothing() -> None:
    targets = torch.arange(1_000_000, dtype=torch.float32) % 100 + 10_000
    agree(metrics.r2(targets + 1, targets), 1 - 1 / (9999 / 12), torch.float32)


def test_no_metric_asks_for_a_value() -> None:
    """On the meta device there are none, only shapes."""
    for name, metric in EVERY.items():
        first, targets = inputs(name, Case(3, lead=(5,)), False)
        assert metric(first.to("meta"), targets.to("meta"), torch.ones(first.shape[:2], device="meta")).shape == (5,)


# Undefined, spoiled, wrong -----------------------------------------------------------------------------------------------


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


def test_inputs_are_not_changed() -> None:
    for name, metric in EVERY.items():
        case = Case(3, lead=(2,))
        given = (*inputs(name, case, False), case.weight())
        before = [tensor.clone() for tensor in given]
        metric(*given)
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True)), name


def test_scikit_learn_is_not_needed() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import torchtune_hp.metrics as m; print(*m.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == sorted("accuracy top_k precision recall f1 roc_auc average_precision mse mae r2".split()), done.stderr

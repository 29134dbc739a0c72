"""Every metric, batched, under `vmap` and one at a time: the same numbers, from shapes alone, and inputs left as they were."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch
from torch.func import vmap

from torchtune_hp import metrics

from .cases import EVERY, LABELS, RANKING, Case, inputs, strict  # noqa: F401  (a fixture for all of them)


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


def test_no_metric_asks_for_a_value() -> None:
    """On the meta device there are none, only shapes."""
    for name, metric in EVERY.items():
        first, targets = inputs(name, Case(3, lead=(5,)), False)
        assert metric(first.to("meta"), targets.to("meta"), torch.ones(first.shape[:2], device="meta")).shape == (5,)


def test_inputs_are_not_changed() -> None:
    for name, metric in EVERY.items():
        case = Case(3, lead=(2,))
        given = (*inputs(name, case, False), case.weight())
        before = [tensor.clone() for tensor in given]
        metric(*given)
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True)), name


def test_scikit_learn_is_not_needed() -> None:
    """The package and the metrics are imported anew where importing scikit-learn fails."""

    def ours_or_theirs() -> dict[str, ModuleType]:
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("torchtune_hp", "sklearn")}

    before = ours_or_theirs()
    try:
        for name in before:
            del sys.modules[name]
        sys.modules["sklearn"] = None
        anew = importlib.import_module("torchtune_hp.metrics")
        assert anew is not metrics
        assert anew.__all__ == sorted("accuracy top_k precision recall f1 roc_auc average_precision mse mae r2".split())
    finally:
        for name in ours_or_theirs():
            del sys.modules[name]
        sys.modules.update(before)

"""Outcomes on a scale: monotone, unit-free, and no single one bends the others."""

from __future__ import annotations

import pytest
import torch

from torchtune_hp.searchers.gp_values import scalarized, tamed


@pytest.mark.parametrize("wild", [1e3, 1e30, 1e300, -1e30, 1.7e308, -1.7e308])
def test_no_single_value_bends_the_others(wild: float) -> None:
    calm = torch.linspace(0, 1, 20, dtype=torch.float64)
    y = tamed(torch.cat([calm, torch.tensor([wild], dtype=torch.float64)]))
    assert y.isfinite().all()
    assert y[:20].diff().min() > 0.0
    if wild > 0:
        assert y[:20].std() > 0.5 and y[20] > y[19]
    else:
        assert y[20] < y[0]


def test_taming_keeps_the_order_and_gives_mean_0_and_variance_1() -> None:
    values = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).exp()
    y = tamed(values)
    assert torch.equal(y.argsort(-1), values.argsort(-1))
    assert torch.allclose(y.mean(-1), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(y.square().mean(-1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(tamed(1e6 * values - 7), y, atol=1e-9), "the unit of a metric does not matter"


def test_equal_values_are_tamed_to_zeros() -> None:
    assert tamed(torch.full((5,), 1e30, dtype=torch.float64)).tolist() == [0.0] * 5


def test_each_point_of_a_front_is_least_under_some_scalarization() -> None:
    front = torch.tensor([[0.0, 0.4, 0.6, 1.0], [1.0, 0.6, 0.4, 0.0]], dtype=torch.float64)
    behind = torch.tensor([[0.9], [0.9]], dtype=torch.float64)
    first = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    least = scalarized(torch.cat([front, behind], 1), torch.stack([first, 1 - first], 1)).argmin(1)
    assert set(least.tolist()) == {0, 1, 2, 3}

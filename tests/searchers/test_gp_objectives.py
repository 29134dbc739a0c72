"""Several objectives as processes see them: units, and the reference point."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from torchtune_hp.objective import VIOLATED
from torchtune_hp.pareto import hypervolume
from torchtune_hp.searchers.gp_objectives import in_units_of_the_front


def tensor(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def circle(n: int) -> Tensor:
    """A front: a quarter of a circle around (1, 1), (2, n)."""
    angle = torch.linspace(0, torch.pi / 2, n, dtype=torch.float64)
    return torch.stack([1 - angle.cos(), 1 - angle.sin()])


def volume(y: Tensor, reference: Tensor) -> float:
    return hypervolume([tuple(row) for row in y.T.tolist()], tuple(reference.tolist()))


def test_objectives_are_standardised_and_keep_their_order() -> None:
    values = torch.cat([circle(9), 1 + 4 * circle(7)], 1)
    y, _ = in_units_of_the_front(values)
    assert y.shape == values.shape and y.dtype == torch.float64
    assert y.mean(1).abs().max() < 1e-12 and (y.square().mean(1) - 1).abs().max() < 1e-12
    assert torch.equal(y.argsort(dim=1, stable=True), values.argsort(dim=1, stable=True))


def test_the_references_are_a_tenth_and_a_half_of_the_front_behind_it() -> None:
    """Where much was seen out there: of 160 observations in two objectives nine are the front."""
    values = torch.cat([circle(9), 4 + 4 * torch.rand(2, 151, dtype=torch.float64, generator=torch.Generator().manual_seed(0))], 1)
    y, (near, far) = in_units_of_the_front(values)
    ends = y[:, :9].amax(1) - y[:, :9].amin(1)
    assert torch.allclose(near, y[:, :9].amax(1) + 0.1 * ends, rtol=0.01)
    assert torch.allclose(far, y[:, :9].amax(1) + 0.5 * ends, rtol=0.01)


def test_no_reference_is_much_further_than_anything_that_was_seen() -> None:
    y, (_, reference) = in_units_of_the_front(circle(30))
    width = y.amax(1) - y.amin(1)
    assert (reference > y.amax(1)).all() and (reference < y.amax(1) + 0.11 * width).all()


def test_hypervolume_is_that_of_the_values_in_other_units() -> None:
    """Better than the reference nothing is bent: improvements keep their ratios to a percent."""
    values = circle(12)
    y, (reference, _) = in_units_of_the_front(values)
    own = values.amax(1) + 0.1 * (values.amax(1) - values.amin(1))
    for less in (slice(0, 11), slice(0, 12, 2), slice(3, 9)):
        share = volume(y[:, less], reference) / volume(y, reference)
        assert share == pytest.approx(volume(values[:, less], own) / volume(values, own), rel=0.01)


@pytest.mark.parametrize("absurd", [1e30, 1e300])
def test_an_absurd_value_does_not_bend_the_others(absurd: float) -> None:
    """Even where it is on the front, for the sake of the other objective."""
    calm, _ = in_units_of_the_front(circle(40))
    y, references = in_units_of_the_front(torch.cat([circle(40), tensor([-0.01], [absurd])], 1))
    assert y.isfinite().all() and references.isfinite().all()
    spread = y[:, :40].amax(1) - y[:, :40].amin(1)
    assert (spread > 0.4 * (calm.amax(1) - calm.amin(1))).all()
    assert (references >= y[:, 2:38].amax(1)).all()


def few() -> Tensor:
    """Eight observations, of which four are the front, (2, 8)."""
    return torch.cat([circle(4), 0.3 + circle(4)], 1)


@pytest.mark.parametrize("n", [1, 3, 12])
def test_violators_however_many_do_not_move_the_references_nor_hide_what_the_others_are(n: int) -> None:
    violators = torch.linspace(1, 2, n, dtype=torch.float64).expand(2, n) * VIOLATED
    calm, there = in_units_of_the_front(few())
    y, references = in_units_of_the_front(torch.cat([few(), violators], 1))
    legal = y[:, :8]
    scale = (calm.amax(1) - calm.amin(1)) / (legal.amax(1) - legal.amin(1))
    assert torch.allclose((references - legal[:, 0]) * scale, there - calm[:, 0], rtol=1e-6)
    assert (legal.std(1) > 0.1).all()
    assert (y[:, 8:] > references.amax(0)[:, None]).all(), "they are worth nothing"


@pytest.mark.parametrize("diverged", [1e6, 1e12])
@pytest.mark.parametrize("size", [-0.01, 0.5])
def test_one_diverged_value_among_nine_neither_moves_the_references_nor_hides_what_the_others_are(diverged: float, size: float) -> None:
    """On the front for the sake of the other objective, or behind it."""
    calm, there = in_units_of_the_front(few())
    y, references = in_units_of_the_front(torch.cat([few(), tensor([size], [diverged])], 1))
    y = y[:, :8]
    scale = (calm.amax(1) - calm.amin(1)) / (y.amax(1) - y.amin(1))
    assert torch.allclose((references - y[:, 0]) * scale, there - calm[:, 0], rtol=1e-6)
    assert y[1].std() > 0.15


def test_a_long_tail_is_no_divergence() -> None:
    """Sizes over four decades: the largest network may be the best one."""
    sizes = torch.logspace(0, 4, 12, dtype=torch.float64)
    y, (near, _) = in_units_of_the_front(torch.stack([sizes, -sizes.log10()]))
    assert near[0] > y[0].amax()


def test_units_do_not_matter() -> None:
    values = torch.cat([circle(9), 1 + circle(7)], 1)
    y, reference = in_units_of_the_front(values)
    again, there = in_units_of_the_front(values * tensor([1e6], [1e-3]) - 5)
    assert torch.allclose(y, again, atol=1e-6) and torch.allclose(reference, there, atol=1e-6)


def test_equal_values_and_a_single_observation_have_a_reference_behind_them() -> None:
    for values in (tensor([2.0], [3.0]), torch.full((3, 6), 1e30, dtype=torch.float64), torch.cat([tensor([1.0] * 9), circle(9)[:1]])):
        y, references = in_units_of_the_front(values)
        assert y.isfinite().all() and (references > y.amin(1)).all()

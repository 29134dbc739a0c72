"""The covariance function: its formula, its laws, its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from torchtune_hp.gp.kernel import Hyper, Kernel, active, compared, covariance, described, pack, pullback, unpack, variance
from torchtune_hp.gp.slopes import pullback_points, variance_slope

from .written_out import KERNELS, TREE, element, hypers, matrix, points, raws, width

kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


@kernels
def test_it_is_the_formula_written_out(kernel: Kernel) -> None:
    hyper, a, b = hypers(kernel), points(7, width(kernel)), points(5, width(kernel), seed=1)
    np.testing.assert_allclose(covariance(kernel, hyper, a, b), matrix(kernel, hyper, a, b), rtol=0, atol=1e-14)
    np.testing.assert_allclose(covariance(kernel, hyper, a), matrix(kernel, hyper, a, a), rtol=0, atol=1e-14)


@kernels
def test_the_variance_is_the_diagonal(kernel: Kernel) -> None:
    hyper, x = hypers(kernel, 3), points(3, 6, width(kernel))
    diagonal = covariance(kernel, hyper, x).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(variance(kernel, hyper, x), diagonal, rtol=1e-14, atol=0)
    diagonal = covariance(kernel, hyper, x[0]).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(variance(kernel, hyper, x[0]), diagonal, rtol=1e-14, atol=0)


def test_the_outputscale_is_the_variance_of_a_fully_trained_point() -> None:
    hyper, x = hypers(TREE), points(4, 8)
    x[:, 7] = 1
    torch.testing.assert_close(variance(TREE, hyper, x), hyper.outputscale.expand(4), rtol=1e-14, atol=0)


@kernels
@pytest.mark.parametrize("seed", range(8))
def test_every_covariance_matrix_is_positive_semidefinite(kernel: Kernel, seed: int) -> None:
    """Half of the points are another one with a few coordinates drawn anew: near each other, in other branches, at other budgets."""
    rng = np.random.default_rng(seed)
    x = points(60, width(kernel), seed=seed)
    x[30:] = torch.where(torch.from_numpy(rng.random(x[30:].shape) < 0.3), x[30:], x[:30])
    hyper = hypers(kernel, 4, seed=seed)
    hyper = hyper._replace(lengthscale=hyper.lengthscale * torch.tensor([0.1, 1.0, 5.0, 50.0], dtype=torch.float64)[:, None])
    found = covariance(kernel, hyper, x)
    assert torch.equal(found, found.mT)
    lowest = torch.linalg.eigvalsh(found)[:, 0]
    assert (lowest > -1e-12 * 60 * found.amax((-2, -1))).all()


def test_a_constant_distance_to_what_is_inactive_would_not_be_positive_semidefinite() -> None:
    """Why the wedge: three points of a line and one that is equally far, and near, from all of them."""
    line = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    square = torch.zeros(4, 4, dtype=torch.float64)
    square[:3, :3] = (line[:, None] - line).square() * 4
    square[3, :3] = square[:3, 3] = 0.01
    assert torch.linalg.eigvalsh((-0.5 * square).exp())[0] < -1e-3


def test_what_exists_follows_from_the_levels_of_the_parents() -> None:
    x = points(4, 8)
    x[:, 2] = torch.tensor([0.5, 0.5, 0.9, 0.1], dtype=torch.float64)        # levels 1, 1, 2, 0 of 3
    x[:, 5] = torch.tensor([0.2, 0.8, 0.2, 0.2], dtype=torch.float64)        # levels 0, 1, (0), (0) of 2
    exists = active(TREE, x)
    assert exists[:, [0, 1, 2, 7]].all()
    assert exists[:, [3, 5, 4, 6]].tolist() == [
        [True, True, True, False], [True, True, False, False], [False, False, False, True], [False, False, False, False]
    ]  # fmt: skip


def test_an_inactive_coordinate_changes_no_bit_and_has_no_slope() -> None:
    hyper, x, other = hypers(TREE), points(40, 8), points(6, 8, seed=1)
    exists = active(TREE, x)
    assert exists.any(0).all() and (~exists).any(0)[3:7].all()
    moved = torch.where(exists, x, points(40, 8, seed=2))
    assert torch.equal(covariance(TREE, hyper, x, other), covariance(TREE, hyper, moved, other))
    assert torch.equal(covariance(TREE, hyper, x), covariance(TREE, hyper, moved))
    x.requires_grad_()
    covariance(TREE, hyper, x, other).sum().backward()
    assert (x.grad[~exists] == 0).all() and (x.grad[exists][:, None] != 0).any()


def test_columns_that_are_named_nowhere_do_not_count() -> None:
    hyper, x = hypers(Kernel((0, 2))), points(5, 4)
    moved = x.clone()
    moved[:, [1, 3]] = points(5, 2, seed=3)
    assert torch.equal(covariance(Kernel((0, 2)), hyper, x), covariance(Kernel((0, 2)), hyper, moved))


def test_a_category_counts_as_equal_or_not_wherever_in_its_cell_x_lies() -> None:
    kernel = Kernel((), ((0, 4),))
    hyper = Hyper(*(torch.tensor(value, dtype=torch.float64) for value in ([0.7], 2.0, 0.1, 0.0, [])))
    x = torch.tensor([[0.0], [0.24], [0.25], [0.99], [1.0]], dtype=torch.float64)
    factor = 2 * np.exp(-1 / 0.7)
    expected = [[2, 2, factor, factor, factor], [factor, factor, factor, 2, 2]]
    np.testing.assert_allclose(covariance(kernel, hyper, x)[[0, 4]], expected, rtol=1e-14)


@kernels
def test_the_gradient_is_autograds_and_that_of_finite_differences(kernel: Kernel) -> None:
    x, raw = points(2, 9, width(kernel)), raws(kernel, 2)
    weight = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 9, 9)))
    weight = weight + weight.mT

    def weighted(raw: torch.Tensor) -> torch.Tensor:
        return (weight * covariance(kernel, unpack(kernel, raw), x)).sum((-2, -1))

    hyper = unpack(kernel, raw)
    found = pullback(kernel, hyper, compared(kernel, hyper, x), weight)
    k = kernel.lengthscales
    found = torch.cat([found[:, : k + 1], torch.zeros(2, 2, dtype=torch.float64), found[:, k + 1 :]], -1)       # noise and mean: none
    leaf = raw.clone().requires_grad_()
    weighted(leaf).sum().backward()
    torch.testing.assert_close(found, leaf.grad, rtol=1e-11, atol=1e-12)
    for entry in range(raw.shape[-1]):
        step = torch.zeros_like(raw)
        step[:, entry] = 1e-5
        torch.testing.assert_close(found[:, entry], (weighted(raw + step) - weighted(raw - step)) / 2e-5, rtol=1e-6, atol=1e-8)


@kernels
def test_what_is_described_once_is_compared_as_the_points_themselves_are_in_any_room(kernel: Kernel) -> None:
    hyper, a, b = hypers(kernel), points(9, width(kernel)), points(6, width(kernel), seed=1)
    plain, once = compared(kernel, hyper, a, b), described(kernel, hyper, a)
    one, two, three = torch.full((3, 9, 6), torch.nan, dtype=torch.float64)
    for found in (compared(kernel, hyper, once, b), compared(kernel, hyper, once, b, room=(one, two, three))):
        assert torch.equal(found.value, plain.value) and torch.equal(found.slope, plain.slope)
    assert found.value.data_ptr() == one.data_ptr()


@kernels
def test_the_gradient_by_points_is_autograds(kernel: Kernel) -> None:
    hyper, a, b = hypers(kernel), points(9, width(kernel)), points(6, width(kernel), seed=1)
    weight = torch.from_numpy(np.random.default_rng(5).normal(size=(9, 6)))
    found = compared(kernel, hyper, a, b)
    torch.testing.assert_close(found.value, covariance(kernel, hyper, a, b), rtol=1e-14, atol=0)
    leaf = b.clone().requires_grad_()
    (weight * covariance(kernel, hyper, a, leaf)).sum().backward()
    torch.testing.assert_close(pullback_points(kernel, hyper, b, found, weight), leaf.grad, rtol=1e-11, atol=1e-12)
    slope = variance_slope(kernel, hyper, b)
    if kernel.fidelity is None:
        assert slope is None and (variance(kernel, hyper, b) == hyper.outputscale).all()
    else:
        leaf = b.clone().requires_grad_()
        variance(kernel, hyper, leaf).sum().backward()
        torch.testing.assert_close(slope, leaf.grad[:, kernel.fidelity], rtol=1e-12, atol=1e-14)


@kernels
def test_it_is_differentiable_in_x_where_points_coincide_too(kernel: Kernel) -> None:
    hyper, x = hypers(kernel), points(4, width(kernel)).requires_grad_()
    covariance(kernel, hyper, x, torch.cat([x.detach()[:2], points(2, width(kernel), seed=1)])).sum().backward()
    assert x.grad.isfinite().all()
    other = points(3, width(kernel), seed=2)
    assert torch.autograd.gradcheck(lambda z: covariance(kernel, hyper, z, other), [points(2, width(kernel)).requires_grad_()], atol=1e-7)


@kernels
def test_an_element_of_a_batch_is_what_it_is_alone(kernel: Kernel) -> None:
    hyper, a, b = hypers(kernel, 3, 2), points(2, 6, width(kernel)), points(3, 1, 4, width(kernel), seed=1)
    whole, alone = covariance(kernel, hyper, a, b), covariance(kernel, hyper, a)
    assert whole.shape == (3, 2, 6, 4) and alone.shape == (3, 2, 6, 6)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(whole[i, j], covariance(kernel, element(hyper, i, j), a[j], b[i, 0]), rtol=0, atol=1e-14)
            torch.testing.assert_close(alone[i, j], covariance(kernel, element(hyper, i, j), a[j]), rtol=0, atol=1e-14)


@kernels
def test_raw_and_hyperparameters_are_one_to_one(kernel: Kernel) -> None:
    raw = raws(kernel, 2)
    torch.testing.assert_close(pack(unpack(kernel, raw)), raw, rtol=1e-14, atol=1e-14)
    with pytest.raises(ValueError, match=rf"raw must be \(\.\.\., {raw.shape[-1]}\)"):
        unpack(kernel, raw[:, 1:])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"numbers": (0, 1), "categories": ((1, 3),)}, r"two at once: \[1\]"),
        ({"numbers": (0, 1), "fidelity": 0}, r"two at once: \[0\]"),
        ({"numbers": (0,), "shape": "cubic"}, "'matern52' or 'rbf', got 'cubic'"),
        ({"numbers": (0,), "categories": ((1, 3),), "conditions": ((0, 1, 3),)}, "level 3 of column 1, which has 3 levels"),
        ({"numbers": (0, 1), "conditions": ((0, 1, 0),)}, "level 0 of column 1, which has 0 levels"),
        ({"numbers": (0,), "categories": ((1, 2), (2, 2)), "conditions": ((0, 1, 0), (1, 2, 0))}, "parents first"),
        ({"numbers": (0,), "categories": ((1, 2), (2, 2)), "conditions": ((0, 1, 0), (0, 2, 0))}, "column 0 has one condition"),
        ({"numbers": (0,), "categories": ((1, 2),), "conditions": ((1, 1, 0),)}, "parents first"),
    ],
)
def test_a_kernel_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Kernel(**arguments)

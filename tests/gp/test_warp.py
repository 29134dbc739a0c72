"""The input warp: the map, its derivatives up to the ends, and what a fit gains by it where a function is wiggly on one side alone.

That kernels with warped columns keep every law of the others is shown where those are: KERNELS has some.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from torchtune_hp.gp.fit import fit
from torchtune_hp.gp.kernel import Kernel, active, compared, covariance, pullback, unpack
from torchtune_hp.gp.priors import default, log_prior, mode
from torchtune_hp.gp.regression import condition, extend, log_marginal, means, predict
from torchtune_hp.gp.slopes import pullback_points
from torchtune_hp.gp.warp import EDGE, slope, slopes_by_raw, warped

from .written_out import KERNELS, hypers, points, raws

LINE, BENT = Kernel((0, 1)), Kernel((0, 1), warped=(0, 1))
TREE = KERNELS["warped tree"]


def shapes(*pairs: tuple[float, float]) -> Tensor:
    """(2, m) of m pairs (a, b)."""
    return torch.tensor(pairs, dtype=torch.float64).T.contiguous()


SHAPES = shapes((0.1, 1.0), (1.0, 0.1), (0.3, 0.4), (3.0, 5.0), (1.0, 1.0), (16.0, 1 / 16), (1 / 16, 16.0), (2.0, 0.5))
GRID = torch.cat([torch.logspace(-300, -1, 60), torch.linspace(0.1, 0.9, 33), 1 - torch.logspace(-1, -15, 30)]).double()
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


def columns(u: Tensor) -> Tensor:
    """(n, m): the same for each of SHAPES."""
    return u[:, None].expand(-1, SHAPES.shape[1]).contiguous()


# The map


def test_it_leads_from_0_to_1_exactly_and_rises_between() -> None:
    assert torch.equal(warped(columns(ENDS), SHAPES), columns(ENDS))
    value = warped(columns(GRID.sort().values), SHAPES)
    assert (value >= 0).all() and (value <= 1).all() and (value.diff(dim=0) >= 0).all()


def test_it_is_the_distribution_function_of_kumaraswamy() -> None:
    theirs = torch.distributions.Kumaraswamy(*SHAPES, validate_args=False).cdf(columns(GRID[50:100]))
    torch.testing.assert_close(warped(columns(GRID[50:100]), SHAPES), theirs, rtol=0, atol=1e-12)


def test_shapes_of_1_are_the_identity_to_rounding() -> None:
    torch.testing.assert_close(warped(columns(GRID), torch.ones_like(SHAPES)), columns(GRID), rtol=0, atol=2e-16)
    hyper = hypers(BENT)
    plain, same = hyper._replace(warp=None), hyper._replace(warp=torch.ones(2, 2, dtype=torch.float64))
    x, y, new = points(20, 2), points(20), points(9, 2, seed=1)
    for one, two in zip(predict(condition(LINE, x, y, plain), new), predict(condition(BENT, x, y, same), new)):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


# Its derivatives


def test_its_derivatives_are_autograds_of_the_formula_between_the_ends() -> None:
    u, shape = columns(torch.linspace(1e-3, 0.999, 50, dtype=torch.float64)).requires_grad_(), SHAPES.clone().requires_grad_()
    a, b = shape[:1], shape[1:]
    weight = points(*u.shape)
    (weight * (1 - (1 - u**a) ** b)).sum().backward()
    torch.testing.assert_close(weight * slope(u.detach(), SHAPES), u.grad, rtol=1e-12, atol=1e-14)
    by_raw = torch.stack([(weight * part).sum(0) for part in slopes_by_raw(u.detach(), SHAPES)])
    torch.testing.assert_close(by_raw, shape.grad * SHAPES, rtol=1e-11, atol=1e-13)
    expected = u.grad.clone(), shape.grad.clone()
    u.grad = shape.grad = None
    (weight * warped(u, shape)).sum().backward()
    torch.testing.assert_close((u.grad, shape.grad), expected, rtol=1e-11, atol=1e-13)


def test_at_and_next_to_the_ends_every_slope_is_finite_and_by_the_shape_it_is_nothing_there() -> None:
    near = torch.cat([ENDS, torch.tensor([5e-324, 1e-300, 1e-16, 2**-53, 1 - 2**-53, 1 - 1e-15], dtype=torch.float64), GRID])
    steep = slope(columns(near), SHAPES)
    assert steep.isfinite().all() and (steep >= 0).all()
    for part in slopes_by_raw(columns(near), SHAPES):
        assert part.isfinite().all() and part.abs().max() < 2
        assert (part[:2] == 0).all()
    for u in (columns(ENDS), columns(near)):
        leaf, shape = u.clone().requires_grad_(), SHAPES.clone().requires_grad_()
        warped(leaf, shape).sum().backward()
        assert leaf.grad.isfinite().all() and shape.grad.isfinite().all()
    assert torch.equal(steep[:2], slope(columns(torch.tensor([EDGE, 1 - EDGE], dtype=torch.float64)), SHAPES))


def test_an_axis_that_is_nearly_straight_is_nowhere_steep() -> None:
    """Its slope is infinite at an end all the same. Whatever climbs along that face must not hear of it."""
    shape = shapes((0.95, 1.0), (1.0, 0.95), (0.95, 0.95))
    assert slope(ENDS[:, None].expand(2, 3), shape).max() < 3


def test_by_the_shape_its_slopes_are_those_of_finite_differences_up_to_the_ends() -> None:
    u = columns(torch.cat([ENDS, torch.tensor([1e-12, 1e-6, 0.5, 1 - 1e-4], dtype=torch.float64)]))
    for entry, found in enumerate(slopes_by_raw(u, SHAPES)):
        up, down = SHAPES.clone(), SHAPES.clone()
        up[entry] *= math.exp(1e-5)
        down[entry] *= math.exp(-1e-5)
        torch.testing.assert_close(found, (warped(u, up) - warped(u, down)) / 2e-5, rtol=1e-6, atol=2e-9)


# In a kernel


def on_faces(n: int, d: int) -> Tensor:
    """Points, a third of whose coordinates are 0 or 1."""
    x, which = points(n, d), points(n, d, seed=9)
    return torch.where(which < 1 / 6, 0.0, torch.where(which > 5 / 6, 1.0, x))


@pytest.mark.parametrize("name", ["warped", "warped in part"])
def test_gradients_on_the_faces_of_the_cube_are_those_of_finite_differences(name: str) -> None:
    """By raw wherever points lie; by points along the cube, with a and b > 2, for those below have infinite slopes, or bends, there."""
    kernel = KERNELS[name]
    x, y, raw = on_faces(12, 3), points(12), raws(kernel)
    found = log_marginal(kernel, x, y, raw)[1]
    assert found.isfinite().all() and (found[-2 * len(kernel.warped) :] != 0).all()
    for entry in range(len(raw)):
        step = torch.zeros_like(raw)
        step[entry] = 1e-5
        around = [log_marginal(kernel, x, y, raw + sign * step)[0] for sign in (1, -1)]
        torch.testing.assert_close(found[entry], (around[0] - around[1]) / 2e-5, rtol=1e-5, atol=1e-6)
    hyper = unpack(kernel, raw)
    weight, b = points(12, 12, seed=4), on_faces(12, 3)
    assert pullback_points(kernel, hyper, b, compared(kernel, hyper, x, b), weight).isfinite().all()
    hyper = hyper._replace(warp=2 + points(2, len(kernel.warped)))
    by_points = pullback_points(kernel, hyper, b, compared(kernel, hyper, x, b), weight)
    for column in kernel.numbers:
        step = torch.zeros_like(b)
        step[:, column] = torch.where(b[:, column] == 1, -1e-6, 1e-6)       # into the cube
        moved = (weight * (covariance(kernel, hyper, x, b + step) - covariance(kernel, hyper, x, b))).sum(0)
        torch.testing.assert_close(by_points[:, column], moved / step[:, column], rtol=1e-4, atol=2e-4)


def test_a_warped_number_that_does_not_exist_changes_no_bit_and_has_no_slope() -> None:
    hyper, x, other = hypers(TREE), points(40, 8), points(6, 8, seed=1)
    exists = active(TREE, x)
    assert (~exists[:, [3, 4]]).any(0).all() and exists[:, [3, 4]].any(0).all()
    moved = torch.where(exists, x, torch.where(points(40, 8, seed=2) < 0.5, 0.0, 1.0))
    assert torch.equal(covariance(TREE, hyper, x, other), covariance(TREE, hyper, moved, other))
    weight = points(40, 40)
    weight = weight + weight.mT
    raw = [pullback(TREE, hyper, compared(TREE, hyper, at), weight) for at in (x, moved)]
    assert torch.equal(*raw)
    slopes = pullback_points(TREE, hyper, moved, compared(TREE, hyper, other, moved), points(6, 40, seed=3))
    assert (slopes[~exists] == 0).all() and slopes.isfinite().all()


def test_two_points_without_a_warped_column_do_not_differ_in_it_under_any_warp() -> None:
    hyper = hypers(TREE)
    x = points(30, 8)
    x[:, 2], x[:, 5] = 0.1, 0.1         # level 0: 3 and 4 do not exist
    other = hyper._replace(warp=hyper.warp * torch.tensor([7.0, 1.0, 7.0], dtype=torch.float64))     # 0 keeps its own
    assert torch.equal(covariance(TREE, hyper, x), covariance(TREE, other, x))


@pytest.mark.parametrize(
    "given, message",
    [({"warped": (2,)}, r"one of `numbers`, \(0, 1\), named once; got \(2,\)"), ({"warped": (1, 1)}, r"mend \[1\]")],
)
def test_a_warped_column_is_a_number_named_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Kernel((0, 1), **given)


def test_what_has_no_warp_or_lies_outside_of_the_cube_is_refused() -> None:
    x, y, hyper = points(5, 2), points(5), hypers(BENT)
    with pytest.raises(ValueError, match="hyper.warp is None"):
        covariance(BENT, hyper._replace(warp=None), x)
    fitted = condition(BENT, x, y, hyper)
    for value in (1.0000001, -1e-300):
        wrong = x.clone()
        wrong[3, 1] = value
        for refused in (lambda at: condition(BENT, at, y, hyper), lambda at: fit(BENT, at, y), lambda at: extend(fitted, at, y)):
            with pytest.raises(ValueError, match=r"must lie in \[0, 1\], but 1 of 10"):
                refused(wrong)
    condition(replace(BENT, warped=()), wrong, y, hyper._replace(warp=None))


# In a fit


def skewed(n: int, seed: int, power: float = 0.25) -> tuple[Tensor, Tensor]:
    """Stationary in the `power`-th powers of two numbers: so wiggly near 0, nearly flat at 1."""
    x = points(n, 2, seed=seed)
    z = x**power
    return x, torch.sin(6 * z[:, 0]) + torch.cos(4 * z[:, 1])


def test_what_is_stationary_only_after_a_warp_is_more_likely_and_better_told_with_one() -> None:
    x, y = skewed(30, seed=0)
    new, truth = skewed(400, seed=1)
    center, scale = y.mean(), y.std()
    told: dict[Kernel, Tensor] = {}
    found = {kernel: fit(kernel, x, (y - center) / scale) for kernel in (LINE, BENT)}
    for kernel, best in found.items():
        fitted = condition(kernel, x, (y - center) / scale, best.hyper)
        told[kernel] = (means(fitted, new) * scale + center - truth).square().mean().sqrt()
    assert found[BENT].value > found[LINE].value + 5
    assert told[BENT] < 0.5 * told[LINE]
    assert (found[BENT].hyper.warp[0] < 0.7).all(), "it spreads out what lies near 0"


def test_few_observations_leave_the_axis_as_it_is() -> None:
    """None: exactly. Five of a function that is stationary as it is: nearly. And the fit cannot be worse than the one without a warp."""
    nothing = fit(BENT, points(0, 2), torch.zeros(0, dtype=torch.float64))
    assert torch.equal(nothing.hyper.warp, torch.ones(2, 2, dtype=torch.float64))
    x = points(5, 2)
    y = torch.sin(3 * x[:, 0]) + x[:, 1]
    y = (y - y.mean()) / y.std()
    bent, plain = fit(BENT, x, y), fit(LINE, x, y)
    u = torch.linspace(0, 1, 21, dtype=torch.float64)[:, None].expand(-1, 2)
    assert (warped(u, bent.hyper.warp) - u).abs().max() < 0.15
    at_1 = log_prior(default(BENT), mode(default(BENT)))[0] - log_prior(default(LINE), mode(default(LINE)))[0]
    assert bent.value >= plain.value + at_1 - 1e-6


def test_the_prior_of_a_shape_is_as_dense_at_its_inverse_in_logarithms() -> None:
    """Density by log a: that by a, times a. LogNormal(v, sqrt(v)) by a is normal about 0 by log a, divided by a."""
    prior, raw = default(BENT), mode(default(BENT))
    assert (raw[-4:] == 0).all()
    up, down = raw.clone(), raw.clone()
    up[-4:] += 0.8
    down[-4:] -= 0.8
    torch.testing.assert_close(log_prior(prior, up)[0], log_prior(prior, down)[0], rtol=1e-13, atol=1e-13)

"""Exact regression: against numpy and scipy written out, and its laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from torchtune_hp.gp.kernel import Kernel, covariance, unpack
from torchtune_hp.gp.regression import (
    JITTER,
    Fitted,
    condition,
    extend,
    factorize,
    joint,
    leave_one_out,
    log_marginal,
    means,
    predict,
    sample,
)

from .written_out import KERNELS, element, hypers, matrix, points, raws, width

kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
PLAIN = KERNELS["matern52"]


def observations(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([3, seed]).normal(size=shape))


def close(found: Any, expected: Any, atol: float = 1e-10) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=atol)


def same(one: Fitted, other: Fitted, atol: float) -> None:
    for name in ("x", "y", "noise", "factor", "whitened", "alpha"):
        close(getattr(one, name), getattr(other, name), atol)


@kernels
@pytest.mark.parametrize("extra", [False, True], ids=["one noise", "a noise for each"])
def test_posterior_and_marginal_are_the_formulas_written_out(kernel: Kernel, extra: bool) -> None:
    x, y, new, raw = points(12, width(kernel)), observations(12), points(5, width(kernel), seed=1), raws(kernel)
    hyper = unpack(kernel, raw)
    noise = torch.from_numpy(np.random.default_rng(0).random(12)) if extra else None
    fitted = condition(kernel, x, y, hyper, noise)
    total = float(hyper.noise) + (noise.numpy() if noise is not None else np.zeros(12))
    whole = matrix(kernel, hyper, x, x) + np.diag(total)
    cross, m = matrix(kernel, hyper, new, x), float(hyper.mean)
    mean = m + cross @ np.linalg.solve(whole, y.numpy() - m)
    spread = matrix(kernel, hyper, new, new) - cross @ np.linalg.solve(whole, cross.T)
    close(predict(fitted, new)[0], mean)
    close(predict(fitted, new)[1], np.diag(spread))
    close(joint(fitted, new)[0], mean)
    close(joint(fitted, new)[1], spread)
    expected = scipy.stats.multivariate_normal(np.full(12, m), whole).logpdf(y.numpy())
    close(log_marginal(kernel, x, y, raw, noise)[0], expected)


@kernels
@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_in_rooms_of_the_callers_the_marginal_is_the_same_and_whatever_they_held_is_forgotten(kernel: Kernel, device: str) -> None:
    x, y, raw = points(11, width(kernel)).to(device), observations(3, 11).to(device), raws(kernel, 3).to(device)
    one, two, three, four = torch.full((4, 3, 11, 11), torch.nan, dtype=torch.float64, device=device)
    expected = log_marginal(kernel, x, y, raw)
    for _ in range(2):
        for found, value in zip(log_marginal(kernel, x, y, raw, None, (one, two, three, four)), expected):
            torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
    for k in range(3):
        alone = log_marginal(kernel, x, y[k], raw[k], None, (one[0], two[0], three[0], four[0]))
        for found, value in zip(alone, expected):
            torch.testing.assert_close(found, value[k], rtol=1e-9, atol=1e-10)


@kernels
@pytest.mark.parametrize("extra", [False, True], ids=["one noise", "a noise for each"])
def test_the_gradient_of_the_marginal_is_autograds_and_that_of_finite_differences(kernel: Kernel, extra: bool) -> None:
    x, y, raw = points(10, width(kernel)), observations(2, 10), raws(kernel, 2)
    noise = torch.from_numpy(np.random.default_rng(0).random(10)) if extra else None
    found = log_marginal(kernel, x, y, raw, noise)[1]
    leaf = raw.clone().requires_grad_()
    fitted = condition(kernel, x, y, unpack(kernel, leaf), noise)
    value = -0.5 * fitted.whitened.square().sum() - fitted.factor.diagonal(dim1=-2, dim2=-1).log().sum()
    value.backward()
    torch.testing.assert_close(found, leaf.grad, rtol=1e-9, atol=1e-10)
    for entry in range(raw.shape[-1]):
        step = torch.zeros_like(raw)
        step[:, entry] = 1e-5
        slope = (log_marginal(kernel, x, y, raw + step, noise)[0] - log_marginal(kernel, x, y, raw - step, noise)[0]) / 2e-5
        torch.testing.assert_close(found[:, entry], slope, rtol=1e-6, atol=1e-6)


@kernels
def test_an_extension_is_a_refit(kernel: Kernel) -> None:
    x, y, hyper = points(14, width(kernel)), observations(14), hypers(kernel)
    noise = torch.from_numpy(np.random.default_rng(0).random(14))
    whole = condition(kernel, x, y, hyper, noise)
    for cuts in ([0, 14], [9, 14], [13, 14], [0, 1, 2, 14], list(range(15))):
        fitted = condition(kernel, x[: cuts[0]], y[: cuts[0]], hyper, noise[: cuts[0]])
        for begin, end in zip(cuts, cuts[1:]):
            fitted = extend(fitted, x[begin:end], y[begin:end], noise[begin:end])
        same(fitted, whole, 1e-8)


def test_an_extension_broadcasts_over_batches() -> None:
    """As of many fantasies of one process: (4 batch elements) from a process without a batch."""
    x, y, hyper = points(6, 3), observations(6), hypers(PLAIN)
    new, told = points(4, 2, 3, seed=1), observations(4, 2, seed=1)
    fitted = extend(condition(PLAIN, x, y, hyper), new, told)
    assert fitted.factor.shape == (4, 8, 8) and fitted.x.shape == (4, 8, 3)
    for i in range(4):
        alone = condition(PLAIN, torch.cat([x, new[i]]), torch.cat([y, told[i]]), hyper)
        same(Fitted(PLAIN, hyper, *(part[i] for part in fitted[2:8])), alone, 1e-10)


def test_a_point_seen_twice_extends_as_it_refits() -> None:
    x, hyper = points(6, 3), hypers(PLAIN)
    x, y = torch.cat([x, x[:3], x[:1]]), observations(10)
    same(extend(condition(PLAIN, x[:6], y[:6], hyper), x[6:], y[6:]), condition(PLAIN, x, y, hyper), 1e-8)


@kernels
def test_the_order_of_observations_does_not_matter(kernel: Kernel) -> None:
    x, y, hyper, new = points(15, width(kernel)), observations(15), hypers(kernel), points(4, width(kernel), seed=1)
    order = torch.from_numpy(np.random.default_rng(4).permutation(15))
    one, other = condition(kernel, x, y, hyper), condition(kernel, x[order], y[order], hyper)
    for found, expected in zip(predict(one, new), predict(other, new)):
        close(found, expected)
    for found, expected in zip(leave_one_out(one), leave_one_out(other)):
        close(found[order], expected)
    raw = raws(kernel)
    for found, expected in zip(log_marginal(kernel, x, y, raw), log_marginal(kernel, x[order], y[order], raw)):
        close(found, expected)


@kernels
def test_leave_one_out_is_n_refits(kernel: Kernel) -> None:
    x, y, hyper = points(9, width(kernel)), observations(9), hypers(kernel)
    noise = torch.from_numpy(np.random.default_rng(0).random(9))
    mean, variance = leave_one_out(condition(kernel, x, y, hyper, noise))
    for i in range(9):
        others = [j for j in range(9) if j != i]
        refit = predict(condition(kernel, x[others], y[others], hyper, noise[others]), x[i : i + 1])
        close(mean[i], refit[0][0])
        close(variance[i], refit[1][0] + hyper.noise + noise[i])


@kernels
def test_samples_have_the_joint_mean_and_covariance(kernel: Kernel) -> None:
    """Made of the rows of the identity and of zero, they are a root of the covariance, and the mean: no chance in this test."""
    fitted = condition(kernel, points(6, width(kernel)), observations(6), hypers(kernel))
    new = points(5, width(kernel), seed=1)
    mean, spread = joint(fitted, new)
    rows = sample(fitted, new, torch.cat([torch.eye(5, dtype=torch.float64), torch.zeros(1, 5, dtype=torch.float64)]))
    assert rows.shape == (6, 5)
    close(rows[5], mean)
    root = rows[:5] - mean
    close(root.mT @ root, spread)


def test_samples_at_one_point_twice_are_equal() -> None:
    """A covariance without a factor: jitter makes one, and the two values differ by its root at most."""
    fitted = condition(PLAIN, points(6, 3), observations(6), hypers(PLAIN))
    new = points(2, 3, seed=1)
    drawn = sample(fitted, torch.cat([new, new]), observations(50, 4))
    close(drawn[:, :2], drawn[:, 2:], 1e-4)
    assert drawn.std(0).min() > 0.01


@kernels
def test_without_observations_it_is_the_prior(kernel: Kernel) -> None:
    hyper, new = hypers(kernel, 2), points(4, width(kernel))
    empty = condition(kernel, points(0, width(kernel)), observations(2, 0), hyper)
    mean, variance = predict(empty, new)
    close(mean, hyper.mean[:, None].expand(2, 4))
    close(variance, covariance(kernel, hyper, new).diagonal(dim1=-2, dim2=-1))
    close(joint(empty, new)[1], covariance(kernel, hyper, new))
    assert [part.shape for part in leave_one_out(empty)] == [(2, 0), (2, 0)]
    value, gradient = log_marginal(kernel, points(0, width(kernel)), observations(2, 0), raws(kernel, 2))
    assert (value == 0).all() and (gradient == 0).all()
    x, y = points(3, width(kernel), seed=2), observations(2, 3)
    same(extend(empty, x, y), condition(kernel, x, y, hyper), 1e-12)


@kernels
def test_means_are_those_of_a_prediction_at_new_points_and_at_the_observations_themselves(kernel: Kernel) -> None:
    x, y, new = points(12, width(kernel)), observations(12), points(5, width(kernel), seed=1)
    hyper = unpack(kernel, raws(kernel))
    noise = torch.from_numpy(np.random.default_rng(0).random(12))
    for fitted in (condition(kernel, x, y, hyper, noise), condition(kernel, x, y, hyper, trend=lambda at: at.sum(-1))):
        for where in (new, fitted.x, fitted.x.clone()):
            close(means(fitted, where), predict(fitted, where)[0])
    moved = condition(kernel, x.clone().requires_grad_(), y, hyper, noise)
    assert means(moved, moved.x).requires_grad


def test_one_observation() -> None:
    hyper, x = hypers(PLAIN), points(1, 3)
    mean, variance = predict(condition(PLAIN, x, observations(1), hyper), x)
    gain = hyper.outputscale / (hyper.outputscale + hyper.noise)
    close(mean[0], hyper.mean + gain * (observations(1)[0] - hyper.mean))
    close(variance[0], hyper.outputscale * (1 - gain))
    left = leave_one_out(condition(PLAIN, x, observations(1), hyper))
    close(left[0][0], hyper.mean)
    close(left[1][0], hyper.outputscale + hyper.noise)


def test_observations_at_the_mean_say_the_mean_everywhere() -> None:
    hyper = hypers(PLAIN)
    fitted = condition(PLAIN, points(20, 3), hyper.mean.expand(20), hyper)
    close(predict(fitted, points(7, 3, seed=1))[0], hyper.mean.expand(7), 0)


def test_the_variance_is_never_negative() -> None:
    hyper = hypers(PLAIN)._replace(noise=torch.tensor(1e-12, dtype=torch.float64))
    x = points(30, 3)
    variance = predict(condition(PLAIN, x, observations(30), hyper), x)[1]
    assert (variance >= 0).all() and variance.max() < 1e-10


def test_only_who_needs_jitter_gets_it_and_the_least_that_is_enough() -> None:
    x = points(3, 6, 3)
    x[1, 3:] = x[1, :3]
    hyper = hypers(PLAIN, 3)._replace(noise=torch.zeros(3, dtype=torch.float64))
    fitted = condition(PLAIN, x, observations(6), hyper)
    assert (fitted.noise[[0, 2]] == 0).all()
    assert (fitted.noise[1] == fitted.noise[1, 0]).all() and float(fitted.noise[1, 0] / hyper.outputscale[1]) == pytest.approx(JITTER[0])
    for i in (0, 2):
        same(Fitted(PLAIN, hyper, *(part[i] for part in fitted[2:8])), condition(PLAIN, x[i], observations(6), element(hyper, i)), 1e-9)
    close(fitted.factor @ fitted.factor.mT, covariance(PLAIN, hyper, x) + torch.diag_embed(fitted.noise), 1e-14)


def test_the_jitter_climbs_until_it_is_enough() -> None:
    """Eigenvalues 2 and -3e-6: rungs up to 1e-6 of a scale of 2 are too little."""
    one = torch.ones(2, 2, dtype=torch.float64) - torch.tensor([[3e-6, 0.0], [0.0, 3e-6]], dtype=torch.float64)
    factor, jitter = factorize(torch.stack([one, torch.eye(2, dtype=torch.float64)]), torch.tensor(2.0, dtype=torch.float64))
    assert jitter.tolist() == [pytest.approx(2e-5), 0.0]
    close(factor[0] @ factor[0].mT, one + 2e-5 * torch.eye(2, dtype=torch.float64), 1e-14)


def test_what_is_no_covariance_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"1 of 2 have none even with jitter 0.0001 \* outputscale"):
        factorize(torch.stack([torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])]), torch.ones(2))


def test_a_row_without_a_factor_is_minus_infinity_and_leaves_the_others_alone() -> None:
    x, y, raw = points(6, 3), observations(6), raws(PLAIN, 3)
    bad, noise = raw.clone(), torch.zeros(3, 6, dtype=torch.float64)
    bad[2] = math.nan
    noise[1, 4] = -2               # no variance at all: a diagonal below 0
    value, gradient = log_marginal(PLAIN, x, y, bad, noise)
    assert value[1:].tolist() == [-math.inf, -math.inf] and (gradient[1:] == 0).all()
    close(value[0], log_marginal(PLAIN, x, y, raw)[0][0], 1e-12)
    close(gradient[0], log_marginal(PLAIN, x, y, raw)[1][0], 1e-12)


@kernels
def test_an_element_of_a_batch_is_what_it_is_alone(kernel: Kernel) -> None:
    """3 starts x 2 tasks with points of their own: everything that is computed."""
    x, y, raw, new = points(2, 8, width(kernel)), observations(2, 8), raws(kernel, 3, 2), points(5, width(kernel), seed=1)
    new[:, 2] = torch.arange(5) / 5 + 0.1      # no two alike for any kernel: the root of a singular covariance is made of rounding
    hyper = unpack(kernel, raw)
    fitted = condition(kernel, x, y, hyper)
    normals = observations(4, 5)
    whole = [*predict(fitted, new), joint(fitted, new)[1], sample(fitted, new, normals), *leave_one_out(fitted)]
    whole += log_marginal(kernel, x, y, raw)
    for i in range(3):
        for j in range(2):
            one = condition(kernel, x[j], y[j], element(hyper, i, j))
            alone = [*predict(one, new), joint(one, new)[1], sample(one, new, normals), *leave_one_out(one)]
            alone += log_marginal(kernel, x[j], y[j], raw[i, j])
            for batched, expected in zip(whole, alone):
                close(batched[i, j], expected, 1e-11)


@pytest.mark.parametrize("shape", ["matern52", "rbf"])
def test_predictions_and_samples_are_differentiable_in_x(shape: Any) -> None:
    kernel = Kernel((0, 1, 2), shape=shape)
    fitted = condition(kernel, points(6, 3), observations(6), hypers(kernel))
    new = points(3, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: predict(fitted, z), [new], atol=1e-7)
    assert torch.autograd.gradcheck(lambda z: sample(fitted, z, observations(2, 3)), [new], atol=1e-7)
    there = fitted.x.clone().requires_grad_()
    sum(part.sum() for part in predict(fitted, there)).backward()
    assert there.grad is not None and there.grad.isfinite().all()


@pytest.mark.parametrize(
    "x, y, message",
    [
        (points(3, 2).float(), observations(3), "must be float64, but are torch.float32 and torch.float64"),
        (points(3, 2), observations(3).float(), "must be float64"),
        (points(3, 2), observations(4), r"with one n, but are \(3, 2\) and \(4,\)"),
        (points(3), observations(3), "with one n"),
        (points(3, 2) / 0, observations(3), "x must be finite, but 6 of its 6 numbers are not"),
        (points(3, 2), observations(3) / torch.tensor([1.0, 0.0, 1.0]), "y must be finite, but 1 of its 3"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(x: Tensor, y: Tensor, message: str) -> None:
    hyper = hypers(Kernel((0, 1)))
    with pytest.raises(ValueError, match=message):
        condition(Kernel((0, 1)), x, y, hyper)
    with pytest.raises(ValueError, match=message):
        extend(condition(Kernel((0, 1)), points(2, 2), observations(2), hyper), x, y)

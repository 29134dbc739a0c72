"""Acquisitions of one normal distribution: against Monte Carlo, mpmath with 60 digits, and BoTorch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from torchtune_hp.gp import acquisition
from torchtune_hp.gp.feasibility import deterrence, log_success
from torchtune_hp.gp.kernel import Kernel
from torchtune_hp.gp.regression import condition, predict

from .problems import hyper, normal, uniform

REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "reference" / "acquisition.json").read_text())
Z = [-1e8, -1e4, -200.0, -50.1, -50.0, -49.9, -40.0, -10.0, -3.0, -1.0001, -1.0, -0.9999, -0.1, 0.0, 0.5, 3.0, 8.0]


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def exact(z: float) -> tuple[float, float, float, float]:
    """log h, its derivative, log Phi and its derivative, with 60 digits."""
    with mpmath.workdps(60):
        x = mpmath.mpf(z)
        density = mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)
        if z < -1e3:      # erfc itself loses digits there: its continued fraction, by the asymptotic series
            terms = [mpmath.mpf(1), -3 / x**2, 15 / x**4, -105 / x**6, 945 / x**8]
            log_h = -x * x / 2 - mpmath.log(2 * mpmath.pi) / 2 + mpmath.log(sum(terms) / x**2)
            mills = (1 - 1 / x**2 + 3 / x**4 - 15 / x**6) / -x
            log_phi = -x * x / 2 - mpmath.log(2 * mpmath.pi) / 2 + mpmath.log(mills)
            return tuple(map(float, (log_h, mills / (sum(terms) / x**2), log_phi, 1 / mills)))
        phi = mpmath.erfc(-x / mpmath.sqrt(2)) / 2
        h = density + x * phi
        return tuple(map(float, (mpmath.log(h), phi / h, mpmath.log(phi), density / phi)))


@pytest.mark.parametrize("z", Z)
def test_log_ei_and_log_pi_and_their_slopes_are_exact_however_far_below(z: float) -> None:
    log_h, slope_h, log_phi, slope_phi = exact(z)
    for function, value, slope in [
        (acquisition.log_expected_improvement, log_h, slope_h),
        (acquisition.log_probability_of_improvement, log_phi, slope_phi),
    ]:
        best = tensor(z).requires_grad_()
        found = function(tensor(0.0), tensor(1.0), best)
        (gradient,) = torch.autograd.grad(found, best)
        assert found.item() == pytest.approx(value, rel=1e-12, abs=1e-15)
        assert gradient.item() == pytest.approx(slope, rel=1e-11)


@pytest.mark.parametrize("z", [-20.0, -12.0, -8.0, -5.0, 0.0, 5.0])
def test_ei_and_pi_keep_their_digits_until_they_underflow(z: float) -> None:
    log_h, _, log_phi, _ = exact(z)
    zero, two, best = tensor(0.0), tensor(2.0), tensor(2 * z)
    assert acquisition.expected_improvement(zero, two, best).item() == pytest.approx(2 * math.exp(log_h), rel=1e-9, abs=0)
    assert acquisition.probability_of_improvement(zero, two, best).item() == pytest.approx(math.exp(log_phi), rel=1e-12, abs=0)


@pytest.mark.parametrize("z", [*Z, -33.0, -20.0, 40.0, 1e8])
def test_the_mean_of_h_over_samples_and_its_slopes_are_exact_however_faint(z: float) -> None:
    samples = [z, z - 0.5, z - 3.0]
    with mpmath.workdps(60):
        terms = [[mpmath.mpf(value) for value in exact(one)[:2]] for one in samples]
        sizes = [mpmath.exp(log_h) for log_h, _ in terms]
        log_mean = float(mpmath.log(sum(sizes) / 3))
        slopes = [float(size * slope / sum(sizes)) for size, (_, slope) in zip(sizes, terms)]
    beside = tensor(samples)[:, None] * torch.tensor([[1.0, 0.0]]).double()     # what stands beside it does not matter
    value, slope = acquisition.log_mean_h(beside)
    assert value[0].item() == pytest.approx(log_mean, rel=1e-11, abs=1e-11)
    assert slope[:, 0].tolist() == pytest.approx(slopes, rel=1e-10, abs=1e-300)
    size, faint = acquisition.mean_h(beside)[0].item(), log_mean < math.log(acquisition.FAINT)
    assert size < acquisition.FAINT if faint else size == pytest.approx(math.exp(log_mean), rel=1e-9, abs=0)


def test_log_ei_is_the_logarithm_of_ei_where_that_does_not_underflow_and_scales_with_the_unit() -> None:
    mean, deviation = normal(200), uniform(200, seed=1) + 0.05
    best = tensor(-0.5)
    log = acquisition.log_expected_improvement(mean, deviation, best)
    torch.testing.assert_close(log.exp(), acquisition.expected_improvement(mean, deviation, best), rtol=1e-10, atol=1e-12)
    scaled = acquisition.log_expected_improvement(1e3 * mean, 1e3 * deviation, 1e3 * best)
    torch.testing.assert_close(scaled, log + math.log(1e3), rtol=1e-12, atol=1e-12)
    log = acquisition.log_probability_of_improvement(mean, deviation, best)
    torch.testing.assert_close(log.exp(), acquisition.probability_of_improvement(mean, deviation, best), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["log_expected_improvement", "log_probability_of_improvement", "expected_improvement"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    arguments = tuple(part.requires_grad_() for part in (normal(30) * 4, uniform(30, seed=1) + 0.1, normal(30, seed=2)))
    assert torch.autograd.gradcheck(getattr(acquisition, name), arguments, eps=1e-6, atol=1e-5, rtol=1e-5)


def test_ei_pi_and_feasibility_are_what_monte_carlo_says() -> None:
    # 4e6 samples: the error of a mean is below 5 deviations, each at most 1 / 2000 of the deviation of one sample.
    draws = normal(4_000_000)
    for mean, deviation, best in [(0.3, 1.0, 0.0), (-1.0, 0.5, -1.2), (2.0, 1.5, 0.5)]:
        gains = (best - (mean + deviation * draws)).clamp_min(0)
        arguments = (tensor(mean), tensor(deviation), tensor(best))
        assert abs(gains.mean() - acquisition.expected_improvement(*arguments)) < 5 * gains.std() / 2000
        assert abs((gains > 0).double().mean() - acquisition.probability_of_improvement(*arguments)) < 5 * 0.5 / 2000
    mean, deviation, bound = tensor(0.2, -0.5), tensor(1.0, 0.3), tensor(0.0, -0.4)
    held = (mean + deviation * draws.view(-1, 2) <= bound).all(-1).double().mean()
    assert abs(held - acquisition.log_feasibility(mean, deviation, bound).exp()) < 5 * 0.5 / 1400


def test_values_are_botorchs() -> None:
    given = REFERENCE["hyper"]
    fitted = condition(
        Kernel((0, 1)), tensor(REFERENCE["x"]), tensor(REFERENCE["y"]),
        hyper(given["lengthscale"], given["outputscale"], given["noise"], given["mean"]),
    )  # fmt: skip
    mean, variance = predict(fitted, tensor(REFERENCE["points"]))
    arguments = (mean, acquisition.deviation(variance), tensor(REFERENCE["best"]))
    for name, function in [
        ("ei", acquisition.expected_improvement),
        ("log_ei", acquisition.log_expected_improvement),
        ("pi", acquisition.probability_of_improvement),
        ("log_pi", acquisition.log_probability_of_improvement),
    ]:
        torch.testing.assert_close(function(*arguments), tensor(REFERENCE[name]), rtol=1e-8, atol=1e-10)
    bound = acquisition.upper_confidence_bound(*arguments[:2], beta=2.5)
    torch.testing.assert_close(bound, tensor(REFERENCE["ucb"]), rtol=1e-8, atol=1e-10)
    log_h = acquisition.log_expected_improvement(torch.zeros(()).double(), torch.ones(()).double(), tensor(REFERENCE["z"]))
    torch.testing.assert_close(log_h, tensor(REFERENCE["log_h"]), rtol=1e-10, atol=1e-12)


def test_values_are_those_of_the_botorch_that_is_installed() -> None:
    pytest.importorskip("botorch")
    from .reference.make_acquisition import answers

    now = answers()
    for name in ("ei", "log_ei", "pi", "log_pi", "ucb", "log_h"):
        torch.testing.assert_close(tensor(now[name]), tensor(REFERENCE[name]), rtol=1e-8, atol=1e-10)


def test_a_deviation_is_never_zero() -> None:
    found = acquisition.deviation(tensor(0.0, -1e-18, 4.0))
    assert found.tolist() == pytest.approx([1e-10, 1e-10, 2.0])
    log = acquisition.log_expected_improvement(tensor(1.0, 1.0, 1.0), found, tensor(0.5))
    assert log.isfinite().all()


def test_a_beta_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="beta >= 0 must hold, but got -1"):
        acquisition.upper_confidence_bound(tensor(0.0), tensor(1.0), beta=-1)


def test_failures_make_their_neighbourhood_less_likely_to_succeed_and_only_that() -> None:
    kernel, shape = Kernel((0, 1)), hyper([0.1, 0.1], outputscale=7.0)
    tried = torch.cat([0.1 * uniform(10, 2), 0.9 + 0.1 * uniform(10, 2, seed=1)])
    failed = torch.arange(20) < 10
    near_failures, near_successes, far = log_success(kernel, shape, tried, failed, tensor([[0.05, 0.05], [0.95, 0.95], [0.05, 0.95]])).exp()
    assert near_failures < 0.15 and near_successes > 0.9 and far == pytest.approx(11 / 21, abs=0.02)
    assert log_success(kernel, shape, tried, torch.zeros(20, dtype=torch.bool), uniform(5, 2)).abs().max() < 1e-14
    assert log_success(kernel, shape, tried[:0], failed[:0], uniform(5, 2)).tolist() == [0.0] * 5
    x = uniform(4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_success(kernel, shape, tried, failed, x), x)


def test_each_failure_deters_further_and_those_that_are_as_frequent_as_anywhere_do_not() -> None:
    kernel, shape = Kernel((0, 1)), hyper([0.1, 0.1], outputscale=7.0)
    well = 0.9 + 0.1 * uniform(10, 2, seed=1)
    here = tensor([[0.05, 0.05]])
    values = []
    for count in (1, 5, 25):
        tried, failed = torch.cat([well, here.expand(count, 2)]), torch.arange(10 + count) >= 10
        values.append(float(deterrence(kernel, shape, tried, failed, here)))
        assert deterrence(kernel, shape, tried, failed, well).min() > -0.5
    assert values[1] < values[0] - 3 and values[2] < values[1] - 20
    everywhere = here.expand(40, 2)
    failed = torch.arange(40) % 4 == 0
    plain = log_success(kernel, shape, everywhere, failed, here)
    assert torch.allclose(deterrence(kernel, shape, everywhere, failed, here), plain, atol=0.1)
    x = uniform(4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: deterrence(kernel, shape, tried, torch.arange(35) >= 10, x), x)


def test_failures_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"failed must be \(n,\) bool"):
        log_success(Kernel((0,)), hyper([1.0]), uniform(3, 1), torch.zeros(2, dtype=torch.bool), uniform(1, 1))

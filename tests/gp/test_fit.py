"""The fit: it finds what it should, whatever stands beside it in the batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from torch import Tensor

from torchtune_hp.gp.fit import ENTRIES, fit
from torchtune_hp.gp.kernel import Kernel, unpack
from torchtune_hp.gp.priors import Prior, default, draw, log_prior, mode, searched
from torchtune_hp.gp.regression import condition, log_marginal, predict

from .written_out import KERNELS, TREE, points, raws, width

kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
PLAIN = KERNELS["matern52"]


def task(kernel: Kernel, n: int = 25, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A smooth function of the first two columns with a little noise, standardised."""
    x = points(n, width(kernel), seed=seed)
    y = torch.sin((5 + seed) * x[:, 0]) + x[:, 1].square() + 0.1 * torch.from_numpy(np.random.default_rng(seed).normal(size=n))
    return x, (y - y.mean()) / y.std()


def log_posterior(kernel: Kernel, x: Tensor, y: Tensor, raw: Tensor, prior: Prior | None = None) -> Tensor:
    return log_marginal(kernel, x, y, raw)[0] + log_prior(prior or default(kernel), raw)[0]


# Priors ---------------------------------------------------------------------------------------------------------------------


def test_the_log_prior_is_scipys_of_the_hyperparameters_themselves() -> None:
    kernel, raw = TREE, raws(TREE, 3)
    expected = torch.zeros(3, dtype=torch.float64)
    hyper = unpack(kernel, raw)
    rows = [(hyper.lengthscale, math.sqrt(2) + math.log(7) / 2, math.sqrt(3)), (hyper.noise[:, None], -4, 1)]
    rows += [(hyper.decay[:, :1], 0, 1), (hyper.decay[:, 1:2], -1, 1), (hyper.decay[:, 2:], 0, 0.5)]
    for values, loc, scale in rows:
        expected += torch.from_numpy(scipy.stats.lognorm(s=scale, scale=math.exp(loc)).logpdf(values.numpy())).sum(-1)
    torch.testing.assert_close(log_prior(default(kernel), raw)[0], expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_the_log_prior_is_that_of_finite_differences() -> None:
    prior, raw = default(TREE), raws(TREE)
    for entry in range(len(raw)):
        step = torch.zeros_like(raw)
        step[entry] = 1e-5
        slope = (log_prior(prior, raw + step)[0] - log_prior(prior, raw - step)[0]) / 2e-5
        torch.testing.assert_close(log_prior(prior, raw)[1][entry], slope, rtol=1e-6, atol=1e-8)


@kernels
def test_the_mode_is_where_the_prior_is_densest(kernel: Kernel) -> None:
    prior = default(kernel)
    peak = mode(prior)
    value, slope = log_prior(prior, peak)
    inside = (peak > prior.lower) & (peak < prior.upper)
    assert slope[inside].abs().max() < 1e-12
    for seed in range(5):
        assert log_prior(prior, draw(prior, 20, torch.Generator().manual_seed(seed)))[0].max() <= value


def test_what_a_search_believes_differs_in_noise_and_outputscale_alone() -> None:
    for kernel in (PLAIN, TREE):
        plain, ours, k = default(kernel), searched(kernel), kernel.lengthscales
        others = [row for row in range(len(plain.loc)) if row not in (k, k + 1)]
        assert all(torch.equal(a[others], b[others]) for a, b in zip(plain, ours))
        assert ours.loc[k : k + 2].tolist() == [0.25, -4.0] and ours.scale[k : k + 2].tolist() == [0.5, 1.5]
        assert float(ours.lower[k + 1].exp()) == pytest.approx(1e-6) and float(mode(ours)[k].exp()) == 1


def test_a_search_does_not_believe_in_noise_that_is_not_there_and_finds_what_is() -> None:
    """A smooth function at 40 points, then with a tenth of its deviation added: 0.01, up to a factor of 4, on 10 seeds."""
    kernel = Kernel((0, 1))
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(40, 2, dtype=torch.float64, generator=generator)
        y = torch.sin(6 * x[:, 0]) + (x[:, 1] - 0.3).square()
        y = (y - y.mean()) / y.std()
        noisy = y + 0.1 * torch.randn(40, dtype=torch.float64, generator=generator)
        found = fit(kernel, x, torch.stack([y, noisy]), searched(kernel)).hyper.noise
        assert float(found[0]) < 2e-5 and 0.0025 < float(found[1]) < 0.04


def test_draws_have_the_priors_median_and_keep_its_bounds() -> None:
    """The median of 4,000 normals is within 6 of its standard deviations, 1.253 * scale / sqrt(4000): false alarm 1e-8."""
    prior = default(PLAIN)
    drawn = draw(prior, 4000, torch.Generator().manual_seed(0))
    assert (drawn >= prior.lower).all() and (drawn <= prior.upper).all()
    scale = torch.where(prior.scale.isfinite(), prior.scale, 0.0)
    assert ((drawn.median(0).values - prior.loc).abs() <= 6 * 1.253 * scale / math.sqrt(4000)).all()
    assert (drawn[:, [3, 5]] == 0).all()        # the outputscale is fixed, and the mean has no prior


def test_more_draws_begin_with_the_fewer() -> None:
    fewer, more = (draw(default(TREE), count, torch.Generator().manual_seed(0)) for count in (3, 8))
    assert torch.equal(fewer, more[:3]) and draw(default(TREE), 0, torch.Generator()).shape == (0, more.shape[1])


# Fits -----------------------------------------------------------------------------------------------------------------------


@kernels
def test_the_value_is_the_log_posterior_and_no_start_is_better(kernel: Kernel) -> None:
    x, y = task(kernel)
    start = draw(default(kernel), 3, torch.Generator().manual_seed(1))
    found = fit(kernel, x, y, start=start, restarts=2)
    torch.testing.assert_close(found.value, log_posterior(kernel, x, y, found.raw), rtol=1e-12, atol=1e-10)
    assert found.converged
    assert found.value >= log_posterior(kernel, x, y, torch.cat([start, mode(default(kernel))[None]])).max()


@kernels
def test_at_the_maximum_the_gradient_is_zero_but_at_bounds(kernel: Kernel) -> None:
    x, y = task(kernel)
    raw, prior = fit(kernel, x, y).raw, default(kernel)
    gradient = log_marginal(kernel, x, y, raw)[1] + log_prior(prior, raw)[1]
    free = (raw > prior.lower) & (raw < prior.upper)
    assert gradient[free].abs().max() < 1e-4
    assert (gradient[(raw == prior.lower) & (raw < prior.upper)] <= 0).all() and (raw < prior.upper)[raw != 0].all()
    assert raw[kernel.lengthscales] == 0


@kernels
def test_scipy_from_the_same_start_finds_nothing_better(kernel: Kernel) -> None:
    x, y = task(kernel)
    prior = default(kernel)

    def objective(raw: np.ndarray) -> tuple[float, np.ndarray]:
        raw_ = torch.from_numpy(raw)
        value, slope = (a + b for a, b in zip(log_marginal(kernel, x, y, raw_), log_prior(prior, raw_)))
        return -float(value), -slope.numpy()

    theirs: Any = scipy.optimize.minimize(
        objective, mode(prior).numpy(), jac=True, method="L-BFGS-B", bounds=list(zip(prior.lower.tolist(), prior.upper.tolist()))
    )
    assert fit(kernel, x, y, restarts=1).value >= -theirs.fun - 1e-4


def test_more_starts_never_make_it_worse() -> None:
    x, y = task(TREE, n=12)
    values = [float(fit(TREE, x, y, restarts=restarts, seed=3).value) for restarts in (1, 2, 4, 8)]
    assert all(later >= earlier - 1e-9 for earlier, later in zip(values, values[1:]))


def test_same_arguments_same_bits_and_another_seed_other_starts() -> None:
    x, y = task(PLAIN)
    one, two, other = (fit(PLAIN, x, y, restarts=200, seed=seed, steps=0) for seed in (0, 0, 1))
    assert torch.equal(one.raw, two.raw) and torch.equal(one.value, two.value)
    assert not torch.equal(one.raw, other.raw)


@kernels
def test_an_element_of_a_batch_is_fitted_as_it_would_be_alone(kernel: Kernel) -> None:
    """2 tasks with points of their own x 3 objectives; and 3 objectives at the same points."""
    pairs = [task(kernel, seed=seed) for seed in (0, 1)]
    x = torch.stack([a for a, _ in pairs])
    y = torch.stack([torch.stack([b, b.square() - 1, b.flip(0)]) for _, b in pairs])
    whole = fit(kernel, x[:, None], y, restarts=2)
    shared = fit(kernel, x[0], y[0], restarts=2)
    assert whole.raw.shape == (2, 3, kernel.lengthscales + 3 + kernel.decays + 2 * len(kernel.warped))
    for i in range(2):
        for j in range(3):
            alone = fit(kernel, x[i], y[i, j], restarts=2)
            torch.testing.assert_close(whole.value[i, j], alone.value, rtol=0, atol=1e-6)
            torch.testing.assert_close(whole.raw[i, j], alone.raw, rtol=0, atol=1e-3)
            if i == 0:
                torch.testing.assert_close(shared.value[j], alone.value, rtol=0, atol=1e-6)


def test_starts_and_known_noise_belong_to_their_element_of_the_batch() -> None:
    x, y = task(PLAIN, n=12)
    both = torch.stack([y, y.flip(0)])
    start = draw(default(PLAIN), 4, torch.Generator().manual_seed(2)).reshape(2, 2, -1)
    noise = torch.stack([torch.full((12,), 0.01, dtype=torch.float64), torch.linspace(0, 1, 12, dtype=torch.float64)])
    whole = fit(PLAIN, x, both, start=start, restarts=0, noise=noise, steps=3)
    for i in range(2):
        alone = fit(PLAIN, x, both[i], start=start[i], restarts=0, noise=noise[i], steps=3)
        torch.testing.assert_close(whole.raw[i], alone.raw, rtol=0, atol=1e-8)
        torch.testing.assert_close(whole.value[i], alone.value, rtol=0, atol=1e-8)


def test_where_no_value_is_finite_the_start_is_given_back_and_said_not_to_have_converged() -> None:
    x, y = task(PLAIN, n=6)
    found = fit(PLAIN, x, torch.stack([y, y * 1e200]), restarts=2)
    assert found.value[1] == -math.inf and not found.converged[1] and found.raw.isfinite().all()
    assert found.converged[0]


def test_rows_are_evaluated_in_blocks_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = task(PLAIN)
    whole = fit(PLAIN, x, y, restarts=5)
    monkeypatch.setitem(ENTRIES, "cpu", 2 * 25 * 25)
    torch.testing.assert_close(fit(PLAIN, x, y, restarts=5).value, whole.value, rtol=0, atol=1e-8)


@pytest.mark.parametrize("gain", [1e-1, 1e-3])
@kernels
def test_a_fit_that_ends_on_a_gain_is_lower_by_about_that_at_most_and_takes_fewer_steps(
    kernel: Kernel, gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def counted(*arguments: Any) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return log_marginal(*arguments)

    monkeypatch.setattr("torchtune_hp.gp.fit.log_marginal", counted)
    x, y = task(kernel)
    (whole, most), calls = (fit(kernel, x, y), calls), 0
    sooner = fit(kernel, x, y, gain=gain)
    assert calls < most and whole.value - 4 * gain <= sooner.value <= whole.value + 1e-9


def test_a_warm_start_alone_goes_on_from_where_it_was() -> None:
    x, y = task(PLAIN)
    cold = fit(PLAIN, x, y)
    warm = fit(PLAIN, x, y, start=cold.raw[None], restarts=0, steps=2)
    torch.testing.assert_close(warm.value, cold.value, rtol=0, atol=1e-8)
    more = [torch.cat(parts) for parts in zip((x, y), task(PLAIN, n=3, seed=5))]
    assert fit(PLAIN, *more, start=cold.raw[None], restarts=0).value >= log_posterior(PLAIN, *more, cold.raw)


def test_what_does_not_matter_gets_a_long_lengthscale() -> None:
    x, y = task(PLAIN, n=60)
    lengthscale = fit(PLAIN, x, y).hyper.lengthscale
    assert lengthscale[2] > 1.5 * lengthscale[:2].max()


def test_a_fidelity_is_extrapolated_from_curves_that_end_early() -> None:
    """30 curves a + b / (1 + 9 t), half of them seen to a third of the budget: their ends are told better than by what is seen."""
    kernel = Kernel((0, 1), fidelity=2)
    z = points(30, 2)
    seen = torch.arange(1, 10, dtype=torch.float64) / 9

    def curves(z: Tensor, t: Tensor) -> Tensor:
        return torch.sin(4 * z[:, 0])[:, None] + 2 * z[:, 1:] / (1 + 9 * t) + 0.5 / (1 + 9 * t)

    y = curves(z, seen)
    x = torch.cat([z[:, None].expand(30, 9, 2), seen[:, None].expand(30, 9, 1)], -1)
    early = torch.ones(30, 9, dtype=torch.bool)
    early[15:, 3:] = False
    scale = y[early].std()
    standard = (y[early] - y[early].mean()) / scale
    found = fit(kernel, x[early], standard, restarts=2)
    fitted = condition(kernel, x[early], standard, found.hyper)
    mean, variance = predict(fitted, x[15:, -1])
    wrong = ((mean * scale + y[early].mean()) - y[15:, -1]).abs()
    assert wrong.mean() < 0.25 * (y[15:, 2] - y[15:, -1]).abs().mean()
    assert (wrong < 4 * variance.sqrt() * scale).all()


def test_extremes_are_fitted() -> None:
    """No observation: the mode of the prior. One; all equal; every point four times; two tasks, one of them hopeless."""
    nothing = fit(PLAIN, points(0, 3), torch.zeros(0, dtype=torch.float64))
    torch.testing.assert_close(nothing.raw, mode(default(PLAIN)))
    one = fit(PLAIN, points(1, 3), torch.zeros(1, dtype=torch.float64))
    equal = fit(PLAIN, points(20, 3), torch.zeros(20, dtype=torch.float64))
    assert one.converged and equal.converged
    assert abs(float(equal.hyper.mean)) < 1e-3 and float(equal.hyper.noise) == pytest.approx(1e-4)
    x, y = task(PLAIN, n=10)
    again = fit(PLAIN, x.repeat(4, 1), torch.cat([y, y + 0.3, y - 0.3, y]))
    assert again.converged and 0.01 < float(again.hyper.noise) < 0.2
    wild = fit(PLAIN, x, torch.stack([y, y * 1e120]))
    torch.testing.assert_close(wild.value[0], fit(PLAIN, x, y).value, rtol=0, atol=1e-6)
    assert wild.raw.isfinite().all()


def test_a_noise_known_for_each_observation_is_not_learned_again() -> None:
    x, y = task(PLAIN, n=80)
    known = torch.full((80,), 0.5, dtype=torch.float64)
    rough = y + known.sqrt() * torch.from_numpy(np.random.default_rng(7).normal(size=80))
    assert float(fit(PLAIN, x, rough, noise=known).hyper.noise) < 0.1 < float(fit(PLAIN, x, rough).hyper.noise)


def test_a_prior_of_ones_own_is_obeyed() -> None:
    x, y = task(PLAIN)
    prior = default(PLAIN)
    prior.lower[4] = prior.upper[4] = math.log(0.3)         # the noise is known
    prior.lower[3], prior.upper[3] = -5.0, 5.0              # the outputscale is not
    found = fit(PLAIN, x, y, prior)
    assert float(found.hyper.noise) == pytest.approx(0.3) and float(found.hyper.outputscale) != 1
    torch.testing.assert_close(found.value, log_posterior(PLAIN, x, y, found.raw, prior))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"restarts": 0}, "there is no start and restarts is 0"),
        ({"start": torch.zeros(1, 5, dtype=torch.float64)}, r"start must be \(\.\.\., s, 6\) for this kernel, but is \(1, 5\)"),
        ({"x": points(2, 25, 3)}, r"batch dimensions that y lacks"),
        ({"y": torch.full((25,), math.inf, dtype=torch.float64)}, "y must be finite, but 25 of its 25"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changed: dict[str, Any], message: str) -> None:
    x, y = task(PLAIN)
    with pytest.raises(ValueError, match=message):
        fit(PLAIN, **{"x": x, "y": y, **changed})

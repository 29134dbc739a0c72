"""Joint samples at noisy and pending points, and batches chosen given them: against dense formulas, Monte Carlo and BoTorch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from torchtune_hp.gp import acquisition
from torchtune_hp.gp.fantasies import Fantasies, choose, fantasize, in_order, incumbents, log_noisy_expected_improvement, moments
from torchtune_hp.gp.kernel import Kernel
from torchtune_hp.gp.regression import Fitted, condition, extend, joint, predict, sample

from .problems import hyper, normal, process, uniform


def believer(fitted: Fitted, x: Tensor) -> Fantasies:
    return fantasize(fitted, x, torch.zeros(1, len(x), dtype=torch.float64))


def conditioned(fitted: Fitted, x: Tensor, values: Tensor) -> Fitted:
    """`fitted` given that the process is `values` at x, without noise: the dense truth."""
    return extend(fitted, x, values, noise=-fitted.hyper.noise.expand(len(x)) + 1e-12)


def test_samples_at_the_points_have_the_posteriors_moments() -> None:
    fitted, x = process(noise=0.1), uniform(4, 3, seed=5)
    drawn = fantasize(fitted, x, normal(200_000, 4)).values
    mean, covariance = joint(fitted, x)
    # Errors of 2e5 samples: a mean's is sigma / 450, a covariance's at most 1.5 sigma**2 / 450.
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=6 * covariance.diagonal().max().sqrt().item() / 450)
    torch.testing.assert_close(drawn.mT.cov(), covariance, rtol=0, atol=9 * covariance.diagonal().max().item() / 450)


def test_under_each_sample_the_process_is_the_one_conditioned_on_it() -> None:
    fitted, x, where = process(noise=0.1), uniform(4, 3, seed=5), uniform(30, 3, seed=6)
    drawn = fantasize(fitted, x, normal(5, 4))
    mean, variance = moments(drawn, where)
    for i in range(5):
        one_mean, one_variance = predict(conditioned(fitted, x, drawn.values[i]), where)
        torch.testing.assert_close((mean[i], variance), (one_mean, one_variance), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(moments(drawn, x)[0][i], drawn.values[i], rtol=1e-7, atol=1e-7)
    assert torch.equal(drawn.best, drawn.values.min(1).values)


def test_noisy_ei_is_the_mean_improvement_over_joint_samples_of_the_incumbents_and_the_point() -> None:
    fitted = process(n=12, noise=0.2)
    known, where = incumbents(fitted, fitted.x, 12), uniform(6, 3, seed=9)
    found = log_noisy_expected_improvement(fantasize(fitted, known, normal(4096, 12)), where).exp()
    for i in range(6):
        draws = sample(fitted, torch.cat([known, where[i : i + 1]]), normal(400_000, 13, seed=3))
        gains = (draws[:, :12].amin(1) - draws[:, 12]).clamp_min(0)
        # Ours averages over 4096 samples of the incumbents, the other over 400,000 of everything.
        assert found[i].item() == pytest.approx(gains.mean().item(), abs=6 * gains.std().item() / 60)


def test_noisy_ei_is_botorchs() -> None:
    reference = json.loads((Path(__file__).parent / "reference" / "acquisition.json").read_text())
    given = reference["hyper"]
    x, y, points = (torch.tensor(reference[name], dtype=torch.float64) for name in ("x", "y", "points"))
    fitted = condition(Kernel((0, 1)), x, y, hyper(given["lengthscale"], given["outputscale"], given["noise"], given["mean"]))
    found = log_noisy_expected_improvement(fantasize(fitted, x, normal(20_000, 12)), points)
    theirs = torch.tensor(reference["log_nei"], dtype=torch.float64)
    # Of 40 points, those where improvement is not a rare event: elsewhere 2**16 samples say little.
    likely = theirs > -7
    assert likely.sum() >= 20
    torch.testing.assert_close(found[likely], theirs[likely], rtol=0, atol=0.05)


def test_incumbents_are_the_points_of_least_mean_each_once() -> None:
    fitted = process(n=12, noise=0.2)
    twice = condition(fitted.kernel, torch.cat([fitted.x, fitted.x[:6]]), torch.cat([fitted.y, fitted.y[:6]]), fitted.hyper)
    best = fitted.x[predict(twice, fitted.x)[0].argsort()]
    assert torch.equal(incumbents(twice, twice.x, 5), best[:5]) and torch.equal(incumbents(twice, twice.x, 40), best)


def test_without_noise_noisy_ei_is_ei() -> None:
    fitted = process(noise=1e-8)
    known = incumbents(fitted, fitted.x, 8)
    where = uniform(20, 3, seed=4)
    mean, variance = predict(fitted, where)
    expected = acquisition.log_expected_improvement(mean, acquisition.deviation(variance), fitted.y.min())
    found = log_noisy_expected_improvement(fantasize(fitted, known, normal(16, 8)), where)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=2e-2)


def test_pending_points_lower_what_is_near_them_and_repeated_ones_do_no_harm() -> None:
    fitted = process()
    where = uniform(1, 3, seed=8)
    pending = torch.cat([where + 1e-3, where + 1e-3, where + 0.5])
    free = fantasize(fitted, fitted.x, normal(32, 20))
    held = fantasize(fitted, torch.cat([fitted.x, pending]), normal(32, 23))
    assert log_noisy_expected_improvement(held, where) < log_noisy_expected_improvement(free, where) - 2
    assert held.values.isfinite().all() and moments(held, where)[0].isfinite().all()


def test_noisy_ei_is_differentiable_and_finite_far_below() -> None:
    drawn = fantasize(process(), uniform(5, 3, seed=2), normal(8, 5))
    x = uniform(4, 3, seed=7).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_noisy_expected_improvement(drawn, x), x, atol=1e-4, rtol=1e-3)
    deep = drawn._replace(best=drawn.best - 1e3)
    value = log_noisy_expected_improvement(deep, x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all() and (value < -1e5).all() and gradient.isfinite().all() and (gradient != 0).any()


def by_graph(drawn: Fantasies, x: Tensor) -> tuple[Tensor, Tensor]:
    """log NEI of its moments and its gradient, by autograd."""
    x = x.clone().requires_grad_()
    mean, square = moments(drawn, x)
    each = acquisition.log_expected_improvement(mean, acquisition.deviation(square), drawn.best[:, None])
    value = each.logsumexp(0) - torch.tensor(float(len(drawn.best))).double().log()
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


@pytest.mark.parametrize("shape", ["rbf", "matern52"])
@pytest.mark.parametrize("fidelity", [None, 4])
@pytest.mark.parametrize("warped", [(), (0,), (3, 0)])
def test_the_closed_form_gradient_is_autograds(shape: str, fidelity: int | None, warped: tuple[int, ...]) -> None:
    kernel = Kernel((3, 0), categories=((1, 3),), conditions=((0, 1, 2),), fidelity=fidelity, shape=shape, warped=warped)
    given = hyper([0.4, 0.7, 0.9], 1.5, 1e-3, 0.2, (0.3, 0.4, 1.2) if fidelity else ())
    given = given._replace(warp=torch.tensor([[0.6, 1.7], [1.3, 0.8]], dtype=torch.float64)[:, : len(warped)] if warped else None)
    x = uniform(30, 5)
    drawn = fantasize(condition(kernel, x, normal(30), given), uniform(4, 5, seed=2), normal(16, 4))
    at = uniform(50, 5, seed=3).requires_grad_()
    value = log_noisy_expected_improvement(drawn, at)
    (gradient,) = torch.autograd.grad((2 * value).sum(), at)
    expected, slope = by_graph(drawn, at.detach())
    torch.testing.assert_close((value.detach(), gradient), (expected, 2 * slope), rtol=1e-9, atol=1e-9)
    assert (gradient[:, [0, 3]] != 0).any(0).all() and (gradient[:, 2] == 0).all()
    with torch.no_grad():
        assert torch.equal(value, log_noisy_expected_improvement(drawn, at))


def test_where_a_point_is_known_nothing_is_expected_and_nothing_is_climbed() -> None:
    drawn = fantasize(process(noise=1e-8), uniform(3, 3, seed=2), normal(4, 3))
    x = uniform(3, 3, seed=2).requires_grad_()
    value = log_noisy_expected_improvement(drawn, x)
    assert (value == -torch.inf).all() and (torch.autograd.grad(value.sum(), x)[0] == 0).all()


# Batches ----------------------------------------------------------------------------------------------------------------


def written_out(drawn: Fantasies, pool: Tensor, normals: Tensor) -> list[int]:
    """`choose`, with a process conditioned anew for every sample and choice."""
    fitted, chosen = drawn.fitted, []
    processes = [condition_values(drawn, i) for i in range(len(drawn.best))]
    best = drawn.best.clone()
    for j in range(normals.shape[1]):
        moments = [predict(process, pool) for process in processes]
        each = [acquisition.log_expected_improvement(mean, acquisition.deviation(var), low) for (mean, var), low in zip(moments, best)]
        value = torch.logsumexp(torch.stack(each), 0)
        value[chosen] = -torch.inf
        k = int(value.argmax())
        chosen.append(k)
        for i, (mean, var) in enumerate(moments):
            told = mean[k] + var[k].sqrt() * normals[i, j]
            best[i] = torch.minimum(best[i], told)
            processes[i] = extend(processes[i], pool[k : k + 1], told[None], noise=-fitted.hyper.noise.expand(1) + 1e-12)
    return chosen


def condition_values(drawn: Fantasies, i: int) -> Fitted:
    """The process that saw what `drawn` saw and its sample i, from y alone."""
    m = drawn.values.shape[1]
    fitted = drawn.fitted
    y = torch.cat([fitted.y[:-m], drawn.values[i]])
    return condition(fitted.kernel, fitted.x, y, fitted.hyper, noise=fitted.noise - fitted.hyper.noise)


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_is_what_conditioning_anew_after_every_choice_gives(seed: int) -> None:
    fitted = process(n=10, noise=0.05, seed=seed)
    drawn = fantasize(fitted, fitted.x, normal(3, 10, seed=seed))
    pool, normals = uniform(40, 3, seed=seed + 7), normal(3, 8, seed=seed + 8)
    assert choose(drawn, pool, normals).tolist() == written_out(drawn, pool, normals)


def test_the_first_of_a_batch_is_the_best_of_the_pool_and_none_comes_twice() -> None:
    fitted = process()
    drawn = fantasize(fitted, fitted.x, normal(8, 20))
    pool = uniform(100, 3, seed=3)
    chosen = choose(drawn, pool, normal(8, 100))
    assert chosen[0] == log_noisy_expected_improvement(drawn, pool).argmax()
    assert sorted(chosen.tolist()) == list(range(100))
    assert choose(drawn, pool, normal(8, 100)[:, :0]).shape == (0,)
    assert torch.equal(choose(drawn, pool, normal(8, 100)[:, :5]), chosen[:5])


def test_a_batch_spreads_where_the_best_points_one_by_one_would_cluster() -> None:
    fitted = process(n=15, d=2)
    drawn, pool = fantasize(fitted, fitted.x, normal(16, 15)), uniform(400, 2, seed=3)
    greedy = pool[choose(drawn, pool, normal(16, 8))]
    top = pool[log_noisy_expected_improvement(drawn, pool).topk(8).indices]
    assert torch.pdist(greedy).min() > 2 * torch.pdist(top).min()
    # What a batch is for: the least of it. 100,000 joint samples, the errors under 0.01.
    least = [sample(fitted, batch, normal(100_000, 8, seed=1)).amin(1).mean() for batch in (greedy, top)]
    assert least[0] < least[1]


def test_a_point_of_a_batch_is_worth_what_it_is_given_those_before_it_and_no_other() -> None:
    fitted, where = process(noise=0.05), uniform(6, 3, seed=4)
    normals, batch = normal(4, 20 + 6), uniform(6, 3, seed=5)
    drawn = fantasize(fitted, fitted.x, normals[:, :20])
    found = in_order(drawn, batch, normals[:, 20:])(where, torch.arange(6))
    for j in range(6):
        before = fantasize(fitted, torch.cat([fitted.x, batch[:j]]), normals[:, : 20 + j])
        torch.testing.assert_close(found[j], log_noisy_expected_improvement(before, where)[j], rtol=1e-5, atol=1e-5)
    moved = where.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: in_order(drawn, batch, normals[:, 20:])(x, torch.arange(6)), moved, atol=1e-4, rtol=1e-3)


def test_a_bonus_moves_the_choice_and_minus_infinity_forbids_it() -> None:
    fitted = process()
    drawn, pool = believer(fitted, fitted.x), uniform(50, 3, seed=3)
    none = torch.zeros(1, 10, dtype=torch.float64)
    bonus = torch.zeros(50, dtype=torch.float64)
    first = choose(drawn, pool, none)
    bonus[first] = -torch.inf
    assert not set(choose(drawn, pool, none, bonus=bonus).tolist()) & set(first.tolist())
    bonus = torch.zeros(50, dtype=torch.float64)
    bonus[17] = 1e6
    assert choose(drawn, pool, none, bonus=bonus)[0] == 17


def test_what_does_not_fit_is_refused_by_name() -> None:
    fitted = process()
    drawn = believer(fitted, fitted.x)
    with pytest.raises(ValueError, match="Enlarge the pool"):
        choose(drawn, uniform(3, 3), torch.zeros(1, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="s = 1"):
        choose(drawn, uniform(3, 3), torch.zeros(2, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="nothing to improve upon"):
        fantasize(fitted, fitted.x[:0], torch.zeros(1, 0, dtype=torch.float64))


def test_more_choices_than_the_process_has_uncertainty_for_are_distinct_all_the_same() -> None:
    """With long lengthscales a few choices tell all; what is left of the covariance then is rounding, and must not be amplified."""
    x = uniform(12, 2)
    fitted = condition(Kernel((0, 1)), x, (x - 0.3).square().sum(-1), hyper([5.0, 5.0], noise=1e-4))
    chosen = choose(fantasize(fitted, x[:3], normal(4, 3)), uniform(400, 2, seed=2), normal(4, 300, seed=3))
    assert len(torch.unique(chosen)) == 300


def test_what_is_known_is_worth_nothing_however_hopeless_the_rest() -> None:
    fitted = process(n=30, noise=1e-4)
    known = incumbents(fitted, fitted.x, 5)
    drawn = believer(fitted, known)._replace(best=torch.full((1,), -12.0, dtype=torch.float64))      # nothing comes near that
    far = uniform(40, 3, seed=4)
    worth = log_noisy_expected_improvement(drawn, torch.cat([known, far]))
    assert worth[:5].tolist() == [-torch.inf] * 5
    assert worth[5:].isfinite().all() and worth[5:].max() < -60


def test_a_batch_that_exhausts_what_a_pool_can_tell_is_still_one_of_distinct_points() -> None:
    fitted = process(n=30, noise=1e-4)
    few = uniform(6, 3, seed=4)
    pool = torch.cat([few, few + 1e-9, incumbents(fitted, fitted.x, 5)])     # six values to be learned, and seventeen points
    drawn = fantasize(fitted, incumbents(fitted, fitted.x, 5), normal(8, 5))
    taken = choose(drawn, pool, normal(8, 17, seed=2)).tolist()
    assert sorted(taken) == list(range(17))
    assert sorted(k % 6 for k in taken[:6]) == list(range(6)) and max(taken[:6]) < 12

"""Rank-weighted ensembles: weights against the formula written out, and what a trend does to a process."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from torchtune_hp.gp.ensemble import PADDED, element, line, misranked, padded, ranking, weights
from torchtune_hp.gp.fantasies import fantasize, in_order, log_noisy_expected_improvement, moments
from torchtune_hp.gp.fit import fit
from torchtune_hp.gp.kernel import Kernel
from torchtune_hp.gp.paths import draw, evaluate, evaluate_all
from torchtune_hp.gp.regression import Fitted, condition, extend, joint, leave_one_out, means, predict

from .problems import hyper, normal, process, uniform, wave

KERNEL = Kernel((0, 1))
HYPER = hyper([0.4, 0.4], noise=1e-3)


def bent(x: Tensor) -> Tensor:
    return x[..., 0].square() - 0.5 * x[..., 1]


def test_misranked_pairs_are_counted_as_the_formula_says() -> None:
    drawn, y = normal(4, 6), normal(6, seed=1)
    comparable = uniform(6, 6, seed=2) < 0.6
    comparable = comparable | comparable.T
    for against in (drawn, y.expand(4, 6)):
        found = misranked(drawn, against, y, comparable)
        for s in range(4):
            pairs = [(j, k) for j, k in itertools.product(range(6), repeat=2) if comparable[j, k]]
            wrong = sum(bool(drawn[s, j] < against[s, k]) != bool(y[j] < y[k]) for j, k in pairs)
            assert found[s] == wrong


def test_weights_are_shares_of_the_draws_in_which_a_process_misranks_least() -> None:
    """Draw by draw: source 0 alone, a tie of both sources, a tie with the target, the target alone."""
    losses = torch.tensor([[1.0, 2.0, 3.0, 9.0], [5.0, 2.0, 4.0, 9.0], [6.0, 6.0, 3.0, 8.0]], dtype=torch.float64)
    assert weights(losses).tolist() == [(1 + 0.5) / 4, 0.5 / 4, 2 / 4]


def test_a_source_whose_median_is_beyond_the_targets_95_percent_quantile_is_left_out() -> None:
    target = torch.arange(100.0, dtype=torch.float64)
    lucky = torch.where(torch.arange(100) < 40, -1.0, 1000.0).double()       # the least in 40 of 100, but mostly far out
    assert weights(torch.stack([lucky, target])).tolist() == [0.0, 1.0]
    steady = lucky.clamp_max(94.0)
    assert weights(torch.stack([steady, target]))[0] >= 0.4


def test_weights_are_at_least_0_add_up_to_1_and_follow_their_sources() -> None:
    losses = (10 * uniform(5, 64)).floor()
    found = weights(losses)
    assert (found >= 0).all() and found.sum() == pytest.approx(1)
    order = [2, 0, 3, 1]
    assert torch.equal(weights(losses[[*order, 4]]), found[[*order, 4]])
    assert weights(losses[-1:]).tolist() == [1.0]


def batch_of(*values: Tensor, x: Tensor) -> Fitted:
    return condition(KERNEL, x.expand(len(values), *x.shape), torch.stack(values), HYPER)


def ranked(sources: Fitted, x: Tensor, y: Tensor) -> Tensor:
    n = len(y)
    normals = normal(len(sources.y) + 1, 200, n, seed=7)
    target = condition(KERNEL, x, y, HYPER)
    return ranking(sources, target, x.expand(len(sources.y), n, 2), torch.ones(n, n, dtype=torch.bool), normals)


def test_a_source_that_orders_points_as_the_target_does_has_the_weight_and_its_opposite_none() -> None:
    known, x = uniform(60, 2), uniform(8, 2, seed=1)
    found = ranked(batch_of(bent(known), -bent(known), normal(60), x=known), x, bent(x))
    assert found[0] > 0.8 and found[1] == 0 and found[2] < 0.1


def test_a_sources_order_and_unit_change_nothing() -> None:
    known, x = uniform(40, 2), uniform(6, 2, seed=1)
    y, other = bent(known), wave(known)
    alike = ranked(batch_of(y, other, x=known), x, bent(x))
    scaled = condition(KERNEL, known, 100 * y, HYPER._replace(outputscale=torch.tensor(1e4).double(), noise=torch.tensor(10.0).double()))
    again = ranked(_stacked(scaled, condition(KERNEL, known, other, HYPER)), x, bent(x))
    assert torch.allclose(alike, again, atol=0.02)
    y = bent(x)
    one, thousand = (line(scale * torch.stack([wave(x), bent(x)]) + scale, y, torch.tensor([0.3, 0.7]).double()) for scale in (1.0, 1e3))
    assert torch.allclose(one.slope, 1e3 * thousand.slope) and torch.allclose(one.unexplained, thousand.unexplained)


def _stacked(*parts: Fitted) -> Fitted:
    hyper = type(parts[0].hyper)(*(None if each[0] is None else torch.stack(each) for each in zip(*(part.hyper for part in parts))))
    fields = ("x", "y", "noise", "factor", "whitened", "alpha")
    return Fitted(KERNEL, hyper, *(torch.stack([getattr(part, name) for part in parts]) for name in fields))


def test_pairs_that_cannot_be_compared_say_nothing() -> None:
    known, x = uniform(40, 2), uniform(6, 2, seed=1)
    sources, target = batch_of(-bent(known), x=known), condition(KERNEL, x, bent(x), HYPER)
    none = torch.eye(6, dtype=torch.bool)
    assert ranking(sources, target, x.expand(1, 6, 2), none, normal(2, 50, 6))[-1] == 1, "a tie is the target's"


def test_the_line_is_least_squares_of_slope_at_least_0() -> None:
    mu, y = normal(3, 12), normal(12, seed=1)
    mu[1] = -y
    weight = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    found = line(mu, y, weight)
    for i in range(3):
        slope = max(0.0, np.polyfit(mu[i].numpy(), y.numpy(), 1)[0])
        assert found.slope[i] == pytest.approx(float(weight[i]) * slope) and found.center[i] == pytest.approx(float(mu[i].mean()))
    assert found.slope[1] == 0
    y = y - y.mean()
    rest = y - found.slope @ (mu - found.center[:, None])
    assert found.unexplained == pytest.approx(min(1.0, float(rest.square().sum() / 10 / (y.square().sum() / 11))))


@pytest.mark.parametrize("mu, y", [(torch.ones(1, 5), torch.arange(5.0) - 2), (torch.arange(5.0)[None], torch.zeros(5))])
def test_where_nothing_varies_nothing_is_explained(mu: Tensor, y: Tensor) -> None:
    found = line(mu.double(), y.double(), torch.ones(1).double())
    assert found.slope.tolist() == [0.0] and found.unexplained == 1


def test_a_perfect_trend_leaves_a_hundredth() -> None:
    y = torch.arange(7.0).double() - 3
    assert line(5 * y[None] + 2, y, torch.ones(1).double()).unexplained == pytest.approx(0.01)


# Batches of sources


def test_rows_that_pad_a_source_change_nothing() -> None:
    x, y = uniform(9, 2), normal(2, 9)
    wide, values, noise = padded(x, y, 14)
    assert wide.shape == (14, 2) and values.shape == noise.shape == (2, 14) and noise.max() == PADDED
    one, other = fit(KERNEL, x, y), fit(KERNEL, wide, values, noise=noise)
    assert torch.allclose(one.raw, other.raw, atol=2e-3)
    new = uniform(5, 2, seed=1)
    alone = predict(condition(KERNEL, x, y, one.hyper), new)
    beside = predict(condition(KERNEL, wide, values, one.hyper, noise), new)
    for a, b in zip(alone, beside):
        assert torch.allclose(a, b, atol=1e-6)


def test_an_element_of_a_batch_is_the_process_alone_and_means_are_those_of_predict() -> None:
    x, y, new = uniform(9, 2), normal(3, 9), uniform(5, 2, seed=1)
    warp = torch.tensor([[0.5, 2.0], [1.5, 0.7]], dtype=torch.float64)
    for kernel, alone in ((KERNEL, HYPER), (replace(KERNEL, warped=KERNEL.numbers), HYPER._replace(warp=warp))):
        many = alone._make(None if part is None else part.expand(3, *part.shape) for part in alone)
        batch = condition(kernel, x.expand(3, 9, 2), y, many)
        for k in range(3):
            assert torch.allclose(predict(element(batch, k), new)[0], predict(condition(kernel, x, y[k], alone), new)[0])
        assert torch.allclose(means(batch, new), predict(batch, new)[0])


# A process with a trend


def trended(n: int = 10) -> tuple[Fitted, Fitted]:
    """One with a trend, and the same of what is left without it."""
    x = uniform(n, 2)
    y = wave(x)
    return condition(KERNEL, x, y, HYPER, trend=bent), condition(KERNEL, x, y - bent(x), HYPER)


def test_a_trend_is_taken_off_before_and_put_on_after() -> None:
    (whole, rest), new = trended(), uniform(6, 2, seed=2)
    more = uniform(3, 2, seed=3)
    for a, b in ((whole, rest), (extend(whole, more, wave(more)), extend(rest, more, wave(more) - bent(more)))):
        assert torch.allclose(predict(a, new)[0], predict(b, new)[0] + bent(new))
        assert torch.allclose(predict(a, new)[1], predict(b, new)[1])
        assert torch.allclose(joint(a, new)[1], joint(b, new)[1])
        assert torch.allclose(leave_one_out(a)[0], leave_one_out(b)[0] + bent(a.x))


def test_what_is_imagined_is_imagined_around_the_trend() -> None:
    (whole, rest), new, known = trended(), uniform(6, 2, seed=2), uniform(4, 2, seed=3)
    normals = normal(8, 4)
    a, b = fantasize(whole, known, normals), fantasize(rest, known, normals)
    assert torch.allclose(a.values, b.values + bent(known))
    assert torch.allclose(moments(a, new)[0], moments(b, new)[0] + bent(new))
    later = normal(8, 6, seed=5)
    for number in (0, 4):
        at = new[number][None]
        found = in_order(a, new, later)(at, torch.tensor([number]))
        if number == 0:
            assert torch.allclose(found, log_noisy_expected_improvement(a, at))
        assert found.isfinite().all()


def test_paths_are_drawn_around_the_trend() -> None:
    (whole, rest), new = trended(), uniform(6, 2, seed=2)
    a, b = (draw(one, 3, generator=torch.Generator().manual_seed(0), features=64) for one in (whole, rest))
    assert torch.allclose(evaluate_all(a, new), evaluate_all(b, new) + bent(new))
    assert torch.allclose(evaluate(a, new, torch.zeros(6, dtype=torch.int64)), evaluate_all(a, new)[0])


def test_a_trend_is_differentiable_where_points_are_climbed() -> None:
    whole, _ = trended()
    drawn = fantasize(whole, uniform(3, 2, seed=4), normal(8, 3))

    def score(x: Tensor) -> Tensor:
        return log_noisy_expected_improvement(drawn, x)

    assert torch.autograd.gradcheck(score, (uniform(3, 2, seed=9).requires_grad_(),), atol=1e-4)


def test_without_a_trend_nothing_is_different() -> None:
    plain = process(12)
    assert plain.trend is None and extend(plain, uniform(1, 3), normal(1)).trend is None

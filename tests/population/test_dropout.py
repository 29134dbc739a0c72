"""Dropout: the share p, the mean that stays, rates of the members' own, and the input itself where nothing is dropped."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import distributions as D, nn
from torch.func import grad, vmap
from torch.nn import functional as F

from torchtune_hp.population.randomness import own_randomness

from .drawing import FLOAT64, KEY, N, drawn, global_generator_stands_still  # noqa: F401  (a fixture for all of them)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("own", [False, True])
def test_dropout_drops_a_share_p_and_keeps_the_mean(p, own):
    rate = torch.tensor(p, dtype=FLOAT64) if own else p
    result = drawn(lambda: F.dropout(torch.ones(N), rate))
    assert (result == 0).double().mean() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / N))
    torch.testing.assert_close(result[result != 0].unique(), torch.tensor([1 / (1 - p)]))
    values = drawn(lambda: F.alpha_dropout(torch.randn(N), rate, True))
    assert abs(values.mean()) < 0.02 and values.std() == pytest.approx(1, abs=0.02)


def test_members_have_rates_of_their_own_0_and_1_among_them():
    rates = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=FLOAT64)
    keys = torch.arange(4)

    def draw(key, p):
        with own_randomness(key):
            units, maps = torch.ones(50), torch.ones(9, 9, 2, 2)
            return F.dropout(units, p), F.dropout2d(maps, p), F.alpha_dropout(units, p, True), torch.rand(3)

    fused = vmap(draw, randomness="error")(keys, rates)
    for row, p in enumerate(rates.tolist()):
        for one, many in zip(draw(keys[row], p), fused):
            torch.testing.assert_close(many[row], one)
    assert torch.equal(fused[0][0], torch.ones(50)) and torch.equal(fused[0][3], torch.zeros(50))


def test_rates_that_change_in_place_are_read_again():
    rate, x = torch.tensor(0.25, dtype=FLOAT64), torch.ones(1000)
    for p in (0.25, 0.75, 0.0, 1.0):
        rate.fill_(p)
        for layer in (F.dropout, F.alpha_dropout, F.dropout):
            for units in (x, x.double()):
                torch.testing.assert_close(drawn(partial(layer, units, rate, True)), drawn(partial(layer, units, p, True)))


@pytest.mark.parametrize("write", [lambda rate, p: rate.data.fill_(p), lambda rate, p: rate.numpy().fill(p)], ids=["data", "numpy"])
def test_rates_that_change_without_a_new_version_are_read_again(write):
    def draw(layer, key, rate):
        with own_randomness(key):
            return layer(x, rate, True)

    one, many, x = torch.tensor(0.25, dtype=FLOAT64), torch.full((3,), 0.25, dtype=FLOAT64), torch.ones(1000)
    for p in (0.25, 0.75, 0.0, 1.0):
        for rate in (one, many):
            version = rate._version
            write(rate, p)
            assert rate._version == version
        for layer in (F.dropout, F.alpha_dropout):
            expected = drawn(partial(layer, x, p, True))
            torch.testing.assert_close(drawn(partial(layer, x, one, True)), expected)
            fused = vmap(partial(draw, layer), randomness="error")(KEY.expand(3), many)
            torch.testing.assert_close(fused, expected.expand(3, -1))


def test_evaluation_mode_and_p_0_give_the_input_back():
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    with own_randomness(KEY) as own:
        for layer in (nn.Dropout(), nn.Dropout1d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()):
            assert layer.eval()(x) is x
        assert own.calls == 0
        assert F.dropout(x, 0.0) is x and own.calls == 1
        with pytest.raises(ValueError, match="0 <= p <= 1"):
            F.dropout(x, 1.5)


def test_channels_are_dropped_whole_and_in_place_means_in_place():
    images = drawn(lambda: F.dropout2d(torch.ones(50, 20, 3, 3)))
    assert set(images.sum((2, 3)).unique().tolist()) == {0.0, 18.0}
    one = drawn(lambda: F.dropout3d(torch.ones(400, 2, 2, 2)))
    assert set(one.sum((1, 2, 3)).unique().tolist()) == {0.0, 16.0}
    x = torch.ones(100)
    assert drawn(lambda: F.dropout(x, inplace=True)) is x and set(x.tolist()) == {0.0, 2.0}


def test_gradients_go_where_the_kept_units_are():
    x = torch.ones(200, requires_grad=True)
    result = drawn(lambda: F.dropout(x, 0.25))
    result.sum().backward()
    assert torch.equal(x.grad, result.detach())
    alpha = torch.tensor([0.5, 2.0], dtype=FLOAT64)
    slopes = vmap(grad(lambda a: drawn(lambda: D.Gamma(a, 1.0, validate_args=False).rsample().sum())))(alpha.expand(3, 2))
    assert (slopes > 0).all()

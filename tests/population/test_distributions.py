"""The laws of what is drawn: distributions, frequencies, fair bits, and nothing that neighbours have in common."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import distributions as D
from torch.func import vmap

from torchtune_hp.population import counter

from .drawing import FLOAT64, KEY, LEAST_P, N, drawn, global_generator_stands_still, under  # noqa: F401  (a fixture for all of them)


@pytest.mark.parametrize(("name", "draw", "law"), [
    ("rand", lambda: torch.rand(N), stats.uniform),
    ("rand in float64", lambda: torch.rand(N, dtype=FLOAT64), stats.uniform),
    ("randn", lambda: torch.randn(N), stats.norm),
    ("randn in float64", lambda: torch.randn(N, dtype=FLOAT64), stats.norm),
    ("normal_", lambda: torch.empty(N).normal_(3, 2), stats.norm(3, 2)),
    ("uniform_", lambda: torch.empty(N).uniform_(-2, 1), stats.uniform(-2, 3)),
    ("exponential_", lambda: torch.empty(N).exponential_(2), stats.expon(scale=0.5)),
    ("log_normal_", lambda: torch.empty(N).log_normal_(0, 0.5), stats.lognorm(0.5)),
    ("cauchy_", lambda: torch.empty(N).cauchy_(1, 2), stats.cauchy(1, 2)),
    ("Gamma(0.3)", lambda: D.Gamma(0.3, 1.0).sample((N,)), stats.gamma(0.3)),
    ("Gamma(4)", lambda: D.Gamma(4.0, 1.0).sample((N,)), stats.gamma(4)),
    ("Beta", lambda: D.Beta(0.4, 2.0).sample((N,)), stats.beta(0.4, 2)),
])  # fmt: skip
def test_kolmogorov_smirnov(name, draw, law):
    values = drawn(draw).double().numpy()
    assert stats.kstest(values, law.cdf).pvalue > LEAST_P, name


def counts_fit(values, shares):
    seen = torch.bincount(values.long(), minlength=len(shares)).double().numpy()
    return stats.chisquare(seen, [float(share) * seen.sum() for share in shares]).pvalue > LEAST_P


def test_chi_square_of_whole_numbers():
    assert counts_fit(drawn(lambda: torch.randint(3, 20, (N,))) - 3, [1 / 17] * 17)
    assert counts_fit(drawn(lambda: torch.randint(10**12, (N,))) * 16 // 10**12, [1 / 16] * 16)
    geometric = drawn(lambda: torch.empty(N).geometric_(0.4)).clamp(max=8) - 1
    assert counts_fit(geometric, [*(0.4 * 0.6**i for i in range(7)), 0.6**7])
    shares = torch.tensor([0.1, 0.0, 0.6, 0.3])
    chosen = drawn(lambda: torch.multinomial(shares, N, True))
    assert counts_fit((chosen - 1).clamp(min=0), [0.1, 0.6, 0.3]) and not (chosen == 1).any()
    assert (drawn(lambda: torch.multinomial(shares.expand(N, 4), 1)) == 1).sum() == 0


def test_multinomial_without_replacement_takes_pairs_with_the_right_frequency():
    w = [0.5, 0.3, 0.2]
    pairs = drawn(lambda: torch.multinomial(torch.tensor(w).expand(N, 3), 2))
    expected = {(i, j): w[i] * w[j] / (1 - w[i]) for i in range(3) for j in range(3) if i != j}
    codes = {pair: number for number, pair in enumerate(expected)}
    assert counts_fit(torch.tensor([codes[pair] for pair in map(tuple, pairs.tolist())]), list(expected.values()))


def test_every_permutation_is_equally_likely():
    keys = torch.arange(12_000)
    orders = vmap(under(lambda: torch.randperm(4)), randomness="error")(keys)
    assert torch.equal(orders.sort().values, torch.arange(4).expand(12_000, 4))
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_inverse=True)[1]
    assert codes.max() == 23 and counts_fit(codes, [1 / 24] * 24)


def test_all_32_bits_are_fair_and_change_with_each_bit_of_the_key():
    """A fair bit's share over N draws lies within 5 standard deviations, 5 / (2 sqrt N) = 0.008, of 1/2."""
    hashed = counter.bits(KEY, 0, (N,))
    for bit in range(32):
        assert abs((hashed >> bit & 1).double().mean() - 0.5) < 2.5 / math.sqrt(N)
    for place in range(63):
        flipped = hashed[:2000] ^ counter.bits(KEY ^ (1 << place), 0, (2000,))
        shares = torch.stack([(flipped >> bit & 1).double().mean() for bit in range(32)])
        assert (shares - 0.5).abs().max() < 2.5 / math.sqrt(2000), place


@pytest.mark.parametrize("wide", [False, True])
def test_neighbouring_elements_calls_and_keys_are_uncorrelated(wide):
    """Correlations of 300 x 300 numbers, all within 5 standard deviations, 5 / 300."""
    dtype = FLOAT64 if wide else torch.float32
    by_key = vmap(lambda key: counter.uniform(key, 0, (300,), dtype))(torch.arange(300)).double()
    by_call = torch.stack([counter.uniform(KEY, call, (300,), dtype) for call in range(300)]).double()
    for table in (by_key, by_call):
        table = (table - 0.5) * math.sqrt(12)
        for lag in (1, 2, 3, 7, 16, 64, 128):
            for neighbour in (table.roll(lag, 0), table.roll(lag, 1), table.roll((lag, lag), (0, 1))):
                assert abs((table * neighbour).mean()) < 5 / 300
        assert stats.kstest(stats.norm.sf(table.sum(1).numpy() / math.sqrt(300)), "uniform").pvalue > LEAST_P
        assert stats.kstest(stats.norm.sf(table.sum(0).numpy() / math.sqrt(300)), "uniform").pvalue > LEAST_P


def test_tails_and_ends():
    uniform = drawn(lambda: torch.rand(1_000_000))
    assert uniform.min() >= 0 and uniform.max() < 1 and uniform.min() < 1e-5 and uniform.max() > 1 - 1e-5
    normal = drawn(lambda: torch.randn(1_000_000)).abs()
    assert (normal > 3).sum() == pytest.approx(2700, abs=5 * math.sqrt(2700))
    assert 4.5 < normal.max() < 6.7
    assert drawn(lambda: torch.rand(N, dtype=torch.float16)).max() < 1 and drawn(lambda: torch.rand(N, dtype=torch.bfloat16)).max() < 1
    assert drawn(lambda: torch.empty(N).exponential_()).min() > 0
    assert drawn(lambda: torch.empty(N, dtype=torch.float16).exponential_()).min() > 0

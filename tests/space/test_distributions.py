"""What a uniformly drawn point of the cube becomes, measured.

Each test sorts n = 20,000 values into cells and compares the counts with the law's expectation E by
chi2 = sum (count - E)**2 / E. With 20 cells it has 19 degrees of freedom; P(chi2 > 63.7) = 1.0e-6 (scipy.stats.chi2.isf(1e-6, 19)
is 63.68), so a correct mapping fails one seed in a million, and the seed is fixed. Other numbers of cells take their own threshold.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import torchtune_hp.space as hp
from torchtune_hp.space import Domain, Space

N = 20_000
FALSE_FAILURE = 1e-6


def drawn(domain: Domain) -> list[Any]:
    space = Space({"p": domain})
    x = torch.rand(N, len(space), dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    return [config["p"] for config in space.decode(x)]


def check(counts: np.ndarray, expected: np.ndarray) -> None:
    assert counts.sum() == N and math.isclose(expected.sum(), N)
    assert expected.min() > 5        # below that, chi2 is no longer distributed as chi2
    assert ((counts - expected) ** 2 / expected).sum() < stats.chi2.isf(FALSE_FAILURE, len(counts) - 1)


def check_listed(values: list[Any], weights: dict[Any, float]) -> None:
    counts = Counter(values)
    assert counts.keys() <= weights.keys()
    total = sum(weights.values())
    check(np.array([counts[value] for value in weights]), np.array([N * weight / total for weight in weights.values()]))


def test_the_threshold_of_twenty_cells_is_63_7() -> None:
    assert stats.chi2.isf(FALSE_FAILURE, 19) == pytest.approx(63.68, abs=0.01)


@pytest.mark.parametrize(
    "domain, law",
    [
        (hp.uniform(-2, 6), stats.uniform(-2, 8)),
        (hp.loguniform(1e-5, 1e-1), stats.loguniform(1e-5, 1e-1)),
        (hp.randn(), stats.norm()),
        (hp.randn(3, 0.5), stats.norm(3, 0.5)),
    ],
    ids=["uniform", "loguniform", "randn", "randn with mean and sd"],
)
def test_a_continuum_fills_twenty_equally_likely_cells_equally(domain: Domain, law: Any) -> None:
    edges = law.ppf(np.linspace(0, 1, 21))[1:-1]
    check(np.bincount(np.searchsorted(edges, drawn(domain)), minlength=20), np.full(20, N / 20))


def test_randint_leaves_the_upper_bound_out_and_is_even() -> None:
    check_listed(drawn(hp.randint(5, 25)), dict.fromkeys(range(5, 25), 1.0))


def test_lograndint_is_loguniform_rounded_down() -> None:
    check_listed(drawn(hp.lograndint(2, 22)), {v: math.log((v + 1) / v) for v in range(2, 22)})


def test_quniform_is_a_rounded_uniform_with_narrow_ends() -> None:
    check_listed(drawn(hp.quniform(0, 9.5, 0.5)), {0.5 * k: 0.5 if k in (0, 19) else 1.0 for k in range(20)})


def test_quniform_agrees_with_what_ray_computes() -> None:
    # Ray draws from the multiples' range, then takes round(value / q) * q.
    raw = 1.0 + np.random.default_rng(0).random(10**6) * 3.0
    shares = Counter((np.round(raw / 0.5) * 0.5).tolist())
    check_listed(drawn(hp.quniform(0.9, 4.2, 0.5)), {v: (0.5 if v in (1.0, 4.0) else 1.0) for v in sorted(shares)})
    assert shares[1.0] / 10**6 == pytest.approx(1 / 12, abs=0.002)


def test_qloguniform_is_a_rounded_loguniform() -> None:
    edges = [1, *[k + 0.5 for k in range(1, 20)], 20]
    check_listed(drawn(hp.qloguniform(1, 20, 1)), {float(k + 1): math.log(edges[k + 1] / edges[k]) for k in range(20)})


def test_qrandn_is_a_rounded_normal() -> None:
    # Multiples beyond 4.5 sd share 3.4e-6 of 20,000 draws: collect what is beyond 2 in the ends.
    law, cells = stats.norm(1, 1), np.arange(-1.0, 3.01, 0.25)
    values = np.clip(drawn(hp.qrandn(1, 1, 0.25)), -1.0, 3.0)
    shares = np.diff([0.0, *law.cdf(cells[:-1] + 0.125), 1.0])
    check_listed(values.tolist(), dict(zip(cells.tolist(), shares.tolist())))


def test_qrandint_rounds_a_uniform_integer_and_includes_the_upper_bound() -> None:
    nearest = Counter(5 * round(v / 5) for v in range(96))
    check_listed(drawn(hp.qrandint(0, 95, 5)), {v: float(count) for v, count in nearest.items()})
    check_listed(drawn(hp.qrandint(1, 4, 1)), dict.fromkeys([1, 2, 3, 4], 1.0))


def test_qlograndint_rounds_a_loguniform_integer() -> None:
    # Integers 3..21 under log-uniform measure log((v + 1) / v); 3k collects 3k - 1, 3k and 3k + 1 within the bounds.
    weights = {3 * k: sum(math.log((v + 1) / v) for v in (3 * k - 1, 3 * k, 3 * k + 1) if 3 <= v <= 21) for k in range(1, 8)}
    check_listed(drawn(hp.qlograndint(3, 21, 3)), weights)


@pytest.mark.parametrize("word", [hp.choice, hp.ordinal, hp.grid_search])
def test_listed_values_are_equally_likely(word: Any) -> None:
    check_listed(drawn(word(list("abcdefghijklmnopqrst"))), dict.fromkeys("abcdefghijklmnopqrst", 1.0))


def test_branches_are_equally_likely_and_so_are_the_values_in_each() -> None:
    branches = {"mlp": {"depth": hp.randint(0, 10)}, "cnn": {"depth": hp.lograndint(1, 11)}}
    values = [(value["name"], value["depth"]) for value in drawn(hp.choice(branches))]
    weights = {("mlp", v): 0.1 for v in range(10)} | {("cnn", v): math.log((v + 1) / v) / math.log(11) for v in range(1, 11)}
    check_listed(values, weights)

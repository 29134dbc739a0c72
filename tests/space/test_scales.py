"""Rounding to digits, and equality as a user means it."""

from __future__ import annotations

import numpy as np
import torch

from torchtune_hp.space.columns import same
from torchtune_hp.space.scales import to_decimals, to_digits


def test_rounding_to_digits_gives_the_float_that_python_reads() -> None:
    generator = np.random.default_rng(0)
    numbers = 10.0 ** generator.uniform(-60, 60, 3000) * generator.choice([-1, 1], 3000)
    for digits in (3, 9, 12):
        assert to_digits(numbers, digits).tolist() == [float(f"{number:.{digits - 1}e}") for number in numbers.tolist()]
    once = to_digits(numbers, 15)       # so close to the precision of a float64 that a near tie may go either way
    assert once.tolist() == [float(f"{number:.14e}") for number in once.tolist()] == to_digits(once, 15).tolist()
    assert np.all(np.abs(once / numbers - 1.0) < 1e-14)
    assert to_digits(np.array([0.0, 1.0, 999.9999]), 3).tolist() == [0.0, 1.0, 1000.0]


def test_rounding_to_decimals_gives_the_float_that_python_reads() -> None:
    assert to_decimals(np.array([0.12345, -2.5, 1e-9]), 3).tolist() == [0.123, -2.5, 0.0]
    assert to_decimals(np.array([123456.0, -49.0]), -2).tolist() == [123500.0, 0.0]
    assert to_decimals(np.array([1.23456e-27, 1e-30]), 30).tolist() == [1.235e-27, 1e-30]


def test_same_compares_as_a_user_means_it() -> None:
    assert same(1, 1.0) and same([1], [1]) and same(torch.ones(2), torch.ones(2)) and same(np.ones(2), np.ones(2))
    assert not same(1, 2) and not same(np.ones(2), np.zeros(2)) and not same(np.ones(2), [1.0, 1.0])
    assert not same(torch.ones(2), torch.ones(3)) and not same(torch.ones(2), torch.zeros(2))

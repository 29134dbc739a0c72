"""Draws under one key, for tests of the member's own randomness, and a fixture that watches torch's global generator."""

from __future__ import annotations

import warnings

import pytest
import torch

from torchtune_hp.population.randomness import key_of, own_randomness

N = 100_000
LEAST_P = 1e-5
"""Of a test of a law; the keys are fixed, so that what passes once passes always."""

KEY, FLOAT64 = torch.tensor(key_of(7, "step", 3)), torch.float64


@pytest.fixture(autouse=True)
def global_generator_stands_still():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")     # attention and recurrent layers, under vmap
        before = torch.get_rng_state()
        yield
    assert torch.equal(torch.get_rng_state(), before)


def under(draw):
    def drawn(key, *args):
        with own_randomness(key):
            return draw(*args)

    return drawn


def drawn(draw, key=KEY):
    return under(draw)(key)

"""Seeds lent to a trial: the same draws inside, the caller's streams untouched outside."""

import random

import numpy as np
import pytest
import torch

from torchtune_hp.training import seeding
from torchtune_hp.training.seeding import reseed, seeded, undisturbed


def draws():
    return torch.rand(3).tolist(), np.random.random(3).tolist(), [random.random() for _ in range(3)], np.random.permutation(9).tolist()


def seed_all(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def test_inside_the_generators_are_seeded_as_by_hand():
    with seeded(123):
        inside = draws()
    seed_all(123)
    assert inside == draws()


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_every_seed_that_derive_gives_is_taken(seed):
    with seeded(seed):
        one = draws()
    with seeded(seed):
        assert draws() == one
    with seeded(seed ^ 1):
        other = draws()
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_the_caller_s_streams_go_on_where_they_stood():
    seed_all(5)
    draws()
    expected = draws()
    seed_all(5)
    draws()
    with seeded(1):
        draws()
    assert draws() == expected


def test_they_go_on_after_an_exception_too():
    seed_all(5)
    expected = draws()
    seed_all(5)
    with pytest.raises(KeyError), seeded(1):
        draws()
        raise KeyError
    assert draws() == expected
    assert not seeding._active


def test_blocks_nest():
    with seeded(1):
        first, then = draws(), draws()
    with seeded(1):
        assert draws() == first
        with seeded(2):
            draws()
        assert draws() == then


def test_another_bit_generator_of_the_caller_s_is_put_back():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(3))
    try:
        mine = np.random.get_bit_generator()
        with seeded(1):
            inside = draws()
        assert np.random.get_bit_generator() is mine
    finally:
        np.random.set_bit_generator(before)
    with seeded(1):
        assert draws() == inside


def test_reseed_begins_again_without_leaving_the_block():
    with seeded(1):
        draws()
        reseed(2)
        inside = draws()
        assert seeding._active == [2]
    with seeded(2):
        assert draws() == inside


def test_undisturbed_keeps_the_held_back_normal_too():
    seed_all(5)
    expected = np.random.randn(4).tolist()
    seed_all(5)
    got = np.random.randn(1).tolist()
    with undisturbed():
        with seeded(1):
            np.random.randn()
        np.random.randn()
        seed_all(9)
    assert [*got, *np.random.randn(3).tolist()] == expected


def test_undisturbed_keeps_all_three_after_an_exception():
    seed_all(5)
    expected = draws()
    seed_all(5)
    with pytest.raises(KeyError), undisturbed():
        seed_all(1)
        np.random.set_bit_generator(np.random.PCG64(3))
        raise KeyError
    assert draws() == expected


def test_initialized_cuda_is_seeded_and_put_back(monkeypatch):
    devices = (torch.Generator(), torch.Generator())
    for generator in devices:
        generator.manual_seed(3)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "default_generators", devices)
    with seeded(8):
        assert [generator.initial_seed() for generator in devices] == [8, 8]
        with undisturbed():
            reseed(9)
            assert [generator.initial_seed() for generator in devices] == [9, 9]
        assert [generator.initial_seed() for generator in devices] == [8, 8]
    assert [generator.initial_seed() for generator in devices] == [3, 3]


def test_cuda_that_wakes_up_inside_a_block_is_seeded_by_it(monkeypatch):
    waiting = []
    generator = torch.Generator().manual_seed(3)
    monkeypatch.setattr(seeding, "_waiting_for_cuda", False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "_lazy_call", waiting.append)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    with seeded(8):
        reseed(9)
        assert len(waiting) == 1, "asked for once, not at every step"
        waiting[0]()
        assert generator.initial_seed() == 9
    with seeded(4):
        assert len(waiting) == 1
    waiting[0]()
    assert generator.initial_seed() == 9, "outside a block nothing is seeded"

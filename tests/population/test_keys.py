"""Keys: the same for one member and for many, another one for every seed, purpose and step."""

import torch

from torchtune_hp.population.keys import base_of, batch_step, key_of, keys_of, later


def test_one_member_s_key_is_its_entry_among_many():
    bases = [base_of(seed, "train") for seed in range(40)]
    for step in (0, 1, 7, 10**6, 2**40):
        together = keys_of(bases, [step] * 40)
        assert together.dtype == torch.int64 and together.shape == (40,)
        assert [int(key_of(base, step)) for base in bases] == together.tolist()
        assert key_of(bases[0], step).shape == ()


def test_keys_of_later_steps_are_those_that_would_have_been_made_for_them():
    bases = [base_of(seed, "train") for seed in range(40)]
    for start, steps in ((0, 0), (0, 1), (7, 2**20), (2**40, 3), (2**62, 2**62)):
        right = [key_of(base, start + steps) for base in bases]
        assert torch.equal(later(torch.stack([key_of(base, start) for base in bases]), steps), torch.stack(right))


def test_no_two_are_the_same():
    bases = [base_of(seed, purpose) for seed in range(20) for purpose in ("train", "validation", "test")]
    assert len({int(key_of(base, step)) for base in bases for step in range(50)}) == 20 * 3 * 50
    steps = {batch_step(number, batch) for number in range(50) for batch in range(50)}
    assert len(steps) == 2500

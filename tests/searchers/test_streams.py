"""Numbers that depend on (seed, row) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from torchtune_hp.errors import SpaceError
from torchtune_hp.searchers.streams import TRIES, make_feasible, nowhere, redraws, shuffled, uniform


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 10**6), st.integers(0, 2**40), st.integers(0, 20))
def test_a_row_is_the_same_bits_in_whatever_block_it_is_drawn(n: int, d: int, index: int, seed: int, cut: int) -> None:
    cut = min(cut, n)
    whole = uniform(n, d, index, seed)
    assert torch.equal(torch.cat([uniform(cut, d, index, seed), uniform(n - cut, d, index + cut, seed)]), whole)


@given(st.integers(1, 9), st.integers(0, 100), st.integers(1, 20), st.integers(0, 20))
def test_a_candidate_is_the_same_bits_in_whatever_round_it_is_drawn(d: int, start: int, count: int, cut: int) -> None:
    cut, rows = min(cut, count), torch.tensor([5, 0, 9])
    whole = redraws(rows, start, count, d, 1)
    assert whole.shape == (3, count, d)
    assert torch.equal(torch.cat([redraws(rows, start, cut, d, 1), redraws(rows, start + cut, count - cut, d, 1)], 1), whole)
    assert torch.equal(redraws(rows[1:2], start, count, d, 1), whole[1:2])


UNIFORM: list[list[float]] = [[0.5389826773710122, 0.5801393404184306], [0.7295630366726925, 0.7955876753178114]]
UNIFORM_FIVE: list[list[float]] = [[0.62551804403725, 0.11862325441046673, 0.7232741521384923, 0.9815826006640187, 0.23693512675160666]]
REDRAWS: list[list[list[float]]] = [[[0.655890649200448, 0.44494860891432164], [0.8120789576614207, 0.5446067195084175]]]
SHUFFLED: list[float] = [3.0, 4.0, 2.0, 5.0, 1.0, 0.0]


def test_the_bits_are_these_and_stay_these() -> None:
    assert uniform(2, 2, 0, 0).tolist() == UNIFORM
    assert uniform(1, 5, 3, 1).tolist() == UNIFORM_FIVE
    assert redraws(torch.tensor([3]), 1, 2, 2, 0).tolist() == REDRAWS
    assert shuffled(torch.arange(6.0)[:, None], 6, 0, 0).flatten().tolist() == SHUFFLED


def test_every_draw_is_a_multiple_of_2_to_the_minus_53_below_1_and_each_row_its_own() -> None:
    x = torch.cat([uniform(4096, 5, 0, 3), redraws(torch.arange(64), 0, 64, 5, 3).flatten(0, 1)])
    assert x.dtype == torch.float64
    assert (x >= 0).all() and (x < 1).all()
    assert ((x * 2**53) % 1 == 0).all() and ((x * 2**52) % 1 != 0).any()
    assert len(x.flatten().unique()) == x.numel()


def test_draws_are_uniform_and_independent_between_columns_and_rows() -> None:
    # The mean of 20,000 uniforms has sigma 0.00204 and a correlation sigma 0.0071: 5 sigma, 30 comparisons, fails once in 6e4 seeds.
    x = uniform(20_000, 5, 0, 11)
    assert (x.mean(0) - 0.5).abs().max() < 5 * 0.00205
    assert (x.var(0) - 1 / 12).abs().max() < 0.003
    table = torch.corrcoef(torch.cat([x[:-1], x[1:]], 1).T)
    assert (table - torch.eye(10)).abs().max() < 5 * 0.0071


def test_another_seed_gives_other_numbers() -> None:
    assert not (uniform(8, 3, 0, 0) == uniform(8, 3, 0, 1)).any()
    assert not (redraws(torch.arange(8), 0, 1, 3, 0) == redraws(torch.arange(8), 0, 1, 3, 1)).any()
    rows = torch.arange(50.0)[:, None]
    assert not torch.equal(shuffled(rows, 50, 0, 0), shuffled(rows, 50, 0, 1))


def test_no_dimensions_and_no_rows_are_empty_tensors() -> None:
    assert uniform(3, 0, 5, 0).shape == (3, 0)
    assert uniform(0, 3, 5, 0).shape == (0, 3)
    assert redraws(torch.tensor([1, 2]), 0, 4, 0, 0).shape == (2, 4, 0)


def test_shuffled_rows_are_a_permutation_whatever_the_blocks() -> None:
    rows = torch.arange(101.0, dtype=torch.float64)[:, None]
    whole = shuffled(rows, 101, 0, 5)
    assert sorted(whole.flatten().tolist()) == rows.flatten().tolist()
    assert not torch.equal(whole, rows)
    assert torch.equal(torch.cat([shuffled(rows, 60, 0, 5), shuffled(rows, 41, 60, 5)]), whole)


def numbered(rows: Tensor, start: int, count: int) -> Tensor:
    """Candidate j of row i is (i, j)."""
    numbers = torch.arange(start, start + count, dtype=torch.float64)
    return torch.stack([rows[:, None].double().expand(-1, count), numbers.expand(len(rows), -1)], -1)


@pytest.mark.parametrize("first", [0, 1, 2, 6, 7, 300, 1023])
def test_an_infeasible_row_becomes_the_first_of_its_candidates_that_is_feasible(first: int) -> None:
    x = torch.tensor([[0.0, -1.0], [1.0, 5000.0], [2.0, -1.0]], dtype=torch.float64)
    made, missing = make_feasible(x, lambda x: x[:, 1] >= first + x[:, 0] / 2, numbered, 1025)
    assert made.tolist() == [[0.0, first], [1.0, 5000.0], [2.0, first + 1.0]]
    assert missing.tolist() == []
    assert x[0, 1] == -1.0, "the argument is left as it was"


def test_rows_without_a_feasible_candidate_are_named_and_no_more_than_the_tries_are_made() -> None:
    seen: list[tuple[int, int]] = []

    def candidates(rows: Tensor, start: int, count: int) -> Tensor:
        seen.append((start, count))
        return numbered(rows, start, count)

    x = torch.full((3, 2), -1.0, dtype=torch.float64)
    made, missing = make_feasible(x, lambda x: (x[:, 0] == 1) & (x[:, 1] == 9), candidates, 10)
    assert seen == [(0, 1), (1, 2), (3, 4), (7, 3)]
    assert missing.tolist() == [0, 2]
    assert made.tolist() == [[-1.0, -1.0], [1.0, 9.0], [-1.0, -1.0]]


def test_rounds_grow_to_256_candidates_a_row_and_never_judge_more_than_65536_points() -> None:
    rounds: list[tuple[int, int]] = []

    def candidates(rows: Tensor, start: int, count: int) -> Tensor:
        rounds.append((len(rows), count))
        return torch.zeros(len(rows), count, 1)

    make_feasible(torch.zeros(1, 1), lambda x: x[:, 0] > 0, candidates, 1200)
    assert [count for _, count in rounds] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256, 177]
    rounds.clear()
    make_feasible(torch.zeros(20_000, 1), lambda x: x[:, 0] > 0, candidates, 10)
    assert [count for _, count in rounds] == [1, 2, 3, 3, 1]
    rounds.clear()
    make_feasible(torch.zeros(70_000, 1), lambda x: x[:, 0] > 0, candidates, 2)
    assert [count for _, count in rounds] == [1, 1]


def test_no_tries_only_says_which_rows_are_infeasible() -> None:
    made, missing = make_feasible(torch.tensor([[0.0], [1.0]]), lambda x: x[:, 0] > 0, numbered, 0)
    assert made.tolist() == [[0.0], [1.0]] and missing.tolist() == [0]


def test_nowhere_names_the_point_the_tries_and_the_way_out() -> None:
    assert TRIES == 262_144
    error = nowhere(7)
    assert isinstance(error, SpaceError)
    assert str(error) == (
        "A space needs feasible points, but point number 7 found none in 262,144 draws. "
        "Loosen the constraints, or narrow the domains to where they hold."
    )


def test_philox_gives_the_known_answer_of_its_authors() -> None:
    # Random123, kat_vectors: philox4x64 10, counter 0, key 0. numpy steps the counter before it draws, so: from the last one.
    ones = np.full(4, 2**64 - 1, np.uint64)
    words = np.random.Philox(key=np.zeros(2, np.uint64), counter=ones).random_raw(4).tolist()
    assert words == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]

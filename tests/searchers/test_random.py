"""Random search."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchtune_hp.errors import SpaceError
from torchtune_hp.searchers import RandomSearch, streams
from torchtune_hp.searchers.streams import redraws, shuffled, uniform
from torchtune_hp.testing.searcher_suite import anywhere
from torchtune_hp.trial import Dim, Setting

NONE = torch.empty(0, 2, dtype=torch.float64)
DIMS = (Dim("a", "float"), Dim("b", "float"))


def begun(feasible=anywhere, dims=DIMS, rows=None) -> RandomSearch:
    searcher = RandomSearch()
    searcher.begin(Setting(dims, feasible, rows=rows))
    return searcher


def test_where_all_is_feasible_the_points_are_the_seeds_uniform_sequence() -> None:
    assert torch.equal(begun().ask(5, pending=NONE, index=3, seed=9), uniform(5, 2, 3, 9))


def test_an_infeasible_point_is_the_first_feasible_one_of_its_own_redraws() -> None:
    def feasible(x: Tensor) -> Tensor:
        return x.sum(1) < 0.5

    x = begun(feasible).ask(50, pending=NONE, index=100, seed=9)
    plain = uniform(50, 2, 100, 9)
    for k in range(50):
        own = redraws(torch.tensor([100 + k]), 0, 400, 2, 9)[0]
        expected = plain[k] if feasible(plain[k : k + 1]) else own[feasible(own)][0]
        assert torch.equal(x[k], expected)


def test_redrawn_points_are_uniform_where_the_space_is_feasible() -> None:
    # Below the diagonal of the corner square of side 0.5, a has mean 1/6 and variance 1/72: 2,000 draws, sigma 0.0026, 5 sigma.
    x = begun(lambda x: x.sum(1) < 0.5).ask(2_000, pending=NONE, index=0, seed=2)
    assert (x.mean(0) - 1 / 6).abs().max() < 5 * 0.0027


def test_a_space_without_a_feasible_point_is_a_space_error_naming_the_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.make_feasible, "__defaults__", (8,))
    with pytest.raises(SpaceError, match="point number 11 found none"):
        begun(lambda x: x[:, 0] == uniform(1, 2, 10, 0)[0, 0]).ask(3, pending=NONE, index=10, seed=0)


def test_rows_come_in_the_order_of_the_seeds_permutation_and_are_copies() -> None:
    rows = torch.arange(14, dtype=torch.float64).reshape(7, 2) / 14
    searcher = begun(rows=rows)
    assert searcher.left() == 7
    x = searcher.ask(4, pending=NONE, index=2, seed=3)
    assert torch.equal(x, shuffled(rows, 4, 2, 3))
    x.fill_(9.0)
    assert rows.max() < 1
    assert torch.equal(searcher.ask(4, pending=NONE, index=2, seed=3), shuffled(rows, 4, 2, 3))


def test_without_rows_there_is_no_end() -> None:
    assert begun().left() is None


def test_it_is_not_adaptive_and_serves_a_space_of_constants() -> None:
    assert RandomSearch.adaptive is False
    assert begun(dims=()).ask(3, pending=NONE, index=0, seed=0).shape == (3, 0)

"""Sobol search."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from torchtune_hp.errors import ConfigurationError, SpaceError
from torchtune_hp.searchers import SobolSearch, streams
from torchtune_hp.searchers.streams import shuffled
from torchtune_hp.seeds import derive
from torchtune_hp.testing.searcher_suite import anywhere
from torchtune_hp.trial import Dim, Setting

NONE = torch.empty(0, 2, dtype=torch.float64)
DIMS = (Dim("a", "float"), Dim("b", "float"))


def begun(feasible=anywhere, dims=DIMS, rows=None) -> SobolSearch:
    searcher = SobolSearch()
    searcher.begin(Setting(dims, feasible, rows=rows))
    return searcher


def boxes(x: Tensor, across: int) -> set[tuple[int, ...]]:
    return {tuple(row) for row in (x * torch.tensor([across, 64 // across])).long().tolist()}


def test_points_are_those_of_the_engine_scrambled_with_the_seed() -> None:
    engine = SobolEngine(2, scramble=True, seed=derive(4, "sobol"))
    expected = engine.draw(9, dtype=torch.float64)
    x = begun().ask(9, pending=NONE, index=0, seed=4)
    assert torch.equal(x[1:], expected[1:])
    assert (x[0] - expected[0]).abs().max() < 1e-7, "the engine rounds its first point to float32"
    assert torch.equal(begun().ask(5, pending=NONE, index=4, seed=4), x[4:])
    assert torch.equal(begun().ask(1, pending=NONE, index=0, seed=4), x[:1])


def test_every_coordinate_is_a_whole_number_of_2_to_the_minus_30_the_first_point_too() -> None:
    x = begun().ask(64, pending=NONE, index=0, seed=4)
    assert ((x * 2**30) % 1 == 0).all() and ((x[0] * 2**24) % 1 != 0).any()
    assert x.max() < 1


def test_the_first_point_does_not_depend_on_the_default_dtype() -> None:
    x = begun().ask(2, pending=NONE, index=0, seed=4)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(begun().ask(2, pending=NONE, index=0, seed=4), x)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_first_64_points_put_one_into_each_of_64_equal_boxes_of_every_shape() -> None:
    # A (0, 2)-sequence in base 2: what the first point is kept for.
    x = begun().ask(64, pending=NONE, index=0, seed=1)
    for across in (1, 2, 4, 8, 16, 32, 64):
        assert len(boxes(x, across)) == 64


def test_an_infeasible_point_is_itself_under_the_first_scrambling_that_makes_it_feasible() -> None:
    def feasible(x: Tensor) -> Tensor:
        return x.sum(1) < 0.5

    plain = (begun().ask(40, pending=NONE, index=7, seed=5) * 2**30).long()
    shifts = (streams.uniform(400, 2, 0, derive(5, "sobol", "shift")) * 2**30).long()
    x = begun(feasible).ask(40, pending=NONE, index=7, seed=5)
    for k in range(40):
        tried = torch.cat([plain[k : k + 1], plain[k] ^ shifts]).double() / 2**30
        assert torch.equal(x[k], tried[feasible(tried)][0])


def test_each_scrambling_is_as_even_as_the_sequence_itself() -> None:
    plain = begun().ask(64, pending=NONE, index=0, seed=1)
    shift = (streams.uniform(1, 2, 0, derive(1, "sobol", "shift")) * 2**30).long()
    for across in (1, 8, 64):
        assert len(boxes(((plain * 2**30).long() ^ shift).double() / 2**30, across)) == 64


def test_a_space_without_a_feasible_point_is_a_space_error_naming_the_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.make_feasible, "__defaults__", (8,))
    x = begun().ask(1, pending=NONE, index=10, seed=0)
    with pytest.raises(SpaceError, match="point number 11 found none"):
        begun(lambda y: (y == x).all(1)).ask(3, pending=NONE, index=10, seed=0)


def test_rows_come_in_the_order_of_the_seeds_permutation() -> None:
    rows = torch.arange(14, dtype=torch.float64).reshape(7, 2) / 14
    searcher = begun(rows=rows)
    assert searcher.left() == 7 and begun().left() is None
    assert torch.equal(searcher.ask(4, pending=NONE, index=2, seed=3), shuffled(rows, 4, 2, 3))


def test_a_space_of_constants_and_an_ask_for_nothing_are_empty() -> None:
    for n, dims in ((3, ()), (0, DIMS)):
        x = begun(dims=dims).ask(n, pending=NONE, index=0, seed=0)
        assert x.shape == (n, len(dims)) and x.dtype == torch.float64


def test_more_dimensions_than_the_sequence_has_are_a_configuration_error_unless_there_are_rows() -> None:
    dims = tuple(Dim(str(k), "float") for k in range(21_202))
    begun(dims=dims[1:])
    with pytest.raises(ConfigurationError, match=r"at most 21,201 dimensions, but the space has 21,202\. Use RandomSearch\(\)\."):
        begun(dims=dims)
    begun(dims=dims, rows=torch.zeros(1, 21_202, dtype=torch.float64))

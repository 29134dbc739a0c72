"""Grid search."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from torchtune_hp.errors import ConfigurationError, SpaceError
from torchtune_hp.searchers import GridSearch, grid, streams
from torchtune_hp.searchers.streams import redraws, uniform
from torchtune_hp.testing.searcher_suite import CONDITIONAL, anywhere
from torchtune_hp.trial import Dim, Setting

NONE = torch.empty(0, 1, dtype=torch.float64)
TWO, THREE, LINE = Dim("two", "category", 2), Dim("three", "int", 3), Dim("line", "float")
HALVES, THIRDS = [0.25, 0.75], [0.5 / 3, 1.5 / 3, 2.5 / 3]


def begun(dims, points=None, feasible=anywhere, **more) -> GridSearch:
    searcher = GridSearch(points)
    searcher.begin(Setting(tuple(dims), feasible, **more))
    return searcher


def points_of(searcher: GridSearch, seed: int = 0) -> list[tuple[float, ...]]:
    left = searcher.left()
    assert left is not None
    return [tuple(row) for row in searcher.ask(left, pending=NONE, index=0, seed=seed).tolist()]


def marked(name: str, levels: int, parent: tuple[str, int] | None = None) -> Dim:
    return Dim(name, "category", levels, parent=parent, grid=True)


# What is an axis


def test_all_finite_dimensions_are_axes_in_their_order_the_last_one_fastest() -> None:
    assert points_of(begun([TWO, THREE])) == list(product(HALVES, THIRDS))
    assert points_of(begun([THREE, TWO])) == list(product(THIRDS, HALVES))


def test_if_any_is_written_as_grid_search_only_those_are_axes_and_the_rest_is_drawn() -> None:
    x = points_of(begun([marked("g", 2), THREE, LINE]), seed=5)
    drawn = uniform(2, 3, 0, 5)
    assert x == [(0.25, *drawn[0, 1:].tolist()), (0.75, *drawn[1, 1:].tolist())]


def test_points_gives_every_continuous_dimension_its_levels_beside_the_axes_there_are() -> None:
    assert points_of(begun([LINE], 1)) == [(0.5,)]
    assert points_of(begun([LINE, TWO], 3)) == list(product(THIRDS, HALVES))
    x = points_of(begun([marked("g", 2), THREE, LINE], 3), seed=5)
    assert [(a, c) for a, _, c in x] == list(product(HALVES, THIRDS))
    assert [b for _, b, _ in x] == uniform(6, 3, 0, 5)[:, 1].tolist()


def test_points_by_name_gives_only_the_named_their_levels() -> None:
    other = Dim("other", "float")
    x = points_of(begun([LINE, other], {"line": 2}), seed=1)
    assert [a for a, _ in x] == HALVES
    assert [b for _, b in x] == uniform(2, 2, 0, 1)[:, 1].tolist()
    assert points_of(begun([LINE, other], {"line": 2, "other": 3})) == list(product(HALVES, THIRDS))


def test_points_by_name_thins_a_finite_dimension_and_never_doubles_its_levels() -> None:
    many = Dim("many", "int", 1000)
    few = [0.2505, 0.7505]          # the levels that cover the quarters
    assert points_of(begun([many, TWO], {"many": 2, "two": 9})) == list(product(few, HALVES))
    assert points_of(begun([many, THREE], {"three": 1}))[::1000] == [(0.0005, 0.5)]
    assert points_of(begun([marked("g", 2), many], {"many": 2})) == list(product(HALVES, few))
    assert begun([many], 7).left() == 1000, "a number for all is meant for the continuous ones"


# Branches


def test_a_branchs_axes_are_crossed_inside_the_branch_only_and_rest_at_the_middle_elsewhere() -> None:
    net, lr, width, filters, stride = CONDITIONAL
    x = points_of(begun([net, width, filters]))
    mlp = [(0.25, a, 0.5) for a in THIRDS]
    cnn = [(0.75, 0.5, a) for a in (0.125, 0.375, 0.625, 0.875)]
    assert x == mlp + cnn
    both = points_of(begun([net, lr, width, filters, stride], 2))
    assert both == [(0.25, a, b, 0.5, 0.5) for a in HALVES for b in THIRDS] + [
        (0.75, a, 0.5, b, c) for a in HALVES for b in (0.125, 0.375, 0.625, 0.875) for c in HALVES
    ]


def test_what_is_drawn_rests_at_the_middle_outside_its_branch_too() -> None:
    net, lr, width, filters, stride = CONDITIONAL
    x = points_of(begun([net, stride]), seed=3)
    assert x == [(0.25, 0.5), (0.75, uniform(2, 2, 0, 3)[1, 1].item())]


def test_branches_within_branches() -> None:
    a, b, c = Dim("a", "category", 2), Dim("b", "category", 2, parent=("a", 1)), Dim("c", "int", 3, parent=("b", 0))
    expected = [(0.25, 0.5, 0.5), *((0.75, 0.25, level) for level in THIRDS), (0.75, 0.75, 0.5)]
    assert points_of(begun([a, b, c])) == expected
    assert sorted(points_of(begun([c, b, a]))) == sorted(x[::-1] for x in expected), "a parent may be declared after its children"


def test_the_choice_above_an_axis_is_an_axis_although_it_is_not_written_as_one() -> None:
    net = Dim("net", "category", 3)
    x = points_of(begun([net, marked("g", 2, ("net", 1)), LINE]), seed=2)
    assert [row[:2] for row in x] == [(0.5 / 3, 0.5), (0.5, 0.25), (0.5, 0.75), (2.5 / 3, 0.5)]


def test_a_thinned_choice_has_only_the_branches_that_are_left() -> None:
    net = Dim("net", "category", 3)
    dims = [net, *(Dim(name, "int", 2, parent=("net", k)) for k, name in enumerate("uvw"))]
    assert points_of(begun(dims, {"net": 2})) == [
        (0.5 / 3, 0.25, 0.5, 0.5), (0.5 / 3, 0.75, 0.5, 0.5), (2.5 / 3, 0.5, 0.5, 0.25), (2.5 / 3, 0.5, 0.5, 0.75),
    ]  # fmt: skip


# Feasibility


def test_infeasible_combinations_are_left_out() -> None:
    assert points_of(begun([TWO, THREE], feasible=lambda x: x.sum(1) < 1)) == [
        (0.25, THIRDS[0]), (0.25, THIRDS[1]), (0.75, THIRDS[0]),
    ]  # fmt: skip


def test_no_feasible_combination_is_a_space_error() -> None:
    with pytest.raises(SpaceError) as caught:
        begun([TWO, THREE], feasible=lambda x: x[:, 0] > 1)
    assert str(caught.value) == (
        "A grid needs feasible combinations, but none is. Loosen the constraints, or give the axes other values."
    )


def test_a_combination_stays_if_any_draw_of_the_others_is_feasible_and_those_are_drawn() -> None:
    def feasible(x: Tensor) -> Tensor:
        return (x[:, 0] < 0.5) & (x[:, 1] < 0.02)

    searcher = begun([TWO, LINE], feasible=feasible)
    x = points_of(searcher, seed=8)
    own = redraws(torch.tensor([0]), 0, 2000, 2, 8)[0, :, 1]
    assert x == [(0.25, own[own < 0.02][0].item())]


def test_the_draws_of_a_combination_are_those_of_its_number_on_the_grid() -> None:
    def feasible(x: Tensor) -> Tensor:
        return (x[:, 0] > 0.1) & (x[:, 1] < 0.3)

    searcher = begun([Dim("ten", "int", 10), LINE], feasible=feasible)
    assert searcher.left() == 9
    x = searcher.ask(3, pending=NONE, index=4, seed=8)
    for k in range(3):
        own = torch.cat([uniform(1, 2, 4 + k, 8), redraws(torch.tensor([4 + k]), 0, 200, 2, 8)[0]])[:, 1]
        assert x[k].tolist() == [0.55 + k / 10, own[own < 0.3][0].item()]


def test_whether_a_combination_stays_depends_on_the_settings_seed_not_on_what_is_asked() -> None:
    def seldom(x: Tensor) -> Tensor:
        return x[:, 1] < 0.0007         # a combination stays with probability 1 - (1 - 0.0007)**1025, about a half

    counts = [begun([Dim("hundred", "int", 100), LINE], feasible=seldom, seed=seed).left() for seed in (0, 0, 1, 2)]
    assert counts == [54, 54, 55, 54]


def test_where_nothing_is_drawn_feasibility_is_judged_once() -> None:
    judged = []

    def feasible(x: Tensor) -> Tensor:
        judged.append(len(x))
        return x[:, 0] < 0.5

    begun([TWO, THREE], feasible=feasible)
    assert judged == [6]


def test_a_combination_without_a_draw_under_the_asks_seed_is_a_space_error(monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = begun([TWO, LINE])
    monkeypatch.setattr(grid, "TRIES", 4)
    searcher.setting = Setting((TWO, LINE), lambda x: x[:, 0] < 0.5)
    with pytest.raises(SpaceError, match="point number 1 found none"):
        searcher.ask(2, pending=NONE, index=0, seed=0)
    assert streams.TRIES != 4


# Size


def test_a_large_grid_is_judged_in_pieces_and_kept_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "_CHUNK", 7)
    searcher = begun([Dim("a", "int", 5), Dim("b", "int", 4)], feasible=lambda x: x[:, 0] != 0.5)
    eighths = [0.125, 0.375, 0.625, 0.875]
    assert points_of(searcher) == list(product([0.1, 0.3, 0.7, 0.9], eighths))


def test_levels_beyond_255_and_65535_are_kept() -> None:
    for size in (256, 257, 65_536, 65_537):
        searcher = begun([Dim("a", "int", size)])
        assert searcher.left() == size
        assert searcher.ask(1, pending=NONE, index=size - 1, seed=0).tolist() == [[(size - 0.5) / size]]


def test_a_grid_of_more_than_ten_million_is_a_configuration_error_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grid.MOST == 10_000_000
    with pytest.raises(ConfigurationError) as caught:
        begun([TWO, Dim("huge", "int", 10**9), THREE])
    assert str(caught.value) == (
        "searcher: a grid has at most 10,000,000 combinations, but this one has at least 1,000,000,000 (two: 2, huge: "
        "1,000,000,000, three: 3). Give an axis fewer values, as in GridSearch(points={name: 5}), or use RandomSearch()."
    )
    monkeypatch.setattr(grid, "MOST", 6)
    assert begun([TWO, THREE]).left() == 6
    with pytest.raises(ConfigurationError):
        begun([TWO, Dim("four", "int", 4)])


# Errors


@pytest.mark.parametrize("dims", [[LINE], []])
def test_no_axis_is_a_configuration_error_with_the_way_out(dims: list[Dim]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        begun(dims)
    assert str(caught.value) == (
        "searcher: a grid needs an axis, but no hyperparameter is written as grid_search or has finitely many values. "
        "Say how many values the continuous ones get, as in GridSearch(points=5), or use RandomSearch()."
    )


@pytest.mark.parametrize("points", [0, -1, 2.0, True, "3", {"line": 0}, {"line": None}, {"line": True}])
def test_points_must_be_whole_numbers_of_at_least_1(points: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        GridSearch(points)  # type: ignore[arg-type]
    assert str(caught.value) == f"points: whole numbers of at least 1 are needed, one for all or a dict by name, but got {points!r}."


def test_points_for_a_name_that_is_no_hyperparameters_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        begun([TWO, LINE], {"lin": 3, "foo": 1})
    assert str(caught.value) == "points: each name must be a hyperparameter's, but got ['foo', 'lin']. There are ['two', 'line']."


# Rows


def test_rows_are_the_grid_in_their_own_order_and_points_are_copies() -> None:
    rows = torch.tensor([[0.9], [0.1], [0.4]], dtype=torch.float64)
    searcher = begun([LINE], rows=rows)
    assert points_of(searcher) == [(0.9,), (0.1,), (0.4,)]
    x = searcher.ask(2, pending=NONE, index=1, seed=0)
    assert x.tolist() == [[0.1], [0.4]]
    x.fill_(7.0)
    assert rows.tolist() == [[0.9], [0.1], [0.4]]


def test_the_argument_is_kept_for_the_journal() -> None:
    assert GridSearch().points is None and GridSearch(3).points == 3 and GridSearch({"a": 1}).points == {"a": 1}

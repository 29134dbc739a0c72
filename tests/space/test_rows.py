"""A table of configs as a space."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from torchtune_hp.errors import SpaceError
from torchtune_hp.space import Space
from torchtune_hp.trial import Dim

ROWS: list[dict[str, Any]] = [
    {"lr": 1e-4, "width": 16, "act": "relu", "layers": [1, 2], "epochs": 9, "drop": 0.0},
    {"lr": 1e-2, "width": 16, "act": "tanh", "layers": [1, 2], "epochs": 9, "drop": 0.5},
    {"lr": 1e-1, "width": 64, "act": "relu", "layers": [3], "epochs": 9, "drop": 1.0},
    {"lr": 1e-1, "width": 32, "act": "gelu", "layers": [3], "epochs": 9, "drop": 0.25},
]


def test_columns_become_dimensions() -> None:
    space = Space.from_rows(ROWS)
    assert space.dims == (
        Dim("lr", "float", log=True), Dim("width", "int"), Dim("act", "category", 3), Dim("layers", "category", 2), Dim("drop", "float"),
    )  # fmt: skip
    assert space.rows is not None and space.rows.dtype == torch.float64
    expected = [[0, 0, 1 / 6, 0.25, 0], [2 / 3, 0, 0.5, 0.25, 0.5], [1, 1, 1 / 6, 0.75, 1], [1, 1 / 3, 5 / 6, 0.75, 0.25]]
    assert torch.allclose(space.rows, torch.tensor(expected, dtype=torch.float64), atol=1e-15)
    assert repr(space) == "Space.from_rows(4 rows of lr, width, act, layers, drop)"


@pytest.mark.parametrize("numbers, log", [([1, 50, 100], False), ([1, 50, 100.5], True), ([0, 1, 1000], False), ([-1000, -1, -5], False)])
def test_positive_numbers_that_span_more_than_a_hundred_are_logarithmic(numbers: list[float], log: bool) -> None:
    assert Space.from_rows([{"a": number} for number in numbers]).dims[0].log is log


def test_rows_go_there_and_back_exactly() -> None:
    space = Space.from_rows(ROWS)
    assert space.rows is not None
    assert space.decode(space.rows) == ROWS and space.decode(space.rows.flip(0), [1, 2, 3, 4]) == ROWS[::-1]
    assert torch.equal(space.encode(ROWS), space.rows) and torch.equal(space.canonical(space.rows), space.rows)
    x = torch.rand(500, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(space.encode(space.decode(x)), space.canonical(x))
    assert torch.equal(space.canonical(space.canonical(x)), space.canonical(x))
    assert space.feasible(x).all() and {str(config) for config in space.decode(x)} == {str(row) for row in ROWS}


def test_a_point_stands_for_the_nearest_row_and_the_first_of_several() -> None:
    space = Space.from_rows([{"a": 0.0}, {"a": 4.0}, {"a": 1.0}])
    assert [config["a"] for config in space.decode(torch.tensor([[0.124], [0.125], [0.126], [0.7], [0.0], [0.625]]))] == [0, 0, 1, 4, 0, 4]


def test_large_tables_are_searched_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space.from_rows([{"a": k, "b": k * k % 7} for k in range(20)])
    x = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = space.decode(x)
    monkeypatch.setattr("torchtune_hp.space.rows._AT_ONCE", 60)
    assert space.decode(x) == expected
    assert space.rows is not None
    nearest = [min(range(20), key=lambda i: float(((space.rows[i] - point) ** 2).sum())) for point in x]        # type: ignore[index]
    assert [config["a"] for config in expected] == nearest


def test_a_config_that_was_changed_changes_no_row() -> None:
    space = Space.from_rows(ROWS)
    assert space.rows is not None
    space.decode(space.rows)[0]["layers"].append(9)
    assert space.decode(space.rows) == ROWS
    space.rows.zero_()
    assert space.encode(ROWS)[2, 0] == 1.0


def test_a_config_whose_nested_list_was_changed_changes_no_row() -> None:
    space = Space.from_rows([{"net": [[8], [1]]}, {"net": [[16], [1]]}])
    assert space.rows is not None
    space.decode(space.rows)[0]["net"][0].append(9)
    assert space.decode(space.rows) == [{"net": [[8], [1]]}, {"net": [[16], [1]]}]


@pytest.mark.parametrize("config", [{"a": 3}, {"a": 1, "b": 1}, {}, 7, {"a": [1]}, {"a": {}}])
def test_a_config_that_is_no_row_is_an_error(config: Any) -> None:
    with pytest.raises(SpaceError, match="is none of the 2 rows of this space"):
        Space.from_rows([{"a": 1}, {"a": 2}]).encode([config])


@pytest.mark.parametrize(
    "rows, words",
    [
        ([], "rows: at least two configs are needed, but got 0"),
        ([{"a": 1}], "at least two configs are needed, but got 1"),
        ("ab", "rows: a list of dicts is expected, but got str"),
        ({"a": [1, 2]}, "a list of dicts is expected, but got dict. For a DataFrame"),
        (({"a": k} for k in range(3)), "a list of dicts is expected, but got generator"),
        ([{"a": 1}, 3], "rows[1]: a dict is expected, but got 3"),
        ([{}, {}], "rows[0]: a dict is expected, but got {}"),
        ([{"a": 1, "b": 1}, {"a": 2, "c": 1}], "rows[1]: all rows must have the same keys, but ['b', 'c'] differ"),
        ([{"a": 1}, {"a": math.nan}], "rows[1].a: a value must be finite, but got nan"),
        ([{"a": 1}, {"a": math.inf}], "rows[1].a: a value must be finite, but got inf"),
        ([{"a": 1}, {"a": {"b": 1}}], "rows[1].a: rows must be flat"),
        ([{"a": {1}}, {"a": {2}}], "rows[0].a: {1} cannot be looked up"),
        ([{1: 1}, {1: 2}], "rows[0]: names must be strings"),
        ([{"": 1}, {"": 2}], "rows[0]: names must be strings, not empty"),
        ([{"a": 1}, {"a": 2}, {"a": 1}], "rows: numbers 0 and 2 are equal: {'a': 1}"),
        ([{"a": 0.0}, {"a": 1e-320}, {"a": 1e10}], "rows: numbers 0 and 1 differ by less than a float64 can tell"),
        ([{"a": 1}, {"a": 10**400}], "does not fit a float64"),
        ([{"a": -1.7e308}, {"a": 1.7e308}], "cannot be told apart on one axis"),
        ([{"a": 2**60}, {"a": 2**60 + 1}], "cannot be told apart on one axis"),
    ],
)
def test_bad_rows_are_named(rows: Any, words: str) -> None:
    with pytest.raises(SpaceError) as caught:
        Space.from_rows(rows)
    assert words in str(caught.value)


def test_bools_are_categories_and_none_makes_a_column_one() -> None:
    space = Space.from_rows([{"a": True, "b": None}, {"a": False, "b": 0.5}])
    assert space.dims == (Dim("a", "category", 2), Dim("b", "category", 2))

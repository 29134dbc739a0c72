"""Configs of another space in the coordinates of this one."""

from __future__ import annotations

from typing import Any

import pytest

from torchtune_hp.space import Space, choice, loguniform, mapped, randint, uniform
from torchtune_hp.space.shared import ABSENT, OUTSIDE

SPACE = Space({
    "lr": loguniform(1e-4, 1e-1), "net": choice({"mlp": {"width": randint(1, 9)}, "cnn": {"filters": choice([8, 16])}}), "epochs": 3,
    "opt": {"beta": uniform(0.0, 1.0)},
})  # fmt: skip
NAMES = SPACE.names


def shared(config: dict[str, Any], space: Space = SPACE) -> dict[str, float]:
    [row] = space.shared([config]).tolist()
    return dict(zip(space.names, row))


def test_what_this_space_itself_made_lies_where_it_was_made() -> None:
    x = SPACE.canonical(__import__("torch").rand(20, len(SPACE)))
    for point, row in zip(x.tolist(), SPACE.shared(SPACE.decode(x)).tolist()):
        assert all(there in (here, ABSENT) for here, there in zip(point, row)) and ABSENT in row, "of two branches one is absent"


def test_names_that_are_missing_are_absent_and_names_that_are_not_ours_do_not_count() -> None:
    found = shared({"lr": 1e-1, "momentum": 0.9, "epochs": 5})
    assert found.pop("lr") == 1.0 and set(found.values()) == {ABSENT}


@pytest.mark.parametrize(
    "config, name",
    [
        ({"lr": 0.5}, "lr"), ({"lr": "fast"}, "lr"), ({"net": {"name": "rnn"}}, "net"), ({"net": 3}, "net"), ({"net": {"name": []}}, "net"),
        ({"net": {"name": "mlp", "width": 2.5}}, "net.mlp.width"), ({"net": {"name": "cnn", "filters": 12}}, "net.cnn.filters"),
    ],
)   # fmt: skip
def test_a_value_that_is_not_legal_here_is_outside(config: dict[str, Any], name: str) -> None:
    found = shared(config)
    [odd] = [key for key, value in found.items() if value == OUTSIDE]
    assert odd in (name, name.replace(".mlp", "").replace(".cnn", "")) and odd in NAMES


def test_a_group_that_is_something_else_there_is_absent() -> None:
    assert shared({"opt": 0.3})[NAMES[-1]] == ABSENT
    assert shared({"opt": {"beta": 0.3}})[NAMES[-1]] == pytest.approx(0.3)


def test_a_mapped_value_is_mapped_back() -> None:
    space = Space({"a": mapped(uniform(0.0, 1.0), lambda u: 2 * u, lambda v: v / 2)})
    assert shared({"a": 0.5}, space) == {space.names[0]: 0.25}
    assert shared({"a": 3.0}, space) == {space.names[0]: OUTSIDE}
    assert shared({"a": "wide"}, space) == {space.names[0]: OUTSIDE}


def test_a_mapped_group_whose_inverse_fails_or_gives_no_group_is_outside() -> None:
    pair = {"a": uniform(0.0, 1.0), "b": choice({"x": {"c": uniform(0.0, 1.0)}, "y": {}})}

    def inverse(value: Any) -> Any:
        return None if value == "nothing" else {"a": value[0], "b": value[1]}

    space = Space({"p": mapped(pair, lambda v: (v["a"], v["b"]), inverse)})
    assert shared({"p": (0.25, {"name": "x", "c": 0.5})}, space) == dict(zip(space.names, (0.25, 0.25, 0.5)))
    assert set(shared({"p": 3.0}, space).values()) == {OUTSIDE} == set(shared({"p": "nothing"}, space).values())


def test_of_rows_a_config_is_a_row_or_outside() -> None:
    space = Space.from_rows([{"a": 1.0, "b": "x"}, {"a": 2.0, "b": "y"}])
    assert shared({"a": 2.0, "b": "y"}, space) == {"a": 1.0, "b": 0.75}
    assert set(shared({"a": 2.0, "b": "x"}, space).values()) == {OUTSIDE}

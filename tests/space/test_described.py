"""A space as JSON: stored, compared, rebuilt."""

from __future__ import annotations

import functools
import json
import math
import operator
from typing import Any

import numpy as np
import pytest
import torch

import torchtune_hp.space as hp
from torchtune_hp.errors import SpaceError
from torchtune_hp.space import Domain, Space, difference


def double(value: Any) -> Any:
    return 2 * value


def halve(value: Any) -> Any:
    return value / 2


def sensible(config: dict[str, Any]) -> bool:
    return bool(config["lr"] > 0)


FULL: dict[str, Any] = {
    "lr": hp.loguniform(1e-4, 1e-1),
    "n": hp.randn(),
    "width": hp.mapped(hp.qrandint(8, 64, 8), double, halve),
    "act": hp.choice([torch.nn.ReLU, math.sin, None, (1, "a"), [2.5], {"k": 1}, math.inf]),
    "depth": hp.ordinal([1, 2]),
    "grid": hp.grid_search([1, 2]),
    "model": hp.choice({"mlp": {"width": hp.randint(1, np.int64(9))}, "cnn": {}}),
    "nested": {"constant": [1, (2,)], "s": hp.sample_from(double)},
}


def test_a_space_survives_a_trip_through_json() -> None:
    space = Space(FULL, constraints=[sensible])
    described = json.loads(json.dumps(space.describe(), allow_nan=False))
    there = Space.rebuild(described)
    assert there.dims == space.dims and there.describe() == space.describe() == described and there.sampled == space.sampled
    x = torch.rand(200, len(space), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert there.decode(x) == space.decode(x) and torch.equal(there.canonical(x), space.canonical(x))
    assert there.feasible(x).tolist() == space.feasible(x).tolist()
    assert difference(described, space.describe()) == []


def test_what_is_described_is_stable() -> None:
    assert Space({"lr": hp.uniform(0, 1), "m": hp.choice({"a": {}}), "c": 3}, constraints=[sensible_too]).describe() == {
        "space": {"group": [["lr", {"uniform": [0, 1]}], ["m", {"branches": [["a", {"group": []}]]}], ["c", {"constant": 3}]]},
        "constraints": [{"callable": f"{__name__}:sensible_too"}],
    }


def sensible_too(config: dict[str, Any]) -> bool:
    return True


def test_rows_survive_a_trip_through_json() -> None:
    rows = [{"a": 1, "b": "x", "c": (1, 2)}, {"a": 2, "b": None, "c": (1, 2)}]
    space = Space.from_rows(rows)
    there = Space.rebuild(json.loads(json.dumps(space.describe())))
    assert there.rows is not None and space.rows is not None
    assert torch.equal(there.rows, space.rows) and there.dims == space.dims and there.decode(there.rows) == rows


def test_a_function_without_a_name_is_known_by_its_source() -> None:
    def local(config: dict[str, Any]) -> int:
        return 1

    def other(config: dict[str, Any]) -> int:
        return 2

    first, again, second = (Space({"a": hp.uniform(0, 1), "s": hp.sample_from(f)}).describe() for f in (local, local, other))
    assert first == again != second
    assert len(first["space"]["group"][1][1]["sample_from"][0]["source_sha256"]) == 64
    (line,) = difference(first, second)
    assert line.startswith("s: sample_from(a function with source ") and " -> " in line


def test_a_function_typed_at_a_prompt_is_known_by_what_it_does() -> None:
    def typed(source: str) -> Any:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(source, names)
        return names["f"]

    texts = ["def f(config):\n    return 1", "def f(config):\n    return 1", "def f(config):\n    return 2"]
    one, same, two = (Space({"a": hp.uniform(0, 1), "s": hp.sample_from(typed(text))}).describe() for text in texts)
    assert one == same != two
    typed_class = typed("class f:\n    def __call__(self, config): return 1")
    described = Space({"a": hp.uniform(0, 1), "c": typed_class}).describe()
    assert described["space"]["group"][1][1]["constant"] == {"repr": "<class '__main__.f'>"}


@pytest.mark.parametrize(
    "name, spec",
    [
        ("s", {"s": hp.sample_from(lambda config: 1)}),
        ("m", {"m": hp.mapped(hp.uniform(0, 1), lambda v: v, halve)}),
        ("c", {"c": object()}),
        ("c", {"c": functools.partial(double, 3)}),
        ("p", {"p": hp.choice([object(), 1])}),
        ("b.x.c", {"b": hp.choice({"x": {"c": object()}})}),
    ],
)
def test_what_cannot_be_rebuilt_is_named(name: str, spec: dict[str, Any]) -> None:
    if name == "m":
        spec["m"] = hp.mapped(hp.uniform(0, 1), lambda v: 2 * v, halve)
    described = json.loads(json.dumps(Space({"a": hp.uniform(0, 1), **spec}).describe()))
    with pytest.raises(SpaceError) as caught:
        Space.rebuild(described)
    assert str(caught.value).startswith(f"{name}: ") and "Pass space= again." in str(caught.value)


def test_what_has_moved_or_is_of_another_version_is_named() -> None:
    for path in ("no_such_module:f", f"{__name__}:gone", "math:sin.gone", ":f"):
        with pytest.raises(SpaceError, match="c: .* cannot be rebuilt"):
            Space.rebuild({"space": {"group": [["c", {"constant": {"callable": path}}]]}, "constraints": []})
    with pytest.raises(SpaceError, match="c: 'triangular' is not a domain this version knows. Pass space= again."):
        Space.rebuild({"space": {"group": [["c", {"triangular": [0, 1]}]]}, "constraints": []})
    with pytest.raises(SpaceError, match=r"constraints\[0\]: a function with source 12345678 cannot be rebuilt"):
        Space.rebuild({"space": {"group": []}, "constraints": [{"source_sha256": "1234567890"}]})


def test_objects_are_described_without_their_addresses() -> None:
    one, two = (Space({"a": hp.uniform(0, 1), "c": object()}).describe() for _ in range(2))
    assert one == two and "0x" not in json.dumps(one)
    (_, first) = Space({"a": hp.uniform(0, 1), "c": operator.itemgetter(1)}).describe()["space"]["group"]
    assert first == ["c", {"constant": {"repr": "operator.itemgetter(1)"}}]
    (_, bound) = Space({"a": hp.uniform(0, 1), "c": functools.partial(lambda v: v, 3)}).describe()["space"]["group"]
    assert list(bound[1]["constant"]) == ["repr"] and "0x" not in bound[1]["constant"]["repr"]


@pytest.mark.parametrize(
    "before, after, lines",
    [
        ({"lr": hp.loguniform(1e-4, 0.1)}, {"lr": hp.loguniform(1e-3, 0.1)}, ["lr: loguniform(0.0001, 0.1) -> loguniform(0.001, 0.1)"]),
        ({"lr": hp.uniform(0, 1)}, {"lr": hp.uniform(0, 1), "m": hp.choice([1, "a"])}, ["m: added, choice([1, 'a'])"]),
        ({"lr": hp.uniform(0, 1), "c": (1,)}, {"lr": hp.uniform(0, 1)}, ["c: removed, was (1,)"]),
        ({"lr": hp.uniform(0, 1), "c": (1, 2)}, {"lr": hp.uniform(0, 1), "c": {"d": {}}}, ["c: removed, was (1, 2)", "c.d: added, {}"]),
        ({"a": hp.uniform(0, 1), "b": 1}, {"b": 1, "a": hp.uniform(0, 1)}, ["order of parameters: a, b -> b, a"]),
        (
            {"m": hp.choice({"x": {"w": hp.randint(0, 4)}})},
            {"m": hp.choice({"x": {"w": hp.randint(0, 5)}, "y": {}})},
            ["m: choice of branches x -> choice of branches x, y", "m.x.w: randint(0, 4) -> randint(0, 5)", "m.y: added, {}"],
        ),
    ],
)
def test_a_difference_is_said_in_a_line_for_each_parameter(before: dict[str, Any], after: dict[str, Any], lines: list[str]) -> None:
    assert difference(Space(before).describe(), Space(after).describe()) == lines


def test_a_mapping_is_one_line() -> None:
    one, two = Space({"p": hp.mapped(hp.uniform(0, 1), double, halve)}), Space({"p": hp.mapped({"u": hp.uniform(0, 2)}, turned, turned)})
    before, after = f"uniform(0, 1); {__name__}:double, {__name__}:halve", f"p.u: uniform(0, 2); {__name__}:turned, {__name__}:turned"
    assert difference(one.describe(), two.describe()) == [f"p: mapped({before}) -> mapped({after})"]


def turned(value: dict[str, float]) -> dict[str, float]:
    return {"u": 2.0 - value["u"]}


def test_differing_constraints_and_rows_are_said_too() -> None:
    spec = {"lr": hp.uniform(0, 1)}
    assert difference(Space(spec).describe(), Space(spec, constraints=[sensible_too]).describe()) == [
        f"constraints[0]: added, {__name__}:sensible_too"
    ]
    one, two = Space.from_rows([{"a": 1}, {"a": 2}]).describe(), Space.from_rows([{"a": 1}, {"a": 4}]).describe()
    assert difference(one, two) == ["rows[1]: {a: 2} -> {a: 4}"]
    gone = ["rows[0]: removed, was {a: 1}", "rows[1]: removed, was {a: 2}"]
    assert difference(one, Space(spec).describe()) == [*gone, "lr: added, uniform(0, 1)"]


def test_a_dict_among_the_values_is_printed_as_a_dict() -> None:
    before, after = (Space({"p": Domain("choice", ([{"k": v}, 1],))}).describe() for v in (1, 2))
    assert difference(before, after) == ["p: choice([{'k': 1}, 1]) -> choice([{'k': 2}, 1])"]

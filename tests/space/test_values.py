"""Exact values: what stands in a config, which dimensions there are, what encode accepts and refuses."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

import torchtune_hp.space as hp
from torchtune_hp.errors import SpaceError
from torchtune_hp.space import Domain, Space
from torchtune_hp.trial import Dim

MODEL = {
    "mlp": {"width": hp.randint(8, 65), "drop": {"p": hp.uniform(0, 1)}},
    "cnn": {"filters": hp.choice([16, 32]), "bias": True},
    "none": {},
}


def values(domain: Domain, *u: float) -> list[Any]:
    return [config["p"] for config in Space({"p": domain}).decode(torch.tensor(u, dtype=torch.float64)[:, None])]


def place(domain: Domain, value: Any) -> float:
    return float(Space({"p": domain}).encode([{"p": value}])[0, 0])


@pytest.mark.parametrize(
    "domain, at_0, at_half, at_1",
    [
        (hp.uniform(0, 8), 0.0, 4.0, 8.0),
        (hp.uniform(-1 / 3, 1 / 3), -0.333333333333, 0.0, 0.333333333333),        # the bounds themselves carry more digits
        (hp.uniform(-2 / 3, 2 / 3), -2 / 3, 0.0, 2 / 3),        # here 12 digits would lie outside,
        (hp.uniform(0, 1e-30), 0.0, 5e-31, 1e-30),
        (hp.uniform(0, 3e20), 0.0, 1.5e20, 3e20),
        (hp.loguniform(1e-4, 1e-2), 1e-4, 1e-3, 1e-2),
        (hp.loguniform(1e-30, 1e-20), 1e-30, 1e-25, 1e-20),
        (hp.loguniform(1e10, 1e40), 1e10, 1e25, 1e40),
        (hp.randn(), -5.0, 0.0, 5.0),
        (hp.randn(10, 2), 0.0, 10.0, 20.0),
        (hp.quniform(0, 1, 0.1), 0.0, 0.5, 1.0),
        (hp.quniform(0.05, 0.75, 0.1), 0.1, 0.4, 0.7),
        (hp.qloguniform(1, 100, 1), 1.0, 10.0, 100.0),
        (hp.qrandn(0, 1, 0.3), -4.8, 0.0, 4.8),
        (hp.randint(0, 10), 0, 5, 9),
        (hp.qrandint(10, 50, 10), 10, 30, 50),
        (hp.qrandint(-7, 11, 3), -6, 3, 9),
        (hp.lograndint(1, 101), 1, 10, 100),
        (hp.qlograndint(2, 200, 2), 2, 20, 200),
        (hp.choice(["a", "b", "c"]), "a", "b", "c"),
        (hp.ordinal(["a", "b"]), "a", "b", "b"),
        (hp.grid_search([None, 1.5]), None, 1.5, 1.5),
    ],
)
def test_the_faces_and_the_middle_are_the_bounds_and_the_center(domain: Domain, at_0: Any, at_half: Any, at_1: Any) -> None:
    assert values(domain, 0.0, 0.5, 1.0) == [at_0, at_half, at_1]
    assert [type(value) for value in values(domain, 0.0, 0.5, 1.0)] == [type(at_0), type(at_half), type(at_1)]


def test_points_beyond_the_cube_are_moved_to_its_faces() -> None:
    assert values(hp.uniform(2, 3), -0.5, 1.5, math.inf) == [2.0, 3.0, 3.0]


def test_a_number_that_is_written_with_few_digits_comes_back_as_written() -> None:
    space = Space({"p": hp.loguniform(1e-7, 10), "q": hp.uniform(-1, 1), "r": hp.randn(0, 1)})
    numbers = itertools.product((1e-7, 0.001, 3e-4, 0.1, 2.5, 10.0), (-1.0, -0.3, 0.0, 0.7), (0.1, -4.56))
    configs = [{"p": p, "q": q, "r": r} for p, q, r in numbers]
    assert space.decode(space.encode(configs)) == configs


def test_multiples_carry_no_dust() -> None:
    assert values(hp.quniform(0, 1, 0.1), *[k / 10 for k in range(11)]) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert 0.3 < 3 * 0.1        # what would be there otherwise


def test_zero_is_never_negative() -> None:
    assert math.copysign(1.0, values(hp.uniform(-1, 1), 0.5 - 1e-14)[0]) == 1.0
    assert math.copysign(1.0, values(hp.quniform(-1, 1, 0.5), 0.5)[0]) == 1.0


def test_choice_gives_the_very_objects() -> None:
    items: list[Any] = [[64], torch.ones(2), torch.ones(3), np.zeros(2), math.sin]
    space = Space({"p": hp.choice(items)})
    found = space.decode(torch.tensor([[0.1], [0.3], [0.5], [0.7], [0.9]]))
    assert all(config["p"] is item for config, item in zip(found[1:], items[1:])) and found[0]["p"] == items[0]
    assert space.encode([{"p": [64]}, {"p": torch.ones(3)}, {"p": np.zeros(2)}]).flatten().tolist() == [0.1, 0.5, 0.7]


def test_a_trial_that_changes_what_it_was_given_changes_no_other_trials_choice() -> None:
    marker = object()
    items: list[Any] = [[8, [1]], {"a": [1]}, {3}, ([2], marker)]
    space = Space({"p": hp.choice(items)})
    x = (torch.arange(4)[:, None] + 0.5) / 4
    before = [config["p"] for config in space.decode(x)]
    assert before[3][1] is marker
    before[0][1].append(9), before[1]["a"].append(9), before[2].add(9), before[3][0].append(9), items[0].append(9)
    assert [config["p"] for config in space.decode(x)] == [[8, [1]], {"a": [1]}, {3}, ([2], marker)]
    assert torch.equal(space.encode(space.decode(x)), x.double())


def test_the_middle_of_an_unequal_cell_is_the_canonical_point() -> None:
    assert place(hp.quniform(0, 2, 1), 1) == 0.5 and place(hp.quniform(0, 2, 1), 0) == 0.125
    assert place(hp.qrandint(0, 10, 5), 0) == pytest.approx(1.5 / 11) and place(hp.qrandint(0, 10, 5), 10) == pytest.approx(9.5 / 11)
    assert place(hp.lograndint(1, 8), 1) == pytest.approx(1 / 6)        # [log 1, log 2) is a third of [log 1, log 8)
    assert place(hp.lograndint(1, 8), 2) == pytest.approx((1 + math.log2(3)) / 6)


@pytest.mark.parametrize(
    "domain, value",
    [
        (hp.uniform(0, 1), np.float32(0.5)),
        (hp.uniform(0, 1), np.int64(1)),
        (hp.uniform(0, 1), 1),
        (hp.uniform(0, 1), 1 + 1e-13),
        (hp.uniform(0, 1), -1e-13),
        (hp.loguniform(0.1, 1), 0.1 * (1 - 1e-13)),
        (hp.randint(0, 5), 4.0),
        (hp.randint(0, 5), np.int32(4)),
        (hp.quniform(0, 1, 0.1), 3 * 0.1),
        (hp.choice([1, 2]), 2.0),
        (hp.choice(["a", "b"]), np.str_("b")),
    ],
)
def test_encode_accepts_what_means_a_legal_value(domain: Domain, value: Any) -> None:
    assert 0.0 <= place(domain, value) <= 1.0


@pytest.mark.parametrize(
    "domain, value",
    [
        (hp.uniform(0, 1), 1.0001),
        (hp.uniform(0, 1), 1 + 1e-11),
        (hp.uniform(0, 1), -1e-11),
        (hp.uniform(0, 1), math.nan),
        (hp.uniform(0, 1), math.inf),
        (hp.uniform(0, 1), True),
        (hp.uniform(0, 1), np.bool_(True)),
        (hp.uniform(0, 1), "0.5"),
        (hp.uniform(0, 1), None),
        (hp.uniform(0, 1), 10**400),
        *((domain, value) for value in (math.inf, -math.inf, 10**400, -(10**400)) for domain in (
            hp.loguniform(0.1, 1), hp.randn(), hp.randint(0, 5), hp.lograndint(1, 5), hp.quniform(0, 1, 0.1), hp.qrandint(0, 10, 5),
        )),
        (hp.loguniform(0.1, 1), 0.09),
        (hp.loguniform(0.1, 1), 0.0),
        (hp.loguniform(0.1, 1), -1),
        (hp.randn(), 5.01),
        (hp.randint(0, 5), 5),
        (hp.randint(0, 5), -1),
        (hp.randint(0, 5), 2.5),
        (hp.randint(0, 5), math.nan),
        (hp.qrandint(0, 10, 5), 4),
        (hp.qrandint(0, 10, 5), 15),
        (hp.quniform(0, 1, 0.1), 0.25),
        (hp.quniform(0, 1, 0.1), 1.1),
        (hp.quniform(0, 1, 0.1), -0.1),
        (hp.choice([1, 2]), 3),
        (hp.choice([1, 2]), [1]),
        (hp.choice([[1], [2]]), [3]),
    ],
)
def test_encode_names_what_is_not_a_legal_value(domain: Domain, value: Any) -> None:
    with pytest.raises(SpaceError) as caught:
        Space({"p": domain}).encode([{"p": Space({"p": domain}).decode(torch.tensor([[0.5]]))[0]["p"]}, {"p": value}])
    assert str(caught.value).startswith(f"p: {value!r} is not a value of {domain!r}")


def test_a_branch_reads_its_name_and_its_own_parameters_only() -> None:
    space = Space({"model": hp.choice(MODEL), "lr": hp.uniform(0, 1)})
    assert space.dims == (
        Dim("model", "category", 3),
        Dim("model.mlp.width", "int", 57, parent=("model", 0)),
        Dim("model.mlp.drop.p", "float", parent=("model", 0)),
        Dim("model.cnn.filters", "category", 2, parent=("model", 1)),
        Dim("lr", "float"),
    )
    x = torch.tensor([[0.1, 0.0, 0.25, 0.9, 0.5], [0.5, 0.0, 0.25, 0.9, 0.5], [0.9, 0.0, 0.25, 0.9, 0.5]], dtype=torch.float64)
    configs = [
        {"model": {"name": "mlp", "width": 8, "drop": {"p": 0.25}}, "lr": 0.5},
        {"model": {"name": "cnn", "filters": 32, "bias": True}, "lr": 0.5},
        {"model": {"name": "none"}, "lr": 0.5},
    ]
    assert space.decode(x) == configs
    assert [list(config["model"]) for config in space.decode(x)] == [["name", "width", "drop"], ["name", "filters", "bias"], ["name"]]
    assert torch.equal(space.canonical(x), space.encode(configs))
    middles = [[0.5 / 3, 0.5 / 57, 0.25, 0.5, 0.5], [0.5, 0.5, 0.5, 0.75, 0.5], [2.5 / 3, 0.5, 0.5, 0.5, 0.5]]
    assert space.encode(configs).tolist() == middles


def test_a_branch_within_a_branch_has_the_inner_category_as_its_parent() -> None:
    space = Space({"a": hp.choice({"x": {"b": hp.choice({"y": {"c": hp.uniform(0, 1)}, "z": {}})}, "w": {"d": hp.grid_search([1, 2])}})})
    assert space.dims == (
        Dim("a", "category", 2),
        Dim("a.x.b", "category", 2, parent=("a", 0)),
        Dim("a.x.b.y.c", "float", parent=("a.x.b", 0)),
        Dim("a.w.d", "category", 2, parent=("a", 1), grid=True),
    )
    assert space.decode(torch.full((1, 4), 0.2, dtype=torch.float64)) == [{"a": {"name": "x", "b": {"name": "y", "c": 0.2}}}]
    assert space.canonical(torch.tensor([[0.7, 0.1, 0.1, 0.1]])).tolist() == [[0.75, 0.5, 0.5, 0.25]]


@pytest.mark.parametrize(
    "domain, dim",
    [
        (hp.uniform(0, 1), Dim("p", "float")),
        (hp.loguniform(1, 2), Dim("p", "float", log=True)),
        (hp.quniform(0, 1, 0.1), Dim("p", "float", 11)),
        (hp.qloguniform(1, 10, 1), Dim("p", "float", 10, log=True)),
        (hp.randn(), Dim("p", "float")),
        (hp.qrandn(0, 1, 0.5), Dim("p", "float", 21)),
        (hp.randint(0, 10), Dim("p", "int", 10)),
        (hp.qrandint(0, 10, 5), Dim("p", "int", 3)),
        (hp.lograndint(1, 10), Dim("p", "int", 9, log=True)),
        (hp.qlograndint(1, 10, 3), Dim("p", "int", 3, log=True)),
        (hp.choice("a b".split()), Dim("p", "category", 2)),
        (hp.ordinal([1, 2, 3]), Dim("p", "ordinal", 3)),
        (hp.grid_search([1, 2, 3]), Dim("p", "category", 3, grid=True)),
        (hp.mapped(hp.randint(0, 9), lambda v: 2**v, lambda w: w.bit_length() - 1), Dim("p", "int", 9)),
    ],
)
def test_each_word_is_one_dimension(domain: Domain, dim: Dim) -> None:
    space = Space({"p": domain})
    assert space.dims == (dim,) and space.names == ("p",) and len(space) == 1 and space.rows is None and space.sampled == ()


def test_nested_dicts_and_constants_keep_their_order_and_their_objects() -> None:
    marker, layers = object(), [1, [2]]
    space = Space({"z": 1, "a": {"y": hp.randint(0, 2), "x": {"m": marker, "empty": {}}}, "layers": layers})
    first, second = space.decode(torch.tensor([[0.0], [1.0]]))
    assert first == {"z": 1, "a": {"y": 0, "x": {"m": marker, "empty": {}}}, "layers": [1, [2]]}
    assert list(first) == ["z", "a", "layers"] and list(first["a"]) == ["y", "x"]
    first["layers"][1].append(3)        # a trial that changes its list changes no other's
    assert second["layers"] == [1, [2]] and space.decode(torch.tensor([[0.0]]))[0]["layers"] == [1, [2]]
    layers.append(4)
    assert space.decode(torch.tensor([[0.0]]))[0]["layers"] == [1, [2]]
    assert space.names == ("a.y",)


def test_lists_of_several_items_that_are_constants_are_named_since_they_look_like_a_grid() -> None:
    inner = {"betas": [0.9, 0.99], "one": [1], "pair": (1, 2)}
    space = Space({"x": hp.uniform(0, 1), "width": [16, 32], "m": inner, "meant": hp.choice([[1, 2]])})
    assert space.lists == {"width": [16, 32], "m.betas": [0.9, 0.99]}
    assert Space.rebuild(space.describe()).lists == space.lists and Space.from_rows([{"a": [1, 2]}, {"a": [3, 4]}]).lists == {}


def test_mapped_reads_what_forward_gives() -> None:
    one = Space({"width": hp.mapped(hp.randint(3, 7), lambda k: 2**k, lambda w: w.bit_length() - 1)})
    assert [config["width"] for config in one.decode(torch.tensor([[0.1], [0.4], [0.6], [0.9]]))] == [8, 16, 32, 64]
    assert one.encode([{"width": 32}]).tolist() == [[0.625]]
    pair = {"a": hp.uniform(0, 1), "b": hp.uniform(1, 3)}
    two = Space({"betas": hp.mapped(pair, lambda v: (v["a"], v["b"]), lambda w: dict(zip("ab", w)))})
    assert two.names == ("betas.a", "betas.b")
    assert two.decode(torch.tensor([[0.25, 0.5]])) == [{"betas": (0.25, 2.0)}]
    assert two.encode([{"betas": (0.25, 2.0)}]).tolist() == [[0.25, 0.5]]


def test_encode_names_a_mapped_value_that_inverse_cannot_take() -> None:
    space = Space({"p": hp.mapped(hp.uniform(1, 2), lambda v: 1 / v, lambda w: 1 / w)})
    with pytest.raises(SpaceError, match="p: `inverse` failed on 0: ZeroDivisionError"):
        space.encode([{"p": 0}])


@pytest.mark.parametrize(
    "config, words",
    [
        ({"lr": 0.5}, "model: missing in the config"),
        ({"lr": 0.5, "model": {"name": "none"}, "lrr": 1}, "lrr: not a parameter of this space; there are ['epochs', 'lr', 'model']"),
        ({"lr": 0.5, "model": {"name": "none"}, "epochs": 4}, "epochs: the constant 3 is expected, but got 4"),
        ({"lr": 0.5, "model": {"name": "rnn"}}, "model: 'rnn' is not a value of choice of branches ['mlp', 'cnn', 'none']"),
        ({"lr": 0.5, "model": "mlp"}, "model: 'mlp' is not a value of branches"),
        ({"lr": 0.5, "model": {"width": 8}}, "model: {'width': 8} is not a value of branches"),
        ({"lr": 0.5, "model": {"name": "mlp", "width": 8}}, "model.mlp.drop: missing"),
        ({"lr": 0.5, "model": {"name": "mlp", "width": 8, "drop": 0.5}}, "model.mlp.drop: a dict with ['p'] is expected, but got 0.5"),
        ({"lr": 0.5, "model": {"name": "cnn", "filters": 16, "width": 8}}, "model.cnn.width: not a parameter"),
        (7, "config: a dict with ['epochs', 'lr', 'model'] is expected, but got 7"),
    ],
)
def test_encode_names_a_key_that_is_missing_or_too_many(config: Any, words: str) -> None:
    with pytest.raises(SpaceError) as caught:
        Space({"lr": hp.uniform(0, 1), "epochs": 3, "model": hp.choice(MODEL)}).encode([config])
    assert words in str(caught.value)


def test_constants_may_be_left_out_or_repeated() -> None:
    space = Space({"lr": hp.uniform(0, 1), "epochs": 3})
    assert space.encode([{"lr": 0.5}, {"lr": 0.25, "epochs": 3}]).tolist() == [[0.5], [0.25]]
    space = Space({"lr": hp.uniform(0, 1), "opt": {"name": "adam", "betas": {"first": 0.9}}, "none": {}})
    given = [{"lr": 0.5}, {"lr": 0.25, "opt": {}}, {"lr": 0.75, "opt": {"betas": {"first": 0.9}}, "none": {}}]
    assert space.encode(given).tolist() == [[0.5], [0.25], [0.75]]
    with pytest.raises(SpaceError, match="opt.betas.first: the constant 0.9 is expected, but got 0.8"):
        space.encode([{"lr": 0.5, "opt": {"betas": {"first": 0.8}}}])

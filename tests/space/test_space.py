"""The Space itself: odd shapes, empty blocks, travel, and a plain dict in its place."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

import torchtune_hp.space as hp
from torchtune_hp.errors import SpaceError
from torchtune_hp.space import Space

SPEC = {
    "p": hp.uniform(0, 1),
    "model": hp.choice({"mlp": {"width": hp.randint(8, 65)}, "none": {}}),
    "w": hp.lograndint(1, 9),
    "n": hp.qrandn(0, 1, 0.1),
    "list": hp.choice([[1], [2]]),
}


def test_nothing_encodes_and_decodes_to_nothing() -> None:
    space = Space(SPEC)
    assert space.encode([]).shape == (0, len(space)) and space.decode(torch.empty(0, len(space))) == []
    assert space.canonical(torch.empty(0, len(space))).shape == (0, len(space)) and space.feasible(torch.empty(0, len(space))).shape == (0,)


def test_points_of_a_wrong_shape_or_nan_are_errors() -> None:
    space = Space({"a": hp.uniform(0, 1), "b": hp.uniform(0, 1)})
    with pytest.raises(SpaceError, match=r"x: points \(n, 2\) are expected, .* but got shape \(3,\)"):
        space.decode(torch.zeros(3))
    with pytest.raises(SpaceError, match=r"but got shape \(3, 1\)"):
        space.canonical(torch.zeros(3, 1))
    with pytest.raises(SpaceError, match="b: a coordinate must be a number"):
        space.feasible(torch.tensor([[0.0, 0.5], [0.0, math.nan]]))


def test_decode_leaves_its_argument_alone_and_takes_float32() -> None:
    x = torch.tensor([[1.5], [-1.0]])
    space = Space({"p": hp.uniform(0, 1)})
    assert space.canonical(x).tolist() == [[1.0], [0.0]] and x.tolist() == [[1.5], [-1.0]]


def test_a_space_is_a_space_and_a_dict_becomes_one() -> None:
    space = Space({"p": hp.uniform(0, 1)})
    assert Space.of(space) is space and Space.of({"p": hp.uniform(0, 1)}).names == ("p",)
    assert repr(space) == "Space({'p': uniform(0, 1)})"


def test_a_space_travels_between_processes() -> None:
    space = Space(SPEC)
    x = torch.rand(50, len(space), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    there = pickle.loads(pickle.dumps(space))
    assert there.decode(x) == space.decode(x) and torch.equal(there.encode(space.decode(x)), space.canonical(x))


def test_levels_are_the_middles_of_all_cells_equal_or_not() -> None:
    space = Space({"a": hp.choice([1, 2, 3, 4]), "b": hp.lograndint(1, 1000), "c": hp.quniform(0.0, 1.0, 0.25), "d": hp.uniform(0.0, 1.0)})
    assert space.levels(0, 10).tolist() == [0.125, 0.375, 0.625, 0.875]
    every = space.levels(1, 999)
    x = torch.full((999, 4), 0.5, dtype=torch.float64)
    x[:, 1] = every
    assert [config["b"] for config in space.decode(x)] == list(range(1, 1000))
    assert torch.equal(space.canonical(x)[:, 1], every)
    assert len(space.levels(2, 9)) == 5
    few = space.levels(1, 4)
    x = torch.full((len(few), 4), 0.5, dtype=torch.float64)
    x[:, 1] = few
    assert [config["b"] for config in space.decode(x)] == [2, 13, 74, 421]
    assert torch.allclose(space.levels(3, 4), torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64))

"""Constraints: which points are feasible, what a constraint may do wrong, and how rare feasible points may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import torchtune_hp.space as hp
from torchtune_hp.errors import SpaceError
from torchtune_hp.space import Space


def small(config: dict[str, Any]) -> bool:
    return config["a"] * config["b"] <= 8


def test_feasible_is_where_every_constraint_holds() -> None:
    space = Space({"a": hp.randint(0, 10), "b": hp.randint(0, 10)}, constraints=[small, lambda config: config["a"] > 0])
    x = torch.tensor([[0.25, 0.45], [0.25, 0.55], [0.0, 0.0], [0.95, 0.05]], dtype=torch.float64)
    assert space.feasible(x).tolist() == [True, False, False, True] and space.feasible(x).dtype == torch.bool
    assert Space({"a": hp.uniform(0, 1)}).feasible(x[:, :1]).tolist() == [True] * 4


def test_constraints_read_the_nested_config_without_sample_from_keys() -> None:
    seen: list[dict[str, Any]] = []
    spec = {"m": hp.choice({"x": {"w": hp.randint(0, 4)}, "y": {}}), "s": hp.sample_from(lambda config: 1 / 0), "c": 5}
    Space(spec, constraints=[lambda config: not seen.append(config)])
    assert all(config.keys() == {"m", "c"} for config in seen)
    assert {config["m"]["name"] for config in seen} == {"x", "y"}


def test_a_constraint_that_raises_is_named() -> None:
    with pytest.raises(SpaceError, match=r"constraints\[1\] \(small\) failed on \{'a': .*KeyError: 'b'.*use config.get"):
        Space({"a": hp.uniform(0, 1)}, constraints=[lambda config: True, small])


@pytest.mark.parametrize("verdict", [None, 1, "yes", 0.0])
def test_a_constraint_must_say_true_or_false(verdict: Any) -> None:
    with pytest.raises(SpaceError, match=rf"constraints\[0\] .* must return True or False, but returned {verdict!r}"):
        Space({"a": hp.uniform(0, 1)}, constraints=[lambda config: verdict])


def test_numpy_verdicts_are_verdicts() -> None:
    space = Space({"a": hp.uniform(0, 1)}, constraints=[lambda config: np.float64(config["a"]) < 0.5])
    assert space.feasible(torch.tensor([[0.2], [0.7]])).tolist() == [True, False]


@pytest.mark.parametrize("share", [0.0, 2e-5])
def test_a_space_with_hardly_any_feasible_point_is_an_error(share: float) -> None:
    # 65,536 points hold 1.3 of 2e-5 on average: 7 or more have probability 4e-4, and the points are fixed.
    with pytest.raises(SpaceError, match="at least 1 in 10,000 points must satisfy them, but of 65536 random points [0-6] did"):
        Space({"a": hp.uniform(0, 1)}, constraints=[lambda config: config["a"] < share])


@pytest.mark.parametrize("share", [5e-4, 1.0])
def test_a_space_with_rare_feasible_points_is_accepted(share: float) -> None:
    # 65,536 points hold 33 of 5e-4 on average: fewer than 7 have probability 1e-8.
    Space({"a": hp.uniform(0, 1)}, constraints=[lambda config: config["a"] <= share])


def test_the_check_ends_as_soon_as_enough_points_are_found() -> None:
    calls: list[Any] = []
    Space({"a": hp.uniform(0, 1)}, constraints=[lambda config: not calls.append(config)])
    assert len(calls) == 2048

"""sample_from: under the trial's seed, in order, and without a trace in the global generators."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

import torchtune_hp.space as hp
from torchtune_hp.errors import SpaceError
from torchtune_hp.space import Space

HALF = torch.full((1, 1), 0.5, dtype=torch.float64)


def draw(config: dict[str, Any]) -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_keys_are_left_out_without_seeds_and_seen_by_no_dimension() -> None:
    space = Space({"a": hp.uniform(0, 1), "n": {"s": hp.sample_from(lambda config: config["a"] * 10)}})
    assert space.names == ("a",) and space.sampled == ("n.s",)
    assert space.decode(HALF) == [{"a": 0.5, "n": {}}]
    assert space.decode(HALF, [3]) == [{"a": 0.5, "n": {"s": 5.0}}]
    assert space.encode([{"a": 0.5, "n": {"s": 7}}, {"a": 0.5, "n": {}}]).tolist() == [[0.5], [0.5]]


def test_they_run_in_the_order_they_are_written_and_read_the_ones_before() -> None:
    first, second = hp.sample_from(lambda config: [*config]), hp.sample_from(lambda config: len(config["first"]))
    spec = {"first": first, "second": second, "a": hp.uniform(0, 1), "c": 1}
    assert Space(spec).decode(HALF, [0]) == [{"a": 0.5, "c": 1, "first": ["a", "c"], "second": 2}]


def test_the_seed_alone_decides_what_is_drawn() -> None:
    space = Space({"a": hp.uniform(0, 1), "s": hp.sample_from(draw)})
    one, two, again = (config["s"] for config in space.decode(HALF.expand(3, 1), [1, 2, 1]))
    assert one == again and all(x != y for x, y in zip(one, two))
    assert space.decode(HALF, [2])[0]["s"] == two
    random.seed(99)
    assert space.decode(HALF, [1])[0]["s"] == one


def test_a_later_draw_goes_on_in_the_same_stream() -> None:
    space = Space({"a": hp.uniform(0, 1), "s": hp.sample_from(draw), "t": hp.sample_from(draw)})
    (config,) = space.decode(HALF, [1])
    assert all(x != y for x, y in zip(config["s"], config["t"]))


@pytest.mark.parametrize("fails", [False, True])
def test_the_global_generators_are_as_before(fails: bool) -> None:
    def function(config: dict[str, Any]) -> float:
        draw(config)
        return 1 / (0 if fails else 1)

    space = Space({"a": hp.uniform(0, 1), "s": hp.sample_from(function)})
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw({})
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    if fails:
        with pytest.raises(SpaceError):
            space.decode(HALF, [7])
    else:
        space.decode(HALF, [7])
    assert draw({}) == expected


def test_a_function_that_fails_is_named_and_told_what_it_reads() -> None:
    space = Space({"a": hp.uniform(0, 1), "s": hp.sample_from(lambda spec: spec.config.a)})
    with pytest.raises(SpaceError, match=r"s: sample_from failed: AttributeError: .* a plain dict \(\['a'\]\): read config\[\"x\"\]"):
        space.decode(HALF, [0])


def test_in_a_branch_they_run_where_the_branch_is() -> None:
    inner = hp.choice({"x": {"s": hp.sample_from(lambda config: "deep")}, "y": {}})
    a, b = hp.sample_from(lambda config: "a"), hp.sample_from(lambda config: "b")
    space = Space({"m": hp.choice({"a": {"inner": inner, "s": a}, "b": {"s": b}})})
    assert space.sampled == ("m.a.inner.x.s", "m.a.s", "m.b.s")
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.5]])
    assert space.decode(x, [0, 0, 0]) == [
        {"m": {"name": "a", "inner": {"name": "x", "s": "deep"}, "s": "a"}},
        {"m": {"name": "a", "inner": {"name": "y"}, "s": "a"}},
        {"m": {"name": "b", "s": "b"}},
    ]
    assert torch.equal(space.encode(space.decode(x, [0, 0, 0])), space.canonical(x))


def test_one_seed_for_each_point_is_needed() -> None:
    with pytest.raises(SpaceError, match="seeds: one for each of the 1 points is needed, but got 2"):
        Space({"a": hp.uniform(0, 1)}).decode(HALF, [1, 2])

"""Fronts, ranks and hypervolumes, against brute force."""

from __future__ import annotations

import json
import math
import random
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from torchtune_hp.pareto import Values, dominates, fronts, gain, hypervolume, ranked, reference_point

quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)
grid = st.integers(1, 4).flatmap(lambda m: st.lists(st.tuples(*[st.integers(0, 5).map(float)] * m), max_size=12))


def peeled(points: list[Values]) -> list[list[int]]:
    """Front by front: who is not dominated by any that is left."""
    left, found = set(range(len(points))), []
    while left:
        front = sorted(i for i in left if not any(dominates(points[j], points[i]) for j in left))
        found.append(front)
        left -= set(front)
    return found


def included(points: list[Values], reference: Values) -> float:
    """The volume of a union of boxes by inclusion and exclusion."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for some in combinations(points, size):
            corner = tuple(map(max, zip(*some)))
            total -= (-1) ** size * math.prod(max(0.0, r - x) for x, r in zip(corner, reference))
    return total


# Fronts and ranks ---------------------------------------------------------------------------------------------------------


@quick
@given(grid)
def test_fronts_are_what_peeling_gives(points: list[Values]) -> None:
    assert fronts(points) == peeled(points)


def test_many_points_in_two_objectives_are_sorted_without_comparing_all() -> None:
    rng = random.Random(0)
    points = [(rng.random(), rng.random()) for _ in range(400)]
    assert fronts(points) == peeled(points)


@quick
@given(grid)
def test_a_rank_names_everyone_once_and_a_better_front_first(points: list[Values]) -> None:
    order = list(ranked(points))
    assert sorted(order) == list(range(len(points)))
    depth = {i: k for k, front in enumerate(fronts(points)) for i in front}
    assert all(depth[i] <= depth[j] for i, j in pairwise(order))


@quick
@given(grid)
def test_one_objective_is_ranked_by_its_value_and_then_by_index(points: list[Values]) -> None:
    alone = [(point[0],) for point in points]
    assert list(ranked(alone)) == sorted(range(len(alone)), key=lambda i: (alone[i], i))


def test_within_a_front_the_ends_come_first_and_then_the_widest_gap() -> None:
    line = [(float(k), 8000.0 - 1000 * k) for k in range(9)]        # units do not matter: both extents are 1
    assert list(ranked(line))[:5] == [0, 8, 4, 2, 6]


def test_equal_points_share_a_front_and_the_later_one_comes_last() -> None:
    assert fronts([(1.0, 2.0), (2.0, 1.0), (1.0, 2.0)]) == [[0, 1, 2]]
    assert list(ranked([(1.0, 2.0), (2.0, 1.0), (1.0, 2.0)])) == [0, 1, 2]
    assert list(ranked([(3.0, 3.0)] * 3)) == [0, 1, 2]


@quick
@given(grid.filter(bool), st.integers(0, 11))
def test_who_comes_later_never_makes_the_front_of_another_better(points: list[Values], cut: int) -> None:
    before, after = points[: cut % len(points)], points
    depth = {i: k for k, front in enumerate(fronts(after)) for i in front}
    assert all(depth[i] >= k for k, front in enumerate(fronts(before)) for i in front)


def test_no_points_have_no_fronts() -> None:
    assert fronts([]) == [] and list(ranked([])) == []


# Hypervolume --------------------------------------------------------------------------------------------------------------


@quick
@given(grid, st.integers(1, 6))
def test_a_hypervolume_is_that_of_the_union_of_boxes(points: list[Values], side: int) -> None:
    points = points[:8]
    reference = (float(side),) * (len(points[0]) if points else 2)
    assert hypervolume(points, reference) == included(points, reference)


@quick
@given(grid.filter(bool), st.integers(1, 6))
def test_a_gain_is_the_difference_of_two_hypervolumes(points: list[Values], side: int) -> None:
    (point, *front), reference = points, (float(side),) * len(points[0])
    assert gain(point, front, reference) == hypervolume(points, reference) - hypervolume(front, reference)


def test_a_staircase_and_a_cube() -> None:
    assert hypervolume([(0.0, 2.0), (1.0, 1.0), (2.0, 0.0)], (3.0, 3.0)) == 3 + 2 + 1
    assert hypervolume([(0.0, 0.0, 0.0)], (2.0, 3.0, 4.0)) == 24
    assert hypervolume([(3.0, 0.0), (0.0, 3.0), (4.0, -9.0)], (3.0, 3.0)) == 0, "on the reference's level, or beyond, is nothing"
    assert hypervolume([], (1.0, 1.0)) == 0


def test_hypervolumes_are_botorchs() -> None:
    told = json.loads((Path(__file__).parent / "gp" / "reference" / "hypervolume.json").read_text())
    assert {len(case["reference"]) for case in told["volumes"]} == {2, 3, 4}
    for case in told["volumes"]:
        found = hypervolume(map(tuple, case["points"]), tuple(case["reference"]))
        assert found == pytest.approx(case["hypervolume"], rel=1e-12)


# The reference point ------------------------------------------------------------------------------------------------------


def test_a_reference_point_lies_a_tenth_of_the_extent_behind_the_front() -> None:
    assert reference_point([(0.0, 30.0), (2.0, 10.0)]) == pytest.approx((2.2, 32.0))
    assert reference_point([(5.0, -5.0)]) == pytest.approx((5.5, -4.5)), "no extent: a tenth of the value"
    assert reference_point([(0.0, 1.0)]) == pytest.approx((0.1, 1.1))


@quick
@given(grid.filter(bool))
def test_every_point_of_a_front_counts_for_its_reference_point(points: list[Values]) -> None:
    front = [points[i] for i in fronts(points)[0]]
    assert all(x < r for point in front for x, r in zip(point, reference_point(front)))


def test_a_reference_point_needs_a_front() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        reference_point([])

"""Levels, ranking keys and the ranking at one level, against sorting."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st

from torchtune_hp.schedulers.rungs import Rung, exact, levels, rank_key, score, trial_of
from torchtune_hp.trial import Report

quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("grace", "max_t", "eta", "expected"),
    [
        (1, 64, 4, (1, 4, 16, 64)),
        (1, 243, 3, (1, 3, 9, 27, 81, 243)),
        (117, 30000, 4, (117, 468, 1872, 7488, 30000)),
        (1, 100, 4, (1, 4, 16, 100)),
        (1, 1000, 3, (1, 3, 9, 27, 81, 243, 1000)),
        (1, 1, 3, (1,)),
        (5, 5, 2, (5,)),
        (1, 2, 4, (1, 2)),              # 1 * 1 * 4 == 2 * 2 is not left out
        (2, 3, 4, (3,)),                # 2 * 2 * 4 > 3 * 3 is
        (3, 27, 3, (3, 9, 27)),
        (1, 20, 2.5, (1, 2, 6, 20)),    # 2.5 and 6.25 are rounded down; 15 * 15 * 2.5 > 20 * 20
        (10, 50, 1.7, (10, 17, 28, 50)),
        (1, 5, 1.5, (1, 2, 3, 5)),      # 1 and int(1.5) are one level
        (1, 10, 1.1, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)),
        (1, 10**9, 10, (1, 10, 100, 1000, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9)),
    ],
)
def test_levels_are_integers_by_multiplication(grace: int, max_t: int, eta: float, expected: tuple[int, ...]) -> None:
    assert levels(grace, max_t, exact(eta)) == expected


def test_a_factor_is_the_decimal_it_was_written_as() -> None:
    assert exact(1.7) == Fraction(17, 10) and exact(4) == 4 and exact(2.5) == Fraction(5, 2) and exact(1e3) == 1000


@quick
@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.integers(0, 10**9), st.integers(0, 10**9))
def test_keys_are_in_the_order_of_score_then_trial(a: float, b: float, i: int, j: int) -> None:
    assert (rank_key(a, i) < rank_key(b, j)) == ((a, i) < (b, j))
    assert (rank_key(a, i) == rank_key(b, j)) == ((a, i) == (b, j))
    assert trial_of(rank_key(a, i)) == i


def test_keys_are_right_at_the_edges_of_floats() -> None:
    edges = [-math.inf, -1.7976931348623157e308, -1.0, -5e-324, 0.0, 5e-324, 1.0, 1.7976931348623157e308, math.inf]
    keys = [rank_key(value, trial) for value in edges for trial in (0, 1, 2**48 - 1)]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    assert rank_key(-0.0, 3) == rank_key(0.0, 3) == 3


def test_a_failure_and_a_nan_score_worst() -> None:
    def report(value: float, failed: bool = False) -> Report:
        return Report(0, 1, (value, 0.0), 0, (), failed=failed)

    assert score(report(0.5)) == 0.5 and score(report(-math.inf)) == -math.inf
    assert score(report(math.nan)) == score(report(math.inf)) == score(report(0.5, failed=True)) == math.inf


scores = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0, 2.5, 3.0, math.inf]), st.booleans()), max_size=40)


@quick
@given(scores, st.sampled_from([2, 3, 4, 1.5, 1.1]), st.integers(0, 1))
def test_the_share_is_the_best_one_in_eta(entries: list[tuple[float, bool]], eta: float, least: int) -> None:
    rung = Rung(exact(eta), least)
    seen: list[tuple[float, int]] = []
    for trial, (value, rests) in enumerate(entries):
        rung.add(value, trial, rests and value < math.inf)
        seen.append((value, trial))
        best = sorted(key for key in seen if key[0] < math.inf)[: max(least, int(len(seen) / exact(eta)))]
        assert [key for key in seen if key[0] < math.inf and rung.shares(*key)] == sorted(best, key=lambda key: key[1])
        first = min((key for key in best if entries[key[1]][1]), default=None)
        assert rung.promotable() == (None if first is None else first[1])
    assert rung.n == len(entries)
    assert rung.resting == sum(rests and value < math.inf for value, rests in entries)


@quick
@given(scores, st.sampled_from([2, 3, 1.5]), st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_the_hopeless_are_those_who_rest_behind_what_can_still_be_promoted(
    entries: list[tuple[float, bool]], eta: float, mores: list[int]
) -> None:
    rung = Rung(exact(eta))
    resting: set[int] = set()
    seen: list[tuple[float, int]] = []
    for trial, (value, rests) in enumerate(entries):
        rung.add(value, trial, rests and value < math.inf)
        if value < math.inf:
            seen.append((value, trial))
            resting |= {trial} if rests else set()
        if trial % 3 == 0:
            most = rung.n + mores[trial % len(mores)]
            behind = {trial for _, trial in sorted(seen)[int(most / exact(eta)) :]}
            gone = rung.hopeless(most)
            assert len(set(gone)) == len(gone) and set(gone) == behind & resting
            resting -= behind
            assert rung.resting == len(resting) and rung.hopeless(most) == []
        if (best := rung.promotable()) is not None:
            rung.leave(best)
            resting.remove(best)
            assert rung.promotable() != best


@quick
@given(scores, st.sampled_from([2, 3, 1.5, 1.1]), st.integers(0, 1), st.lists(st.integers(-5, 20), min_size=1, max_size=40))
def test_the_share_is_the_same_whoever_was_called_hopeless_and_though_more_came_than_was_said(
    entries: list[tuple[float, bool]], eta: float, least: int, mores: list[int]
) -> None:
    rung = Rung(exact(eta), least)
    rests: set[int] = set()
    seen: list[tuple[float, int]] = []
    for trial, (value, resting) in enumerate(entries):
        rung.add(value, trial, resting and value < math.inf)
        if value < math.inf:
            seen.append((value, trial))
            rests |= {trial} if resting else set()
        best = sorted(seen)[: max(least, int(rung.n / exact(eta)))]
        assert {key for key in seen if rung.shares(*key)} == set(best)
        assert rung.promotable() == next((trial for _, trial in best if trial in rests), None)
        if trial % 2 == 0:
            gone = rung.hopeless(max(0, rung.n + mores[trial % len(mores)]))
            assert rests.issuperset(gone)
            rests.difference_update(gone)
            assert rung.resting == len(rests)


def test_a_rung_nobody_can_leave_keeps_nobody() -> None:
    rung = Rung(Fraction(4))
    for trial in range(3):
        rung.add(float(trial), trial, rests=True)
    assert rung.hopeless(4) == [2, 1]
    assert rung.hopeless(3) == [0]
    rung.add(-1.0, 3, rests=True)
    assert rung.resting == 1
    assert rung.hopeless(3) == [3]
    assert rung.promotable() is None

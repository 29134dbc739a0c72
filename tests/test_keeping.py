"""Whose weights are kept."""

from hypothesis import given, strategies as st

from torchtune_hp.keeping import BestFew, Front, dominates

reports = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=40)


@given(st.integers(1, 4), reports)
def test_the_best_few_are_the_trials_with_the_best_reports_so_far(k: int, made: list[tuple[int, int]]) -> None:
    few, kept = BestFew(k), set()
    best: dict[int, tuple[int, int]] = {}           # trial -> (value, when)
    for when, (trial, value) in enumerate(made):
        improved = trial not in best or value < best[trial][0]
        out = few.offer(trial, (float(value),))
        if improved:
            best[trial] = (value, when)
        if out is None:
            assert trial in kept and not improved or sorted(best.values()).index(best[trial]) >= min(k, len(kept))
        else:
            assert improved
            kept -= set(out)
            kept.add(trial)
        assert len(kept) == min(k, len(best))
        top = sorted(value for value, _ in best.values())[:k]
        assert sorted(best[trial][0] for trial in kept) == top


def test_of_equal_reports_the_latest_is_displaced() -> None:
    few = BestFew(2)
    assert [few.offer(1, (1.0,)), few.offer(0, (1.0,)), few.offer(2, (0.0,))] == [(), (), (0,)]
    few = BestFew(2)
    assert [few.offer(0, (2.0,)), few.offer(1, (1.0,)), few.offer(0, (1.0,)), few.offer(2, (0.0,))] == [(), (), (), (0,)]


def test_an_equal_report_displaces_nothing() -> None:
    few = BestFew(1)
    assert few.offer(3, (1.0,)) == ()
    assert few.offer(4, (1.0,)) is None
    assert few.offer(3, (1.0,)) is None
    assert few.offer(4, (0.5,)) == (3,)
    assert few.offer(4, (0.25,)) == ()


def test_of_two_equally_bad_the_later_trial_goes() -> None:
    few = BestFew(2)
    few.offer(1, (1.0,))
    few.offer(2, (1.0,))
    assert few.offer(0, (0.0,)) == (2,)


def test_nothing_is_kept_where_nothing_is_to_be_kept() -> None:
    assert BestFew(0).offer(0, (-1.0,)) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 4)), max_size=40))
def test_what_is_kept_is_the_whole_front_of_all_reports_each_with_the_trial_that_made_it_first(made: list[tuple[int, int, int]]) -> None:
    front = Front()
    first: dict[tuple[float, ...], int] = {}        # all reports so far
    kept: dict[tuple[float, ...], int] = {}
    for trial, a, b in made:
        values = (float(a), float(b))
        out = front.offer(trial, values)
        first.setdefault(values, trial)
        before = set(kept.values())
        kept = {other: whose for other, whose in first.items() if not any(dominates(better, other) for better in first)}
        if out is None:
            assert any(dominates(other, values) or other == values for other in kept)
        else:
            assert kept[values] == trial and len(out) == len(set(out)) and set(out) == before - set(kept.values())
        assert front._front == kept


def test_every_report_of_a_trial_that_is_on_the_front_is_kept() -> None:
    front = Front()
    assert front.offer(0, (1.0, 5.0)) == ()
    assert front.offer(0, (5.0, 1.0)) == ()
    assert front.offer(1, (5.0, 1.0)) is None
    assert front.offer(1, (4.0, 1.0)) == ()         # (1, 5) of trial 0 is there still
    assert front.offer(1, (1.0, 4.0)) == (0,)


def test_dominates() -> None:
    assert dominates((1, 1), (1, 2)) and dominates((0, 0), (1, 1))
    assert not dominates((1, 1), (1, 1)) and not dominates((0, 2), (1, 1)) and not dominates((1, 2), (1, 1))

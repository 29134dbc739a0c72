"""Where new trials lie: one test per law. How a study uses them: test_study.py."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

import torchtune_hp as hp
from torchtune_hp.errors import SpaceError
from torchtune_hp.searchers import GridSearch, RandomSearch
from torchtune_hp.seeds import derive
from torchtune_hp.space import Space, choice, grid_search, sample_from, uniform
from torchtune_hp.supply import BLOCK, UNLIMITED, Point, Supply, check_own
from torchtune_hp.trial import Setting

SPACE = Space({"a": uniform(0.0, 1.0), "b": choice([1, 2, 3])})
ROWS = [{"a": float(i), "b": i} for i in range(6)]
OWN = [{"a": 0.25, "b": 3}, {"a": 0.75, "b": 1}]


class Asked(RandomSearch):
    def __init__(self, adaptive: bool) -> None:
        super().__init__()
        self.adaptive = adaptive
        self.asked: list[tuple[int, int, list[list[float]]]] = []

    def ask(self, n: int, *, pending: torch.Tensor, index: int, seed: int) -> torch.Tensor:
        assert seed == derive(self.setting.seed, "searcher") and pending.shape[1:] == (2,)
        self.asked.append((n, index, pending.tolist()))
        return super().ask(n, pending=pending, index=index, seed=seed)


def supply(searcher: Any = None, space: Space = SPACE, own: Any = (), seed: int = 0) -> Supply:
    setting = Setting(space.dims, space.feasible, seed=seed, rows=space.rows)
    searcher = searcher or RandomSearch()
    searcher.begin(setting)
    return Supply(space, searcher, setting, own)


def take(source: Supply, n: int, running: Any = ()) -> list[Point]:
    return list(source.points(n, source.left(None), running))


def test_own_points_come_first_then_the_searchers_from_its_first_on() -> None:
    source, plain = supply(own=OWN), supply()
    assert [config for _, config, _ in take(source, 1)] == OWN[:1]
    points = take(source, 3)
    assert points[0][1] == OWN[1] and points[1:] == take(plain, 2)
    assert take(source, 5) == take(plain, 5) and source.made == 9


def test_what_is_left_counts_own_points_on_top_but_for_rows() -> None:
    assert supply().left(None) == UNLIMITED and supply().left(7) == 7
    grid = supply(GridSearch(), Space({"b": grid_search([1, 2, 3])}), own=[{"b": 2}])
    assert (grid.left(None), grid.left(2)) == (4, 2)
    take(grid, 3)
    assert (grid.left(None), grid.left(2)) == (1, 0)
    assert supply(space=Space.from_rows(ROWS), own=ROWS[:2]).left(None) == 6


def test_no_row_comes_twice_however_they_are_taken() -> None:
    space = Space.from_rows(ROWS)
    order = [config for _, config, _ in take(supply(space=space), 6)]
    expected = [ROWS[4], ROWS[2]] + [row for row in order if row not in (ROWS[4], ROWS[2])]
    for sizes in ([6], [1] * 6, [3, 3], [2, 4]):
        source = supply(space=space, own=[ROWS[4], ROWS[2]])
        assert [config for n in sizes for _, config, _ in take(source, n)] == expected
        assert source.left(None) == 0


def test_own_points_that_would_not_be_tried_as_they_are_or_once_are_refused_by_number() -> None:
    space = Space.from_rows(ROWS)
    check_own(space, [ROWS[4], ROWS[2]])
    with pytest.raises(SpaceError, match=r"points\[2\]: each row is tried once, but points\[0\] is that row, \{'a': 4.0, 'b': 4\}. Leave"):
        check_own(space, [ROWS[4], ROWS[2], ROWS[4]])
    with pytest.raises(SpaceError, match=r"^points\[1\]: b: 7 is not a value of choice"):
        check_own(SPACE, [OWN[0], {"a": 0.5, "b": 7}, {}])
    check_own(SPACE, [OWN[0], OWN[0]])          # elsewhere a point may be tried twice, for its noise, say
    space = Space({"a": uniform(0.0, 1.0), "b": choice([1, 2, 3])}, constraints=[lambda config: config["a"] < 0.5])
    with pytest.raises(SpaceError, match=r"points\[1\]: .* constraints, but \{'a': 0.75, 'b': 1\} does not"):
        check_own(space, OWN)
    drawn = sample_from(lambda config: 1)
    space = Space({"z": drawn, "m": choice({"one": {"z": drawn, "a": uniform(0.0, 1.0)}, "two": {"n": {"z": drawn}}})})
    fine = [{"m": {"name": "one", "a": 0.5}}, {"m": {"name": "two", "n": {}}}]
    check_own(space, fine)
    for wrong, names in (
        ({"z": 1, "m": {"name": "one", "a": 0.5, "z": 2}}, r"\['z', 'm.one.z'\]"),
        ({"m": {"name": "two", "n": {"z": None}}}, r"\['m.two.n.z'\]"),
    ):
        with pytest.raises(SpaceError, match=rf"points\[2\]: .*sample_from.* but it holds {names}.*Leave"):
            check_own(space, [*fine, wrong])


@pytest.mark.parametrize("points", [[ROWS[1], ROWS[1]], [{"a": 1.5, "b": 1}]])
def test_a_tuner_and_ask_and_tell_refuse_such_points(points: Any) -> None:
    arguments: dict[str, Any] = {"metric": "y", "mode": "min", "points": points}
    with pytest.raises(SpaceError, match=r"points|config"):
        hp.AskTell(Space.from_rows(ROWS), **arguments)
    with pytest.raises(hp.ConfigurationError, match=r"points"):
        hp.Tuner(lambda config: None, Space.from_rows(ROWS), storage=None, **arguments)


def test_one_that_learns_is_asked_for_what_is_needed_beside_what_runs() -> None:
    learner = Asked(adaptive=True)
    source = supply(learner, own=OWN)
    take(source, 2)
    assert learner.asked == []
    take(source, 3, ((0.5, 0.5), (0.25, 0.75)))
    take(source, 1)
    assert learner.asked == [(3, 0, [[0.5, 0.5], [0.25, 0.75]]), (1, 3, [])]


def test_one_that_learns_knows_of_own_points_that_are_handed_out_beside_its_own() -> None:
    learner = Asked(adaptive=True)
    take(supply(learner, own=OWN), 4, ((0.5, 0.5),))
    assert learner.asked == [(2, 0, [[0.5, 0.5], *SPACE.canonical(SPACE.encode(OWN)).tolist()])]
    rows = Space.from_rows(ROWS)
    points = take(supply(hp.GPSearch(), rows, own=ROWS[:2]), 6)
    assert sorted(config["b"] for _, config, _ in points) == [0, 1, 2, 3, 4, 5]


def test_one_that_does_not_is_asked_for_blocks_which_changes_no_point() -> None:
    searcher = Asked(adaptive=False)
    source = supply(searcher)
    points = [point for n in (1, BLOCK, 2, 3000) for point in take(source, n)]
    assert searcher.asked == [(BLOCK, 0, []), (BLOCK, BLOCK, []), (3000 - BLOCK + 3, 2 * BLOCK, [])]
    assert points == take(supply(), len(points))


def test_a_fork_lies_at_the_canonical_point_and_is_not_counted() -> None:
    source = supply()
    x, config, _ = source.fork((0.3, 0.5))
    assert torch.equal(SPACE.encode([config]), torch.tensor([x], dtype=torch.float64)) and source.made == 0


def test_a_seed_and_what_is_drawn_under_it_depend_on_the_trials_id() -> None:
    space = Space({"a": uniform(0.0, 1.0), "c": sample_from(lambda config: random.random())})
    source = supply(space=space, seed=5)
    (point,) = take(source, 1)
    one, other = source.trial(3, point, 2, None), source.trial(4, point, 0, 1)
    assert (one.id, one.seed, one.tag, one.parent) == (3, derive(5, "trial", 3), 2, None)
    assert one.x == other.x == point[0] and one.config["c"] != other.config["c"]
    assert source.trial(3, point, 2, None).config == one.config


@pytest.mark.parametrize("adaptive", [False, True])
def test_recorded_trials_stand_in_and_points_go_on_as_if_the_searcher_had_been_asked(adaptive: bool) -> None:
    one, searcher = supply(Asked(adaptive), own=OWN), Asked(adaptive)
    other = supply(searcher, own=OWN)
    trials = [one.trial(id, point, 0, None) for id, point in enumerate(take(one, 5))]
    other.recorded = iter(trials)
    points = other.points(4, 9, ())
    assert [other.trial(id, next(points), 0, None) for id in range(4)] == trials[:4]
    assert other.fork((0.0, 0.0)) == (trials[4].x, trials[4].config, trials[4].seed)
    other.recorded = None
    assert searcher.asked == [] and other.made == 4
    assert take(other, 3)[1:] == take(one, 2)

"""When a finite space is used up: one test per law."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

import torchtune_hp as hp
from torchtune_hp import tried
from torchtune_hp.objective import Objective
from torchtune_hp.schedulers import FullRuns
from torchtune_hp.searchers import RandomSearch
from torchtune_hp.space import Space
from torchtune_hp.study import Study
from torchtune_hp.trial import Drop, Launch, Limits, Note, Reached, Setting
from torchtune_hp.tried import ASKED, MOST, Tried, every_point, size_of, watched

SIX = {"a": hp.choice([1, 2, 3]), "b": hp.quniform(0.0, 1.0, 1.0)}
BRANCHES = {
    "net": hp.choice({"mlp": {"width": hp.choice([8, 16]), "deep": hp.choice({"yes": {"depth": hp.randint(2, 5)}, "no": {}})}, "cnn": {}}),
    "wd": hp.ordinal([0, 1]),
}
SPACES: list[tuple[dict[str, Any], int]] = [
    (SIX, 6), (BRANCHES, 2 * (2 * (3 + 1) + 1)), ({"a": hp.lograndint(1, 100), "b": hp.qrandint(0, 10, 5)}, 99 * 3),
    ({"a": hp.mapped(hp.choice([1, 2]), lambda k: k + 1, lambda k: k - 1), "m": {"b": hp.grid_search([1, 2])}, "c": 3}, 4),
]  # fmt: skip


def points(space: Space, n: int) -> list[tuple[float, ...]]:
    x = torch.rand(n, len(space.dims), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return [*map(tuple, space.canonical(x).tolist())]


@pytest.mark.parametrize(("spec", "size"), SPACES)
def test_the_points_of_a_finite_space_are_those_that_trials_can_have(spec: dict[str, Any], size: int) -> None:
    space = Space(spec)
    found = every_point(space)
    assert size_of(space.dims) == len(found) == size and watched(space)
    assert found == set(points(space, 5_000)) and len({repr(config) for config in space.decode(torch.tensor(sorted(found)))}) == size


def test_a_point_that_violates_a_constraint_is_none() -> None:
    space = Space(SIX, constraints=[lambda config: config["a"] != 2])
    assert len(every_point(space)) == 4 and size_of(space.dims) == 6


def test_what_has_no_end_or_too_many_points_or_rows_or_draws_of_its_own_is_not_watched() -> None:
    endless = {"net": hp.choice({"mlp": {"lr": hp.uniform(0.0, 1.0)}, "cnn": {}})}
    drawn = SIX | {"s": hp.sample_from(lambda config: 1)}
    for spec in (SIX | {"lr": hp.uniform(0.0, 1.0)}, endless, drawn, {"a": hp.randint(0, MOST + 1)}):
        assert not watched(Space(spec))
    assert size_of(Space(endless).dims) is None and not watched(Space.from_rows([{"a": 1}, {"a": 2}]))
    assert watched(Space({"a": hp.randint(0, MOST)}))
    for size in (ASKED, ASKED + 1):
        assert watched(Space({"a": hp.randint(0, size)}, constraints=[lambda config: True])) == (size == ASKED)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=40))
def test_it_is_said_with_the_first_trial_that_repeats_when_none_is_left(order: list[int]) -> None:
    space = Space(SIX)
    all_of_them, watch = sorted(every_point(space)), Tried(space)
    used_up = [trial for trial in range(len(order)) if set(order[:trial]) == set(range(6))]
    for trial, k in enumerate(order):
        said = watch.add(trial, all_of_them[k])
        assert (said is not None) == (trial in used_up)
        if trial in used_up[:1]:
            assert said == (f"each of the space's 6 configs was tried: from trial {trial} on they repeat, under other seeds. "
                            "hp.GridSearch() tries each once, and ends")  # fmt: skip


def test_where_a_constraint_raises_on_what_nobody_drew_nothing_is_said() -> None:
    asked: list[int] = []
    space = Space({"a": hp.choice([1, 2, 3])}, constraints=[lambda config: config["a"] < 3 or not asked or 1 / 0 > 0])
    good = [*map(tuple, space.encode([{"a": 1}, {"a": 2}]).tolist())]
    asked.append(1)
    watch = Tried(space)
    assert [watch.add(trial, x) for trial, x in enumerate(good * 3)] == [None] * 6


def test_constraints_are_asked_about_all_points_once_and_not_before_one_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(tried, "every_point", lambda space: asked.append(1) or every_point(space))
    watch, all_of_them = Tried(space := Space(SIX)), sorted(every_point(Space(SIX)))
    for trial, k in enumerate([0, 1, 2, 3]):
        assert watch.add(trial, all_of_them[k]) is None and asked == []
    for trial, k in enumerate([0, 4, 1, 5, 1]):
        watch.add(4 + trial, all_of_them[k])
    assert asked == [1] and space.rows is None


def study(**given: Any) -> Study:
    space = Space(SIX)
    setting = Setting(space.dims, space.feasible)
    return Study(space, RandomSearch(), FullRuns(1), Objective("loss", "min"), setting, **given)


def played(one: Study, turns: int) -> tuple[list[Any], list[Note]]:
    """Turns of one trial each, and what was said."""
    events: tuple[Any, ...] = ()
    journal, notes = [], list[Note]()
    for turn in range(turns):
        commands = one.step(events, Limits(1))
        notes += one.notes()
        journal.append((events, Limits(1), commands))
        (launch,) = (command for command in commands if isinstance(command, Launch))
        events = (Reached(launch.trial.id, 1, {"loss": 1.0}, float(turn)),)
    return journal, notes


def test_a_study_says_it_once_and_its_replay_the_same() -> None:
    journal, notes = played(study(), 60)
    trials = [command.trial.x for _, _, commands in journal for command in commands if isinstance(command, Launch)]
    first = next(n for n in itertools.count(1) if len(set(trials[:n])) == 6)
    (note,) = notes
    assert note.kind == "space" and f"from trial {first} on they repeat" in note.text
    again = study()
    for turn in journal:
        again.replay(*turn)
    assert [each.text for each in again.notes()] == [note.text] and again.notes() == []


def test_own_points_count_and_what_is_only_trained_or_dropped_does_not() -> None:
    own = Space(SIX).decode(torch.tensor(sorted(every_point(Space(SIX)))))
    journal, notes = played(study(points=own), 8)
    assert [note.text[:61] for note in notes] == ["each of the space's 6 configs was tried: from trial 6 on they"]
    assert any(isinstance(command, Drop) for _, _, commands in journal for command in commands)


@pytest.mark.parametrize("searcher", [hp.RandomSearch(), hp.SobolSearch(), hp.GPSearch(startup=2)])
def test_the_log_has_it_once_whichever_searcher_repeats_also_after_a_resume(searcher: Any, tmp_path: Path) -> None:
    def said(results: hp.Results) -> list[str]:
        return [note.text for note in results.log if "they repeat" in note.text]

    given = {"metric": "loss", "mode": "min", "executor": hp.Simulated(2, curve=lambda config, step: {"loss": config["a"] + config["b"]})}
    few = {"a": hp.quniform(0.0, 1.0, 1.0), "b": hp.quniform(0.0, 1.0, 1.0)}       # floats alone, which are packed
    tuner = hp.Tuner(None, few, searcher=searcher, scheduler=hp.FullRuns(1), trials=30, storage=tmp_path, name="few", verbose=0, **given)
    with tuner.fit() as results:
        xs = [tuple(result.config.values()) for result in results]
        first = next(n for n in itertools.count(1) if len(set(xs[:n])) == 4)
        assert said(results) == [f"each of the space's 4 configs was tried: from trial {first} on they repeat, under other seeds. "
                                 "hp.GridSearch() tries each once, and ends"]  # fmt: skip
    with hp.Tuner.resume(tmp_path / "few", executor=given["executor"], trials="+4", verbose=0).fit() as results:
        assert len(said(results)) == 1 and len(results) == 34


def test_a_grid_ends_and_says_nothing() -> None:
    executor = hp.Simulated(2, curve=lambda config, step: {"loss": config["a"]})
    given = {"metric": "loss", "mode": "min", "executor": executor, "storage": None, "verbose": 0}
    results = hp.tune(None, SIX, searcher=hp.GridSearch(), scheduler=hp.FullRuns(1), **given)
    assert len(results) == 6 and not any("repeat" in note.text for note in results.log)
    results = hp.tune(None, SIX, searcher=hp.GridSearch(), scheduler=hp.FullRuns(1), points=[results[5].config], **given)
    assert len(results) == 7 and not any("repeat" in note.text for note in results.log), "the own point is extra"


def test_who_searches_a_part_of_it_by_grid_is_not_sent_to_a_grid_of_that_part() -> None:
    executor = hp.Simulated(2, curve=lambda config, step: {"loss": config["a"]})
    space = {"a": hp.grid_search([1, 2]), "b": hp.choice([1, 2])}
    given = {"metric": "loss", "mode": "min", "executor": executor, "storage": None, "verbose": 0, "trials": 40}
    results = hp.tune(None, space, searcher=hp.RandomSearch(), scheduler=hp.FullRuns(1), **given)
    (said,) = [note.text for note in results.log if "repeat" in note.text]
    assert "each of the space's 4 configs was tried" in said and "GridSearch" not in said

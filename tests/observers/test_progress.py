"""Progress: what is counted, how it reads, and that nothing a trial says can move the cursor."""

from __future__ import annotations

import io
import math
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from torchtune_hp.journal import Journal
from torchtune_hp.objective import Objective
from torchtune_hp.observers import picture, progress
from torchtune_hp.observers.base import StudyInfo
from torchtune_hp.observers.progress import Progress
from torchtune_hp.observers.tally import RUNGS, TOP, Tally
from torchtune_hp.observers.wording import clock, columns, counted, flat, inert, named, number, padded, width_of
from torchtune_hp.results import Results
from torchtune_hp.trial import Drop, Failed, Keep, Launch, Limits, Note, Reached, Standing, Train, Trial

NASTY = "a\x1b[2J\x1b]0;t\x07[red]b\n\u202ec\r"


# Words ----------------------------------------------------------------------------------------------------------------------


def test_what_is_inert_is_printable_on_one_line_and_keeps_brackets() -> None:
    assert inert(NASTY) == "a?[2J?]0;t?[red]b??c?"
    assert inert("é日本[x]") == "é日本[x]" and inert(3) == "3"


@pytest.mark.parametrize("width, text", [(None, "abcdef"), (6, "abcdef"), (5, "abc.."), (2, ".."), (1, "."), (0, "")])
def test_what_is_too_long_is_cut(width: int | None, text: str) -> None:
    assert inert("abcdef", width) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (0.97123, "0.9712"), (1.0, "1"), (0.0, "0"), (-2.0, "-2"),
        (1234567.0, "1.235e+06"), (999999.0, "999999"), (1e6, "1e+06"), (0.99996, "0.99996"), (0.9999999, "0.9999999"),
        (1 - 1e-13, "0.9999999999999"),
        (1e-5, "1e-05"), (12345.678, "1.235e+04"), (999.99, "999.99"), (1234.0, "1234"),
        (5, "5"), (10**9, "1000000000"), (True, "True"), (None, "None"), ("[b]", "[b]"),
    ],
)  # fmt: skip
def test_a_number_is_short_and_never_reads_as_a_whole_one_it_is_not(value: object, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "00:00"), (-5, "00:00"), (75.9, "01:15"), (3599, "59:59"), (3600, "1:00:00"), (86399, "23:59:59"), (90061, "1d 01:01:01"),
        (math.inf, "?"), (math.nan, "?"),
    ],
)  # fmt: skip
def test_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_small_words() -> None:
    assert flat({"a": 1, "m": {"w": {"z": 2}, "e": {}}}) == {"a": 1, "m.w.z": 2, "m.e": {}}
    assert counted({"x": 2, "y": 0, "\x1b": 1}) == "2 x, 1 ?" and counted({}, "none") == "none"
    assert (width_of("ab"), width_of("日本"), width_of("e\u0301")) == (2, 4, 1)
    assert padded("日", 4) + "|" == "日  |" and padded("7", 3, right=True) == "  7"
    assert named([("a", "1"), ("long", "")]) == ["  a     1", "  long"] and named([]) == []


def test_columns_stand_under_each_other_numbers_at_the_right() -> None:
    assert columns(["name", "n"], [["a", "5"], ["bcdef", "100"]]) == ["name     n", "a        5", "bcdef  100"]
    assert columns(["n", "s"], []) == ["n  s"]


def test_columns_that_do_not_fit_are_left_out_and_counted() -> None:
    head, rows = ["aaaa", "bbbb", "cccc"], [["1", "2", "3"]]
    assert columns(head, rows, 16) == ["aaaa  bbbb  cccc", "   1     2     3"]
    assert columns(head, rows, 15) == ["aaaa  bbbb  +1", "   1     2"]
    assert columns(head, rows, 14) == ["aaaa  +2", "   1"]
    assert columns(head, rows, 3) == ["aaaa  +2", "   1"]


def test_columns_remember_their_widths() -> None:
    widths = {"#": 2}
    columns(["#", "x"], [["1", "12345"]], widths=widths)
    assert widths == {"#": 2, "x": 5} and columns(["#", "x"], [["1", "1"]], widths=widths) == [" #      x", " 1      1"]


# Counts ---------------------------------------------------------------------------------------------------------------------


def info(metric: Any = "a", mode: Any = "max", **more: Any) -> StudyInfo:
    fields: dict[str, Any] = {"limits": Limits(4, trials=10), "max_t": 9, "folder": None}
    parts = {"scheduler": {"type": "x:ASHA", "args": {"max_t": 9}}, "searcher": {"type": "x:RandomSearch", "args": {}}}
    header = {"trainable": {"name": "train"}, **parts}
    return StudyInfo(**{"name": "s", "objective": Objective(metric, mode), "header": header, **fields, **more})


def trial(id: int, parent: int | None = None, **config: Any) -> Trial:
    return Trial(id, (0.5,), config or {"lr": id / 8}, id, parent=parent)


def look(id: int, step: int, a: float = 0.5, done: bool = False, **more: Any) -> Reached:
    return Reached(id, step, {"a": a, **more}, float(step), done)


def told(about: StudyInfo, *turns: tuple[list[Any], list[Any]]) -> Tally:
    tally = Tally(about)
    for events, commands in turns:
        tally.add(events, commands)
    return tally


def start(n: int) -> tuple[list[Any], list[Any]]:
    return [], [Launch(trial(id), 1) for id in range(n)]


def test_trials_are_counted_where_they_stand() -> None:
    tally = told(info(), start(4))
    assert (tally.made, tally.running, tally.resting, tally.over) == (4, 4, 0, 0)
    tally.add([look(0, 1), look(1, 1), look(2, 1, done=True), Failed(3, 1, "oom", "no", 7.0)], [Train(0, 3), Drop(2), Drop(3)])
    assert (tally.made, tally.running, tally.resting, tally.over) == (4, 1, 1, 2)
    assert tally.ended == {"completed": 1, "failed": 1} and tally.kinds == {"oom": 1}
    assert (tally.reports, tally.steps, tally.seconds) == (3, 3, 7.0)


def test_of_equal_reports_the_earlier_turns_is_ahead_and_within_a_turn_the_smaller_trials() -> None:
    n = TOP + 2
    tally = told(info(), start(n), ([look(5, 1), look(3, 1)], []), ([look(id, 1) for id in reversed(range(n)) if id not in (3, 5)], []))
    assert tally.best is not None and tally.best.trial == 3
    assert list(tally.top) == [3, 5, 0, 1, 2, 4, 6, 7, 8, 9], "as results.top says"


def test_a_dropped_trial_is_stopped_unless_it_had_the_full_budget_or_was_not_finite() -> None:
    tally = told(info(), start(4), ([look(0, 8), look(1, 9), look(2, 1, math.nan), look(3, 2, math.inf)], [Drop(id) for id in range(4)]))
    assert tally.ended == {"stopped": 1, "completed": 1, "failed": 2} and tally.kinds == {"diverged": 2}
    assert tally.best is not None and tally.best.trial == 0


def test_a_fork_is_no_trial_of_the_searcher_and_starts_where_its_parent_stood() -> None:
    tally = told(info(), start(1), ([look(0, 4)], [Launch(trial(1, parent=0), 5), Train(0, 5)]), ([look(1, 5)], [Train(1, 6)]))
    assert (tally.made, tally.running, tally.steps) == (1, 2, 5)
    assert told(info(), ([], [Launch(trial(1, parent=99), 5)])).running == 1


def test_the_best_is_the_earliest_of_equals_in_the_users_direction() -> None:
    tally = told(info(), start(3), ([look(0, 1, 0.25), look(1, 1, 0.75)], []), ([look(2, 1, 0.75)], []))
    assert tally.best is not None and (tally.best.trial, tally.best.step, tally.best.metrics["a"]) == (1, 1, 0.75)
    low = told(info(mode="min"), start(3), ([look(0, 1, 0.25), look(1, 1, 0.75)], []))
    assert low.best is not None and low.best.trial == 0


def test_a_trial_stands_among_the_top_once_with_its_best_report() -> None:
    tally = told(info(), start(2), ([look(0, 1, 0.5)], [Train(0, 2)]), ([look(0, 2, 0.75)], [Train(0, 3)]), ([look(0, 3, 0.25)], []))
    assert [(row.trial, row.step, row.value) for row in tally.top.values()] == [(0, 2, -0.75)]


def test_only_the_top_is_remembered_however_many_trials_there_are() -> None:
    tally = told(info(), start(40))
    for id in range(40):
        tally.add([look(id, 1, (id * 7 % 40) / 40)], [Drop(id)])
    assert sorted(row.value for row in tally.top.values()) == [-(40 - k) / 40 for k in range(1, TOP + 1)]
    assert len(tally._live) == 0


def test_a_report_that_violates_a_constraint_is_not_among_the_top() -> None:
    bound = info(objective=Objective("a", "max", ["size <= 5"]))
    tally = told(bound, start(2), ([look(0, 1, 0.9, size=6), look(1, 1, 0.1, size=5)], []))
    assert list(tally.top) == [1]


def test_rungs_are_budgets_at_which_trials_came_to_rest() -> None:
    tally = told(info(), start(4), ([look(id, 1) for id in range(4)], [Train(0, 2), Drop(3)]))
    assert tally.rungs == []                                            # one level is no ladder
    tally.add([look(0, 2)], [Train(0, 3)])                              # a look in the middle of a grant
    tally.add([look(0, 3)], [Train(1, 2)])
    assert tally.rungs == [(1, 4), (3, 1)]
    tally.add([look(1, 2, math.nan)], [Drop(1)])
    tally.add([], [Train(2, 5)])
    tally.add([look(2, 5, done=True)], [Drop(2)])
    assert tally.rungs == [(1, 4), (3, 2)]                              # neither a failure nor an end of its own makes a rung


def test_many_different_ends_are_no_rungs() -> None:
    tally = told(info(max_t=None), start(RUNGS + 1))
    for id in range(RUNGS):
        tally.add([look(id, id + 1)], [Drop(id)])
    assert len(tally.rungs) == RUNGS
    tally.add([look(RUNGS, RUNGS + 1)], [Drop(RUNGS)])
    assert tally.rungs == []


def test_the_front_is_what_the_study_keeps() -> None:
    two = info(["a", "b"], ["max", "min"])
    tally = told(two, start(3), ([look(0, 1, 0.5, b=5), look(1, 1, 0.9, b=9)], [Keep(0), Keep(1), Train(0, 2), Train(1, 2)]))
    assert sorted(tally.front) == [0, 1] and tally.best is None and tally.top == {}
    tally.add([look(2, 1, 0.95, b=1)], [Keep(2, (0, 1))])
    assert list(tally.front) == [2] and tally.front[2].metrics["b"] == 1
    tally.add([], [Keep(7)])                                            # of a trial that was not heard of in this turn
    assert list(tally.front) == [2]


def test_notes_are_counted_by_kind_and_events_of_unknown_trials_harm_nothing() -> None:
    tally = told(info(), ([Note("choice", "x"), Note("choice", "y"), look(9, 1), Failed(8, 1, "error", "", 0.0)], [Drop(7)]))
    assert tally.notes == {"choice": 2} and tally.ended == {}


def test_a_resumed_study_counts_what_was_before() -> None:
    turns: list[tuple[list[Any], list[Any]]] = [
        start(6),
        (
            [look(0, 1, 0.1), look(1, 3, 0.9), look(2, 9, 0.5), look(3, 1, math.nan), Failed(4, 1, "error", "E", 1.0)],
            [Train(1, 9), Drop(2), Drop(3), Drop(4)],
        ),
    ]
    results = journaled(info(), turns)
    standing = Standing(since={1: 0, 5: 0}, live=((trial(0), 1), (trial(1), 3), (trial(5), 0)), seconds=30.0)
    tally = Tally(info(before=6, standing=standing, earlier=results))
    assert (tally.made, tally.running, tally.resting, tally.seconds) == (6, 2, 1, 30.0)
    assert tally.ended == {"completed": 1, "failed": 2} and tally.kinds == {"diverged": 1, "error": 1} and tally.over == 0
    assert tally.best is not None and (tally.best.trial, tally.best.step, tally.best.metrics["a"]) == (1, 3, 0.9)
    assert sorted(tally.top) == [0, 1, 2]
    assert tally.rungs == [(1, 4), (9, 1)]      # a trial whose metric was nan came to 1 too
    tally.add([look(1, 9, 0.8)], [Drop(1)])
    assert tally.best.step == 3 and tally.ended["completed"] == 2 and tally.rungs == [(1, 4), (9, 2)]


def test_a_resumed_study_of_several_objectives_knows_its_front() -> None:
    two = info(["a", "b"], ["max", "min"])
    results = journaled(two, [start(3), ([look(0, 1, 0.5, b=5), look(1, 1, 0.9, b=9), look(2, 1, 0.4, b=6)], [])])
    tally = Tally(info(["a", "b"], ["max", "min"], before=3, earlier=results))
    assert sorted(tally.front) == [0, 1]


def journaled(about: StudyInfo, turns: list[tuple[list[Any], list[Any]]], folder: Path | None = None) -> Results:
    goal = {"metric": list(about.objective.metrics), "mode": list(about.objective.modes)}
    journal = Journal.create(folder, {"name": about.name, "seed": 0, "max_t": about.max_t, **goal})
    for events, commands in turns:
        journal.append(events, about.limits, commands)
    return Results(journal)


# The picture ----------------------------------------------------------------------------------------------------------------


def drawn(about: StudyInfo, tally: Tally, seconds: float = 10.0, width: int = 80, height: int = 40) -> list[str]:
    text = picture.picture(about, tally, picture.pace(about, tally, seconds), width, height, {})
    return [line.rstrip() for line in text.plain.split("\n")]


def test_the_picture_of_a_study() -> None:
    tally = told(
        info(), start(4),
        ([look(0, 1, 0.5), look(1, 1, 0.75), look(2, 1, math.nan), look(3, 1, 0.1)], [Train(1, 3), Drop(2)]),
        ([look(1, 3, 0.97123), Note("choice", "x")], [Drop(3)]),
    )  # fmt: skip
    assert drawn(info(), tally) == [
        "s  train, a max, ASHA, RandomSearch                            00:10  left 00:15",
        "best    0.9712  trial 1, step 3   lr=0.125",
        "trials  4/10  2 resting, 1 stopped, 1 failed (1 diverged)",
        "rungs   1: 4  3: 1",
        "rate    12 trials/min, 30 reports/min",
        "notes   1 choice",
        "",
        "#  trial  step       a     lr",
        "1      1     3  0.9712  0.125",
        "2      0     1     0.5      0",
        "3      3     1     0.1  0.375",
    ]


def test_the_picture_says_how_many_trials_share_a_stack() -> None:
    line = "6.4 trials per stack (last 32 in 5, 3 one by one)"
    tally = told(info(), start(4), ([Note("stacks", "1 trials per stack (last 4 in 4)"), Note("stacks", line)], []))
    assert f"stacks  {line}" in drawn(info(), tally, width=60) and not any("notes" in each for each in drawn(info(), tally))
    assert all(len(each) <= 40 for each in drawn(info(), tally, width=40))


def test_the_picture_of_a_study_that_has_nothing_yet() -> None:
    empty = info(limits=Limits(1), header={})
    assert drawn(empty, Tally(empty), 0.0) == [
        "s  a max                                                                   00:00",
        "best    none yet",
        "trials  0",
        "rate    0 trials/s, 0 reports/s",
    ]


def test_the_picture_says_how_far_the_reading_of_a_data_set_has_come() -> None:
    empty = info(limits=Limits(1), header={})
    text = picture.picture(empty, Tally(empty), picture.Pace(0.0), 80, 40, {}, picture.Loading(NASTY, 12032, 50000))
    assert text.plain.split("\n")[-1].rstrip() == "loading a?[2J?]0;t?[red]b??c?  12,032 of 50,000 samples"


def test_the_picture_of_several_objectives_shows_the_front_and_its_ends() -> None:
    two = info(["a", "b"], ["max", "min"])
    tally = told(two, start(3), ([look(0, 1, 0.5, b=5), look(1, 1, 0.9, b=9)], [Keep(0), Keep(1)]))
    lines = drawn(two, tally)
    assert lines[1:4] == ["front   2 trials", "        a 0.9  trial 1, step 1", "        b 5  trial 0, step 1"]
    assert lines[-3:] == ["#  trial  step    a  b     lr", "1      1     1  0.9  9  0.125", "2      0     1  0.5  5      0"]
    assert "1 trial" in drawn(two, told(two, start(1), ([look(0, 1, b=1)], [Keep(0)])))[1]


def test_the_picture_is_never_more_than_twenty_lines_nor_wider_or_higher_than_the_terminal() -> None:
    wide = {f"parameter_{i}": i / 3 for i in range(20)}
    tally = told(info(), ([], [Launch(trial(id, **wide), 1) for id in range(12)]), ([look(id, 1, id / 16) for id in range(12)], []))
    assert len(drawn(info(), tally)) == 6 + TOP
    for width in (20, 40, 80, 120):
        for height in (1, 2, 5, 8, 12, 20, 60):
            lines = drawn(info(), tally, width=width, height=height)
            assert 1 <= len(lines) <= max(1, min(20, height - 1)) and all(len(line) <= width for line in lines)
    crowd = info([f"m{i}" for i in range(30)], "min")
    one = told(crowd, start(1), ([Reached(0, 1, {f"m{i}": i for i in range(30)}, 0.0)], [Keep(0)]))
    assert len(drawn(crowd, one)) == 20


def test_nothing_in_the_picture_is_markup_or_an_escape_code() -> None:
    nasty = info(NASTY, name=NASTY, header={"trainable": {"name": NASTY}, "scheduler": NASTY})
    config = {NASTY: NASTY, "m": {NASTY: [NASTY]}}
    tally = told(nasty, ([], [Launch(trial(0, **config), 1)]), ([Reached(0, 1, {NASTY: 0.5}, 0.0), Note(NASTY, "")], []))
    text = picture.picture(nasty, tally, picture.pace(nasty, tally, 1.0), 200, 40, {})
    assert text.plain.replace("\n", "").isprintable() and "[red]" in text.plain
    assert {str(span.style) for span in text.spans} <= {"bold", "dim", "cyan", "bold green", ""}


@pytest.mark.parametrize(
    "rate, text",
    [
        (0.0, "0 x/s"), (3.14, "3.1 x/s"), (0.95, "0.95 x/s"), (0.5, "30 x/min"), (0.01, "36 x/h"), (24000.0, "24000 x/s"),
        (1e-6, "0.0036 x/h"),
    ],
)  # fmt: skip
def test_what_is_slow_is_counted_by_the_minute_or_hour(rate: float, text: str) -> None:
    assert picture.per(rate, "x") == text


def test_the_time_left_is_that_of_the_nearer_end() -> None:
    tally = told(info(), start(4), ([look(id, 1) for id in range(4)], [Train(0, 2)]))        # 3 of 10 through in 6 s
    assert picture.pace(info(), tally, 6.0) == picture.Pace(6.0, 0.0, 4 / 6, 14.0)
    timed = info(limits=Limits(4, trials=10, seconds=10.0))
    assert picture.pace(timed, tally, 6.0).left == 4.0 and picture.pace(timed, tally, 60.0).left == 0.0
    assert picture.pace(info(limits=Limits(4)), tally, 6.0).left is None
    assert picture.pace(info(), told(info(), start(2)), 6.0).left is None
    assert picture.pace(info(), tally, 0.0).left is None


def test_the_time_left_of_a_simulated_study_is_in_real_seconds() -> None:
    about = info(limits=Limits(4, seconds=1000.0))
    tally = told(about, start(1), ([Reached(0, 1, {"a": 1.0}, 250.0)], []))
    assert picture.pace(about, tally, 2.0).left == 6.0


def test_a_resumed_study_measures_its_own_session() -> None:
    standing = Standing(since={0: 0}, live=((trial(0), 1),), seconds=100.0)
    about = info(before=6, standing=standing, limits=Limits(4, trials=10, seconds=150.0))
    tally = told(about, ([], [Launch(trial(6), 1), Launch(trial(7), 1), Launch(trial(8), 1)]), ([look(id, 2) for id in (0, 6, 7)], []))
    at = picture.pace(about, tally, 6.0)
    assert at.elapsed == 106.0 and at.left == 4.0            # 3 through in 6 s, 2 to go


# The observer ---------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_where_there_is_no_terminal_lines_come_sparingly() -> None:
    file, clock = io.StringIO(), Clock()
    one = Progress(file, clock)
    one.begin(info())
    assert file.getvalue() == "[s] train, a max, 0/10 trials, 00:00\n"

    def turn(at: float, *events: Any, commands: Any = ()) -> str:
        file.truncate(0), file.seek(0)
        clock.now = 100.0 + at
        one.told(list(events), list(commands))
        return file.getvalue()

    assert turn(1.9, commands=start(4)[1]) == ""
    assert turn(1.95, look(0, 1, 0.5)) == ""
    assert turn(2.0, look(1, 1, 0.25)) == "[s] 4/10 trials, best a 0.5 (trial 0, step 1), 2 running, 2 resting, 00:02\n"
    assert turn(11.9, look(2, 1, 0.1)) == ""                             # no news
    assert turn(12.0, commands=[Train(2, 2)]) == "[s] 4/10 trials, best a 0.5 (trial 0, step 1), 2 running, 2 resting, 00:12\n"
    assert turn(13.9, look(2, 2, 0.75)) == ""
    assert turn(14.0, commands=[Train(2, 3)]).startswith("[s] 4/10 trials, best a 0.75 (trial 2, step 2)")
    assert turn(23.9, look(2, 3, math.nan), look(3, 1)) == ""
    assert turn(24.0).endswith(", 4 resting, 00:24, left 00:36\n")


def test_lines_of_several_objectives_give_the_size_of_the_front() -> None:
    file, clock = io.StringIO(), Clock()
    one = Progress(file, clock)
    one.begin(info(["a", "b"], ["max", "min"]))
    one.told(*start(2))
    clock.now += 10
    one.told([look(0, 1, b=1)], [Keep(0)])
    assert file.getvalue().splitlines()[1] == "[s] 2/10 trials, 1 on the front, 1 running, 1 resting, 00:10"


def test_the_summary_says_what_came_of_it(tmp_path: Path) -> None:
    turns = [
        ([], [Launch(trial(0, lr=0.5, m={"w": 8}), 1), *(Launch(trial(id), 1) for id in (1, 2))]),
        ([look(0, 9, 0.97123), look(1, 1, math.nan), Failed(2, 1, "error", "E", 1.0), Note("choice", "x")], [Drop(0), Drop(1), Drop(2)]),
    ]
    about, file = info(folder=tmp_path / "s"), io.StringIO()
    one = Progress(file, Clock())
    one.begin(about)
    for turn in turns:
        one.told(*turn)
    with journaled(about, turns, tmp_path / "s") as results:
        one.end(results)
    assert file.getvalue().splitlines()[1:] == [
        "s: 3 trials in 00:00: 1 completed, 2 failed (1 diverged, 1 error)",
        "best a: 0.9712 (trial 0, step 9)",
        "  lr   0.5",
        "  m.w  8",
        "first failure: trial 1: DivergedError: a = nan at step 1 (results.errors has them all)",
        "notes: 1 choice",
        f"study: {tmp_path / 's'}",
    ]


def test_the_summary_of_a_study_without_a_result_says_so() -> None:
    for turns, line in (([], "s: 0 trials in 00:00: none ran"), ([start(1)], "s: 1 trials in 00:00: 1 running")):
        file = io.StringIO()
        one = Progress(file, Clock())
        one.begin(info())
        one.end(journaled(info(), turns))
        assert file.getvalue().splitlines()[1:] == [line, "best: none; no trial reported a value that can be compared"]


def test_the_summary_of_several_objectives_gives_the_front_and_its_ends() -> None:
    two, file = info(["a", "b"], ["max", "min"]), io.StringIO()
    turns = [start(3), ([look(0, 1, 0.5, b=5), look(1, 1, 0.9, b=9), look(2, 1, 0.4, b=6)], [])]
    one = Progress(file, Clock())
    one.begin(two)
    one.end(journaled(two, turns))
    assert file.getvalue().splitlines()[2:] == ["front: 2 trials", "  max a  0.9 (trial 1, step 1)", "  min b  5 (trial 0, step 1)"]
    empty = io.StringIO()
    one = Progress(empty, Clock())
    one.begin(two)
    one.end(journaled(two, []))
    assert empty.getvalue().splitlines()[2:] == ["front: 0 trials"]


def test_lines_and_summary_are_inert(tmp_path: Path) -> None:
    about, file, clock = info(NASTY, name=NASTY, header={"trainable": {"name": NASTY}}), io.StringIO(), Clock()
    turns = [([], [Launch(trial(0, **{NASTY: NASTY}), 1)]), ([Reached(0, 1, {NASTY: 1.0}, 0.0), Note(NASTY, NASTY)], [])]
    one = Progress(file, clock)
    one.begin(about)
    clock.now += 20
    for turn in turns:
        one.told(*turn)
    one.end(journaled(about, turns))
    assert all(line.isprintable() for line in file.getvalue().split("\n")) and "[red]" in file.getvalue()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "100"), ("LINES", "30")):
        monkeypatch.setenv(name, value)
    return Terminal()


def test_in_a_terminal_the_table_is_drawn_and_taken_away_again(terminal: Terminal) -> None:
    one = Progress(terminal, Clock())
    threads = set(threading.enumerate())
    one.begin(info())
    one.told(*start(2))
    one.told([look(0, 1, 0.75)], [])
    one._live.refresh()
    shown = terminal.getvalue()
    assert "0.75" in shown and "trial 0, step 1" in shown and "\x1b[?25l" in shown
    one.end(journaled(info(), [start(2), ([look(0, 1, 0.75)], [])]))
    after = terminal.getvalue()[len(shown) :]
    assert "\x1b[?25h" in after and "\x1b[2K" in after                    # the cursor is back, the lines are cleared
    assert after.endswith("best a: 0.75 (trial 0, step 1)\n  lr  0\n")
    assert one._live is None
    for thread in set(threading.enumerate()) - threads:
        thread.join(5)                          # rich tells its thread to end, and does not wait for it
        assert not thread.is_alive()
    one.close()


def test_the_reading_of_a_data_set_is_shown_in_the_table_while_it_lasts(terminal: Terminal) -> None:
    one = Progress(terminal, Clock())
    one.begin(info())
    with pytest.raises(KeyError), one.loading("images", 9) as told:
        told(3)
        one._live.refresh()
        shown = terminal.getvalue()
        raise KeyError
    assert "images  3 of 9 samples" in shown
    one._live.refresh()
    assert "images" not in terminal.getvalue()[len(shown) :]
    one.close()


def test_close_gives_the_terminal_back_when_there_is_no_end(terminal: Terminal) -> None:
    one = Progress(terminal, Clock())
    one.begin(info())
    one.close()
    assert "\x1b[?25l" in terminal.getvalue() and "\x1b[?25h" in terminal.getvalue()
    Progress().close()


def test_a_terminal_that_cannot_redraw_gets_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    for term in ("dumb", ""):
        monkeypatch.setenv("TERM", term)
        file = Terminal()
        Progress(file, Clock()).begin(info())
        assert file.getvalue() == "[s] train, a max, 0/10 trials, 00:00\n"


def test_what_goes_wrong_while_drawing_is_raised_once_where_it_is_logged(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Progress(terminal, Clock())
    one.begin(info())
    monkeypatch.setattr(picture, "picture", lambda *arguments: 1 / 0)
    one._live.refresh()
    monkeypatch.undo()
    with pytest.raises(ZeroDivisionError):
        one.told(*start(1))
    one.told([look(0, 1)], [])
    assert one._tally.reports == 1
    one.close()


def test_without_a_file_it_writes_to_stderr_as_it_is_when_the_study_begins(capsys: pytest.CaptureFixture[str]) -> None:
    one = Progress()
    one.begin(info())
    assert capsys.readouterr() == ("", "[s] train, a max, 0/10 trials, 00:00\n")


def test_prints_of_trials_go_above_the_table_but_not_out_of_a_pipe(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stdout", pipe)
    one = Progress()
    one.begin(info())
    print("data")
    one.close()
    assert pipe.getvalue() == "data\n" and "data" not in terminal.getvalue()
    assert sys.stderr is terminal and progress.REFRESHES <= 4


def test_rich_is_imported_only_to_draw() -> None:
    import subprocess

    code = "import sys, torchtune_hp.observers.progress; sys.exit('rich' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

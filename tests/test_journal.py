"""The journal: its laws, where trials stand, and what it survives."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from torchtune_hp import journal_file, journal_rows, journal_text
from torchtune_hp.errors import ConfigurationError, JournalError, StudyExistsError, StudyLockedError, StudyNotFoundError
from torchtune_hp.journal import Journal
from torchtune_hp.testing.journal_suite import HEADER, JournalSuite, Turn, a_study, seen, trial, write
from torchtune_hp.trial import Drop, Failed, Keep, Launch, Limits, Note, Reached, Train, Trial

ROOT = Path(__file__).resolve().parent.parent
ONE = Limits(1)


class TestOnDisk(JournalSuite):
    def make(self, folder: Path, **header: Any) -> Journal:
        return Journal.create(folder / "study", HEADER | header)

    def again(self, journal: Journal) -> Journal:
        assert journal.folder is not None
        journal.close()
        return Journal.open(journal.folder)


class TestOnDiskInLargeCommits(TestOnDisk):
    def make(self, folder: Path, **header: Any) -> Journal:
        return Journal.create(folder / "study", HEADER | header, every=7, durable="power")


class TestInMemory(JournalSuite):
    def make(self, folder: Path, **header: Any) -> Journal:
        return Journal.create(None, HEADER | header)

    def again(self, journal: Journal) -> Journal:
        return journal


# Round trips --------------------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=8) | st.just("\udc80x") | st.just("a\x00b")
SCALARS = st.floats() | st.integers(-(2**70), 2**70) | st.booleans() | st.none() | TEXT
TIMES = st.floats(0, 1e9)
TARGETS = st.floats(allow_nan=False).map(lambda x: x + 0.0)     # a column of SQLite knows no negative zero
EVENTS = st.one_of(
    st.builds(Reached, st.integers(0, 9), st.integers(0, 2**53), st.dictionaries(TEXT, SCALARS, max_size=3), TIMES, st.booleans()),
    st.builds(Failed, st.integers(0, 9), st.integers(0, 9), st.sampled_from(["error", "oom", "lost"]), TEXT, TIMES),
    st.builds(Note, TEXT, TEXT, st.none() | st.integers(0, 9), TIMES),
)
COMMANDS = st.one_of(
    st.builds(Train, st.integers(0, 9), st.none() | st.integers(1, 2**53)),
    st.builds(Drop, st.integers(0, 9)),
    st.builds(Keep, st.integers(0, 9), st.lists(st.integers(0, 9), max_size=3).map(tuple)),
)
LIMITS = st.builds(Limits, st.integers(1, 99), st.none() | st.integers(0, 99), st.none() | TIMES, st.none() | TARGETS)
TURNS = st.lists(st.tuples(st.lists(EVENTS, max_size=5).map(tuple), LIMITS, st.lists(COMMANDS, max_size=4)), max_size=6)


@given(TURNS, st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_any_turns_come_back_as_they_were(turns: list[Turn], every: int) -> None:
    with Journal.create(None, HEADER, every=every) as journal:
        write(journal, turns)
        assert seen(journal.turns()) == seen(turns)


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6))
@settings(max_examples=60, deadline=None)
def test_a_config_of_plain_values_survives_json(value: Any) -> None:
    assert repr(journal_text.from_json(journal_text.to_json(value))) == repr(value)


def test_what_json_has_no_word_for_is_kept_by_its_repr_and_numbers_of_numpy_are_numbers() -> None:
    import numpy as np

    cyclic: list[Any] = [1]
    cyclic.append(cyclic)
    given_ = {"a": int, "b": np.int64(3), "c": np.float32(0.5), "d": (1, 2), ("e", 1): {2: {3}}, "f": cyclic}
    assert json.loads(journal_text.to_json(given_)) == {
        "a": {"__repr__": "<class 'int'>"}, "b": 3, "c": 0.5, "d": [1, 2], "('e', 1)": {"2": {"__repr__": "{3}"}},
        "f": [1, {"__repr__": "..."}],
    }   # fmt: skip


def test_the_names_of_floats_are_written_once_for_all_trials_and_sessions(tmp_path: Path) -> None:
    configs = [{"a": 0.1, "b": math.inf}, {"b": 0.1, "a": -0.0}, {"a": 0.1}, {"a": 1, "b": 0.5}]
    trials = [Trial(id, (id / 7, 1 / 3), configs[id % 4], 0) for id in range(24)]
    for part in (trials[:5], trials[5:10], trials[10:]):
        with Journal.open(tmp_path, write=True) if part[0].id else Journal.create(tmp_path, HEADER) as journal:
            for one in part:
                journal.append((), Limits(4), [Launch(one, 1)])
                assert journal.trial(one.id).config == one.config
    with Journal.open(tmp_path) as reader:
        assert list(reader.rows("SELECT d, names FROM layout ORDER BY id")) == [(2, '["a","b"]'), (2, '["b","a"]'), (2, '["a"]')]
        again = [command.trial for _, _, commands in reader.turns() for command in commands if isinstance(command, Launch)]
        assert repr(again) == repr(trials)
        texts = reader.rows("SELECT config_text(x, config, names) FROM trials ORDER BY id")
        assert [list(journal_text.from_json(text).items()) for (text,) in texts] == [list(one.config.items()) for one in trials]


def test_a_row_of_floats_that_cannot_be_read_is_damage(tmp_path: Path) -> None:
    with Journal.create(tmp_path, HEADER) as journal:
        journal.append((), Limits(4), [Launch(Trial(0, (0.5,), {"a": 0.5}, 0), 1)])
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute("DELETE FROM layout")
    db.close()
    with Journal.open(tmp_path) as reader, pytest.raises(JournalError, match="It is damaged"):
        list(reader.rows("SELECT config_text(x, config, names) FROM trials"))


@pytest.mark.parametrize(
    "damage", ["DELETE FROM layout", *(f"UPDATE layout SET {part}" for part in ("names = '[1]'", "names = '3'", "names = '{'", "d = 7"))]
)
def test_a_trial_whose_layout_is_damaged_is_damage(tmp_path: Path, damage: str) -> None:
    with Journal.create(tmp_path, HEADER) as journal:
        journal.append((), Limits(4), [Launch(Trial(0, (0.5,), {"a": 0.5}, 0), 1)])
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute(damage)
    db.close()
    with Journal.open(tmp_path) as reader, pytest.raises(JournalError, match="It is damaged"):
        reader.trial(0)


def test_a_config_that_is_not_a_dict_by_class_is_stored_as_one() -> None:
    from types import MappingProxyType

    assert journal_text.to_json({"a": MappingProxyType({"b": 1})}) == '{"a":{"b":1}}'


def test_json_is_the_same_without_the_fast_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": [1, 2.5, float("nan"), None, "é"], "b": int}
    fast = journal_text.to_json(value)
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    assert journal_text._encoder()(value) == fast == '{"a":[1,2.5,NaN,null,"\\u00e9"],"b":{"__repr__":"<class \'int\'>"}}'


# Where trials stand -------------------------------------------------------------------------------------------------------


def look(id: int, step: int, loss: float, done: bool = False) -> Reached:
    return Reached(id, step, {"loss": loss}, 1.0, done)


NAN = float("nan")
STORIES: dict[str, tuple[list[tuple[list[Any], list[Any]]], tuple[str, str | None]]] = {
    "launched": ([], ("running", None)),
    "reached and told to go on": ([([look(0, 1, 1.0)], [Train(0, 2)])], ("running", None)),
    "reached and told nothing": ([([look(0, 1, 1.0)], [])], ("resting", None)),
    "woken": ([([look(0, 1, 1.0)], []), ([], [Train(0, 2)])], ("running", None)),
    "dropped": ([([look(0, 8, 1.0)], [Drop(0)])], ("stopped", None)),
    "dropped while resting": ([([look(0, 8, 1.0)], []), ([], [Drop(0)])], ("stopped", None)),
    "dropped before its first look": ([([], [Drop(0)])], ("stopped", None)),
    "dropped at the full budget": ([([look(0, 9, 1.0)], [Drop(0)])], ("completed", None)),
    "dropped at the full budget after resting": ([([look(0, 9, 1.0)], []), ([], [Drop(0)])], ("completed", None)),
    "done": ([([look(0, 2, 1.0, True)], [])], ("completed", None)),
    "done and dropped": ([([look(0, 2, 1.0, True)], [Drop(0)])], ("completed", None)),
    "done and dropped later": ([([look(0, 2, 1.0, True)], []), ([], [Drop(0)])], ("completed", None)),
    "not a number, and dropped": ([([look(0, 2, NAN)], [Drop(0)])], ("failed", "diverged")),
    "not a number, and dropped later": ([([look(0, 2, NAN)], []), ([], [Drop(0)])], ("failed", "diverged")),
    "not a number when done": ([([look(0, 9, NAN, True)], [Drop(0)])], ("failed", "diverged")),
    "not a number, then well": ([([look(0, 2, NAN)], [Train(0, 3)]), ([look(0, 3, 1.0)], [Drop(0)])], ("stopped", None)),
    "not a number, and resting": ([([look(0, 2, NAN)], [])], ("resting", None)),
    "failed": ([([Failed(0, 1, "oom", "", 1.0)], [])], ("failed", "oom")),
    "failed and dropped": ([([Failed(0, 1, "oom", "", 1.0)], [Drop(0)])], ("failed", "oom")),
    "failed and dropped later": ([([Failed(0, 1, "oom", "", 1.0)], []), ([], [Drop(0)])], ("failed", "oom")),
    "failed after a look": ([([look(0, 9, NAN)], [Train(0, 10)]), ([Failed(0, 10, "lost", "", 1.0)], [Drop(0)])], ("failed", "lost")),
}


@pytest.mark.parametrize("every", [1, 2, 256])
@pytest.mark.parametrize("story", STORIES)
def test_a_trials_state_follows_its_story(story: str, every: int) -> None:
    turns, expected = STORIES[story]
    with Journal.create(None, HEADER, every=every) as journal:
        journal.append((), ONE, [Launch(trial(0), 1), Launch(trial(1), 1)])
        for events, commands in turns:
            journal.append(events, ONE, commands)
        assert list(journal.rows("SELECT state, kind FROM trials ORDER BY id")) == [expected, ("running", None)]


def test_who_was_dropped_is_known_among_thousands_and_after_every_opening(tmp_path: Path) -> None:
    def states(journal: Journal) -> dict[str, int]:
        return dict(journal.rows("SELECT state, count(*) FROM trials GROUP BY state"))

    looks = tuple(Reached(id, 1, {"loss": 1.0}, 1.0) for id in range(3000))
    with Journal.create(tmp_path, HEADER) as journal:
        journal.append((), ONE, [Launch(trial(id), 1) for id in range(3000)])
        journal.append(looks, ONE, [])
        journal.append((), ONE, [Drop(id) for id in (0, 1023, 2047, 2999)])
    with Journal.open(tmp_path, write=True) as journal:
        assert states(journal) == {"resting": 2996, "stopped": 4}
        journal.append((), ONE, [Drop(1024), Drop(2998)])
        with pytest.raises(AttributeError):
            journal.append((), ONE, [Drop(5), None])  # type: ignore[list-item]
        journal.append((), ONE, [Drop(6)])         # in the block of 5, which is not dropped
        assert states(journal) == {"resting": 2993, "stopped": 7}
    with Journal.open(tmp_path) as journal:
        dropped = [id for (id,) in journal.rows("SELECT id FROM trials WHERE state = 'stopped'")]
        assert dropped == [0, 6, 1023, 1024, 2047, 2998, 2999]
        assert next(journal.rows("SELECT state FROM trials WHERE id = 2999")) == ("stopped",)


@pytest.mark.parametrize("row", ["0, 'text'", "0, 5", "-1, x'01'", "1099511627776, x'01'", "0, zeroblob(1025)"])
def test_who_was_dropped_is_read_from_a_damaged_table_as_an_error(tmp_path: Path, row: str) -> None:
    with Journal.create(tmp_path, HEADER) as journal:
        journal.append((), ONE, [Launch(trial(0), 1), Drop(0)])
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute(f"INSERT OR REPLACE INTO dropped VALUES ({row})")
    db.close()
    with pytest.raises(JournalError, match="malformed"):
        Journal.open(tmp_path, write=True)


def test_states_are_counted_without_the_blocks_of_who_was_dropped(tmp_path: Path) -> None:
    """A sorter that carried 1,024 bytes beside every trial wrote a gigabyte for a million of them."""
    with Journal.create(tmp_path, HEADER) as journal:
        plan = [row[-1] for row in journal.rows("EXPLAIN QUERY PLAN SELECT state, count(*) FROM trials GROUP BY state")]
    assert not any("LEFT-JOIN" in step for step in plan) and any("SCALAR SUBQUERY" in step for step in plan)


def test_without_a_full_budget_a_dropped_trial_was_stopped() -> None:
    with Journal.create(None, HEADER | {"max_t": None}) as journal:
        journal.append((), ONE, [Launch(trial(0), 1), Launch(trial(1), 1)])
        journal.append([look(0, 2**53, 1.0)], ONE, [Drop(0)])
        journal.append([look(1, 2**53, 1.0)], ONE, [])
        journal.append([], ONE, [Drop(1)])
        assert list(journal.rows("SELECT state FROM trials")) == [("stopped",), ("stopped",)]


def test_the_values_of_reports_are_what_is_minimized() -> None:
    header = HEADER | {"metric": "accuracy", "mode": "max", "outcome_constraints": ["params <= 10"]}
    with Journal.create(None, header) as journal:
        for step, metrics in enumerate([{"accuracy": 0.5, "params": 1}, {"accuracy": NAN, "params": 1}, {"accuracy": 0.9, "params": 20}]):
            journal.append([Reached(0, step, metrics, 1.0)], ONE, [])
        assert [row[0] for row in journal.rows("SELECT value FROM report")] == [-0.5, float("inf"), pytest.approx(1.5e30)]


def test_several_objectives_have_no_value_but_bad_ones_are_known() -> None:
    with Journal.create(None, HEADER | {"metric": ["a", "b"], "mode": ["min", "max"]}) as journal:
        journal.append((), ONE, [Launch(trial(0), 1), Launch(trial(1), 1)])
        journal.append([Reached(0, 1, {"a": 1.0, "b": 1.0}, 1.0), Reached(1, 1, {"a": 1.0, "b": NAN}, 1.0)], ONE, [Drop(0), Drop(1)])
        assert list(journal.rows("SELECT value FROM report")) == [(None,), (None,)]
        assert list(journal.rows("SELECT state FROM trials ORDER BY id")) == [("stopped",), ("failed",)]


def test_a_trial_can_be_looked_up_and_counted() -> None:
    with Journal.create(None, HEADER) as journal:
        journal.append((), Limits(3, 4, 5.0, 6.0), [Launch(trial(0), 1), Launch(trial(7, parent=0, tag=2), 1)])
        found = journal.trial(7)
        assert (found, found.config) == (trial(7, parent=0, tag=2), trial(7).config)
        assert (journal.trials(), journal.last_limits()) == (2, Limits(3, 4, 5.0, 6.0))
        with pytest.raises(KeyError):
            journal.trial(1)


@pytest.mark.parametrize(("width", "seed"), [(1, 0), (1, 1), (1, 2), (2, 3), (4, 4)])
@pytest.mark.parametrize("metric", ["loss", ["loss", "size"]])
def test_what_is_in_the_tables_does_not_depend_on_how_many_turns_are_written_at_once(width: int, seed: int, metric: Any) -> None:
    views = ["turn", "report", "failure", "note", "layout", "trials"]       # `dropped` depends on what was pending
    story = [(events, commands) for events, _, commands in a_study(60, seed, width)]
    last = [((), [Launch(trial(999), 1)]), ((Reached(999, 1, {"loss": math.nan}, 60.0),), [Train(999, 2)]), ((), [Drop(999)])]
    found = []
    for every in (1, 1000):
        with Journal.create(None, HEADER | {"metric": metric, "mode": "min"}, every=every) as journal:
            for events, commands in [*story, *last]:        # under the same limits, on one slot, most turns are one look
                journal.append(events, ONE, commands)
            found.append({view: list(journal.rows(f"SELECT * FROM {view}")) for view in views})
    assert found[0] == found[1] and len(found[0]["report"]) >= 30


def test_the_best_report_is_known_at_every_turn(tmp_path: Path) -> None:
    """Smaller first; of equals the earlier turn, within a turn the smaller trial id; nothing that is not finite or violates."""
    turns = [[(1, 1, 5.0)], [(2, 1, 3.0), (0, 1, 3.0)], [(1, 2, 3.0)], [(0, 2, NAN)], [(2, 2, 1e30)], [(1, 3, -2.0)]]
    best = [(1, 1), (0, 1), (0, 1), (0, 1), (0, 1), (1, 3)]
    for every in (1, 4):
        with Journal.create(tmp_path / str(every), HEADER, every=every) as journal:
            journal.append((), ONE, [Launch(trial(id), 1) for id in range(3)])
        for number, looks in enumerate(turns):
            with Journal.open(tmp_path / str(every), write=True, every=every) as journal:
                journal.append([look(*each) for each in looks], ONE, [])
                known = "SELECT r.trial, r.step FROM report r WHERE r.id = (SELECT best FROM report ORDER BY id DESC LIMIT 1)"
                assert list(journal.rows(known)) == [best[number]]
        with Journal.open(tmp_path / str(every)) as journal:
            assert list(journal.rows("SELECT t.value, r.step FROM trial t JOIN report r ON r.id = t.best ORDER BY t.id")) == [
                (3.0, 1), (-2.0, 3), (3.0, 1)
            ]
            assert list(journal.rows("SELECT r.step FROM trial t JOIN report r ON r.id = t.last ORDER BY t.id")) == [(2,), (3,), (2,)]


# Durability ---------------------------------------------------------------------------------------------------------------


def test_turns_are_committed_every_so_often_and_on_flush_and_on_close(tmp_path: Path) -> None:
    writer = Journal.create(tmp_path, HEADER, every=3)
    reader = Journal.open(tmp_path)
    turns = a_study(5)
    write(writer, turns[:2])
    assert len(reader) == 0
    write(writer, turns[2:3])
    assert len(reader) == 3
    write(writer, turns[3:4])
    writer.note(Note("later", ""))
    assert (len(reader), reader.notes("later")) == (3, [])
    writer.flush()
    assert (len(reader), len(reader.notes("later"))) == (4, 1)
    write(writer, turns[4:])
    writer.close()
    writer.close()
    assert seen(reader.turns()) == seen(turns)


def test_a_checkpoint_row_commits_what_is_pending(tmp_path: Path) -> None:
    writer = Journal.create(tmp_path, HEADER, every=100)
    write(writer, a_study(2))
    assert writer.add_checkpoint(3, 1, "keep", "a", 10, "ab", "state") == 1
    assert writer.add_checkpoint(3, 2, "resume", "b", 11, "cd", "folder") == 2
    reader = Journal.open(tmp_path)
    assert len(reader) == 2
    assert [(row.id, row.step, row.path, row.size, row.sha256, row.kind) for row in reader.checkpoints(3)] == [
        (1, 1, "a", 10, "ab", "state"), (2, 2, "b", 11, "cd", "folder"),
    ]   # fmt: skip
    assert [row.id for row in reader.checkpoints(purpose="keep")] == [1]
    assert (reader.checkpoints(4), [row.id for row in reader.checkpoints(3, "resume")]) == ([], [2])
    writer.remove_checkpoints([1])
    assert [row.id for row in reader.checkpoints()] == [2]


@pytest.mark.parametrize("durable, level", [("process", 1), ("power", 2)])
def test_durability_is_sqlites_synchronous(tmp_path: Path, durable: Any, level: int) -> None:
    with Journal.create(tmp_path, HEADER, durable=durable) as journal:
        assert list(journal.rows("PRAGMA synchronous")) == [(level,)]
        assert list(journal.rows("PRAGMA journal_mode")) == [("wal",)]


CHILD = """
import os, sys
from pathlib import Path
from torchtune_hp.journal import Journal
from torchtune_hp.testing.journal_suite import HEADER, a_study, write
journal = Journal.create(Path(sys.argv[1]), HEADER)
count = [0]
def trace(statement):
    count[0] += 1
    if count[0] == int(sys.argv[2]):
        os._exit(9)
journal._db.set_trace_callback(trace)
for turn in a_study(3000):
    write(journal, [turn])
    print(len(journal), flush=True)
"""


def child(folder: Path, statement: int) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(statement)], stdout=subprocess.PIPE, text=True, env=environment)


def whole_turns(folder: Path, acknowledged: int) -> None:
    """All acknowledged turns are there, at most one more, each as it was written; and the journal can be gone on with."""
    with Journal.open(folder) as reader:
        turns = list(reader.turns())
        assert acknowledged <= len(turns) <= acknowledged + 1
        assert seen(turns) == seen(a_study(len(turns)))
        assert reader.check() == []
    with Journal.open(folder, write=True) as writer:
        writer.append((), ONE, [Keep(0)])
        assert len(writer) == len(turns) + 1


@pytest.mark.parametrize("statement", [3, 6, 40, 63, 64, 65, 66, 101])
def test_an_exit_inside_a_transaction_leaves_whole_turns(tmp_path: Path, statement: int) -> None:
    process = child(tmp_path, statement)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 9
    whole_turns(tmp_path, len(out.splitlines()))


def test_kill_9_at_any_time_leaves_whole_turns(tmp_path: Path) -> None:
    draw = random.Random(1)
    processes = [child(tmp_path / str(number), 0) for number in range(2)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline()
    time.sleep(draw.random() * 0.05)
    for number, process in enumerate(processes):
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        lines = process.stdout.read().split("\n")
        process.wait()
        whole_turns(tmp_path / str(number), int(lines[-2]) if len(lines) > 1 else 1)


def test_a_torn_log_costs_only_the_turns_in_its_tail(tmp_path: Path) -> None:
    turns = a_study(30)
    journal = Journal.create(tmp_path / "a", HEADER)
    write(journal, turns)
    database, log = ((tmp_path / "a" / name).read_bytes() for name in ("study.db", "study.db-wal"))
    journal.close()
    draw = random.Random(0)
    counts = set()
    for cut in [0, 31, 32, *(draw.randrange(len(log)) for _ in range(12)), len(log)]:
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        (folder / "study.db").write_bytes(database)
        (folder / "study.db-wal").write_bytes(log[:cut])
        with Journal.open(folder) as reader:
            back = list(reader.turns())
        assert seen(back) == seen(turns[: len(back)])
        counts.add(len(back))
    assert {0, 30} <= counts and len(counts) > 4


def test_a_disk_that_is_full_costs_no_turn_that_was_acknowledged(tmp_path: Path) -> None:
    turns = a_study(400)
    journal = Journal.create(tmp_path, HEADER)
    (pages,) = next(journal.rows("PRAGMA page_count"))
    list(journal.rows(f"PRAGMA max_page_count = {pages + 10}"))
    with pytest.raises(JournalError, match=r"study\.db: database or disk is full\. Is the disk full\? The journal takes [\d,]+ bytes"):
        write(journal, turns)
    count = len(journal) - 1
    with Journal.open(tmp_path) as reader:
        assert seen(reader.turns()) == seen(turns[:count])
    list(journal._db.execute(f"PRAGMA max_page_count = {pages + 10000}"))
    journal.flush()
    write(journal, turns[count + 1 :])
    assert seen(journal.turns()) == seen(turns)
    journal.close()


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("every", [1, 100])
def test_a_turn_that_cannot_be_put_into_words_is_not_there_at_all(tmp_path: Path, every: int) -> None:
    odd = Launch(Trial(1, (0.5,), {"net": Unspeakable()}, 7), 1)
    with Journal.create(tmp_path, HEADER, every=every) as journal:
        journal.append((), ONE, [Launch(trial(0), 1)])
        journal.flush()
        with pytest.raises(RuntimeError, match="no words"):
            journal.append((Reached(0, 1, {"loss": 1.0}, 1.0),), Limits(2), [Train(0, 2), odd])
        journal.note(Note("executor", "closed", None, 2.0))
        journal.flush()
        assert len(journal) == 1
    with Journal.open(tmp_path, write=True) as journal:
        assert len(list(journal.turns())) == 1 and journal.seconds == 2.0
        journal.append((Reached(0, 1, {"loss": 2.0}, 3.0),), Limits(2), [Train(0, 2)])
        assert [events for events, _, _ in journal.turns()][1:] == [(Reached(0, 1, {"loss": 2.0}, 3.0),)]


class Interrupted:
    """A connection at which a second Ctrl-C arrives as a statement returns."""

    def __init__(self, db: Any, statement: str) -> None:
        self._db, self._statement = db, statement

    def execute(self, sql: str, *parameters: Any) -> Any:
        found = self._db.execute(sql, *parameters)
        if self._statement and sql.startswith(self._statement):
            self._statement = ""
            raise KeyboardInterrupt
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


@pytest.mark.parametrize(("statement", "there"), [("BEGIN", 2), ("COMMIT", 2), ("INSERT INTO look", 2)])
def test_an_interrupt_as_a_turn_is_committed_neither_doubles_nor_halves_it(tmp_path: Path, statement: str, there: int) -> None:
    journal = Journal.create(tmp_path, HEADER)
    journal.append((), ONE, [Launch(trial(0), 1)])
    journal._db = Interrupted(journal._db, statement)       # type: ignore[assignment]
    more = [Keep(0)] if statement != "INSERT INTO look" else []
    with pytest.raises(KeyboardInterrupt):
        journal.append((Reached(0, 1, {"loss": 1.0}, 1.0),), ONE if not more else Limits(2), [*more, Train(0, 2)])
    journal.flush()
    assert len(journal) == len(list(journal.turns())) == there
    journal.append((Reached(0, there, {"loss": 0.5}, 2.0),), ONE, [Train(0, there + 1)])
    journal.close()
    with Journal.open(tmp_path) as reader:
        assert [len(events) for events, _, _ in reader.turns()] == [0] + [1] * there and reader.check() == []


def test_after_a_failed_write_closing_does_not_try_again(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, HEADER)
    journal._db.execute("PRAGMA query_only = 1")
    with pytest.raises(JournalError, match="attempt to write a readonly database"):
        journal.append((), ONE, [])
    assert list(journal.turns()) == []
    journal.close()
    with Journal.open(tmp_path) as reader:
        assert len(reader) == 0


def test_a_driver_that_is_none_any_more_writes_nothing(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, HEADER)
    journal.append((), ONE, [Launch(trial(0), 1)])

    def gone() -> None:
        raise StudyLockedError("another drives it")

    journal.guard = gone
    writing: list[Any] = [
        lambda: journal.append((), ONE, []), lambda: journal.update_header(a=1),
        lambda: journal.add_checkpoint(0, 1, "keep", "a", 1, "", "state"),
    ]   # fmt: skip
    for write_ in writing:
        with pytest.raises(StudyLockedError):
            write_()
    journal.close()
    with Journal.open(tmp_path) as reader:
        assert len(reader) == 1 and "a" not in reader.header and reader.checkpoints() == []


def test_two_writers_of_one_turn_are_told_of_each_other(tmp_path: Path) -> None:
    with Journal.create(tmp_path, HEADER) as one:
        one.append((), ONE, [Launch(trial(0), 1)])
        with Journal.open(tmp_path, write=True) as other:
            other.append([look(0, 1, 1.0)], ONE, [Train(0, 2)])
        with pytest.raises(JournalError, match="Another process has written to it meanwhile"):
            one.append([look(0, 1, 2.0)], ONE, [Train(0, 2)])
    with Journal.open(tmp_path) as reader:
        assert [events for events, _, _ in reader.turns()] == [(), (look(0, 1, 1.0),)]


# Files that are not what they should be -----------------------------------------------------------------------------------


def test_a_journal_is_created_once(tmp_path: Path) -> None:
    Journal.create(tmp_path, HEADER).close()
    with pytest.raises(StudyExistsError, match="Resume that study, or choose another name"):
        Journal.create(tmp_path, HEADER)


def test_a_missing_study_is_said_to_be_missing(tmp_path: Path) -> None:
    for write_ in (False, True):
        with pytest.raises(StudyNotFoundError, match=r"has none"):
            Journal.open(tmp_path, write=write_)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write_", [False, True])
@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_garbage_is_named_and_left_as_it_is(tmp_path: Path, content: bytes, write_: bool) -> None:
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(JournalError, match="left as it"):
        Journal.open(tmp_path, write=write_)
    assert (tmp_path / "study.db").read_bytes() == content


def test_another_programs_database_is_not_taken_for_a_study(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute("CREATE TABLE trials (a)")
    before = (tmp_path / "study.db").read_bytes()
    with pytest.raises(JournalError, match="is not a journal of torchtune_hp"):
        Journal.open(tmp_path, write=True)
    assert (tmp_path / "study.db").read_bytes() == before


@pytest.mark.parametrize(("off", "whose", "way"), [(1, "a newer", "Update torchtune_hp"), (-1, "an older", "Take that version")])
def test_another_format_is_told_and_not_written(tmp_path: Path, off: int, whose: str, way: str) -> None:
    Journal.create(tmp_path, HEADER).close()
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute(f"PRAGMA user_version = {journal_rows.SCHEMA + off}")
    db.close()
    before = (tmp_path / "study.db").read_bytes()
    with pytest.raises(JournalError, match=rf"made by {whose} version of .* \(format {5 + off}; this version reads 5\).* {way} to open it"):
        Journal.open(tmp_path, write=True)
    assert (tmp_path / "study.db").read_bytes() == before


def test_a_truncated_file_is_an_error_when_its_lost_part_is_read(tmp_path: Path) -> None:
    with Journal.create(tmp_path, HEADER) as journal:
        write(journal, a_study(200))
    content = (tmp_path / "study.db").read_bytes()
    (tmp_path / "study.db").write_bytes(content[: len(content) // 2])
    with pytest.raises(JournalError, match="damaged"):
        with Journal.open(tmp_path) as reader:
            list(reader.turns())


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM report WHERE id = 3", "DELETE FROM trial WHERE id = 1", "DELETE FROM header WHERE key = 'metric'",
        "UPDATE report SET metrics = '{' WHERE id = 3", "UPDATE trial SET x = x'00112233445566778899' WHERE id = 1",
        "UPDATE header SET value = '{' WHERE key = 'metric'", "DROP TABLE turn", "DELETE FROM layout WHERE id = 0",
        "UPDATE layout SET d = 7", "UPDATE layout SET names = '[1]' WHERE id = 0", "UPDATE trial SET config = 9 WHERE id = 1",
    ],
)   # fmt: skip
def test_damage_inside_the_tables_is_an_error_and_never_a_shorter_study(tmp_path: Path, damage: str) -> None:
    with Journal.create(tmp_path, HEADER) as journal:
        write(journal, a_study(10))
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute(damage)
    db.close()
    with pytest.raises((JournalError, ConfigurationError)):
        with Journal.open(tmp_path) as reader:
            list(reader.turns())


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM report WHERE id = 3", "DELETE FROM report WHERE id = 5",
        "DELETE FROM turn WHERE id = 0", "DELETE FROM turn WHERE id = 4", "UPDATE turn SET reports = 0 WHERE id = 4",
        "UPDATE report SET commands = NULL WHERE id = 3", "UPDATE report SET turn = 9 WHERE id = 3",
    ],
)   # fmt: skip
def test_a_turn_of_one_report_that_is_damaged_is_an_error(tmp_path: Path, damage: str) -> None:
    with Journal.create(tmp_path, HEADER) as journal:
        journal.append((), ONE, [Launch(trial(0), 1)])
        for step in range(1, 7):
            journal.append([look(0, step, 1.0)], Limits(2) if step == 4 else ONE, [Train(0, step + 1)])
        assert list(journal.rows("SELECT id FROM turn")) == [(0,), (4,), (5,)]
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute(damage)
    db.close()
    with pytest.raises(JournalError, match="damaged"), Journal.open(tmp_path) as reader:
        list(reader.turns())


def test_a_journal_that_is_gone_on_with_knows_the_limits_of_its_last_turn(tmp_path: Path) -> None:
    with Journal.create(tmp_path, HEADER) as journal:
        journal.append((), ONE, [Launch(trial(0), 1)])
        journal.append([look(0, 1, 1.0)], ONE, [Train(0, 2)])
    with Journal.open(tmp_path, write=True) as journal:
        journal.append([look(0, 2, 1.0)], ONE, [Train(0, 3)])
        journal.append([look(0, 3, 1.0)], Limits(2), [])
        assert list(journal.rows("SELECT id FROM turn")) == [(0,), (3,)]
        assert [limits for _, limits, _ in journal.turns()] == [ONE, ONE, ONE, Limits(2)]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="writable.*file/study"):
        Journal.create(tmp_path / "file" / "study", HEADER)


def test_an_unfinished_draft_of_a_killed_driver_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "study.db.new").write_bytes(b"half")
    Journal.create(tmp_path, HEADER).close()
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def test_the_log_of_a_study_that_was_removed_is_not_played_into_a_new_one(tmp_path: Path) -> None:
    if (pid := os.fork()) == 0:         # killed: what it wrote is in the log, not in the file
        with Journal.create(tmp_path, HEADER | {"name": "old"}) as journal:
            write(journal, a_study(50))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (tmp_path / "study.db-wal").stat().st_size > 0
    (tmp_path / "study.db").unlink()
    with Journal.create(tmp_path, HEADER | {"name": "new"}) as journal:
        assert journal.header["name"] == "new" and len(journal) == journal.trials() == 0 and journal.check() == []


def test_who_restores_a_damaged_file_is_told_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"not a database" * 99)
    with pytest.raises(JournalError, match="after removing study.db-wal and study.db-shm"):
        Journal.open(tmp_path)


def test_a_wrong_objective_is_refused_before_anything_exists(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="mode"):
        Journal.create(tmp_path / "new", HEADER | {"mode": "best"})
    assert not (tmp_path / "new").exists()


def test_reading_writes_nothing(tmp_path: Path) -> None:
    with Journal.create(tmp_path, HEADER) as journal:
        write(journal, a_study(5))
    before = (tmp_path / "study.db").read_bytes()
    with Journal.open(tmp_path) as reader:
        assert len(list(reader.turns())) == 5
        with pytest.raises(JournalError, match="Only the driver writes"):
            reader.append((), ONE, [])
        with pytest.raises(JournalError, match="Only the driver writes"):
            reader.update_header(a=1)
    assert (tmp_path / "study.db").read_bytes() == before


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, HEADER)
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        list(journal.turns())


def test_a_medium_without_room_for_an_index_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal.create(tmp_path, HEADER) as journal:
        write(journal, a_study(5))
    connect = journal_file._connect

    class Unreadable:
        def execute(self, sql: str) -> None:
            raise sqlite3.OperationalError("unable to open database file")

        def close(self) -> None:
            """Nothing to close."""

    def refusing(target: str, path: Path) -> Any:
        return Unreadable() if "mode=ro" in target else connect(target, path)

    monkeypatch.setattr(journal_file, "_connect", refusing)
    with pytest.raises(JournalError, match="unable to open database file. Is its folder readable"):
        Journal.open(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Journal.open(tmp_path) as reader:
        assert len(reader) == 5


def test_a_reader_neither_waits_for_the_driver_nor_holds_it_up(tmp_path: Path) -> None:
    turns = a_study(20)
    writer = Journal.create(tmp_path, HEADER)
    write(writer, turns[:10])
    reader = Journal.open(tmp_path)
    stream = reader.turns()
    first = next(stream)
    writer._db.execute("BEGIN IMMEDIATE")
    assert len(reader) == 10
    writer._db.execute("COMMIT")
    write(writer, turns[10:])
    assert seen([first, *stream]) == seen(turns[:10])
    assert seen(reader.turns()) == seen(turns)


def test_the_journal_needs_no_torch() -> None:
    code = "import sys, torchtune_hp.journal, torchtune_hp.lock, torchtune_hp.results; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})

"""The tables of a journal, and how values become their rows and come back: exactly.

    header       what the study is: key, JSON
    report       one look at a trial; `value` is what is minimized (NULL only for several objectives), `best` the best report up to it
    turn         one step of the study: how many events it heard, its limits, its commands. A turn that heard one report and nothing
                 else, under the limits of the turn before, has no row: its report's `commands` are the turn's (else they are NULL)
    layout       how a config of floats alone lies behind its x: d coordinates, then the values by these names (JSON)
    trial        x as float64, the config as JSON (or the row of its layout, and its values behind x), study time at its launch, where it
                 stands, its last and its best report
    dropped      trials that were dropped some time after their last look (else their state says so already): a byte for each, 1 if it was,
                 in blocks, for late in a large study they are thousands a commit, from anywhere among all trials
    trials       the same as `trial`, as a view in which those that were dropped are stopped, completed or failed; with their layouts
    failure      one failed trial, with its traceback
    note         what is worth knowing; `place` is NULL for a note that was written between two turns
    checkpoint   files of the vault; paths are relative to the study's folder

A turn writes to as few pages as can be, for that is what a turn costs: no table that grows with every report has an index,
and a study that goes on report by report writes to two tables.

Reports are read back in order of their ids; failures and notes carry their place among the events of their turn. Numbers
survive bit for bit, NaN and infinities included: metrics are JSON in Python's dialect, x is packed. SQLite would turn a NaN
into NULL, so no column of numbers ever holds one; and it drops the sign of a zero, which limits and times can do without.
"""

from __future__ import annotations

import math
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .journal_text import from_json, to_json, to_text
from .objective import VIOLATED, Objective
from .packing import Layout, held, layout
from .trial import Command, Drop, Event, Failed, Launch, Limits, Note, Reached, Train, Trial

APPLICATION = 0x74746870
"""Stamped into every study.db ("tthp"), so that another program's database is not taken for a study."""

SCHEMA = 5
"""Raised whenever a table changes; a journal with another number was made by another version."""

BLOCK = 1024
"""Trials of one row of `dropped`. It is looked up for each trial, not joined: a GROUP BY would sort the blocks with the trials."""

TABLES = f"""
CREATE TABLE header (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE turn (id INTEGER PRIMARY KEY, reports INTEGER NOT NULL, others INTEGER NOT NULL, capacity INTEGER NOT NULL,
    trials INTEGER, seconds REAL, target REAL, commands TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE layout (id INTEGER PRIMARY KEY, d INTEGER NOT NULL, names TEXT NOT NULL, UNIQUE (d, names));
CREATE TABLE trial (id INTEGER PRIMARY KEY, x BLOB NOT NULL, config BLOB NOT NULL, seed INTEGER NOT NULL, tag INTEGER NOT NULL,
    parent INTEGER, turn INTEGER NOT NULL, time REAL NOT NULL, state TEXT NOT NULL, kind TEXT, step INTEGER NOT NULL, bad INTEGER NOT NULL,
    last INTEGER, best INTEGER, value REAL);
CREATE TABLE dropped (block INTEGER PRIMARY KEY, trials BLOB NOT NULL);
CREATE VIEW trials AS SELECT t.id, x, config, (SELECT names FROM layout l WHERE l.id = config) AS names,
    seed, tag, parent, turn, time, step, last, best, value,
    CASE WHEN NOT gone THEN state WHEN state = 'failed' OR bad THEN 'failed' WHEN state = 'completed' OR
        step >= (SELECT value FROM header WHERE key = 'max_t') THEN 'completed' ELSE 'stopped' END AS state,
    CASE WHEN gone AND state <> 'failed' AND bad THEN 'diverged' ELSE kind END AS kind
    FROM (SELECT t.*, ifnull((SELECT substr(d.trials, t.id % {BLOCK} + 1, 1) = x'01' FROM dropped d WHERE d.block = t.id / {BLOCK}), 0)
        AS gone FROM trial t) t;
CREATE TABLE report (id INTEGER PRIMARY KEY, turn INTEGER NOT NULL, trial INTEGER NOT NULL, step INTEGER NOT NULL,
    metrics TEXT NOT NULL, value REAL, time REAL NOT NULL, done INTEGER NOT NULL, best INTEGER, commands TEXT);
CREATE TABLE failure (turn INTEGER NOT NULL, place INTEGER NOT NULL, trial INTEGER NOT NULL, step INTEGER NOT NULL,
    kind TEXT NOT NULL, error TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY (turn, place)) WITHOUT ROWID;
CREATE INDEX failure_by_trial ON failure (trial);
CREATE TABLE note (id INTEGER PRIMARY KEY, turn INTEGER NOT NULL, place INTEGER, kind TEXT NOT NULL, text TEXT NOT NULL,
    trial INTEGER, time REAL NOT NULL);
CREATE TABLE checkpoint (id INTEGER PRIMARY KEY, trial INTEGER NOT NULL, step INTEGER NOT NULL, purpose TEXT NOT NULL,
    path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, sha256 TEXT NOT NULL, kind TEXT NOT NULL);
CREATE INDEX checkpoint_by_trial ON checkpoint (trial);
"""

SEVERAL = "CREATE INDEX report_by_trial ON report (trial);"
"""With several objectives, what a trial is shown with depends on what is kept of it: its reports are looked through."""

_LOOKED = """UPDATE trial SET state = ?1, kind = ?2, step = ?3, bad = ?4, last = ?5,
    best = CASE WHEN value <= ?7 THEN best ELSE ?6 END, value = CASE WHEN value <= ?7 THEN value ELSE ?7 END WHERE id = ?8"""
_MOVED = "UPDATE trial SET state = ?, kind = ? WHERE id = ?"

ONE_LOOK = """
CREATE TEMP VIEW look AS SELECT r.*, t.state, t.kind, t.bad, t.best AS first, t.value AS least FROM report r, trial t WHERE 0;
CREATE TEMP TRIGGER looked INSTEAD OF INSERT ON look BEGIN
    INSERT INTO report VALUES (NEW.id, NEW.turn, NEW.trial, NEW.step, NEW.metrics, NEW.value, NEW.time, NEW.done, NEW.best, NEW.commands);
    UPDATE trial SET state = NEW.state, kind = NEW.kind, step = NEW.step, bad = NEW.bad, last = NEW.id,
        best = CASE WHEN value <= NEW.least THEN best ELSE NEW.first END,
        value = CASE WHEN value <= NEW.least THEN value ELSE NEW.least END WHERE id = NEW.trial;
END;
"""
"""Of a driver's connection: the turn of one look at one trial, the most frequent, is one statement and so its own transaction, where
four statements take a quarter longer."""
_LOOK = "INSERT INTO look VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Move:
    """What is new of a trial: its state, how it failed, the step of its last look (None: there was no new one) and whether that
    was bad, the ids of its last and of its best new report, and the best new value."""

    __slots__ = ("bad", "best", "kind", "last", "state", "step", "value")

    def __init__(self) -> None:
        self.state = "running"
        self.kind: str | None = None
        self.step: int | None = None
        self.bad = 0                    # 0 or 1: a bool reaches SQLite through adapters, and takes three times as long
        self.last: int | None = None
        self.best: int | None = None
        self.value: float | None = None

    def stand(self) -> tuple[Any, ...]:
        """The columns of a new trial from `state` on."""
        return self.state, self.kind, self.step or 0, self.bad, self.last, self.best, self.value


@dataclass(slots=True)
class Stand:
    """How far a journal goes: the next turn and report, the largest time, the limits of the last turn, the best
    (value, turn, trial) with its report, the layouts with their rows, and, where it is written, what `dropped` holds, by trial."""

    turns: int = 0
    reports: int = 1
    seconds: float = 0.0
    limits: Limits | None = None
    best: tuple[float, int, int] = (VIOLATED, 0, 0)
    report: int | None = None
    layouts: dict[Layout, int] = field(default_factory=dict)
    dropped: bytearray = field(default_factory=bytearray)


class Pending:
    """Turns that are not in the tables yet: how many, their rows, and where their trials stand after them. `stand` moves on."""

    def __init__(self, objective: Objective, max_t: float, stand: Stand) -> None:
        self._values = objective.values
        self._single = len(objective.metrics) == 1
        self._max_t = max_t
        self._stand = stand
        self.turns = 0
        self.notes: list[tuple[Any, ...]] = []
        self._turns: list[tuple[Any, ...]] = []
        self._trials: list[tuple[Any, ...]] = []
        self._layouts: list[tuple[int, int, str]] = []
        self._reports: list[tuple[Any, ...]] = []
        self._failures: list[tuple[Any, ...]] = []
        self._moves: defaultdict[int, Move] = defaultdict(Move)
        self._blocks: set[int] = set()      # of `dropped`, that have changed

    def __bool__(self) -> bool:
        return bool(self.turns or self.notes)

    def clear(self) -> None:
        """All of it is in the tables, or is given up."""
        self.turns = 0
        for rows in (self.notes, self._turns, self._trials, self._layouts, self._reports, self._failures, self._moves, self._blocks):
            if rows:
                rows.clear()

    @property
    def looks(self) -> int:
        """How many reports are pending."""
        return len(self._reports)

    def add(self, events: Sequence[Event], limits: Limits, commands: Sequence[Command]) -> None:
        stand = self._stand
        turn, before, earlier = stand.turns, stand.reports, stand.seconds
        for place, event in enumerate(events):
            if event.time > stand.seconds:
                stand.seconds = event.time
            if isinstance(event, Reached):
                self._look(turn, event)
            elif isinstance(event, Failed):
                self._failures.append((turn, place, event.trial, event.step, event.kind, to_text(event.error), event.time))
                move = self._moves[event.trial]
                move.state, move.kind = "failed", event.kind
            else:
                self.notes.append((turn, place, to_text(event.kind), to_text(event.text), event.trial, event.time))
        words = f"[{','.join(self._words(turn, commands))}]"
        heard = stand.reports - before
        if heard == 1 == len(events) and (stand.limits is limits or stand.limits == limits) and events[0].time >= earlier:
            self._reports[-1] = (*self._reports[-1][:-1], words)
        else:
            bounds = (limits.capacity, limits.trials, limits.seconds, limits.target)
            self._turns.append((turn, heard, len(events) - heard, *bounds, words, stand.seconds))
        stand.turns, stand.limits = turn + 1, limits
        self.turns += 1

    def _look(self, turn: int, event: Reached) -> None:
        stand, trial, metrics, done = self._stand, event.trial, event.metrics, event.done
        value = self._values(metrics)[0]
        report = stand.reports
        stand.reports = report + 1
        move = self._moves[trial]
        move.state = "completed" if done else "resting"
        move.kind = None
        move.step = event.step
        move.bad = int(value == math.inf and not (done and not metrics))        # an end without metrics is no look
        move.last = report
        if self._single:
            if move.value is None or value < move.value:
                move.value, move.best = value, report
            if value <= stand.best[0] and (value, turn, trial) < stand.best:
                stand.best, stand.report = (value, turn, trial), report
        shown = value if self._single else None
        self._reports.append((report, turn, trial, event.step, to_json(metrics), shown, event.time, int(done), stand.report, None))

    def _words(self, turn: int, commands: Sequence[Command]) -> list[str]:
        """The commands in their turn's JSON; it is noted what becomes of their trials."""
        words = []
        gone: list[int] = []        # a run of drops is one word: late in a large study they are most of what there is
        for command in commands:
            if isinstance(command, Drop):
                self._drop(command.trial)
                gone.append(command.trial)
                continue
            if gone:
                words.append(f'["D",{",".join(map(str, gone))}]')
                gone = []
            if isinstance(command, Train):
                self._moves[command.trial].state = "running"
                words.append(f'["T",{command.trial},{"null" if command.until is None else command.until}]')
            elif isinstance(command, Launch):
                self._launch(command.trial, turn)
                words.append(f'["L",{command.trial.id},{command.until}]')
            else:
                words.append(f'["K",{command.trial},{list(command.instead_of)}]')
        if gone:
            words.append(f'["D",{",".join(map(str, gone))}]')
        return words

    def _launch(self, trial: Trial, turn: int) -> None:
        x, form = held(trial)
        config: int | str
        if isinstance(form, Layout):
            known = self._stand.layouts
            if form not in known:
                known[form] = len(known)
                self._layouts.append((known[form], form.d, to_json(form.names)))
            config = known[form]
        else:
            config = to_json(form)
        self._trials.append((trial.id, x, config, trial.seed, trial.tag, trial.parent, turn, self._stand.seconds))

    def _drop(self, trial: int) -> None:
        move = self._moves.get(trial)
        if move is None or (move.step is None and move.state != "failed"):
            dropped = self._stand.dropped       # its last look is in the tables already, or there was none
            if trial >= len(dropped):
                dropped.extend(bytes(trial + 1 - len(dropped)))
            dropped[trial] = 1
            self._blocks.add(trial // BLOCK)
        elif move.state != "failed":
            if move.bad:
                move.state, move.kind = "failed", "diverged"
            elif move.state != "completed":
                move.state = "completed" if move.step is not None and move.step >= self._max_t else "stopped"

    def insert_look(self, db: sqlite3.Connection) -> bool:
        """Whether there is nothing but one look at one trial: then it was written, as a transaction of its own."""
        if not (self.turns == len(self._reports) == len(self._moves) == 1):
            return False
        if self._turns or self._trials or self._failures or self.notes or self._blocks:
            return False
        ((trial, move),) = self._moves.items()
        (report,) = self._reports
        if report[2] != trial:
            return False
        db.execute(_LOOK, (*report, move.state, move.kind, move.bad, move.best, move.value))
        return True

    def insert(self, db: sqlite3.Connection) -> None:
        """Writes all rows, inside the caller's transaction. Changes nothing here: it may be called again if that fails."""
        many = db.executemany
        if self._turns:
            many("INSERT INTO turn VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self._turns)
        new: set[int] = set()
        if self._trials:
            new = {row[0] for row in self._trials}
            moves = self._moves
            fresh = [row + moves.get(row[0], _LAUNCHED).stand() for row in self._trials]
            many("INSERT INTO layout VALUES (?, ?, ?)", self._layouts)
            many("INSERT INTO trial VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", fresh)
        if self._reports:
            many("INSERT INTO report VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._reports)
        if self._failures:
            many("INSERT INTO failure VALUES (?, ?, ?, ?, ?, ?, ?)", self._failures)
        if self.notes:
            many("INSERT INTO note (turn, place, kind, text, trial, time) VALUES (?, ?, ?, ?, ?, ?)", self.notes)
        looked, moved = [], []
        for trial in sorted(self._moves.keys() - new):      # as they lie in the table: late in a large study they are all over it
            move = self._moves[trial]
            if move.step is None:
                moved.append((move.state, move.kind, trial))
            else:
                looked.append((move.state, move.kind, move.step, move.bad, move.last, move.best, move.value, trial))
        if looked:
            many(_LOOKED, looked)
        if moved:
            many(_MOVED, moved)
        if self._blocks:
            dropped = self._stand.dropped
            blocks = [(block, dropped[BLOCK * block : BLOCK * (block + 1)]) for block in sorted(self._blocks)]
            many("INSERT OR REPLACE INTO dropped VALUES (?, ?)", blocks)


_LAUNCHED = Move()


def layouts(rows: Iterable[Sequence[Any]]) -> dict[int, Layout]:
    """From (id, d, names). ValueError for what no journal was given."""
    found: dict[int, Layout] = {}
    for id, d, text in rows:
        names = from_json(text)
        form = layout(d, tuple(names)) if isinstance(names, list) else None
        if form is None:
            raise ValueError("malformed: the names of a layout are no texts")
        found[id] = form
    return found


def dropped_of(rows: Iterable[tuple[int, bytes]], trials: int) -> bytearray:
    """From (block, trials), in order: a byte for each trial of `trials`. ValueError for what no journal was given."""
    found = bytearray()
    for block, flags in rows:
        if not (isinstance(flags, bytes) and len(flags) <= BLOCK and len(found) <= BLOCK * block <= trials):
            raise ValueError(f"malformed: block {block} of what was dropped is none of {trials} trials")
        found.extend(bytes(BLOCK * block - len(found)))
        found += flags
    return found


def config_text(x: bytes, config: int | str, names: str | None) -> str:
    """A trial's config as JSON, from its row in `trials`."""
    if isinstance(config, str):
        return config
    keys = from_json(names or "null")
    return to_json(dict(zip(keys, struct.unpack_from(f"<{len(keys)}d", x, len(x) - 8 * len(keys)))))


def note_row(turn: int, note: Note) -> tuple[Any, ...]:
    """A note between two turns: `turn` is the one to come."""
    return (turn, None, to_text(note.kind), to_text(note.text), note.trial, note.time)

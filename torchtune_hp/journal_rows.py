"""The tables of a journal, and how values become their rows and come back: exactly.

    header       what the study is: key, JSON
    turn         one step of the study: how many events it heard, its limits, its commands
    trial        x as float64, the config as JSON, where it stands
    report       one look at a trial; `value` is what is minimized (NULL only for several objectives)
    failure      one failed trial, with its traceback
    note         what is worth knowing; `place` is NULL for a note that was written between two turns
    checkpoint   files of the vault; paths are relative to the study's folder

Reports are read back in order of their ids; failures and notes carry their place among the events of their turn. Numbers
survive bit for bit, NaN and infinities included: metrics are JSON in Python's dialect, x is packed. SQLite would turn a NaN
into NULL, so no column of numbers ever holds one.
"""

from __future__ import annotations

import json
import math
import numbers
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from .objective import VIOLATED, Objective
from .trial import Command, Drop, Event, Failed, Keep, Launch, Limits, Note, Reached, Train, Trial

APPLICATION = 0x74746870
"""Stamped into every study.db ("tthp"), so that another program's database is not taken for a study."""

SCHEMA = 1
"""Raised whenever a table changes; a journal with a larger number was made by a newer version."""

RANKED = f"value < {VIOLATED!r} AND value > -9e999"
"""Reports that may be the best: finite, and within the outcome constraints. (9e999 is how SQLite writes infinity.)"""

TABLES = f"""
CREATE TABLE header (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE turn (id INTEGER PRIMARY KEY, reports INTEGER NOT NULL, others INTEGER NOT NULL, capacity INTEGER NOT NULL,
    trials INTEGER, seconds REAL, target REAL, commands TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE trial (id INTEGER PRIMARY KEY, x BLOB NOT NULL, config TEXT NOT NULL, seed INTEGER NOT NULL, tag INTEGER NOT NULL,
    parent INTEGER, turn INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'running', kind TEXT,
    step INTEGER NOT NULL DEFAULT 0, bad INTEGER NOT NULL DEFAULT 0);
CREATE TABLE report (id INTEGER PRIMARY KEY, turn INTEGER NOT NULL, trial INTEGER NOT NULL, step INTEGER NOT NULL,
    metrics TEXT NOT NULL, value REAL, time REAL NOT NULL, done INTEGER NOT NULL);
CREATE INDEX report_by_value ON report (value, turn, trial) WHERE {RANKED};
CREATE INDEX report_by_trial ON report (trial);
CREATE TABLE failure (turn INTEGER NOT NULL, place INTEGER NOT NULL, trial INTEGER NOT NULL, step INTEGER NOT NULL,
    kind TEXT NOT NULL, error TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY (turn, place)) WITHOUT ROWID;
CREATE INDEX failure_by_trial ON failure (trial);
CREATE TABLE note (id INTEGER PRIMARY KEY, turn INTEGER NOT NULL, place INTEGER, kind TEXT NOT NULL, text TEXT NOT NULL,
    trial INTEGER, time REAL NOT NULL);
CREATE TABLE checkpoint (id INTEGER PRIMARY KEY, trial INTEGER NOT NULL, step INTEGER NOT NULL, purpose TEXT NOT NULL,
    path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, sha256 TEXT NOT NULL, kind TEXT NOT NULL);
CREATE INDEX checkpoint_by_trial ON checkpoint (trial);
"""

# A dropped trial failed if its last look was not finite, is complete if it stood at the full budget, else was stopped.
_DROP = """UPDATE trial SET
    state = CASE WHEN state = 'failed' OR bad THEN 'failed' WHEN state = 'completed' OR step >= ?1 THEN 'completed' ELSE 'stopped' END,
    kind = CASE WHEN state <> 'failed' AND bad THEN 'diverged' ELSE kind END WHERE id = ?2"""


class Pending:
    """Turns that are not in the tables yet: their rows, and where their trials stand after them."""

    def __init__(self, objective: Objective, max_t: float) -> None:
        self._values = objective.values
        self._single = len(objective.metrics) == 1
        self._max_t = max_t
        self.turns: list[tuple[Any, ...]] = []
        self.notes: list[tuple[Any, ...]] = []
        self._trials: list[tuple[Trial, int]] = []
        self._reports: list[tuple[Any, ...]] = []
        self._failures: list[tuple[Any, ...]] = []
        self._moves: dict[int, Move] = {}

    def __bool__(self) -> bool:
        return bool(self.turns or self.notes)

    def add(self, turn: int, events: Sequence[Event], limits: Limits, commands: Sequence[Command], time: float) -> None:
        """`time`: the largest time of an event up to and with this turn."""
        values, single, moves, reports = self._values, self._single, self._moves, self._reports
        before = len(reports)
        for place, event in enumerate(events):
            if isinstance(event, Reached):
                trial, step, metrics, done = event.trial, event.step, event.metrics, event.done
                value = values(metrics)[0]
                reports.append((turn, trial, step, to_json(metrics), value if single else None, event.time, done))
                bad = value == math.inf and not (done and not metrics)      # an end without metrics is no look
                moves[trial] = ("completed" if done else "resting", step, bad, None)
            elif isinstance(event, Failed):
                self._failures.append((turn, place, event.trial, event.step, event.kind, _text(event.error), event.time))
                _, last, bad, _ = moves.get(event.trial, _UNSEEN)
                moves[event.trial] = ("failed", last, bad, event.kind)
            else:
                self.notes.append((turn, place, _text(event.kind), _text(event.text), event.trial, event.time))
        words = []
        for command in commands:
            if isinstance(command, Launch):
                self._trials.append((command.trial, turn))
                words.append(f'["L",{command.trial.id},{command.until}]')
            elif isinstance(command, Train):
                _, last, bad, kind = moves.get(command.trial, _UNSEEN)
                moves[command.trial] = ("running", last, bad, kind)
                words.append(f'["T",{command.trial},{"null" if command.until is None else command.until}]')
            elif isinstance(command, Drop):
                moves[command.trial] = self._dropped(*moves.get(command.trial, _UNSEEN))
                words.append(f'["D",{command.trial}]')
            else:
                words.append(f'["K",{command.trial},{list(command.instead_of)}]')
        heard = len(reports) - before
        bounds = (limits.capacity, limits.trials, limits.seconds, limits.target)
        self.turns.append((turn, heard, len(events) - heard, *bounds, f"[{','.join(words)}]", time))

    def _dropped(self, state: str, step: int | None, bad: bool, kind: str | None) -> Move:
        if state == "failed":
            return state, step, bad, kind
        if step is None:
            return "dropped", None, bad, kind       # its last look is in the tables already: `_DROP` finds out
        if bad:
            return "failed", step, bad, "diverged"
        return "completed" if state == "completed" or step >= self._max_t else "stopped", step, bad, kind

    def insert(self, db: sqlite3.Connection) -> None:
        """Writes all rows, inside the caller's transaction. Changes nothing here: it may be called again if that fails."""
        many = db.executemany
        many("INSERT INTO turn VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self.turns)
        known: dict[int, Move] = {}     # what is new and was looked at already need not be updated
        if self._trials:
            known = {trial.id: move for trial, _ in self._trials if (move := self._moves.get(trial.id, _UNSEEN))[1] is not None}
            fresh = [_trial_row(trial, turn, known) for trial, turn in self._trials]
            many("INSERT INTO trial VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", fresh)
        if self._reports:
            many("INSERT INTO report (turn, trial, step, metrics, value, time, done) VALUES (?, ?, ?, ?, ?, ?, ?)", self._reports)
        if self._failures:
            many("INSERT INTO failure VALUES (?, ?, ?, ?, ?, ?, ?)", self._failures)
        if self.notes:
            many("INSERT INTO note (turn, place, kind, text, trial, time) VALUES (?, ?, ?, ?, ?, ?)", self.notes)
        moves = [(trial, *move) for trial, move in self._moves.items() if trial not in known]
        if moves:
            looked = [(state, step, bad, kind, trial) for trial, state, step, bad, kind in moves if step is not None]
            many("UPDATE trial SET state = ?, step = ?, bad = ?, kind = ? WHERE id = ?", looked)
            moved = [(state, kind, trial) for trial, state, step, _, kind in moves if step is None and state != "dropped"]
            many("UPDATE trial SET state = ?, kind = ? WHERE id = ?", moved)
            many(_DROP, [(self._max_t, trial) for trial, state, *_ in moves if state == "dropped"])


Move = tuple[str, int | None, bool, str | None]
"""Where a trial stands: its state, the step of its last look (None: that is in the tables), was that look bad, how it failed."""

_UNSEEN: Move = ("", None, False, None)


def _trial_row(trial: Trial, turn: int, known: Mapping[int, Move]) -> tuple[Any, ...]:
    x = struct.pack(f"<{len(trial.x)}d", *trial.x)
    state, step, bad, kind = known.get(trial.id, _LAUNCHED)
    return (trial.id, x, to_json(trial.config), trial.seed, trial.tag, trial.parent, turn, state, kind, step, bad)


_LAUNCHED: Move = ("running", 0, False, None)


# Values and their text ----------------------------------------------------------------------------------------------------


def to_json(value: Any) -> str:
    """Any value as JSON. What JSON has no word for becomes `{"__repr__": ...}`; numbers of other libraries become numbers."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):     # an odd key, a cycle
        return _encode(_tamed(value, ()))


from_json: Callable[[str], Any] = json.loads


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return {"__repr__": repr(value)}


def _tamed(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, (Mapping, list, tuple)):
        if id(value) in above:
            return {"__repr__": "..."}
        above = (*above, id(value))
        if isinstance(value, Mapping):
            return {key if isinstance(key, str) else repr(key): _tamed(item, above) for key, item in value.items()}
        return [_tamed(item, above) for item in value]
    return value


def _encoder() -> Callable[[Any], str]:
    """`JSONEncoder.encode` builds its C encoder anew for every value; one that is built once halves the cost of a report."""
    encoder = json.JSONEncoder(separators=(",", ":"), default=_plain, check_circular=False)
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    built = make(None, _plain, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True)
    return lambda value: "".join(built(value, 0))


_encode = _encoder()


def _text(text: str) -> str | bytes:
    """A lone surrogate (an undecodable file name in a traceback) is no UTF-8: such a text is stored as bytes."""
    if not text.isascii():
        stored = text.encode("utf-8", "surrogatepass")
        if stored.decode("utf-8", "replace") != text:
            return stored
    return text


def text_of(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", "surrogatepass")


def note_row(turn: int, note: Note) -> tuple[Any, ...]:
    """A note between two turns: `turn` is the one to come."""
    return (turn, None, _text(note.kind), _text(note.text), note.trial, note.time)


def trials_of(chunks: Iterable[Sequence[tuple[Any, ...]]]) -> Iterator[Trial]:
    """From chunks of (config, id, x, seed, tag, parent). One parse for a whole chunk is twice as fast as one for each row."""
    for rows in chunks:
        for config, (_, id, x, seed, tag, parent) in zip(from_json(f"[{','.join([row[0] for row in rows])}]"), rows):
            yield Trial(id, struct.unpack(f"<{len(x) // 8}d", x), config, seed, tag, parent)


# Reading turns back -------------------------------------------------------------------------------------------------------


def reports_of(chunks: Iterable[Sequence[tuple[Any, ...]]]) -> Iterator[Reached]:
    """From chunks of (metrics, trial, step, time, done)."""
    for rows in chunks:
        for metrics, (_, trial, step, time, done) in zip(from_json(f"[{','.join([row[0] for row in rows])}]"), rows):
            yield Reached(trial, step, metrics, time, done != 0)


def others_of(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Event]]:
    """From (is it a note, place, trial, step, kind, text, time): the place of the event in its turn, and the event."""
    for is_note, place, trial, step, kind, text, time in rows:
        yield place, Note(text_of(kind), text_of(text), trial, time) if is_note else Failed(trial, step, kind, text_of(text), time)


def merged(reports: Iterator[Reached], others: Iterator[tuple[int, Event]], heard: int, more: int) -> tuple[Event, ...]:
    """The events of one turn, each in its place."""
    events: list[Event] = list(islice(reports, heard))
    for place, event in islice(others, more):
        events.insert(place, event)
    if len(events) != heard + more:
        raise sqlite3.DatabaseError(f"malformed: a turn heard {heard + more} events, but {len(events)} are there")
    return tuple(events)


def commands_of(text: str, trial: Callable[[int], Trial]) -> list[Command]:
    """`trial` gives the trial of a Launch; launches of a study come in order."""
    commands: list[Command] = []
    for word, id, *rest in from_json(text):
        if word == "T":
            commands.append(Train(id, *rest))
        elif word == "D":
            commands.append(Drop(id))
        elif word == "L":
            commands.append(Launch(trial(id), *rest))
        else:
            commands.append(Keep(id, tuple(*rest)))
    return commands

"""The journal: everything a study heard, was bound by and commanded, as it happened, in `study.db` (SQLite).

A study is two verbs: `append` a turn, and read the `turns` back. Whatever else there is of it (searcher, scheduler, results)
is computed from these.

Laws:
1. What `append` or `note` was given is durable when it returns: it survives a kill -9, and with `durable="power"` a power
   cut as well (with "process" a power cut may cost the last turns, never a part of one). With `every=n`, for simulations,
   this holds after each n-th turn, after `flush` and after `close`.
2. A turn is there whole or not at all.
3. `turns` gives back what was appended, equal and in order. NaN, infinities and text of any kind come back as they were;
   configs as JSON (the truth about a trial is its x).
4. One driver writes (see `lock.py`); anyone reads at any time, and neither waits for the other.
5. A file that is damaged, or foreign, or made by a newer version is an error and stays as it is: no empty study is shown.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from . import journal_file as file, journal_rows as rows, journal_turns
from .errors import JournalError
from .journal_file import Durable
from .journal_rows import Pending, Stand
from .journal_text import from_json, text_of, to_json
from .objective import Objective
from .trial import Command, Event, Limits, Note, Trial

_LOOKS = 8192
"""Reports that are pending at most: a simulation's turn may hold thousands."""
_LAST_TURN = "SELECT id, time, capacity, trials, seconds, target FROM turn ORDER BY id DESC LIMIT 1"
_LAST_REPORT = "SELECT id, turn, time, best FROM report ORDER BY id DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A file of the vault. `path` is relative to the study's folder; `purpose` is "resume" or "keep"."""

    id: int
    trial: int
    step: int
    purpose: str
    path: str
    size: int
    sha256: str
    kind: str


class Journal:
    """Made by `Journal.create` or `Journal.open`; a context manager that closes itself."""

    def __init__(self, db: sqlite3.Connection, folder: Path | None, *, write: bool, every: int = 1) -> None:
        self.folder = folder
        self.write = write
        self._db = db
        self._path: str | Path = ":memory:" if folder is None else folder / file.NAME
        self._failing = file.failing(self._path)
        self._every = every
        self._lock = threading.RLock()
        self._failed = False
        self.chunk = 512        # rows that are read at a time: where one of them cannot be, none of these is given
        self.guard: Callable[[], None] = lambda: None       # raises where this process is not the driver any more
        with self._failing:
            self._header: dict[str, Any] = {key: from_json(value) for key, value in db.execute("SELECT key, value FROM header")}
            if "metric" not in self._header or "mode" not in self._header:
                raise sqlite3.DatabaseError("malformed header")
            self._stand = self._read_stand() if write else Stand()
            # The trials that may have files: the driver asks of each when it begins and when it ends, and most have none.
            self._filed = {trial for (trial,) in db.execute("SELECT DISTINCT trial FROM checkpoint")} if write else set()
        self.objective = objective_of(self._header)
        self._pending = self._empty()

    @classmethod
    def create(cls, folder: Path | None, header: Mapping[str, Any], *, durable: Durable = "process", every: int = 1) -> Journal:
        """A new journal in `folder` (None: in memory). `header` is JSON: metric, mode, outcome_constraints, seed, name, and more.

        The file appears under its name with tables and header in it, or not at all. StudyExistsError if there is one.
        """
        several = len(objective_of(header).metrics) > 1     # a wrong one is refused before anything exists
        tables = rows.TABLES + (rows.SEVERAL if several else "")
        db = file.create(folder, tables, _header_rows(header), durable, page=1024 if every == 1 else 16384)
        return cls._of(db, folder, write=True, every=every)

    @classmethod
    def open(cls, folder: Path | str, *, write: bool = False, durable: Durable = "process", every: int = 1) -> Journal:
        """The journal in `folder`. StudyNotFoundError if there is none, JournalError if it cannot be used. Reading changes nothing."""
        db = file.writer(Path(folder), durable) if write else file.reader(Path(folder))
        return cls._of(db, Path(folder), write=write, every=every)

    @classmethod
    def _of(cls, db: sqlite3.Connection, folder: Path | None, *, write: bool, every: int) -> Journal:
        try:
            return cls(db, folder, write=write, every=every)
        except BaseException:
            db.close()
            raise

    # Writing --------------------------------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event], limits: Limits, commands: Sequence[Command]) -> None:
        """One turn. JournalError if it cannot be written: then nothing of it is in the file, and `flush` tries once more."""
        with self._lock:
            try:
                self._pending.add(events, limits, commands)
            except BaseException:       # half a turn is no turn: law 2
                self._give_up()
                raise
            if self._pending.turns >= self._every or self._pending.looks >= _LOOKS:
                self._commit()

    def note(self, note: Note) -> None:
        """A note outside of any turn: `turns` does not give it back, `notes` does."""
        with self._lock:
            self._stand.seconds = max(self._stand.seconds, note.time)
            self._pending.notes.append(rows.note_row(self._stand.turns, note))
            if self._every == 1:
                self.flush()

    def update_header(self, **changes: Any) -> None:
        with self._lock:
            self._commit(lambda db: db.executemany("INSERT OR REPLACE INTO header VALUES (?, ?)", _header_rows(changes)))
            self._header.update({key: from_json(value) for key, value in _header_rows(changes)})
            self._pending = self._empty()       # by the new header; what was pending was written with the change

    def add_checkpoint(self, trial: int, step: int, purpose: str, path: str, size: int, sha256: str, kind: str) -> int:
        """Records a file that lies complete on the disk. Returns the row's id."""
        values = (trial, step, purpose, path, size, sha256, kind)
        self._filed.add(trial)
        cursor = self._commit(lambda db: db.execute("INSERT INTO checkpoint VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values))
        return int(cursor.lastrowid or 0)

    def remove_checkpoints(self, ids: Iterable[int]) -> None:
        self._commit(lambda db: db.executemany("DELETE FROM checkpoint WHERE id = ?", [(id,) for id in ids]))

    def flush(self) -> None:
        """Commits what is pending."""
        if self._pending:
            self._commit()

    def close(self) -> None:
        """Flushes and closes; after a failed write it only closes. A second close does nothing."""
        with self._lock:
            try:
                if self.write and not self._failed:
                    self.flush()
            finally:
                self._pending.clear()
                self._db.close()

    # Reading --------------------------------------------------------------------------------------------------------------

    @property
    def header(self) -> dict[str, Any]:
        return dict(self._header)

    @property
    def seconds(self) -> float:
        """Study time so far: the largest time of an event or a note."""
        return (self._stand if self.write else self._read_stand()).seconds

    def __len__(self) -> int:
        """How many turns there are."""
        return (self._stand if self.write else self._read_stand()).turns

    def turns(self, last: int | None = None) -> Iterator[tuple[tuple[Event, ...], Limits, list[Command]]]:
        """What was appended until now, in order: (events, limits, commands). `last`: the last one's number, where the file cannot say."""
        with self._failing:
            yield from journal_turns.turns(self._chunks, last)

    def last_limits(self) -> Limits | None:
        """The limits of the last turn; None if there was none."""
        return (self._stand if self.write else self._read_stand()).limits

    def trials(self) -> int:
        """How many trials were launched."""
        return int(next(self.rows("SELECT count(*) FROM trial"))[0])

    def trial(self, id: int) -> Trial:
        """A launched trial; its config is what JSON holds of it. KeyError if there is none."""
        with self._failing:
            found = self._chunks(f"{journal_turns.TRIALS} WHERE id = ?", id)
            for trial in journal_turns.trials_of(found, rows.layouts(self.rows(journal_turns.LAYOUTS))):
                return trial
        raise KeyError(id)

    def notes(self, kind: str | None = None) -> list[Note]:
        """All notes, or those of a kind, in order: those inside turns and those between them."""
        found = self.rows("SELECT kind, text, trial, time FROM note ORDER BY id")
        notes = [Note(text_of(row[0]), text_of(row[1]), row[2], row[3]) for row in found]
        return notes if kind is None else [note for note in notes if note.kind == kind]

    def checkpoints(self, trial: int | None = None, purpose: str | None = None) -> list[CheckpointRow]:
        """Rows of the vault, in the order they were added."""
        if self.write and trial is not None and trial not in self._filed:
            return []
        where = "?1 IS NULL" if trial is None else "trial = ?1"
        sql = f"SELECT * FROM checkpoint WHERE {where} AND (?2 IS NULL OR purpose = ?2) ORDER BY id"
        return [CheckpointRow(*row) for row in self.rows(sql, trial, purpose)]

    def rows(self, sql: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        """Rows of a query, streamed; what is pending is written first."""
        return chain.from_iterable(self._chunks(sql, *parameters))

    def check(self) -> list[str]:
        """What is wrong with the file, page by page; nothing if it is sound."""
        return [row[0] for row in self.rows("PRAGMA integrity_check") if row[0] != "ok"]

    def _chunks(self, sql: str, *parameters: Any) -> Iterator[list[tuple[Any, ...]]]:
        if self.write and not self._failed:
            self.flush()
        with self._failing:
            cursor = self._db.execute(sql, parameters)
            while chunk := cursor.fetchmany(self.chunk):
                yield chunk

    def _read_stand(self) -> Stand:
        stand = Stand()
        with self._failing:
            for turn, time, *bounds in self._db.execute(_LAST_TURN):
                stand.turns, stand.seconds, stand.limits = turn + 1, time, Limits(*bounds)
            for report, turn, time, best in self._db.execute(_LAST_REPORT):
                stand.reports, stand.turns, stand.seconds = report + 1, max(turn + 1, stand.turns), max(time, stand.seconds)
                stand.report = best
            for best in self._db.execute("SELECT value, turn, trial FROM report WHERE id = ?", (stand.report,)):
                stand.best = best
            ((noted,),) = self._db.execute("SELECT max(time) FROM note")
            stand.layouts = {form: id for id, form in rows.layouts(self._db.execute(journal_turns.LAYOUTS)).items()}
            if self.write:
                ((last,),) = self._db.execute("SELECT ifnull(max(id), -1) FROM trial")
                stand.dropped = rows.dropped_of(self._db.execute("SELECT block, trials FROM dropped ORDER BY block"), last + 1)
        stand.seconds = max(stand.seconds, noted or 0.0)
        return stand

    def _empty(self) -> Pending:
        max_t = self._header.get("max_t")
        return Pending(self.objective, float("inf") if max_t is None else max_t, self._stand)

    def _commit(self, also: Callable[[sqlite3.Connection], Any] | None = None) -> Any:
        """What is pending and what the caller adds, in one transaction. Returns what `also` does."""
        with self._lock:
            if not self.write:
                raise JournalError(f"Only the driver writes a journal, but {self._path} was opened to be read. Open it with write=True.")
            self._failed = True
            db, given = self._db, None
            with self._failing:
                try:
                    if also is not None or not self._pending.insert_look(db):
                        self.guard()        # a look needs none: of a turn that another driver has written there is no second
                        db.execute("BEGIN IMMEDIATE")
                        self._pending.insert(db)
                        if also is not None:
                            given = also(db)
                        db.execute("COMMIT")
                    self._pending.clear()
                except sqlite3.Error:
                    with suppress(sqlite3.Error):
                        db.rollback()
                    self.guard()
                    raise
                except BaseException:       # a second Ctrl-C, maybe just after the COMMIT
                    self._settle()
                    raise
            self._failed = False
            return given

    def _settle(self) -> None:
        """Of a transaction that was interrupted, all or nothing is in the file: what is there is not pending any more."""
        if self._db.in_transaction:
            self._db.rollback()
        elif self._read_stand().turns == self._stand.turns:
            self._pending.clear()

    def _give_up(self) -> None:
        """What is pending is forgotten: the next turn follows the last one in the file."""
        self._stand = self._read_stand()
        self._pending = self._empty()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def objective_of(header: Mapping[str, Any]) -> Objective:
    return Objective(header["metric"], header["mode"], header.get("outcome_constraints") or ())


def _header_rows(header: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, to_json(value)) for key, value in header.items()]

"""The file of a journal: made whole or not at all, opened only if it is what it should be, and its errors in words."""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from .errors import JournalError, StudyExistsError, StudyNotFoundError
from .journal_rows import APPLICATION, ONE_LOOK, SCHEMA, config_text

NAME = "study.db"
BESIDE = (f"{NAME}-wal", f"{NAME}-shm")
"""What SQLite keeps beside the file: turns that are not in it yet, and their index."""
Durable = Literal["process", "power"]
_LOG = 2**24
"""Bytes the write-ahead log grows to before it is moved into the database, which waits for the disk twice."""
_RESTORE = f"restore it from a copy, after removing {' and '.join(BESIDE)}, whose turns would be played into the copy"
_SYNCHRONOUS = {"process": "NORMAL", "power": "FULL"}


def create(folder: Path | None, tables: str, header: Sequence[tuple[str, str]], durable: Durable, page: int) -> sqlite3.Connection:
    """A new file with tables and header, open for writing. `page`: bytes; small turns write whole pages, large turns want few."""
    if folder is None:
        db = _connect(":memory:", ":memory:")
        _build(db, tables, header)
        db.executescript(ONE_LOOK)
        return db
    path = Path(folder) / NAME
    if path.exists():
        raise StudyExistsError(f"A journal is created once, but {path} exists. Resume that study, or choose another name.")
    draft = path.with_name(NAME + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with failing(path):
            db = _connect(str(draft), draft)
            try:
                for setting in ("synchronous = OFF", "journal_mode = OFF", f"page_size = {page:d}"):    # a torn draft is made anew
                    db.execute(f"PRAGMA {setting}")
                _build(db, tables, header)
                db.execute("PRAGMA journal_mode = WAL")
            finally:
                db.close()
        sync(draft)
        for beside in BESIDE:       # of a study.db that somebody removed: SQLite would play its turns into this one
            path.with_name(beside).unlink(missing_ok=True)
        os.replace(draft, path)
        sync(path.parent)
    except OSError as error:
        raise JournalError(f"A study's folder must be writable, but {path} cannot be created ({error}). Choose another storage.") from error
    return writer(path.parent, durable)


def writer(folder: Path, durable: Durable) -> sqlite3.Connection:
    """A connection for the driver. What cannot be used is found out by a reader, so that it is not written to."""
    path = Path(folder) / NAME
    reader(folder).close()
    db = _connect(f"{path.absolute().as_uri()}?mode=rw", path)
    try:
        with failing(path):
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durable]}")
            db.execute("PRAGMA cache_size = -65536")
            (page,) = db.execute("PRAGMA page_size").fetchone()
            db.execute(f"PRAGMA wal_autocheckpoint = {_LOG // page}")
            db.executescript(ONE_LOOK)
    except BaseException:
        db.close()
        raise
    return db


def reader(folder: Path) -> sqlite3.Connection:
    """A connection that cannot write, to a file that was found to be a journal of this version."""
    path = Path(folder) / NAME
    if not path.is_file():
        raise StudyNotFoundError(f"A study is a folder with a {NAME}, but {folder} has none. `torchtune-hp ls` lists studies.")
    uri = path.absolute().as_uri()
    db = _connect(f"{uri}?mode=ro", path)
    try:
        with failing(path):
            try:
                db.execute("SELECT 1 FROM sqlite_master").fetchall()
            except sqlite3.OperationalError:
                if path.with_name(NAME + "-wal").exists() or os.access(path.parent, os.W_OK):
                    raise
                db.close()
                db = _connect(f"{uri}?immutable=1", path)      # a read-only medium: no room for a reader's own index, and nobody writes
            (application,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION:
            raise JournalError(f"{path} is not a journal of torchtune_hp: it is empty, or another program's. It was left as it is.")
        if version != SCHEMA:
            other, way = ("a newer", "Update torchtune_hp") if version > SCHEMA else ("an older", "Take that version")
            raise JournalError(
                f"{path} was made by {other} version of torchtune_hp (format {version}; this version reads {SCHEMA})."
                f" It was left as it is. {way} to open it."
            )
    except BaseException:
        db.close()
        raise
    return db


class failing:
    """Errors of SQLite, and of rows that cannot be read, in words that say what is wrong with which file, and what to do."""

    __slots__ = ("_path",)

    def __init__(self, path: str | Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, (sqlite3.Error, OverflowError, ValueError, struct.error)):
            raise JournalError(f"{self._path}: {error}. {_hint(error, self._path)}") from error


def _hint(error: Exception, path: str | Path) -> str:
    text = str(error)
    if "full" in text or "disk I/O error" in text:
        return (
            f"Is the disk full? The journal takes {_size(path):,} bytes, and needs up to 1,000 for each report."
            " Make room and resume: whole turns are safe."
        )
    if "UNIQUE constraint" in text:
        return "Another process has written to it meanwhile. Let one of them drive the study, and resume it."
    if "not a database" in text:
        return f"It is not a journal, or its beginning was overwritten. It was left as it is; {_RESTORE}."
    if "malformed" in text or "user-defined function" in text or not isinstance(error, (sqlite3.Error, OverflowError)):
        return f"It is damaged. It was left as it is; {_RESTORE}. Or save what can be read: torchtune-hp doctor DIR --to NEW."
    return "Is its folder readable, writable and on a local disk?"


def sync(path: Path) -> None:
    """Makes durable what a file holds, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _connect(target: str, path: str | Path) -> sqlite3.Connection:
    """With the function `config_text`, which says in a query what a trial's config is."""
    with failing(path):
        db = sqlite3.connect(target, timeout=30.0, isolation_level=None, check_same_thread=False, uri=target.startswith("file:"))
        db.create_function("config_text", 3, config_text, deterministic=True)
        return db


def _build(db: sqlite3.Connection, tables: str, header: Sequence[tuple[str, str]]) -> None:
    db.executescript(f"BEGIN; {tables} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA};")
    db.executemany("INSERT INTO header VALUES (?, ?)", header)
    db.execute("COMMIT")


def _size(path: str | Path) -> int:
    return 0 if path == ":memory:" else sum(file.stat().st_size for file in Path(path).parent.glob(NAME + "*"))

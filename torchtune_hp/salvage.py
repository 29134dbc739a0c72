"""What is wrong with a study's files, and what of them can be saved: into another folder. The damaged one is only read.

Law: the first turns of a study are a study. What is saved are those before the first that cannot be read, with the checkpoints of
that time that are sound; resumed, it comes to the story that the whole one had, for what it lacks is trained again under its own seeds.
"""

from __future__ import annotations

import os
import shutil
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from .checkpoints import Stamp, check_state
from .errors import CheckpointError, JournalError, TorchtuneError
from .journal import CheckpointRow, Journal
from .journal_file import BESIDE, NAME
from .journal_text import text_of
from .trial import Command, Event, Launch, Limits, Note, Reached

_BETWEEN = "SELECT turn, kind, text, trial, time FROM note WHERE place IS NULL ORDER BY id"
_FAR = 2**40
_LAST = (sys.maxsize, Note("", ""))

Turn = tuple[Sequence[Event], Limits, list[Command]]


@dataclass
class Findings:
    """What can be read of a study, and what is wrong with the rest."""

    turns: int = 0
    trials: int = 0
    checkpoints: int = 0
    problems: list[str] = field(default_factory=list)
    whole: bool = True
    """Whether all turns can be read."""


def examine(folder: Path) -> Findings:
    """Reads all there is of a study. JournalError if its journal cannot be opened at all."""
    found = Findings()
    with _opened(folder, found) as journal:
        found.problems += _checked(journal)
        for _, _, commands in _turns(journal, found):
            _count(commands, found)
        for row in _rows(journal, found):
            found.checkpoints += _sound(row, folder, found)
    return found


def salvage(folder: Path, target: Path) -> Findings:
    """Saves what can be read into a new study in `target`. JournalError if that is nothing; StudyExistsError if there is a study."""
    found, there = Findings(), target.exists()
    with _opened(folder, found) as old:
        found.problems += _checked(old)
        turns = _turns(old, found)
        first = next(turns, None)
        if first is None and not found.whole:       # then nothing is made
            raise JournalError(f"Not even the first turn of {folder} can be read. {found.problems[-1]}")
        with Journal.create(target, old.header) as new:
            try:
                _saved(chain([first] if first else [], turns), old, new, folder, target, found)
            except BaseException:
                if not there:
                    shutil.rmtree(target, ignore_errors=True)
                raise
    return found


def _saved(turns: Iterable[Turn], old: Journal, new: Journal, folder: Path, target: Path, found: Findings) -> None:
    notes, ends = _between(old, found), dict[int, int]()
    turn, note = next(notes, _LAST)
    for events, limits, commands in turns:
        while turn <= found.turns:
            new.note(note)
            turn, note = next(notes, _LAST)
        new.append(events, limits, commands)
        ends |= {event.trial: event.step for event in events if isinstance(event, Reached)}
        _count(commands, found)
    while found.whole and note is not _LAST[1]:
        new.note(note)
        turn, note = next(notes, _LAST)
    for row in _rows(old, found):
        if row.step <= ends.get(row.trial, -1) and _sound(row, folder, found):      # of a time that was saved
            _copied(row, folder, target, new)
            found.checkpoints += 1
    text = f"saved from a damaged study, {folder.absolute()}: its first {found.turns} turns and {found.checkpoints} checkpoints"
    new.note(Note("journal", text, time=new.seconds))


def _count(commands: Sequence[Command], found: Findings) -> None:
    found.turns += 1
    found.trials += sum(isinstance(command, Launch) for command in commands)


@contextmanager
def _opened(folder: Path, found: Findings) -> Iterator[Journal]:
    with _at_full_length(folder, found) as place, Journal.open(place) as journal:
        journal.chunk = 1           # a row that cannot be read takes none before it along
        yield journal


@contextmanager
def _at_full_length(folder: Path, found: Findings) -> Iterator[Path]:
    """Where to read it. SQLite reads nothing of a file that was cut; of a copy with zeros for what was lost it reads the rest."""
    path = folder / NAME
    size, stated = _lengths(path)
    if stated <= size:
        yield folder
        return
    found.problems.append(f"{path} was cut: it has {size:,} of {stated:,} bytes")
    with TemporaryDirectory(prefix="salvage-") as place:
        for name in (NAME, *BESIDE):
            if (folder / name).exists():
                shutil.copyfile(folder / name, Path(place) / name)
        os.truncate(Path(place) / NAME, stated)
        try:
            yield Path(place)
        except JournalError as error:
            raise JournalError(str(error).replace(place, str(folder))) from None
        finally:
            found.problems[:] = [problem.replace(place, str(folder)) for problem in found.problems]


def _lengths(path: Path) -> tuple[int, int]:
    """The bytes that a database has, and those that it says it has."""
    try:
        with path.open("rb") as file:
            head, size = file.read(100), path.stat().st_size
    except OSError:
        return 0, 0         # whoever opens it says what is wrong
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        return size, size
    page, pages = struct.unpack_from(">H", head, 16)[0], struct.unpack_from(">I", head, 28)[0]
    return size, (2**16 if page == 1 else page) * pages


def _checked(journal: Journal) -> list[str]:
    try:
        return [f"{NAME}: {line}" for text in journal.check() for line in text.splitlines()][:5]
    except JournalError as error:
        return [str(error)]


def _turns(journal: Journal, found: Findings) -> Iterator[Turn]:
    """The turns before the first that cannot be read. Where the end of the file is gone, it is not known which is the last."""
    last = None
    try:
        next(journal.turns(), None)
    except JournalError:
        last = _FAR
    try:
        yield from journal.turns(last)
    except JournalError as error:
        found.whole = False
        found.problems.append(f"turn {found.turns} and those after it cannot be read: {error}")


def _between(journal: Journal, found: Findings) -> Iterator[tuple[int, Note]]:
    """Notes between turns, each with the turn that it comes before."""
    try:
        for turn, kind, text, trial, time in journal.rows(_BETWEEN):
            yield turn, Note(text_of(kind), text_of(text), trial, time)
    except JournalError as error:
        found.problems.append(f"notes cannot be read: {error}")


def _rows(journal: Journal, found: Findings) -> list[CheckpointRow]:
    try:
        return journal.checkpoints()
    except JournalError as error:
        found.problems.append(f"no checkpoint is found, for their table cannot be read: {error}")
        return []


def _sound(row: CheckpointRow, folder: Path, found: Findings) -> bool:
    kind: Literal["state", "folder"] = "folder" if row.kind == "folder" else "state"
    try:
        check_state(Stamp(row.path, row.size, row.sha256, kind), folder)
    except (TorchtuneError, ValueError) as error:
        found.problems.append(str(error))
        return False
    return True


def _copied(row: CheckpointRow, folder: Path, target: Path, new: Journal) -> None:
    source, copy = folder / row.path, target / row.path
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(source, copy) if source.is_dir() else shutil.copyfile(source, copy)
    except OSError as error:
        law = "A checkpoint is to be saved"
        raise CheckpointError(f"{law}, but {copy} cannot be written: {error}. Make room, or choose another folder.") from error
    new.add_checkpoint(row.trial, row.step, row.purpose, row.path, row.size, row.sha256, row.kind)

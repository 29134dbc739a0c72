"""Turns, read back from their rows: equal to what was appended, and in order, or an error. Never a shorter study.

Reports lie in order of their ids, launches nearly always in order of theirs, so every table is read once, as a stream. One
JSON parse for a whole chunk of reports is twice as fast as one for each.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from .journal_rows import layouts
from .journal_text import from_json, text_of
from .packing import Layout
from .trial import Command, Drop, Event, Failed, Keep, Launch, Limits, Note, Reached, Train, Trial

Row = tuple[Any, ...]
Rows = Iterable[Sequence[Row]]
"""Rows of a query, in chunks."""
Look = tuple[Reached, int, str | None]
"""A report, its turn, and the commands of that turn if the report is all there is of it."""

TRIALS = "SELECT id, x, config, seed, tag, parent FROM trial"
LAYOUTS = "SELECT id, d, names FROM layout"
_LAST = """SELECT max(ifnull((SELECT id FROM turn ORDER BY id DESC LIMIT 1), -1),
    ifnull((SELECT turn FROM report ORDER BY id DESC LIMIT 1), -1))"""
_TURNS = "SELECT id, reports, others, commands, capacity, trials, seconds, target FROM turn WHERE id <= ? ORDER BY id"
_LOOKS = "SELECT metrics, trial, step, time, done, turn, commands FROM report WHERE turn <= ? ORDER BY id"
_OTHERS = """SELECT is_note, place, trial, step, kind, text, time FROM
    (SELECT turn, place, 0 AS is_note, trial, step, kind, error AS text, time FROM failure UNION ALL
     SELECT turn, place, 1, trial, 0, kind, text, time FROM note WHERE place IS NOT NULL) WHERE turn <= ? ORDER BY turn, place"""


def turns(query: Callable[..., Rows], last: int | None = None) -> Iterator[tuple[tuple[Event, ...], Limits, list[Command]]]:
    """All turns there are now: (events, limits, commands). `query`: SQL and its parameters to chunks of rows. `last`: as if it were that
    turn; one that is not there is an error when it is reached."""
    if last is None:
        ((last,),) = chain.from_iterable(query(_LAST))
    looks = _looks(query(_LOOKS, last))
    others = _others(chain.from_iterable(query(_OTHERS, last)))
    launched = _Launched(trials_of(query(f"{TRIALS} WHERE turn <= ? ORDER BY id", last), layouts(chain.from_iterable(query(LAYOUTS)))))
    limits: Limits | None = None
    number = 0
    for id, heard, more, commands, *bounds in chain.from_iterable(query(_TURNS, last)):
        yield from _single(looks, range(number, id), limits, launched)
        limits = Limits(*bounds)
        yield _merged(looks, others, id, heard, more), limits, _commands(commands, launched)
        number = id + 1
    yield from _single(looks, range(number, last + 1), limits, launched)


def trials_of(chunks: Rows, layouts: Mapping[int, Layout]) -> Iterator[Trial]:
    """From chunks of (id, x, config, seed, tag, parent)."""
    for id, x, config, seed, tag, parent in chain.from_iterable(chunks):
        if isinstance(config, str):
            yield Trial(id, struct.unpack(f"<{len(x) // 8}d", x), from_json(config), seed, tag, parent)
        else:
            form = layouts.get(config)
            if form is None or len(x) != form.size:
                raise ValueError(f"malformed: the {len(x)} bytes of trial {id} do not lie as layout {config} says")
            yield Trial(id, x, form, seed, tag, parent)  # type: ignore[arg-type]     # as they are held


def _single(
    looks: Iterator[Look], numbers: Iterable[int], limits: Limits | None, launched: Callable[[int], Trial]
) -> Iterator[tuple[tuple[Event, ...], Limits, list[Command]]]:
    """Turns of one report and nothing else, under the limits of the turn before."""
    for number in numbers:
        look, turn, commands = next(looks, (None, -1, None))
        if look is None or turn != number or commands is None or limits is None:
            raise sqlite3.DatabaseError(f"malformed: turn {number} is not there")
        yield (look,), limits, _commands(commands, launched)


def _merged(looks: Iterator[Look], others: Iterator[tuple[int, Event]], turn: int, heard: int, more: int) -> tuple[Event, ...]:
    """The events of one turn, each in its place."""
    events: list[Event] = [look for look, of, _ in islice(looks, heard) if of == turn]
    for place, event in islice(others, more):
        events.insert(place, event)
    if len(events) != heard + more:
        raise sqlite3.DatabaseError(f"malformed: turn {turn} heard {heard + more} events, but {len(events)} are there")
    return tuple(events)


def _looks(chunks: Rows) -> Iterator[Look]:
    for rows in chunks:
        for metrics, (_, trial, step, time, done, turn, commands) in zip(_parsed(rows), rows):
            yield Reached(trial, step, metrics, time, done != 0), turn, commands


def _others(rows: Iterable[Row]) -> Iterator[tuple[int, Event]]:
    """Failures and notes with their places."""
    for is_note, place, trial, step, kind, text, time in rows:
        yield place, Note(text_of(kind), text_of(text), trial, time) if is_note else Failed(trial, step, kind, text_of(text), time)


def _parsed(rows: Sequence[Row]) -> list[Any]:
    """What the rows' first columns, JSON each, hold."""
    parsed: list[Any] = from_json(f"[{','.join([row[0] for row in rows])}]")
    return parsed


def _commands(text: str, launched: Callable[[int], Trial]) -> list[Command]:
    commands: list[Command] = []
    for word, id, *rest in from_json(text):
        if word == "T":
            commands.append(Train(id, *rest))
        elif word == "D":
            commands += map(Drop, (id, *rest))
        elif word == "L":
            commands.append(Launch(launched(id), *rest))
        else:
            commands.append(Keep(id, tuple(*rest)))
    return commands


class _Launched:
    """Trials by id, from a stream that is read no further than needed."""

    def __init__(self, trials: Iterator[Trial]) -> None:
        self._trials = trials
        self._passed: dict[int, Trial] = {}

    def __call__(self, id: int) -> Trial:
        if id in self._passed:
            return self._passed.pop(id)
        for trial in self._trials:
            if trial.id == id:
                return trial
            self._passed[trial.id] = trial
        raise sqlite3.DatabaseError(f"malformed: trial {id} is launched, but is not there")

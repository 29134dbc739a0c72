"""What every journal must pass: one test for each law of `journal.py`.

    class TestMyJournal(JournalSuite):
        def make(self, folder, **header):
            return MyJournal.create(folder, HEADER | header)

        def again(self, journal):
            ...close it and open it for reading
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..journal import Journal
from ..trial import Command, Drop, Event, Failed, Keep, Launch, Limits, Note, Reached, Train, Trial

HEADER: dict[str, Any] = {"metric": "loss", "mode": "min", "outcome_constraints": [], "seed": 0, "name": "suite", "max_t": 9}
Turn = tuple[tuple[Event, ...], Limits, list[Command]]


def write(journal: Journal, turns: Iterable[Turn]) -> None:
    for events, limits, commands in turns:
        journal.append(events, limits, commands)


def seen(turns: Iterable[Turn]) -> str:
    """Turns as text: a NaN equals a NaN there, 1 differs from 1.0 and True, and configs count."""
    return repr([(events, limits, commands) for events, limits, commands in turns])


def trial(id: int, **changes: Any) -> Trial:
    return Trial(**{"id": id, "x": (id / 7, 0.5), "config": {"lr": id / 3, "net": {"width": 8}}, "seed": id * 31, **changes})


def a_study(turns: int, seed: int = 0, width: int = 4) -> list[Turn]:
    """A made-up study of that many turns: trials that go on, rest, fail, end and are dropped."""
    draw = random.Random(seed)
    written: list[Turn] = []
    running: dict[int, int] = {}
    made = 0
    for turn in range(turns):
        events: list[Event] = [Note("retry", f"turn {turn}", None, turn * 1.0)] if draw.random() < 0.2 and turn // 8 % 2 == 0 else []
        commands: list[Command] = []
        alone = turn // 8 % 2 == 1          # one look and nothing else, under the limits of the turn before: written in a way of its own
        for id, step in list(running.items())[: 1 if alone else None]:
            if draw.random() < 0.1:
                events.append(Failed(id, step, "error", "Traceback (most recent call last):\nValueError: no", turn + 0.5))
                commands.append(Drop(id))
                del running[id]
                continue
            done = draw.random() < 0.1
            events.append(Reached(id, step, {"loss": draw.choice([draw.random(), math.nan, 0.25]), "kind": "a"}, turn + 0.5, done))
            if done or draw.random() < 0.3:
                commands.append(Drop(id))
                del running[id]
            else:
                commands.append(Train(id, step + 1))
                running[id] = step + 1
        while len(running) < width:
            several = {"config": {"lr": made / 3, "wd": -0.0, "nan": math.nan}} if made % 2 else {}       # floats alone, and others
            commands.append(Launch(trial(made, tag=made % 3, parent=made - 1 if made % 5 == 4 else None, **several), 1))
            running[made] = 1
            made += 1
        if draw.random() < 0.3:
            commands.append(Keep(draw.choice(list(running)), (0, 1) if draw.random() < 0.5 else ()))
        written.append((tuple(events), Limits(width, 100 if turn // 4 % 2 else None, 60.0, None), commands))
    return written


class JournalSuite:
    """The laws of a journal."""

    def make(self, folder: Path, **header: Any) -> Journal:
        raise NotImplementedError

    def again(self, journal: Journal) -> Journal:
        """The same journal as another process would open it."""
        raise NotImplementedError

    def back(self, folder: Path, turns: Sequence[Turn]) -> list[Turn]:
        journal = self.make(folder)
        write(journal, turns)
        return list(self.again(journal).turns())

    def test_turns_come_back_equal_and_in_order(self, tmp_path: Path) -> None:
        turns = a_study(60)
        assert seen(self.back(tmp_path, turns)) == seen(turns)

    def test_turns_of_one_report_come_back_under_the_limits_they_had(self, tmp_path: Path) -> None:
        one, other = Limits(2, 9), Limits(2, 10)
        turns: list[Turn] = [((), one, [Launch(trial(0), 1), Launch(trial(1), 1)])]
        for step in range(1, 30):
            limits = other if step % 7 == 0 else one        # its last turn too
            time = step - 0.5 * (step % 5 == 0) - 5.0 * (step % 6 == 0)       # now and then an earlier one
            events: list[Event] = [Reached(step % 2, step, {"loss": 1.0 / step}, time)]
            commands: list[Command] = [Train(step % 2, step + 2)] * (step % 3)
            if step % 11 == 0:
                events.append(Note("retry", "again"))
            if step % 13 == 0:
                commands += [Launch(trial(step), 1), Keep(step % 2, (0,))]
            turns.append((tuple(events), limits, commands))
        journal = self.make(tmp_path)
        write(journal, turns)
        journal = self.again(journal)
        assert seen(journal.turns()) == seen(turns)
        assert (len(journal), journal.last_limits(), journal.seconds) == (30, one, 29.0)

    def test_an_empty_journal_has_no_turns_and_no_seconds(self, tmp_path: Path) -> None:
        journal = self.again(self.make(tmp_path))
        assert (list(journal.turns()), journal.seconds, len(journal), journal.trials(), journal.last_limits()) == ([], 0.0, 0, 0, None)

    def test_nan_and_infinities_and_kinds_of_metrics_survive(self, tmp_path: Path) -> None:
        metrics = {"loss": math.nan, "a": math.inf, "b": -math.inf, "c": -0.0, "d": 3, "e": True, "f": None, "g": "é\x00'", "h": 5e-324}
        turns: list[Turn] = [((), Limits(1), [Launch(trial(0), 1)]), ((Reached(0, 1, metrics, 1.5),), Limits(1), [])]
        assert seen(self.back(tmp_path, turns)) == seen(turns)

    def test_x_survives_bit_for_bit(self, tmp_path: Path) -> None:
        x = (0.1 + 0.2, 1 / 3, 5e-324, 1.0, 0.0)
        turns: list[Turn] = [((), Limits(1), [Launch(trial(0, x=x), 1)])]
        (_, _, (launch,)), = self.back(tmp_path, turns)
        assert isinstance(launch, Launch) and launch.trial.x == x

    def test_names_and_texts_are_only_data(self, tmp_path: Path) -> None:
        evil = "x'); drop table trial;--"
        turns: list[Turn] = [
            ((Note(evil, evil),), Limits(1), [Launch(trial(0, config={evil: evil}), 1)]),
            ((Reached(0, 1, {evil: 1.0, "loss": 1.0}, 1.0), Failed(0, 1, "error", evil + "\x00\udcff", 2.0)), Limits(1), []),
        ]
        assert seen(self.back(tmp_path, turns)) == seen(turns)

    def test_notes_keep_their_place_in_a_turn_and_those_between_turns_are_only_notes(self, tmp_path: Path) -> None:
        first, between, last = Note("a", "first", 0, 1.0), Note("choice", "between"), Note("b", "last", None, 4.0)
        turns: list[Turn] = [
            ((), Limits(2), [Launch(trial(0), 1), Launch(trial(1), 1)]),
            ((first, Reached(1, 1, {"loss": 1.0}, 2.0), Failed(0, 1, "oom", "big", 3.0), last), Limits(2), []),
        ]
        journal = self.make(tmp_path)
        write(journal, turns[:1])
        journal.note(between)
        write(journal, turns[1:])
        journal = self.again(journal)
        assert list(journal.turns()) == turns
        assert journal.notes() == [between, first, last]
        assert journal.notes("choice") == [between]

    def test_seconds_are_the_largest_time_of_anything(self, tmp_path: Path) -> None:
        journal = self.make(tmp_path)
        journal.append((), Limits(2), [Launch(trial(0), 1), Launch(trial(1), 1)])
        journal.append((Reached(1, 1, {"loss": 1.0}, 7.0), Reached(0, 1, {"loss": 1.0}, 5.0)), Limits(2), [])
        assert journal.seconds == 7.0
        journal.append((Failed(0, 1, "lost", "", 6.0),), Limits(2), [])
        assert journal.seconds == 7.0
        journal.note(Note("late", "", None, 8.0))
        assert journal.seconds == 8.0
        assert self.again(journal).seconds == 8.0

    def test_launches_out_of_order_come_back_in_theirs(self, tmp_path: Path) -> None:
        turns: list[Turn] = [((), Limits(3), [Launch(trial(id), 1) for id in ids]) for ids in ((5, 2, 9), (1, 7))]
        assert self.back(tmp_path, turns) == turns

    def test_the_header_comes_back_and_can_be_changed(self, tmp_path: Path) -> None:
        journal = self.make(tmp_path, space={"lr": [1, 2.5, None]})
        journal.update_header(capacity=8, seed=1)
        expected = {**HEADER, "space": {"lr": [1, 2.5, None]}, "capacity": 8, "seed": 1}
        assert journal.header == expected
        assert self.again(journal).header == expected

    def test_a_journal_can_be_read_while_it_is_written(self, tmp_path: Path) -> None:
        turns = a_study(12)
        journal = self.make(tmp_path)
        for count, turn in enumerate(turns, 1):
            write(journal, [turn])
            assert len(list(journal.turns())) == len(journal) == count

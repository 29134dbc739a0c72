"""Progress: what a person sees while a study runs, on stderr.

In a terminal a table that stands still, at most 20 lines, drawn twice a second by a thread of its own, so that a turn costs
only its counting. Elsewhere (a pipe, a file, a CI log) a plain line now and then: at most one in ten seconds, or in two if
there is a new best. At the end, in both, a short summary.

Nothing a trial says is read as markup or as an escape code.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from ..errors import TorchtuneError
from ..population.census import STACKS
from ..trial import Command, Event
from . import picture
from .base import StudyInfo
from .tally import Tally
from .wording import clock, counted, flat, inert, named, number

if TYPE_CHECKING:
    from rich.text import Text

    from ..results import Results

REFRESHES = 2
"""Pictures a second."""
QUIET = 10.0
"""Seconds between plain lines, where nothing but time passes ..."""
NEWS = 2.0
"""... and where there is a new best."""


class Progress:
    """An observer. `file`: where to write (None: stderr, as it is when the study begins). `now`: a monotonic clock."""

    def __init__(self, file: IO[str] | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._given = file
        self._now = now
        self._lock = threading.Lock()       # between the turns and the thread that draws
        self._live: Any = None              # rich.live.Live
        self._widths = {"#": 2}
        self._problem: Exception | None = None
        self._loading: picture.Loading | None = None

    def begin(self, info: StudyInfo) -> None:
        self._file = self._given if self._given is not None else sys.stderr
        self._info = info
        self._tally = Tally(info)
        self._began = self._said = self._now()
        self._best: float | None = None if self._tally.best is None else self._tally.best.value
        if _draws(self._file):
            self._start()
        else:
            self._say(", ".join(filter(None, [picture.trained(info.header), picture.goal(info), self._line()])))

    def told(self, events: Sequence[Event], commands: Sequence[Command]) -> None:
        with self._lock:
            self._tally.add(events, commands)
        if self._live is None:
            self._sometimes()
        elif self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def end(self, results: Results) -> None:
        self.close()
        self._write("\n".join(self._summary(results)))

    def close(self) -> None:
        """Takes the table away and gives the terminal back."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    @contextmanager
    def loading(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """In the block, the table shows how far the reading of a data set has come (`training.loading.Show`)."""

        def told(done: int) -> None:
            self._loading = picture.Loading(what, done, total)

        told(0)
        try:
            yield told
        finally:
            self._loading = None

    # In a terminal ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._file, force_terminal=True, highlight=False, markup=False, emoji=False)
        together = self._given is None and sys.stdout.isatty()      # prints of trials go above the table, but never from a pipe into it
        self._console = console
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=REFRESHES, transient=True, vertical_overflow="crop",
            redirect_stdout=together, redirect_stderr=self._given is None,
        )  # fmt: skip
        self._live.start()

    def _draw(self) -> Text:
        """Runs in the thread that draws. What goes wrong here is raised in the next `told`, where it is logged."""
        from rich.text import Text

        try:
            with self._lock:
                width, height = self._console.size
                return picture.picture(self._info, self._tally, self._pace(), width, height, self._widths, self._loading)
        except Exception as error:
            self._problem = error
            return Text("")

    # Elsewhere ----------------------------------------------------------------------------------------------------------

    def _sometimes(self) -> None:
        waited = self._now() - self._said
        best = self._tally.best
        news = best is not None and best.value != self._best
        if waited >= QUIET or (news and waited >= NEWS):
            self._best = None if best is None else best.value
            self._say(self._line())

    def _say(self, line: str) -> None:
        self._said = self._now()
        self._write(f"[{inert(self._info.name, 40)}] {line}")

    def _line(self) -> str:
        """12/64 trials, best accuracy 0.9712 (trial 5, step 9), 8 running, 00:12"""
        info, tally = self._info, self._tally
        parts = [f"{picture.made(info, tally)} trials"]
        if len(info.objective.metrics) > 1:
            parts += [f"{len(tally.front)} on the front"] if tally.front else []
        elif (row := tally.best) is not None:
            metric = info.objective.metrics[0]
            parts.append(f"best {inert(metric, 40)} {picture.value(row, metric)} (trial {row.trial}, step {row.step})")
        parts += [picture.counts(tally)] if picture.counts(tally) else []
        parts += [inert(tally.stacks, 80)] if tally.stacks else []
        at = self._pace()
        return ", ".join([*parts, clock(at.elapsed)]) + (f", left {clock(at.left)}" if at.left is not None else "")

    # Both ---------------------------------------------------------------------------------------------------------------

    def _pace(self) -> picture.Pace:
        return picture.pace(self._info, self._tally, self._now() - self._began)

    def _write(self, text: str) -> None:
        self._file.write(text + "\n")
        self._file.flush()

    def _summary(self, results: Results) -> list[str]:
        info = self._info
        counts = results.counts()
        states = {state: counts.get(state, 0) for state in ("completed", "stopped", "failed", "resting", "running")}
        kinds = counted(dict(self._tally.kinds.most_common()))
        took = f"{sum(counts.values())} trials in {clock(self._pace().elapsed)}"
        lines = [f"{inert(info.name, 100)}: {took}: {counted(states, 'none ran')}{f' ({kinds})' if kinds else ''}"]
        lines += _front(info, results) if len(info.objective.metrics) > 1 else _best(info, results)
        if counts.get("failed") and (errors := results.errors):
            lines.append(f"first failure: trial {errors[0].trial}: {inert(errors[0].line, 200)} (results.errors has them all)")
        if (line := results.members_per_stack) is not None:
            lines.append(f"stacks: {inert(line, 200)}")
        notes = Counter(note.kind for note in results.log if note.kind != STACKS)
        if notes:
            lines.append(f"notes: {counted(dict(notes.most_common()))}")
        if info.folder is not None:
            lines.append(f"study: {inert(info.folder)}")
        return lines


def _draws(file: IO[str]) -> bool:
    """Whether this is a terminal that can take a table back and draw it again."""
    import os

    return file.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def _best(info: StudyInfo, results: Results) -> list[str]:
    try:
        best = results.best
    except TorchtuneError:
        return ["best: none; no trial reported a value that can be compared"]
    metric = info.objective.metrics[0]
    head = f"best {inert(metric, 40)}: {number(best.reported.get(metric))} (trial {best.trial}, step {best.step})"
    return [head, *named((inert(key, 40), number(value)) for key, value in flat(best.config).items())]


def _front(info: StudyInfo, results: Results) -> list[str]:
    front = results.pareto
    rows = []
    for metric, mode in zip(info.objective.metrics, info.objective.modes):
        if front:
            end = (min if mode == "min" else max)(front, key=lambda result: float(result.reported[metric]))
            rows.append((f"{mode} {inert(metric, 40)}", f"{number(end.reported[metric])} (trial {end.trial}, step {end.step})"))
    return [f"front: {len(front)} trials", *named(rows)]

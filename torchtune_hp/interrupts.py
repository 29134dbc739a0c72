"""Ctrl-C and SIGTERM: once, finish what is running and save it; twice, stop now."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from .trial import Note


class StudyInterrupted(KeyboardInterrupt):
    """The study was interrupted by a signal, its states were saved, and it can be resumed. `signum`: which signal."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def how_to_go_on(command: str | None, notes: Sequence[Note]) -> str:
    """What is said of an interrupted study. `command`: resumes it; None: it was in memory. `notes`: what its executor noted at the end."""
    if command is None:
        return "interrupted; the study was in memory (storage=None), so it cannot be resumed."
    unsaved = [note for note in notes if note.kind == "checkpoint"]
    lost = "nothing is lost"
    if unsaved:
        count = len({note.trial for note in unsaved})
        whose, whom = ("one trial", "it is") if count == 1 else (f"{count} trials", "they are")
        why = unsaved[0].text.splitlines()[-1]
        lost = f"the states of {whose} could not be saved, so {whom} trained again from earlier ones, or from the start ({why})"
    return f"interrupted; {lost}. To go on: {command}"


class Interrupts:
    """While it lasts, the first SIGINT or SIGTERM is remembered and the second raises; then the old handlers are back.

    Off the main thread, where Python allows no handlers, it does nothing: the program that started the thread decides.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._old: dict[int, Any] = {}

    def requested(self) -> bool:
        return self.signum is not None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._old[signum] = signal.signal(signum, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._old.items():
            if handler is not None:         # one that was set by C, before Python began, cannot be put back
                signal.signal(signum, handler)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
        with suppress(Exception):       # nobody reads it any more, or it was just being written to: what trains here is not to hear of that
            print("stopping after this step; again: stop now", file=sys.stderr, flush=True)

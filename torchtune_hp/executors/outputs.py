"""Where a worker process's stdout and stderr go, those of C code and of crashes included."""

from __future__ import annotations

import faulthandler
import os
import sys
from contextlib import suppress
from pathlib import Path

from .restoring import folder_of


class Outputs:
    """To `trials/000123/output.txt`, to another folder's, or nowhere."""

    def __init__(self, study: Path | None) -> None:
        self._study = study
        self._current: str | None = None
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        faulthandler.enable(file=2)

    def to(self, place: int | str | None) -> None:
        """From now on to the file of this trial, or in this folder of the study; None: nowhere."""
        name = folder_of(place) if isinstance(place, int) else place
        if name == self._current:
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):       # it may be the user's, or closed by the user
                stream.flush()
        self._current = name
        target = self._nowhere
        if name is not None and self._study is not None:
            with suppress(OSError):         # a full disk costs the output, not the trial
                folder = self._study / name
                folder.mkdir(parents=True, exist_ok=True)
                target = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(target, 1)
        os.dup2(target, 2)
        if target != self._nowhere:
            os.close(target)

"""What every train function's Runner shares: what the function says becomes looks, and its checkpoint is kept.

Laws, besides the Runner's:
1. The function's first unit holds all that it does before its first report, under the seed of that step. Restarted from a
   checkpoint it builds its model again, under the seed "setup"; `get_checkpoint()` then puts the seed of the step back, so
   that what is drawn after it is what would have been drawn without the interruption.
2. A returned dict is a last report if it holds the needed metrics and anything that the report before did not.
3. A refused report changes nothing.
4. A checkpoint is what was given, whatever the function does to it afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ReportError, TrialFinishedError
from ..seeds import derive
from ..trial import Trial
from .context import Session
from .reported import Cleaner, is_news
from .runner import Look, Place, State
from .seeding import reseed, seeded
from .states import copied_folder, forget, handed, snapshot


class FunctionRunner(Session):
    """What both kinds share: what the function says becomes looks, and what it gave as a checkpoint is kept."""

    def __init__(self, name: str, trial: Trial, place: Place, state: State | None, step: int) -> None:
        super().__init__(trial, place)
        self.step = step
        self.name = self._name = name
        self._clean = Cleaner(trial.id, place.metrics)
        self._start = state
        self._unread = state is not None
        self._last: Look | None = None
        self._kept: Mapping[str, Any] | Path | None = None
        self._ours = False              # whether `_kept` is a copy, or a folder, that nobody else was told of
        self._uncopied: Exception | None = None
        self._closed = self._over = False

    def advance(self) -> Look:
        if self._closed or self._over:
            raise TrialFinishedError(f"Trial {self.trial.id} has ended and cannot be advanced any more.")
        self._hold()
        self.driver = threading.get_ident()
        fresh = self._last is not None or self._start is None
        with seeded(derive(self.trial.seed, "step", self.step + 1) if fresh else derive(self.trial.seed, "setup")):
            return self._next()

    def _next(self) -> Look:
        """One unit, under the seed of its step."""
        raise NotImplementedError

    def save(self) -> State | None:
        """The checkpoint of the last report, None if it gave none. A folder belongs to the caller from now on."""
        if self._uncopied is not None:
            raise self._uncopied
        if isinstance(self._kept, Path):
            self._ours = False
            return self._kept if self._kept.is_dir() else None
        return None if self._kept is None else snapshot(dict(self._kept))

    def checkpoint(self) -> State | None:
        if self._start is None:
            return None
        if self._unread and self._last is None:
            reseed(derive(self.trial.seed, "step", self.step + 1))
        self._unread = False
        return handed(self._start)

    def take(self, metrics: object, checkpoint: object, source: str) -> Look:
        """A report, made into the look it is. Nothing has changed if it is refused."""
        clean, notes = self._clean(metrics, source)
        kept = self._keep(checkpoint, source)
        if self._unread:
            self._unread = False
            notes += (
                f"Trial {self.trial.id}: {self._name}() was started with a checkpoint of step {self.step}, but did not call "
                "get_checkpoint() before its first report: it began anew.",
            )
        self._forget()
        self._kept, self._ours = kept, isinstance(kept, Path)
        self.step += 1
        self._last = Look(self.step, clean, False, notes)
        return self._last

    def ended(self, returned: object) -> Look:
        """The function came to its end: the look that says so."""
        self._over = True
        last, source = self._last, f"the value that {self._name}() returned"
        if last is None and self.step > 0:      # restarted where it had already finished
            return Look(self.step, {}, True)
        if last is None:
            if not isinstance(returned, Mapping):
                raise ReportError(
                    f"Trial {self.trial.id}: {self._name}() ended without a report. Call hp.report({self._expected()}) in it, "
                    "or return a dict of metrics."
                )
            return replace(self.take(returned, None, source), done=True)
        if not isinstance(returned, Mapping):
            return replace(last, done=True, notes=())
        absent = [name for name in self.place.metrics if name not in returned]
        if absent:
            note = f"Trial {self.trial.id}: {source} was not taken as a report: it lacks {absent}."
            return replace(last, done=True, notes=(note,))
        clean, notes = self._clean(returned, source)
        if not is_news(clean, last.metrics):
            return replace(last, done=True, notes=notes)
        look = self.take(returned, None, source)
        return replace(look, done=True, notes=notes)

    def _keep(self, checkpoint: object, source: str) -> Mapping[str, Any] | Path | None:
        if checkpoint is None or isinstance(checkpoint, Mapping):
            return checkpoint           # copied when it is saved, or before the function goes on
        if not isinstance(checkpoint, (str, Path)):
            raise ReportError(
                f"Trial {self.trial.id}: checkpoint must be a dict or the path of a folder, but {source} gave a value of type "
                f"{type(checkpoint).__name__}."
            )
        if not Path(checkpoint).is_dir():
            raise ReportError(
                f"Trial {self.trial.id}: checkpoint must be a dict or the path of a folder that exists, but {source} gave "
                f"{str(checkpoint)!r}. Give the folder that a file lies in, not the file."
            )
        return copied_folder(Path(checkpoint), self.place.under, f"reported-{self.step + 1:06d}")

    def _hold(self) -> None:
        """The function is about to go on: it may change what it gave, and return without another report. What cannot be copied is an
        error where it is saved, and no other."""
        if self._kept is not None and not self._ours and not isinstance(self._kept, Path):
            try:
                self._kept, self._ours = snapshot(dict(self._kept)), True
            except Exception as error:
                self._kept, self._uncopied = None, error

    def _forget(self) -> None:
        if self._ours and isinstance(self._kept, Path):
            forget(self._kept)
        self._kept, self._ours, self._uncopied = None, False, None

    def _finish(self) -> None:
        if self._ours:
            self._forget()
        self.end()

    def _expected(self) -> str:
        return ", ".join(f"{name}=..." for name in self.place.metrics) or "..."

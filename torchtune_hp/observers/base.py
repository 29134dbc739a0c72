"""The contract of an observer: told what was journaled, and able to decide nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..objective import Objective
from ..trial import Command, Event, Limits, Note, Standing

if TYPE_CHECKING:
    from ..results import Results


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """What an observer may know of the study it watches, as of before the session's first turn. `folder` None: in memory.

    Of earlier sessions: `before`, how many trials they made; `standing`, where they left the study; `earlier`, what came of
    them (None: there were none). `earlier` reads the journal: ask it in `begin`, later it knows later turns.
    """

    name: str
    folder: Path | None
    objective: Objective
    limits: Limits
    max_t: int | None
    header: dict[str, Any]
    before: int = 0
    standing: Standing = field(default_factory=Standing)
    earlier: Results | None = None


@runtime_checkable
class Observer(Protocol):
    """Told in this order: `begin`, `told` for each turn, `end`. What it raises is logged; after three errors it is dropped.

    An observer that holds something open has a `close()` as well: it is called once at the very end, also if the session
    died of an error and there is no `end`, and if the observer was dropped.
    """

    def begin(self, info: StudyInfo) -> None: ...

    def told(self, events: Sequence[Event], commands: Sequence[Command]) -> None:
        """A turn, after it was journaled. The first has no events. A resumed study does not tell earlier turns again."""
        ...

    def end(self, results: Results) -> None: ...


class Observers:
    """Several observers as one, each held at arm's length."""

    def __init__(self, observers: Sequence[Observer], log: Any) -> None:
        self._errors = {id(observer): 0 for observer in observers}
        self._observers = list(observers)
        self._closing = [observer for observer in observers if hasattr(observer, "close")]
        self._log = log         # Callable[[Note], None]

    def begin(self, info: StudyInfo) -> None:
        self._each("begin", info)

    def told(self, events: Sequence[Event], commands: Sequence[Command]) -> None:
        if self._observers:
            self._each("told", events, commands)

    def end(self, results: Results) -> None:
        self._each("end", results)

    def close(self) -> None:
        """The last call, whatever happened. The journal may be closed or broken by now, so errors are not logged."""
        for observer in self._closing:
            with suppress(Exception):
                observer.close()
        self._closing = []

    def _each(self, verb: str, *arguments: Any) -> None:
        for observer in list(self._observers):
            try:
                getattr(observer, verb)(*arguments)
            except Exception as error:
                self._errors[id(observer)] += 1
                name = type(observer).__name__
                over = self._errors[id(observer)] == 3
                if over:
                    self._observers = [other for other in self._observers if other is not observer]
                self._log(Note("observer", f"{name}.{verb} raised {error!r}" + ("; it is not told any more." if over else ".")))

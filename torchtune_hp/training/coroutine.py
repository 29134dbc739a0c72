"""A unit of a trial's own code that stands still wherever it wants a member advanced, so that many trials' can be advanced at once.

It runs as a greenlet in the thread of whoever calls `go_on`, as train functions do (parked.py), and takes along what that thread and
the generators stand in. `current().advance(member)`, called in it, returns once somebody has gone on with the answer.

Laws:
1. Exactly one of all coroutines and their caller runs, and each finds the thread as it left it. So do coroutines the generators; their
   caller, who may go on with many before it draws, puts its own back itself (`Streams`).
2. One that is stopped gets TrialStopped where it stands; what it does with it, after REFUSALS times it is left there.
3. Another thread, one that the trial's code started say, is in no coroutine: there a member advances itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context

from greenlet import getcurrent, greenlet

from ..errors import TrialStopped
from .alone import ModelRunner
from .modes import change, standing
from .parked import REFUSALS
from .runner import Look
from .seeding import Streams

_running: Coroutine | None = None
_left: list[Coroutine] = []
"""Those that cannot be ended. One that nobody held would be ended by the collector, and refuse that too."""


class Coroutine:
    """`unit`: what is run. `member`: whom it wants advanced; None: it has ended, with `look`, or with what it raised, `error`."""

    def __init__(self, unit: Callable[[], Look]) -> None:
        self.member: ModelRunner | None = None
        self.look: Look | None = None
        self.error: BaseException | None = None
        self._unit = unit
        self._outer = greenlet(self._work)
        self._outer.gr_context = copy_context()
        self._stands: greenlet = self._outer
        self._thread = 0
        self._modes = standing()
        self._streams = Streams(fresh=True)
        self._answer: Look | BaseException | None = None

    def go_on(self, answer: Look | BaseException | None = None) -> None:
        """Runs it until it wants a member advanced, or ends. `answer`: what came of the one that it wanted."""
        global _running
        modes, before = standing(), _running
        self._answer, self.member = answer, None
        self._outer.parent = getcurrent()
        self._thread = threading.get_ident()
        _running = self
        self._streams.put()
        change(modes, self._modes)
        try:
            self._stands.switch()
        finally:
            self._modes = standing()
            change(self._modes, modes)
            if self.member is None:
                self._streams.give_back()
            else:
                self._streams = Streams()
            _running = before

    def advance(self, member: ModelRunner) -> None:
        """Stands still until the member was advanced. Raises what that raised."""
        self.member, self._stands = member, getcurrent()
        assert self._outer.parent is not None
        self._outer.parent.switch()
        answer, self._answer = self._answer, None
        if isinstance(answer, BaseException):
            try:
                raise answer
            finally:
                del answer      # or its traceback would hold this frame, and this frame it

    def stop(self) -> None:
        """Ends it where it stands."""
        for _ in range(REFUSALS):
            if self.member is None:
                return
            self.go_on(TrialStopped("The trial was ended by its study."))
        _left.append(self)

    def _work(self) -> None:
        try:
            self.look = self._unit()
        except BaseException as error:
            self.error = error


def current() -> Coroutine | None:
    """The coroutine that the calling code runs in, if any."""
    return _running if _running is not None and _running._thread == threading.get_ident() else None

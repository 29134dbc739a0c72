"""How a train function stands still between two reports.

It runs as a greenlet: a stack of its own in the driver's thread. `report` switches to whoever called `advance`, and `advance`
back into `report` (1 us, where handing over between two threads takes 70). A generator's yields are reports.

Laws, besides those of `looks.py`:
1. Exactly one of the two runs, and each finds the thread as it left it: see `modes.py`.
2. `close` ends the function by TrialStopped inside `report` (a generator by its own `close`). What cleanup raises comes out of
   `close`, and the trial is closed all the same. A function that catches TrialStopped and reports again is refused, and after
   too many refusals left where it stands, with a warning.
3. A report from a thread that the function started is refused: that thread has no place to stand still without the function.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any

from greenlet import getcurrent, greenlet

from ..errors import ReportError, TrialFinishedError, TrialStopped
from ..trial import Trial
from .looks import FunctionRunner
from .modes import change, standing
from .runner import Look, Place, State

REFUSALS = 100
"""How often a function may catch TrialStopped and report again before it is left where it stands."""

_left: list[greenlet] = []
"""Functions that cannot be ended. One that nobody held would be ended by the collector, and refuse that too."""


class ParkedRunner(FunctionRunner):
    """A train function as a Runner."""

    def __init__(self, call: Callable[[], Any], name: str, trial: Trial, place: Place, state: State | None, step: int) -> None:
        super().__init__(name, trial, place, state, step)
        self._call = call
        self._function: greenlet | None = None
        self._modes = standing()                # the function's own, while it stands still
        self._refused = 0
        self._look: Look | None = None
        self._returned: object = None
        self._error: BaseException | None = None

    def report(self, metrics: Mapping[str, Any], checkpoint: State | str | None) -> None:
        self._say(metrics, checkpoint, "report()")

    def _say(self, metrics: object, checkpoint: object, source: str) -> None:
        function = self._function
        if function is None or self._over:
            raise TrialFinishedError(f"Trial {self.trial.id} has ended: {self._name}() returned, and this report came after.")
        if getcurrent() is not function:
            raise ReportError(
                f"Trial {self.trial.id}: report() is to be called where {self._name}() runs, but was called in the thread "
                f"{threading.current_thread().name!r}. Hand the metrics over, by a queue.Queue say, and report them there."
            )
        if self._closed:
            self._stop(function)
        self._look = self.take(metrics, checkpoint, source)
        self._back(function)
        if self._closed:
            self._stop(function)

    def _stop(self, function: greenlet) -> None:
        self._refused += 1
        if self._refused > REFUSALS:
            _left.append(function)
            while True:
                self._back(function)
        raise TrialStopped(f"Trial {self.trial.id} was ended by its study.")

    @staticmethod
    def _back(function: greenlet) -> None:
        assert function.parent is not None
        function.parent.switch()

    def _next(self) -> Look:
        self._go_on()
        look, self._look = self._look, None
        if look is not None:
            return look
        self._over = True
        self._raise()
        return self.ended(self._returned)

    def _go_on(self) -> None:
        """Into the function, until it reports or ends."""
        mine = standing()
        if self._function is None:
            self._function = greenlet(self._work)
            self._function.gr_context = copy_context()
            self._modes = mine
        self._function.parent = getcurrent()
        change(mine, self._modes)
        try:
            self._function.switch()
        finally:
            self._modes = standing()
            change(self._modes, mine)

    def _work(self) -> None:
        try:
            with self:
                returned = self._call()
                self._returned = self._drained(returned) if isinstance(returned, Generator) else returned
        except TrialStopped:
            pass
        except BaseException as error:
            self._error = error

    def _drained(self, generator: Generator[Any, None, Any]) -> object:
        """A generator function, or a wrapper of the user's around one."""
        resume: Callable[[], Any] = partial(next, generator)
        try:
            while True:
                try:
                    said = resume()
                except StopIteration as stop:
                    return stop.value
                try:
                    self._say(*_spoken(said), f"{self._name}()'s yield")
                    resume = partial(next, generator)
                except ReportError as error:
                    resume = partial(generator.throw, error)        # so that its traceback shows the user's line
        finally:
            generator.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._function is not None and not self._function.dead:
            self._go_on()
            if not self._function.dead:
                said = f"Trial {self.trial.id}: {self._name}() goes on after TrialStopped, and was left to itself."
                warnings.warn(f"{said} Let it through, or re-raise it.", RuntimeWarning, stacklevel=2)
        self._function = None               # it holds this runner
        self._finish()
        self._raise()

    def _raise(self) -> None:
        """What the function raised, unchanged."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error                       # or its traceback would hold this frame, and this frame it


def _spoken(said: Any) -> tuple[Any, Any]:
    """What was yielded: metrics, or metrics and a checkpoint."""
    return said if isinstance(said, tuple) and len(said) == 2 else (said, None)

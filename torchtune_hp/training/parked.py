"""How a train function stands still between two reports: the Runners of generators and of ordinary functions.

A generator function stands still at its `yield` by itself. Any other function runs in a daemon thread that is parked inside
`report()`: two locks hand control over and back, so that exactly one of the two threads runs (22 us a report on two CPU
cores, 59 with the seeds).

Law, besides those of `looks.py`: `close` ends the function by TrialStopped inside `report` (a generator by its own `close`).
What cleanup raises comes out of `close`, and the trial is closed all the same. A function that goes on regardless is waited
for, for PATIENCE seconds at most, then left to itself with a warning; after too many refusals it is parked for good.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any

import torch

from ..errors import ReportError, TrialFinishedError, TrialStopped
from ..trial import Trial
from .looks import FunctionRunner
from .runner import Look, Place, State

PATIENCE = 10.0
"""Seconds that `close` waits for a function to clean up after itself."""

REFUSALS = 100
"""How often a function may catch TrialStopped and report again before its thread is parked for good."""


class GeneratorRunner(FunctionRunner):
    """A train function that yields its metrics, or (metrics, checkpoint)."""

    def __init__(self, call: Callable[[], Any], name: str, trial: Trial, place: Place, state: State | None, step: int) -> None:
        super().__init__(name, trial, place, state, step)
        self._generator: Generator[Any, None, Any] = call()

    def report(self, metrics: Mapping[str, Any], checkpoint: State | str | None) -> None:
        raise ReportError(f"Trial {self.trial.id}: {self._name}() is a generator: it yields its metrics, and does not call report().")

    def _next(self) -> Look:
        resume: Callable[[], Any] = partial(next, self._generator)
        while True:
            try:
                with self:
                    said = resume()
            except StopIteration as stop:
                return self.ended(stop.value)
            except BaseException:
                self._over = True
                raise
            try:
                return self.take(*spoken(said), f"{self._name}()'s yield")
            except ReportError as error:
                resume = partial(self._generator.throw, error)      # so that its traceback shows the user's line

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with self:
                self._generator.close()
        except RuntimeError as error:
            if "ignored GeneratorExit" not in str(error):
                raise
            _warn_left(self, "GeneratorExit")
        finally:
            self._finish()


class ThreadRunner(FunctionRunner):
    """A train function that calls `report()`, in a thread of its own."""

    def __init__(self, call: Callable[[], Any], name: str, trial: Trial, place: Place, state: State | None, step: int) -> None:
        super().__init__(name, trial, place, state, step)
        self._call = call
        self._thread: threading.Thread | None = None
        self._go = threading.Lock()         # released by advance: the function's turn
        self._parked = threading.Lock()     # released by the function: it reported or ended
        self._reporting = threading.Lock()  # held by the thread that reports; the function may have started more of them
        self._go.acquire()
        self._parked.acquire()
        self._running = False               # the function's turn; still so after an interrupted advance
        self._ended = threading.Event()
        self._hopeless = False
        self._refused = 0
        self._look: Look | None = None
        self._returned: object = None
        self._error: BaseException | None = None

    def report(self, metrics: Mapping[str, Any], checkpoint: State | str | None) -> None:
        with self._reporting:
            if self._closed:
                self._stop()
            if self._ended.is_set():
                raise TrialFinishedError(f"Trial {self.trial.id} has ended: {self._name}() returned, and this report came after.")
            self._look = self.take(metrics, checkpoint, "report()")
            self._parked.release()
            self._go.acquire()
            if self._closed:
                self._stop()

    def _stop(self) -> None:
        self._refused += 1
        if self._refused > REFUSALS:
            self._hopeless = True
            self._ended.set()
            threading.Event().wait()        # for ever: the thread is a daemon, and this costs nothing
        raise TrialStopped(f"Trial {self.trial.id} was ended by its study.")

    def _next(self) -> Look:
        if self._thread is None:
            self._running = True
            self._thread = threading.Thread(target=self._work, args=(_thread_settings(),), name=f"trial-{self.trial.id}", daemon=True)
            self._thread.start()
        elif not self._running:
            self._running = True
            self._go.release()
        self._parked.acquire()
        self._running = False
        look, self._look = self._look, None
        if look is not None:
            return look
        self._over = True
        self._raise()
        return self.ended(self._returned)

    def _work(self, apply_settings: Callable[[], None]) -> None:
        try:
            apply_settings()
            with self:
                returned = self._call()
                self._returned = self._drained(returned) if isinstance(returned, Generator) else returned
        except TrialStopped:
            pass
        except BaseException as error:
            self._error = error
        with self._reporting:               # another of the function's threads may be parked: its look comes first
            self._ended.set()
            self._parked.release()

    def _drained(self, generator: Generator[Any, None, Any]) -> object:
        """A generator behind a wrapper of the user's: its yields are reports."""
        resume: Callable[[], Any] = partial(next, generator)
        try:
            while True:
                try:
                    said = resume()
                except StopIteration as stop:
                    return stop.value
                try:
                    self.report(*spoken(said))
                    resume = partial(next, generator)
                except ReportError as error:
                    resume = partial(generator.throw, error)
        finally:
            generator.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        thread = self._thread
        if thread is not None:
            if self._go.locked():
                self._go.release()
            if not self._ended.wait(PATIENCE) or self._hopeless:
                _warn_left(self, "TrialStopped")
            else:
                thread.join(PATIENCE)
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


def spoken(said: Any) -> tuple[Any, Any]:
    """What was yielded: metrics, or metrics and a checkpoint."""
    return said if isinstance(said, tuple) and len(said) == 2 else (said, None)


def _warn_left(runner: FunctionRunner, stop: str) -> None:
    text = f"Trial {runner.trial.id}: {runner._name}() goes on after {stop}, and was left to itself. Let {stop} through, or re-raise it."
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def _thread_settings() -> Callable[[], None]:
    """What torch keeps per thread and the user set in the caller's: the default device, the CUDA device."""
    device = torch.get_default_device()
    cuda = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]

    def apply() -> None:
        if device.type != "cpu":
            torch.set_default_device(device)
        if cuda is not None:
            torch.cuda.set_device(cuda)

    return apply

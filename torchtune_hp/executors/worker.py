"""A worker process: holds live trials and does to them what the driver asks, one request after another (see messages.py)."""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from ..training.runner import Recipe, Runner, State
from .base import kind_of
from .messages import Broken, Close, Hello, Mark, Ready, Request, Said, Save, Step, Work, receive, send, trial_at, written
from .origins import Origin
from .outputs import Outputs
from .restoring import Restoring, Stopped, on_host, text_of

if TYPE_CHECKING:
    from .engine_child import EngineTrials

IN_WORKER = "TORCHTUNE_HP_WORKER"
"""Set in the environment of a worker and of whatever it starts."""


def work(driver: Connection) -> int:
    """A worker's life after birth; its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    send(driver, Ready())
    hello: Hello = receive(driver)
    os.environ.update(hello.environment, **{IN_WORKER: str(os.getpid())})
    import torch

    from ..training.seeding import undisturbed

    torch.set_num_threads(hello.cpus)
    outputs = Outputs(hello.place.folder)
    try:
        recipe: Recipe = pickle.loads(hello.recipe)
    except BaseException as error:
        send(driver, Broken(text_of(error)))
        return 1
    trials = _together(driver, recipe, hello, outputs) if hello.together else _Trials(driver, recipe, hello, outputs)
    send(driver, Ready())
    try:
        with undisturbed():
            while True:
                trials.carry_out(receive(driver))
    except (EOFError, BrokenPipeError, ConnectionResetError, Stopped):
        return 0
    finally:
        trials.close()
        outputs.to(None)


def _together(driver: Connection, recipe: Recipe, hello: Hello, outputs: Outputs) -> EngineTrials:
    from .engine_child import EngineTrials

    return EngineTrials(driver, recipe, hello, outputs)


@dataclass(slots=True)
class _Live:
    runner: Runner
    before: tuple[int, bytes] | None = None       # the look before the newest, pickled: a state may share memory with the model


@dataclass(slots=True)
class _Trials(Restoring):
    """The live trials of this worker."""

    driver: Connection
    recipe: Recipe
    hello: Hello
    outputs: Outputs
    live: dict[int, _Live] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    calls: select.poll = field(default_factory=select.poll)

    def __post_init__(self) -> None:
        self.calls.register(self.driver, select.POLLIN)

    def carry_out(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self.do(request)

    def do(self, request: Request) -> None:
        self.outputs.to(trial_at(request))
        if isinstance(request, Work):
            began = time.monotonic()
            said = self.train(request)
            notes, self.notes = tuple(self.notes), []
            send(self.driver, said._replace(seconds=time.monotonic() - began, notes=notes))
        elif isinstance(request, Save):
            self.driver.send_bytes(self.answer(request.origin))
        elif isinstance(request, Close):
            self.drop(request.trial)

    def train(self, request: Work) -> Said:
        trial, until, origin = request.trial, request.until, request.origin
        at = 0 if origin is None else origin.step
        try:
            if origin is not None:
                live = self.live[trial] = _Live(self.start(origin))
                self.stand(live.runner, origin)
            else:
                live = self.live[trial]
            if request.remember and origin is None:
                state = live.runner.save()
                live.before = (live.runner.step, pickle.dumps(state)) if state is not None else None
            at, saved = live.runner.step, time.monotonic()
            while True:
                look = live.runner.advance()
                at = look.step
                self.notes += [("report", text) for text in look.notes]
                if look.done or at >= until:
                    return Said(trial, at, 0.0, look.metrics, look.done)
                if self.hello.steps:
                    send(self.driver, Step(trial, at))
                if time.monotonic() - saved >= self.hello.save_every:
                    self.mark(trial, live.runner)
                    saved = time.monotonic()
                self.heed()
        except Stopped:
            raise
        except BaseException as error:
            self.drop(trial)
            return Said(trial, at + 1, 0.0, kind=kind_of(error), error=text_of(error))

    def mark(self, trial: int, runner: Runner) -> None:
        """Sends home the state of a trial that goes on. What goes wrong with that is no reason to fail it."""
        try:
            state = on_host(runner.save())
            message = written(Mark(trial, runner.step, state)) if state is not None else b""
        except Exception as error:
            self.notes.append(("checkpoint", f"not saved at step {runner.step}: {text_of(error)}"))
            return
        if message:
            self.driver.send_bytes(message)

    def at_hand(self, origin: Origin) -> tuple[State | None] | None:
        live = self.live.get(origin.trial)
        if live is not None:
            if live.runner.step == origin.step:
                return (live.runner.save(),)
            if live.before is not None and live.before[0] == origin.step:
                return (pickle.loads(live.before[1]),)
        return None

    def heed(self) -> None:
        """Between two steps: leaves if the driver closed the pipe, or is gone."""
        if self.calls.poll(0):
            raise Stopped

    def drop(self, trial: int) -> None:
        live = self.live.pop(trial, None)
        if live is not None:
            try:
                live.runner.close()
            except (Exception, SystemExit) as error:
                self.notes.append(("cleanup", text_of(error)))

    def close(self) -> None:
        for trial in list(self.live):
            self.outputs.to(trial)
            self.drop(trial)

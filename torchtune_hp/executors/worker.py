"""A worker process: holds live trials and does to them what the driver asks, one request after another (see messages.py)."""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..training.runner import Look, Place, Recipe, Runner, State
from ..trial import Trial
from .base import ended_early, kind_of
from .messages import Broken, Hello, Mark, Ready, Request, Said, Save, Saved, Step, Work, receive, send, written
from .origins import Origin

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
    outputs = _Outputs(hello.place.folder)
    try:
        recipe: Recipe = pickle.loads(hello.recipe)
    except BaseException as error:
        send(driver, Broken(text_of(error)))
        return 1
    trials = _Trials(driver, recipe, hello, outputs)
    send(driver, Ready())
    try:
        with undisturbed():
            while True:
                for request in receive(driver):
                    trials.do(request)
    except (EOFError, BrokenPipeError, ConnectionResetError, _Stopped):
        return 0
    finally:
        trials.close()
        outputs.to(None)


def on_host(state: Any) -> Any:
    """The same with tensors of a GPU brought to the host: the driver may have none, and numbers them differently."""
    import torch

    if isinstance(state, torch.Tensor):
        return state.detach().cpu()
    if isinstance(state, dict):
        return {key: on_host(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(on_host(value) for value in state)
    return state


def text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


class _Stopped(BaseException):
    """The driver wants no more."""


@dataclass(slots=True)
class _Live:
    runner: Runner
    before: tuple[int, bytes] | None = None       # the look before the newest, pickled: a state may share memory with the model


@dataclass(slots=True)
class _Trials:
    """The live trials of this worker."""

    driver: Connection
    recipe: Recipe
    hello: Hello
    outputs: _Outputs
    live: dict[int, _Live] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    calls: select.poll = field(default_factory=select.poll)

    def __post_init__(self) -> None:
        self.calls.register(self.driver, select.POLLIN)

    def do(self, request: Request) -> None:
        self.outputs.to(request.trial)
        if isinstance(request, Work):
            began = time.monotonic()
            said = self.train(request)
            notes, self.notes = tuple(self.notes), []
            send(self.driver, said._replace(seconds=time.monotonic() - began, notes=notes))
        elif isinstance(request, Save):
            try:
                answer = written(Saved(on_host(self.state(request.origin))))
            except _Stopped:
                raise
            except BaseException as error:
                answer = written(Saved(None, text_of(error)))
            self.driver.send_bytes(answer)
        else:
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
        except _Stopped:
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

    def state(self, origin: Origin) -> State | None:
        """The trial's state at `origin.step`, wherever it stands now."""
        live = self.live.get(origin.trial)
        if live is not None:
            if live.runner.step == origin.step:
                return live.runner.save()
            if live.before is not None and live.before[0] == origin.step:
                before: State = pickle.loads(live.before[1])
                return before
        runner = self.start(origin)
        try:
            self.stand(runner, origin)
            return runner.save()
        finally:
            runner.close()

    def start(self, origin: Origin) -> Runner:
        trial: Trial = pickle.loads(origin.packed)
        place = self.place(origin.trial)
        if origin.saved is not None:
            return self.recipe.start(trial, place, origin.saved[1], origin.saved[0])
        if origin.parent is not None:
            state = self.state(origin.parent)
            if state is None:
                raise RuntimeError(f"Trial {trial.id} is to go on from trial {origin.parent.trial}, which cannot be saved.")
            return self.recipe.start(trial, place, pickle.loads(pickle.dumps(state)), origin.parent.step)
        return self.recipe.start(trial, place)

    def stand(self, runner: Runner, origin: Origin) -> None:
        """Trains again what is missing, silently."""
        look: Look | None = None
        while runner.step < origin.step:
            if look is not None and look.done:
                raise ended_early(origin.trial, look.step, origin.step)
            look = runner.advance()
            self.heed()

    def heed(self) -> None:
        """Between two steps: leaves if the driver closed the pipe, or is gone."""
        if self.calls.poll(0):
            raise _Stopped

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

    def place(self, trial: int) -> Place:
        folder = self.hello.place.folder
        return self.hello.place if folder is None else replace(self.hello.place, folder=_folder(folder, trial))


class _Outputs:
    """Where stdout and stderr go, those of C code and of crashes included: `trials/000123/output.txt`, or nowhere."""

    def __init__(self, study: Path | None) -> None:
        self._study = study
        self._current: int | None = None
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        faulthandler.enable(file=2)

    def to(self, trial: int | None) -> None:
        """From now on to this trial's file; None: nowhere."""
        if trial == self._current:
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):       # it may be the user's, or closed by the user
                stream.flush()
        self._current = trial
        target = self._nowhere
        if trial is not None and self._study is not None:
            with suppress(OSError):         # a full disk costs the output, not the trial
                folder = _folder(self._study, trial)
                folder.mkdir(parents=True, exist_ok=True)
                target = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(target, 1)
        os.dup2(target, 2)
        if target != self._nowhere:
            os.close(target)


def _folder(study: Path, trial: int) -> Path:
    return study / "trials" / f"{trial:06d}"

"""A worker process that trains all that it is sent at once, by an engine on its device; how one speaks with it is in messages.py.

What lies side by side in a list of requests is done together: Works as one turn, and Saves of trials that are to stay are first brought,
together, to where they stand. Whoever has one device and wants it in a process of its own needs no more than one of these.

Laws:
1. Works of one list are answered together, in their order; what is worth logging goes before.
2. What a clock chose is used only once the driver has it in the journal, and then as it stands there, whoever chose it first.
3. Trials that rest here, because nobody asked for them yet, are within the budgets of LocalTrials.
"""

from __future__ import annotations

import math
import pickle
import select
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from multiprocessing.connection import Connection
from typing import Any, cast

from ..training.model import ModelRecipe
from ..training.runner import Look, Recipe, State
from ..trial import Drop, Failed, Reached, Trial
from ..vault import Vault
from .base import Job
from .coroutines import CoroutineTrials
from .messages import (
    Chose,
    Chosen,
    Close,
    Hello,
    Measure,
    Measured,
    Request,
    Said,
    Save,
    Several,
    Step,
    Told,
    Work,
    receive,
    send,
)
from .models import ModelTrials
from .origins import Origin
from .outputs import Outputs
from .restoring import Restoring, Stopped, on_host
from .slots import measured


class EngineTrials(Restoring):
    """The live trials of this worker, trained together."""

    def __init__(self, driver: Connection, recipe: Recipe, hello: Hello, outputs: Outputs) -> None:
        assert hello.together is not None
        self.recipe, self.hello = recipe, hello
        self._driver, self._outputs, self._together = driver, outputs, hello.together
        self._states = _States()
        choices = _Choices(driver, hello.together.choices)
        self._job = Job(recipe, hello.place, cast(Vault, self._states), checkpoint_every=math.inf, choices=choices)
        kind = ModelTrials if isinstance(recipe, ModelRecipe) else CoroutineTrials
        self._trials: ModelTrials | CoroutineTrials = kind(self._job, (), hello.together.strategy)
        self._trials.passing = self._passed
        self._until: dict[int, int] = {}                    # of those that are being trained
        self._before: dict[int, tuple[int, bytes]] = {}     # the look before the newest, pickled: a state may share memory with the model
        self._calls = select.poll()
        self._calls.register(driver, select.POLLIN)

    def carry_out(self, requests: Sequence[Request]) -> None:
        for kind, run in groupby(requests, type):
            same: list[Any] = list(run)
            if kind is Work:
                self._work(same)
            elif kind is Save:
                self._save(same)
            elif kind is Measure:
                for request in same:
                    self._measure(request)
            else:
                self._close(same)

    def close(self) -> None:
        self._trials.close()

    # Training ------------------------------------------------------------------------------------------------------------

    def _work(self, works: Sequence[Work]) -> None:
        for work in works:
            if work.origin is not None:
                self._begin(work.origin)
            elif work.remember:
                self._remember(work.trial)
        began = time.monotonic()
        answers = self._train({work.trial: work.until for work in works})
        seconds = (time.monotonic() - began) / len(works)
        send(self._driver, Several((*self._told(), *(_said(answer, seconds) for answer in answers))))

    def _train(self, until: dict[int, int]) -> list[Reached | Failed]:
        self._outputs.to(self._together.output if len(until) > 1 else next(iter(until)))
        self._trials.tidy(set(until))
        self._until = until
        return self._trials.train_all(list(until.items()))

    def _begin(self, origin: Origin) -> None:
        """The next training of this trial goes on from its origin."""
        trial: Trial = pickle.loads(origin.packed)
        self._trials.place(trial, origin.step)
        self._states.forget(trial.id)
        self._before.pop(trial.id, None)
        try:
            known = self.known(origin)
            if known is not None:
                self._states.rest(trial.id, *known)
        except (Exception, SystemExit) as error:
            self._trials.unborn(trial.id, error)

    def _remember(self, trial: int) -> None:
        live = self._trials.standing(trial)
        state = None if live is None else live.save()
        if live is not None and state is not None:
            self._before[trial] = live.step, pickle.dumps(state)

    def _passed(self, trial: int, look: Look) -> None:
        """A trial that goes on took a step."""
        self.heed()
        if look.step < self._until[trial]:
            send(self._driver, Step(trial, look.step))

    def heed(self) -> None:
        if self._calls.poll(0):
            raise Stopped

    # States --------------------------------------------------------------------------------------------------------------

    def _save(self, saves: Sequence[Save]) -> None:
        staying = [save.origin for save in saves if save.stays]
        for origin in staying:
            self._begin(origin)
        if staying:
            self._train({origin.trial: origin.step for origin in staying})
        for told in self._told():
            send(self._driver, told)
        for save in saves:
            self._outputs.to(save.trial)
            self._driver.send_bytes(self.answer(save.origin))

    def at_hand(self, origin: Origin) -> tuple[State | None] | None:
        live = self._trials.standing(origin.trial)
        if live is not None and live.step == origin.step:
            return (live.save(),)
        resting = self._states.held.get(origin.trial)
        if live is None and resting is not None and resting[0] == origin.step:
            return (resting[1],)
        before = self._before.get(origin.trial)
        return (pickle.loads(before[1]),) if before is not None and before[0] == origin.step else None

    def _close(self, closes: Iterable[Close]) -> None:
        for close in closes:
            self._outputs.to(close.trial)
            self._before.pop(close.trial, None)
            self._trials.drop(Drop(close.trial))

    # What is said ---------------------------------------------------------------------------------------------------------

    def _measure(self, request: Measure) -> None:
        trial: Trial = pickle.loads(request.packed)
        size = measured(replace(self._job, first=lambda: trial, trials=request.trials), self._together.strategy)
        send(self._driver, Measured(size.slots, size.why))

    def _told(self) -> list[Told]:
        notes = tuple(self._trials.notes)
        self._trials.notes.clear()
        return [Told(notes)] if notes else []


def _said(answer: Reached | Failed, seconds: float) -> Said:
    if isinstance(answer, Failed):
        return Said(answer.trial, answer.step, seconds, kind=answer.kind, error=answer.error)
    return Said(answer.trial, answer.step, seconds, answer.metrics, answer.done)


class _States:
    """What stands here for the vault, which is the driver's: states of trials that are to begin, or that wait."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[int, State]] = {}

    def rest(self, trial: int, step: int, state: State) -> None:
        self.held[trial] = step, on_host(state)

    def wake(self, trial: int) -> tuple[int, State] | None:
        return self.held.pop(trial, None)

    def newest(self, trial: int, upto: int | None = None) -> None:
        return None

    def forget(self, trial: int, purpose: str = "resume") -> None:
        self.held.pop(trial, None)


class _Choices(dict[str, str]):
    """What a clock chose in this study."""

    def __init__(self, driver: Connection, known: Mapping[str, str]) -> None:
        super().__init__(known)
        self._driver = driver

    def __setitem__(self, what: str, chosen: str) -> None:
        send(self._driver, Chose(what, chosen))
        try:
            answer: Chosen = receive(self._driver)
        except (EOFError, OSError):
            raise Stopped from None
        super().__setitem__(what, answer.chosen)

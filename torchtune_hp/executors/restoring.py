"""In a worker process: bringing a trial to where it stands, from its origin; and when to stop."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import replace
from typing import Any

from ..training.runner import Look, Place, Recipe, Runner, State
from ..trial import Trial
from .base import ended_early
from .messages import Hello, Saved, written
from .origins import Origin


class Stopped(BaseException):
    """The driver wants no more."""


class Restoring:
    """Trials of a worker that are not live in it, or not where they are wanted."""

    __slots__ = ()

    recipe: Recipe
    hello: Hello

    def at_hand(self, origin: Origin) -> tuple[State | None] | None:
        """The trial's state at `origin.step`, if it is known here without training."""
        raise NotImplementedError

    def heed(self) -> None:
        """Between two steps: raises Stopped if the driver wants no more."""
        raise NotImplementedError

    def state(self, origin: Origin) -> State | None:
        """The trial's state at `origin.step`, wherever it stands now."""
        found = self.at_hand(origin)
        if found is not None:
            return found[0]
        runner = self.start(origin)
        try:
            self.stand(runner, origin)
            return runner.save()
        finally:
            runner.close()

    def answer(self, origin: Origin) -> bytes:
        """That state as it is sent to the driver, or why it cannot be had."""
        try:
            return written(Saved(on_host(self.state(origin))))
        except Stopped:
            raise
        except BaseException as error:
            return written(Saved(None, text_of(error)))

    def start(self, origin: Origin) -> Runner:
        trial: Trial = pickle.loads(origin.packed)
        place, known = self.place(origin.trial), self.known(origin)
        return self.recipe.start(trial, place) if known is None else self.recipe.start(trial, place, known[1], known[0])

    def known(self, origin: Origin) -> tuple[int, State] | None:
        """The step and the state that the trial is to begin from; None: from nothing."""
        if origin.saved is not None or origin.parent is None:
            return origin.saved
        state = self.state(origin.parent)
        if state is None:
            raise RuntimeError(f"Trial {origin.trial} is to go on from trial {origin.parent.trial}, which cannot be saved.")
        return origin.parent.step, pickle.loads(pickle.dumps(state))

    def stand(self, runner: Runner, origin: Origin) -> None:
        """Trains again what is missing, silently."""
        look: Look | None = None
        while runner.step < origin.step:
            if look is not None and look.done:
                raise ended_early(origin.trial, look.step, origin.step)
            look = runner.advance()
            self.heed()

    def place(self, trial: int) -> Place:
        place = self.hello.place
        return place if place.folder is None else replace(place, folder=place.folder / folder_of(trial))


def folder_of(trial: int) -> str:
    """A trial's folder in its study's."""
    return f"trials/{trial:06d}"


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

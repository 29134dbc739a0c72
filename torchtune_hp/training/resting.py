"""What is trained alone, while nobody trains it: saved, put where a state was saved, and in host memory meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..trial import Trial
from .beside import Beside
from .carried import built, carry, check_built, hyper, load
from .feed import Feed
from .frozen import Frozen
from .hooks import ModelTrainable
from .moving import HOST, move


class Resting:
    """Of the runner that stands on it."""

    set_up = True       # setup makes its model, so that what it is made of must be what setup makes
    step: int
    updates: int
    member: ModelTrainable
    feed: Feed
    _trial: Trial

    def _note_what_setup_made(self) -> None:
        self._initial, self._built = hyper(self.member), built(self.member.model)
        self._beside, self._frozen = Beside(self.member), Frozen(self.member, self.set_up)
        self._lost: dict[str, str] = {}         # what cannot be saved, by name: what it is
        self._unsaid: list[str] = []            # sentences for the next look
        self._looked_at = False
        self._validated: dict[str, float] | None = None
        self._lies: torch.device | None = self.member.device

    def save(self, whole: bool = False) -> dict[str, Any]:
        """Tensors, numbers, strings, dicts and lists; copies, on the device. What is lost of them, the next look says.

        It is to be loaded into what `setup` makes; `whole`: or into this one, at any time.
        """
        if self.set_up:
            check_built(self._built, built(self.member.model))
        place = {"step": self.step, "updates": self.updates, "epoch": self.feed.epoch, "offset": self.feed.offset}
        validated = None if self._validated is None else dict(self._validated)
        beside, lost = self._beside.changed(self.member)
        self._lose(lost)
        frozen = {} if whole else self._frozen.untouched(self.member)
        return {**carry(self.member, self._initial, frozen), **place, "validated": validated, "beside": beside}

    def _look_beside(self) -> None:
        """What a hook changes, it mostly changes the first time. What else was changed is looked at when it is saved."""
        if not self._looked_at:
            self._lose(self._beside.changed(self.member)[1])
        self._looked_at = True

    def _lose(self, lost: Mapping[str, str]) -> None:
        """What cannot be saved is said once."""
        self._unsaid += [
            f"Trial {self._trial.id}: {name} ({what}) cannot be stored, and was changed since setup: what goes on from a checkpoint, and "
            "best.load(), have it as setup makes it. Keep it in numbers, strings, tensors, lists and dicts of them, or objects and modules "
            "of a class that setup makes there."
            for name, what in lost.items() if name not in self._lost
        ]   # fmt: skip
        self._lost.update(lost)

    def stand(self, state: Mapping[str, Any]) -> None:
        """Puts it where `state` was saved, in the course of the iteration after `step`."""
        words = load(self.member, state, self._initial)
        if "beside" in state:
            self._beside.put(self.member, state["beside"], words)
        self.updates, self.feed.epoch, self.feed.offset = state["updates"], state["epoch"], state["offset"]
        self._validated = None if state["validated"] is None else dict(state["validated"])

    def rest(self) -> None:
        """Its model and optimizer lie in host memory until `wake`; it can be saved there, but not trained."""
        self._lie(HOST)

    def wake(self) -> None:
        """They lie on its device again, where they are trained."""
        self._lie(self.member.device)

    def _lie(self, device: torch.device) -> None:
        if self._lies != device:
            self._lies = None       # there may be room for half of it only
            untouched = self._beside.untouched(self.member)
            move(self.member.model, self.member.optimizer, device)
            self._beside.moved(untouched)
            self._lies = device

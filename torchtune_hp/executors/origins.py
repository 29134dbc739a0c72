"""How a trial gets to stand where it stood, in a process that never saw it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..training.runner import State

if TYPE_CHECKING:
    from ..vault import Vault


class Origin(NamedTuple):
    """Trial number `trial` at `step`: from `saved`, a step and a state; or else from its `parent`'s state; or from nothing.

    What is missing is trained again. `packed`: the Trial, as `travel.packed` gives it.
    """

    trial: int
    packed: bytes
    step: int
    saved: tuple[int, State] | None = None
    parent: Origin | None = None

    @property
    def begins(self) -> int:
        """The step from which it is trained again."""
        if self.saved is not None:
            return self.saved[0]
        return 0 if self.parent is None else self.parent.step


def from_saved(origin: Origin, limit: int, vault: Vault) -> Origin:
    """The same place, to be reached from the newest durable state not beyond `limit`: the trial's own, or its parent's."""
    found = vault.newest(origin.trial, upto=limit)
    if found is not None:
        return origin._replace(saved=found)
    parent = origin.parent
    return origin._replace(parent=None if parent is None else from_saved(parent, parent.step, vault))


def discarded(state: State | None) -> None:
    """A folder that a runner saved into is the driver's, and stored elsewhere by now: it goes."""
    if isinstance(state, Path):
        shutil.rmtree(state, ignore_errors=True)

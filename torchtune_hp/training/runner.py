"""What an executor holds of a live trial: a Runner. How each kind of trainable becomes one is in its own file.

    Trainable        trainable.py      setup / step / save_checkpoint / load_checkpoint
    train function   function.py       parked inside report() until it may go on (parked.py)
    ModelTrainable   model.py          model, optimizer, loss and data; trained alone here

`advance` does one unit of budget under seeds derived from (trial seed, step): what a trial draws from torch, numpy or
`random` depends on nothing else, so a trial that is trained again from a checkpoint repeats itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..trial import Scalar, Trial

State = Mapping[str, Any] | Path
"""A checkpoint in hand: a dict of tensors, numbers, strings and nested dicts and lists of them, or a folder of files."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trial lives and what it may know: its folder (None: in memory), its device, the budget, the needed metrics.

    `metrics`: keys every report must hold as numbers; a report without one fails the trial as "bad_metric". `seed`: the study's, for
    what all its trials share. `scratch`: where folders that nobody asked to keep are made, where there is no `folder`; whoever made it
    removes it, with what a process that died left there. None: among the system's temporary ones.
    """

    folder: Path | None = None
    device: str = "cpu"
    max_t: int | None = None
    metrics: tuple[str, ...] = ()
    study: str = ""
    seed: int = 0
    scratch: Path | None = None

    @property
    def under(self) -> Path | None:
        """Where a trial's folders are made; None: among the system's temporary ones."""
        return self.folder or self.scratch


@dataclass(frozen=True, slots=True)
class Look:
    """What one unit of budget gave. `notes`: sentences for the study's log (a dropped metric key, say)."""

    step: int
    metrics: Mapping[str, Scalar]
    done: bool = False
    notes: tuple[str, ...] = field(default=())


class Runner(Protocol):
    """One live trial.

    Laws:
    1. `advance` trains one unit and returns the look after it. If the trial ends without a further report, the look has
       `done=True` and the step and metrics of the report before (step 0 and no metrics if there was none: a ReportError).
    2. What the user's code raises comes out of `advance` (and of the constructor) unchanged.
    3. `save` then a new runner with `state=` then `advance` gives the same looks as `advance` alone.
    4. `close` ends the trial, always, and runs the user's cleanup; a second `close` does nothing.
    """

    @property
    def step(self) -> int: ...
    def advance(self) -> Look: ...
    def save(self) -> State | None: ...     # None: it cannot be saved
    def close(self) -> None: ...


class Recipe(Protocol):
    """A trainable, as executors see it: how to begin a trial, and whether its state can be saved."""

    saves: bool
    name: str
    max_t: int | None      # the trial's own end, where the trainable states one
    ends: bool             # a trial ends by itself: a function that returns, say

    def start(self, trial: Trial, place: Place, state: State | None = None, step: int = 0) -> Runner:
        """A runner that stands at `step`: 0, or where `state` was saved."""
        ...

    def restore(self, trial: Trial, place: Place, state: State, step: int) -> Any:
        """What `best.load()` gives: the trained nn.Module, the Trainable, or a function's checkpoint."""
        ...

    def test(self, trial: Trial, place: Place, state: State, step: int) -> dict[str, Scalar]:
        """What `best.test()` gives: the metrics of the test set. Raises ConfigurationError where there is none."""
        ...

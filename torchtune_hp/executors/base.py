"""The contract of an executor: who does the work and says what happened."""

from __future__ import annotations

import traceback
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from ..errors import DivergedError, ReportError
from ..trial import Command, Event, Failed, FailKind, Note, Reached, Setting, Standing, Trial

if TYPE_CHECKING:
    from ..training.runner import Place, Recipe
    from ..vault import Vault


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be trained and where it is kept. `place.folder` is the study's folder; a trial's lies in it.

    For an executor that finds out by itself how many trials it runs at once: `capacity`, what a study that is resumed began with;
    `trials`, how many there can be; `first`, the trial such a study begins with, to try it out.

    `choices`: what a clock chose, by whatever names the executor gives it. In a study, its journal holds it before it is first used, so
    that one that is resumed finds it here, and keeps to it.
    """

    recipe: Recipe
    place: Place
    vault: Vault
    checkpoint_every: float = 60.0
    capacity: int | None = None
    trials: int | None = None
    first: Callable[[], Trial] | None = None
    choices: MutableMapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Executor(Protocol):
    """Does what it is told and says what happened. Owns devices, processes and the clock.

    Laws:
    1. Each Launch or Train is answered by exactly one Reached or Failed.
    2. A resting trial is seen as of its last look: Keep and a later Train find it there.
    3. Virtual time (`ordered`): what is submitted at tick s is due at s + (steps it took, at least 1); `wait` moves to the
       earliest due tick and returns all that is due there, in order of submission. A failure is due at the end of the step
       it happened in. Physical slots decide only how long a tick takes.
    4. A trial whose state was lost is trained again from its newest durable checkpoint, or from 0; nothing of the
       repetition is said twice.
    5. `close` leaves no process, thread or file handle behind; after what it answers, nothing is said.
    """

    @property
    def ordered(self) -> bool: ...

    def prepare(self, job: Job) -> int:
        """Once, before `begin`: what is to be done. Returns the capacity: how many trials run at once, logically."""
        ...

    def begin(self, setting: Setting, standing: Standing) -> None: ...
    def submit(self, command: Command) -> None: ...
    def wait(self) -> list[Event]: ...      # blocks; at least one event

    def close(self, save: bool = False) -> Sequence[Note] | None:
        """`save`: first makes every state durable that can be. What is to be noted of that, and was not said yet; None: nothing."""
        ...


def failed(trial: int, step: int, error: BaseException, time: float) -> Failed:
    """An exception as an event: the kind from its class, the text with its traceback."""
    return Failed(trial, step, kind_of(error), "".join(traceback.format_exception(error)).rstrip(), time)


def forget_frames(error: BaseException) -> None:
    """Of the frames that an error and its causes were raised through: they hold the error in turn, and a study's tensors with it."""
    chain: list[BaseException | None] = [error]
    while chain:
        one = chain.pop()
        if one is not None and one.__traceback__ is not None:
            one.__traceback__ = None
            chain += [one.__cause__, one.__context__]


def ended_early(trial: int, step: int, before: int) -> RuntimeError:
    return RuntimeError(
        f"Trial {trial} ended at step {step} when it was trained again after its state was lost, but had reached step {before} before: "
        "it draws from something besides its seed."
    )


def kind_of(error: BaseException) -> FailKind:
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, ReportError):
        return "bad_metric"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "oom"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "error"


E = TypeVar("E", bound=Reached | Failed | Note)


def stamped(event: E, time: float) -> E:
    """The same event at this second of the study."""
    if isinstance(event, Reached):          # nearly always; `replace` takes three times as long
        return Reached(event.trial, event.step, event.metrics, time, event.done)  # type: ignore[return-value]
    return replace(event, time=time)

"""What the driver and a worker process say to each other.

    driver                                worker
            <------------------ Ready()           once, when it was born
    Hello() ------------------>
            <------------------ Ready()           the trainable is rebuilt; or Broken()
    [Work, Save, Close, ...] -->
            <------------------ Step()*, Mark()*, Said()      of each Work
            <------------------ Saved()                       of each Save

A worker that trains together (engine_child.py) does what lies side by side in a list at once, and says more:

            <------------------ Measured()                    of Measure()
            <------------------ Told()                        before Said() of the Works it is of
            <------------------ Several()                     some of these in one
            <------------------ Chose()           in between; it waits for
    Chosen() ---------------->

Rule 1. The driver sends a list of requests only to a worker that has answered all before. So never do both ends write at
        once, and states of any size pass without a deadlock.
Rule 2. A trial stays live in the worker until it fails or is dropped. A request names the trial's `Origin`: from it a trial
        that is not live there is brought to where it stands, silently.
Rule 3. To close the pipe is to say stop: the worker closes its trials and leaves, between two steps at the latest.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from ..training.runner import Place, State
from ..trial import Failed, FailKind, Note, Reached, Scalar
from .origins import Origin

if TYPE_CHECKING:
    from ..population.choosing import Strategy

# What the driver asks ----------------------------------------------------------------------------------------------------


class Hello(NamedTuple):
    """`recipe`: pickled. `save_every`: seconds of training within one Work after which a state is sent home."""

    recipe: bytes
    place: Place
    cpus: int
    environment: dict[str, str]
    save_every: float
    steps: bool         # whether each Step is to be said
    together: Together | None = None


class Together(NamedTuple):
    """A worker that trains all that it is sent at once. `output`: the folder, in the study's, of what is written meanwhile."""

    strategy: Strategy
    choices: dict[str, str]
    output: str


class Work(NamedTuple):
    """Train to step `until`. `origin` None: the trial lives there. `remember`: the state before is wanted later, by Save. `alone`: sent in
    a list of its own."""

    trial: int
    until: int
    remember: bool = False
    origin: Origin | None = None
    alone: bool = False

    @property
    def saved(self) -> tuple[int, State] | None:
        return None if self.origin is None else self.origin.saved


class Save(NamedTuple):
    """The state at `origin.step`. `why`: for the driver to remember. `stays`: the trial is to live there afterwards, ready for a Work."""

    origin: Origin
    why: frozenset[str]
    tries: int = 0
    stays: bool = False

    @property
    def trial(self) -> int:
        return self.origin.trial


class Close(NamedTuple):
    """Close the trial, if it lives here. Not answered."""

    trial: int


class Measure(NamedTuple):
    """How many trials such as this one are best trained at once? `trials`: as many as there can be."""

    packed: bytes
    trials: int | None


Request = Work | Save | Close | Measure


class Chosen(NamedTuple):
    """What holds, of what the worker chose."""

    chosen: str


def trial_at(request: Request) -> int | None:
    """What trial it is about."""
    return None if isinstance(request, Measure) else request.trial


def is_alone(request: Request) -> bool:
    return isinstance(request, Work) and request.alone


# What the worker says ----------------------------------------------------------------------------------------------------


class Ready(NamedTuple):
    """All that was asked is done."""


class Broken(NamedTuple):
    """The trainable cannot be rebuilt here."""

    error: str


class Step(NamedTuple):
    """The trial passed this step and goes on."""

    trial: int
    step: int


class Mark(NamedTuple):
    """The state of a trial that goes on."""

    trial: int
    step: int
    state: State


class Told(NamedTuple):
    """What is worth logging."""

    notes: tuple[Note, ...]


class Chose(NamedTuple):
    """What a clock chose: it is used only once the driver has it in the journal."""

    what: str
    chosen: str


class Measured(NamedTuple):
    slots: int
    why: str


class Said(NamedTuple):
    """The answer to Work: the look it ended with, or why it failed. `seconds` it took."""

    trial: int
    step: int
    seconds: float
    metrics: Mapping[str, Scalar] = {}
    done: bool = False
    kind: FailKind | None = None
    error: str = ""
    notes: tuple[tuple[str, str], ...] = ()     # kind, text

    def event(self) -> Reached | Failed:
        if self.kind is not None:
            return Failed(self.trial, self.step, self.kind, self.error, 0.0)
        return Reached(self.trial, self.step, self.metrics, 0.0, self.done)


class Saved(NamedTuple):
    """The answer to Save. No state: it cannot be saved, or saving raised `error`."""

    state: State | None
    error: str = ""


class Several(NamedTuple):
    """As if each had come by itself; a tenth of the way for each."""

    replies: tuple[Word, ...]


Word = Step | Mark | Told | Chose | Measured | Said | Saved
"""On what was asked."""

Reply = Ready | Broken | Several | Word


def written(message: object) -> bytes:
    """By plain pickle: `Connection.send` would move tensors through shared memory, one file handle each."""
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)


def send(connection: Connection, message: object) -> None:
    connection.send_bytes(written(message))


def receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())

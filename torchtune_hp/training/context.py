"""Which trial the running code belongs to: `hp.context()`, and what `hp.report` and `hp.get_checkpoint` talk to.

A trial's code finds its session through a context variable, set around each call into it. A context variable does not reach
the threads that the user's code starts itself, so those fall back to the only open trial of the process; where several are
open nothing is guessed. The main thread and threads that advance trials never fall back: a train function called there by
hand is an ordinary function.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ConfigurationError
from ..trial import Trial
from .runner import Place, State


@dataclass(frozen=True, slots=True)
class Context:
    """What a trial may know of itself. The default is that of code outside every trial, so that functions run alone.

    `trial_id`: None outside. `seed`: the trial's own. `dir`: its folder, made on the first `hp.context()`; None if the study
    is kept in memory. `device`: where to train, for `tensor.to`. `max_t`: the largest budget in steps, None if there is no
    bound. `study`: the study's name.
    """

    trial_id: int | None = None
    seed: int = 0
    dir: Path | None = None
    device: str = "cpu"
    max_t: int | None = None
    study: str = ""


NOWHERE = Context()


def context() -> Context:
    """The trial that the calling code belongs to: its id, seed, folder, device and budget. Neutral outside a study."""
    session = current()
    if session is None:
        return NOWHERE
    found = session.context
    if found.dir is not None:
        found.dir.mkdir(parents=True, exist_ok=True)
    return found


class Session:
    """One live trial, as its own code sees it. Entering it makes it the one that `context()` finds.

    Laws: open from construction to `end`; entered by one thread at a time; `end` may be called twice.
    """

    def __init__(self, trial: Trial, place: Place) -> None:
        self.trial = trial
        self.place = place
        self.context = Context(trial.id, trial.seed, place.folder, place.device, place.max_t, place.study)
        self.driver = threading.get_ident()
        self.name = "Trainer"           # what trains, as its author calls it
        self._tokens: list[Token[Session | None]] = []
        self.trainers = 0               # how many hp.Trainer its code has made
        _open[id(self)] = self

    def __enter__(self) -> None:
        self._tokens.append(_current.set(self))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        _current.reset(self._tokens.pop())

    def report(self, metrics: Mapping[str, Any], checkpoint: State | str | None) -> None:
        raise ConfigurationError("report() is for train functions; a Trainable reports by returning its metrics from step().")

    def checkpoint(self) -> State | None:
        raise ConfigurationError("get_checkpoint() is for train functions; a Trainable is given its checkpoint by load_checkpoint().")

    def end(self) -> None:
        _open.pop(id(self), None)


@contextmanager
def of_many() -> Iterator[None]:
    """A block that is run once for many trials: there is no one of them for `context()` to tell of."""
    token = _current.set(_MANY)
    try:
        yield
    finally:
        _current.reset(token)


class Nobody(Session):
    """Of code outside every study: entering it changes nothing."""

    def __init__(self) -> None:
        """Open nowhere, of nobody."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


class _Many(Session):
    def __init__(self) -> None:
        """Open nowhere, of nobody."""

    @property
    def context(self) -> Context:  # type: ignore[override]
        raise ConfigurationError(
            "hp.context() is one trial's, but here it is called in a hook that runs once for many trials. Read it in setup, and keep what "
            "is needed on self."
        )


def current() -> Session | None:
    """The session of the calling code, None outside every trial. ConfigurationError where that cannot be told."""
    session = _current.get()
    if session is not None or not _open:
        return session
    here = threading.get_ident()
    candidates = list(_open.values())
    if here == threading.main_thread().ident or any(candidate.driver == here for candidate in candidates):
        return None
    if len(candidates) == 1:
        return candidates[0]
    raise ConfigurationError(
        f"A thread that a train function started must belong to one trial, but {len(candidates)} trials are open in this process. "
        "Start it with the function's own context: Thread(target=contextvars.copy_context().run, args=(work,))."
    )


_MANY = _Many()
_current: ContextVar[Session | None] = ContextVar("torchtune_hp_session", default=None)
_open: dict[int, Session] = {}

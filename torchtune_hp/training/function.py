"""Train functions: `@hp.trainable`, and what is called in one: `hp.report`, `hp.get_checkpoint`.

A train function takes a config and reports its metrics, once per unit of budget; a generator function that yields them is
one too. It stays an ordinary function: called by hand, `report` does nothing and `get_checkpoint` gives None.

    @hp.trainable(space={"lr": hp.loguniform(1e-4, 1e-1)}, metric="loss", mode="min")
    def train(config):
        ...
        hp.report(loss=loss)

    results = train.tune(trials=50)
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, overload

from ..errors import ConfigurationError, ReportError
from ..trial import Scalar, Trial
from .context import current
from .parked import ParkedRunner
from .runner import Place, State
from .states import handed, own_config


class TrainFunction:
    """A decorated train function: the function itself, and what it is tuned with by default (`defaults`)."""

    def __init__(self, function: Callable[..., Any], defaults: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.defaults: dict[str, Any] = dict(defaults)

    @property
    def space(self) -> Any:
        return self.defaults.get("space")

    @property
    def metric(self) -> Any:
        return self.defaults.get("metric")

    @property
    def mode(self) -> Any:
        return self.defaults.get("mode")

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self.function(*args, **keywords)

    def tune(self, **keywords: Any) -> Any:
        """Runs a study of this function: `hp.Tuner(self, ...).fit()`. What is given here goes before the decorator's."""
        return tune(self, self.defaults, keywords)

    def __repr__(self) -> str:
        return f"<train function {name_of(self.function)}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name like any function of a module, by value where there is no such name (a script's `__main__`, a closure)."""
        module, name = getattr(self, "__module__", None), getattr(self, "__qualname__", "")
        if module not in (None, "__main__"):
            found: Any = sys.modules.get(module)
            for part in name.split("."):
                found = getattr(found, part, None)
            if found is self:
                return name
        return TrainFunction, (self.function, self.defaults)


@overload
def trainable(function: Callable[..., Any], /) -> TrainFunction: ...
@overload
def trainable(
    *, space: Any = None, metric: str | list[str] | None = None, mode: str | list[str] | None = None, **defaults: Any
) -> Callable[[Callable[..., Any]], TrainFunction]: ...


def trainable(
    function: Callable[..., Any] | None = None,
    /,
    *,
    space: Any = None,
    metric: str | list[str] | None = None,
    mode: str | list[str] | None = None,
    **defaults: Any,
) -> Any:
    """Makes a train function of `def train(config)`. Further keywords are kept for the Tuner (`scheduler=`, `trials=`, ...)."""
    given = {name: value for name, value in (("space", space), ("metric", metric), ("mode", mode)) if value is not None} | defaults
    if function is None:
        return functools.partial(_decorated, defaults=given)
    return _decorated(function, given)


def report(metrics: Mapping[str, Any] | None = None, /, *, checkpoint: State | str | None = None, **named: Any) -> None:
    """Says how the training stands after one more unit of budget; returns when the study sends the trial on.

    metrics: one dict, or keywords, or both. Numbers of Python and numpy and 0-dim tensors; bool, str and None are kept, and
    anything else is dropped with a note. checkpoint: what the trial may be restarted from: a dict of tensors, numbers,
    strings and nested dicts and lists of them, or the path of a folder, which is copied away at once.

    Raises ReportError if a metric the study needs is missing or is no number, TrialStopped (not an Exception) if the study
    has ended the trial. Outside a study it does nothing.
    """
    session = current()
    if session is None:
        return
    if metrics is None:
        metrics = named
    elif named and isinstance(metrics, Mapping):
        twice = [name for name in named if name in metrics]
        if twice:
            raise ReportError(f"Trial {session.trial.id}: a metric may be reported once, but {twice} are in the dict and keywords too.")
        metrics = {**metrics, **named}
    session.report(metrics, checkpoint)


def get_checkpoint() -> dict[str, Any] | Path | None:
    """The dict or the folder that this trial is to go on from; None if it begins, and outside a study.

    Call it after building the model and before the first report: what is drawn after it from torch, numpy and `random` is
    then what would have been drawn without the interruption.
    """
    session = current()
    state = None if session is None else session.checkpoint()
    return state if state is None or isinstance(state, Path) else dict(state)


class FunctionRecipe:
    """A train function, as executors see it. It ends by itself, and is saved only where its reports hold checkpoints."""

    def __init__(self, function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
        self.function = function
        self.keywords = keywords
        self.name = name_of(function)
        self.saves = False
        self.max_t: int | None = None
        self.ends = True

    def start(self, trial: Trial, place: Place, state: State | None = None, step: int = 0) -> ParkedRunner:
        call = functools.partial(self.function, own_config(trial.config), **self.keywords)
        return ParkedRunner(call, self.name, trial, place, state, step)

    def restore(self, trial: Trial, place: Place, state: State, step: int) -> dict[str, Any] | Path:
        """The checkpoint itself: what it means is the function's own affair."""
        return handed(state)

    def test(self, trial: Trial, place: Place, state: State, step: int) -> dict[str, Scalar]:
        raise ConfigurationError(
            f"best.test() needs a test set, but {self.name} is a train function: evaluate what best.load() gives, or use hp.ModelTrainable."
        )


def _decorated(function: Callable[..., Any], defaults: Mapping[str, Any]) -> TrainFunction:
    if isinstance(function, TrainFunction):
        return TrainFunction(function.function, {**function.defaults, **defaults})
    if isinstance(function, type):
        raise ConfigurationError(
            f"@hp.trainable decorates a train function, but got the class {function.__name__}. Give a class to hp.Tuner itself."
        )
    if not callable(function):
        raise ConfigurationError(
            f"@hp.trainable decorates a train function, but got {function!r}. "
            "Give the rest by name: @hp.trainable(space=..., metric=..., mode=...)."
        )
    check_takes_config(function)
    return TrainFunction(function, defaults)


def check_takes_config(function: Callable[..., Any]) -> inspect.Signature:
    """The function's signature, if its first argument can be the config."""
    name = name_of(function)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"A train function is called and runs, but {name} is async. Wrap it: def train(config): asyncio.run(...).")
    signature = inspect.signature(function)
    try:
        signature.bind_partial(None)
    except TypeError:
        raise ConfigurationError(
            f"A train function takes the config as its first argument, def {name}(config): ..., but the signature is {name}{signature}."
        ) from None
    return signature


def name_of(function: Callable[..., Any]) -> str:
    if isinstance(function, functools.partial):
        return name_of(function.func)
    return str(getattr(function, "__name__", type(function).__name__))


def tune(target: Any, defaults: Mapping[str, Any], keywords: Mapping[str, Any]) -> Any:
    from ..tuner import Tuner

    return Tuner(target, **{**defaults, **keywords}).fit()

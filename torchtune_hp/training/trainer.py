"""`hp.Trainer`: the engine that trains a ModelTrainable, for the loop of one's own in a train function or a Trainable.

    @hp.trainable(space={"lr": hp.loguniform(1e-4, 1e-1)}, metric="accuracy", mode="max")
    def train(config):
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
        trainer = hp.Trainer(model, optimizer, loss_fn, data=load_data, metrics=metrics)
        for epoch in range(27):
            trainer.train()
            hp.report(trainer.evaluate())

Alone it is an ordinary trainer. In a study with `executor=hp.Fused()`, `train` waits until all trials that run stand in a call of theirs;
then all are trained, as stacks where they can be.
"""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import ConfigurationError
from ..parts import as_int
from ..seeds import derive
from ..trial import Trial
from .context import Nobody, Session, current as session_of
from .coroutine import current
from .data import Data
from .given import GivenRunner
from .hooks import is_count
from .made import given_data
from .runner import Place


class Trainer:
    """Trains `model` with `optimizer`; both go on being the caller's own, and are what they were trained to after every call: the model in
    training mode after `train`, in eval mode after `evaluate` and `test`.

    loss_fn(model, batch): the loss of a batch, a 0-dim tensor, or (loss, {name: number}), whose means are returned as "train_<name>".
    It must use the model that it is given. metrics(model, batch): a dict, as `ModelTrainable.validation_step` returns one; metrics_end:
    as its `validation_end`. Each that takes a third argument is given the numbers of the config as 0-dim tensors, so that
    `hparams["alpha"]` is each trial's own in a stack. `config`: what they are read from, in a study the trial's by default.

    data: an hp.Data, or a function without arguments that returns one. The function is called once for all trials, on each device;
    trials share a stack only where they share their data.

    `augment lr_scheduler lr_step max_grad_norm batch_size accumulate precision` are the words of a ModelTrainable. In a study the model
    is moved to the trial's device; alone it is trained where it lies. What is drawn, and the order of the data, comes from the trial's
    seed; alone from torch's generator, so that torch.manual_seed repeats it.

    ConfigurationError lists all arguments that are none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: Callable[..., Any],
        data: Data | Callable[[], Data],
        metrics: Callable[..., Mapping[str, Any]] | None = None,
        *,
        metrics_end: Callable[[Mapping[str, Tensor]], Mapping[str, Any]] | None = None,
        augment: Callable[[Any], Any] | None = None,
        lr_scheduler: LRScheduler | Sequence[LRScheduler] | None = None,
        lr_step: Literal["epoch", "update"] = "epoch",
        max_grad_norm: float | None = None,
        batch_size: int | None = None,
        accumulate: int = 1,
        precision: Literal["fp32", "bf16"] = "fp32",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        functions = {"loss_fn": loss_fn, "metrics": metrics, "metrics_end": metrics_end, "augment": augment}
        problems = [] if isinstance(model, nn.Module) else [f"model: must be an nn.Module, but got a {type(model).__name__}."]
        for name, function in functions.items():
            if not (callable(function) or (function is None and name != "loss_fn")):
                problems.append(f"{name}: must be a function, but got a {type(function).__name__}.")
        if problems:
            raise ConfigurationError("\n".join(f"hp.Trainer: {problem}" for problem in problems))
        session = session_of()
        name = session.name if session is not None else "Trainer"
        owner = None if session is None else (session.trial.id, session.trial.seed)
        trial, place, self._session = _of_nobody(model) if session is None else _of(session)
        if config is not None:
            trial = Trial(trial.id, trial.x, config, trial.seed)
        given: dict[str, Any] = {
            "model": model, "optimizer": optimizer, "lr_scheduler": lr_scheduler, "lr_step": lr_step, "max_grad_norm": max_grad_norm,
            "batch_size": batch_size, "accumulate": accumulate, "precision": precision, "loss_fn": loss_fn, "metrics": metrics,
            "metrics_end": metrics_end, "augment_fn": augment,
            "takes": tuple(name for name in ("loss_fn", "metrics") if functions[name] is not None and _takes_three(functions[name])),
        }  # fmt: skip
        with _worded():
            loaded = given_data(data, torch.device(place.device), name)
            self._runner = GivenRunner(given, name, trial, place, loaded, self._session, owner)
        weakref.finalize(self, _drop, self._runner).atexit = False

    @property
    def model(self) -> nn.Module:
        return self._runner.member.model

    @property
    def optimizer(self) -> Optimizer:
        return self._runner.member.optimizer

    def train(self, epochs: int | None = None, *, updates: int | None = None) -> dict[str, float]:
        """Trains for so many passes over the data, one by default, or so many updates -> "train_loss", "lr" and what `loss_fn` gave
        besides, means over the last pass or the updates. A pass that was begun by `updates` is trained to its end.

        DivergedError where the loss is not finite; ConfigurationError where a function gives what it may not.
        """
        epochs, updates = as_int(epochs), as_int(updates)
        wrong = [f"{name}: `{name} >= 1` must hold for a whole number, but got {value!r}."
                 for name, value in (("epochs", epochs), ("updates", updates)) if value is not None and not is_count(value)]
        if epochs is not None and updates is not None:
            wrong.append(f"only one of epochs and updates may be given, but got {epochs!r} and {updates!r}.")
        if wrong:
            raise ConfigurationError("\n".join(f"Trainer.train: {each}" for each in wrong))
        self._is_here("train")
        if any(map(torch.is_autocast_enabled, ("cpu", self._runner.member.device.type))):
            raise ConfigurationError('Trainer.train: it is called under torch.autocast. hp.Trainer(precision="bf16") does it itself.')
        if not torch.is_grad_enabled():
            raise ConfigurationError("Trainer.train: it is called where torch computes no gradients, in no_grad say. Call it outside.")
        times = 1 if epochs is None else epochs
        for k in range(times):
            coroutine = current()
            with _worded():
                self._runner.begins("epoch" if updates is None else updates, last=k == times - 1)
                if coroutine is None:
                    self._runner.advance()
                else:
                    coroutine.advance(self._runner)
        self.model.train()
        return dict(self._runner.trained)

    def evaluate(self) -> dict[str, float]:
        """The metrics of the validation sets, with the weights as they are. ReduceLROnPlateau is stepped by the first call after a
        `train`: by the study's first metric, or the loss.
        """
        if not self._runner.data.val:
            raise ConfigurationError("Trainer.evaluate: there is no validation set. Give one: hp.Data(..., val=(x, y)).")
        return self._measured("evaluate", self._runner.validated)

    def test(self) -> dict[str, float]:
        """The metrics of the test sets."""
        return self._measured("test", self._runner.test)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that training goes on from: model, optimizer, schedulers, place in the data. For `hp.report(..., checkpoint=)`."""
        return self._runner.save(whole=True)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stands where `state` was made, by a trainer that was given the same."""
        self._runner.stand(state)

    def _is_here(self, call: str) -> None:
        """One trial's trainer is no other's: what it trains would go from one to the next."""
        session = session_of()
        if session is not (None if isinstance(self._session, Nobody) else self._session):
            made, used = map(_where, (self._session, session))
            raise ConfigurationError(f"Trainer.{call}: it was made {made}, but is called {used}. Each trial makes its own.")

    def _measured(self, call: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        self._is_here(call)
        if not self._runner.measures:
            raise ConfigurationError(f"Trainer.{call}: there is nothing to measure. Give hp.Trainer metrics=, called as (model, batch).")
        with _worded():
            found = measure()
        self.model.eval()
        return found

    def __repr__(self) -> str:
        return f"<hp.Trainer of a {type(self.model).__name__}, after {self._runner.updates} updates>"


def _of(session: Session) -> tuple[Trial, Place, Session]:
    """The first trainer of a trial has the trial's own seed, a further one another."""
    number, trial = session.trainers, session.trial
    session.trainers += 1
    seed = trial.seed if number == 0 else derive(trial.seed, "trainer", number)
    return Trial(trial.id, trial.x, trial.config, seed), session.place, session


def _of_nobody(model: nn.Module) -> tuple[Trial, Place, Session]:
    seed = int(torch.randint(2**62, ()))
    tensor = next(iter(model.parameters()), None)
    return Trial(0, (), {}, seed), Place(device="cpu" if tensor is None else str(tensor.device)), Nobody()


def _where(session: Session | None) -> str:
    return "outside of a study" if session is None or isinstance(session, Nobody) else f"in trial {session.trial.id}"


def _drop(runner: GivenRunner) -> None:
    runner.dropped = True


def _takes_three(function: Any) -> bool:
    """Whether it needs or names a third argument without a default."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    placed = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) and each.default is each.empty]
    return len(placed) == 3


_WORDS = {"training_step": "loss_fn", "validation_step": "metrics", "validation_end": "metrics_end"}


@contextmanager
def _worded() -> Iterator[None]:
    """What a ModelTrainable's hooks are told stands in the words that a trainer was given."""
    try:
        yield
    except ConfigurationError as error:
        text = re.sub("|".join(_WORDS), lambda found: _WORDS[found[0]], str(error))
        if text == str(error):
            raise
        raise ConfigurationError(text) from error

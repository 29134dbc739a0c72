"""What hp.Trainer was given, as a member like those of a ModelTrainable, so that the same loop and the same engine train it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from torch import Tensor, nn

from ..errors import ConfigurationError
from ..trial import Trial
from .alone import ModelRunner
from .context import Session
from .data import Loaded
from .drain import Tree
from .hooks import ModelTrainable, check
from .marks import Marks
from .runner import Look, Place


class Given(ModelTrainable):
    """`loss_fn`, `metrics`, `augment_fn`, `metrics_end`: the functions. `takes`: which of them take the hparams besides."""

    loss_fn: Any
    metrics: Any
    metrics_end: Any
    augment_fn: Any
    takes: tuple[str, ...]
    _self, _numbers = "self.", "hparams[...], a third argument of the function,"

    def setup(self, config: Any, given: Mapping[str, Any]) -> None:  # type: ignore[override]
        vars(self).update(given)

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return self.loss_fn(model, batch, self.hparams) if "loss_fn" in self.takes else self.loss_fn(model, batch)

    def validation_step(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.metrics(model, batch, self.hparams) if "metrics" in self.takes else self.metrics(model, batch)
        return found

    def augment(self, batch: Tree) -> Tree:
        return batch if self.augment_fn is None else self.augment_fn(batch)


class _Ending(Given):
    def validation_end(self, gathered: Mapping[str, Tensor]) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.metrics_end(gathered)
        return found


@cache
def class_of(name: str, ends: bool) -> type[Given]:
    """The class of what trainers of this name hold: a study's log calls it so. `ends`: whether there is a `metrics_end`."""
    return type(name, (_Ending if ends else Given,), {})


class GivenRunner(ModelRunner):
    """Its iteration is what a call of `Trainer.train` asks for. It is validated with an iteration where it is expected to be: that is
    after as many calls as there were before the last validation, at first after each.
    """

    shown, set_up = True, False

    def __init__(
        self, given: Mapping[str, Any], name: str, trial: Trial, place: Place, data: Loaded, session: Session, owner: Any
    ) -> None:
        """`owner`: whose the model is, as of `begin`."""
        self._goes: Literal["epoch"] | int = "epoch"
        self._last_of_call = True
        self._calls, self._expected = 0, 1      # since the last validation that was asked for; before that one
        self.measures = given["metrics"] is not None
        self._moved = self._apart = False       # as it was when the call began; and trained by itself since its last iteration with others
        self.dropped = False                    # nobody holds its trainer any more
        self.trained: dict[str, float] = {}
        self._found: dict[str, float] | None = None
        self._follows = False                   # whether ReduceLROnPlateau has not heard of this iteration yet
        cls = class_of(name, given["metrics_end"] is not None)
        super().__init__(cls, {"given": given}, trial, place, data, session=session, owner=owner)
        self._marks = Marks(self.member)

    @property
    def iteration(self) -> Literal["epoch"] | int:
        return self._goes

    def begins(self, iteration: Literal["epoch"] | int, last: bool) -> None:
        """The next iteration is this one. `last`: of a call. ConfigurationError where its model and optimizer do not fit any more."""
        self._goes, self._last_of_call = iteration, last
        self._calls += last
        self._moved = self._marks.moved()
        if self._moved:
            check(self.member)

    def validates(self, number: int) -> bool:
        return self.measures and self._last_of_call and self._calls == self._expected and bool(self.data.val)

    def touched(self) -> bool:
        return self._moved or self._apart

    def advance(self) -> Look:
        self._apart = True
        return super().advance()

    def looked(self, metrics: dict[str, float], validated: dict[str, float] | None) -> Look:
        self._apart = False
        return super().looked(metrics, validated)

    def _look(self, number: int, metrics: dict[str, float], validated: dict[str, float] | None) -> Look:
        self.trained = {**metrics, "lr": float(self.member.optimizer.param_groups[0]["lr"])}
        self._found, self._follows = validated, True
        self.step = number
        for parameter in self.member.model.parameters():
            parameter.grad = None
        self._marks.renew()
        notes, self._unsaid = tuple(self._unsaid), []
        return Look(number, self.trained, notes=notes)

    def validated(self) -> dict[str, float]:
        """The metrics of the validation sets with the weights as they are."""
        if self._found is None or self._marks.moved():
            self._found = self.evaluate()
        if self._calls:
            self._expected, self._calls = self._calls, 0
        found = self._found
        if self._follows:
            self._follows = False
            self._follow({**found, **self.trained})
        return dict(found)

    def stand(self, state: Mapping[str, Any]) -> None:
        if not isinstance(state, Mapping) or "initial" not in state:
            raise ConfigurationError("Trainer.load_state_dict: must be given what a trainer's state_dict() gave, but got something else.")
        super().stand(state)
        self.step, self._found, self._follows = int(state["step"]), None, False

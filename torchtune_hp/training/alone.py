"""One ModelTrainable trained alone: an ordinary PyTorch loop, one iteration per `advance`.

An iteration, in this order: updates; schedulers at the ends of updates or passes; validation (every `validate_every`
iterations, at the first and at `max_t`); ReduceLROnPlateau; the look; `on_iteration_end`. Everything that is drawn in
iteration k comes from (trial seed, k), the order of pass e from (trial seed, e), or (study seed, e) where it is shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..errors import ConfigurationError, TrialFinishedError
from ..parts import as_int
from ..population.keys import base_of, key_of
from ..population.layout import trained
from ..population.randomness import own_randomness
from ..seeds import derive
from ..trial import Trial
from .context import Session
from .data import Loaded
from .drain import Tree
from .evaluation import Weighted, autocast, evaluate, joined, means
from .feed import Plan
from .hooks import OF_ITSELF, ModelTrainable, begin, check, driven, own_end, schedulers
from .losses import finite_mean, loss_in, with_validation
from .reported import Cleaner
from .resting import Resting
from .runner import Look, Place
from .seeding import seeded
from .stream import Stream


class ModelRunner(Resting):
    """A live trial of a ModelTrainable; the laws are Runner's."""

    def __init__(
        self,
        cls: type[ModelTrainable],
        keywords: Mapping[str, Any],
        trial: Trial,
        place: Place,
        data: Loaded,
        state: Mapping[str, Any] | None = None,
        step: int = 0,
        session: Session | None = None,
        owner: Any = OF_ITSELF,
    ) -> None:
        """`session`: of the trial whose code holds it; None: it is a trial itself. `owner`: as of `begin`."""
        self.step = step
        self.updates = 0
        self._end, self._ended = own_end(cls), False
        self._trial, self._place, self.data = trial, place, data
        self.base, self.validation_base = base_of(trial.seed, "train"), base_of(trial.seed, "validation")
        self.hooked = cls.on_iteration_end is not ModelTrainable.on_iteration_end
        self._cleaned = Cleaner(trial.id, place.metrics)
        self._own_session = session is None
        self._session = Session(trial, place) if session is None else session
        try:
            with self._session:
                self.member = begin(cls, keywords, trial, place, data, owner)
            if data.val and cls.validation_step is ModelTrainable.validation_step:
                raise ConfigurationError(f"{cls.__name__}.validation_step must be written, for data() gives a validation set.")
            if isinstance(data.train, Stream) and self.member.batch_size is not None:
                raise ConfigurationError(f"{cls.__name__}.batch_size: a DataLoader has its own, but setup set {self.member.batch_size}.")
            self.feed = data.feed(trial.seed, place.seed)
            self.feed.updates(self._size(), self.member.accumulate)
            self._note_what_setup_made()
            if state is not None:
                self.stand(state)
        except BaseException:
            self.close()
            raise

    measures = True         # whether there is a validation_step
    dropped = False         # whether nobody holds it any more

    @property
    def shown(self) -> bool:
        """Whether code of its own sees the model after each iteration, so that it must be what it was trained to."""
        return self.hooked

    @property
    def iteration(self) -> Literal["epoch"] | int:
        """What one iteration is: a pass, or a number of updates."""
        return as_int(type(self.member).iteration)

    def touched(self) -> bool:
        """Whether its model or optimizer was changed from outside since its last iteration."""
        return False

    def advance(self) -> Look:
        """One iteration. DivergedError where the training loss is not finite, ConfigurationError where a hook gives what it may not."""
        if self._ended:
            raise TrialFinishedError(f"Trial {self._trial.id} has ended and cannot be advanced any more.")
        number = self.step + 1
        with self._session, seeded(derive(self._trial.seed, "step", number)):
            metrics = self._train(number)
            validated = self._evaluate(number) if self.validates(number) else None
            look = self._look(number, metrics, validated)
        for parameter in self.member.model.parameters():
            parameter.grad = None
        return look

    def validates(self, number: int) -> bool:
        """Whether iteration `number` ends with a validation."""
        due = self._validated is None or number % self.member.validate_every == 0 or number == self._last()
        return due and bool(self.data.val)

    def validate(self) -> dict[str, float]:
        """The validation that ends an iteration which was trained elsewhere, with the weights as they are."""
        number = self.step + 1
        with self._session, seeded(derive(self._trial.seed, "step", number)):
            return self._evaluate(number)

    @property
    def concludes(self) -> bool:
        """Whether what a validation gathered is for the trial's own `validation_end`."""
        return type(self.member).validation_end is not ModelTrainable.validation_end

    def conclude(self, batches: Mapping[str, Sequence[tuple[Any, int]]]) -> dict[str, float]:
        """The metrics of a validation of which `validation_step` ran elsewhere: by set, what it gave for each batch, and its size."""
        if not self.concludes:
            return joined(self.member, batches)
        number = self.step + 1
        self.member.model.eval()
        validation = derive(self._trial.seed, "validation", number)
        with self._session, seeded(derive(self._trial.seed, "step", number)), seeded(validation), torch.no_grad():
            return joined(self.member, batches)

    def looked(self, metrics: dict[str, float], validated: dict[str, float] | None) -> Look:
        """The look of an iteration that was trained and validated elsewhere, among other members."""
        number = self.step + 1
        if not self.hooked and len(driven(self.member)) == len(schedulers(self.member)):        # none of the trial's own code runs
            return self._look(number, metrics, validated)
        with self._session, seeded(derive(self._trial.seed, "step", number)):
            return self._look(number, metrics, validated)

    def _look(self, number: int, metrics: dict[str, float], validated: dict[str, float] | None) -> Look:
        member = self.member
        if validated is not None:
            self._validated = validated
        metrics = with_validation(self._validated or {}, metrics)
        if validated is not None or not self.data.val:
            self._follow(metrics)
        metrics["lr"] = float(member.optimizer.param_groups[0]["lr"])
        unjudged = "training, without a validation set (val= or val_fraction= of hp.Data, or folds= of the Tuner, gives one),"
        clean, notes = self._cleaned(metrics, f"{type(member).__name__}'s validation" if self.data.val else unjudged)
        if self.hooked:
            member.on_iteration_end(metrics)
            check(member)
            self._look_beside()
        notes, self._unsaid = (*notes, *self._unsaid), []
        self.step = number
        self._ended = self._end is not None and number >= self._end
        return Look(number, clean, done=self._ended, notes=notes)

    def evaluate(self) -> dict[str, float]:
        """The metrics of the validation sets with the weights as they are."""
        with self._session:
            return self._evaluate(self.step)

    def test(self) -> dict[str, float]:
        """The metrics of the test sets."""
        if not self.data.test:
            raise ConfigurationError("There is no test set. Give one: hp.Data(..., test=(x, y)).")
        if type(self.member).validation_step is ModelTrainable.validation_step:
            raise ConfigurationError(f"{type(self.member).__name__}.validation_step must be written: it gives the metrics of the test set.")
        with self._session:
            seed, base = derive(self._trial.seed, "test"), base_of(self._trial.seed, "test")
            return evaluate(self.member, self.data.test, self.data.batch_size, seed, base, 0)

    def close(self) -> None:
        self._ended = True
        if self._own_session:
            self._session.end()

    # One iteration -------------------------------------------------------------------------------------------------------

    def _train(self, number: int) -> dict[str, float]:
        member, feed = self.member, self.feed
        member.model.train()
        parameters = list(member.model.parameters())
        size, accumulate = self._size(), member.accumulate
        losses: list[tuple[Tensor, int]] = []
        extras: Weighted = {}
        done = 0
        for before in self._passes():
            self._update(self.updates + done, feed.take(size, accumulate), parameters, losses, extras)
            done += 1
            (turns,) = self.turns((feed.epoch - before,))
            for scheduler in driven(member):
                for _ in range(turns):
                    scheduler.step()
        self.updates += done
        values = torch.stack([loss for loss, _ in losses]).cpu().double()
        return {"train_loss": finite_mean(values, [n for _, n in losses], number), **means(extras)}

    def update_once(self, model: nn.Module, optimizer: Optimizer, batch: Tree) -> None:
        """One update of a copy, to be timed; its loss and its data are nobody's."""
        member = self.member
        optimizer.zero_grad()
        with self._session, seeded(0), autocast(member), own_randomness(key_of(self.base, 0, member.device), strict=False):
            loss = loss_in(member.training_step(model, member.augment(batch)), 1, {})
        loss.backward()  # type: ignore[no-untyped-call]
        if member.max_grad_norm is not None:
            clip_grad_norm_(trained(optimizer), member.max_grad_norm)
        optimizer.step()

    def plan(self) -> Plan:
        """The batches of the next iteration. The feed moves on."""
        return self.feed.plan(self._size(), self.member.accumulate, self.iteration)

    def _passes(self) -> Iterator[int]:
        """For each update of an iteration, the pass it begins in."""
        feed, iteration = self.feed, self.iteration
        begun, done = feed.epoch, 0
        while feed.epoch == begun if iteration == "epoch" else done < iteration:
            yield feed.epoch
            done += 1

    def turns(self, passes: tuple[int, ...]) -> tuple[int, ...]:
        """How often schedulers are stepped after updates with which so many passes ended."""
        return (1,) * len(passes) if self.member.lr_step == "update" else passes

    def _update(
        self, update: int, batches: list[tuple[Tree, int]], parameters: list[Any], losses: list[tuple[Tensor, int]], extras: Weighted
    ) -> None:
        member = self.member
        for parameter in parameters:
            parameter.grad = None
        samples = sum(n for _, n in batches)
        for micro, (batch, n) in enumerate(batches):
            key = key_of(self.base, update * len(batches) + micro, member.device)
            with autocast(member), own_randomness(key, strict=False):
                found = member.training_step(member.model, member.augment(batch))
            loss = loss_in(found, n, extras)
            losses.append((loss.detach(), n))
            (loss if n == samples else loss * (n / samples)).backward()  # type: ignore[no-untyped-call]
        if member.max_grad_norm is not None:
            clip_grad_norm_(trained(member.optimizer), member.max_grad_norm)
        member.optimizer.step()

    def _evaluate(self, number: int) -> dict[str, float]:
        seed = derive(self._trial.seed, "validation", number)
        return evaluate(self.member, self.data.val, self.data.batch_size, seed, self.validation_base, number)

    def _follow(self, metrics: Mapping[str, float]) -> None:
        """ReduceLROnPlateau hears of the study's first metric; without one, of the loss."""
        watched = next(name for name in (*self._place.metrics[:1], "loss", "train_loss") if name in metrics)
        for scheduler in schedulers(self.member):
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(metrics[watched])

    def _size(self) -> int:
        return self.member.batch_size or self.data.batch_size

    def _last(self) -> int | None:
        return min((end for end in (self._end, self._place.max_t) if end is not None), default=None)

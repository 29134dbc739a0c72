"""`hp.ModelTrainable`: model, optimizer, loss and data of one trial, in ordinary PyTorch. The library trains one or hundreds.

The author writes `setup`, `data`, `training_step` and `validation_step`; every loop is elsewhere (`alone.py` trains one).
`begin` makes a member: an instance that was set up and whose words were checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import ConfigurationError
from ..parts import as_int
from ..population.written import written
from ..seeds import derive
from ..trial import Config, Trial
from .data import Data, Loaded
from .drain import Tree
from .hparams import Hparams
from .moving import move
from .runner import Place
from .seeding import seeded
from .states import own_config


class ModelTrainable:
    """Subclass it, and hand over model, optimizer, loss and data.

    Words set on the class or in `setup`:

        iteration        "epoch" (one pass over the data), or n: that many updates are one unit of budget (on the class)
        model            the nn.Module; it is moved to the device after `setup`
        optimizer        one torch.optim.Optimizer of the model's parameters
        lr_scheduler     one scheduler, a list of them, or None. ReduceLROnPlateau follows the study's first metric and is
                         stepped after each validation; every other one at the end of each pass, or after each update
        lr_step          "epoch" | "update"
        max_grad_norm    clips the norm of the whole gradient; None: no clipping
        validate_every   in iterations; between two validations the last one's metrics are reported again. Where a study does not look
                         after each iteration (look_every), let it divide the steps at which it does: a report that repeats a
                         validation nobody looked at is kept with the weights of its own step
        batch_size       None: that of hp.Data
        accumulate       batches in one update; their gradients are averaged
        precision        "fp32" | "bf16" (torch.autocast)

    Readable in `setup` and in hooks: `config hparams max_t updates_per_epoch device trial_id`. A class that ends by itself
    states `max_t = n` on the class.

    What hooks and forward passes change is part of a checkpoint: model, optimizer and schedulers, and of `self` and the model's modules
    numbers, strings, tensors, arrays, lists, tuples, dicts and sets of them, generators of random numbers, nn.Modules (a mean of the
    weights), objects of a class of one's own, and buffers that are not persistent. What is as `setup` made it is not saved, of the
    model itself what is frozen and large: `setup` must make it again (module frozen). What was changed and cannot be stored is said in
    the log, and is as `setup` makes it where a trial goes on from a checkpoint. A model whose layers were replaced, or pruned, since
    `setup` cannot be saved: make them in `setup`.
    """

    iteration: Literal["epoch"] | int = "epoch"
    model: nn.Module
    optimizer: Optimizer
    lr_scheduler: LRScheduler | Sequence[LRScheduler] | None = None
    lr_step: Literal["epoch", "update"] = "epoch"
    max_grad_norm: float | None = None
    validate_every: int = 1
    batch_size: int | None = None
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"

    _here: Here | None = None
    _self, _numbers = "", "self.hparams[...]"       # how a log calls what hooks read: what is left out before a name

    # To be written -------------------------------------------------------------------------------------------------------

    def setup(self, config: Any) -> None:
        """Makes self.model and self.optimizer, for one model, under the trial's own seed."""
        raise NotImplementedError

    @classmethod
    def data(cls) -> Data | Mapping[str, Data]:
        """The data, once per device, shared by every trial; runs under a fixed seed. A dict of several by name: each trial is trained
        on each of them."""
        raise NotImplementedError

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        """The loss of a batch, a 0-dim tensor; or (loss, {name: number}), whose means are reported as "train_<name>"."""
        raise NotImplementedError

    def validation_step(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        """Metrics of a batch, without gradients and in eval mode.

        A number or 0-dim tensor is a mean over the batch, weighted by its size; (value, weight) has its own weight; a tensor
        with leading batch dimension is gathered over the set for `validation_end`.
        """
        raise NotImplementedError

    # May be written ------------------------------------------------------------------------------------------------------

    def validation_end(self, gathered: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """What `validation_step` gave per sample, of the whole set, each (n, ...) -> further metrics (AUC, F1, ...)."""
        raise NotImplementedError

    def augment(self, batch: Tree) -> Tree:
        """A training batch, changed at random."""
        return batch

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        """Ordinary Python after each iteration; may change batch_size, param_groups, requires_grad, and what it likes on `self` and in
        the model (what of it a checkpoint holds: see above).

        It runs after the report was made: what it does to weights is in those that are kept, and not in the metrics beside them.
        """

    # Readable ------------------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The trial's configuration."""
        return self._placed("config").config

    @property
    def hparams(self) -> Hparams:
        """The config's numbers as 0-dim tensors."""
        return self._placed("hparams").hparams

    @property
    def max_t(self) -> int | None:
        """The largest number of iterations the study gives a trial; None: no bound."""
        return self._placed("max_t").place.max_t

    @property
    def updates_per_epoch(self) -> int:
        """Updates in one pass, with `batch_size` and `accumulate` as they are now: set those first."""
        here = self._placed("updates_per_epoch")
        return here.data.feed(0).updates(self.batch_size or here.data.batch_size, self.accumulate)

    @property
    def device(self) -> torch.device:
        return self._placed("device").device

    @property
    def trial_id(self) -> int:
        return self._placed("trial_id").trial.id

    def _placed(self, name: str) -> Here:
        if self._here is None:
            raise RuntimeError(f"`{name}` can be read from setup on, in a trial; this {type(self).__name__} was made by hand.")
        return self._here


@dataclass(frozen=True, slots=True)
class Here:
    """What a member knows of where it is."""

    trial: Trial
    config: Config          # one object for as long as the member lives
    place: Place
    data: Loaded
    device: torch.device
    hparams: Hparams


OF_ITSELF = object()


def begin(
    cls: type[ModelTrainable], keywords: Mapping[str, Any], trial: Trial, place: Place, data: Loaded, owner: Any = OF_ITSELF
) -> ModelTrainable:
    """A member: made, set up under the trial's seed, checked, and moved to the device. `owner`: (id, seed) of the trial that alone may
    have what it writes, by default this one; None: nobody asks."""
    device = torch.device(place.device)
    member = cls()
    config = trial.config
    member._here = Here(trial, config, place, data, device, Hparams(config, device))
    end = own_end(cls)
    if end is not None and place.max_t is not None:
        vars(member)["max_t"] = min(end, place.max_t)
    with seeded(derive(trial.seed, "setup")):
        member.setup(own_config(config), **keywords)
    check(member)
    if owner is not None:
        _no_tensor_of_another(member, (trial.id, trial.seed) if owner is OF_ITSELF else owner)
    move(member.model, member.optimizer, device)
    return member


_owners: Any = WeakTensorKeyDictionary()
"""Of each tensor that a trial writes, the (id, seed) of the trial."""


def _no_tensor_of_another(member: ModelTrainable, its: tuple[int, int]) -> None:
    for name, tensor in written(member.model, member.optimizer):
        owner = _owners.setdefault(tensor, its)
        if owner != its:
            raise ConfigurationError(
                f"{type(member).__name__}.model: each trial must have the tensors that its training writes for itself, but {name} is also "
                f"trial {owner[0]}'s. Make it in setup, or copy.deepcopy it there. What all have in common must be frozen "
                "(requires_grad_(False)), and its BatchNorm kept in eval mode."
            )


def own_end(cls: type[ModelTrainable]) -> int | None:
    """`max_t` where the class states one; else it is the property that reads the study's."""
    stated = getattr_static(cls, "max_t")
    return None if isinstance(stated, property) else as_int(stated)


def schedulers(member: ModelTrainable) -> list[Any]:
    """`lr_scheduler` as a list."""
    given: Any = member.lr_scheduler
    if given is None:
        return []
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]


def driven(member: ModelTrainable) -> list[LRScheduler]:
    """Those that follow updates or passes; ReduceLROnPlateau follows a metric."""
    return [scheduler for scheduler in schedulers(member) if not isinstance(scheduler, ReduceLROnPlateau)]


def check(member: ModelTrainable) -> None:
    """Raises one ConfigurationError that lists every word that `setup` left out or set to what it cannot be."""
    name = type(member).__name__
    problems = []
    model, optimizer = getattr(member, "model", None), getattr(member, "optimizer", None)
    if not isinstance(model, nn.Module):
        problems.append(f"model: setup must set self.model to an nn.Module, but it is {_shown(model)}.")
    if not isinstance(optimizer, Optimizer):
        problems.append(f"optimizer: setup must set self.optimizer to one torch.optim.Optimizer, but it is {_shown(optimizer)}.")
    elif isinstance(optimizer, torch.optim.LBFGS):
        problems.append("optimizer: LBFGS needs a closure, which training_step is not. Subclass hp.Trainable for it.")
    elif isinstance(model, nn.Module):
        own = {id(parameter) for parameter in model.parameters()}
        if any(id(parameter) not in own for group in optimizer.param_groups for parameter in group["params"]):
            problems.append(
                "optimizer: its parameters must be self.model's, but some are not. Make the optimizer from the final model, and keep "
                "further parameters inside the model."
            )
    if isinstance(member.lr_scheduler, Iterator):
        problems.append("lr_scheduler: it is stepped again and again, so it must be a list of schedulers, but it is a generator.")
    for scheduler in schedulers(member):
        if not isinstance(scheduler, LRScheduler):
            problems.append(f"lr_scheduler: expected a torch.optim.lr_scheduler, a list of them, or None, but got {_shown(scheduler)}.")
        elif getattr(scheduler, "optimizer", optimizer) is not optimizer:
            problems.append("lr_scheduler: it must drive self.optimizer, but it drives another one.")
    if "iteration" in vars(member):
        problems.append("iteration: it is set on the class, for all trials alike, but setup set it on self.")
    for word, choices in (("lr_step", ("epoch", "update")), ("precision", ("fp32", "bf16"))):
        if getattr(member, word) not in choices:
            problems.append(f"{word}: must be {' or '.join(map(repr, choices))}, but got {getattr(member, word)!r}.")
    for word in ("batch_size", "accumulate", "validate_every"):
        value = getattr(member, word)
        if (plain := as_int(value)) is not value:
            setattr(member, word, value := plain)
        if not (is_count(value) or (word == "batch_size" and value is None)):
            problems.append(f"{word}: `{word} >= 1` must hold for a whole number, but got {value!r}.")
    norm = member.max_grad_norm
    if norm is not None and (isinstance(norm, bool) or not isinstance(norm, (int, float)) or not norm > 0):
        problems.append(f"max_grad_norm: `max_grad_norm > 0` must hold, or None, but got {norm!r}.")
    if problems:
        raise ConfigurationError("\n".join(f"{name}.{problem}" for problem in problems))


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _shown(value: Any) -> str:
    return "not set" if value is None else f"a {type(value).__name__}"

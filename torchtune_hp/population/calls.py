"""How a stack calls its members' hooks, and how the same hooks are called for one member alone, to compare.

The hooks are the first member's, on a view of it (view.py); what is a member's own comes with each call: its `hparams`, and
whatever it reads that is lifted (reads.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from ..training.context import of_many
from ..training.drain import copied, tree_map
from ..training.evaluation import autocast, is_scalar
from ..training.hooks import ModelTrainable
from .belongings import Belongings, Changed, common_to, functions_of
from .check import same_metrics
from .randomness import own_randomness
from .reads import Read, Reads
from .signature import is_torch_s
from .view import Sight, given, view_of, watch

Own = dict[str, dict[Any, Tensor]]
"""What members are given of their own, (k,) or (k, ...): "hparams" by dotted names, "lifted" by reads."""


_LOOKS = 3
"""First calls after each of which it is looked whether they have changed something."""


class Calls:
    """Of the stacks of one kind. `reads`: of their structure."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._sight = Sight(reads.seen)
        self._held, self._around, self._looks = Belongings(), Belongings(common=True), _LOOKS
        self._functions: tuple[nn.Module, list[tuple[str, Any]]] | None = None      # of the stack's model

    def begin(self, member: ModelTrainable, model: nn.Module, first: bool) -> None:
        """What hooks change of the member's own Python shows from now on. Raises UsedUp.

        `model`: the stack's. `first`: hooks were not called yet: more is looked at, and after each of the first calls.
        """
        self._held, self._around, self._looks = Belongings(first), Belongings(common=True), _LOOKS if first else 0
        if first or self._functions is None or self._functions[0] is not model:
            self._functions = model, functions_of(model)
        for name, function in self._functions[1]:
            self._held.note(name, function)
        for name in self._sight.looked:     # now, for a call may be traced or captured
            self._held.note(f"self.{name}", getattr(member, name, None))
        for name, value in common_to(type(member)) if first else ():
            self._around.note(name, value, lasting=True)

    def changed(self) -> Changed | None:
        """What hooks have changed since `begin`."""
        return self._held.changed() or self._around.changed()

    def _looked(self) -> None:
        """After a call."""
        if self._looks:
            self._looks -= 1
            self.unchanged()

    def unchanged(self) -> None:
        """Raises Changed where hooks have changed something."""
        if (change := self.changed()) is not None:
            raise change

    def put_back(self) -> None:
        """What hooks have changed is as at `begin`."""
        self._held.put_back()
        self._around.put_back()

    def watch(self, model: nn.Module, differing: Iterable[Read]) -> None:
        """The stack's model writes down what it reads of that in which members differ. What torch's own modules hold, they read."""
        self._sight.opened = frozenset(differing)
        modules = {read: is_torch_s(model.get_submodule(read[1])) for read in self._sight.opened if read[0] == "model"}
        self._reads.seen.update(read for read, torch_s in modules.items() if torch_s)
        watch(model, [(read[1], read[2]) for read, torch_s in modules.items() if not torch_s], self._sight)

    def training(self, member: ModelTrainable, model: nn.Module) -> Callable[..., Any]:
        """(model, batch, own) -> (loss, extras), by `augment` and `training_step`."""
        view = view_of(member, model, self._sight, self._held)

        def hook(model: nn.Module, batch: Any, own: Own) -> Any:
            with given(self._sight, model, own), of_many():
                found = view.training_step(model, view.augment(batch))
            self._looked()
            return (found[0], tree_map(as_tensor, found[1])) if isinstance(found, tuple) else (found, {})

        return hook

    def validation(self, member: ModelTrainable, model: nn.Module) -> Callable[..., Any]:
        """(model, batch, own) -> metrics, by `validation_step`."""
        view = view_of(member, model, self._sight, self._held)

        def hook(model: nn.Module, batch: Any, own: Own) -> Any:
            with given(self._sight, model, own), of_many():
                found = tree_map(as_tensor, dict(view.validation_step(model, batch)))
            self._looked()
            return found

        return hook

    def own(self, members: Sequence[ModelTrainable]) -> Own:
        each = [member.hparams.tensors() for member in members]
        shared = [name for name in each[0] if all(name in tensors for tensors in each)]
        hparams = {name: torch.stack([tensors[name] for tensors in each]) for name in shared}
        return {"hparams": hparams, "lifted": self._reads.tensors(members, members[0].device)}


def compared(own: Own, k: int) -> list[int]:
    """The rows of k that are compared with themselves alone: the first and the last, and for what is lifted one unlike the first."""
    others = [(values != values[0]).reshape(len(values), -1).any(1) for values in own["lifted"].values()]
    return list(dict.fromkeys([0, *(int(other.nonzero()[0]) for other in others if bool(other.any())), k - 1]))


def alone(member: ModelTrainable, batch: Any, key: Tensor, share: float) -> Callable[[nn.Module], tuple[Tensor, dict[str, Any]]]:
    """(model) -> `share` of the loss of the member's own hook on its own batch, and what the hook gives beside it."""

    def loss(model: nn.Module) -> tuple[Tensor, dict[str, Any]]:
        with _aside(member, model) as view, autocast(member), own_randomness(key, strict=False):
            found = view.training_step(model, view.augment(batch))
        one, beside = found if isinstance(found, tuple) else (found, {})
        return one * share, tree_map(as_tensor, dict(beside))

    return loss


def check_validation(member: ModelTrainable, model: nn.Module, batch: Any, key: Tensor, found: Mapping[str, Any]) -> None:
    """`found` by a stack is what the member's own hook gives on a copy of the batch. Raises Differs."""
    with _aside(member, model.eval()) as view, torch.no_grad(), autocast(member), own_randomness(key, strict=False):
        metrics = tree_map(as_tensor, dict(view.validation_step(model, copied(batch))))
    same_metrics(found, metrics, coarse=member.precision == "bf16")


@contextmanager
def _aside(member: ModelTrainable, model: nn.Module) -> Iterator[Any]:
    """The member as its hooks may see it for once: what they change is put back."""
    with _kept(member, model) as held:
        yield view_of(member, model, Sight(set(), hparams=member.hparams.tensors()), held)


def untouched(member: ModelTrainable, call: Callable[[], float]) -> float:
    """`call()`, which runs the member's own hooks; what they change of it is put back."""
    with _kept(member, member.model) as held:
        held.note("self", member, lasting=True)
        return call()


@contextmanager
def _kept(member: ModelTrainable, model: nn.Module) -> Iterator[Belongings]:
    """What is noted there is put back, and so is what functions of this model hold, and what all trials have in common."""
    held, around = Belongings(), Belongings(common=True)
    for name, function in functions_of(model):
        held.note(name, function, lasting=True)
    for name, value in common_to(type(member)):
        around.note(name, value, lasting=True)
    try:
        yield held
    finally:
        held.put_back()
        around.put_back()


def as_tensor(value: Any) -> Any:
    """vmap hands out tensors only. ConfigurationError for what is complex: on the host it would lose a part in silence."""
    if isinstance(value, Tensor) and value.is_complex():
        raise ConfigurationError("A metric must be a real number, but one is complex. Take its abs().")
    return torch.as_tensor(value, dtype=torch.float64) if not isinstance(value, Tensor) and is_scalar(value) else value

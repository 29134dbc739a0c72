"""Whether a member was changed from outside, by a trial's own code between two calls of its trainer.

Looked at are: which modules, parameters and buffers there are, their versions and who is trained; attributes of modules, of which a list
or dict shows by its length only; the optimizer's groups and state; how often schedulers were stepped.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .hooks import ModelTrainable, schedulers


class Marks:
    """How a member stands when this is made, or renewed."""

    def __init__(self, member: ModelTrainable) -> None:
        self._member = member
        self._mark()

    def moved(self) -> bool:
        """Whether it stands otherwise now."""
        try:
            return not self._whole() or self._now() != self._then
        except Exception:       # of attributes that are other objects, and cannot be compared
            return True

    def renew(self) -> None:
        """It is to stand as it does now; what training writes is no other module."""
        try:
            whole = self._whole()
        except Exception:
            whole = False
        if whole:
            self._then = self._now()
        else:
            self._mark()

    def _mark(self) -> None:
        modules = [vars(module) for module in self._member.model.modules()]
        registries = [own[name] for own in modules for name in ("_parameters", "_buffers", "_modules")]
        self._attributes = [(own, own.copy()) for own in modules]
        self._registries = [(registry, tuple(registry.values())) for registry in registries]
        self._sizes = [(value, len(value)) for own in modules for value in own.values() if isinstance(value, (dict, list))]
        self._tensors = [value for registry in registries for value in registry.values() if isinstance(value, Tensor)]
        self._then = self._now()

    def _whole(self) -> bool:
        """Whether the same modules hold the same; dicts compare by identity first."""
        for value, size in self._sizes:
            if len(value) != size:
                return False
        for registry, values in self._registries:
            for one, other in zip(registry.values(), values):
                if one is not other:
                    return False
        for own, before in self._attributes:
            if own != before:
                return False
        return True

    def _now(self) -> Any:
        optimizer = self._member.optimizer
        state = [value for held in optimizer.state.values() for value in held.values() if isinstance(value, Tensor)]
        versions = [-1 if tensor.is_inference() else tensor._version for tensor in self._tensors + state]
        trained = [tensor.requires_grad for tensor in self._tensors]
        places = [id(tensor) for tensor in state] + [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        steps = [scheduler.last_epoch for scheduler in schedulers(self._member)]
        return versions, trained, places, [group.copy() for group in optimizer.param_groups], steps, _Held(state)


class _Held:
    """What must stay, for its id to be nobody else's; equal to any other."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

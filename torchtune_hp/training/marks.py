"""Whether a member was changed from outside, by a trial's own code between two calls of its trainer.

Looked at are: which modules, parameters and buffers there are, their versions and norms (`p.data.clamp_()` leaves no other trace), who is
trained and watched by hooks; attributes of modules, of which a list, dict or set shows by its length only; the optimizer's groups, state
and hooks; how often schedulers were stepped. Not in which mode modules stand: a trainer sets it in every call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

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
        self._sizes = [(value, len(value)) for own in modules for value in own.values() if isinstance(value, (dict, list, set))]
        self._tensors = [value for registry in registries for value in registry.values() if isinstance(value, Tensor)]
        self._held = [value for own in modules for value in own.values() if isinstance(value, Tensor)]
        dtype = next((tensor.dtype for tensor in self._tensors if tensor.is_floating_point()), None)
        self._normed = [tensor for tensor in self._tensors if tensor.dtype == dtype and not is_lazy(tensor)]
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
            if own != before and (own["training"] == before["training"] or own != {**before, "training": own["training"]}):
                return False
        return True

    def _now(self) -> Any:
        optimizer = self._member.optimizer
        state = [value for held in optimizer.state.values() for value in held.values() if isinstance(value, Tensor)]
        versions = [_version(tensor) for tensor in (*self._tensors, *self._held, *state)]
        told = [(tensor.requires_grad, _hooks(tensor)) for tensor in self._tensors]
        places = [id(tensor) for tensor in state] + [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        hooks = [len(value) for name, value in vars(optimizer).items() if name.endswith("_hooks")]
        steps = [scheduler.last_epoch for scheduler in schedulers(self._member)]
        groups = [group.copy() for group in optimizer.param_groups]
        return versions, _norms(self._normed), told, places, groups, hooks, steps, _Kept(state)


class _Kept:
    """What must stay, for its id to be nobody else's; equal to any other."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept)


def _version(tensor: Tensor) -> int:
    return -1 if is_lazy(tensor) or tensor.is_inference() else tensor._version


def _hooks(tensor: Tensor) -> tuple[int, int]:
    return len(tensor._backward_hooks or ()), len(getattr(tensor, "_post_accumulate_grad_hooks", None) or ())


@torch.no_grad()
def _norms(tensors: list[Tensor]) -> str:
    """As a text, in which NaN is as it was. One wait for the device."""
    return repr(torch.stack(torch._foreach_norm(tensors)).tolist()) if tensors else ""

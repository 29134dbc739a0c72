"""Members trained one after another: what a stack must be equal to, and what is used where none can be made or none pays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from .batched import dims_of
from .held import Member
from .layout import trained
from .optimizers import completed
from .program import NO_GRADIENT, Hook, detached
from .randomness import own_randomness


class Loop:
    """The same words as a `Stack`; the members' own modules and optimizers are the truth at any time."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members: list[Member] = list(members)

    def __len__(self) -> int:
        return len(self.members)

    def step(self, hook: Hook, batch: Any, in_dims: Any, keys: Tensor, clip: Tensor | None = None, more: Any = None) -> tuple[Tensor, Any]:
        losses, extras = [], []
        for row, ((model, optimizer), key, largest) in enumerate(zip(self.members, keys.unbind(), _clips(clip, len(self)))):
            model.train()
            for parameter in model.parameters():
                parameter.grad = None       # zero_grad with what torch hangs on it for its profiler is a tenth of a small model's step
            with own_randomness(key, strict=False):
                found = _called(hook, model, of_row(batch, in_dims, row), more, row)
            loss, extra = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
            if not isinstance(loss, Tensor) or loss.dim() != 0:
                shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise ValueError(f"The loss of a member must be a 0-dim tensor, but is {shape}. Take its mean().")
            if not loss.requires_grad:
                raise ValueError(NO_GRADIENT)
            loss.backward()  # type: ignore[no-untyped-call]
            _update(optimizer, largest)
            losses.append(loss.detach())
            extras.append(tree_map(detached, extra))
        return torch.stack(losses), stacked(extras)

    def take(self, gradients: Mapping[str, Tensor], clip: Tensor | None = None) -> None:
        """The optimizers' step on gradients (k, *shape) that were found elsewhere, by name; what is not there has none."""
        for row, ((model, optimizer), largest) in enumerate(zip(self.members, _clips(clip, len(self)))):
            for name, parameter in model.named_parameters():
                parameter.grad = gradients[name][row].clone() if name in gradients else None
            _update(optimizer, largest)

    @torch.no_grad()
    def evaluate(self, hook: Hook, batch: Any, in_dims: Any, keys: Tensor, more: Any = None) -> Any:
        found = []
        for row, (model, _) in enumerate(self.members):
            model.eval()
            with own_randomness(keys[row], strict=False):
                found.append(tree_map(detached, _called(hook, model, of_row(batch, in_dims, row), more, row)))
        return stacked(found)

    def dump(self, row: int) -> Member:
        return self.members[row]

    def load(self, row: int) -> None:
        """They are the truth already."""

    def add(self, members: Sequence[Member]) -> None:
        self.members += members

    def take_out(self, rows: Sequence[int]) -> list[Member]:
        gone = [self.members[row] for row in rows]
        self.members = [member for row, member in enumerate(self.members) if row not in set(rows)]
        return gone

    def copy(self, source: int, target: int) -> None:
        """As of `Stack`: parameters, buffers whether a `state_dict` has them or not, and the optimizer's state."""
        (model, optimizer), (onto, its) = self.members[source], self.members[target]
        _copy_tensors(model, onto)
        groups = its.state_dict()["param_groups"]
        its.load_state_dict({"state": _copied(optimizer.state_dict()["state"]), "param_groups": groups})
        completed(its)


def of_row(tree: Any, in_dims: Any, row: int) -> Any:
    """One member's view of what vmap is given: where `in_dims` holds None, all of it."""
    if in_dims is None:
        return tree
    leaves, spec = tree_flatten(tree)
    dims = dims_of(tree, in_dims)
    return tree_unflatten([leaf if dim is None else leaf.select(dim, row) for leaf, dim in zip(leaves, dims, strict=True)], spec)


def stacked(each: Sequence[Any]) -> Any:
    """[tree, tree, ...] -> one tree with a leading dimension."""
    spec = tree_flatten(each[0])[1]
    columns = zip(*(tree_flatten(tree)[0] for tree in each), strict=True)
    return tree_unflatten([torch.stack([torch.as_tensor(part) for part in column]) for column in columns], spec)


def _clips(clip: Tensor | None, k: int) -> list[float]:
    return [math.inf] * k if clip is None else clip.tolist()


def _update(optimizer: Optimizer, largest: float) -> None:
    if largest < math.inf:
        clip_grad_norm_(trained(optimizer), largest)
    optimizer.step()


def _called(hook: Hook, model: nn.Module, batch: Any, more: Any, row: int) -> Any:
    return hook(model, batch) if more is None else hook(model, batch, of_row(more, 0, row))


@torch.no_grad()
def _copy_tensors(model: nn.Module, onto: nn.Module) -> None:
    """In place, so that who else holds a tensor sees what is in it now; but for a buffer that has another shape, or is not there yet."""
    for module, other in zip(model.modules(), onto.modules(), strict=True):
        for key, parameter in module._parameters.items():
            if parameter is not None:
                other._parameters[key].copy_(parameter)  # type: ignore[union-attr]
        for key, buffer in module._buffers.items():
            there = other._buffers.get(key)
            if buffer is not None and there is not None and there.shape == buffer.shape:
                there.copy_(buffer)
            else:
                other._buffers[key] = None if buffer is None else buffer.detach().clone()


def _copied(state: Any) -> Any:
    return tree_map(lambda part: part.clone() if isinstance(part, Tensor) else part, state)

"""Models that differ in widths only, in one stack: each lies in the front corner of tensors that are wide enough for all of them.

A width is a size that one layer gives and a later one takes: units of hidden layers, channels, and what a flattened image makes of
channels. What the first layer takes and the last one gives is none: a loss or a softmax would see the difference.

Laws:
1. Parameters are zero outside of a member's corner and have no gradient there, so no rule of an optimizer moves them (but for eps=0,
   where 0 / 0 is NaN: such members are not padded). What units outside hold is multiplied by zeros.
2. Which widths may share a stack follows from the member and the kind of its device alone: those up to a floor, and above it those
   with one next power of two. On a CPU the floor is the highest at which the member is light still (module costs), and FLOOR at least.
3. A stack's widths follow from its members: where they agree, their own; where they differ, the power of two that holds the widest.
4. That a program computes in wider tensors what it does in a member's own is checked, not assumed (module loud).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from .costs import cost

FLOOR = {"cpu": 64}
FLOOR_ELSEWHERE = 512
"""Widths that share a stack whatever they are: there the time of an update goes to its launches, not to its arithmetic."""

LIGHT, LIGHTEST = 0.28, 0.07
"""A member that costs so much of a step is light, padding included: with several widths, and with one. In one stack with wider ones it
costs as much as they do, which the step of a stack of its own outweighs where few are as narrow; several widths have many combinations."""

AXES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("out_features", "in_features"),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), ("out_channels", "in_channels")),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), ("num_features",)),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
}
"""How long the first dimensions of a layer's tensors are, by its attributes: what it gives, then what it takes. An embedding gives the
second, and how many it has is no width."""

Place = tuple[str, str]
"""(path of a module, attribute)"""


class Width(NamedTuple):
    """`unit` wide, `times` over: a Linear after a flattened image takes `times` numbers of each channel."""

    unit: int
    times: int


@dataclass(frozen=True)
class UpTo:
    """In a structure, all the widths that may share a stack."""

    size: int

    def __repr__(self) -> str:
        return f"up to {self.size}"


# Of one model ---------------------------------------------------------------------------------------------------------------


def widths(model: nn.Module) -> dict[Place, Width]:
    """The widths of a model that may be padded; none where there is an `obstacle`."""
    found = _widths(model)
    return {} if _obstacle(model, found) else found


def obstacle(model: nn.Module) -> str:
    """The layer for which the widths of a model are not padded: "LayerNorm (net.1)"; "" if there is none."""
    return _obstacle(model, _widths(model))


def rounded(model: nn.Module, optimizer: Optimizer, device: str, batch: int) -> dict[Place, UpTo]:
    """What stands for its widths in a model's structure (law 2). `device`: the kind of the one it is trained on, `batch`: of how many."""
    if any(group.get("eps") == 0 for group in optimizer.param_groups):
        return {}
    return {place: UpTo(size) for place, size in roomy(model, device, batch).items()}


def roomy(model: nn.Module, device: str, batch: int) -> dict[Place, int]:
    """The widths of a model -> the widest with which they may share a stack."""
    found = widths(model)
    several = sum(attribute in _GIVEN for _, attribute in found) > 1
    floor = FLOOR_ELSEWHERE
    while True:
        sizes = {place: max(floor, _power(width.unit)) * width.times for place, width in found.items()}
        if not found or floor <= FLOOR.get(device, FLOOR_ELSEWHERE):
            return sizes
        of_step = cost(model, sizes, batch)
        if of_step is not None and of_step <= (LIGHT if several else LIGHTEST):
            return sizes
        floor //= 2


_GIVEN = ("out_features", "out_channels", "embedding_dim")


def _widths(model: nn.Module) -> dict[Place, Width]:
    found: dict[Place, Width] = {}
    given: dict[int, list[Place]] = {}      # by size; the latest is the last
    channels: list[int] = []
    norms: list[tuple[Place, Width]] = []
    for path, module in model.named_modules():
        if not _is_layer(module):
            continue
        if isinstance(module, nn.Embedding):
            given[module.embedding_dim] = [*given.pop(module.embedding_dim, ()), (path, "embedding_dim")]
            continue
        axes = AXES[type(module)]
        width = _width(getattr(module, axes[-1]), given, channels if isinstance(module, (nn.Linear, nn.BatchNorm1d)) else ())
        if len(axes) == 1:
            norms += [((path, axes[0]), width)] if width else []
            continue
        if width:
            found.update({place: Width(width.unit, 1) for place in given[width.unit]})
            found[path, axes[1]] = width
        gives = getattr(module, axes[0])
        given[gives] = [*given.pop(gives, ()), (path, axes[0])]
        if not isinstance(module, nn.Linear):
            channels.append(gives)
    used = {width.unit for width in found.values()}
    return found | {place: width for place, width in norms if width.unit in used}


def _width(takes: int, given: Mapping[int, Sequence[Place]], channels: Sequence[int]) -> Width | None:
    """Where from so many come: who gives as many, or the last `channels` of which they are a multiple."""
    if takes in given:
        return Width(takes, 1)
    flattened = [size for size in channels if takes % size == 0]
    return Width(flattened[-1], takes // flattened[-1]) if flattened else None


def _is_layer(module: nn.Module) -> bool:
    return type(module) in AXES and getattr(module, "groups", 1) == 1 and getattr(module, "max_norm", None) is None


def _obstacle(model: nn.Module, found: Mapping[Place, Width]) -> str:
    """A layer of another kind that has a width in its tensors, or has no shape yet, or a tensor that stands in two places."""
    sizes = {size for width in found.values() for size in (width.unit, width.unit * width.times)}
    seen: set[int] = set()
    for path, module in model.named_modules():
        named = f"{type(module).__name__} ({path})" if path else type(module).__name__
        for tensor in _own(module).values():
            if id(tensor) in seen or is_lazy(tensor) or not _is_layer(module) and sizes.intersection(tensor.shape):
                return named
            seen.add(id(tensor))
    return ""


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in (*module._parameters.items(), *module._buffers.items()) if tensor is not None}


def _power(size: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << (size - 1).bit_length()


# Of a stack -----------------------------------------------------------------------------------------------------------------


def common(models: Sequence[nn.Module]) -> dict[Place, int]:
    """The widths in which these models differ -> those of their stack (law 3). They are of one structure."""
    if len({_shapes(model) for model in models}) == 1:
        return {}
    each = [widths(model) for model in models]
    found = {}
    for place, (_, times) in each[0].items():
        units = {own[place].unit for own in each}
        if len(units) > 1:
            found[place] = _power(max(units)) * times
    return found


def widened(model: nn.Module, sizes: Mapping[Place, int], held: Iterable[Tensor] = ()) -> nn.Module:
    """A copy of these widths, all of whose changed tensors are zero; without any, the model itself. `held`: what is not copied."""
    if not sizes:
        return model
    made = copy.deepcopy(model, {id(tensor): tensor for tensor in held})
    modules = dict(made.named_modules())
    for (path, attribute), size in sizes.items():
        module = modules[path]
        axis = AXES[type(module)].index(attribute)
        for name, tensor in _own(module).items():
            if tensor.dim() > axis:
                shape = (*tensor.shape[:axis], size, *tensor.shape[axis + 1 :])
                made_of = tensor.detach().new_zeros(shape)
                is_parameter = name in module._parameters
                registry = module._parameters if is_parameter else module._buffers
                registry[name] = nn.Parameter(made_of, tensor.requires_grad) if is_parameter else made_of
        setattr(module, attribute, size)
    return made


def shapes(model: nn.Module, sizes: Mapping[Place, UpTo]) -> dict[str, tuple[int | UpTo, ...]]:
    """name -> the shape of each of its tensors, where some of it are widths that stand for others."""
    found: dict[str, tuple[int | UpTo, ...]] = {}
    modules = dict(model.named_modules())
    for (path, attribute), size in sizes.items():
        axis = AXES[type(modules[path])].index(attribute)
        for name, tensor in _own(modules[path]).items():
            whole = f"{path}.{name}" if path else name
            shape = found.get(whole, tuple(tensor.shape))
            if len(shape) > axis:
                found[whole] = (*shape[:axis], size, *shape[axis + 1 :])
    return found


def holds(wide: nn.Module, model: nn.Module) -> bool:
    """Whether each tensor of a model lies in the corner of its counterpart."""
    return all(size <= room for own, its in zip(_shapes(model), _shapes(wide)) for size, room in zip(own, its))


def _shapes(model: nn.Module) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in (*model.parameters(), *model.buffers()))


@torch.no_grad()
def put(own: Tensor, out: Tensor) -> None:
    """Copies a tensor into the front corner of another, which is zero elsewhere."""
    if own.shape == out.shape:
        out.copy_(own)
    else:
        out.zero_()[_front(own.shape)].copy_(own)


def front(tensor: Tensor, like: Tensor) -> Tensor:
    """The front corner of a tensor that has the shape of `like`."""
    return tensor if tensor.shape == like.shape else tensor[_front(like.shape)]


def _front(shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in shape)

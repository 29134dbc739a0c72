"""Where each tensor of a model lies in a stack.

All parameters that the optimizer trains lie in flat rows: one block (k, D) for each param group and dtype, a member's parameters
one after another in a row. An optimizer that works element by element then takes one pass over a block, however many
parameters there are, and so do clipping, checks and copies. The model sees views of the block, each (k, *shape).

    block      trained parameters of one param group and dtype
    fixed      parameters that are not trained: stacked where members differ in them, else held once
    buffers    stacked, and written back after each step

Where widths are padded (module padding), a block has the shapes of the stack, and a member's parameters lie in the front corner of
each: `corner` says where.

Laws:
1. `load_row` then `dump_row` of another member leaves that member's model and optimizer as the first one's were, bit for bit.
2. A tied parameter lies in a stack once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from .optimizers import Flags, flags_of
from .padding import front


@dataclass(frozen=True)
class Block:
    """Trained parameters of one param group and dtype, in the order of the group."""

    group: int
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtype: torch.dtype
    flags: Flags

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(shape.numel() for shape in self.shapes)

    @property
    def width(self) -> int:
        return sum(self.sizes)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """(k, D) -> {name: (k, *shape)}; the gradient of all of them comes back in one piece."""
        parts = flat.split_with_sizes(self.sizes, 1)
        return {name: part.view(flat.shape[0], *shape) for name, part, shape in zip(self.names, parts, self.shapes)}


@dataclass(frozen=True)
class Layout:
    """The same for all members of one signature."""

    blocks: tuple[Block, ...]
    fixed: tuple[str, ...]
    buffers: tuple[str, ...]


def layout_of(model: nn.Module, optimizer: Optimizer, idle: Sequence[str] = (), wide: nn.Module | None = None) -> Layout:
    """`idle`: parameters that no loss depends on. An optimizer skips them, so they are not trained, whatever they require.

    `wide`: the model in the shapes of the stack; None: in its own.
    """
    shapes = {name: parameter.shape for name, parameter in (wide or model).named_parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    blocks = []
    for number, group in enumerate(optimizer.param_groups):
        own = [(names[id(p)], p) for p in group["params"] if p.requires_grad and names[id(p)] not in idle]
        for dtype in dict.fromkeys(parameter.dtype for _, parameter in own):
            part = tuple(name for name, parameter in own if parameter.dtype == dtype)
            blocks.append(Block(number, part, tuple(shapes[name] for name in part), dtype, flags_of(group)))
    trained = {name for block in blocks for name in block.names}
    fixed = tuple(name for name, _ in model.named_parameters() if name not in trained)
    return Layout(tuple(blocks), fixed, tuple(name for name, _ in model.named_buffers()))


def trained(optimizer: Optimizer) -> list[Tensor]:
    """What `max_grad_norm` is the norm of: a parameter that the optimizer was not given is not trained, whatever it requires."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def parameters_of(model: nn.Module, block: Block) -> list[Parameter]:
    """A member's parameters of a block, in its order."""
    found = dict(model.named_parameters())
    return [found[name] for name in block.names]


def corner(block: Block, parameters: Sequence[Tensor]) -> Tensor | None:
    """(d,) int64: where a member's parameters lie in a row (D,) of the block, one after another; None where they are all of it."""
    if all(parameter.shape == shape for parameter, shape in zip(parameters, block.shapes)):
        return None
    every = torch.arange(block.width).split_with_sizes(block.sizes)
    parts = [part.view(shape) for part, shape in zip(every, block.shapes)]
    own = [front(part, parameter).reshape(-1) for part, parameter in zip(parts, parameters)]
    return torch.cat(own).to(parameters[0].device)


@torch.no_grad()
def flatten(parameters: Sequence[Tensor], out: Tensor) -> None:
    """Copies parameters into a row (D,)."""
    torch.cat([parameter.reshape(-1) for parameter in parameters], out=out)


@torch.no_grad()
def unflatten(row: Tensor, parameters: Sequence[Tensor]) -> None:
    """Copies a row (D,) into parameters; from one device to another as a whole."""
    parts = row.to(parameters[0].device).split_with_sizes([parameter.numel() for parameter in parameters])
    torch._foreach_copy_(list(parameters), [part.view_as(parameter) for part, parameter in zip(parts, parameters)])


def cut(tensor: Tensor, row: int, place: Tensor | None) -> Tensor:
    """A member's part of (k, D) or (k,), with a leading 1: a copy where it has a place in the row, else a view."""
    part = tensor[row : row + 1]
    return part if place is None or tensor.dim() == 1 else part[:, place]


def paste(part: Tensor, tensor: Tensor, row: int, place: Tensor | None) -> None:
    """Writes back what was cut; zero where it was not."""
    if place is not None and tensor.dim() == 2:
        tensor[row] = 0
        tensor[row, place] = part[0]

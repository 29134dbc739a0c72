"""Checked, not assumed: on a stack's first step one member is also stepped alone, and the two must agree.

Compared are the loss, the gradient of every parameter (by the norm of its difference, against the norm of the whole gradient: a
bias before a normalization has none of its own), and what the optimizer makes of that same gradient. Parameters that the loss
does not depend on are found out here too: alone they have no gradient, and their optimizer leaves them as they are.

Where alone is not finite nothing is compared: NaN in one member says nothing of the sharing, and the check waits for a later step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils._pytree import tree_flatten

from .layout import flatten, parameters_of, trained
from .stack import Stack


class Differs(Exception):
    """Stacked and alone are not the same; the text says where."""


class Idle(Exception):
    """`names`: parameters that the loss does not depend on."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = tuple(names)


class FirstStep:
    """A row's first step, alone, on a copy that is made here. `coarse`: the arithmetic is bfloat16's.

    `conclusive`: all was finite, and so compared.
    """

    def __init__(self, stack: Stack, coarse: bool, row: int = 0) -> None:
        self.row = row
        self.conclusive = True
        self._stack = stack
        self._model, self._optimizer = copy.deepcopy(stack.members[row])
        self._bound = _bound(stack.flats[0], coarse)

    def loss(self, alone: Callable[[Any], Tensor], losses: Tensor, gradients: Sequence[Tensor]) -> None:
        """`alone(model)` gives the loss of the copy; `losses` (k,) and `gradients` are the stack's. Raises Idle and Differs."""
        self._model.train()
        with torch.enable_grad():
            loss = alone(self._model)
            named = {name: parameter for name, parameter in self._model.named_parameters() if parameter.requires_grad}
            found = dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True)))
        trained = [name for block in self._stack.layout.blocks for name in block.names]
        idle = [name for name in trained if found[name] is None]
        if idle:
            raise Idle(idle)
        whole = torch.stack([found[name].norm() for name in trained]).norm()
        if not bool(loss.isfinite() & whole.isfinite()):
            self.conclusive = False
            return
        self._agree("the loss", losses[self.row].detach(), loss.detach(), loss.detach().abs().clamp(min=1.0))
        for number, (block, gradient) in enumerate(zip(self._stack.layout.blocks, gradients)):
            for name, part in zip(block.names, self._parts(number, gradient)):
                self._agree(f"the gradient of {name}", part.view_as(named[name]), found[name], whole)

    def update(self, gradients: Sequence[Tensor], clip: Tensor | None) -> Callable[[], None]:
        """To be called before the stack's update, and what it returns after it. Raises Differs."""
        for number, (block, gradient) in enumerate(zip(self._stack.layout.blocks, gradients)):
            for part, parameter in zip(self._parts(number, gradient), parameters_of(self._model, block)):
                parameter.grad = part.detach().view_as(parameter).clone()
        if clip is not None:
            clip_grad_norm_(trained(self._optimizer), float(clip[self.row]))
        self._optimizer.step()

        def compare() -> None:
            for number, (block, flat) in enumerate(zip(self._stack.layout.blocks, self._stack.flats)):
                row = self._stack.own(number, flat.detach(), self.row)
                own = torch.empty_like(row)
                flatten(parameters_of(self._model, block), own)
                if bool(own.isfinite().all()):
                    self._agree(f"the {type(self._optimizer).__name__} step", row, own, own.norm())
                else:
                    self.conclusive = False

        return compare

    def _parts(self, number: int, rows: Tensor) -> tuple[Tensor, ...]:
        parameters = parameters_of(self._model, self._stack.layout.blocks[number])
        return self._stack.own(number, rows, self.row).split_with_sizes([parameter.numel() for parameter in parameters])

    def _agree(self, what: str, stacked: Tensor, alone: Any, scale: Tensor) -> None:
        off = (stacked - alone).norm()
        if not bool(off <= self._bound * scale):
            raise Differs(f"{what} differs between stacked and alone, by {float(off):.3g} where {float(scale):.3g} is its scale")


def same_metrics(stacked: Mapping[str, Any], alone: Mapping[str, Any], coarse: bool) -> None:
    """Metrics of a batch, in two trees of tensors by name. Raises Differs."""
    for name in {**stacked, **alone}:
        one, other = tree_flatten(stacked.get(name))[0], tree_flatten(alone.get(name))[0]
        if len(one) != len(other):
            raise Differs(f"the metric {name} is there only stacked, or only alone")
        for left, right in zip(one, other):
            bound = _bound(right, coarse)
            if left.shape != right.shape:
                raise Differs(f"the metric {name} is {tuple(left.shape)} stacked, and {tuple(right.shape)} alone")
            if not torch.allclose(left.double(), right.double(), bound, bound, equal_nan=True):
                raise Differs(f"the metric {name} differs between stacked and alone")


def _bound(like: Tensor, coarse: bool) -> float:
    return 5e-2 if coarse else 5e-3 if like.is_cuda else 1e-8 if like.dtype == torch.float64 else 1e-4

"""Checked, not assumed: on a stack's first step some members are also stepped alone, and the two must agree.

Compared are the loss and what a hook gives beside it; the gradient of every parameter (by the norm of its difference, against the norm
of the whole gradient: a bias before a normalization has none of its own); what training wrote into buffers; and what the optimizer makes
of that same gradient: how it moves the parameters, against the norm of that move, and its state. Who is compared is said in
`calls.compared`: the first row, and the last, for a mistake that counts members comes out right in the first. Parameters that the loss
does not depend on are found out here too: alone they have no gradient, and their optimizer leaves them as they are.

Where alone is not finite nothing is compared: NaN in one member says nothing of the sharing, and the check waits for a later step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils._pytree import tree_flatten, tree_map

from .layout import Block, parameters_of, trained
from .padding import front
from .per_member import of_row
from .program import detached
from .stack import Stack

_ROUNDING = 4.0         # units in the last place by which two ways to the same parameters may differ


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
        self._model, self._optimizer = copy.deepcopy(stack.members[row], {id(tensor): tensor for tensor in stack.common.values()})
        self._coarse, self._bound = coarse, _bound(stack.flats[0], coarse)

    def loss(
        self, alone: Callable[[Any], tuple[Tensor, dict[str, Any]]], losses: Tensor, gradients: Sequence[Tensor],
        extras: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """`alone(model)` gives the loss of the copy, and what came beside it; `losses` (k,), `gradients`, `extras` and the buffers as they
        are now are the stack's. Raises Idle and Differs."""
        self._model.train()
        with torch.enable_grad():
            loss, beside = alone(self._model)
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
        same_metrics(of_row(extras, self.row), tree_map(detached, beside), self._coarse)
        for name, own in self._model.named_buffers():
            if name in self._stack.common:      # the copy has it too
                continue
            its = front(self._stack.buffers[name][self.row], own)
            if own.is_floating_point() and bool(own.isfinite().all()):
                self._agree(f"the buffer {name}", its, own, own.norm().clamp(min=1.0))
            elif not own.is_floating_point() and not torch.equal(its, own):
                raise Differs(f"the buffer {name} differs between stacked and alone")

    def update(self, gradients: Sequence[Tensor], clip: Tensor | None) -> Callable[[], None]:
        """To be called before the stack's update, and what it returns after it. Raises Differs."""
        before = []
        for number, (block, gradient) in enumerate(zip(self._stack.layout.blocks, gradients)):
            before.append(self._flat(block))
            for part, parameter in zip(self._parts(number, gradient), parameters_of(self._model, block)):
                parameter.grad = part.detach().view_as(parameter).clone()
        largest = math.inf if clip is None else float(clip[self.row])
        if largest < math.inf:
            clip_grad_norm_(trained(self._optimizer), largest)
        self._optimizer.step()

        def compare() -> None:
            step = f"{type(self._optimizer).__name__} step"
            for number, (block, flat) in enumerate(zip(self._stack.layout.blocks, self._stack.flats)):
                own = self._flat(block)
                if not bool(own.isfinite().all()):
                    self.conclusive = False
                    continue
                rounding = _ROUNDING * torch.finfo(own.dtype).eps * own.norm()      # a small step of large parameters is little else
                self._agree(f"the {step}", self._stack.own(number, flat.detach(), self.row), own, (own - before[number]).norm(), rounding)
            for name, stacked, alone in self._states() if self.conclusive else ():
                self._agree(f"{name} after the {step}", stacked, alone, alone.norm())

        return compare

    def _flat(self, block: Block) -> Tensor:
        parameters = parameters_of(self._model, block)
        return torch.cat([parameter.detach().reshape(-1) for parameter in parameters])

    def _states(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """What the optimizers keep of all parameters, by name: as the stack gives it back, and alone."""
        stacked = self._stack.copy_of(self.row)[1]
        pairs = [(stacked.state[one], self._optimizer.state[other]) for one, other in zip(trained(stacked), trained(self._optimizer))]
        for name in dict.fromkeys(name for _, kept in pairs for name in kept):
            both = [(one.get(name), other[name]) for one, other in pairs if isinstance(other.get(name), Tensor)]
            if both and any(not isinstance(one, Tensor) for one, _ in both):
                raise Differs(f"{name} of {type(self._optimizer).__name__} is kept alone, and not stacked")
            if both:
                one, other = (torch.cat([part.double().reshape(-1) for part in parts]) for parts in zip(*both))
                yield name, one.to(other.device), other

    def _parts(self, number: int, rows: Tensor) -> tuple[Tensor, ...]:
        parameters = parameters_of(self._model, self._stack.layout.blocks[number])
        return self._stack.own(number, rows, self.row).split_with_sizes([parameter.numel() for parameter in parameters])

    def _agree(self, what: str, stacked: Tensor, alone: Any, scale: Tensor, rounding: Tensor | float = 0.0) -> None:
        off = (stacked - alone).norm()
        if not bool(off <= self._bound * scale + rounding):
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

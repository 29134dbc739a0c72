"""What a rule is: one class of `torch.optim` for k members at once, on stacked rows; and the arithmetic that rules share.

All parameters that one param group trains lie in a tensor `p` of shape (k, D), a member in each row, their gradient in `g`
and the optimizer's state in further (k, D) tensors. These optimizers work element by element, so a row need not know where
one parameter ends and the next begins. Every member has its own value of every numeric option, and its own number of steps.

Laws:
1. Fed the same gradients, each row is at every step what the single-tensor form of `torch.optim` makes of it, to the rounding
   of the dtype, whatever the other rows are: with momentum 0 beside 0.9, where a momentum buffer begins (it is the gradient
   itself, without dampening), and where options move between steps. Where the square of a gradient overflows, torch may
   stand still and a row becomes NaN.
2. No row reaches another one: what is NaN or infinite in a row stays there.
3. An update reads no value on the host and decides nothing by one: it can be compiled whole and captured in a CUDA graph.
4. What follows from options and step counts alone is (k,) float64, and rounded to `p.dtype` once: in float32, 1 - 0.9999 is
   off by 1.7e-4 of itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

Numbers = dict[str, Tensor]
"""The numeric options of k members: each (k,) float64, on the device of the stack. `betas` are "beta1" and "beta2"."""

Flags = tuple[tuple[str, Any], ...]
"""The options that change the program, sorted by name: members of a stack have them in common."""

Value = TypeVar("Value", Tensor, float)


class Rule(ABC):
    """One class of `torch.optim`: the names of its options and of its state, and its step.

    Attributes:
        optimizer: the class.
        numbers: its numeric options, one value for each member.
        flags: its options that split a stack.
        averages: its state tensors, whatever the flags.
        optional: names of state tensors that torch holds for some members only.
    """

    optimizer: type[Optimizer]
    numbers: tuple[str, ...]
    flags: tuple[str, ...] = ("maximize",)
    averages: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def tensors(self, flags: Flags) -> tuple[str, ...]:
        """Names of the state tensors of shape (k, D) and the dtype of the parameters."""
        return self.averages

    def scalars(self, flags: Flags) -> tuple[str, ...]:
        """Names of the state of shape (k,), float64; "step", the number of steps made, is the first."""
        return ("step",)

    def start(self, name: str, numbers: Mapping[str, Value]) -> Value | float:
        """What the state `name` is before the first step."""
        return 0.0

    def held(self, flags: Flags, scalars: Mapping[str, float]) -> tuple[str, ...]:
        """The keys of torch's own state of a member whose scalars are these."""
        return ("step", *self.tensors(flags)) if scalars["step"] else ()

    @abstractmethod
    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        """One step of all members, in place on `p` and on the tensors in `state`.

        Args:
            p: (k, D), float32 or float64, without `requires_grad`.
            g: (k, D), the gradient; it is left as it is.
            state: what `tensors` and `scalars` name.
            numbers: what `self.numbers` names; left as they are.
            flags: those of the stack; a flag that is not named is off.
        """


def is_on(flags: Flags, name: str) -> bool:
    """Whether the stack has the flag; one that is not named is off."""
    return bool(dict(flags).get(name, False))


def columns(p: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """(k,) float64 each -> (k, 1) each in the dtype of the parameters, rounded together: two kernels, however many there are."""
    return torch.stack(values).to(p.dtype).unsqueeze(2).unbind(0)


def descent(p: Tensor, g: Tensor, numbers: Numbers, flags: Flags) -> Tensor:
    """The gradient of what is minimized, with its weight decay: (k, D), a new tensor."""
    (decay,) = columns(p, numbers["weight_decay"])
    return torch.addcmul(g.neg() if is_on(flags, "maximize") else g, p, decay)


def adaptive(
    p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags, *values: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """What Adam and its kin have in common: weight decay, on the gradient or on the parameters themselves, and both moving averages go on.

    Gives the gradient that they went on by, which may be `g` itself; the (k, D) tensor that held its squares, free to be written on; and
    (k, 1) of each of `values`, (k,) float64.
    """
    decoupled, decay = is_on(flags, "decoupled_weight_decay"), numbers["weight_decay"]
    decay, first, second, *own = columns(
        p, 1.0 - numbers["lr"] * decay if decoupled else decay, 1.0 - numbers["beta1"], 1.0 - numbers["beta2"], *values
    )
    g = g.neg() if is_on(flags, "maximize") else g
    if decoupled:
        p.mul_(decay)
    else:
        g = torch.addcmul(g, p, decay)
    state["exp_avg"].lerp_(g, first)
    square = torch.mul(g, g)
    state["exp_avg_sq"].lerp_(square, second)
    return g, square, tuple(own)


def square_root(values: Tensor, out: Tensor | None = None) -> Tensor:
    """(k, D), by way of 1 / sqrt: torch's own sqrt takes 80 ns on a CPU for each zero (MKL's does), as the averages of an input or a unit
    that is always 0 are. Zero and infinity come out as such, negative numbers as NaN, others to rounding."""
    return torch.rsqrt(values, out=out).reciprocal_()

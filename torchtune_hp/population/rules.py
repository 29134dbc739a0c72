"""The optimizers of `torch.optim` for k members at once: one rule for each class, on stacked rows.

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

Sums of the form c1 * a + c2 * b with two columns c1 and c2 are written as two steps in place: PyTorch's `addcmul` with a
column in the place of its first argument is not vectorized on CPUs, and takes 4 times as long.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

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


class SGDRule(Rule):
    optimizer = SGD
    numbers = ("lr", "momentum", "dampening", "weight_decay")
    flags = ("maximize", "nesterov")
    optional = ("momentum_buffer",)
    averages = ("momentum_buffer",)

    def scalars(self, flags: Flags) -> tuple[str, ...]:
        """`buffered`: 1 where a momentum buffer has begun; torch then has state, and else none at all."""
        return ("step", "buffered")

    def held(self, flags: Flags, scalars: Mapping[str, float]) -> tuple[str, ...]:
        return ("momentum_buffer",) if scalars["buffered"] else ()

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        lr, momentum, buffered = numbers["lr"], numbers["momentum"], state["buffered"]
        state["step"].add_(1)
        moving = momentum != 0
        going_on = moving & (buffered != 0)
        keep = torch.where(going_on, momentum, (~moving).to(lr.dtype))      # without momentum, torch lets the buffer rest
        gain = torch.where(going_on, 1 - numbers["dampening"], moving.to(lr.dtype))
        buffered.masked_fill_(moving, 1.0)
        if _on(flags, "nesterov"):
            by_buffer, by_gradient = -lr * momentum, -lr
        else:
            by_buffer, by_gradient = torch.where(moving, -lr, 0.0), torch.where(moving, 0.0, -lr)
        keep, gain, by_buffer, by_gradient = _columns(p, keep, gain, by_buffer, by_gradient)
        g = _descent(p, g, numbers, flags)
        buffer = state["momentum_buffer"].mul_(keep).addcmul_(g, gain)
        p.addcmul_(buffer, by_buffer).addcmul_(g, by_gradient)


class AdamRule(Rule):
    numbers = ("lr", "beta1", "beta2", "eps", "weight_decay")
    flags = ("amsgrad", "decoupled_weight_decay", "maximize")
    averages = ("exp_avg", "exp_avg_sq")

    def __init__(self, optimizer: type[Optimizer]) -> None:
        self.optimizer = optimizer

    def tensors(self, flags: Flags) -> tuple[str, ...]:
        return (*self.averages, "max_exp_avg_sq") if _on(flags, "amsgrad") else self.averages

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        step = state["step"].add_(1)
        root = (1 - numbers["beta2"] ** step).sqrt()
        size = numbers["lr"] / (1 - numbers["beta1"] ** step)
        # m / (sqrt(v) / root + eps) is root * m / (sqrt(v) + eps * root): a pass less
        eps, size = _columns(p, numbers["eps"] * root, -size * root)
        g = _decayed(p, g, numbers, flags)
        root_mean_square = _moments(p, g, state, numbers)
        if _on(flags, "amsgrad"):
            largest = torch.maximum(state["max_exp_avg_sq"], state["exp_avg_sq"], out=state["max_exp_avg_sq"])
            torch.sqrt(largest, out=root_mean_square)
        else:
            torch.sqrt(state["exp_avg_sq"], out=root_mean_square)
        p.addcmul_(torch.div(state["exp_avg"], root_mean_square.add_(eps), out=root_mean_square), size)


class NAdamRule(Rule):
    optimizer = NAdam
    numbers = ("lr", "beta1", "beta2", "eps", "weight_decay", "momentum_decay")
    flags = ("decoupled_weight_decay", "maximize")
    averages = ("exp_avg", "exp_avg_sq")

    def scalars(self, flags: Flags) -> tuple[str, ...]:
        """`mu_single`: 1 where torch holds `mu_product` in float32 and rounds it at every step, also beside float64 parameters."""
        return ("step", "mu_product", "mu_single")

    def start(self, name: str, numbers: Mapping[str, Value]) -> Value | float:
        if name == "mu_single":
            return float(torch.get_default_dtype() != torch.float64)
        return float(name == "mu_product")

    def held(self, flags: Flags, scalars: Mapping[str, float]) -> tuple[str, ...]:
        return ("step", "mu_product", *self.tensors(flags)) if scalars["step"] else ()

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        lr, beta1, decay, product = numbers["lr"], numbers["beta1"], numbers["momentum_decay"], state["mu_product"]
        step = state["step"].add_(1)
        root = (1 - numbers["beta2"] ** step).sqrt()
        mu = beta1 * (1 - 0.5 * 0.96 ** (step * decay))
        following = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * decay))
        single = (product.to(torch.float32) * mu.to(torch.float32)).to(product.dtype)
        product.copy_(torch.where(state["mu_single"] != 0, single, product * mu))
        by_gradient = -lr * (1 - mu) / (1 - product) * root
        by_average = -lr * following / (1 - product * following) * root
        eps, by_gradient, by_average = _columns(p, numbers["eps"] * root, by_gradient, by_average)
        g = _decayed(p, g, numbers, flags)
        root_mean_square = _moments(p, g, state, numbers)
        torch.sqrt(state["exp_avg_sq"], out=root_mean_square).add_(eps)
        p.addcdiv_(torch.mul(g, by_gradient).addcmul_(state["exp_avg"], by_average), root_mean_square)


class RAdamRule(Rule):
    optimizer = RAdam
    numbers = ("lr", "beta1", "beta2", "eps", "weight_decay")
    flags = ("decoupled_weight_decay", "maximize")
    averages = ("exp_avg", "exp_avg_sq")

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        beta2 = numbers["beta2"]
        step = state["step"].add_(1)
        left = beta2 ** step
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * step * left / (1 - left)
        rectified = length > 5.0
        factor = ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length) * (1 - left)).sqrt()
        size = numbers["lr"] / (1 - numbers["beta1"] ** step) * torch.where(rectified, factor, 1.0)
        # a member whose average is still too short is divided by 0 * sqrt(v) + 1
        share, eps, size = _columns(p, rectified.to(size.dtype), torch.where(rectified, numbers["eps"], 1.0), -size)
        g = _decayed(p, g, numbers, flags)
        divisor = _moments(p, g, state, numbers)
        torch.sqrt(state["exp_avg_sq"], out=divisor).mul_(share).add_(eps)
        p.addcmul_(torch.div(state["exp_avg"], divisor, out=divisor), size)


class AdamaxRule(Rule):
    optimizer = Adamax
    numbers = ("lr", "beta1", "beta2", "eps", "weight_decay")
    averages = ("exp_avg", "exp_inf")

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        beta1, norm = numbers["beta1"], state["exp_inf"]
        step = state["step"].add_(1)
        size = -numbers["lr"] / (1 - beta1 ** step)
        fresh, beta2, eps, size = _columns(p, 1 - beta1, numbers["beta2"], numbers["eps"], size)
        g = _descent(p, g, numbers, flags)
        state["exp_avg"].lerp_(g, fresh)
        scratch = g.abs().add_(eps)
        torch.maximum(norm.mul_(beta2), scratch, out=norm)
        p.addcmul_(torch.div(state["exp_avg"], norm, out=scratch), size)


class AdagradRule(Rule):
    optimizer = Adagrad
    numbers = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")
    averages = ("sum",)

    def start(self, name: str, numbers: Mapping[str, Value]) -> Value | float:
        return numbers["initial_accumulator_value"] if name == "sum" else 0.0

    def held(self, flags: Flags, scalars: Mapping[str, float]) -> tuple[str, ...]:
        """Torch makes this state with the optimizer, not at its first step."""
        return ("step", "sum")

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        step = state["step"].add_(1)
        eps, size = _columns(p, numbers["eps"], -numbers["lr"] / (1 + (step - 1) * numbers["lr_decay"]))
        g = _descent(p, g, numbers, flags)
        root = state["sum"].addcmul_(g, g).sqrt().add_(eps)
        p.addcmul_(torch.div(g, root, out=root), size)


class AdadeltaRule(Rule):
    optimizer = Adadelta
    numbers = ("lr", "rho", "eps", "weight_decay")
    averages = ("square_avg", "acc_delta")

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        state["step"].add_(1)
        fresh, eps, size = _columns(p, 1 - numbers["rho"], numbers["eps"], -numbers["lr"])
        g = _descent(p, g, numbers, flags)
        square = torch.mul(g, g)
        state["square_avg"].lerp_(square, fresh)
        torch.add(state["square_avg"], eps, out=square)
        delta = torch.add(state["acc_delta"], eps).div_(square).sqrt_().mul_(g)
        state["acc_delta"].lerp_(torch.mul(delta, delta, out=square), fresh)
        p.addcmul_(delta, size)


class RMSpropRule(Rule):
    optimizer = RMSprop
    numbers = ("lr", "alpha", "eps", "weight_decay", "momentum")
    flags = ("centered", "maximize")
    optional = ("momentum_buffer",)
    averages = ("square_avg", "momentum_buffer")

    def tensors(self, flags: Flags) -> tuple[str, ...]:
        return (*self.averages, "grad_avg") if _on(flags, "centered") else self.averages

    def scalars(self, flags: Flags) -> tuple[str, ...]:
        """`buffered`: 1 where a momentum buffer has begun; it begins at zero."""
        return ("step", "buffered")

    def held(self, flags: Flags, scalars: Mapping[str, float]) -> tuple[str, ...]:
        names = super().held(flags, scalars)
        return names if scalars["buffered"] else tuple(name for name in names if name != "momentum_buffer")

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        lr, momentum = numbers["lr"], numbers["momentum"]
        state["step"].add_(1)
        moving = momentum > 0
        state["buffered"].masked_fill_(moving, 1.0)
        fresh, eps, keep, gain, by_buffer, by_change = _columns(
            p, 1 - numbers["alpha"], numbers["eps"], torch.where(moving, momentum, 1.0), moving.to(lr.dtype),
            torch.where(moving, -lr, 0.0), torch.where(moving, 0.0, -lr),
        )   # fmt: skip
        g = _descent(p, g, numbers, flags)
        change = torch.mul(g, g)
        mean = state["square_avg"].lerp_(change, fresh)
        if _on(flags, "centered"):
            average = state["grad_avg"].lerp_(g, fresh)
            torch.addcmul(mean, average, average, value=-1, out=change).sqrt_().add_(eps)
        else:
            torch.sqrt(mean, out=change).add_(eps)
        torch.div(g, change, out=change)
        buffer = state["momentum_buffer"].mul_(keep).addcmul_(change, gain)
        p.addcmul_(buffer, by_buffer).addcmul_(change, by_change)


RULES: dict[type[Optimizer], Rule] = {
    rule.optimizer: rule
    for rule in (
        SGDRule(), AdamRule(Adam), AdamRule(AdamW), NAdamRule(), RAdamRule(), AdamaxRule(), AdagradRule(), AdadeltaRule(), RMSpropRule()
    )
}   # fmt: skip


def _on(flags: Flags, name: str) -> bool:
    return bool(dict(flags).get(name, False))


def _columns(p: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """(k,) float64 each -> (k, 1) each in the dtype of the parameters, rounded together: two kernels, however many there are."""
    return torch.stack(values).to(p.dtype).unsqueeze(2).unbind(0)


def _descent(p: Tensor, g: Tensor, numbers: Numbers, flags: Flags) -> Tensor:
    """The gradient of what is minimized, with its weight decay: (k, D), a new tensor."""
    (decay,) = _columns(p, numbers["weight_decay"])
    return torch.addcmul(g.neg() if _on(flags, "maximize") else g, p, decay)


def _decayed(p: Tensor, g: Tensor, numbers: Numbers, flags: Flags) -> Tensor:
    """As `_descent`, or with weight decay on the parameters themselves; the gradient may then be `g` itself."""
    if not _on(flags, "decoupled_weight_decay"):
        return _descent(p, g, numbers, flags)
    (kept,) = _columns(p, 1 - numbers["lr"] * numbers["weight_decay"])
    p.mul_(kept)
    return g.neg() if _on(flags, "maximize") else g


def _moments(p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers) -> Tensor:
    """Both moving averages go on by `g`; gives the (k, D) tensor that held its squares, free to be written on."""
    first, second = _columns(p, 1 - numbers["beta1"], 1 - numbers["beta2"])
    state["exp_avg"].lerp_(g, first)
    square = torch.mul(g, g)
    state["exp_avg_sq"].lerp_(square, second)
    return square

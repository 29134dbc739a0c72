"""The optimizers of `torch.optim` for k members at once: one rule for each class, whose laws are those of rule.py.

Each is the single-tensor form of torch's class, with options and step counts that are columns. What torch decides by an option's
value (whether there is momentum, whether RAdam rectifies) is here decided by `where`, for each row.

Sums of the form c1 * a + c2 * b with two columns c1 and c2 are written as two steps in place: PyTorch's `addcmul` with a
column in the place of its first argument is not vectorized on CPUs, and takes 3.5 times as long.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from .rule import Flags, Numbers, Rule, Value, adaptive, columns, descent, is_on, square_root

__all__ = ["RULES", "Flags", "Numbers", "Rule"]


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
        gain = torch.where(going_on, 1.0 - numbers["dampening"], moving.to(lr.dtype))
        buffered.masked_fill_(moving, 1.0)
        if is_on(flags, "nesterov"):
            by_buffer, by_gradient = -lr * momentum, -lr
        else:
            by_buffer, by_gradient = torch.where(moving, -lr, 0.0), torch.where(moving, 0.0, -lr)
        keep, gain, by_buffer, by_gradient = columns(p, keep, gain, by_buffer, by_gradient)
        g = descent(p, g, numbers, flags)
        buffer = state["momentum_buffer"].mul_(keep).addcmul_(g, gain)
        p.addcmul_(buffer, by_buffer).addcmul_(g, by_gradient)


class AdamRule(Rule):
    numbers = ("lr", "beta1", "beta2", "eps", "weight_decay")
    flags = ("amsgrad", "decoupled_weight_decay", "maximize")
    averages = ("exp_avg", "exp_avg_sq")

    def __init__(self, optimizer: type[Optimizer]) -> None:
        self.optimizer = optimizer

    def tensors(self, flags: Flags) -> tuple[str, ...]:
        return (*self.averages, "max_exp_avg_sq") if is_on(flags, "amsgrad") else self.averages

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        step = state["step"].add_(1)
        root = (1.0 - numbers["beta2"] ** step).sqrt()
        size = numbers["lr"] / (1.0 - numbers["beta1"] ** step)
        # m / (sqrt(v) / root + eps) is root * m / (sqrt(v) + eps * root): a pass less
        _, root_mean_square, (eps, size) = adaptive(p, g, state, numbers, flags, numbers["eps"] * root, -size * root)
        if is_on(flags, "amsgrad"):
            largest = torch.maximum(state["max_exp_avg_sq"], state["exp_avg_sq"], out=state["max_exp_avg_sq"])
            square_root(largest, out=root_mean_square)
        else:
            square_root(state["exp_avg_sq"], out=root_mean_square)
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
        root = (1.0 - numbers["beta2"] ** step).sqrt()
        mu = beta1 * (1.0 - 0.5 * 0.96 ** (step * decay))
        following = beta1 * (1.0 - 0.5 * 0.96 ** ((step + 1) * decay))
        single = (product.to(torch.float32) * mu.to(torch.float32)).to(product.dtype)
        product.copy_(torch.where(state["mu_single"] != 0, single, product * mu))
        by_gradient = -lr * (1.0 - mu) / (1.0 - product) * root
        by_average = -lr * following / (1.0 - product * following) * root
        own = (numbers["eps"] * root, by_gradient, by_average)
        g, root_mean_square, (eps, by_gradient, by_average) = adaptive(p, g, state, numbers, flags, *own)
        square_root(state["exp_avg_sq"], out=root_mean_square).add_(eps)
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
        longest = 2 / (1.0 - beta2) - 1
        length = longest - 2 * step * left / (1.0 - left)
        rectified = length > 5.0
        factor = ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length) * (1.0 - left)).sqrt()
        size = numbers["lr"] / (1.0 - numbers["beta1"] ** step) * torch.where(rectified, factor, 1.0)
        # a member whose average is still too short is divided by 0 * sqrt(v) + 1
        own = (rectified.to(size.dtype), torch.where(rectified, numbers["eps"], 1.0), -size)
        _, divisor, (share, eps, size) = adaptive(p, g, state, numbers, flags, *own)
        square_root(state["exp_avg_sq"], out=divisor).mul_(share).add_(eps)
        p.addcmul_(torch.div(state["exp_avg"], divisor, out=divisor), size)


class AdamaxRule(Rule):
    optimizer = Adamax
    numbers = ("lr", "beta1", "beta2", "eps", "weight_decay")
    averages = ("exp_avg", "exp_inf")

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        beta1, norm = numbers["beta1"], state["exp_inf"]
        step = state["step"].add_(1)
        size = -numbers["lr"] / (1.0 - beta1 ** step)
        fresh, beta2, eps, size = columns(p, 1.0 - beta1, numbers["beta2"], numbers["eps"], size)
        g = descent(p, g, numbers, flags)
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
        eps, size = columns(p, numbers["eps"], -numbers["lr"] / (1 + (step - 1) * numbers["lr_decay"]))
        g = descent(p, g, numbers, flags)
        root = square_root(state["sum"].addcmul_(g, g)).add_(eps)
        p.addcmul_(torch.div(g, root, out=root), size)


class AdadeltaRule(Rule):
    optimizer = Adadelta
    numbers = ("lr", "rho", "eps", "weight_decay")
    averages = ("square_avg", "acc_delta")

    def update(self, p: Tensor, g: Tensor, state: dict[str, Tensor], numbers: Numbers, flags: Flags) -> None:
        state["step"].add_(1)
        fresh, eps, size = columns(p, 1.0 - numbers["rho"], numbers["eps"], -numbers["lr"])
        g = descent(p, g, numbers, flags)
        square = torch.mul(g, g)
        state["square_avg"].lerp_(square, fresh)
        torch.add(state["square_avg"], eps, out=square)
        ratio = torch.add(state["acc_delta"], eps).div_(square)
        delta = square_root(ratio, out=ratio).mul_(g)
        state["acc_delta"].lerp_(torch.mul(delta, delta, out=square), fresh)
        p.addcmul_(delta, size)


class RMSpropRule(Rule):
    optimizer = RMSprop
    numbers = ("lr", "alpha", "eps", "weight_decay", "momentum")
    flags = ("centered", "maximize")
    optional = ("momentum_buffer",)
    averages = ("square_avg", "momentum_buffer")

    def tensors(self, flags: Flags) -> tuple[str, ...]:
        return (*self.averages, "grad_avg") if is_on(flags, "centered") else self.averages

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
        fresh, eps, keep, gain, by_buffer, by_change = columns(
            p, 1.0 - numbers["alpha"], numbers["eps"], torch.where(moving, momentum, 1.0), moving.to(lr.dtype),
            torch.where(moving, -lr, 0.0), torch.where(moving, 0.0, -lr),
        )   # fmt: skip
        g = descent(p, g, numbers, flags)
        change = torch.mul(g, g)
        mean = state["square_avg"].lerp_(change, fresh)
        if is_on(flags, "centered"):
            average = state["grad_avg"].lerp_(g, fresh)
            torch.addcmul(mean, average, average, value=-1, out=change)
            square_root(change, out=change).add_(eps)
        else:
            square_root(mean, out=change).add_(eps)
        torch.div(g, change, out=change)
        buffer = state["momentum_buffer"].mul_(keep).addcmul_(change, gain)
        p.addcmul_(buffer, by_buffer).addcmul_(change, by_change)


RULES: dict[type[Optimizer], Rule] = {
    rule.optimizer: rule
    for rule in (
        SGDRule(), AdamRule(Adam), AdamRule(AdamW), NAdamRule(), RAdamRule(), AdamaxRule(), AdagradRule(), AdadeltaRule(), RMSpropRule()
    )
}   # fmt: skip

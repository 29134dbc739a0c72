"""Which members can lie in the rows of a stack at all, whoever they share it with; and why others cannot."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from .aliases import held_twice
from .optimizers import Rule, rule_of, why_not
from .signature import watched


class Unstackable(Exception):
    """These members cannot be a stack; the text says why. They can be trained one by one."""


def rule_for(model: nn.Module, optimizer: Optimizer) -> Rule:
    """The rule by which a member is trained in a row; Unstackable if it cannot be."""
    rule = rule_of(optimizer)
    if rule is None:
        raise Unstackable(why_not(optimizer))
    lazy = next((name for name, parameter in model.named_parameters() if is_lazy(parameter)), None)
    if lazy is not None:
        raise Unstackable(f"{lazy} has no shape before the model has seen a batch. Show it one in setup")
    hooked = next((name for name, parameter in model.named_parameters() if watched(parameter)), None)
    if hooked is not None:
        raise Unstackable(f"{hooked} has a hook on its gradient, which would not run")
    for path, module in model.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            raise Unstackable(f"{path or 'the model'} ({type(module).__name__}) has a backward hook, which would not run")
    second = held_twice(model)
    if second is not None:
        raise Unstackable(second)
    return rule

"""Between `torch.optim` and stacked rows: which optimizers have a rule, their options, and a member's state in and out.

A member keeps its ordinary optimizer. While it is in a stack, its options are read from `param_groups` (`numbers_of`,
`flags_of`) and its state lies in one row of the stack's tensors (`load_row`, `dump_row`); the step of all rows is
`Rule.update` (module `rules`). In a row, a member's parameters of one param group lie one after another, each `reshape(-1)`.

Laws:
1. An optimizer has a rule only if the rule does all that its `step` would: of exactly this class, without hooks, with the
   options that the rule knows. `why_not` says what stands against it.
2. `load_row` then `dump_row` leaves what the optimizer's step reads of `optimizer.state` as it was, bit for bit.
3. After `dump_row` the optimizer goes on alone as it would in the stack, and its `state_dict` loads elsewhere: it holds what
   torch itself would hold, so no `momentum_buffer` where there was no momentum yet, and nothing at all before a first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer, RMSprop

from .rules import RULES, Flags, Numbers, Rule

__all__ = [
    "Flags", "Numbers", "Rule", "completed", "dump_row", "flags_of", "fresh", "in_place", "load_row", "numbers_of", "rule_of", "upload",
    "why_not",
]  # fmt: skip

_NUMBERS = frozenset(name for rule in RULES.values() for name in rule.numbers)
_FLAGS = tuple(sorted({name for rule in RULES.values() for name in rule.flags}))
_WITHOUT_EFFECT = ("foreach", "fused")
"""Options that choose how torch computes a step, not what."""

_ALONE = "its members are trained one by one."
_WAY_OUT = "Train this member one by one."
_GROUPS = "Put those that are trained at other times into a param group of their own."


def rule_of(optimizer: Optimizer) -> Rule | None:
    """The rule that steps optimizers like this one; None if there is none (`why_not` says why)."""
    return None if why_not(optimizer) else RULES[type(optimizer)]


def why_not(optimizer: Optimizer) -> str:
    """Why there is no rule for this optimizer: a sentence for the log, "" if there is one."""
    kind = type(optimizer)
    name = f"{kind.__module__}.{kind.__qualname__}"
    rule = RULES.get(kind)
    if rule is None:
        known = [base.__name__ for base in kind.__mro__ if base in RULES]
        if known:
            return f"{name} is a subclass of torch.optim.{known[0]} and may compute something else: {_ALONE}"
        return f"{name} is none of torch.optim's {', '.join(each.__name__ for each in RULES)}: {_ALONE}"
    name = f"torch.optim.{kind.__name__}"
    if own_step(optimizer):
        return f"{name} with {own_step(optimizer)}: {_ALONE}"
    for place, group in enumerate(optimizer.param_groups):
        where = f"{name}, param_groups[{place}]"
        for parameter in group["params"]:
            if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
                return f"{where} trains parameters of {parameter.dtype}, and only float32 and float64 are fused: {_ALONE}"
        for option in optimizer.defaults:
            if option not in ("betas", *rule.numbers, *rule.flags, *_WITHOUT_EFFECT) and not _off(group.get(option)):
                return f"{where} has {option}={group[option]!r}, which is not fused: {_ALONE}"
        found, own = set(numbers_of(group)), set(rule.numbers)
        if found - own:
            return f"{where} has {', '.join(sorted(found - own))}, no option of this class: {_ALONE}"
        if own - found:
            return f"{where} lacks {', '.join(sorted(own - found))}: {_ALONE}"
    return ""


def own_step(optimizer: Optimizer) -> str:
    """What is done in its step besides what its class does; "" if nothing."""
    step = vars(optimizer).get("step")
    if step is not None and not hasattr(step, "_wrapped_by_lr_sched"):      # a scheduler's counter does no harm
        return "a `step` of its own may compute something else"
    if any(getattr(optimizer, hooks, None) for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")):
        return "a hook on its step cannot be fused, for the hook would not run"
    return ""


def _off(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) and not value


def numbers_of(group: Mapping[str, Any]) -> dict[str, float]:
    """The numeric options of a param group; `betas` as "beta1" and "beta2". An option may be a tensor of one element."""
    found = {name: float(value) for name, value in group.items() if name in _NUMBERS}
    if "betas" in group:
        found["beta1"], found["beta2"] = (float(beta) for beta in group["betas"])
    return found


def in_place(optimizer: Optimizer) -> bool:
    """Whether its hyperparameters can change in place."""
    return any(isinstance(value, (Tensor, list)) for group in optimizer.param_groups for key, value in group.items() if key != "params")


def upload(numbers: Numbers, each: Sequence[Mapping[str, float]]) -> None:
    """Every member's values into (k,) each, in one transfer that nobody waits for."""
    table = torch.tensor([[own[name] for own in each] for name in numbers], dtype=torch.float64)
    for tensor, values in zip(numbers.values(), table.to(next(iter(numbers.values())).device, non_blocking=True)):
        tensor.copy_(values)


def flags_of(group: Mapping[str, Any]) -> Flags:
    """The options of a param group that its stack has in common, sorted by name."""
    return tuple((name, bool(group[name])) for name in _FLAGS if name in group)


def fresh(rule: Rule, flags: Flags, p: Tensor, numbers: Numbers) -> dict[str, Tensor]:
    """The state of members that have made no step: tensors like `p` (k, D), scalars (k,) float64."""
    state = {name: torch.empty(len(p), dtype=torch.float64, device=p.device) for name in rule.scalars(flags)}
    state |= {name: torch.empty_like(p, requires_grad=False) for name in rule.tensors(flags)}
    for name, tensor in state.items():
        value = rule.start(name, numbers)
        column = value.reshape(-1, *[1] * (tensor.dim() - 1)) if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        tensor.copy_(column.expand_as(tensor))
    return state


@torch.no_grad()
def load_row(
    rule: Rule, flags: Flags, state: dict[str, Tensor], row: int, optimizer: Optimizer, parameters: Sequence[Parameter]
) -> None:
    """Reads a member's state into row `row` of the stack's. SGD has no count of its steps; its `step` begins at 0 here.

    Args:
        state: of the stack, as `fresh` makes it.
        optimizer: the member's own; it may have made no step yet.
        parameters: the member's, in the order in which they lie in a row.

    Raises:
        ValueError: the parameters have not all made the same steps, or state is missing; then the member can only be trained alone.
    """
    found = [_of(optimizer, parameter) for parameter in parameters]
    numbers = {name: float(value) for name, value in optimizer.defaults.items() if name == "initial_accumulator_value"}
    for name in (*rule.scalars(flags), *rule.tensors(flags)):
        state[name][row].fill_(rule.start(name, numbers))
    if not any(found):
        return
    name = f"torch.optim.{rule.optimizer.__name__}"
    for key in (*rule.scalars(flags), *rule.tensors(flags)):
        there = sum(key in each for each in found)
        if 0 < there < len(found):
            raise ValueError(
                f"{name}: the parameters of a group must have made the same steps, but {there} of {len(found)} have a {key!r}. {_GROUPS}"
            )
    for key in rule.tensors(flags):
        if key in found[0]:
            state[key][row] = torch.cat([each[key].reshape(-1).to(state[key]) for each in found])
        elif key not in rule.optional:
            raise ValueError(f"{name}: the state of a parameter has {sorted(found[0])}, but no {key!r}. {_WAY_OUT}")
    for key in rule.scalars(flags):
        if key not in found[0]:
            continue
        values = {float(each[key]) for each in found}
        if len(values) > 1:
            raise ValueError(
                f"{name}: the parameters of a group must have made the same steps, but {key!r} is {sorted(values)}. {_GROUPS}"
            )
        state[key][row] = values.pop()
    if "buffered" in state:
        state["buffered"][row] = float("momentum_buffer" in found[0])
    if "mu_single" in state:
        state["mu_single"][row] = float(getattr(found[0]["mu_product"], "dtype", None) == torch.float32)


def _of(optimizer: Optimizer, parameter: Parameter) -> dict[str, Any]:
    """What torch holds of a parameter; older versions hold None for what has not begun."""
    return {name: value for name, value in optimizer.state.get(parameter, {}).items() if value is not None}


@torch.no_grad()
def dump_row(
    rule: Rule, flags: Flags, state: dict[str, Tensor], row: int, optimizer: Optimizer, parameters: Sequence[Parameter]
) -> None:
    """Writes row `row` of the stack's state into `optimizer.state`, as a copy; the arguments are those of `load_row`.

    What torch would hold of each parameter in a tensor of its own are parts of one: it takes one copy, and one way between devices.
    """
    names = rule.scalars(flags)
    scalars = dict(zip(names, torch.stack([state[name][row] for name in names]).tolist()))     # one wait for the device
    held = rule.held(flags, scalars)
    if not held:
        for parameter in parameters:
            optimizer.state.pop(parameter, None)
        return
    device, sizes = parameters[0].device, [p.numel() for p in parameters]
    parts = {name: state[name][row].to(device, copy=True).split_with_sizes(sizes) for name in held if name not in scalars}
    on_device = {id(p) for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    default = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    for place, parameter in enumerate(parameters):
        own: dict[str, Any] = {}
        for name in held:
            if name in parts:
                own[name] = _laid_out(parts[name][place].view_as(parameter), parameter)
            elif name == "mu_product":
                own[name] = torch.tensor(scalars[name], dtype=torch.float32 if scalars["mu_single"] else torch.float64)
            elif id(parameter) in on_device:
                own[name] = torch.tensor(scalars[name], dtype=torch.float32, device=parameter.device)
            else:
                own[name] = torch.tensor(scalars[name], dtype=default)
        optimizer.state[parameter] = own


def completed(optimizer: Optimizer) -> None:
    """RMSprop looks for a buffer wherever there is momentum: a state that began without has one of zeros, which is how torch begins it."""
    if not isinstance(optimizer, RMSprop):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] > 0 else ():
            state = optimizer.state.get(parameter)
            if state and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def _laid_out(value: Tensor, parameter: Parameter) -> Tensor:
    """In memory as torch would have it: as its parameter, whose dimensions may lie there in another order."""
    if parameter.is_contiguous() and parameter.device == value.device:
        return value
    return torch.empty_like(parameter, requires_grad=False).copy_(value)

"""What may share a stack, and what keeps two members apart.

A stack runs one program over rows of tensors, so its members must agree in all that is not a tensor: classes, shapes, dtypes,
attributes of modules, the optimizer's class and flags. What may differ: the values of tensors, the numbers in `param_groups`,
and the attributes of modules for which torch takes a tensor (`LIFTED`).

Laws:
1. Two members share a stack exactly if their signatures are equal.
2. `difference` names the first thing in which two signatures differ, as a person would look for it, with both values.
3. Values are equal as module values says: a doubt splits, and never shares.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from .optimizers import flags_of, own_step
from .padding import Place, UpTo, shapes
from .values import Freezer, Same

Signature = tuple[tuple[str, Hashable], ...]
"""(what it is, its value), in a fixed order."""

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
LIFTED: dict[type[nn.Module], tuple[str, ...]] = {**dict.fromkeys(_DROPOUTS, ("p",)), nn.LocalResponseNorm: ("alpha", "beta", "k")}
"""Attributes of modules for which torch takes a tensor, so that each member has its own."""

_NOTHING: Mapping[Any, Any] = MappingProxyType({})
REGISTRIES = frozenset({"_parameters", "_buffers", "_modules", "training", "_non_persistent_buffers_set"})
_HIDDEN = ("_is_full_backward_hook", "_is_hf_initialized")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")     # others are for state_dict


def signature(model: nn.Module, optimizer: Optimizer) -> Signature:
    """All in which members of a stack must agree."""
    modules = [(_named(path, name), value) for path, name, value, _ in _modules(model)]
    return (*modules, *_tensors(model), *_optimizer(model, optimizer))


def structure(
    model: nn.Module, optimizer: Optimizer, sizes: Mapping[Place, UpTo] = _NOTHING, standing: Mapping[str, Hashable] = _NOTHING
) -> Signature:
    """The signature without what makes a difference only if it is read: the `attributes`. `sizes`: what stands for its widths;
    `standing`: by path, what stands for whole modules."""
    own = _modules(model, standing)
    modules = [(_named(path, name), sizes.get((path, name), value)) for path, name, value, free in own if not free]
    return (*modules, *_tensors(model, shapes(model, sizes)), *_optimizer(model, optimizer))


def attributes(model: nn.Module, standing: Mapping[str, Hashable] = _NOTHING) -> dict[tuple[str, str], Hashable]:
    """(path, name) -> value, for what the user's own modules hold, which may never be read, and torch's modules as floats."""
    return {(path, name): value for path, name, value, free in _modules(model, standing) if free}


def is_torch_s(module: nn.Module) -> bool:
    """Whether the module's class is torch's own: it reads whatever it holds."""
    return parametrize.type_before_parametrizations(module).__module__.partition(".")[0] == "torch"


def difference(one: Signature, other: Signature) -> str | None:
    """The first thing that differs: "net.0.negative_slope: 0.1 and 0.2". None if nothing does."""
    if one == other:
        return None
    first, second = dict(one), dict(other)
    for what in [*first, *(name for name in second if name not in first)]:
        if first.get(what, _ABSENT) != second.get(what, _ABSENT):
            return f"{what}: {_shown(first.get(what, _ABSENT))} and {_shown(second.get(what, _ABSENT))}"
    return "the order of modules, parameters or buffers"


def lifted(model: nn.Module) -> dict[tuple[str, str], float]:
    """(path of the module, attribute) -> value, for every attribute that may differ within a stack."""
    return {
        (path, name): float(getattr(module, name))
        for path, module in model.named_modules()
        for name in LIFTED.get(type(module), ())
    }


def _named(path: str, name: str) -> str:
    return ".".join(filter(None, (path, name))) or "the model"


def _modules(model: nn.Module, standing: Mapping[str, Hashable] = _NOTHING) -> Iterator[tuple[str, str, Hashable, bool]]:
    """(path, attribute, value, whether it is one of `attributes`); a module's class stands as the attribute "".

    What is compiled reads its attributes unseen: there all of them make a difference.
    """
    freeze = Freezer(model)
    compiled = any(map(is_compiled, model.modules()))
    for path, module in model.named_modules(remove_duplicate=False):
        if path in standing:
            yield path, "", standing[path], False
            continue
        own_class = not is_torch_s(module) and not compiled
        yield path, "", parametrize.type_before_parametrizations(module), False     # each such module has its own class
        lifted_here = LIFTED.get(type(module), ())
        for name, value in vars(module).items():
            if name in REGISTRIES or name in lifted_here:
                continue
            if is_of_every_module(name):
                if value and name in HOOKS:
                    yield path, name, freeze(list(value.values())), False
                continue
            yield path, name, freeze(value), own_class or isinstance(value, float)


def is_of_every_module(name: str) -> bool:
    """Whether an attribute says nothing of what a module does, unless it is one of HOOKS that is not empty."""
    return name in _HIDDEN or name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))


def is_compiled(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules or module._compiled_call_impl is not None


def _tensors(model: nn.Module, standing: Mapping[str, Hashable] = _NOTHING) -> list[tuple[str, Hashable]]:
    """`standing`: what stands for the shapes of some."""
    found: list[tuple[str, Hashable]] = []
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tied = first.setdefault(id(parameter), name)
        if tied != name:
            found.append((name, ("tied to", tied)))
        else:
            shape: Hashable = "not yet known" if is_lazy(parameter) else standing.get(name, tuple(parameter.shape))
            found.append((f"shape of {name}", shape))
            found.append((f"kind of {name}", (parameter.dtype, parameter.device.type, parameter.requires_grad)))
            if watched(parameter):
                found.append((f"a hook on the gradient of {name}", True))
    for name, buffer in model.named_buffers(remove_duplicate=False):
        shape = "not yet known" if is_lazy(buffer) else standing.get(name, tuple(buffer.shape))
        found.append((f"shape of {name}", (shape, buffer.dtype, buffer.device.type)))
    return found


def watched(parameter: Tensor) -> bool:
    """Whether a hook waits for its gradient. The rows of a stack have none."""
    return bool(parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None))


def _optimizer(model: nn.Module, optimizer: Optimizer) -> list[tuple[str, Hashable]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: list[tuple[str, Any]] = [("the optimizer", type(optimizer)), ("a step of the optimizer's own", own_step(optimizer))]
    for number, group in enumerate(optimizer.param_groups):
        found.append((f"parameters of param_groups[{number}]", tuple(names.get(id(p), "not the model's") for p in group["params"])))
        found.append((f"flags of param_groups[{number}]", flags_of(group)))
    return found


_ABSENT = Same("absent")


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "none"
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, tuple) and len(value) == 2 and value[0] == "a bool":
        return repr(value[1])
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

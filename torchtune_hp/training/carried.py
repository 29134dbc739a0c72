"""A member's checkpoint: what training made of it, in plain tensors, numbers, strings, dicts and lists.

Saved are the ordinary `state_dict()`s of model, optimizer and schedulers, the words (plain attributes of `self`), which parameters
are trained, and which lie in which group of the optimizer; and `initial`, what all of these but the first were right after `setup`.

A state is loaded into what `setup` makes: an optimizer or a scheduler of another class cannot be. Groups that training made or changed
are made again, by the names of their parameters. Loading is then a three-way merge of every hyperparameter: what training changed comes
from the checkpoint, what the config changed comes from this trial's own `setup`. For the trial that was saved these never meet. For a
fork (PBT), whose config differs from its parent's, they may: then the config wins, and a learning rate that a schedule had moved keeps
the schedule's factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import type_before_parametrizations

from ..errors import CheckpointError, UnsafeCheckpointError
from .frozen import check
from .hooks import ModelTrainable, schedulers

Carried = dict[str, Any]
_NOTHING: Mapping[str, str] = MappingProxyType({})


def carry(member: ModelTrainable, initial: Carried, frozen: Mapping[str, str] = _NOTHING) -> Carried:
    """A copy of everything that training changes. `initial`: `hyper(member)` right after `setup`. `frozen`: what is left out (module
    frozen). UnsafeCheckpointError: see there."""
    _check_kinds(initial["kinds"], _kinds(member))
    model = {name: part for name, part in member.model.state_dict().items() if name not in frozen}
    state = {"model": model, "optimizer": member.optimizer.state_dict(), "frozen": dict(frozen), **_rest(member)}
    return {**{name: storable(part, name) for name, part in state.items()}, "initial": storable(initial, "initial")}


def hyper(member: ModelTrainable) -> Carried:
    """The hyperparameters as they are now."""
    groups = member.optimizer.state_dict()["param_groups"]
    made: Carried = storable({"param_groups": groups, **_rest(member), "kinds": _kinds(member)}, "")
    return made


def load(member: ModelTrainable, state: Mapping[str, Any], mine: Carried) -> Mapping[str, Any]:
    """Puts a member where `state` was saved -> its words. The state is copied, never held. `mine`: the member's `hyper` when it had been
    set up. CheckpointError where `setup` makes another model.
    """
    initial = state["initial"]
    _fit(member.model, state["model"])
    frozen = state.get("frozen", {})
    check(member.model, frozen)
    try:
        if not frozen:
            member.model.load_state_dict(state["model"])
        else:
            _load_all_but(member.model, state["model"], frozen)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise CheckpointError(
            f"A state is loaded into what setup makes, yet setup makes another model than the checkpoint is of. {text}"
        ) from error
    current = {"param_groups": state["optimizer"]["param_groups"], **{name: state[name] for name in _rest(member) if name in state}}
    merged = merge(initial, current, mine)
    _regroup(member, merged["groups"], merged["param_groups"])
    groups = like(member.optimizer.state_dict()["param_groups"], merged["param_groups"])
    # torch keeps the tensors it is given; the state may be loaded again.
    member.optimizer.load_state_dict({"state": storable(state["optimizer"]["state"], "optimizer"), "param_groups": groups})
    for scheduler, made in zip(schedulers(member), merged["lr_scheduler"], strict=True):
        scheduler.load_state_dict(like(scheduler.state_dict(), made))
    for name, value in merged["words"].items():
        if not (hasattr(member, name) and same(getattr(member, name), value)):
            setattr(member, name, value)
    for name, parameter in member.model.named_parameters():
        parameter.requires_grad_(merged["requires_grad"].get(name, parameter.requires_grad))
    words: Mapping[str, Any] = merged["words"]
    return words


def _load_all_but(model: nn.Module, state: Mapping[str, Any], frozen: Mapping[str, str]) -> None:
    """What is frozen is not written, not even with what it holds: others may hold it, too."""
    found = model.load_state_dict(state, strict=False)
    missing = [name for name in found.missing_keys if name not in frozen]
    if missing or found.unexpected_keys:
        raise RuntimeError(f"Missing: {missing}. Unexpected: {found.unexpected_keys}.")


def _fit(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Buffers become as large as training made them: a memory bank grows."""
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            there = state.get(f"{path}.{name}".lstrip("."))
            if name in module._non_persistent_buffers_set or is_lazy(buffer):
                continue
            if there is None:
                module._buffers[name] = None
            elif isinstance(there, Tensor) and (buffer is None or buffer.shape != there.shape):
                device = next((tensor.device for tensor in (buffer, *model.parameters()) if tensor is not None), there.device)
                module._buffers[name] = torch.empty_like(there, device=device)


Built = tuple[dict[str, Any], dict[str, type]]


def built(model: nn.Module) -> Built:
    """(parameters and persistent buffers, with the parameters' shapes; the classes of modules), as far as they are known."""
    tensors: dict[str, Any] = {name: None if is_lazy(each) else tuple(each.shape) for name, each in model.named_parameters()}
    classes = {}
    for path, module in model.named_modules():
        tensors |= {f"{path}.{name}".lstrip("."): None for name in module._buffers if name not in module._non_persistent_buffers_set}
        classes[path] = type_before_parametrizations(module)
    return tensors, classes


def check_built(then: Built, now: Built) -> None:
    """UnsafeCheckpointError where the model is made of something else than `setup` made it of."""
    if then == now:
        return
    (tensors, classes), (tensors_now, classes_now) = then, now
    changed = [name for name in {**tensors, **tensors_now} if name not in tensors or name not in tensors_now
               or tensors[name] is not None and tensors[name] != tensors_now[name]]  # fmt: skip
    changed += [path for path in {**classes, **classes_now} if path not in classes or path not in classes_now
                or classes[path] is not classes_now[path] and not issubclass(classes[path], LazyModuleMixin)]  # fmt: skip
    if changed:
        raise UnsafeCheckpointError(
            "a state is loaded into what setup makes, yet self.model is made of something else since: "
            f"{', '.join(map(repr, changed[:4]))}. "
            "Make all layers in setup (for pruning, prune.identity(layer, 'weight')), and change what they hold in the hook."
        )


def _regroup(member: ModelTrainable, groups: list[list[str]], settings: list[dict[str, Any]]) -> None:
    """The optimizer's groups hold these parameters, by name. `settings`: of each group, for one that is new."""
    if groups == _groups(member):
        return
    named, held = dict(member.model.named_parameters()), member.optimizer.param_groups
    del held[len(groups) :]
    for number, names in enumerate(groups):
        parameters = [named[name] for name in names]
        if number < len(held):
            held[number]["params"] = parameters
        else:
            member.optimizer.add_param_group({**like(held[0], settings[number]), "params": parameters})


def _groups(member: ModelTrainable) -> list[list[str]]:
    """The names of each group's parameters."""
    names = {parameter: name for name, parameter in member.model.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in member.optimizer.param_groups]


def _kinds(member: ModelTrainable) -> dict[str, list[str]]:
    parts = {"optimizer": [member.optimizer], "lr_scheduler": schedulers(member)}
    return {word: [type(part).__qualname__ for part in made] for word, made in parts.items()}


def _check_kinds(initial: Mapping[str, list[str]], now: Mapping[str, list[str]]) -> None:
    for word, made in initial.items():
        if now[word] != made:
            raise UnsafeCheckpointError(
                f"a state is loaded into what setup makes, yet setup makes {' and '.join(made) or 'nothing'} for self.{word}, but it is "
                f"{' and '.join(now[word]) or 'None'} since on_iteration_end. Make it in setup, and change its param_groups in the hook."
            )


def _rest(member: ModelTrainable) -> Carried:
    return {
        "lr_scheduler": [scheduler.state_dict() for scheduler in schedulers(member)],
        "words": {name: value for name, value in vars(member).items() if value is None or isinstance(value, (bool, int, float, str))},
        "groups": _groups(member),
        "requires_grad": {name: parameter.requires_grad for name, parameter in member.model.named_parameters()},
    }


def merge(initial: Any, current: Any, mine: Any, key: Any = None) -> Any:
    """`current` where training changed `initial`, else `mine`; where the config changed it too, `mine`, scaled if a learning rate."""
    if isinstance(mine, Mapping) and isinstance(initial, Mapping) and isinstance(current, Mapping):
        parts = {name: [part.get(name, _ABSENT) for part in (initial, current, mine)] for name in {**mine, **current}}
        merged = {name: merge(three[0], three[1], three[2], name) for name, three in parts.items()}
        return {name: value for name, value in merged.items() if value is not _ABSENT}
    if isinstance(mine, list) and isinstance(initial, list) and isinstance(current, list) and len(mine) == len(initial):
        return [merge(*parts, key) for parts in zip(initial, current, mine)] + current[len(mine) :]      # longer: training made more
    if same(initial, current):
        return mine
    if same(initial, mine):
        return current
    if key in ("lr", "_last_lr") and all(isinstance(part, (float, int, Tensor)) for part in (initial, current, mine)) and initial:
        return mine * (current / initial)
    return mine


_ABSENT = object()


def same(a: Any, b: Any) -> bool:
    """Equal, NaN included, down to the elements."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b.to(a.device))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))


def storable(value: Any, where: str) -> Any:
    """A deep copy in tensors, numbers, strings, None, dicts and lists. UnsafeCheckpointError names what is none of these."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {_key(key, where): storable(part, f"{where}.{key}" if where else str(key)) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):        # a numpy scalar
        return value.item()
    if isinstance(value, (bool, int, float, str)):       # an enum's member, say
        return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
    raise UnsafeCheckpointError(
        f"a checkpoint holds tensors, numbers, strings, dicts and lists, but {where!r} is a {type(value).__name__}. "
        "Keep it out of the state_dict, or as a tensor."
    )


def _key(key: Any, where: str) -> Any:
    if isinstance(key, (str, int)):
        return key
    raise UnsafeCheckpointError(f"the keys of a checkpoint are strings and whole numbers, but {where!r} has the key {key!r}.")


def like(live: Any, value: Any) -> Any:
    """`value` in the container types of `live`: torch's betas are a tuple, its milestones a Counter."""
    if isinstance(value, dict) and isinstance(live, Mapping):
        made = {key: like(live.get(key), part) for key, part in value.items()}
        return made if type(live) is dict else type(live)(made)  # type: ignore[call-arg]
    if isinstance(value, list) and isinstance(live, (list, tuple)):
        return type(live)(like(live[i] if i < len(live) else None, part) for i, part in enumerate(value))
    return value.clone() if isinstance(value, Tensor) else value

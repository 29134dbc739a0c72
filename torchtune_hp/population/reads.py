"""What the hooks of a stack were seen to read of Python values that are a member's own, and what becomes of it.

A program that runs once for many members takes such a value from the first of them: the others would silently be trained with
it. So whatever is read is written down, as a path:

    ("self", "alpha")               self.alpha
    ("self", "cfg", "alpha")        self.cfg["alpha"], where the dicts of two members differ; self.cfg.alpha likewise (opened.py)
    ("config", "loss", "alpha")     self.config["loss"]["alpha"]
    ("model", "net.0", "scale")     model.net[0].scale
    ("hparams", "aux")              whether there is a self.hparams["aux"]: its value is each member's own

Laws:
1. Members with equal `values` may share a stack; what was not read makes no difference.
2. A read is lifted where its values are floats, for which torch takes a tensor where they are used, or tensors of one shape: each
member then has its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence, Set as AbstractSet
from typing import Any

import torch
from torch import Tensor, nn

from .opened import Attribute, part_of
from .values import frozen

Read = tuple[str, ...]


class Apart(Exception):
    """The hooks read from self what differs between these members. Nothing has changed."""


class Reads:
    """Of all members of one structure. `lifted`: what is, in other structures of the class: most likely here as well."""

    def __init__(self, lifted: AbstractSet[Read] = frozenset()) -> None:
        self.seen: set[Read] = set(lifted)
        self.lifted: set[Read] = set(lifted)
        self.fixed: dict[Read, str] = {}        # those that cannot be lifted, and why
        self.validates_alone = ""               # why members are validated one by one, if they are

    def values(self, member: Any) -> tuple[tuple[Read, Hashable], ...]:
        """What a member has where something was read. Where it is lifted, any float is as good as another."""
        found = ((read, value_of(member, read)) for read in sorted(self.seen, key=repr))
        return tuple((read, (read in self.lifted and liftable(value)) or frozen(value)) for read, value in found)

    def apart(self, members: Sequence[Any]) -> list[Read]:
        """The reads in which members differ, and that are not lifted."""
        first, *others = [self.values(member) for member in members]
        return [read for place, (read, value) in enumerate(first) if any(other[place][1] != value for other in others)]

    def differ(self, members: Sequence[Any]) -> bool:
        """Whether some of these members may not share a stack."""
        return len({self.values(member) for member in members}) > 1

    def tensors(self, members: Sequence[Any], device: torch.device) -> dict[Read, Tensor]:
        """(k,) float64 for each lifted read that is a float of these members, who agree in `values`; (k, ...) where it is a tensor."""
        each = {read: [value_of(member, read) for member in members] for read in self.lifted}
        return {read: _together(values, device) for read, values in each.items() if liftable(values[0])}

    def can_lift(self, read: Read, members: Sequence[Any]) -> bool:
        """Whether a tensor may be tried in the place of this read."""
        kinds = {liftable(value_of(member, read)) for member in members}
        return read not in self.fixed and len(kinds) == 1 and None not in kinds

    def bar(self, reads: Iterable[Read], why: str) -> None:
        """These cannot be lifted."""
        for read in list(reads):
            self.lifted.discard(read)
            self.fixed[read] = why


def liftable(value: Any) -> Hashable:
    """What values agree in that may be lifted together; None where this one may not."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return "a tensor", tuple(value.shape), value.dtype, value.device.type
    return "a float" if isinstance(value, float) else None


def _together(values: Sequence[Any], device: torch.device) -> Tensor:
    if isinstance(values[0], Tensor):
        return torch.stack([value.detach() for value in values])
    return torch.tensor(values, dtype=torch.float64, device=device)


def value_of(member: Any, read: Read) -> Any:
    """What a member has where something was read; None where it has nothing."""
    head, *path = read
    if head == "hparams":
        return [[name, str(own.dtype)] for name, own in member.hparams.tensors().items() if name.split(".")[: len(path)] == path]
    found: Any = member.config
    if head == "model":
        module = dict(member.model.named_modules(remove_duplicate=False)).get(path[0])
        found, *path = None if module is None else vars(module).get(path[1]), *path[2:]
    elif read == ("self", "trial_id"):
        return member.trial_id
    elif head == "self":
        found, *path = vars(member).get(path[0], getattr(type(member), path[0], None)), *path[1:]
    for step in path:
        found = part_of(found, step)
    return found


def shown(read: Read) -> str:
    """A read as it was written: `self.depth`, `self.config['loss']['alpha']`, `model.net.0.scale`."""
    head, *path = read
    if head in ("config", "hparams"):
        return f"self.{head}" + _steps(path)
    if head == "model":
        name, keys = ".".join(filter(None, ("model", *path[:2]))), path[2:]
    else:
        name, keys = f"self.{path[0]}", path[1:]
    return name + _steps(keys)


def _steps(path: Sequence[str]) -> str:
    return "".join(f".{step}" if isinstance(step, Attribute) else f"[{step!r}]" for step in path)

"""Large parameters that are not trained, in checkpoints: what is as `setup` made it is not written, for `setup` makes it again.

Beside a head of some thousand numbers, a backbone of 45 MB would else be in each checkpoint of each of hundreds of trials.

Laws:
1. Left out is a parameter of at least LEAST bytes that requires no gradient, lies in no group of the optimizer and has the content that it
   had after `setup`. The digest of that content stands for it.
2. Loaded into what `setup` makes, that must have this content: else it is a CheckpointError, which names it.
3. Content is compared whenever a state is saved, for `.data` is written without a trace; but for what several trials hold as one and the
   same tensor: no trial may write that.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import CheckpointError
from .hooks import ModelTrainable

LEAST = 16 * 1024
"""Bytes. What is smaller costs a checkpoint little."""


class Frozen:
    """Of one member, right after `setup`; of one that no `setup` makes again, nothing is left out."""

    def __init__(self, member: ModelTrainable, set_up: bool = True) -> None:
        self._made = {name: _noted(parameter) for name, parameter in _frozen(member).items()} if set_up else {}

    def untouched(self, member: ModelTrainable) -> dict[str, str]:
        """name -> digest, of what may be left out of a state."""
        if not self._made:
            return {}
        now = _frozen(member)
        return {name: was for name, was in self._made.items() if name in now and _now(now[name]) == was}


def check(model: nn.Module, digests: Mapping[str, str]) -> None:
    """CheckpointError where a model has other content in the place of what was left out of a state."""
    own = dict(model.named_parameters())
    for name, was in digests.items():
        if name not in own or _now(own[name]) != was:
            raise CheckpointError(
                f"A checkpoint does not hold what is frozen and as setup made it, and setup makes it otherwise now: {name} has another "
                "content, or is not there. Give the trainable the same weights as when the checkpoint was written, or those seeds."
            )


def _frozen(member: ModelTrainable) -> dict[str, Tensor]:
    names = {name: each for name, each in member.model.named_parameters() if not each.requires_grad and _is_large(each)}
    if not names:
        return {}
    stepped = {id(each) for group in member.optimizer.param_groups for each in group["params"]}
    in_state = member.model.state_dict()        # a class may write its own
    return {name: each for name, each in names.items() if id(each) not in stepped and _is(in_state.get(name), each)}


def _is(part: Any, parameter: Tensor) -> bool:
    return isinstance(part, Tensor) and part.shape == parameter.shape and part.data_ptr() == parameter.data_ptr()


def _is_large(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and tensor.layout == torch.strided and tensor.device.type != "meta" and tensor.nbytes >= LEAST


# Digests --------------------------------------------------------------------------------------------------------------------


@dataclass
class _Known:
    """`noted`: how many members were set up with the tensor."""

    tensor: weakref.ref[Tensor]
    version: int
    digest: str
    noted: int = 0


_KNOWN: dict[int, _Known] = {}


def _noted(tensor: Tensor) -> str:
    """At the end of a `setup`."""
    known = _KNOWN.get(id(tensor))
    if known is None or known.tensor() is not tensor or known.version != _version(tensor):
        here = id(tensor)
        known = _Known(weakref.ref(tensor, lambda _: _KNOWN.pop(here, None)), _version(tensor), _digest(tensor))
        _KNOWN[here] = known
    known.noted += 1
    return known.digest


def _now(tensor: Tensor) -> str:
    known = _KNOWN.get(id(tensor))
    shared = known is not None and known.noted > 1 and known.tensor() is tensor and known.version == _version(tensor)
    return known.digest if shared and known is not None else _digest(tensor)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    made = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    made.update(content.numpy().data)
    return made.hexdigest()

"""What a stack holds once for all its members, and what becomes each member's own.

    shared      frozen parameters that are alike in all; among them
    common      what all members have as one and the same tensor, a backbone's parameters and buffers say: that one itself
    stacked     frozen parameters of which each member has its own, in rows

Laws:
1. A frozen parameter that a call has written is each member's own from then on. One that they have in common cannot be: no two trials
   may write one tensor.
2. Nobody's own tensor has been written while it was held once, so that it can be read from any member at any time.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .padding import front, put
from .program import Program
from .stackable import Unstackable

Member = tuple[nn.Module, Optimizer]


class HeldOnce:
    """Of the rows that stand on it."""

    members: list[Member]
    program: Program
    shared: dict[str, Tensor]
    common: dict[str, Tensor]
    stacked: dict[str, Tensor]      # (k, *shape) each
    buffers: dict[str, Tensor]

    def give_each_what_is_written(self) -> bool:
        """After a call that raised and was put back: whether it had written what is held once, and each has its own now."""
        names = [name for name in self.program.written if name in self.shared and name not in self.common]
        self._give_each(names)
        return bool(names)

    def _versions(self) -> list[int]:
        """Of what is held once."""
        return [-1 if tensor.is_inference() else tensor._version for tensor in self.shared.values()]

    def _unwritten(self, before: list[int]) -> None:
        """After a call; `before`: the versions before it."""
        now = self._versions()
        if now == before:
            return
        written = [name for name, one, other in zip(self.shared, before, now) if one != other]
        for name in written:
            if name in self.common:
                raise Unstackable(f"a call writes {name} of the model, which all members hold as one. copy.deepcopy gives each its own")
        values = {name: self.shared[name] for name in written}
        self._give_each(written)
        for name, value in values.items():
            self.stacked[name].copy_(value.expand_as(self.stacked[name]))

    def _give_each(self, names: Collection[str]) -> None:
        for name in names:
            held = self.shared.pop(name)
            self.stacked[name] = torch.empty(len(self.members), *held.shape, dtype=held.dtype, device=held.device)
        self._read_own(names)

    @torch.no_grad()
    def _read_own(self, names: Collection[str]) -> None:
        for row, (model, _) in enumerate(self.members if names else ()):
            own = self._beside(model)
            for name in names:
                put(own[name], self.stacked[name][row])

    def _beside(self, model: nn.Module) -> dict[str, Tensor]:
        """Where a member's own tensors are found that lie in no block; to walk through a model takes longer than to copy it."""
        return tensors_of(model) if self.buffers or self.stacked else {}

    def _alike(self, name: str) -> bool:
        """Whether a frozen parameter may be held once."""
        each = (dict(model.named_parameters())[name] for model, _ in self.members)
        first = next(each)
        return not first.requires_grad and all(torch.equal(first, other) for other in each)

    def _has_what_is_shared(self, model: nn.Module) -> bool:
        """Whether what is held once is the same in this model."""
        own = tensors_of(model) if self.shared else {}
        return all(own[name] is self.common.get(name) or torch.equal(front(it, own[name]), own[name]) for name, it in self.shared.items())


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}

"""What one call for all members does in Python, where each member alone would do it for itself: what a module remembers of its calls, and
draws from `random` or numpy.

It is looked for in one step, for looking costs a part of it. A module's own state is compared before and after the call; what has changed
may still be a cache that was filled, so the hook is called once more, on copies, and a memory is what has changed again.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .memories import changed, memories, of_members
from .program import Hook, Rows
from .stack import Stack


class Draws:
    """Where `random` and numpy's global generator stand."""

    def __init__(self) -> None:
        self._random, self._numpy = random.getstate(), np.random.get_state(legacy=False)

    def moved(self) -> bool:
        return self._random != random.getstate() or not _equal(self._numpy, np.random.get_state(legacy=False))

    def put_back(self) -> None:
        random.setstate(self._random)
        np.random.set_state(self._numpy)


class Watch:
    """A step of a stack, from before its gradients are computed: `why` after that, and `put_back` before its update."""

    def __init__(self, stack: Stack, batch: Any) -> None:
        self._stack, self._batch = stack, batch
        self._draws = Draws()
        self._memories = memories(stack.model)
        self._before: Rows = tree_map(_copied, stack.rows())
        leaves = [leaf for leaf in (*tree_leaves(batch), *stack.common.values()) if isinstance(leaf, Tensor)]
        self._given = [(leaf, leaf._version, leaf.clone()) for leaf in leaves if not leaf.is_inference()]       # those nobody writes

    def why(self, hook: Hook, in_dims: Any, keys: Tensor) -> str:
        """What was done once for all members, if anything."""
        stack, model = self._stack, self._stack.model
        if self._draws.moved():
            return "loss_fn draws from random or numpy. What is drawn from torch is each member's own"
        made = next((name for name, _ in model.named_buffers() if name not in stack.layout.buffers), None)
        if made is not None:
            return f"a call makes {made} of the model, a buffer that is not there before. One that begins as a tensor is each member's own"
        now = memories(model)
        if changed(self._memories, now) is None and now.keys() <= self._memories.keys() and not of_members(now):
            return ""
        rows, batch = tree_map(_copied, (stack.rows(), self._batch))
        try:
            stack.program.gradients(hook, rows._replace(flats=[flat.requires_grad_() for flat in rows.flats]), keys, batch, in_dims)
        except BaseException:
            self.put_back()
            raise
        if (name := changed(now, memories(model))) is None:
            return ""
        return f"a call changes {name} of the model, of which there is one. What a buffer counts is each member's own"

    @torch.no_grad()
    def put_back(self) -> None:
        """All tensors of the members, the batch and the generators are as they were. What modules hold in Python is not."""
        stack, before = self._stack, self._before
        for flat, old in zip(stack.flats, before.flats):
            flat.detach().copy_(old)
        stack.buffers.update(before.buffers)
        stack.stacked.update(before.stacked)
        for leaf, version, old in self._given:
            if leaf._version != version:
                leaf.copy_(old)
        self._draws.put_back()


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _equal(one: Any, other: Any) -> bool:
    """Generators' states: dicts of numbers, arrays and such dicts."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(part, other[name]) for name, part in one.items())
    return bool(np.all(one == other))

"""Members of one signature as rows of tensors, trained by one program: `torch.func.vmap` over the forward pass, one backward
pass, one pass of the optimizer over all rows.

Laws, besides those of rows.py:
1. Row i computes what member i alone would: its losses, gradients, buffers, and its optimizer's state, up to rounding.
2. Rows never meet: a NaN in one leaves all bits of the others as they would have been.
3. While members are rows, only the hyperparameters in their own `param_groups` are read.
4. The loss that is differentiated is the sum over the members: a mean would divide every gradient by their number.
5. Outside of a narrower member's corner gradients are zeros, whatever they were.

In-place changes of buffers and new tensors put in their place (running statistics, counters) are both kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .cohort import Entry
from .held import Member
from .layout import Block
from .optimizers import Numbers, Rule, numbers_of, upload
from .program import Gradients, Hook, Program
from .rows import MemberRows
from .stackable import Unstackable
from .values import frozen, placed

if TYPE_CHECKING:
    from .compiled import CompiledGradients
    from .graphed import GraphedStep


class OtherUse(Exception):
    """`idle`: the parameters that the losses of a step do not depend on; the layout knows of others.

    The hook has run and buffers have moved on, so that it need not run again: `losses` and `gradients`, (k, *shape) by name of what they
    do depend on, are what it gave. `put_back()`: buffers are as they were.
    """

    def __init__(self, idle: tuple[str, ...], losses: Tensor, gradients: Mapping[str, Tensor], put_back: Callable[[], object]) -> None:
        super().__init__(", ".join(idle))
        self.idle, self.losses, self.gradients, self.put_back = idle, losses, gradients, put_back


class Stack(MemberRows):
    """`members`: at least one, of one signature but for widths. Tensors lie where the first member's do.

    `compiled`: steps go through torch.compile. `graphed`: they are replayed from CUDA graphs, unless `replay` says
    otherwise. `program`: of another stack, that holds these members' widths.
    """

    def __init__(
        self, members: Sequence[Member], idle: Sequence[str] = (), compiled: bool = False, program: Program | None = None,
        graphed: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(members, idle, program)
        if not self.layout.blocks:
            raise Unstackable("no parameter is trained: every one is frozen, or unused by the loss")
        self._compiled: CompiledGradients | None = None
        self._updated = partial(_update, self.rule, self.layout.blocks)     # no method: a cycle would keep the rows of a stack that is gone
        self._step: Callable[..., None] = self._updated
        if compiled:
            from .compiled import CompiledGradients, CompiledUpdate  # the compiler takes seconds to import

            self._compiled, self._step = CompiledGradients(self.program), CompiledUpdate(self._updated)
        self.graphs: GraphedStep | None = None
        if graphed:
            from .graphed import CAPTURES, GraphedStep

            device = self.flats[0].device
            if device.type not in CAPTURES:
                raise Unstackable(f"a CUDA graph replays what runs on a GPU, but these members lie on the {device}")
            self.graphs = GraphedStep(self.program, partial(_clipped, self._updated), CAPTURES[device.type](device))
        self._replayed = graphed
        self._seen: list[Any] = []      # hyperparameters as they were read last,
        self._seen_at = -1              # and of which rows
        self.checked = False            # for whoever compares it with a member alone
        self.sizes: set[int] = set()    # of batches, likewise
        self.watches = False            # whether a step raises OtherUse where losses depend on other parameters than the layout says
        self._known: set[Hashable] = set()      # hooks, with shapes of batches: what is compiled or replayed is watched once for each

    def step(self, hook: Hook, batch: Any, in_dims: Any, keys: Tensor, clip: Tensor | None = None, more: Any = None) -> tuple[Tensor, Any]:
        """One update of all members -> (losses (k,), what the hook gave besides, each with a leading (k,)).

        `in_dims`: as of torch.func.vmap, for `batch`. `keys`: (k,) int64, from which each member's random numbers come. `clip`:
        (k,) the largest norm of each member's whole gradient (inf: none). `more`: a tree of (k, ...) tensors that the hook is
        given, a member's own each, as a third argument.
        """
        found = self.gradients(hook, batch, in_dims, keys, more)
        with torch.no_grad():
            self.update(found.parts, clip)
        return found.losses, found.extras

    def gradients(
        self, hook: Hook, batch: Any, in_dims: Any, keys: Tensor, more: Any = None, token: Callable[[], Hashable] | None = None
    ) -> Gradients:
        """The forward and the backward pass in training mode; buffers move on. `token()`: equal for hooks that do the same."""
        versions = self._versions()
        eager = self._compiled is None and not (self.graphs is not None and self.replayed)
        if self.watches and not eager:
            form = (token or partial(frozen if self.graphs is None else placed, hook))()
            shapes = tuple(leaf.shape for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
            if (form, shapes) not in self._known:
                self._watched(hook, keys, batch, in_dims, more, keep=False)
                self._known.add((form, shapes))
            token = token if self._compiled is None else lambda: form       # it takes a while to find out
        if self.graphs is not None and self.replayed:
            first = self.members[0][0]      # whose hook it is: what it holds of its own on the device may have another's content alike
            own = partial(placed, hook) if token is None else lambda: (token(), id(first))
            found = self.graphs.gradients(hook, own, self.rows(), keys, batch, in_dims, more)
        elif self._compiled is None and self.watches:
            found = self._watched(hook, keys, batch, in_dims, more)
        elif self._compiled is None:
            found = self.program.gradients(hook, self.rows(), keys, batch, in_dims, more)
        else:
            found = self._compiled(hook, token or partial(frozen, hook), self.rows(), keys, batch, in_dims, more)
        self._unwritten(versions)
        self._keep(found.buffers)
        for number, outside in self.outside.items():
            found.parts[number].masked_fill_(outside, 0.0)      # no product with a mask: NaN times zero is NaN
        return found

    def _watched(self, hook: Hook, keys: Tensor, batch: Any, in_dims: Any, more: Any, keep: bool = True) -> Gradients:
        """As `gradients`; raises OtherUse. Where the hook raises, and unless `keep`, buffers and frozen parameters are as they were."""
        held = [self.buffers] if keep else [self.buffers, self.stacked]
        before = [{name: tensor.clone() for name, tensor in group.items()} for group in held]
        kept = False
        try:
            found = self.program.gradients(hook, self.rows(), keys, batch, in_dims, more, self.idle)
            kept = keep
            if set(found.unused) != set(self.idle):
                kept = True
                self._keep(found.buffers)
                each = {name: part for block, flat in zip(self.layout.blocks, found.parts) for name, part in block.views(flat).items()}
                gradients = {name: part for name, part in (*each.items(), *found.woken) if name not in found.unused}
                raise OtherUse(tuple(sorted(found.unused)), found.losses, gradients, partial(self.buffers.update, before[0]))
            return found
        finally:
            for group, old in () if kept else zip(held, before):
                for name, tensor in old.items():
                    group[name].detach().copy_(tensor)

    def look(self, hook: Hook, batch: Any, in_dims: Any, keys: Tensor, more: Any = None) -> None:
        """Runs the hook as `gradients` does, for what it reads and raises. Nothing moves on, and nothing is compiled."""
        self.program.gradients(hook, self.rows(), keys, batch, in_dims, more)

    def update(self, gradients: Sequence[Tensor], clip: Tensor | None = None, moved: Mapping[Entry, Tensor] | None = None) -> None:
        """The optimizers' step on these gradients, one (k, D) for each block.

        `moved`: the hyperparameters that are not as they were in the last step, (k,) float64 each; None: to be read from the members'
        own optimizers.
        """
        if moved is None:
            self._read()
        else:
            self._move(moved)
        rows = [flat.detach() for flat in self.flats], list(gradients), self.states, self.numbers
        if self.graphs is not None and self.replayed:
            self.graphs.update(*rows, clip)
        else:
            _clipped(self._step, *rows, clip)

    @torch.no_grad()
    def take(self, gradients: Mapping[str, Tensor], clip: Tensor | None = None) -> None:
        """The optimizers' step on gradients (k, *shape) that were found elsewhere, of all that is trained here, by name."""
        k = len(self)
        self.update([torch.cat([gradients[name].reshape(k, -1) for name in block.names], dim=1) for block in self.layout.blocks], clip)

    def replay(self, on: bool) -> None:
        """Whether steps are replayed from graphs from now on; without them, their memory is free."""
        self._replayed = on
        if self.graphs is not None and not on:
            self.graphs.clear()

    @property
    def replayed(self) -> bool:
        """Whether steps are replayed from graphs."""
        return self._replayed and self.graphs is not None and not self.graphs.why

    @torch.no_grad()
    def evaluate(self, hook: Hook, batch: Any, in_dims: Any, keys: Tensor, more: Any = None) -> Any:
        """What the hook gives in eval mode, without gradients, each with a leading (k,)."""
        versions = self._versions()
        found, buffers = self.program.run(hook, self.rows(), keys, batch, in_dims, more, training=False)
        self._unwritten(versions)
        self._keep(buffers)
        return found

    @torch.no_grad()
    def _keep(self, buffers: Mapping[str, Tensor]) -> None:
        for name, buffer in buffers.items():
            if buffer.data_ptr() != self.buffers[name].data_ptr():
                self.buffers[name] = buffer.detach().clone()

    def _know(self) -> None:
        """Forgets what was read of others."""
        if self._seen_at != self.moved:
            self._seen, self._seen_at = [None for _ in self.layout.blocks], self.moved

    def _move(self, moved: Mapping[Entry, Tensor]) -> None:
        self._know()
        for place, (block, numbers) in enumerate(zip(self.layout.blocks, self.numbers)):
            for (group, name), values in moved.items():
                if group == block.group:
                    numbers[name].copy_(values)
                    self._seen[place] = None

    def _read(self) -> None:
        """The hyperparameters as the members' own optimizers have them now: a scheduler may have moved them."""
        self._know()
        for place, (block, numbers) in enumerate(zip(self.layout.blocks, self.numbers)):
            groups = [optimizer.param_groups[block.group] for _, optimizer in self.members]
            now = list(map(itemgetter(*(name for name in _SCHEDULED if name in groups[0])), groups))      # of all, at every step
            if self.boxed:
                now = [tuple(map(_unboxed, values)) for values in now]
            if now == self._seen[place]:
                continue
            self._seen[place] = now
            upload(numbers, [numbers_of(group) for group in groups])


def _clipped(
    update: Callable[..., None], flats: list[Tensor], gradients: Sequence[Tensor], states: list[dict[str, Tensor]], numbers: list[Numbers],
    clip: Tensor | None,
) -> None:  # fmt: skip
    scale = None
    if clip is not None:
        norms, *others = [torch.linalg.vector_norm(gradient, dim=1) for gradient in gradients]
        if others:
            norms = torch.stack([norms, *others]).norm(dim=0)
        scale = (clip / (norms + 1e-6)).clamp(max=1.0)
        scale = torch.where(clip.isinf(), 1.0, scale).unsqueeze(1)      # a norm may be infinite where nothing is clipped: no NaN
    update(flats, gradients, states, numbers, scale)


def _update(
    rule: Rule, blocks: Sequence[Block], flats: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]],
    numbers: list[Numbers], scale: Tensor | None,
) -> None:  # fmt: skip
    for block, flat, gradient, state, own in zip(blocks, flats, gradients, states, numbers):
        clipped = gradient if scale is None else gradient * scale.to(gradient.dtype)
        rule.update(flat, clipped, state, own, block.flags)


_SCHEDULED = ("lr", "weight_decay", "momentum", "betas", "dampening", "alpha", "rho", "eps", "lr_decay", "momentum_decay")


def _unboxed(value: Any) -> Any:
    """A learning rate may be a tensor, and betas a list: a scheduler changes those in place."""
    if isinstance(value, Tensor):
        return value.item()
    return tuple(map(_unboxed, value)) if isinstance(value, (list, tuple)) else value

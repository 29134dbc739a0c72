"""Members of one signature as rows of tensors: in, out, to other places, and back.

    flats       parameters that are trained: one row for each member, in each block (module layout)
    states      of the optimizer, as its rule names them; numbers: its options, one value for each member
    buffers, stacked, lifted: what else differs between members; shared: what is held once (module held)

Laws:
1. A member's own module and optimizer are what it was made of and what it becomes again: `load` reads them, `dump` writes them.
2. Members that differ in widths lie in the front corners of wider rows (module padding). What is outside a corner is zero.
3. Where there is no room for other rows, they stay as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .activations import NOBODY_S, chosen, fits, forms_of, joined, own_forms
from .growing import larger, of_one, uneven
from .held import HeldOnce, Member, tensors_of
from .layout import Layout, corner, cut, flatten, layout_of, parameters_of, paste, unflatten
from .memory import keep_freed_memory
from .optimizers import Rule, completed, dump_row, fresh, in_place, load_row, numbers_of, upload
from .padding import common, front, holds, put, widened
from .program import Program, Rows
from .signature import lifted
from .stackable import rule_for
from .written import in_common


class MemberRows(HeldOnce):
    """`members`: at least one, of one signature but for widths. Tensors lie where the first member's do. `idle`: parameters that no loss
    depends on. `program`: of other rows, that holds these members' widths. `beside`: rows whose members have the same in common.
    """

    def __init__(
        self, members: Sequence[Member], idle: Sequence[str] = (), program: Program | None = None, beside: MemberRows | None = None
    ) -> None:
        model, optimizer = members[0]
        self.rule: Rule = rule_for(model, optimizer)
        self.members: list[Member] = list(members)
        self.common: dict[str, Tensor] = in_common(members) if beside is None else beside.common     # held as it is, by all of them
        wide = program.model if program else self._wide([each for each, _ in members])
        self.layout: Layout = layout_of(model, optimizer, idle, wide)
        self.idle = tuple(idle)
        self.program = program or Program(wide, self.layout.blocks, self.common.values())
        self.several = chosen(self.program.model)       # activations in which members may differ
        self.flats: list[Tensor] = []                   # (k, D) each, a block's
        self.numbers: list[dict[str, Tensor]] = []      # (k,) each, float64
        self.states: list[dict[str, Tensor]] = []       # (k, D) and (k,)
        self.buffers: dict[str, Tensor] = {}
        self.stacked: dict[str, Tensor] = {}            # parameters that are not trained, and differ
        self.shared: dict[str, Tensor] = {}             # and those that do not
        self.lifted: dict[tuple[str, str], Tensor] = {}
        self.outside: dict[int, Tensor] = {}            # (k, D) bool for each block, where some member is narrower than the stack
        self._sizes: dict[str, torch.Size] = {}             # of the buffers, as they were read
        self._beside_state: set[str] = set()                # those that are not persistent
        self._single: dict[tuple[str, str], float] = {}     # what may be lifted, as the first member has it
        self.boxed = False                              # hyperparameters that can change in place
        self.moved = 0                                  # counts whenever other members, or others' numbers, lie in the rows
        self._load([] if beside is None else beside.stacked)

    def _wide(self, models: Sequence[nn.Module]) -> nn.Module:
        """What a program of these models is made of."""
        held = list(self.common.values())
        return joined(widened(models[0], common(models), held), models, held)

    def __len__(self) -> int:
        return len(self.members)

    def rows(self) -> Rows:
        """As the program takes them; the tensors are these rows' own."""
        return Rows(self.flats, self.buffers, self.stacked, self.shared, self.lifted)

    def dump(self, row: int) -> Member:
        """Writes a row into the member's own module and optimizer, and returns them."""
        model, optimizer = self.members[row]
        for block, flat, state in zip(self.layout.blocks, self.flats, self.states):
            parameters = parameters_of(model, block)
            place = corner(block, parameters)
            unflatten(cut(flat, row, place)[0], parameters)
            own_state = {name: cut(tensor, row, place) for name, tensor in state.items()}
            dump_row(self.rule, block.flags, own_state, 0, optimizer, parameters)
        completed(optimizer)
        own = self._beside(model)
        with torch.no_grad():
            for name, tensor in self.stacked.items():
                own[name].copy_(front(tensor[row], own[name]))
            for name, tensor in self.buffers.items():
                part = of_one(tensor[row], own[name], self._sizes[name])
                if part.shape != own[name].shape:
                    module, _, word = name.rpartition(".")
                    model.get_submodule(module)._buffers[word] = part.to(own[name].device, copy=True)
                elif name not in self._beside_state or not torch.equal(part.to(own[name]), own[name]):
                    own[name].copy_(part)       # one that no checkpoint needs stays untouched
        return self.members[row]

    def own(self, number: int, rows: Tensor, row: int) -> Tensor:
        """Of (k, D) rows of a block, the part (d,) of a member: its parameters, one after another."""
        block = self.layout.blocks[number]
        return cut(rows, row, corner(block, parameters_of(self.members[row][0], block)))[0]

    def copy_of(self, row: int) -> Member:
        """A row as a module and an optimizer of its own; the member's stay as they are."""
        own = self.members[row]
        self.members[row] = copy.deepcopy(own)
        try:
            return self.dump(row)
        finally:
            self.members[row] = own

    def load(self, row: int) -> None:
        """Reads a row from the member's own module and optimizer; its hyperparameters are read before each step."""
        if not self._fits(self.members[row][0]):
            self._begin_anew(self.members, [other for other in range(len(self)) if other != row])
            return
        for name, values in self._attributes([self.members[row]]).items():
            self.lifted[name][row] = values[0]
        self._fill(row)

    def _fill(self, row: int) -> None:
        model, optimizer = self.members[row]
        own = self._beside(model)
        for number, (block, flat, state) in enumerate(zip(self.layout.blocks, self.flats, self.states)):
            parameters = parameters_of(model, block)
            place = corner(block, parameters)
            rows = [flat.detach(), *state.values()]
            parts = [cut(tensor, row, place) for tensor in rows]
            flatten(parameters, parts[0][0])
            load_row(self.rule, block.flags, dict(zip(state, parts[1:])), 0, optimizer, parameters)
            for tensor, part in zip(rows, parts):
                paste(part, tensor, row, place)
            if place is not None:
                self._masked()
            if self.outside:
                self.outside[number][row] = place is not None
                self.outside[number][row, place if place is not None else slice(0)] = False
        for name, tensor in self.buffers.items():
            if own[name].shape != tensor.shape[1:] and (tensor.shape[1:] != self._sizes[name] or not self._padded(model)):
                raise uneven(name, own[name].shape, tensor.shape[1:])
        for name, tensor in (*self.buffers.items(), *self.stacked.items()):
            put(own[name], tensor[row])

    def _padded(self, model: nn.Module) -> bool:
        """Whether it is narrower than the stack."""
        return any(own.shape != wide.shape for own, wide in zip(model.parameters(), self.program.model.parameters()))

    def _masked(self) -> None:
        """From now on it is held what lies outside the members' corners."""
        if not self.outside:
            self.outside.update({number: torch.zeros_like(flat, dtype=torch.bool) for number, flat in enumerate(self.flats)})

    def add(self, members: Sequence[Member]) -> None:
        """More rows, at the end."""
        if not all(self._fits(model) for model, _ in members):
            self._begin_anew([*self.members, *members], range(len(self)))
            return
        other = MemberRows(members, self.idle, self.program, self)
        for name, tensor in self.buffers.items():
            if other.buffers[name].shape[1:] != tensor.shape[1:]:
                raise uneven(name, other.buffers[name].shape[1:], tensor.shape[1:])
        other.lifted = self._attributes(members)
        if self.outside or other.outside:
            self._masked()
            other._masked()
        with torch.no_grad():
            flats = [torch.cat(pair) for pair in zip(self.flats, other.flats)]
            groups = [{name: torch.cat([mine[name], its[name]]) for name in mine} for mine, its in zip(self._groups(), other._groups())]
        self._hold([*self.members, *members], flats, groups)
        self.boxed = self.boxed or other.boxed

    def replace(self, rows: Sequence[int], members: Sequence[Member]) -> None:
        """These rows are these members' from now on, in place, and nothing of who was there is written back."""
        place = dict(zip(rows, members))
        everyone = [place.get(row, member) for row, member in enumerate(self.members)]
        if not all(self._fits(model) for model, _ in members):
            self._begin_anew(everyone, [row for row in range(len(self)) if row not in place])
            return
        self.members = everyone
        for name, values in self._attributes(members).items():
            self.lifted[name][list(rows)] = values
        for row, (_, optimizer) in place.items():
            self._fill(row)
            self.boxed = self.boxed or in_place(optimizer)
            optimizer._opt_called = True  # type: ignore[attr-defined]
        self.moved += 1

    def _begin_anew(self, members: Sequence[Member], known: Sequence[int]) -> None:
        """A stack of these members, of whom the rows `known` hold some."""
        for row in known:
            self.dump(row)
        anew = MemberRows(members, self.idle, self.program)
        vars(self).update({name: getattr(anew, name) for name in _ROWS})
        self.moved += 1

    def holds(self, model: nn.Module) -> bool:
        """Whether its rows are wide enough for a member, and its activations are among the program's."""
        return holds(self.program.model, model) and fits(self.program.model, model)

    def widths(self, model: nn.Module) -> Hashable:
        """Those of a member, and the stack's."""
        return tuple(part.shape for each in (model, self.program.model) for part in each.parameters())

    def forms(self, model: nn.Module) -> Hashable:
        """Of a member, its activations where members differ in them."""
        return forms_of(self.several, model)

    def fits(self, row: int) -> bool:
        """Whether its own module can be read into the row as the rows are."""
        return self._fits(self.members[row][0])

    def _fits(self, model: nn.Module) -> bool:
        """Whether what is held once for all members, or stands in the program, is the same in this one."""
        single = (value == self._single[place] for place, value in lifted(model).items() if place not in self.lifted)
        return self._has_what_is_shared(model) and all(single) and fits(self.program.model, model)

    def _attributes(self, members: Sequence[Member]) -> dict[tuple[str, str], Tensor]:
        """These members' values of what each has its own of."""
        each = [self._lifted(model) for model, _ in members] if self.lifted else []
        return {place: tensor.new_tensor([own[place] for own in each]) for place, tensor in self.lifted.items()}

    def _lifted(self, model: nn.Module) -> dict[tuple[str, str], float]:
        """What may be each one's own in the place of an attribute, as a member has it."""
        return lifted(model) | own_forms(self.several, model)

    def take_out(self, rows: Sequence[int]) -> list[Member]:
        """These members, written back into their own modules and optimizers; the others close ranks, in order."""
        gone, leaving = [self.dump(row) for row in rows], set(rows)
        self.keep([row for row in range(len(self)) if row not in leaving])
        return gone

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows, in this order; the others are gone, and nothing of them is written back."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.flats[0].device)
        flats = [flat.detach().index_select(0, index) for flat in self.flats]
        groups = [{name: tensor.index_select(0, index) for name, tensor in group.items()} for group in self._groups()]
        self._hold([self.members[row] for row in rows], flats, groups)

    def _hold(self, members: list[Member], flats: Sequence[Tensor], groups: Sequence[Mapping[Any, Tensor]]) -> None:
        """Other rows from now on. They are all made by now: where there is no room for them, the stack stays as it was."""
        self.members = members
        self.flats = [flat.requires_grad_() for flat in flats]
        for group, made in zip(self._groups(), groups):
            group.update(made)
        self.moved += 1

    @torch.no_grad()
    def copy(self, source: int, target: int) -> None:
        """Weights, buffers and optimizer state of one row onto another, which keeps its hyperparameters."""
        for group in (dict(enumerate(self.flats)), self.buffers, self.stacked, *self.states):
            for tensor in group.values():  # type: ignore[attr-defined]
                tensor[target] = tensor[source].clone()

    @torch.no_grad()
    def snapshot(self) -> list[Any]:
        """A copy of all rows, for `restore`."""
        return [[flat.detach().clone() for flat in self.flats], [{k: v.clone() for k, v in group.items()} for group in self._groups()]]

    @torch.no_grad()
    def restore(self, snapshot: Sequence[Any]) -> None:
        flats, groups = snapshot
        for flat, old in zip(self.flats, flats):
            flat.detach().copy_(old)
        for group, before in zip(self._groups(), groups):
            group.update(before)
        self._read_own(self.stacked.keys() - groups[2 * len(self.flats)].keys())
        self.moved += 1

    @property
    def model(self) -> nn.Module:
        """The module that a hook is called with."""
        return self.program.model

    def _load(self, apart: Collection[str]) -> None:
        model, _ = self.members[0]
        k, device = len(self.members), next(model.parameters()).device
        if device.type == "cpu":
            keep_freed_memory()
        first = tensors_of(model)
        wide = tensors_of(self.program.model)
        self.flats = [torch.empty(k, block.width, dtype=block.dtype, device=device).requires_grad_() for block in self.layout.blocks]
        self.numbers = [
            {name: torch.empty(k, dtype=torch.float64, device=device) for name in self.rule.numbers} for _ in self.layout.blocks
        ]
        groups = [[numbers_of(optimizer.param_groups[block.group]) for _, optimizer in self.members] for block in self.layout.blocks]
        for numbers, each in zip(self.numbers, groups):
            upload(numbers, each)
        parts = zip(self.layout.blocks, self.flats, self.numbers)
        self.states = [fresh(self.rule, block.flags, flat.detach(), numbers) for block, flat, numbers in parts]
        others = [name for name in self.layout.fixed if name not in self.common]
        differs = [name for name in others if name in apart or not self._alike(name)]
        copied = {name: torch.empty_like(wide[name], requires_grad=False) for name in others if name not in differs}
        for name, shared in copied.items():
            put(first[name], shared)
        self.shared = copied | {name: tensor.detach() for name, tensor in self.common.items()}
        own = [name for name in self.layout.buffers if name not in self.common]
        self._sizes = {name: larger(wide[name].shape, first[name].shape) for name in own}
        self._beside_state = {
            f"{path}.{name}".lstrip(".") for path, module in model.named_modules() for name in module._non_persistent_buffers_set
        }
        self.stacked, self.buffers = (
            {name: torch.empty(k, *self._sizes.get(name, wide[name].shape), dtype=first[name].dtype, device=device) for name in names}
            for names in (differs, own)
        )
        every = [self._lifted(member) for member, _ in self.members]
        self._single = lifted(self.program.model) | dict.fromkeys(own_forms(self.several, model), NOBODY_S)
        self.lifted = {
            place: torch.tensor([each[place] for each in every], dtype=torch.float64, device=device)
            for place, value in self._single.items() if any(each[place] != value for each in every)
        }   # fmt: skip
        self.moved += 1
        self.boxed = any(in_place(optimizer) for _, optimizer in self.members)
        for row in range(k):
            self._fill(row)
        for _, optimizer in self.members:
            optimizer._opt_called = True  # type: ignore[attr-defined]  # or its schedulers would warn that nobody calls its step

    def _groups(self) -> list[dict[Any, Tensor]]:
        return [*self.numbers, *self.states, self.stacked, self.buffers, self.lifted, self.outside]


_ROWS = (
    "members", "common", "flats", "numbers", "states", "buffers", "stacked", "shared", "lifted", "outside", "_sizes", "_beside_state",
    "_single", "boxed",
)  # fmt: skip
"""What a stack holds of its members."""

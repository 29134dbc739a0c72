"""Trials of a ModelTrainable trained together: every call advances all of them by one iteration, in as few stacks as can be.

A trial stays what it is alone, a `ModelRunner` with its own module, optimizer, schedulers and place in the data; the engine
borrows its tensors for a row of a stack, and writes them back before anyone reads them (`settle`).

    kind      what members of a stack agree in: signature, words such as batch_size, and whatever their hooks read from self
    group     the runners of a kind, and their stack
    alone     a kind that cannot be a stack, or gains nothing from it, is trained one by one, for the same numbers
    turn      so many of a kind as fit into memory at once; the others of an iteration wait for theirs

Laws:
1. The looks are those that each runner's own `advance` would give, up to rounding: whatever shares its stack, and since when.
2. What fails, fails alone: a loss that is not finite ends its member; an error in the shared step is looked for in each member
   by itself, from where the iteration began.
3. Where memory runs out, nobody fails: all stand again where the iteration began, half as many of the kind are trained at once
   from then on, and whoever is not being trained waits in host memory. Only who has the device for itself may fail for it.
4. Whatever made the engine choose is said once, through `note`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import torch
from torch.nn.parameter import is_lazy

from ..training.alone import ModelRunner
from ..training.runner import Look
from ..training.stream import Stream
from .census import Census, advice, splits_most
from .graphed import can_capture
from .group import Group
from .kinds import Structure, any_width, attributes_of, described, is_padded, named, structure_of
from .padding import common
from .program import CompilerFailed
from .reads import Apart, Read, Reads, shown
from .remedies import remedy
from .residents import Residents
from .room import OUT_OF_MEMORY, let_go
from .seats import Refused
from .speeds import BEFORE, UNPADDED, WIDTHS, Choices, Speeds
from .widths import Mixes
from .words import Note, Words

Answer = Look | BaseException
Strategy = Literal["auto", "vmap", "loop", "compile", "graph"]

FEW = 2
"""So many runners of a kind or fewer are trained one by one."""


class Engine:
    """`note` is told what was chosen, and why.

    `strategy`: "vmap" stacks whatever can be stacked, "loop" nothing, "auto" what is faster so; "compile" stacks as "vmap" and
    compiles, "graph" replays from CUDA graphs, which "auto" tries too where there are any.

    `choices`: what "auto" chose before, which it goes on with; what it chooses is written there.
    """

    def __init__(self, note: Note = lambda kind, text: None, strategy: Strategy = "auto", choices: Choices | None = None) -> None:
        self._words = Words(note)
        self._strategy = strategy
        self._choices: Choices = {} if choices is None else choices
        self._given = len(self._choices)
        self._speeds: dict[Hashable, Speeds] = {}       # by structure
        self._groups: dict[Hashable, Group] = {}
        self._kinds: dict[ModelRunner, Hashable] = {}
        self._attributes: dict[ModelRunner, dict[Read, Hashable]] = {}
        self._reads: dict[Any, Reads] = {}              # by structure: what hooks were seen to read
        self._alone: dict[Hashable, str] = {}           # by kind: why its members are trained one by one
        self._by_shape: set[str] = set()                # names of structures of any width that are not padded
        if strategy == "auto":
            self._by_shape.update(key.removesuffix(WIDTHS) for key, chosen in self._choices.items() if chosen == UNPADDED)
        self._uncompiled: set[Hashable] = set()         # structures on which the compiler failed,
        self._uncaptured: set[Hashable] = set()         # and those whose steps no graph can hold
        self._unshaped: set[ModelRunner] = set()        # whose models have lazy layers that saw no batch yet
        self.census = Census()
        self._most: dict[Hashable, int] = {}            # by kind: how many at once have room
        self._residents = Residents(self._groups, self._words.tight)

    def begin(self, start: Callable[[], ModelRunner]) -> ModelRunner:
        """The runner that `start` makes; where there is no room for one more, made again with the device to itself."""
        runner = self._residents.begin(start)
        if self._residents.tight:
            self._kind(runner)
            self.rest([runner])
        return runner

    def advance(self, runners: Sequence[ModelRunner]) -> dict[ModelRunner, Answer]:
        """One iteration of each -> its look, or what it raised."""
        answers: dict[ModelRunner, Answer] = {}
        waiting = list(runners)
        sizes: list[int] = []
        alone = 0
        while waiting:
            again: list[ModelRunner] = []
            for (kind, _), members in self._sorted(waiting).items():
                turns = self._turns(kind, members)
                while turns:
                    turn = turns.pop(0)
                    if any(runner not in self._kinds for runner in turn) or self._kinds[turn[0]] != kind:      # sorted anew meanwhile
                        again += turn
                    elif self._padding_loses(kind, turn):
                        again += turn
                    elif self._apart(kind, turn):
                        for runner in turn:
                            answers[runner] = self._by_itself(runner)
                        sizes.append(len(turn))
                        alone += len(turn)
                    elif later := self._together(kind, turn, answers):
                        again += [runner for part in (later, *turns) for runner in part]
                        break
                    else:
                        sizes.append(len(turn))
            waiting = again
        self._count(runners, sizes, alone)
        return answers

    def _count(self, runners: Sequence[ModelRunner], sizes: Sequence[int], alone: int) -> None:
        """Counts how many trials share a stack, and says once what to do where they are few."""
        if sizes:
            self.census.add(sizes, alone)
        if self._strategy == "loop" or not self.census.small or self._words.few_said:
            return
        found = splits_most([(runner.member.config, described(self._kind(runner))) for runner in runners])
        if found is not None:
            text = advice(type(runners[0].member).__name__, self.census, found)
            self._words.few(text)
            warnings.warn(text, UserWarning, stacklevel=2)

    def settle(self, runner: ModelRunner) -> None:
        """The runner's own module and optimizer are what it was trained to."""
        self._residents.settle(runner)

    def save(self, runner: ModelRunner) -> dict[str, Any]:
        """Its checkpoint; made in host memory where the device has no room for a copy."""
        return self._residents.save(runner)

    def rest(self, runners: Sequence[ModelRunner]) -> None:
        """They are not trained for now: written back, they wait in host memory until they are advanced again."""
        self._residents.rest(runners)

    def leave(self, runner: ModelRunner) -> None:
        """The runner is not trained here any more; its own module and optimizer are what it was trained to."""
        self._residents.leave(runner)
        self._forget(runner)

    def stacks(self) -> list[int]:
        """How many members each stack holds."""
        return [len(group.present) for group in self._groups.values() if group.present]

    def _sorted(self, runners: Sequence[ModelRunner]) -> dict[tuple[Hashable, Hashable], list[ModelRunner]]:
        """By kind, and by where they stand in the data: who stands elsewhere waits until the group has taken the others on."""
        sorts: dict[tuple[Hashable, Hashable], list[ModelRunner]] = {}
        passes: dict[Hashable, Hashable] = {}
        for runner in runners:
            kind, phase = self._kind(runner), runner.feed.phase
            sorts.setdefault((kind, phase), []).append(runner)
            if passes.setdefault(kind, phase) != phase and _streamed(runner):
                self._words.say(
                    "stack", f"{type(runner.member).__name__}: trials stand at different places of the DataLoader. From each place it is "
                    "played once, for those that stand there. A scheduler that lets trials go on together has fewer places.",
                )  # fmt: skip
        return sorts

    def _kind(self, runner: ModelRunner) -> Hashable:
        known = self._kinds.get(runner)
        if known is None:
            self._residents.only([runner])
            shape = structure_of(runner)
            if self._by_shape and (loose := named(any_width(shape))) in self._by_shape:
                shape = structure_of(runner, padded=False)
                self._words.by_shape("choice", shape, loose, BEFORE)
            if any(map(is_lazy, runner.member.model.parameters())):
                self._unshaped.add(runner)
            if shape not in self._reads:
                self._reads[shape] = Reads({read for other, reads in self._reads.items() if other[0] is shape[0] for read in reads.lifted})
            known = (shape, self._reads[shape].values(runner.member))
            self._kinds[runner], self._attributes[runner] = known, attributes_of(runner.member)
        return known

    def _forget(self, runner: ModelRunner) -> None:
        self._kinds.pop(runner, None)
        self._attributes.pop(runner, None)

    def _apart(self, kind: Any, members: Sequence[ModelRunner]) -> bool:
        """Whether these of a kind are trained one by one."""
        structure, k = kind[0], len(members)
        few = 1 if _streamed(members[0]) else FEW       # two that share a DataLoader's batches play it once
        if k <= few or self._strategy == "loop" or kind in self._alone:
            return True
        slow = self._loses(structure, members)
        if slow is not None:
            text = f"{structure[0].__name__}: trained one by one where there are {k} or so: {slow}."
            self._words.say("choice", text, (structure, k.bit_length()))
        return slow is not None

    def _padding_loses(self, kind: Any, members: Sequence[ModelRunner]) -> bool:
        """Whether these would be trained one by one for being padded; they are sorted anew then, by shape."""
        structure = kind[0]
        slow = self._loses(structure, members) if len(members) > FEW else None
        if slow is None or not is_padded(structure) or not common([runner.member.model for runner in members]):
            return False
        self._choices[named(any_width(structure)) + WIDTHS] = UNPADDED
        self._unpad(structure, f"padded, {slow}")
        return True

    def _loses(self, structure: Structure, members: Sequence[ModelRunner]) -> str | None:
        """Why so many of a structure are faster one after another; None where they are not, or nobody asks."""
        speeds = self._timed(structure, members[0].member.device)
        return None if speeds is None else speeds.loses(len(members))

    def _timed(self, structure: Structure, device: torch.device) -> Speeds | None:
        """Of a structure; None where the strategy is given."""
        if self._strategy == "auto" and structure not in self._speeds:
            self._speeds[structure] = Speeds(self._graphed(structure, device), self._choices, named(structure))
        return self._speeds.get(structure)

    def _graphed(self, structure: Structure, device: torch.device) -> bool:
        return self._strategy in ("auto", "graph") and structure not in self._uncaptured and can_capture(device)

    def _unpad(self, structure: Any, why: str) -> None:
        """From now on, members that differ from this structure in widths only share a stack where their shapes are equal."""
        loose = named(any_width(structure))
        self._by_shape.add(loose)
        for other in {kind[0] for kind in (*self._groups, *self._kinds.values())}:  # type: ignore[index]
            if named(any_width(other)) == loose:
                self._regroup(other)
        self._words.by_shape("stack", structure, loose, why)

    def _by_itself(self, runner: ModelRunner) -> Answer:
        found = self._residents.advance(runner)
        if isinstance(found, Look):
            self._changed(runner)
        return found

    def _together(self, kind: Any, members: list[ModelRunner], answers: dict[ModelRunner, Answer]) -> list[ModelRunner]:
        """Trains them as a stack; returns those that turned out to be of another kind, to be sorted again."""
        structure, reads = kind[0], self._reads[kind[0]]
        group = self._groups.get(kind) or self._groups.setdefault(kind, self._group(structure, members[0].member.device))
        known = len(reads.seen)
        try:
            self._residents.only(members)
            try:
                found = group.advance(members, [self._attributes[runner] for runner in members])
            except Apart as apart:
                self._split(structure, group, members, apart)
                return members
            except Mixes as mixes:
                self._unpad(structure, str(mixes))
                return members
        except CompilerFailed as failed:
            self._uncompiled.add(structure)
            self._residents.take_out(group.present)
            del self._groups[kind]
            self._words.say("choice", f"{structure[0].__name__}: stacks are not compiled: {failed}.")
            return members
        except OUT_OF_MEMORY as error:
            self._halve(kind, len(members), let_go(error))
            return members
        except Refused as refused:
            if reads.lifted and not group.proven:       # it may be for the tensors in their place
                barred = sorted(reads.lifted)
                reads.bar(barred, f"With a tensor in its place, {refused}.")
                self._words.apart(structure, barred, reads.fixed)
                self._regroup(structure)
                return members
            self._residents.take_out(group.present)
            del self._groups[kind]
            self._one_by_one(kind, members, answers, str(refused))
            return []
        else:
            answers.update(found)
            if len(reads.seen) > known:
                self._again(structure)
            self._words.formed(self._kinds[members[0]], members)
            if group.stack is not None and group.stack.outside:
                self._words.widened(group.stack, members)
            self._said_of_graphs(structure, group, len(members))
            if len(self._choices) > self._given:
                self._words.timed(structure[0].__name__)
        for runner in members:
            if isinstance(answers[runner], Look):
                self._changed(runner)
        return []

    def _group(self, structure: Any, device: torch.device) -> Group:
        compiled = self._strategy == "compile" and structure not in self._uncompiled
        return Group(self._reads[structure], self._timed(structure, device), compiled, self._graphed(structure, device))

    def _said_of_graphs(self, structure: Any, group: Group, k: int) -> None:
        """Says which was faster, once that is known, or why there are no graphs."""
        graphs, speeds, name = group.stack and group.stack.graphs, group.speeds, structure[0].__name__
        if graphs and graphs.why:
            self._uncaptured.add(structure)
            if speeds is not None:
                speeds.graphs = False
            self._words.say("choice", f"{name}: steps are not replayed from a CUDA graph: {graphs.why}.", (structure, "graph"))
        elif speeds is not None and (found := speeds.graph(k)) is not None:
            taken = "replayed from a CUDA graph" if speeds.replays(k) else "not replayed from a CUDA graph"
            self._words.say("choice", f"{name}: steps of {k} or so are {taken}: {found}.", (structure, "graph", k.bit_length()))

    def _one_by_one(self, kind: Hashable, members: Sequence[ModelRunner], answers: dict[ModelRunner, Answer], why: str) -> None:
        """The shared step raised: whose error is it? If each can do it by itself, it is the sharing's, and there is no more of it."""
        found = {runner: self._by_itself(runner) for runner in members}
        answers.update(found)
        if not any(isinstance(answer, BaseException) for answer in found.values()):
            self._refuse(kind, why)

    def _split(self, structure: Any, group: Group, members: Sequence[ModelRunner], apart: Apart) -> None:
        """The hooks read what differs between these members: it is lifted where that can be, else there is a stack for each value."""
        reads, name = self._reads[structure], structure[0].__name__
        differ = reads.apart([runner.member for runner in members])
        tried = [read for read in differ if apart.__cause__ is None and reads.can_lift(read, [runner.member for runner in members])]
        errors = {read: group.takes(read) for read in tried}
        for read, error in errors.items():
            if error is None:
                reads.lifted.add(read)
                self._words.say("stack", f"{name}: {shown(read)} differs between trials and is lifted: each has its own in the stack.")
            else:
                reads.bar([read], remedy(shown(read), error))
        rest = [read for read in differ if read not in reads.lifted]
        if rest:
            self._words.apart(structure, rest, reads.fixed)
        self._regroup(structure)

    def _regroup(self, structure: Any) -> None:
        """All of this structure are sorted anew, by what is known now of what their hooks read."""
        for kind, group in list(self._groups.items()):
            if kind[0] == structure:  # type: ignore[index]
                self._residents.take_out(group.present)
                del self._groups[kind]
        for runner, kind in list(self._kinds.items()):
            if kind[0] == structure:  # type: ignore[index]
                self._forget(runner)

    def _again(self, structure: Any) -> None:
        """More was read than before, so kinds have other keys: those that are there, as those to come will have."""
        reads = self._reads[structure]
        for kind, group in [(kind, group) for kind, group in self._groups.items() if kind[0] == structure]:  # type: ignore[index]
            del self._groups[kind]
            values = {reads.values(runner.member) for runner in group.present}
            if len(values) != 1:
                self._residents.take_out(group.present)
                continue
            new = (structure, values.pop())
            self._groups[new] = group
            self._words.renamed(kind, new)
        for runner, kind in list(self._kinds.items()):
            if kind[0] == structure:  # type: ignore[index]
                self._kinds[runner] = new = (structure, reads.values(runner.member))
                if kind in self._most:
                    self._most[new] = self._most[kind]
                if kind in self._alone:
                    self._alone[new] = self._alone[kind]

    def _refuse(self, kind: Any, why: str) -> None:
        self._alone[kind] = why
        self._words.say("stack", f"{kind[0][0].__name__}: trained one by one: {why.rstrip('.')}.")

    # Room ---------------------------------------------------------------------------------------------------------------

    def _turns(self, kind: Hashable, members: list[ModelRunner]) -> list[list[ModelRunner]]:
        """As many of them at once as have room, in turns of one length."""
        n = -(-len(members) // self._most.get(kind, len(members)))
        return [members[turn::n] for turn in range(n)]

    def _halve(self, kind: Any, k: int, why: str) -> None:
        self._residents.make_room()
        self._most[kind] = half = max(1, k // 2)
        self._words.halved(kind[0][0].__name__, k, half, why)

    def _changed(self, runner: ModelRunner) -> None:
        """After `on_iteration_end`, which may change what a stack depends on, and once lazy layers have shapes, its kind is another."""
        if runner.hooked or runner in self._unshaped:
            self._unshaped.discard(runner)
            self._forget(runner)
            self._kind(runner)

def _streamed(runner: ModelRunner) -> bool:
    return isinstance(runner.data.train, Stream)

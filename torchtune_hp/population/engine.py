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
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import nn

from ..training.alone import ModelRunner
from ..training.runner import Look
from .census import ENOUGH, Census, advice, one_by_one, splits_most
from .choosing import FEW, Choosing, Strategy
from .group import Group
from .kinds import Kind, any_width, described, named
from .program import CompilerFailed
from .reads import Apart, shown, value_of
from .remedies import in_the_model, remedy
from .residents import Residents
from .room import OUT_OF_MEMORY, let_go
from .seats import Refused
from .sorting import Sorting
from .speeds import Choices
from .widths import Mixes
from .words import Note, Words

Answer = Look | BaseException


class Engine:
    """`note` is told what was chosen, and why.

    `strategy`: "vmap" stacks whatever can be stacked, "loop" nothing, "auto" what is faster so; "compile" stacks as "vmap" and
    compiles, "graph" replays from CUDA graphs, which "auto" tries too where there are any.

    `choices`: what "auto" chose before, which it goes on with; what it chooses is written there.
    """

    def __init__(self, note: Note = lambda kind, text: None, strategy: Strategy = "auto", choices: Choices | None = None) -> None:
        self.census = Census()
        self._words = Words(note)
        self._choosing = Choosing(strategy, {} if choices is None else choices, self._words)
        self._groups: dict[Kind, Group] = {}
        self._alone: set[Kind] = set()                  # whose members cannot be a stack
        self._most: dict[Kind, int] = {}                # how many at once have room
        residents = self._residents = Residents(self._groups, self._words.tight)
        self._sorting = Sorting(lambda runner: residents.only([runner]), self._choosing.by_shape, self._choosing.by_form)

    def call(self, each: str) -> None:
        """What is said of members calls them so; "trials", if nothing else is said."""
        self.census.each = self._words.each = each

    def begin(self, start: Callable[[], ModelRunner]) -> ModelRunner:
        """The runner that `start` makes; where there is no room for one more, made again with the device to itself."""
        runner = self._residents.begin(start)
        if self._residents.tight:
            self._sorting.kind(runner)
            self.rest([runner])
        return runner

    def advance(self, runners: Sequence[ModelRunner]) -> dict[ModelRunner, Answer]:
        """One iteration of each -> its look, or what it raised."""
        answers: dict[ModelRunner, Answer] = {}
        waiting = list(runners)
        for runner in runners:
            if runner.touched():
                self._residents.take_out([runner]) if self._sorting.trained(runner, True) else self._residents.reread(runner)
        self._left()
        sizes: list[int] = []
        alone = 0
        while waiting:
            again: list[ModelRunner] = []
            sorts = self._sorting.by_kind(waiting)
            self._words.places(sorts)
            for (kind, _), members in sorts.items():
                turns = self._turns(kind, members)
                while turns:
                    turn = turns.pop(0)
                    if not self._sorting.holds(turn, kind):     # sorted anew meanwhile
                        again += turn
                    elif why := self._choosing.padding_loses(kind[0], turn):
                        self._choosing.unpad(kind[0], why, any_one=False)
                        self._regroup(kind[0])
                        again += turn
                    elif kind in self._alone or self._choosing.alone(kind[0], turn):
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

    def _left(self) -> None:
        """Who cannot stay in a row leaves its stack, and is trained by itself, if nothing else tells it apart."""
        for group in list(self._groups.values()):
            while group.left:
                runner, why = group.left.popitem()
                if self._sorting.uneven(runner):
                    self._refuse(self._sorting.kind(runner), why)
                else:
                    name = type(runner.member).__name__
                    self._words.say("stack", f"{name}: on_iteration_end makes another model of the trial's, so that it leaves its stack.")

    def _count(self, runners: Sequence[ModelRunner], sizes: Sequence[int], alone: int) -> None:
        """Counts how many trials share a stack, and says once what to do where they are few."""
        if sizes:
            self.census.add(sizes, alone)
        if self._choosing.strategy == "loop" or not sizes:
            return
        name = type(runners[0].member).__name__
        if FEW < alone == sum(sizes) < ENOUGH and max(sizes) <= FEW and self._words.silent(name):
            found = self._apart(runners)
            if found is not None:
                self._words.say("stack", one_by_one(name, self.census, alone, found))
        if not self.census.small or self._words.few_said:
            return
        found = self._apart(runners)
        if found is not None:
            text = advice(name, self.census, found)
            self._words.few(text)
            warnings.warn(text, UserWarning, stacklevel=2)

    def _apart(self, runners: Sequence[ModelRunner]) -> tuple[str, str, int] | None:
        """What keeps these apart, as `splits_most` tells it."""
        return splits_most([(runner.member.config, described(self._sorting.kind(runner))) for runner in runners])

    def bring(self, runner: ModelRunner) -> None:
        """It lies on its device, where code of its own may use it."""
        self._residents.only([runner])

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
        self._sorting.forget(runner)

    def discard(self, runner: ModelRunner) -> None:
        """As `leave`, but nobody will look at the runner any more: nothing is written back, which takes longer than an update."""
        self._residents.discard(runner)
        self._sorting.forget(runner)

    def stacks(self) -> list[int]:
        """How many members each stack holds."""
        return [len(group.present) for group in self._groups.values() if group.present]

    def _unpad(self, structure: Any, why: str) -> None:
        """From now on, members that differ from this structure in widths only share a stack where their shapes are equal."""
        self._choosing.unpad(structure, why, any_one=True)
        self._regroup_all(structure)

    def _divide(self, structure: Any, why: str) -> None:
        """From now on, members whose activations differ do not share a stack."""
        self._choosing.divide(structure, why)
        self._regroup_all(structure)

    def _regroup_all(self, structure: Any) -> None:
        """All that differ from this structure in widths only are sorted anew."""
        loose = named(any_width(structure))
        for other in {kind[0] for kind in self._groups} | self._sorting.structures():
            if named(any_width(other)) == loose:
                self._regroup(other)

    def _by_itself(self, runner: ModelRunner) -> Answer:
        found = self._residents.advance(runner)
        if isinstance(found, Look):
            self._sorting.trained(runner)
        return found

    def _together(self, kind: Any, members: list[ModelRunner], answers: dict[ModelRunner, Answer]) -> list[ModelRunner]:
        """Trains them as a stack; returns those that turned out to be of another kind, to be sorted again."""
        structure, reads = kind[0], self._sorting.reads[kind[0]]
        if kind not in self._groups:
            self._groups[kind] = self._choosing.group(structure, reads, members[0].member.device)
        group = self._groups[kind]
        known = len(reads.seen)
        try:
            self._residents.only(members)
            try:
                found = group.advance(members, [self._sorting.attributes[runner] for runner in members])
            except Apart as apart:
                self._split(structure, group, members, apart)
                return members
            except Mixes as mixes:
                (self._divide if mixes.forms else self._unpad)(structure, str(mixes))
                return members
        except CompilerFailed as failed:
            self._residents.take_out(group.present)
            del self._groups[kind]
            self._choosing.uncompiled(structure, str(failed))
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
            if group.tight:
                self._halve(kind, len(members), group.tight)
                group.tight = ""
            if len(reads.seen) > known:
                self._again(structure, group.trained_as)
            self._words.formed(self._sorting.kind(members[0]), members)
            if reads.validates_alone:
                self._words.say("stack", f"{structure[0].__name__}: trained at once, but validated one by one: {reads.validates_alone}.")
            if group.stack is not None and group.stack.outside:
                self._words.widened(group.stack, members)
            if group.stack is not None and group.stack.several:
                self._words.joined(group.stack, members)
            self._choosing.trained(structure, group, len(members))
        self._left()
        # Who is of another kind now leaves its row: it may be of this one again, and would be taken for who still sits there.
        looked = [runner for runner in members if isinstance(answers[runner], Look)]
        self._residents.take_out([runner for runner in looked if self._sorting.trained(runner, runner in group.wrote)])
        return []

    def _one_by_one(self, kind: Kind, members: Sequence[ModelRunner], answers: dict[ModelRunner, Answer], why: str) -> None:
        """The shared step raised: whose error is it? If each can do it by itself, it is the sharing's, and there is no more of it."""
        found = {runner: self._by_itself(runner) for runner in members}
        answers.update(found)
        if not any(isinstance(answer, BaseException) for answer in found.values()):
            self._refuse(kind, why)

    def _split(self, structure: Any, group: Group, members: Sequence[ModelRunner], apart: Apart) -> None:
        """The hooks read what differs between these members: it is lifted where that can be, else there is a stack for each value."""
        reads, name = self._sorting.reads[structure], structure[0].__name__
        differ = reads.apart([runner.member for runner in members])
        for read in differ:
            if isinstance(value := value_of(members[0].member, read), nn.Module):
                reads.bar([read], in_the_model(shown(read), value))
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
            if kind[0] == structure:
                self._residents.take_out(group.present)
                del self._groups[kind]
        self._sorting.forget_all(structure)

    def _again(self, structure: Any, trained_as: Mapping[ModelRunner, Hashable]) -> None:
        """More was read than before, so kinds have other keys: those that are there, as those to come will have.

        `trained_as`: what was read of those whose hooks may have changed it since. They are named by it, so that they are seen to be of
        another kind now, and a stack keeps what it found out to itself.
        """
        reads = self._sorting.reads[structure]
        for kind, group in [(kind, group) for kind, group in self._groups.items() if kind[0] == structure]:
            del self._groups[kind]
            values = {trained_as.get(runner) or reads.values(runner.member) for runner in group.present}
            if len(values) != 1:
                self._residents.take_out(group.present)
                continue
            new = (structure, values.pop())
            self._groups[new] = group
            self._words.renamed(kind, new)
        for kind, new in self._sorting.renamed(structure, trained_as):
            if kind in self._most:
                self._most[new] = self._most[kind]
            if kind in self._alone:
                self._alone.add(new)

    def _refuse(self, kind: Any, why: str) -> None:
        self._alone.add(kind)
        self._words.say("stack", f"{kind[0][0].__name__}: trained one by one: {why.rstrip('.')}.")

    # Room ---------------------------------------------------------------------------------------------------------------

    def _turns(self, kind: Kind, members: list[ModelRunner]) -> list[list[ModelRunner]]:
        """As many of them at once as have room, in turns of one length."""
        n = -(-len(members) // self._most.get(kind, len(members)))
        return [members[turn::n] for turn in range(n)]

    def _halve(self, kind: Any, k: int, why: str) -> None:
        self._residents.make_room()
        self._most[kind] = half = max(1, k // 2)
        self._words.halved(kind[0][0].__name__, k, half, why)

"""Trials of a ModelTrainable trained together: every call advances all of them by one iteration, in as few stacks as can be.

A trial stays what it is alone, a `ModelRunner` with its own module, optimizer, schedulers and place in the data; the engine
borrows its tensors for a row of a stack, and writes them back before anyone reads them (`settle`).

    kind      what members of a stack agree in: signature, words such as batch_size, and whatever their hooks read from self
    group     the runners of a kind, and their stack
    alone     a kind that cannot be a stack, or gains nothing from it, is trained one by one, for the same numbers

Laws:
1. The looks are those that each runner's own `advance` would give, up to rounding: whatever shares its stack, and since when.
2. What fails, fails alone: a loss that is not finite ends its member; an error in the shared step is looked for in each member
   by itself, from where the iteration began.
3. Whatever made the engine choose is said once, through `note`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

from ..training.alone import ModelRunner
from ..training.feed import Stream
from ..training.runner import Look
from .group import Apart, Group, Refused
from .program import CompilerFailed
from .signature import difference, signature
from .speeds import Speeds
from .view import shown_read, values_of

Answer = Look | BaseException
Note = Callable[[str, str], None]
"""(kind, text)"""

Strategy = Literal["auto", "vmap", "loop", "compile"]

WORDS = ("batch_size", "accumulate", "precision", "lr_step")
"""Words of a ModelTrainable in which members of a stack agree."""

FEW = 2
"""So many runners of a kind or fewer are trained one by one."""


class Engine:
    """`note` is told what was chosen, and why.

    `strategy`: "vmap" stacks whatever can be stacked, "loop" nothing, "auto" what is faster so; "compile" stacks as "vmap" and
    compiles.
    """

    def __init__(self, note: Note = lambda kind, text: None, strategy: Strategy = "auto") -> None:
        self._note = note
        self._strategy = strategy
        self._speeds: dict[Hashable, Speeds] = {}       # by structure
        self._groups: dict[Hashable, Group] = {}
        self._kinds: dict[ModelRunner, Hashable] = {}
        self._reads: dict[Hashable, set[str]] = {}      # by structure: what hooks were seen to read
        self._numbers: dict[Any, int] = {}              # of the structures that were stacked
        self._alone: dict[Hashable, str] = {}           # by structure: why its members are trained one by one
        self._uncompiled: set[Hashable] = set()         # structures on which the compiler failed
        self._said: set[Hashable] = set()

    def advance(self, runners: Sequence[ModelRunner]) -> dict[ModelRunner, Answer]:
        """One iteration of each -> its look, or what it raised."""
        answers: dict[ModelRunner, Answer] = {}
        waiting = list(runners)
        while waiting:
            again: list[ModelRunner] = []
            for (kind, _), members in self._sorted(waiting).items():
                if self._apart(kind, members):
                    for runner in members:
                        answers[runner] = self._by_itself(runner)
                else:
                    again += self._together(kind, members, answers)
            waiting = again
        return answers

    def settle(self, runner: ModelRunner) -> None:
        """The runner's own module and optimizer are what it was trained to."""
        group = self._group_of(runner)
        if group is not None:
            group.settle(runner)

    def leave(self, runner: ModelRunner) -> None:
        """The runner is not trained here any more; its own module and optimizer are what it was trained to."""
        for group in self._groups.values():
            if runner in group.present:
                group.leave(runner)
        self._kinds.pop(runner, None)

    def stacks(self) -> list[int]:
        """How many members each stack holds."""
        return [len(group.present) for group in self._groups.values() if group.present]

    def _group_of(self, runner: ModelRunner) -> Group | None:
        group = self._groups.get(self._kinds.get(runner))
        return group if group is not None and runner in group.present else None

    def _sorted(self, runners: Sequence[ModelRunner]) -> dict[tuple[Hashable, Hashable], list[ModelRunner]]:
        """By kind, and by where they stand in the data: who stands elsewhere waits until the group has taken the others on."""
        sorts: dict[tuple[Hashable, Hashable], list[ModelRunner]] = {}
        passes: dict[Hashable, Hashable] = {}
        for runner in runners:
            kind, phase = self._kind(runner), runner.feed.phase
            sorts.setdefault((kind, phase), []).append(runner)
            if passes.setdefault(kind, phase) != phase and _streamed(runner):
                self._say(
                    "stack", f"{type(runner.member).__name__}: trials stand at different places of the DataLoader. From each place it is "
                    "played once, for those that stand there. A scheduler that lets trials go on together has fewer places.",
                )  # fmt: skip
        return sorts

    def _kind(self, runner: ModelRunner) -> Hashable:
        known = self._kinds.get(runner)
        if known is None:
            member = runner.member
            words = tuple(getattr(member, word) for word in WORDS)
            structure = (type(member), id(runner.data), words, signature(member.model, member.optimizer))
            known = (structure, values_of(member, self._reads.setdefault(structure, set())))
            self._kinds[runner] = known
        return known

    def _apart(self, kind: Any, members: Sequence[ModelRunner]) -> bool:
        """Whether these of a kind are trained one by one."""
        structure, k = kind[0], len(members)
        few = 1 if _streamed(members[0]) else FEW       # two that share a DataLoader's batches play it once
        if k <= few or self._strategy == "loop" or structure in self._alone:
            return True
        slow = self._speeds[structure].loses(k) if structure in self._speeds else None
        if slow is not None:
            text = f"{structure[0].__name__}: trained one by one where there are {k} or so: {slow}."
            self._say("choice", text, (structure, k.bit_length()))
        return slow is not None

    def _by_itself(self, runner: ModelRunner) -> Answer:
        group = self._group_of(runner)
        if group is not None:
            group.leave(runner)
        try:
            return runner.advance()
        except (Exception, SystemExit) as error:
            return error
        finally:
            self._changed(runner)

    def _together(self, kind: Any, members: list[ModelRunner], answers: dict[ModelRunner, Answer]) -> list[ModelRunner]:
        """Trains them as a stack; returns those that turned out to be of another kind, to be sorted again."""
        structure = kind[0]
        compiled = self._strategy == "compile" and structure not in self._uncompiled
        group = self._groups.setdefault(kind, Group(self._timed(structure), compiled))
        self._formed(structure, len(members))
        try:
            answers.update(group.advance(members, self._reads[structure]))
        except Apart:
            self._regroup(structure, members)
            return members
        except CompilerFailed as failed:
            self._uncompiled.add(structure)
            group.give_up()
            del self._groups[kind]
            self._say("choice", f"{structure[0].__name__}: stacks are not compiled: {failed}.")
            return members
        except Refused as refused:
            group.give_up()
            del self._groups[kind]
            self._one_by_one(structure, members, answers, str(refused))
        for runner in members:
            self._changed(runner)
        return []

    def _formed(self, structure: Any, k: int) -> None:
        """Says of a structure that is stacked for the first time how it differs from the first one of its class."""
        if structure in self._numbers:
            return
        cls = structure[0]
        earlier = [other for other in self._numbers if other[0] is cls]
        self._numbers[structure] = number = len(earlier) + 1
        text = f"{cls.__name__}: stack {number} begins with {k} trials"
        if earlier:
            words = difference(tuple(zip(WORDS, earlier[0][2])), tuple(zip(WORDS, structure[2])))
            text += f"; it differs from stack 1 in {words or difference(earlier[0][3], structure[3]) or 'its data'}"
        self._say("stack", text + ".")

    def _timed(self, structure: Hashable) -> Speeds | None:
        return self._speeds.setdefault(structure, Speeds()) if self._strategy == "auto" else None

    def _one_by_one(self, structure: Hashable, members: Sequence[ModelRunner], answers: dict[ModelRunner, Answer], why: str) -> None:
        """The shared step raised: whose error is it? If each can do it by itself, it is the sharing's, and there is no more of it."""
        found = {runner: self._by_itself(runner) for runner in members}
        answers.update(found)
        if not any(isinstance(answer, BaseException) for answer in found.values()):
            self._refuse(structure, why)

    def _regroup(self, structure: Hashable, members: Sequence[ModelRunner]) -> None:
        """All of this structure are sorted anew, by what is known now of what their hooks read."""
        reads = self._reads[structure]
        for kind, group in list(self._groups.items()):
            if kind[0] == structure:  # type: ignore[index]
                group.give_up()
                del self._groups[kind]
        for runner, kind in list(self._kinds.items()):
            if kind[0] == structure:  # type: ignore[index]
                del self._kinds[runner]
        apart = [read for read in sorted(reads) if len({values_of(runner.member, [read]) for runner in members}) > 1]
        name = type(members[0].member).__name__
        shown = ", ".join(map(shown_read, apart))
        self._say(
            "stack",
            f"{name}: the hooks read {shown}, which differs between trials: one stack for each value. A number read as "
            "self.hparams[...] would not split them.",
        )

    def _refuse(self, structure: Any, why: str) -> None:
        self._alone[structure] = why
        self._say("stack", f"{structure[0].__name__}: trained one by one: {why}.")

    def _changed(self, runner: ModelRunner) -> None:
        """After `on_iteration_end`, which may change what a stack depends on, the kind is found out anew."""
        if runner.hooked:
            self._kinds.pop(runner, None)

    def _say(self, kind: str, text: str, once: Hashable = None) -> None:
        if (once or text) not in self._said:
            self._said.add(once or text)
            self._note(kind, text)


def _streamed(runner: ModelRunner) -> bool:
    return isinstance(runner.data.train, Stream)

"""Who has which row of a stack, and who leaves it when.

A member borrows a row: its own module is behind it until it is written back (`settle`). A row of who has left stays where it is, free
for who comes next, for the bits of a row may depend on its place: as long as as many come as go, nobody moves.

Laws:
1. After `keep_only`, `leave` and `give_up`, the modules of those that left are what they were trained to.
2. `runners` is another list whenever other members have rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..training.alone import ModelRunner
from .room import OUT_OF_MEMORY
from .stack import Stack
from .stackable import Unstackable


class Refused(Exception):
    """These members cannot be trained as a stack; the text says why. Nothing has changed."""


def line_of(error: BaseException) -> str:
    """What an error says, in a line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


class Seats:
    """`runners[i]` has row i. `stale`: whose own modules are behind their rows. `compiled`, `graphed`: as of Stack."""

    def __init__(self, compiled: bool = False, graphed: bool = False) -> None:
        self.runners: list[ModelRunner] = []
        self.stack: Stack | None = None
        self.stale: set[ModelRunner] = set()
        self._compiled, self._graphed = compiled, graphed
        self._idle: tuple[str, ...] = ()            # parameters that no loss depends on
        self._gone: set[ModelRunner] = set()        # their rows are free

    def keep_only(self, runners: Sequence[ModelRunner]) -> None:
        """All others leave, written back."""
        staying = set(runners)
        kept = [row for row, runner in enumerate(self.runners) if runner in staying]
        if len(kept) == len(self.runners):
            return
        for runner in self.runners:
            if runner not in staying:
                self.settle(runner)
        if not kept and not self._compiled:         # an empty stack keeps what was compiled
            self.stack = None
        elif self.stack is not None:
            self.stack.keep(kept)
        self.runners = [self.runners[row] for row in kept]
        self._gone.intersection_update(self.runners)

    def leave(self, runner: ModelRunner) -> None:
        """Written back; its row is free for who comes next, so that the others need not move."""
        self.settle(runner)
        self._gone.add(runner)
        if self._gone.issuperset(self.runners):
            self.give_up()

    @property
    def present(self) -> list[ModelRunner]:
        """Whose rows are not free."""
        return [runner for runner in self.runners if runner not in self._gone]

    def settle(self, runner: ModelRunner) -> None:
        if runner in self.stale:
            assert self.stack is not None
            self.stack.dump(self.runners.index(runner))
            self.stale.discard(runner)

    def give_up(self) -> None:
        """All leave, written back."""
        self.keep_only([])

    def begin_without(self, names: Sequence[str]) -> None:
        """All leave; who comes back does so without these parameters, on which no loss depends."""
        self.give_up()
        self.stack = None
        self._idle += tuple(names)

    def assemble(self, runners: Sequence[ModelRunner]) -> Stack:
        """The stack of these and no others. Who comes takes the row of who leaves: the bits of a row may depend on its place."""
        if not self._gone.isdisjoint(runners):      # one that left comes again: the row that it had is not its own
            self.keep_only(self.present)
        staying, here = set(runners), set(self.runners)
        new = [runner for runner in runners if runner not in here]
        free = [row for row, runner in enumerate(self.runners) if runner not in staying][: len(new)]
        leaving = [self.runners[row] for row in free]
        for runner in leaving:
            self.settle(runner)
        self.keep_only([*runners, *leaving])
        members = [(runner.member.model, runner.member.optimizer) for runner in new]
        try:
            if self.stack is not None and free:
                free = [self.runners.index(runner) for runner in leaving]
                self.stack.replace(free, members[: len(free)])
                place = dict(zip(free, new))
                self.runners = [place.get(row, runner) for row, runner in enumerate(self.runners)]
            if self.stack is None:
                self.stack = Stack(members, self._idle, self._compiled, graphed=self._graphed)
            elif members[len(free) :]:
                self.stack.add(members[len(free) :])
        except OUT_OF_MEMORY:
            raise
        except (Unstackable, ValueError) as error:
            raise Refused(str(error)) from error
        except Exception as error:      # a copy is made of the model, and that may be anything
            raise Refused(line_of(error)) from error
        if new:
            self.runners = self.runners + new[len(free) :]
        self._gone.clear()
        return self.stack

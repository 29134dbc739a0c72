"""Which widths members of a stack may have beside wider ones, and which activations beside others: found out by comparing, once for
each combination (module loud)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..training.alone import ModelRunner
from . import loud
from .activations import joined
from .calls import Calls
from .check import Differs, Idle
from .held import Member
from .layout import layout_of
from .program import Program
from .reads import Apart, Reads
from .room import OUT_OF_MEMORY
from .seats import line_of
from .stack import Stack


class Mixes(Exception):
    """The program mixes what lies along a padded width, or does something else with an activation than to call it (`forms`); the text
    says where it shows. Nothing has changed."""

    def __init__(self, why: str, forms: bool) -> None:
        super().__init__(why)
        self.forms = forms


class Widths:
    """Of the stacks of one kind: what was compared so far."""

    def __init__(self, reads: Reads, calls: Calls) -> None:
        self._reads = reads
        self._calls = calls
        self._blind: set[Hashable] = set()          # a member's widths, and the stack's, between which no difference is seen
        self._blind_to: Sequence[ModelRunner] = ()  # in all of these

    def check(self, stack: Stack, runners: Sequence[ModelRunner]) -> None:
        """Who is narrower than the stack is compared with itself alone, once for each combination of widths, and so is one of each
        combination of activations.

        `runners`: a list that never changes. Raises Mixes, and Apart where the hooks read what differs between them.
        """
        if not (stack.outside or stack.several) or self.known(runners):
            return
        new: dict[ModelRunner, set[Hashable]] = {}
        seen = set(self._blind)
        for runner in runners:
            own = {stack.widths(runner.member.model) if stack.outside else None, stack.forms(runner.member.model)}
            if own - seen:
                new[runner] = own - seen
                seen |= own
        if not new:
            self._blind_to = runners
            return
        who = list(new)
        try:
            conclusive = loud.compared(stack, who, self._calls)
        except (*OUT_OF_MEMORY, Idle):
            raise
        except Exception as error:
            if self._reads.differ([runner.member for runner in runners]):
                raise Apart from error
            if not isinstance(error, Differs) and self._fault(Stack([_member(who[0])], stack.idle), who[:1]) is not None:
                return
            why = str(error) if isinstance(error, Differs) else line_of(error)
            forms = bool(stack.several) and (not stack.outside or self._forms_are_at_fault(stack, who))
            raise Mixes(why, forms) from error
        self._blind.update(*(own for own, sure in zip(new.values(), conclusive) if sure))

    def known(self, runners: Sequence[ModelRunner]) -> bool:
        """Whether all of these were compared."""
        return self._blind_to is runners

    def _forms_are_at_fault(self, stack: Stack, who: Sequence[ModelRunner]) -> bool:
        """Whether one of these differs from itself alone among all activations of the stack, though in its own widths."""
        for runner in who:
            model, optimizer = _member(runner)
            program = Program(joined(model, [each for each, _ in stack.members]), layout_of(model, optimizer, stack.idle).blocks)
            if self._fault(Stack([(model, optimizer)], stack.idle, program=program), [runner], Differs):
                return True
        return False

    def _fault(self, stack: Stack, runners: Sequence[ModelRunner], *also: type[Exception]) -> BaseException | None:
        """What comes of their hooks in such a stack, if it is no difference."""
        try:
            loud.compared(stack, runners, self._calls)
        except Differs as error:
            return error if also else None
        except Exception as error:
            return error
        return None


def _member(runner: ModelRunner) -> Member:
    return runner.member.model, runner.member.optimizer

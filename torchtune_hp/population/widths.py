"""Which widths members of a stack may have beside wider ones: found out by comparing, once for each combination (module loud)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..training.alone import ModelRunner
from . import loud
from .calls import Calls
from .check import Differs, Idle
from .reads import Apart, Reads
from .room import OUT_OF_MEMORY
from .seats import line_of
from .stack import Stack


class Mixes(Exception):
    """The program mixes what lies along a padded width; the text says where it shows. Nothing has changed."""


class Widths:
    """Of the stacks of one kind: what was compared so far."""

    def __init__(self, reads: Reads, calls: Calls) -> None:
        self._reads = reads
        self._calls = calls
        self._blind: set[Hashable] = set()          # a member's widths, and the stack's, between which no difference is seen
        self._blind_to: Sequence[ModelRunner] = ()  # in all of these

    def check(self, stack: Stack, runners: Sequence[ModelRunner]) -> None:
        """Who is narrower than the stack is compared with itself alone, once for each combination of widths.

        `runners`: a list that never changes. Raises Mixes, and Apart where the hooks read what differs between them.
        """
        if not stack.outside or self.known(runners):
            return
        new: dict[Hashable, ModelRunner] = {}
        for runner in runners:
            new.setdefault(stack.widths(runner.member.model), runner)
        new = {widths: runner for widths, runner in new.items() if widths not in self._blind}
        if not new:
            self._blind_to = runners
            return
        who = list(new.values())
        try:
            conclusive = loud.compared(stack, who, self._calls)
        except (*OUT_OF_MEMORY, Idle):
            raise
        except Exception as error:
            if self._reads.differ([runner.member for runner in runners]):
                raise Apart from error
            if isinstance(error, Differs):
                raise Mixes(str(error)) from error
            if self._raises(who[0], stack.idle):
                return
            raise Mixes(line_of(error)) from error
        self._blind.update(widths for widths, sure in zip(new, conclusive) if sure)

    def known(self, runners: Sequence[ModelRunner]) -> bool:
        """Whether all of these were compared."""
        return self._blind_to is runners

    def _raises(self, runner: ModelRunner, idle: Sequence[str]) -> bool:
        """Whether its hooks raise in a stack of its own widths, too."""
        try:
            loud.compared(Stack([(runner.member.model, runner.member.optimizer)], idle), [runner], self._calls)
        except Differs:
            return False
        except Exception:
            return True
        return False

"""Who lies on the device, and who makes room there.

Members lie on the device from their beginning, or their last training, until they rest. Once something found no room, it is tight:
from then on whoever is not being trained waits in host memory.

Laws:
1. Who rests is written back, in host memory: it is moved first, so that this needs no room on the device.
2. Whoever finds no room while others are on the device is tried again without them, from where it began. Only who has the device for
   itself may fail for it; then nobody was in its way, and it is as tight as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ..errors import UnsafeCheckpointError
from ..training.alone import ModelRunner
from ..training.runner import Look
from .group import Group
from .room import OUT_OF_MEMORY, free, let_go, limited


class Residents:
    """`groups`: the stacks there are, by kind. `say`: told, of a runner, that it became tight."""

    def __init__(self, groups: Mapping[Any, Group], say: Callable[[ModelRunner], None]) -> None:
        self.tight = False
        self._groups = groups
        self._say = say
        self._here: dict[ModelRunner, None] = {}

    def begin(self, start: Callable[[], ModelRunner]) -> ModelRunner:
        """The runner that `start` makes."""
        try:
            runner = start()
        except OUT_OF_MEMORY as error:
            let_go(error)
            if not self._here:
                raise
        else:
            self._here[runner] = None
            return runner
        tight = self.tight
        self.make_room()
        try:
            runner = start()
        except OUT_OF_MEMORY:
            self.tight = tight
            raise
        self._say(runner)
        self._here[runner] = None
        return runner

    def advance(self, runner: ModelRunner) -> Look | BaseException:
        """One iteration of its own."""
        state, tight = None, self.tight
        try:
            self.take_out({runner})
            self.only([runner])
            if len(self._here) > 1 and limited(runner.member.device):
                state = _saved(runner)
                if state is None:       # it cannot be put back, so it has the device to itself at once
                    self.rest([other for other in self._here if other is not runner])
            return runner.advance()
        except OUT_OF_MEMORY as error:
            let_go(error)
            if state is None:
                return error
        except (Exception, SystemExit) as error:
            return error
        self.make_room()
        runner.stand(state)
        del state
        found = self.advance(runner)
        if isinstance(found, OUT_OF_MEMORY):
            self.tight = tight
        else:
            self._say(runner)
        return found

    def save(self, runner: ModelRunner) -> dict[str, Any]:
        """The checkpoint of a runner that is written back by `settle`; made in host memory where the device has no room for a copy."""
        try:
            self.settle(runner)
            return runner.save()
        except OUT_OF_MEMORY as error:
            let_go(error)
        runner.rest()
        self.settle(runner)
        return runner.save()

    def settle(self, runner: ModelRunner) -> None:
        for group in self._groups.values():
            group.settle(runner)

    def reread(self, runner: ModelRunner) -> None:
        """Its row is what its own module and optimizer were made from outside."""
        for group in self._groups.values():
            if runner in group.present:
                group.reread(runner)

    def only(self, runners: Sequence[ModelRunner]) -> None:
        """They are on the device; nobody else, if it is tight."""
        if self.tight:
            staying = set(runners)
            self.rest([other for other in self._here if other not in staying])
        try:
            for runner in runners:
                self._here[runner] = None
                runner.wake()
            return
        except OUT_OF_MEMORY as error:
            let_go(error)
            if self.tight:
                raise
        self.make_room()
        self.only(runners)
        self._say(runners[0])

    def rest(self, runners: Sequence[ModelRunner]) -> None:
        """They wait in host memory."""
        leaving = [runner for runner in runners if runner in self._here]
        for runner in leaving:
            runner.rest()
            del self._here[runner]
        self.take_out(leaving)

    def leave(self, runner: ModelRunner) -> None:
        self.take_out([runner])
        self._here.pop(runner, None)

    def discard(self, runner: ModelRunner) -> None:
        """As `leave`, of who is not looked at any more: nothing is written back."""
        for group in self._groups.values():
            group.stale.discard(runner)
        self.leave(runner)

    def make_room(self) -> None:
        """All wait in host memory, and from now on it is tight."""
        self.tight = True
        self.rest(list(self._here))
        free()

    def take_out(self, leaving: Collection[ModelRunner]) -> None:
        """They are in no stack any more, written back. Their rows are free for others, or gone, if it is tight."""
        leaving = set(leaving)
        for group in self._groups.values():
            present = group.present
            if leaving.isdisjoint(present):
                continue
            try:
                if self.tight:
                    group.keep_only([runner for runner in present if runner not in leaving])
                else:
                    for runner in present:
                        if runner in leaving:
                            group.leave(runner)
            except OUT_OF_MEMORY as error:      # not even room for the others to close ranks
                let_go(error)
                for runner in group.present:
                    runner.rest()
                    self._here.pop(runner, None)
                group.give_up()


def _saved(runner: ModelRunner) -> dict[str, Any] | None:
    try:
        return runner.save(whole=True)
    except UnsafeCheckpointError:       # it can be trained, but not be put back
        return None
    except OUT_OF_MEMORY as error:
        let_go(error)
        return None

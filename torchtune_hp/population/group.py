"""The runners of one kind and their stack: one iteration of all of them.

What each would do alone (`training/alone.py`) happens here for all at once: the same samples, the same keys, the
same order of update, schedule, validation and look. Only what is ordinary Python by nature is done for one after another:
schedulers, `validation_end`, `on_iteration_end` and the look itself.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ..errors import JournalError
from ..training.alone import ModelRunner
from ..training.evaluation import autocast
from ..training.hooks import driven
from ..training.runner import Look
from . import looks
from .batches import Batches, Place
from .belongings import Changed, UsedUp, Written
from .calls import Calls, Own, alone, compared, untouched
from .check import Differs, FirstStep, Idle
from .endings import Endings
from .foreign import Draws
from .keys import keys_of, later
from .kinds import differing
from .memories import changed, memories
from .program import CompilerFailed
from .reads import Apart, Read, Reads
from .room import OUT_OF_MEMORY, let_go
from .schedules import Schedules
from .seats import Refused, line_of
from .speeds import Speeds, time_alone, wait
from .stack import OtherUse, Stack
from .stackable import Unstackable
from .widths import Widths


class Group(Endings):
    """`reads`: of their structure. `speeds`: where the times of its updates are noted, and what is faster is asked. Else as of Seats."""

    def __init__(self, reads: Reads, speeds: Speeds | None = None, compiled: bool = False, graphed: bool = False) -> None:
        super().__init__(reads, compiled, graphed)
        self.speeds = speeds
        self.trained_as: dict[ModelRunner, Hashable] = {}       # what was read, before `on_iteration_end` may have changed it
        self._founder: dict[Read, Hashable] = {}    # attributes of the member that the stack's model is a copy of
        self.proven = False                         # what is lifted was compared with members alone, in training,
        self._validated = False                     # and in validation
        self._calls = Calls(reads)
        self._widths = Widths(reads, self._calls)
        self._warm = False                          # every hook has run once
        self._forgetful = False                     # no module was seen to count its calls
        self._schedules: Schedules | None = None
        self._scheduled: list[ModelRunner] = []     # whose those are

    # One iteration ------------------------------------------------------------------------------------------------------

    def advance(
        self, runners: Sequence[ModelRunner], attributes: Sequence[dict[Read, Hashable]]
    ) -> dict[ModelRunner, Look | BaseException]:
        """`attributes`: of each, what makes a difference only if it is read.

        Apart where the hooks read what differs, Mixes where widths cannot be padded, Refused where the shared step raises, an error of
        OUT_OF_MEMORY where there is no room for so many; then all stand where they stood.
        """
        stack = self._watched(runners, attributes)
        if not self._warm:
            error = self._tried(stack)
            stack.give_each_what_is_written()
            if isinstance(error, (Changed, UsedUp)) and not isinstance(error, Written):
                raise Refused(str(error)) from error
            if error is None and self._differ():
                raise Apart
        try:
            self._compare_widths(stack)
            trained, validated = self._attempt(stack)
        except Idle as idle:
            self.begin_without(idle.names)
            stack = self._watched(runners, attributes)
            self._tried(stack)      # another copy of the model: what it fills at its first call is filled
            self._compare_widths(stack)
            trained, validated = self._attempt(stack)
        self.proven = self.proven or stack.checked
        if self.reads.validates_alone or any(runner.hooked or runner.concludes for runner in self.runners):
            self.trained_as = {runner: self.reads.values(runner.member) for runner in self.runners}
        return self.ended(stack, trained, validated)

    def reread(self, runner: ModelRunner) -> None:
        self._schedules = None          # a rate may be another
        super().reread(runner)

    def takes(self, read: Read) -> BaseException | None:
        """What the hooks raise where they are given a tensor in the place of this read; None if nothing. Nothing changes."""
        assert self.stack is not None
        self.reads.lifted.add(read)
        try:
            return self._tried(self.stack)
        finally:
            self.reads.lifted.discard(read)

    def _tried(self, stack: Stack) -> BaseException | None:
        """What the hooks raise on the first batches; what they read is known then. Nothing else changes."""
        before = stack.snapshot(), [Place(runner) for runner in self.runners], set(self.stale)
        own, first = self._own(), self.runners[0]
        try:
            self._calls.begin(first.member, stack.model, True)
            batches = Batches(self.runners)
            train, _ = batches.update(0)[0]
            keys = keys_of([runner.base for runner in self.runners], [runner.updates for runner in self.runners], first.member.device)
            with autocast(first.member):
                stack.look(self._calls.training(first.member, stack.model), train, batches.in_dims, keys, own)
                try:
                    for part in first.data.val.values() if first.measures and not self.reads.validates_alone else ():
                        batch, _ = next(iter(part.batches(first.data.batch_size)))
                        stack.evaluate(self._calls.validation(first.member, stack.model), batch, None, keys, own)
                except OUT_OF_MEMORY:
                    raise
                except Exception as error:
                    if self.reads.lifted:       # it may be for the tensors in the place of what is lifted
                        raise
                    self.reads.validates_alone = line_of(self._calls.changed() or error)
            return None
        except OUT_OF_MEMORY:
            raise
        except (Exception, SystemExit) as error:
            return self._calls.changed() or error
        finally:
            self._calls.put_back()
            self._put_back(stack, *before)

    def _compare_widths(self, stack: Stack) -> None:
        if not (stack.outside or stack.several) or self._widths.known(self.runners):
            return
        try:
            self._calls.begin(self.runners[0].member, stack.model, not self._forgetful)
            self._widths.check(stack, self.runners)
        except UsedUp as error:
            raise Refused(str(error)) from error
        finally:
            self._calls.put_back()

    def _watched(self, runners: Sequence[ModelRunner], attributes: Sequence[dict[Read, Hashable]]) -> Stack:
        """Their stack, whose model writes down what it reads of that in which they differ."""
        own = differing(attributes)
        if self.stack is not None and differing([attributes[0], self._founder]) - own:      # all have what its model has not
            self.begin_without(())
        new = set(runners).difference(self.present)
        if self.stack is not None and not all(self.stack.holds(runner.member.model) for runner in new):
            self.begin_without(())
        if self.stack is None:
            self._founder = attributes[0]
        stack = self.assemble(runners)
        self._calls.watch(stack.model, own)
        return stack

    def _attempt(self, stack: Stack) -> tuple[list[looks.Metrics], dict[ModelRunner, looks.Batches]]:
        """The iteration, or everything as it was and the reason."""
        if self._schedules is None or self._scheduled is not self.runners or any(runner.hooked for runner in self.runners):
            members = [(runner.member.optimizer, driven(runner.member)) for runner in self.runners]
            self._schedules = Schedules(members, stack.rule.numbers, self.runners[0].member.device)
            self._scheduled = self.runners
        schedules = self._schedules
        if stack.graphs is not None and self.speeds is not None:
            stack.replay(self.speeds.replays(len(self.runners)))
        before = stack.snapshot(), [Place(runner) for runner in self.runners], set(self.stale)
        known = None if self._forgetful else memories(stack.model)
        try:
            self._calls.begin(self.runners[0].member, stack.model, not self._forgetful)
            batches = Batches(self.runners)
            schedules.begin([runner.turns(plan.passes) for runner, plan in zip(self.runners, batches.plans)])
            trained = self._train(stack, batches, schedules)
            schedules.finish()
            self._calls.unchanged()
            validated = self._validate(stack, trained)
            if self._differ():
                raise Apart
            if known is not None and (name := changed(known, memories(stack.model))) is not None:
                raise Refused(f"a call changes {name} of the model, of which there is one. What a buffer counts is each trial's own")
            self._forgetful = True
            for runner in self.runners:
                if runner.shown:
                    self.settle(runner)
            schedules.commit()
            return trained, validated
        except (Exception, SystemExit) as error:
            change = self._calls.changed()
            self._calls.put_back()
            schedules.put_back()
            self._put_back(stack, *before)
            if isinstance(error, (Apart, Refused, Idle, CompilerFailed, JournalError)):
                raise
            if isinstance(change or error, (Changed, UsedUp)) and not isinstance(error, OUT_OF_MEMORY):     # whatever came of it
                if isinstance(change or error, Written) and self._differ():
                    raise Apart from error
                raise Refused(str(change or error)) from error
            if isinstance(error, Differs) and self._differ():
                raise Apart from error
            if isinstance(error, Differs):
                raise Refused(str(error)) from error
            if isinstance(error, OtherUse):
                raise Refused("the loss depends on other parameters where a batch has another size") from error
            if isinstance(error, OUT_OF_MEMORY):
                let_go(error)
            if self._differ():
                raise Apart from error
            if isinstance(error, OUT_OF_MEMORY):
                raise
            raise Refused(str(error) if isinstance(error, Unstackable) else line_of(error)) from error

    def _put_back(self, stack: Stack, snapshot: list[Any], places: list[Place], stale: set[ModelRunner]) -> None:
        stack.restore(snapshot)
        for place in places:
            place.restore()
        self.stale = stale | {runner for runner in self.runners if runner.shown}        # those may be ahead of their rows

    def _differ(self) -> bool:
        return self.reads.differ([runner.member for runner in self.runners])

    def _train(self, stack: Stack, batches: Batches, schedules: Schedules) -> list[looks.Metrics]:
        runners, first = self.runners, self.runners[0]
        member = first.member
        hook, own = self._calls.training(member, stack.model), self._own()

        @cache
        def known(seen: int) -> Hashable:       # a tensor among them comes from the device
            return self.reads.values(member)

        def token() -> Hashable:
            return known(len(self.reads.seen))

        clip = self._clip()
        first_keys: dict[int, Tensor] = {}      # by batches of an update
        losses: list[Tensor] = []
        extras: list[dict[str, Tensor]] = []
        weights: list[int] = []
        rows = [] if stack.checked else compared(own, len(runners))
        for row in rows:        # it is stepped alone from where it stands
            self.settle(runners[row])
        first_steps = [FirstStep(stack, member.precision == "bf16", row) for row in rows]
        drawn = Draws()
        began = time.perf_counter()
        for update in range(len(batches)):
            if update == 1:         # what is done for the first time takes longer
                wait(member.device)
                began, batches.waited = time.perf_counter(), 0.0
            taken = batches.update(update)
            if self.speeds is not None and self.speeds.alone is None and self.speeds.chosen(len(runners)) is None:
                _undrawn(drawn)
                typical = [(runners[row], partial(batches.of_row, row, taken[0][0])) for row in self._typical(stack)]
                seconds = [untouched(runner.member, partial(time_alone, runner, batch)) for runner, batch in typical]
                self.speeds.alone = sum(seconds) / len(seconds) * len(taken)
                drawn, began = Draws(), time.perf_counter()
            samples, gradients, micros = sum(n for _, n in taken), None, len(taken)
            if micros not in first_keys:
                steps = [runner.updates * micros for runner in runners]
                first_keys[micros] = keys_of([runner.base for runner in runners], steps, member.device)
            for micro, (batch, n) in enumerate(taken):
                comparing = first_steps if update == micro == 0 else []
                singles = [batches.of_row(each.row, batch) for each in comparing]
                stack.watches = bool(stack.sizes) and n not in stack.sizes      # of the first size one is compared with alone
                stack.sizes.add(n)
                with autocast(member):
                    keys = later(first_keys[micros], update * micros + micro)
                    loss, extra, part, *_ = stack.gradients(hook, batch, batches.in_dims, keys, own, token)
                if comparing:
                    _undrawn(drawn)
                if n != samples:
                    part = tuple(each_part * (n / samples) for each_part in part)
                for each, single in zip(comparing, singles):
                    share = n / samples
                    each.loss(alone(runners[each.row].member, single, keys[each.row], share), loss * share, part, extra)
                gradients = part if gradients is None else tuple(a + b for a, b in zip(gradients, part))
                losses.append(loss)
                extras.append(extra)
                weights.append(n)
            assert gradients is not None
            compares = [each.update(gradients, clip) for each in first_steps] if update == 0 else []
            with torch.no_grad():
                stack.update(gradients, clip, schedules.at(update) if update > 0 else None)
            for compare in compares:
                compare()
            if compares:
                stack.checked = all(each.conclusive for each in first_steps)
        _undrawn(drawn)
        self.stale = set(runners)
        for runner in runners:
            runner.updates += len(batches)
        values = torch.stack(losses).cpu().double()         # waits for the device
        if self.speeds is not None and (len(batches) > 1 or self._warm):
            updates, load = max(1, len(batches) - 1), batches.waited if batches.in_dims is None else 0.0
            self.speeds.note(len(runners), (time.perf_counter() - began) / updates, load / updates, stack.replayed)
        self._warm = True
        return looks.trained(self.runners, values, extras, weights)

    def _typical(self, stack: Stack) -> list[int]:
        """Rows that take as long alone as others: the first; where widths differ, three from the narrow to the wide."""
        if not stack.outside:
            return [0]
        sizes = [sum(parameter.numel() for parameter in runner.member.model.parameters()) for runner in self.runners]
        order = sorted(range(len(sizes)), key=sizes.__getitem__)
        return [order[len(order) * part // 6] for part in (1, 3, 5)]

    def _validate(self, stack: Stack, trained: list[looks.Metrics]) -> dict[ModelRunner, looks.Batches]:
        """Nothing, where members are validated one by one."""
        if self.reads.validates_alone:
            return {}
        each = enumerate(zip(self.runners, trained))
        due = [row for row, (it, metrics) in each if not isinstance(metrics, BaseException) and it.validates(it.step + 1)]
        if not due:
            return {}
        checked = self._validated or not self.reads.lifted
        before = {name: buffer.clone() for name, buffer in stack.buffers.items()}
        drawn = Draws()
        try:
            found = looks.validated(stack, self.runners, due, self._calls, checked)
            if drawn.moved():
                raise RuntimeError("validation_step draws from random or numpy, which is one number for all")
            self._calls.unchanged()
        except (Idle, CompilerFailed, JournalError, Differs, *OUT_OF_MEMORY):
            raise
        except Exception as error:
            if not checked or self._differ():       # it may be for the tensors in the place of what is lifted or differs
                raise
            stack.buffers.update(before)
            self.reads.validates_alone = line_of(self._calls.changed() or error)
            self._calls.put_back()
            return {}
        self._validated = True
        return {self.runners[row]: batches for row, batches in found.items()}

    def _own(self) -> Own:
        return self._calls.own([runner.member for runner in self.runners])

    def _clip(self) -> Tensor | None:
        norms = [runner.member.max_grad_norm for runner in self.runners]
        if all(norm is None for norm in norms):
            return None
        return torch.tensor([float("inf") if norm is None else norm for norm in norms], device=self.runners[0].member.device)


def _undrawn(before: Draws) -> None:
    """Their numbers would be one for all members: looked at once an iteration."""
    if before.moved():
        raise Refused("training_step or augment draws from random or numpy. What is drawn from torch is each member's own")

"""The end of an iteration, in each trial's own Python: a validation of its own, `validation_end`, the look, `on_iteration_end`.

Laws:
1. It begins when nothing can take the iteration back, for what a trial's own code writes to `self` is in no snapshot.
2. There a trial's module, optimizer and schedulers are what it was trained to, and its draws come from the seeds that it has alone.
3. Where memory runs out, the stack goes, and what was not done yet is done: nothing is trained twice, and nobody fails for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..training.alone import ModelRunner
from ..training.runner import Look
from . import looks
from .activations import fits
from .reads import Reads
from .room import OUT_OF_MEMORY, free, let_go
from .seats import Seats, line_of
from .stack import Stack
from .stackable import Unstackable


class Endings(Seats):
    """`reads`: of their structure. Else as of Seats."""

    def __init__(self, reads: Reads, compiled: bool, graphed: bool) -> None:
        super().__init__(compiled, graphed)
        self.reads = reads
        self.wrote: set[ModelRunner] = set()        # whose own validation wrote to `self` in the last iteration
        self.tight = ""                             # why there was no room at its end; "": there was
        self.left: dict[ModelRunner, str] = {}      # who cannot stay in a row, for what it was made from outside: why

    def ended(
        self, stack: Stack, trained: Sequence[looks.Metrics], validated: Mapping[ModelRunner, looks.Batches]
    ) -> dict[ModelRunner, Look | BaseException]:
        """`trained`: by row; `validated`: what `validation_step` gave of those whose validation was shared."""
        answers: dict[ModelRunner, Look | BaseException] = {}
        self.wrote = set()
        for row, (runner, metrics) in enumerate(zip(list(self.runners), trained)):
            if isinstance(metrics, BaseException):
                answers[runner] = metrics
                continue
            try:
                own = self._with_room(partial(self._concluded, stack, row, runner, validated.get(runner)))
                answers[runner] = runner.looked(metrics, own)
                if runner.hooked:
                    self._with_room(partial(self._reread, stack, row, runner))
            except (Exception, SystemExit) as error:
                answers[runner] = error
        return answers

    def _concluded(self, stack: Stack, row: int, runner: ModelRunner, batches: looks.Batches | None) -> dict[str, float] | None:
        alone = bool(self.reads.validates_alone) and runner.validates(runner.step + 1)
        if batches is None and not alone:
            return None
        if not alone and not runner.concludes:
            return runner.conclude(batches or {})
        self.settle(runner)
        before = _held(runner.member)
        with _whole(runner.member.model):
            found = runner.validate() if alone else runner.conclude(batches or {})
        if _held(runner.member) != before:
            self.wrote.add(runner)
        if stack.buffers and self.stack is stack:       # they may be counted in
            self._with_room(partial(stack.load, row))
        return found

    def _reread(self, stack: Stack, row: int, runner: ModelRunner) -> None:
        """The row is what the trial's hook has made of it; with another optimizer, or another model, it comes anew. What no row holds
        leaves the stack: other layers, or parameters of one group after different steps."""
        if self.stack is not stack:
            return
        another = stack.members[row] != (runner.member.model, runner.member.optimizer) or not fits(stack.model, runner.member.model)
        if another or (self.left and not stack.fits(row)):
            self._gone.add(runner)      # rows that are made anew would be read of those that left, too
            return
        try:
            stack.load(row)
        except OUT_OF_MEMORY:
            raise
        except Exception as error:
            self._gone.add(runner)
            self.left[runner] = str(error) if isinstance(error, (Unstackable, ValueError)) else line_of(error)

    def reread(self, runner: ModelRunner) -> None:
        """Its row, if it has one, is what its own module and optimizer are now."""
        if self.stack is not None and runner in self.present:
            self._reread(self.stack, self.runners.index(runner), runner)

    def _with_room(self, call: Callable[[], Any]) -> Any:
        """`call()`; where memory runs out, once more without the stack. What was trained stays: each has it in its own module."""
        try:
            return call()
        except OUT_OF_MEMORY as error:
            self.tight = let_go(error)
        if self.stack is not None:
            self.begin_without(())
        free()
        return call()


@contextmanager
def _whole(model: nn.Module) -> Iterator[None]:
    """What for want of memory ends in the middle has not counted in buffers."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    except OUT_OF_MEMORY:
        with torch.no_grad():
            for buffer, held in before:
                buffer.copy_(held)
        raise


def _held(member: Any) -> Hashable:
    """What is stored on a member, so that what was written to it shows: containers by what they hold, tensors by their version."""
    return _told(vars(member), 4)


def _told(value: Any, depth: int) -> Hashable:
    if value is None or isinstance(value, (int, float, str)):
        return value
    if depth and isinstance(value, dict):
        return tuple([(key, _told(part, depth - 1)) for key, part in value.items()])
    if depth and isinstance(value, (list, tuple, set)):
        return tuple([_told(part, depth - 1) for part in value])
    return (id(value), value._version) if isinstance(value, Tensor) and not value.is_inference() else id(value)

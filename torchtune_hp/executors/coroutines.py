"""Trials whose own code calls hp.Trainer, trained together: each runs until it wants to train, and then all are trained at once.

They run one at a time, in the order of their numbers; whoever reports goes on until it stands in a call of `Trainer.train` or has done
what it was sent for. So as many as can be stand there when the engine advances them, whatever each did in between.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..population.census import STACKS
from ..population.choosing import Strategy
from ..population.engine import Engine
from ..training.alone import ModelRunner
from ..training.coroutine import Coroutine
from ..training.seeding import Streams
from ..trial import Failed, Note, Reached, Trial
from .base import Job
from .local import LocalTrials


class CoroutineTrials(LocalTrials):
    """The live trials of this process, each of which runs as a coroutine."""

    def __init__(self, job: Job, live: Sequence[tuple[Trial, int]], strategy: Strategy) -> None:
        super().__init__(job, live)
        notes = self.notes      # of self, the engine would hold a cycle of all tensors
        self.engine = Engine(lambda kind, text: notes.append(Note(kind, text)), strategy, job.choices)
        self._noted = False
        self._members: dict[int, dict[ModelRunner, None]] = {}      # of each trial, whom its trainers train

    def train_all(self, work: Sequence[tuple[int, int]]) -> list[Reached | Failed]:
        """Trains each to its step or its own end; the answers in order of `work`. Their times are 0: the caller knows them."""
        began = time.monotonic()
        until = dict(work)
        answers: dict[int, Reached | Failed] = {}
        waiting: dict[int, Coroutine] = {}
        streams = Streams()
        try:
            for trial in sorted(until):
                self._run(trial, until[trial], answers, waiting)
            while waiting:
                streams.put()
                self._discard_dropped()
                found = self.engine.advance([one.member for one in waiting.values() if one.member is not None])
                news = self.engine.census.news()
                if news is not None:
                    self.notes.append(Note(STACKS, news))
                for trial, coroutine in list(waiting.items()):
                    assert coroutine.member is not None
                    self.engine.bring(coroutine.member)
                    coroutine.go_on(found.pop(coroutine.member))
                    self._run(trial, until[trial], answers, waiting, coroutine)
        except BaseException:       # stopped in the middle: nobody stands where a step ends, and what is not whole is not saved
            for coroutine in waiting.values():
                coroutine.stop()
            for trial, _ in work:
                self._dirty.discard(trial)
                self._close(trial)
            raise
        finally:
            streams.put()
        self._unsaved += time.monotonic() - began
        return [answers[trial] for trial, _ in work]

    def _run(
        self, trial: int, until: int, answers: dict[int, Reached | Failed], waiting: dict[int, Coroutine], at: Coroutine | None = None
    ) -> None:
        """Goes on with a trial, from `at` if it stands there, until it waits for a member, or has its answer."""
        waiting.pop(trial, None)
        step = self._steps[trial]
        try:
            runner = self._runners.pop(trial, None) or self._start(trial, until)
            self._runners[trial] = runner
            while True:
                if at is None:
                    step = runner.step
                    at = Coroutine(runner.advance)
                    at.go_on()
                if at.member is not None:
                    self._members.setdefault(trial, {})[at.member] = None
                    waiting[trial] = at
                    return
                if trial not in self._members:
                    self._note_no_call()
                error, look, at = at.error, at.look, None
                if error is not None:
                    raise error
                assert look is not None
                step = look.step
                self._heed(trial, look)
                if look.done or look.step >= until:
                    break
        except (Exception, SystemExit) as error:
            answer: Reached | Failed = self._failed(trial, step, error)
        else:
            answer = Reached(trial, look.step, look.metrics, 0.0, look.done)
            self._dirty.add(trial)
        answers[trial] = answer
        self._steps[trial] = max(self._steps[trial], answer.step)

    def _note_no_call(self) -> None:
        if not self._noted:
            self._noted = True
            text = f"{self.job.recipe.name}: trained one by one: it called no Trainer.train. hp.Processes() trains its trials side by side."
            self.notes.append(Note("stack", text))

    def _discard_dropped(self) -> None:
        for members in self._members.values():
            for member in [member for member in members if member.dropped]:
                self.engine.discard(member)
                del members[member]

    def _close(self, trial: int) -> None:
        super()._close(trial)
        for member in self._members.pop(trial, ()):
            self.engine.discard(member)

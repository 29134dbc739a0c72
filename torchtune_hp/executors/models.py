"""The live trials of a ModelTrainable in one process, trained together: each turn as stacks, by one engine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..population.census import STACKS
from ..population.choosing import Strategy
from ..population.engine import Answer, Engine
from ..training.alone import ModelRunner
from ..training.model import ModelRecipe
from ..training.replicas import Replicas, failed as failed_in
from ..training.runner import Look, Runner, State
from ..trial import Failed, Note, Reached, Trial
from .base import Job
from .local import LocalTrials, place_of


class ModelTrials(LocalTrials):
    """The live trials of this process."""

    def __init__(self, job: Job, live: Sequence[tuple[Trial, int]], strategy: Strategy) -> None:
        super().__init__(job, live)
        notes = self.notes      # of self, the engine would hold a cycle of all tensors
        self.engine = Engine(lambda kind, text: notes.append(Note(kind, text)), strategy, job.choices)

    def tidy(self, busy: set[int]) -> None:
        super().tidy(busy)
        self.engine.rest([member for trial in self._runners if trial not in busy for member in self._row(trial).members])

    def train_all(self, work: Sequence[tuple[int, int]]) -> list[Reached | Failed]:
        """Trains each to its step or its own end; the answers in order of `work`. Their times are 0: the caller knows them."""
        began = time.monotonic()
        answers: dict[int, Reached | Failed] = {}
        going: dict[int, int] = {}
        for trial, until in work:
            try:
                runner = self._runners.pop(trial, None) or self._start(trial, until)
                self._runners[trial] = runner
                going[trial] = until
            except (Exception, SystemExit) as error:
                answers[trial] = self._failed(trial, self._steps[trial], error)
        while going:
            rows = {trial: self._row(trial) for trial in going}
            try:
                found = self.engine.advance([member for row in rows.values() for member in row.members])
            except BaseException:       # stopped in the middle: nobody stands where a step ends, and what is not whole is not saved
                for trial, _ in work:
                    self._dirty.discard(trial)
                    self._close(trial)
                raise
            news = self.engine.census.news()
            if news is not None:
                self.notes.append(Note(STACKS, news))
            for trial, until in list(going.items()):
                answer = self._answer(trial, until, rows[trial].answered(found))
                if answer is not None:
                    answers[trial] = answer
                    del going[trial]
        for answer in answers.values():
            self._steps[answer.trial] = max(self._steps[answer.trial], answer.step)
            if isinstance(answer, Reached):
                self._dirty.add(answer.trial)
        self._unsaved += time.monotonic() - began
        return [answers[trial] for trial, _ in work]

    def _answer(self, trial: int, until: int, found: Answer) -> Reached | Failed | None:
        if isinstance(found, BaseException):
            return self._failed(trial, self._row(trial).step, found)
        try:
            self._heed(trial, found)
        except RuntimeError as error:
            return self._failed(trial, found.step, error)
        if found.done or found.step >= until:
            return Reached(trial, found.step, found.metrics, 0.0, found.done)
        return None

    def _row(self, trial: int) -> _Row:
        row = self._runners[trial]
        assert isinstance(row, _Row)
        return row

    def _begun(self, spec: Trial, state: State | None, step: int) -> Runner:
        recipe = self.job.recipe
        assert isinstance(recipe, ModelRecipe)
        runner = recipe.start(spec, place_of(self.job, spec.id), state, step, self.engine.begin)
        if isinstance(runner, Replicas):
            self.engine.call("replicas")
        return _Row(runner, self.engine)


class _Row:
    """A runner whose tensors may lie in stacks: they are written back before anyone sees them."""

    def __init__(self, runner: ModelRunner | Replicas, engine: Engine) -> None:
        self.runner, self.members, self._engine = runner, members_of(runner), engine

    @property
    def step(self) -> int:
        return self.runner.step

    def answered(self, found: Mapping[ModelRunner, Answer]) -> Answer:
        """The trial's look, from what the engine answered of its members; or what the first of them raised that did."""
        answers = [found[member] for member in self.members]
        if not isinstance(self.runner, Replicas):
            return answers[0]
        looks = [answer for answer in answers if isinstance(answer, Look)]
        if len(looks) == len(answers):
            try:
                return self.runner.looked(looks)
            except (Exception, SystemExit) as error:
                return error
        return next(failed_in(part, answer) for part, answer in zip(self.runner.parts, answers) if isinstance(answer, BaseException))

    def advance(self) -> Any:
        found = self.answered(self._engine.advance(self.members))
        if isinstance(found, BaseException):
            raise found
        return found

    def save(self) -> State | None:
        if isinstance(self.runner, Replicas):
            return self.runner.save(self._engine.save)
        return self._engine.save(self.runner)

    def close(self) -> None:
        for member in self.members:
            self._engine.discard(member)
        self.runner.close()


def members_of(runner: Any) -> list[ModelRunner]:
    """What is trained of a trial: one, or its replicas."""
    return runner.members if isinstance(runner, Replicas) else [runner]

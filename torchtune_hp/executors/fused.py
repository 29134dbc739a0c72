"""Hundreds of trials of a ModelTrainable at once, in this process: each turn trains all that were submitted, as stacks. Train functions and
Trainables that call hp.Trainer are trained in coroutines.py.

Everything else is as with `Serial(slots)`: the same trials, the same virtual time, the same looks up to rounding.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch

from ..errors import ConfigurationError
from ..parts import part
from ..population.census import STACKS
from ..population.choosing import Strategy
from ..population.engine import Answer, Engine
from ..population.graphed import can_capture
from ..population.room import let_go
from ..population.sizes import Size, best_size
from ..training.alone import ModelRunner
from ..training.model import ModelRecipe
from ..training.replicas import Replicas, failed as failed_in
from ..training.runner import Look, Runner, State
from ..trial import Failed, Note, Reached, Standing, Trial
from .base import Job
from .coroutines import CoroutineTrials
from .local import LocalTrials, place_of
from .serial import Serial

SLOTS = {"cpu": 32, "cuda": 128}
"""Slots where none are said, and none can be measured."""


@part
class Fused(Serial):
    """Trains the trials of a `ModelTrainable` as one tensor program; of a train function or a Trainable, what they train by `hp.Trainer`.

    `slots`: how many trials run at once; where memory runs out, they take turns. "auto": as many as train most members a second and
    have room, measured on the study's first trial before it begins (where that cannot be, 32 on a CPU, 128 on a GPU). The log says
    which number that is, and a study that is resumed keeps it; but results depend on it, and another run may measure another one: a
    study that is to be repeated names it. `device`: where; "auto": the GPU, if there is one.

    `strategy`: "vmap" stacks whatever can be stacked, "loop" nothing, "auto" what is faster so: both are timed, the study's log says
    what was chosen, and a study that is resumed keeps to it. "graph" stacks as "vmap" does and replays every step from CUDA graphs, which
    costs two steps or so wherever trials come, leave or move; on a GPU, "auto" times that too. "compile" sends every step through
    torch.compile: 10 s and more for each architecture and for each power of two of members, which pays in long studies. A choice changes
    results by rounding only, but on what is rounded otherwise a searcher may decide otherwise: a study that is to be repeated bit for bit,
    on a CPU, names its slots and "vmap".

    Trials share a stack where their models have one architecture; what cannot be stacked is trained one by one, and the study's
    log says why. So it does of a trainable of another kind, which calls no hp.Trainer: `Processes()` trains those side by side.
    """

    def __init__(self, slots: int | Literal["auto"] = "auto", device: str = "auto", strategy: Strategy = "auto") -> None:
        if slots != "auto" and (type(slots) is not int or slots < 1):
            raise ConfigurationError(f'slots: must be "auto" or an int of at least 1, but got {slots!r}.')
        if not isinstance(device, str):
            raise ConfigurationError(f'device: must be "auto" or the name of a device such as "cuda", but got {device!r}.')
        if strategy not in get_args(Strategy):
            raise ConfigurationError(f"strategy: must be one of {', '.join(map(repr, get_args(Strategy)))}, but got {strategy!r}.")
        super().__init__()
        self.slots = slots  # type: ignore[assignment]  # as it was given: a journal's header holds it
        self.strategy: Strategy = strategy
        self.device = device
        self._notes: list[Note] = []        # of what was chosen before the study began

    def prepare(self, job: Job) -> int:
        device = device_of(("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device)
        if self.strategy == "graph" and not can_capture(device):
            raise ConfigurationError(
                f'strategy="graph": a CUDA graph replays what runs on a GPU, but the device is "{device}". Take strategy="auto" or "vmap".'
            )
        self._job = dataclasses.replace(job, place=dataclasses.replace(job.place, device=str(device)))
        if isinstance(self.slots, int):
            return self.slots
        return self._measured() if job.capacity is None else job.capacity

    def _measured(self) -> int:
        """The slots that "auto" stands for; said in the log."""
        job, runner = self._job, None
        try:
            if not isinstance(job.recipe, ModelRecipe):
                raise LookupError(f"{job.recipe.name} is code of one's own")
            if job.first is None:
                raise LookupError("there is no trial to measure with")
            trial = job.first()
            runner = job.recipe.start(trial, place_of(job, trial.id))
            size = _slots(members_of(runner), job.trials, self.strategy)
        except (Exception, SystemExit) as error:
            kind = torch.device(job.place.device).type
            size = Size(SLOTS.get(kind, SLOTS["cpu"]), f"as ever on a {kind}, for it could not be measured: {let_go(error)}")
        finally:
            if runner is not None:
                runner.close()
        fixed = f"Results depend on this number, and another run may measure another: Fused(slots={size.slots}) fixes it."
        self._notes = [Note("slots", f"{size.slots}: {size.why}. {fixed}")]
        return size.slots

    def _made(self, standing: Standing) -> LocalTrials:
        kind = _FusedTrials if isinstance(self._job.recipe, ModelRecipe) else CoroutineTrials
        trials = kind(self._job, standing.live, self.strategy)
        trials.notes += self._notes
        self._notes = []
        return trials

    def _trained(self, trials: LocalTrials, work: Sequence[tuple[int, int]]) -> Iterator[Reached | Failed]:
        assert isinstance(trials, (_FusedTrials, CoroutineTrials))
        yield from trials.train_all(work)


def device_of(name: str) -> torch.device:
    """The device of this name. ConfigurationError where torch knows none, or where this machine has none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigurationError(
            f'device: must be the name of a device of torch, such as "cuda", but got "{name}". "auto" is the GPU, if there is one.'
        ) from None
    there, found = ["cpu"], torch.accelerator.current_accelerator(check_available=True)
    if found is not None:
        there += [f"{found.type}:{number}" for number in range(torch.accelerator.device_count())]
    if device.type != "cpu" and f"{device.type}:{device.index or 0}" not in there:
        raise ConfigurationError(f'device: must be one that is there, but "{name}" is not: there is {", ".join(there)}. Take one of these.')
    return device


class _FusedTrials(LocalTrials):
    """The live trials of this process, trained together."""

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


def _slots(members: Sequence[ModelRunner], trials: int | None, strategy: Strategy) -> Size:
    """How many trials of so many members each at once."""
    each = len(members)
    size = best_size(members[0], None if trials is None else trials * each, strategy)
    if each == 1:
        return size
    return Size(-(-size.slots // each), f"{size.slots} members, and a trial has {each}; {size.why}")

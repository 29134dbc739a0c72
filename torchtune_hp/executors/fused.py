"""Hundreds of trials of a ModelTrainable at once: each turn trains all that were submitted, as stacks (models.py). Train functions and
Trainables that call hp.Trainer are trained in coroutines.py. On one device that is done in this process, on several in one for each
(children.py).

Everything else is as with `Serial(slots)`: the same trials, the same virtual time, the same looks up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

from ..errors import ConfigurationError
from ..parts import part
from ..population.choosing import Strategy
from ..population.graphed import can_capture
from ..training.model import ModelRecipe
from ..trial import Command, Event, Failed, Note, Reached, Setting, Standing
from .base import Executor, Job
from .children import Children
from .coroutines import CoroutineTrials
from .devices import Devices, check_devices, devices_of
from .local import LocalTrials
from .models import ModelTrials
from .serial import Serial
from .slots import fixed, measured


@part
class Fused:
    """Trains the trials of a `ModelTrainable` as one tensor program; of a train function or a Trainable, what they train by `hp.Trainer`.

    `slots`: how many trials run at once on each device; where memory runs out, they take turns. "auto": as many as train most members a
    second and have room, measured on the study's first trial before it begins (where that cannot be, 32 on a CPU, 128 on a GPU). The log
    says which number that is, and a study that is resumed keeps it; but results depend on it, and another run may measure another one: a
    study that is to be repeated names it.

    `devices`: where; a name, or several, as ["cuda:0", "cuda:1"]; "auto": all GPUs there are, or the CPU. One device is used in this
    process. With several there is a process for each, and their slots add up: decisions are those of one device with as many slots, so a
    study that is to be repeated elsewhere names its devices, too. What is trained must be picklable, `data()` is called in each process,
    and what trials print is in the study's folder, in `devices/0/output.txt` and so on. A process that dies is replaced: its trials go on
    from their newest durable states, and only one at which it dies again is lost. `isolate`: a process of its own for a single device,
    too.

    `strategy`: "vmap" stacks whatever can be stacked, "loop" nothing, "auto" what is faster so: both are timed, the study's log says
    what was chosen, and a study that is resumed keeps to it. "graph" stacks as "vmap" does and replays every step from CUDA graphs, which
    costs two steps or so wherever trials come, leave or move; on a GPU, "auto" times that too. "compile" sends every step through
    torch.compile: 10 s and more for each architecture and for each power of two of members, which pays in long studies. A choice changes
    results by rounding only, but on what is rounded otherwise a searcher may decide otherwise: a study that is to be repeated bit for bit,
    on a CPU, names its slots and "vmap".

    Trials share a stack where their models have one architecture; what cannot be stacked is trained one by one, and the study's
    log says why. So it does of a trainable of another kind, which calls no hp.Trainer: `Processes()` trains those side by side.
    """

    def __init__(
        self, slots: int | Literal["auto"] = "auto", devices: Devices = "auto", strategy: Strategy = "auto", isolate: bool = False
    ) -> None:
        if slots != "auto" and (type(slots) is not int or slots < 1):
            raise ConfigurationError(f'slots: must be "auto" or an int of at least 1, but got {slots!r}.')
        check_devices(devices)
        if strategy not in get_args(Strategy):
            raise ConfigurationError(f"strategy: must be one of {', '.join(map(repr, get_args(Strategy)))}, but got {strategy!r}.")
        if isolate not in (True, False):
            raise ConfigurationError(f"isolate: must be True or False, but got {isolate!r}.")
        self.slots = slots
        self.devices = devices if isinstance(devices, str) else list(devices)
        self.strategy: Strategy = strategy
        self.isolate = isolate
        self._does: Executor | None = None

    @property
    def ordered(self) -> bool:
        return True

    def prepare(self, job: Job) -> int:
        devices = devices_of(self.devices)
        if self.strategy == "graph" and not can_capture(devices[0]):
            raise ConfigurationError(
                f'strategy="graph": a CUDA graph replays what runs on a GPU, but the device is "{devices[0]}". Take strategy="auto" or '
                '"vmap".'
            )
        if len(devices) > 1 or self.isolate:
            self._does = Children(devices, self.slots, self.strategy)
        else:
            self._does = _Here(str(devices[0]), self.slots, self.strategy)
        return self._does.prepare(job)

    def begin(self, setting: Setting, standing: Standing) -> None:
        self._prepared().begin(setting, standing)

    def submit(self, command: Command) -> None:
        self._prepared().submit(command)

    def wait(self) -> list[Event]:
        return self._prepared().wait()

    def close(self, save: bool = False) -> Sequence[Note] | None:
        return None if self._does is None else self._does.close(save)

    def _prepared(self) -> Executor:
        if self._does is None:
            raise RuntimeError("Fused: prepare and begin come first, and close last.")
        return self._does


class _Here(Serial):
    """In this process, on this device."""

    def __init__(self, device: str, slots: int | Literal["auto"], strategy: Strategy) -> None:
        super().__init__()
        self._device, self._given, self._strategy = device, slots, strategy
        self._notes: list[Note] = []        # of what was chosen before the study began

    def prepare(self, job: Job) -> int:
        self._job = replace(job, place=replace(job.place, device=self._device))
        if isinstance(self._given, int):
            return self._given
        if job.capacity is not None:
            return job.capacity
        size = measured(self._job, self._strategy)
        self._notes = [Note("slots", f"{size.slots}: {size.why}. {fixed(size.slots)}")]
        return size.slots

    def _made(self, standing: Standing) -> LocalTrials:
        kind = ModelTrials if isinstance(self._job.recipe, ModelRecipe) else CoroutineTrials
        trials = kind(self._job, standing.live, self._strategy)
        trials.notes += self._notes
        self._notes = []
        return trials

    def _trained(self, trials: LocalTrials, work: Sequence[tuple[int, int]]) -> Iterator[Reached | Failed]:
        assert isinstance(trials, (ModelTrials, CoroutineTrials))
        yield from trials.train_all(work)

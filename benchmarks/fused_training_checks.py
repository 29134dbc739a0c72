"""Cases of fused_training.py as they are built: the first updates of each checked against the eager loop's, and the fastest form kept."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import common
import torch
from fused_training_cases import PROGRAM, SINGLE, Forms, Update, graphed
from fused_training_models import Task
from torch import Tensor

CHECKED = 4
AGREE, MOVED, NOISE = 1e-4, 0.02, 5e-6
"""How far losses may be from the eager loop's: relative to the loss, and to the way that it has come since the first
update, with an allowance for float32."""


class Different(Exception):
    """A case does not train the models that the eager loop trains."""


@dataclass
class Built:
    """A case that was checked. `each_s`: seconds of an update of all P; `compile_s`: what its code took to compile, here or before."""

    update: Update
    form: str
    compile_s: float
    each_s: float


@dataclass
class Row:
    """A workload at one P, and what was found."""

    task: Task
    limit_ms: float
    built: dict[str, Built] = field(default_factory=dict)
    why_not: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def ms(self, name: str) -> float:
        return common.median(self.rounds.get(name, []))

    def least(self, *names: str) -> float:
        """Of several cases, those that were measured."""
        return min((self.ms(name) for name in names if name in self.rounds), default=math.nan)


def look(losses: Tensor) -> None:
    """Once an update, in every case: it waits for the device, as a study does that must know who diverged."""
    if not bool(losses.isfinite().all()):
        raise Different(f"a loss is not finite: {losses.tolist()}")


def built(task: Task, name: str, form: str, make: Callable[[], Update], reference: list[Tensor]) -> Built:
    """Makes a case and checks its first updates; the very first case gives the reference."""
    update = make()
    times: list[float] = []

    def checked(update: Update, k: int) -> None:
        began = time.perf_counter()
        losses = update().cpu()
        look(losses)
        times.append(time.perf_counter() - began)
        if len(reference) == k:
            reference.append(losses)
        right, moved = reference[k], sum(((b - a).abs() for a, b in itertools.pairwise(reference[: k + 1])), torch.zeros(task.P))
        allowed = torch.minimum(AGREE * right.abs(), MOVED * moved + NOISE * right.abs())
        worst = int(((losses - right).abs() - allowed).argmax())
        if not (losses - right).abs()[worst] <= allowed[worst]:
            raise Different(
                f"{task.work.name}, P={task.P}: {name} ({form}) gives member {worst} the loss {losses[worst]:.7g} in update {k + 1}, "
                f"but the eager loop {right[worst]:.7g}; at most {allowed[worst]:.2g} between them is allowed."
            )

    def all_but_one(update: Update) -> None:
        for k in range(CHECKED - 1):
            checked(update, k)

    if form.endswith(", graphed"):
        update = graphed(update, all_but_one)
    else:
        all_but_one(update)
    checked(update, CHECKED - 1)
    code = _code(task, name, form)
    _compile_s[code] = max(_compile_s.get(code, 0.0), times[0] - times[1])
    return Built(update, form, _compile_s[code], times[-1])


_compile_s: dict[Any, float] = {}
"""Of what is compiled once and used in several cases: the first update's time less the second's, where it was new."""


def _code(task: Task, name: str, form: str) -> tuple[Any, ...]:
    """Which compiled code a form runs."""
    if form.startswith("forward and backward"):
        return task.work.name, "loss"
    if form.startswith("the whole step"):
        return task.work.name, 1, PROGRAM
    return task.work.name, task.P, PROGRAM if form.startswith(PROGRAM) else name


def build(row: Row, forms: Mapping[str, Forms], chosen: dict[str, str], seconds: float) -> None:
    """Fills `row.built`, of each case with its fastest form. `chosen`: by case, what was found to be fastest at the first P."""
    reference: list[Tensor] = []
    for name, ways in forms.items():
        if name in chosen and chosen[name] in ways:
            ways = {chosen[name]: ways[chosen[name]]}
        made: list[Built] = []
        for form, make in ways.items():
            try:
                made.append(built(row.task, name, form, make, reference))
            except Different:
                raise
            except Exception as error:      # a compiler that fails, or is not there, leaves the case out, and says so
                lines = str(error).strip().splitlines()
                row.why_not[f"{name} {f'({form})' if form else ''}".strip()] = f"{type(error).__name__}: {(lines or [''])[0][:120]}"
        if not made:
            continue
        best = made[0]
        if len(made) > 1:
            best = min(made, key=lambda each: min(burst(each, row.task.P, seconds / 5) for _ in range(3)))
            if name == SINGLE:
                chosen[name] = best.form
        row.built[name] = best


def burst(case: Built, P: int, seconds: float) -> float:
    """ms per model-update over so many updates as last about so long."""
    n = max(1, math.ceil(seconds / max(case.each_s, 1e-6)))
    began = time.perf_counter()
    for _ in range(n):
        look(case.update())
    took = time.perf_counter() - began
    case.each_s = took / n
    return took / n / P * 1e3

"""What the benchmarks share: where they run, probes of that machine, interleaved timing, tables, goals, and results as JSON.

Rules: A speed is a ratio inside one run, its rounds interleaved (A B A B), each side given by its median. Beside every
ratio stand three probes of the same run (copy bandwidth, GEMM rate, the cost of an empty op): they explain a ratio that
moves between machines. An absolute time of a shared machine means nothing by itself. What could not be measured is shown as
absent, never estimated. No benchmark is a test: a goal that was missed is printed as missed, and the exit status stays 0.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))        # the checkout's own package, installed or not

import torch  # noqa: E402

from torchtune_hp.executors.simulated import Curve, Simulated  # noqa: E402
from torchtune_hp.objective import Objective  # noqa: E402
from torchtune_hp.schedulers.base import Scheduler  # noqa: E402
from torchtune_hp.searchers import RandomSearch, Searcher  # noqa: E402
from torchtune_hp.space import Space  # noqa: E402
from torchtune_hp.study import Study  # noqa: E402
from torchtune_hp.trial import Config, Failed, Launch, Limits, Note, Reached, Setting, Train  # noqa: E402

ABSENT = "absent"


# The machine ----------------------------------------------------------------------------------------------------------------


def device_name() -> str:
    """Part of a result's file name: "cpu2" is a machine with two cores and no GPU in use."""
    return f"cpu{os.cpu_count()}"


def environment(*packages: str) -> dict[str, Any]:
    """Where this runs, with the versions of `packages` (None where one is not installed)."""
    return {
        "device": device_name(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "commit": _commit(),
        **{package: version(package) for package in packages},
    }


def version(package: str) -> str | None:
    """The installed version of a package; None if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def probes() -> dict[str, float]:
    """Copy bandwidth, GEMM rate and the cost of an empty op, here and now: the best of several short tries each."""
    source = torch.ones(8 * 2**20)
    target = torch.empty_like(source)
    a = torch.ones(768, 768)
    one = torch.ones(1)
    copy = _best_of(7, lambda: target.copy_(source))
    gemm = _best_of(7, lambda: a @ a)
    empty = _best_of(7, lambda: [one + one for _ in range(1000)])
    return {
        "copy_GB_per_s": 2 * source.nbytes / copy / 1e9,
        "gemm_GFLOP_per_s": 2 * 768**3 / gemm / 1e9,
        "empty_op_us": empty / 1000 * 1e6,
    }


# Timing ---------------------------------------------------------------------------------------------------------------------


def interleaved(cases: Mapping[str, Callable[[], Any]], rounds: int, fewer: Mapping[str, int] | None = None) -> dict[str, list[Any]]:
    """Calls every case once a round, A B A B, and collects what they return. `fewer`: cases that take part in the first rounds only."""
    found: dict[str, list[Any]] = {name: [] for name in cases}
    for k in range(rounds):
        for name, case in cases.items():
            if k < (fewer or {}).get(name, rounds):
                found[name].append(case())
    return found


def timed(run: Callable[..., Any], *arguments: Any, **words: Any) -> Callable[[], float]:
    """A case that does this, and returns the seconds it takes."""

    def seconds() -> float:
        began = time.perf_counter()
        run(*arguments, **words)
        return time.perf_counter() - began

    return seconds


def median(values: Sequence[float]) -> float:
    """NaN of nothing."""
    return statistics.median(values) if values else math.nan


def child(script: str, *arguments: str) -> dict[str, Any]:
    """What a fresh Python process, running a script with these arguments, prints as its last line of JSON."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{Path(script).name} {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


# What is shown and kept -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """A claim with its bound. `relation`: "<=" or ">="."""

    name: str
    value: float
    relation: str
    bound: float
    unit: str = ""

    @property
    def reached(self) -> bool | None:
        """None: it was not measured."""
        if math.isnan(self.value):
            return None
        return self.value <= self.bound if self.relation == "<=" else self.value >= self.bound

    def row(self) -> list[str]:
        said = {True: "reached", False: "MISSED", None: "not measured"}[self.reached]
        measured = ABSENT if math.isnan(self.value) else f"{number(self.value)}{self.unit}"
        return [self.name, measured, f"{self.relation} {self.bound:,g}{self.unit}", said]


def show_goals(goals: Sequence[Goal]) -> None:
    table("goals", ["goal", "measured", "bound", ""], [goal.row() for goal in goals])


def number(value: Any) -> str:
    """Four significant digits; NaN and None are absent; text stays."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ABSENT
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:.4g}"
    return str(value)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Plain text: the first column to the left, numbers to the right."""
    cells = [list(columns), *[[number(cell) for cell in row] for row in rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    print(f"\n{title}")
    for k, row in enumerate(cells):
        print("  " + "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip())
        if k == 0:
            print("  " + "  ".join("-" * w for w in widths))
    sys.stdout.flush()


def heading(where: Mapping[str, Any], probed: Mapping[str, float]) -> None:
    print(", ".join(f"{key} {value}" for key, value in where.items() if value is not None))
    print("probes: " + ", ".join(f"{key} {value:.3g}" for key, value in probed.items()))
    if where["load"] > 0.5 * where["cores"]:
        print(f"note: the machine was busy when this began (load {where['load']}); ratios are weaker for it, times mean nothing")
    sys.stdout.flush()


def save(name: str, folder: str | Path | None, result: Mapping[str, Any]) -> Path | None:
    """Writes <folder>/<name>-<device>.json; nothing if there is no folder."""
    if folder is None:
        return None
    path = Path(folder) / f"{name}-{device_name()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(result), indent=1) + "\n")
    print(f"\nwritten to {path.name}")
    return path


def goals_json(goals: Sequence[Goal]) -> list[dict[str, Any]]:
    return [{"goal": g.name, "value": g.value, "relation": g.relation, "bound": g.bound, "reached": g.reached} for g in goals]


# Studies in virtual time ----------------------------------------------------------------------------------------------------


def simulated(
    space: Space, scheduler: Scheduler, curve: Curve, *, workers: int, seed: int, look_every: Any, mode: str = "min",
    searcher: Searcher | None = None,
) -> tuple[Study, Simulated]:  # fmt: skip
    """A study of curves and the executor that answers for it, without a journal. The metric is "loss"; the searcher, random search."""
    setting = Setting(space.dims, space.feasible, 1, scheduler.max_t, workers, seed, True, space.rows)
    objective = Objective("loss", mode)     # type: ignore[arg-type]
    study = Study(space, searcher or RandomSearch(), scheduler, objective, setting, keep=0, look_every=look_every)
    executor = Simulated(workers, curve)
    executor.prepare(None)                  # type: ignore[arg-type]     # a study of curves has no job
    executor.begin(setting, study.standing())
    return study, executor


@dataclass(frozen=True, slots=True)
class Look:
    """A trial seen at a step. `epochs`: what the study had spent by then, on trials in the middle of a grant too."""

    trial: int
    config: Config
    step: int
    value: float
    epochs: int


def looks(
    space: Space, scheduler: Scheduler, curve: Curve, *, workers: int = 1, seed: int = 0, look_every: Any = 1,
    searcher: Searcher | None = None,
) -> Iterator[Look]:  # fmt: skip
    """Every look of a study of curves, in order, until it is over or nobody asks for more."""
    study, executor = simulated(space, scheduler, curve, workers=workers, seed=seed, look_every=look_every, searcher=searcher)
    limits = Limits(workers)
    configs: dict[int, Config] = {}
    stands: dict[int, int] = {}
    since: dict[int, int] = {}
    spent = 0
    commands = study.step((), limits)
    while True:
        for command in commands:
            if isinstance(command, Launch):
                configs[command.trial.id], stands[command.trial.id] = command.trial.config, 0
            if isinstance(command, (Launch, Train)):
                since[command.trial.id if isinstance(command, Launch) else command.trial] = study.tick
            executor.submit(command)
        if not study.running:
            return
        events = [event for event in executor.wait() if not isinstance(event, Note)]
        commands = study.step(events, limits)
        for event in events:
            spent += event.step - stands[event.trial]
            stands[event.trial] = event.step
            del since[event.trial]
        flight = sum(study.tick - tick for tick in since.values())
        for event in events:
            value = math.nan if isinstance(event, Failed) else _value(event)
            yield Look(event.trial, configs[event.trial], event.step, value, spent + flight)


def _value(event: Reached) -> float:
    value = event.metrics["loss"]
    return float(value) if isinstance(value, (int, float)) else math.nan


def _best_of(tries: int, run: Callable[[], Any]) -> float:
    times = []
    for _ in range(tries):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    done = subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None


def _plain(value: Any) -> Any:
    """JSON without NaN and infinities: they become null and text. Floats keep six digits."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return None if math.isnan(value) else str(value) if math.isinf(value) else float(f"{value:.6g}")
    return value

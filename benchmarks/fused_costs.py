"""What stands around a stack's tensor program: schedules, refilled rows, and the bookkeeping of looks.

An MLP 64-64-64-10 with AdamW and batches of 64 out of 1,437 samples, P trials of it, trained by the engine that `Fused` drives.

    schedules       a learning rate for each update by a OneCycleLR of each trial's own. "share": what unrolling, uploading and writing
                    back take of the whole iteration, in the very run; "with / without": the whole iteration against that of the same
                    trials without a scheduler, rounds interleaved (its noise is larger than most shares); "own steps": what one step
                    of each trial's own scheduler takes of an update, which is what it would cost without the table
    bookkeeping     us per member and iteration of everything but the stack's own work (gradients, optimizer, evaluation): the
                    plan of the samples and their gathering, keys, copies for the case of a fault, metrics, looks
    refill          ms per member of one trial's end and another's begin in a stack of P, beyond the user's own `setup`: writing the old
                    one back, making the new one's runner, its row. For 1 and for 8 of them at once

The claims would be false if the tables held other numbers than the schedulers would have given (tests/population compares them bit
for bit), or if the stack's time were inflated: it is that of the engine's own strategy "vmap", as studies use it.

    python benchmarks/fused_costs.py [--quick] [--device cpu] [--rounds 5] [--results DIR]
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import common
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

import torchtune_hp as hp
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.schedules import Schedules
from torchtune_hp.population.speeds import wait
from torchtune_hp.population.stack import Stack
from torchtune_hp.training.alone import ModelRunner
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.runner import Place
from torchtune_hp.trial import Trial

SAMPLES, BATCH = 1797, 64
MAX_T = 1000


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class Plain(hp.ModelTrainable):
    """Data of the size of scikit-learn's digits; what is learnt does not matter here."""

    def setup(self, config: Any) -> None:
        self.model = network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config["lr"], weight_decay=config["wd"])

    @classmethod
    def data(cls) -> hp.Data:
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(SAMPLES, 64, generator=generator), torch.randint(0, 10, (SAMPLES,), generator=generator)
        return hp.Data((x, y), val_fraction=0.2, batch_size=BATCH)

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        logits = model(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "accuracy": (logits.argmax(-1) == batch[1]).float().mean()}


class Scheduled(Plain):
    lr_step = "update"

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.lr_scheduler = OneCycleLR(self.optimizer, max_lr=config["lr"], total_steps=1 + MAX_T * self.updates_per_epoch)


def start(cls: type[Plain], device: str, numbers: range) -> list[ModelRunner]:
    recipe, place = _recipe(cls), Place(None, device, MAX_T, ("accuracy",), "costs")
    configs = [{"lr": 1e-4 * (1 + k % 97), "wd": 1e-3 * (k % 31)} for k in numbers]
    return [recipe.start(Trial(k, (), config, seed=k), place) for k, config in zip(numbers, configs)]


@functools.cache
def _recipe(cls: type[Plain]) -> ModelRecipe:
    return ModelRecipe(cls)         # it holds the data


class Meter:
    """The time that is spent in some methods, while it is entered. On CUDA it waits before and after each."""

    def __init__(self, device: torch.device, *methods: tuple[type, str]) -> None:
        self.seconds, self._device, self._methods = 0.0, device, methods

    def __enter__(self) -> Meter:
        self._before = [getattr(owner, name) for owner, name in self._methods]
        for (owner, name), method in zip(self._methods, self._before):
            setattr(owner, name, self._metered(method))
        return self

    def __exit__(self, *error: object) -> None:
        for (owner, name), method in zip(self._methods, self._before):
            setattr(owner, name, method)

    def _metered(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def metered(*arguments: Any, **words: Any) -> Any:
            wait(self._device)
            began = time.perf_counter()
            try:
                return method(*arguments, **words)
            finally:
                wait(self._device)
                self.seconds += time.perf_counter() - began

        return metered


SCHEDULES = [(Schedules, name) for name in ("__init__", "begin", "at", "commit")] + [(Stack, "_move")]
WORK = [(Stack, name) for name in ("gradients", "update", "evaluate")]


class Group:
    """P trials of a class and the engine that trains them."""

    def __init__(self, cls: type[Plain], P: int, device: torch.device) -> None:
        self.device, self.engine = device, Engine(strategy="vmap")
        self.runners = start(cls, str(device), range(P))
        self.iteration()            # what is done for the first time

    def iteration(self, *methods: tuple[type, str]) -> tuple[float, float]:
        """-> its seconds, and those of them that were spent in `methods`."""
        with Meter(self.device, *methods) as meter:
            wait(self.device)
            began = time.perf_counter()
            self.engine.advance(self.runners)
            wait(self.device)
            return time.perf_counter() - began, meter.seconds


def shares(P: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Schedules and bookkeeping of a stack of P."""
    plain, scheduled = Group(Plain, P, device), Group(Scheduled, P, device)
    updates = scheduled.runners[0].member.updates_per_epoch
    found = common.interleaved(
        {
            "without": lambda: plain.iteration()[0],
            "with": lambda: scheduled.iteration()[0],
            "schedules": lambda: _share(*scheduled.iteration(*SCHEDULES)),
            "bookkeeping": lambda: _rest(*plain.iteration(*WORK)),
            "own steps": lambda: own_steps(P),
        },
        rounds,
    )
    each = {name: common.median(values) for name, values in found.items()}
    update, pairs = each["with"] / updates, zip(found["with"], found["without"])
    return {
        "P": P, "update_ms": update * 1e3, "schedules_us": each["schedules"] * update * 1e6,
        "schedules_percent": 100 * each["schedules"], "with_over_without": common.median([a / b for a, b in pairs]),
        "own_percent": 100 * each["own steps"] / update, "bookkeeping_us": each["bookkeeping"] / P * 1e6,
        "bookkeeping_percent": 100 * each["bookkeeping"] / each["without"],
    }  # fmt: skip


def _share(whole: float, part: float) -> float:
    return part / whole


def _rest(whole: float, part: float) -> float:
    return whole - part


def own_steps(P: int) -> float:
    """Seconds that a step of each of P trials' own schedulers takes."""
    schedulers = []
    for _ in range(P):
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
        schedulers.append(OneCycleLR(optimizer, max_lr=0.1, total_steps=99))
        optimizer._opt_called = True  # type: ignore[attr-defined]
    began = time.perf_counter()
    for scheduler in schedulers:
        scheduler.step()
    return time.perf_counter() - began


def refill(P: int, device: torch.device, at_once: int, rounds: int) -> dict[str, Any]:
    """The end of `at_once` trials in a stack of P, and the begin of as many others."""
    runners = start(Plain, str(device), range(P))
    stack = Stack([(runner.member.model, runner.member.optimizer) for runner in runners])
    found: dict[str, list[float]] = {"setup": [], "start": [], "leave": [], "join": []}
    for k in range(rounds):
        rows = [(k * at_once + i) % P for i in range(at_once)]
        times = [_now(device)]
        for runner in runners[:at_once]:
            runner.member.setup(runner.member.config)
            runner.member.model.to(device)
        times.append(_now(device))
        new = start(Plain, str(device), range(P + k * at_once, P + (k + 1) * at_once))
        times.append(_now(device))
        for row in rows:
            stack.dump(row)
        times.append(_now(device))
        stack.replace(rows, [(runner.member.model, runner.member.optimizer) for runner in new])
        times.append(_now(device))
        for name, began, ended in zip(found, times, times[1:]):
            found[name].append((ended - began) / at_once * 1e3)
    each = {name: common.median(values) for name, values in found.items()}
    return {"P": P, "at_once": at_once, **each, "beyond_setup": each["start"] - each["setup"] + each["leave"] + each["join"]}


def _now(device: torch.device) -> float:
    wait(device)
    return time.perf_counter()


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="P=8 and 32, 3 rounds; writes nothing without --results")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--results", help="folder for the result; the full form's default is benchmarks/results")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    rounds = options.rounds or (3 if options.quick else 7)
    sizes = (8, 32) if options.quick else (32, 128, 512)

    where, probed = common.environment(), common.probes()
    common.heading(where, probed)
    costs = [shares(P, device, rounds) for P in sizes]
    common.table(
        f"schedules: a OneCycleLR for each update, medians of {rounds} interleaved rounds",
        ["P", "ms an update", "us an update", "share, %", "with / without", "own steps would be, %"],
        [[c[key] for key in ("P", "update_ms", "schedules_us", "schedules_percent", "with_over_without", "own_percent")] for c in costs],
    )
    common.table(
        "bookkeeping: all but gradients, optimizer and evaluation",
        ["P", "us a member and iteration", "share of an iteration, %"],
        [[c["P"], c["bookkeeping_us"], c["bookkeeping_percent"]] for c in costs],
    )
    refills = [refill(P, device, at_once, 5 * rounds) for P in sizes for at_once in (1, 8)]
    common.table(
        "refill, ms a member",
        ["P", "at once", "user's setup", "start of a runner", "leaving", "its row", "beyond setup"],
        [[r["P"], r["at_once"], r["setup"], r["start"], r["leave"], r["join"], r["beyond_setup"]] for r in refills],
    )
    last = costs[-1]
    goals = [
        common.Goal(f"schedules, share of a step at P={last['P']}", last["schedules_percent"], "<=", 5.0, " %"),
        *(
            common.Goal(f"refill of one at P={r['P']}, beyond setup", r["beyond_setup"], "<=", 1.0, " ms")
            for r in refills if r["at_once"] == 1
        ),
    ]   # fmt: skip
    common.show_goals(goals)
    result = {
        "environment": where, "probes": probed, "quick": options.quick, "rounds": rounds, "costs": costs, "refill_ms": refills,
        "goals": common.goals_json(goals),
    }  # fmt: skip
    name = f"fused_costs-{torch.cuda.get_device_name().lower().replace(' ', '-')}" if device.type == "cuda" else "fused_costs"
    common.save(name, options.results or (None if options.quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

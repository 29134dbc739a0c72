"""Whole spaces: how fast are 128 random configurations of a space trained, with and without padded widths, and one by one?

Five spaces, three of them published: FCNet's grid (Klein and Hutter 2019), the small CNN of ASHA's second task (Li et al. 2020), the
widths and depths of LCBench (Zimmer et al. 2021), one width alone, and one shape. Widths, depths, activations, dropout rates, batch
sizes and learning rates are drawn; the data are random numbers of the right sizes, for what is learnt does not matter here.

    padded         the engine as `Fused` uses it, strategy "auto": widths share a stack where that was faster
    equal shapes   the same engine, in which only equal shapes share one: what it was before there was padding
    one by one     strategy "loop"

Measured is an iteration of all configurations, so many updates of each (an update of batch 512 counts as one of batch 8), after two in
which each engine finds out what it does. "speed" is the time of one way over that of another, in rounds that are interleaved.
"memory": bytes of what the members train and their optimizers hold, in stacks and of who has none, over what they would be without
padding.

The claims would be false if padded members trained less or otherwise (tests/population/test_padding.py compares them with each alone), or
if a way skipped some: updates are counted.

    python benchmarks/spaces.py [--quick] [--rounds 3] [--only NAME] [--results DIR]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import common
import torch
from fused_training_spaces import spaces
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.population.engine import Engine
from torchtune_hp.training.alone import ModelRunner
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.runner import Place
from torchtune_hp.trial import Trial

SHAPES = {"FCNet's grid": ((9,), 0), "ASHA's small CNN": ((3, 32, 32), 10), "LCBench's": ((54,), 7)}
"""Of an input, and how many classes; 0: a number. Of others: 64 numbers, ten classes."""
UPDATES = {"FCNet's grid": 20, "ASHA's small CNN": 1, "LCBench's": 2}
SAMPLES = 2048
WAYS = ("padded", "equal shapes", "one by one")
GOALS = {"FCNet's grid": 3.0}
"""Padded over equal shapes; elsewhere at least 0.95."""


def trainable(name: str, build: Callable[[Mapping[str, Any]], nn.Module]) -> type[hp.ModelTrainable]:
    shape, classes = SHAPES.get(name, ((64,), 10))

    class Network(hp.ModelTrainable):
        iteration = UPDATES.get(name, 20)

        def setup(self, config: Any) -> None:
            self.model, self.batch_size = build(config), config["batch_size"]
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["lr"])

        @classmethod
        def data(cls) -> hp.Data:
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(SAMPLES, *shape, generator=generator)
            y = torch.randint(0, classes, (SAMPLES,), generator=generator) if classes else torch.randn(SAMPLES, generator=generator)
            return hp.Data((x, y))

        def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            found = model(batch[0])
            return F.cross_entropy(found, batch[1]) if classes else F.mse_loss(found[:, 0], batch[1])

    Network.__name__ = name
    return Network


def runners(cls: type[hp.ModelTrainable], space: Mapping[str, Any], n: int) -> list[ModelRunner]:
    own = hp.Space({**space, "lr": hp.loguniform(1e-5, 1e-3)})
    x = torch.rand(n, len(own), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    recipe, place = ModelRecipe(cls), Place(None, "cpu", None, (), "spaces")
    return [recipe.start(Trial(k, (), config, seed=k), place) for k, config in enumerate(own.decode(x))]  # type: ignore[misc]


class Way:
    """An engine and members of its own."""

    def __init__(self, way: str, cls: type[hp.ModelTrainable], space: Mapping[str, Any], n: int) -> None:
        self.engine = Engine(strategy="loop" if way == "one by one" else "auto")
        if way == "equal shapes":
            self.engine._sorting._by_shape = lambda structure: True
        self.members = runners(cls, space, n)
        for _ in range(2):
            self.seconds()
        self.updates = 0

    def seconds(self) -> float:
        before = sum(member.updates for member in self.members)
        began = time.perf_counter()
        found = self.engine.advance(self.members)
        took = time.perf_counter() - began
        failed = next((answer for answer in found.values() if isinstance(answer, BaseException)), None)
        if failed is not None:
            raise failed
        self.updates = sum(member.updates for member in self.members) - before
        return took

    def stacks(self) -> list[int]:
        return sorted(self.engine.stacks(), reverse=True)

    def bytes(self) -> int:
        groups = list(self.engine._groups.values())
        stacked = {member for group in groups for member in group.present}
        held = [tensor for group in groups if group.stack is not None for tensor in leaves(group.stack.rows())]
        held += [tensor for group in groups if group.stack is not None for state in group.stack.states for tensor in state.values()]
        return sum(tensor.nbytes for tensor in held) + sum(own_bytes(member) for member in self.members if member not in stacked)


def leaves(rows: Any) -> list[Tensor]:
    return [*rows.flats, *rows.buffers.values(), *rows.stacked.values()]


def own_bytes(member: ModelRunner) -> int:
    """Of a member as it is alone."""
    model, optimizer = member.member.model, member.member.optimizer
    state = [value for held in optimizer.state.values() for value in held.values() if isinstance(value, Tensor) and value.dim()]
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers(), *state))


def measured(name: str, space: Mapping[str, Any], build: Callable[[Mapping[str, Any]], nn.Module], n: int, rounds: int) -> dict[str, Any]:
    cls = trainable(name, build)
    ways = {way: Way(way, cls, space, n) for way in WAYS}
    found = common.interleaved({way: each.seconds for way, each in ways.items()}, rounds)
    if len({each.updates for each in ways.values()}) != 1:
        raise RuntimeError(f"{name}: the ways trained differently: {({way: each.updates for way, each in ways.items()})}")

    def over(way: str) -> float:
        return common.median([slow / fast for slow, fast in zip(found[way], found["padded"])])

    alone = sum(map(own_bytes, ways["one by one"].members))
    return {
        "space": name, "configurations": n, "updates": ways["padded"].updates, "seconds": found,
        "stacks": {way: ways[way].stacks() for way in WAYS[:2]}, "speed": over("equal shapes"), "one_by_one": over("one by one"),
        "memory": {way: ways[way].bytes() / alone for way in WAYS[:2]},
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="32 configurations of one width and FCNet's grid, one round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", help="one space, by its name")
    parser.add_argument("--results", type=Path, help="folder for the result; the full form's default is benchmarks/results")
    options = parser.parse_args(arguments)
    n, rounds = (32, options.rounds or 1) if options.quick else (128, options.rounds or 3)
    names = ("one width", "FCNet's grid") if options.quick else None
    where, probed = common.environment(), common.probes()
    common.heading(where, probed)
    results = []
    for name, space, build in spaces():
        if (names is None or name in names) and options.only in (None, name):
            results.append(measured(name, space, build, n, rounds))
            print(f"{name}: done")
    rows = []
    for each in results:
        stacks = each["stacks"].values()
        shares = [sum(sizes) / max(1, len(sizes)) for sizes in stacks]
        rows.append([each["space"], *map(len, stacks), *shares, each["speed"], each["one_by_one"], each["memory"]["padded"]])
    columns = ["space", "stacks", "equal shapes", "members a stack", "equal shapes", "speed over equal shapes", "over one by one", "memory"]
    common.table(f"{n} configurations, medians of {rounds} rounds", columns, rows)
    goals = [
        common.Goal(f"{each['space']}: padded over equal shapes", each["speed"], ">=", GOALS.get(each["space"], 0.95)) for each in results
    ]  # fmt: skip
    common.show_goals(goals)
    result = {"environment": where, "probes": probed, "quick": options.quick, "rounds": rounds, "spaces": results}
    result["goals"] = common.goals_json(goals)
    common.save("spaces", options.results or (None if options.quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

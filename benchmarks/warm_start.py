"""What do earlier studies help, and what do they cost where they mislead? Evaluations to a target, with and without them.

A run is GPSearch with its defaults, one evaluation at a time, until it reaches the target: the median over seeds of the best value that
runs without a source have after AT evaluations. Those are runs of other seeds: of the runs that a target is taken from, half reach it
by AT, however far off it is, so compared with them any source would look worse than it is. The figure is the median over seeds of the
evaluations with the source over that without, with a 95 % interval from a paired bootstrap over seeds. A run that does not get there
counts as LONGEST. Of all sources that mislead together it is the geometric mean over tasks, sources and seeds.

A source is what a study of 50 random points found, another one for each seed:
  itself       the same function: the most that can be had
  reflected    the function with every coordinate turned round: as smooth, good and bad elsewhere
  negated      minus the function: it calls best what is worst
  shifted      the function moved by 0.15 of the cube, round its edges: mostly right, wrong where it matters
FCNet (with --tables): a network's regression error on one data set after the other, 62,208 configurations trained by their authors.
Digits: a network trained here on all digits, after studies of it on a quarter of them and with labels shuffled.

The claim, at most 10 % more evaluations by a misleading source, would be false if the interval's upper end were beyond it on any of the
sources that mislead (reflected, negated, labels shuffled).

    python benchmarks/warm_start.py [--quick] [--seeds 40] [--tasks branin,hartmann-6] [--tables FCNET_TABLES.npz] [--results DIR]
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import common
import numpy as np
import torch
from common import Goal
from suggest_tasks import Task, tasks

import torchtune_hp as hp
from torchtune_hp.seeds import derive
from torchtune_hp.trial import Report, Setting, Source

AT = 20
LONGEST = 60
KNOWN = 50
OTHERS = 1000       # the first seed of the runs that the target is taken from
RESAMPLES = 4000
MORE = 1.10
MISLEADING = ("reflected", "negated", "labels shuffled")

Value = Callable[[Mapping[str, Any]], float]


def run(space: hp.Space, value: Value, seed: int, most: int, source: Source | None = None, target: float = -math.inf) -> list[float]:
    """The values, one an evaluation, until one reaches the target."""
    searcher = hp.GPSearch()
    sources = () if source is None else (source,)
    searcher.begin(Setting(space.dims, space.feasible, max_t=1, seed=seed, levels=space.levels, sources=sources))
    none = torch.zeros(0, len(space), dtype=torch.float64)
    values: list[float] = []
    while len(values) < most and (not values or values[-1] > target):
        x = space.canonical(searcher.ask(1, pending=none, index=len(values), seed=derive(seed, "searcher")))
        values += [value(space.decode(x)[0])]
        searcher.tell([Report(len(values) - 1, 1, (values[-1],), 0, tuple(x[0].tolist()), done=True)])
    return values


def found(space: hp.Space, value: Value, seed: int) -> Source:
    """What KNOWN random points of an earlier task told."""
    x = space.canonical(torch.from_numpy(np.random.default_rng([1, seed]).random((KNOWN, len(space)))))
    values = tuple((value(config),) for config in space.decode(x))
    return Source("earlier", tuple(range(len(space))), tuple(map(tuple, x.tolist())), (1.0,) * KNOWN, values)


def others(space: hp.Space, value: Value) -> dict[str, Value]:
    """The earlier tasks made of a function."""

    def moved(change: Callable[[torch.Tensor], torch.Tensor]) -> Value:
        return lambda config: value(space.decode(change(space.encode([config])))[0])

    return {
        "itself": value, "reflected": moved(lambda x: 1 - x), "negated": lambda config: -value(config),
        "shifted": moved(lambda x: (x + 0.15) % 1),
    }  # fmt: skip


def digits() -> tuple[hp.Space, Value, dict[str, Value]]:
    """The logarithm of an MLP's validation loss on handwritten digits after 5 epochs; the earlier tasks."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    space = hp.Space({
        "lr": hp.loguniform(1e-4, 1.0), "width": hp.ordinal([8, 16, 32, 64]), "momentum": hp.uniform(0.0, 0.99),
        "decay": hp.loguniform(1e-6, 1e-1),
    })  # fmt: skip

    def error(config: Mapping[str, Any], train: int, shuffled: bool) -> float:
        generator = torch.Generator().manual_seed(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = torch.nn.Sequential(torch.nn.Linear(64, config["width"]), torch.nn.ReLU(), torch.nn.Linear(config["width"], 10))
        optimizer = torch.optim.SGD(model.parameters(), config["lr"], config["momentum"], weight_decay=config["decay"])
        told = y[torch.randperm(len(y), generator=generator)] if shuffled else y
        for _ in range(5):
            for batch in torch.randperm(train, generator=generator).split(64):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x[batch]), told[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            loss = float(torch.nn.functional.cross_entropy(model(x[1200:]), told[1200:]))
        return math.log(loss) if math.isfinite(loss) else 10.0

    def task(train: int, shuffled: bool = False) -> Value:
        kept: dict[tuple[Any, ...], float] = {}

        def value(config: Mapping[str, Any]) -> float:
            key = tuple(config.values())
            kept[key] = kept[key] if key in kept else error(config, train, shuffled)
            return kept[key]

        return value

    return space, task(1200), {"a quarter of the data": task(300), "labels shuffled": task(1200, shuffled=True)}


def compared(space: hp.Space, value: Value, earlier: Mapping[str, Value], seeds: int, at: int, longest: int) -> dict[str, Any]:
    """Evaluations to the target, seed by seed: without a source, and with each."""
    target = float(np.median([min(run(space, value, OTHERS + seed, at)) for seed in range(seeds)]))
    cold = [run(space, value, seed, longest, target=target) for seed in range(seeds)]

    def needed(values: list[float]) -> int:
        return next((k + 1 for k, reached in enumerate(values) if reached <= target), longest)

    counts = {"none": [needed(values) for values in cold]}
    for name, other in earlier.items():
        sources = [found(space, other, seed) for seed in range(seeds)]
        counts[name] = [needed(run(space, value, seed, longest, source, target)) for seed, source in enumerate(sources)]
    return {"target": target, "evaluations": counts}


def ratio(warm: list[int], cold: list[int]) -> tuple[float, float, float]:
    """Of medians over seeds, with its interval."""
    both = np.array([warm, cold], dtype=np.float64)
    picks = np.random.default_rng(0).integers(0, both.shape[1], (RESAMPLES, both.shape[1]))
    medians = np.median(both[:, picks], axis=2)
    low, high = np.quantile(medians[0] / medians[1], [0.025, 0.975])
    middle = np.median(both, axis=1)
    return float(middle[0] / middle[1]), float(low), float(high)


def together(runs: Mapping[str, Any]) -> tuple[float, float, float]:
    """Of all sources that mislead: evaluations over those without, geometric mean, and its interval (seeds resampled within tasks)."""
    counts = [runs[task]["evaluations"] for task in runs]
    gaps = [np.log([np.divide(of[source], of["none"]) for source in MISLEADING if source in of]) for of in counts]      # (sources, seeds)
    sums = [gap.sum(0) for gap in gaps if len(gap)]
    if not sums:
        return (math.nan,) * 3
    number, generator = sum(gap.size for gap in gaps), np.random.default_rng(0)
    drawn = sum(of[generator.integers(0, len(of), (RESAMPLES, len(of)))].sum(1) for of in sums) / number
    low, high = np.quantile(drawn, [0.025, 0.975])
    return math.exp(sum(of.sum() for of in sums) / number), math.exp(low), math.exp(high)


def problems(names: list[str], tables: str | None) -> dict[str, Callable[[], tuple[hp.Space, Value, dict[str, Value]]]]:
    """By name, what is searched and what came before; made when it is its turn."""
    known = tasks(tables)

    def of(task: Task) -> tuple[hp.Space, Value, dict[str, Value]]:
        space = hp.Space(task.space)
        return space, task.value, others(space, task.value)

    def fcnet(task: Task, other: Task) -> tuple[hp.Space, Value, dict[str, Value]]:
        earlier: dict[str, Value] = {other.name.removeprefix("fcnet "): other.value, "negated": lambda config: -task.value(config)}
        return hp.Space(task.space), task.value, earlier

    made: dict[str, Callable[[], tuple[hp.Space, Value, dict[str, Value]]]] = {}
    for name in names:
        made[name] = digits if name == "digits" else functools.partial(of, known[name])
    if tables:
        pair = known["fcnet protein_structure"], known["fcnet parkinsons_telemonitoring"]
        made[pair[0].name], made[pair[1].name] = functools.partial(fcnet, *pair), functools.partial(fcnet, *pair[::-1])
    return made


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="branin, 2 seeds, 15 evaluations at most")
    parser.add_argument("--seeds", type=int, default=0, help="default: 40, or 2 with --quick")
    parser.add_argument("--tasks", default="", help="names of suggest_tasks.py, and digits, separated by commas")
    parser.add_argument("--tables", help="fcnet_tables.npz: its two tasks as well, each after the other")
    parser.add_argument("--results", help="folder of the JSON (full form: benchmarks/results)")
    options = parser.parse_args(arguments)
    quick = options.quick
    seeds, at, longest = options.seeds or (2 if quick else 40), 10 if quick else AT, 15 if quick else LONGEST
    names = options.tasks.split(",") if options.tasks else ["branin"] if quick else ["branin", "hartmann-3", "hartmann-6", "digits"]
    where, probed = common.environment(), common.probes()
    common.heading(where, probed)
    rows: list[dict[str, Any]] = []
    runs: dict[str, Any] = {}
    for name, make in problems(names, options.tables).items():
        runs[name] = compared(*make(), seeds, at, longest)
        counts = runs[name]["evaluations"]
        rows += [
            {"task": name, "source": source, "ratio": middle, "low": low, "high": high}
            for source in counts if source != "none" for middle, low, high in [ratio(counts[source], counts["none"])]
        ]  # fmt: skip
        common.table(
            f"{name}: evaluations to what is reached without a source after {at}, {seeds} seeds",
            ["source", "median", "over none", "95 % from", "to"],
            [["none", float(np.median(counts["none"])), None, None, None]]
            + [[r["source"], float(np.median(counts[r["source"]])), r["ratio"], r["low"], r["high"]] for r in rows if r["task"] == name],
        )  # fmt: skip
    measured = seeds >= 20 and not quick
    goals = [
        Goal(f"{r['task']}, {r['source']}: evaluations over none, {what}", r[key] if measured else math.nan, "<=", MORE)
        for r in rows if r["source"] in MISLEADING for what, key in (("median", "ratio"), ("upper 95 %", "high"))
    ]  # fmt: skip
    middle, low, high = together(runs)
    common.table("all that mislead together", ["over none", "95 % from", "to"], [[middle, low, high]])
    goals += [
        Goal(f"all that mislead: evaluations over none, {what}", figure if measured else math.nan, "<=", MORE)
        for what, figure in (("geometric mean", middle), ("upper 95 %", high))
    ]  # fmt: skip
    common.show_goals(goals)
    result = {
        "environment": where, "probes": probed, "quick": quick, "seeds": seeds, "at": at, "runs": runs, "compared": rows,
        "together": {"ratio": middle, "low": low, "high": high}, "goals": common.goals_json(goals),
    }  # fmt: skip
    common.save("warm_start", options.results or (None if quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

"""How good are the suggestions? Regret after as many evaluations, ours against BoTorch's and Optuna's.

The tasks are those of suggest_tasks.py. A run is 100 evaluations; its regret after n is the least value among its first n points,
noise left out, above the least there is, at least 1e-6. Compared are means over seeds of log10 regret, after 50 and 100.

(a) Sequential. Ours is GPSearch with its defaults, one point at a time. Peers ran once, in peers/suggest_quality.py, with their own
    defaults, and are kept in peers/suggest_quality_*.json with their versions: BoTorch's SingleTaskGP + log EI, Optuna's GPSampler
    and TPESampler. For each peer and number of evaluations: the mean over tasks and seeds of ours - theirs, with a 95 % interval from
    a paired bootstrap (seeds resampled within tasks). "At or below": its upper end is at most 0.05.
(b) Batches of 8 and 64, told together. A batched run needs as many evaluations as it takes to reach the regret (mean over seeds of
    its logarithm) that the sequential one has after 50; the figure is the mean over tasks of more evaluations, in percent. What a
    run of 200 does not reach counts as 200.

The claims would be false if ours knew of a task's least value, or if a peer were asked for less than its own default does.

    python benchmarks/suggest_quality.py [--quick] [--seeds 10] [--tasks branin,levy-6] [--tables FCNET_TABLES.npz] [--results DIR]
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import common
import numpy as np
import torch
from common import Goal
from suggest_tasks import Task, tasks

import torchtune_hp as hp
from torchtune_hp.seeds import derive
from torchtune_hp.trial import Report, Setting

EVALUATIONS = 100
AT = (50, 100)
BATCHES = {8: 15.0, 64: 40.0}
"""Points told together -> how many percent more evaluations they may need."""
LONGEST = 200
LEAST_REGRET = 1e-6
RESAMPLES = 4000
SLACK = 0.05


def ours(task: Task, seed: int, evaluations: int, q: int = 1) -> list[float]:
    """Values without noise, one an evaluation."""
    space, searcher = hp.Space(task.space), hp.GPSearch()
    searcher.begin(Setting(space.dims, space.feasible, max_t=1, capacity=q, seed=seed, levels=space.levels))
    none = torch.zeros(0, len(space), dtype=torch.float64)
    values: list[float] = []
    while len(values) < evaluations:
        index = len(values)
        asked = searcher.ask(min(q, evaluations - index), pending=none, index=index, seed=derive(seed, "searcher"))
        x = space.canonical(asked)
        values += [task.value(config) for config in space.decode(x)]
        searcher.tell([
            Report(index + k, 1, (task.observed(value, seed, index + k),), 0, tuple(point), done=True)
            for k, (value, point) in enumerate(zip(values[index:], x.tolist()))
        ])  # fmt: skip
    return values


def log_regret(task: Task, values: list[list[float]]) -> np.ndarray:
    """(seeds, evaluations): of runs of equal length."""
    best = np.minimum.accumulate(np.array(values), axis=1)
    return np.asarray(np.log10(np.maximum(best - task.least, LEAST_REGRET)))


def peers() -> dict[str, dict[str, Any]]:
    """What peers/suggest_quality.py kept: {"name", "versions", "values": {task: seeds x evaluations}}."""
    found = [json.loads(path.read_text()) for path in sorted((common.HERE / "peers").glob("suggest_quality_*.json"))]
    return {peer["name"]: peer for peer in found}


def difference(regrets: list[np.ndarray], theirs: list[np.ndarray], n: int) -> dict[str, Any]:
    """ours - theirs after n evaluations: means over tasks of (seeds, evaluations) each, and the interval."""
    seeds = min(len(part) for part in [*regrets, *theirs])
    gaps = np.stack([mine[:seeds, n - 1] - other[:seeds, n - 1] for mine, other in zip(regrets, theirs)])
    picks = np.random.default_rng(0).integers(0, seeds, (RESAMPLES, len(gaps), seeds))
    means = np.take_along_axis(gaps[None], picks, 2).mean((1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return {"n": n, "tasks": len(gaps), "seeds": seeds, "difference": float(gaps.mean()), "low": float(low), "high": float(high)}


def compared(all_tasks: dict[str, Task], runs: dict[str, list[list[float]]], at: tuple[int, ...]) -> list[dict[str, Any]]:
    """One row for each peer and number of evaluations, over the tasks that the peer ran as long."""
    rows = []
    for name, peer in peers().items():
        for n in at:
            both = [task for task in runs if min((len(run) for run in peer["values"].get(task, [])), default=0) >= n]
            both = [task for task in both if len(runs[task][0]) >= n]
            if both:
                mine = [log_regret(all_tasks[task], runs[task]) for task in both]
                theirs = [log_regret(all_tasks[task], [run[:n] for run in peer["values"][task]]) for task in both]
                rows.append({"peer": name} | difference(mine, theirs, n))
    return rows


def more_evaluations(task: Task, sequential: list[list[float]], batched: list[list[float]], n: int) -> float:
    """Percent more that batches need to be where one at a time is after n."""
    target = log_regret(task, sequential)[:, n - 1].mean()
    reached = np.flatnonzero(log_regret(task, batched).mean(0) <= target)
    return 100 * ((int(reached[0]) + 1 if len(reached) else len(batched[0])) / n - 1)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="branin and hartmann-3, 2 seeds, 20 evaluations, batches of 8")
    parser.add_argument("--seeds", type=int, default=0, help="default: 10, or 2 with --quick")
    parser.add_argument("--evaluations", type=int, default=0, help="default: 100, or 20 with --quick")
    parser.add_argument("--tasks", default="", help="names, separated by commas")
    parser.add_argument("--tables", help="fcnet_tables.npz: its two tasks as well")
    parser.add_argument("--results", help="folder of the JSON (full form: benchmarks/results)")
    options = parser.parse_args(arguments)
    quick = options.quick
    seeds, evaluations = options.seeds or (2 if quick else 10), options.evaluations or (20 if quick else EVALUATIONS)
    at = tuple(n for n in AT if n <= evaluations) or (evaluations,)
    found = tasks(options.tables)
    names = options.tasks.split(",") if options.tasks else ["branin", "hartmann-3"] if quick else list(found)
    where, probed = common.environment(), common.probes()
    common.heading(where, probed)

    runs = {name: [ours(found[name], seed, evaluations) for seed in range(seeds)] for name in names}
    rows = compared(found, runs, at)
    sizes, longest = ((8,), evaluations) if quick else (tuple(BATCHES), LONGEST)
    batched = {q: {name: [ours(found[name], seed, longest, q) for seed in range(seeds)] for name in names} for q in sizes}
    more = {q: {name: more_evaluations(found[name], runs[name], batched[q][name], at[0]) for name in names} for q in sizes}

    common.table(
        f"mean log10 regret over {seeds} seeds", ["task", *[f"ours, n = {n}" for n in at]],
        [[name, *[float(log_regret(found[name], runs[name])[:, n - 1].mean()) for n in at]] for name in names],
    )  # fmt: skip
    common.table(
        "log10 regret, ours - theirs: negative is better",
        ["peer", "evaluations", "tasks", "seeds", "difference", "95 % from", "to"],
        [[row["peer"], row["n"], row["tasks"], row["seeds"], row["difference"], row["low"], row["high"]] for row in rows],
    )
    common.table(
        f"more evaluations than one at a time, to where that is after {at[0]}, in percent", ["batches of", *names],
        [[str(q), *more[q].values()] for q in sizes],
    )  # fmt: skip
    goals = [
        Goal(f"{row['peer']}, n = {row['n']}: upper end of ours - theirs", row["high"] if _whole(row, names) else math.nan, "<=", SLACK)
        for row in rows
    ]
    goals += [
        Goal(f"batches of {q}: more evaluations", math.nan if quick else float(np.mean(list(more[q].values()))), "<=", bound, " %")
        for q, bound in BATCHES.items() if q in sizes
    ]  # fmt: skip
    common.show_goals(goals)
    result = {
        "environment": where, "probes": probed, "quick": quick, "seeds": seeds, "evaluations": evaluations, "values": runs,
        "compared": rows, "more_percent": more, "goals": common.goals_json(goals),
    }  # fmt: skip
    common.save("suggest_quality", options.results or (None if quick else common.HERE / "results"), result)
    return result


def _whole(row: dict[str, Any], names: list[str]) -> bool:
    """A goal is measured by 10 seeds, at 50 or 100 evaluations, on every task that ours ran."""
    return row["n"] in AT and row["seeds"] >= 10 and row["tasks"] == len(names)


if __name__ == "__main__":
    main()

"""How much of the front do suggestions find? Hypervolume after as many evaluations, ours against Optuna's GP and NSGA-II.

The tasks are those of suggest_objectives_tasks.py: ZDT1-3, DTLZ2 with two and three objectives, and error against size of networks on
digits. A run is 100 evaluations, one at a time; its hypervolume after n is that of its first n points, as a share of the true front's,
up to a reference point that nobody is told of. Ours is GPSearch with its defaults. Peers ran once, in peers/suggest_objectives.py,
with theirs, and are kept in peers/suggest_objectives_*.json with their versions.

For each peer and number of evaluations: the mean over tasks and seeds of ours - theirs, with a 95 % interval from a paired bootstrap
(seeds resampled within tasks); and the same for each task. "At least as much": the lower end is at least -0.01.

The claim would be false if ours knew of a task's reference point or front, or if a peer were asked for less than its own default does.

    python benchmarks/suggest_objectives.py [--quick] [--seeds 10] [--tasks zdt1,digits] [--results DIR]
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
from suggest_objectives_tasks import Task, tasks

import torchtune_hp as hp
from torchtune_hp.pareto import Values, hypervolume
from torchtune_hp.seeds import derive
from torchtune_hp.trial import Report, Setting

EVALUATIONS = 100
AT = (25, 50, 100)
RESAMPLES = 4000
SLACK = 0.01


def ours(task: Task, seed: int, evaluations: int) -> list[Values]:
    """The values of each evaluation."""
    space, searcher = hp.Space(task.space), hp.GPSearch()
    searcher.begin(Setting(space.dims, space.feasible, len(task.reference), max_t=1, seed=seed, levels=space.levels))
    none = torch.zeros(0, len(space), dtype=torch.float64)
    found: list[Values] = []
    for index in range(evaluations):
        x = space.canonical(searcher.ask(1, pending=none, index=index, seed=derive(seed, "searcher")))
        found.append(task.values(space.decode(x)[0]))
        searcher.tell([Report(index, 1, found[-1], 0, tuple(x[0].tolist()), done=True)])
    return found


def shares(task: Task, runs: list[list[Values]], n: int) -> np.ndarray:
    """(seeds,): of the true front's hypervolume, after n evaluations; NaN of a run that is shorter."""
    return np.array([hypervolume(map(tuple, run[:n]), task.reference) / task.volume if len(run) >= n else math.nan for run in runs])


def peers() -> dict[str, dict[str, Any]]:
    """What peers/suggest_objectives.py kept: {"name", "versions", "values": {task: seeds x evaluations x objectives}}."""
    found = [json.loads(path.read_text()) for path in sorted((common.HERE / "peers").glob("suggest_objectives_*.json"))]
    return {peer["name"]: peer for peer in found}


def difference(mine: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, Any]:
    """Means over tasks of (seeds,) each, and of ours - theirs with its interval; of the seeds that both ran."""
    pairs = [np.stack([a[: len(b)], b[: len(a)]]) for a, b in zip(mine, theirs)]
    pairs = [pair[:, ~np.isnan(pair).any(0)] for pair in pairs]
    gaps = [pair[0] - pair[1] for pair in pairs]
    random = np.random.default_rng(0)
    means = np.mean([gap[random.integers(0, len(gap), (RESAMPLES, len(gap)))].mean(1) for gap in gaps], axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    a, b = np.mean([pair.mean(1) for pair in pairs], axis=0).tolist()
    return {"seeds": min(map(len, gaps)), "ours": a, "theirs": b, "difference": a - b, "low": float(low), "high": float(high)}


def compared(all_tasks: dict[str, Task], runs: dict[str, list[list[Values]]], at: tuple[int, ...]) -> list[dict[str, Any]]:
    """For each peer and number of evaluations a row for all the tasks that both ran as long, and one for each of them."""
    rows = []
    for name, peer in peers().items():
        for n in at:
            mine = {task: shares(all_tasks[task], runs[task], n) for task in runs}
            theirs = {task: shares(all_tasks[task], peer["values"].get(task, []), n) for task in runs}
            both = [task for task in runs if any(len(one) >= n for one in peer["values"].get(task, [])) and len(runs[task][0]) >= n]
            for group in ([both] if len(both) > 1 else []) + [[task] for task in both]:
                found = difference([mine[task] for task in group], [theirs[task] for task in group])
                rows.append({"peer": name, "n": n, "tasks": group} | found)
    return rows


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="zdt1 and digits, 2 seeds, 25 evaluations")
    parser.add_argument("--seeds", type=int, default=0, help="default: 10, or 2 with --quick")
    parser.add_argument("--evaluations", type=int, default=0, help="default: 100, or 25 with --quick")
    parser.add_argument("--tasks", default="", help="names, separated by commas")
    parser.add_argument("--results", help="folder of the JSON (full form: benchmarks/results)")
    options = parser.parse_args(arguments)
    quick = options.quick
    seeds, evaluations = options.seeds or (2 if quick else 10), options.evaluations or (25 if quick else EVALUATIONS)
    at = tuple(n for n in AT if n <= evaluations) or (evaluations,)
    found = tasks()
    names = options.tasks.split(",") if options.tasks else ["zdt1", "digits"] if quick else list(found)
    where, probed = common.environment(), common.probes()
    common.heading(where, probed)

    runs = {name: [ours(found[name], seed, evaluations) for seed in range(seeds)] for name in names}
    rows = compared(found, runs, at)
    common.table(
        f"hypervolume as a share of the front's, ours, mean of {seeds} seeds", ["task", *[f"n = {n}" for n in at]],
        [[name, *[float(shares(found[name], runs[name], n).mean()) for n in at]] for name in names],
    )  # fmt: skip
    common.table(
        "ours - theirs: positive is better",
        ["peer", "evaluations", "task", "seeds", "ours", "theirs", "difference", "95 % from", "to"],
        [
            [row["peer"], row["n"], "all" if len(row["tasks"]) > 1 else row["tasks"][0]]
            + [row[key] for key in ("seeds", "ours", "theirs", "difference", "low", "high")]
            for row in rows
        ],
    )
    goals = [
        Goal(
            f"{row['peer']}, n = {row['n']}, {len(row['tasks'])} tasks: lower end of ours - theirs",
            row["low"] if not quick and row["seeds"] >= 10 else math.nan, ">=", -SLACK,
        )
        for row in rows if len(row["tasks"]) > 1
    ]  # fmt: skip
    common.show_goals(goals)
    result = {
        "environment": where, "probes": probed, "quick": quick, "seeds": seeds, "evaluations": evaluations, "values": runs,
        "compared": rows, "goals": common.goals_json(goals),
    }  # fmt: skip
    common.save("suggest_objectives", options.results or (None if quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

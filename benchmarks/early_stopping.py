"""Early stopping on real learning curves: how many epochs it saves, how it compares, and what diverged trials cost.

The curves are TaskSet's (Metz et al. 2020, as published with DyHPO, Apache-2.0): 6 text-classification tasks x 1,000 optimizer
configurations x 51 evaluations of the validation loss. Evaluation 0 is before training, so step t is evaluation t and max_t
is 50. Curves that diverge stay as they are. The space is the 1,000 rows (`Space.from_rows`), each tried at most once; an
epoch is one step of one trial, and a trial that goes on pays only for what is new.

(a) Epochs to equal quality. For a task and a seed, random search makes 64 full runs; the target is the best final value among
    them. A method has reached it when one of its trials stands at max_t with that value or a lower one. Its epochs are all
    it spent until then, on running trials too. The method sees the same configurations in the same order (same seed, same
    searcher), and goes on beyond the 64 as far as it needs, up to the whole table; if it never gets there, the ratio is 0.
    Two ratios: against what the 64 full runs cost ("quality of 64 full runs"), and against what random search itself had
    spent when it first reached that best ("own first hit", half as much on average, as it may come early). Random search is
    ours, FullRuns at one slot: a diverged trial ends at its first NaN there as well, so that is no gain counted here.
    Per task: the median over seeds. Goals, for the first ratio: >= 4 in the median over tasks, >= 2 on each.

(b) Regret at equal epochs: 10, 20 and 50 full runs' worth, everything at one slot. Every method recommends the configuration
    with the lowest loss reported so far, of whatever step. Its regret is that row's final loss, as (loss - best) / (median -
    best) of the task's finite final losses, cut at 1 (a NaN is 1), and its rank among all rows (0 the best). Peers' runs
    were made by peers/early_stopping.py with their own packages and settings and are kept in peers/*.json.
    Ours search at random, and Hyperband by GPSearch as well: with the paper's brackets it tries few configurations, so which ones
    they are counts more. Ours against the best peer at each budget: the difference of mean regrets, with a 95 % interval from a
    paired bootstrap (seeds resampled within tasks). "Not worse": the interval's lower end is at most 0.

(c) 20 % diverged: 200 rows that turn NaN among 1,000 (the rest finite, same task), ASHA over all of them, a look at each step.
    Each diverged trial has to end at its first NaN; what it spent beyond that is printed, for Ray's ASHA too.

The claims would be false if ours saw a curve before paying for it, if a target were counted before max_t, or if a peer were
run below its own settings: see peers/early_stopping.py for what was done for them.

    python benchmarks/early_stopping.py [TASKSET_CURVES.npz] [--quick] [--seeds 20] [--results DIR]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Goal, Look, looks

import torchtune_hp as hp

MAX_T = 50
ETA = 4
FULL = 64
BUDGETS = (10 * MAX_T, 20 * MAX_T, 50 * MAX_T)
RESAMPLES = 4000
PEERS = common.HERE / "peers"

METHODS: dict[str, tuple[Callable[[], Any], int]] = {
    "ASHA, 1 slot": (lambda: hp.ASHA(max_t=MAX_T, reduction_factor=ETA), 1),
    "ASHA, 8 slots": (lambda: hp.ASHA(max_t=MAX_T, reduction_factor=ETA), 8),
    "Hyperband": (lambda: hp.Hyperband(max_t=MAX_T, reduction_factor=ETA), 1),
    "SuccessiveHalving": (lambda: hp.SuccessiveHalving(max_t=MAX_T, reduction_factor=ETA), 1),
}
WITH_GP = "Hyperband + GPSearch"
GP_SEEDS = 10       # a study of GPSearch takes seconds, not hundredths


class Task:
    """One table of curves (rows, 51), searched by row. `final` (rows,): the loss at max_t."""

    def __init__(self, name: str, names: list[str], configs: np.ndarray, losses: np.ndarray) -> None:
        self.name = name
        self.rows = [dict(zip(names, map(float, config))) for config in configs]
        self.losses = losses.astype(float).tolist()
        self.final = losses[:, MAX_T].astype(float)
        self.space = hp.Space.from_rows(self.rows)
        self._row = {tuple(row.values()): i for i, row in enumerate(self.rows)}
        finite = np.sort(self.final[np.isfinite(self.final)])
        ends = np.where(np.isfinite(self.final), self.final, math.inf)
        self.regret = np.minimum(1.0, (ends - finite[0]) / (np.median(finite) - finite[0]))
        self.rank = np.searchsorted(finite, ends) / len(ends)

    def row(self, config: Any) -> int:
        return self._row[tuple(config.values())]

    def curve(self, config: Any, step: int) -> dict[str, float]:
        return {"loss": self.losses[self.row(config)][step]}

    def looks(self, scheduler: Any, *, workers: int, seed: int, look_every: Any = 1, searcher: Any = None) -> Iterator[Look]:
        return looks(self.space, scheduler, self.curve, workers=workers, seed=seed, look_every=look_every, searcher=searcher)


def tasks_of(path: str) -> list[Task]:
    with np.load(path) as data:
        names = [str(name) for name in data["hyperparameters"]]
        return [Task(str(task), names, data[f"{task}/configs"], data[f"{task}/valid_loss"]) for task in data["tasks"]]


# (a) Epochs to equal quality ---------------------------------------------------------------------------------------------------


def full_runs(task: Task, seed: int, n: int = FULL) -> tuple[float, int, int]:
    """(target, epochs until random search reached it, epochs of all n full runs)."""
    target, first, spent, ended = math.inf, 0, 0, 0
    for look in task.looks(hp.FullRuns(MAX_T), workers=1, seed=seed):
        spent = look.epochs
        if look.step == MAX_T and look.value < target:
            target, first = look.value, look.epochs
        ended += look.step == MAX_T or not math.isfinite(look.value)
        if ended == n:
            break
    return target, first, spent


def until(task: Task, scheduler: Any, workers: int, seed: int, target: float) -> float:
    """Epochs until a trial at max_t reached the target; inf if none did."""
    for look in task.looks(scheduler, workers=workers, seed=seed):
        if look.step == MAX_T and look.value <= target:
            return look.epochs
    return math.inf


def equal_quality(tasks: list[Task], seeds: int) -> dict[str, Any]:
    found: dict[str, Any] = {name: {"runs": {}, "vs_64": {}, "vs_first": {}} for name in METHODS}
    for task in tasks:
        baselines = [full_runs(task, seed) for seed in range(seeds)]
        for name, (scheduler, workers) in METHODS.items():
            spent = [until(task, scheduler(), workers, seed, baselines[seed][0]) for seed in range(seeds)]
            found[name]["runs"][task.name] = [[*baselines[seed][1:], spent[seed]] for seed in range(seeds)]
            found[name]["vs_64"][task.name] = float(np.median([full / own for (_, _, full), own in zip(baselines, spent)]))
            found[name]["vs_first"][task.name] = float(np.median([first / own for (_, first, _), own in zip(baselines, spent)]))
    for kind, title in (("vs_64", "the quality of 64 full runs"), ("vs_first", "random search's own first hit")):
        common.table(
            f"(a) epochs of random search / epochs of ours, to {title}; median over {seeds} seeds",
            ["task", *METHODS],
            [[task.name, *(found[name][kind][task.name] for name in METHODS)] for task in tasks]
            + [["median over tasks", *(float(np.median(list(found[name][kind].values()))) for name in METHODS)]],
        )
    never = {name: sum(math.isinf(run[2]) for runs in found[name]["runs"].values() for run in runs) for name in METHODS}
    print("  never reached: " + ", ".join(f"{name} {n} of {len(tasks) * seeds}" for name, n in never.items()))
    return found


# (b) Regret at equal epochs ----------------------------------------------------------------------------------------------------


def recommended(task: Task, seen: Iterator[Look], budgets: Sequence[int] = BUDGETS) -> list[int]:
    """The row with the lowest loss reported within each budget."""
    best, row, rows = math.inf, -1, []
    for look in seen:
        while len(rows) < len(budgets) and look.epochs > budgets[len(rows)]:
            rows.append(row)
        if len(rows) == len(budgets):
            break
        if look.value < best or row < 0:
            best, row = (look.value if math.isfinite(look.value) else math.inf), task.row(look.config)
    return rows + [row] * (len(budgets) - len(rows))


def equal_epochs(tasks: list[Task], seeds: int) -> dict[str, Any]:
    ours = {"random search": (lambda: hp.FullRuns(MAX_T), 1)} | METHODS
    rows: dict[str, dict[str, list[list[int]]]] = {}
    for name, (scheduler, workers) in ours.items():
        rows[name] = {
            task.name: [recommended(task, task.looks(scheduler(), workers=workers, seed=seed)) for seed in range(seeds)] for task in tasks
        }
    scheduler, workers = METHODS["Hyperband"]
    rows[WITH_GP] = {
        task.name: [
            recommended(task, task.looks(scheduler(), workers=workers, seed=seed, searcher=hp.GPSearch()))
            for seed in range(min(seeds, GP_SEEDS))
        ]
        for task in tasks
    }
    peers = peer_rows(tasks, seeds)
    regrets = {name: _regrets(tasks, by_task, "regret") for name, by_task in (rows | peers).items()}
    ranks = {name: _regrets(tasks, by_task, "rank") for name, by_task in (rows | peers).items()}
    for title, found in (("normalized regret", regrets), ("rank, 0 is best", ranks)):
        common.table(
            f"(b) mean {title} at 10, 20, 50 full runs' worth of epochs",
            ["method", *(f"{budget // MAX_T} runs" for budget in BUDGETS), "seeds"],
            [[name, *found[name].mean((0, 1)), found[name].shape[1]] for name in found],
        )
    compared = [_compare(name, k, regrets, peers) for name in [*METHODS, WITH_GP] for k in range(len(BUDGETS)) if peers]
    if compared:
        common.table(
            "(b) ours - best peer, mean normalized regret, 95 % interval",
            ["ours", "runs", "difference", "from", "to", "best peer", "verdict"],
            [[*(c[key] for key in ("ours", "full_runs", "difference", "low", "high", "peer")), _verdict(c["low"])] for c in compared],
        )
    else:
        print("  no peers' runs: python benchmarks/peers/early_stopping.py makes them")
    return {"rows": rows, "mean_regret": {n: r.mean((0, 1)).tolist() for n, r in regrets.items()},
            "mean_rank": {n: r.mean((0, 1)).tolist() for n, r in ranks.items()}, "compared": compared}  # fmt: skip


def peer_rows(tasks: list[Task], seeds: int) -> dict[str, dict[str, list[list[int]]]]:
    """Recommended rows of each peer that has a run for every task, at most `seeds` of each."""
    found = {}
    for path in sorted(PEERS.glob("*.json")):
        peer = json.loads(path.read_text())
        if peer.get("budgets") == list(BUDGETS) and all(task.name in peer["rows"] for task in tasks):
            found[peer["name"]] = {task.name: peer["rows"][task.name][:seeds] for task in tasks}
    return found


def _regrets(tasks: list[Task], rows: dict[str, list[list[int]]], kind: str) -> np.ndarray:
    """(tasks, seeds, budgets), with as many seeds as every task has."""
    seeds = min(len(rows[task.name]) for task in tasks)
    return np.stack([getattr(task, kind)[np.array(rows[task.name][:seeds])] for task in tasks])


def _compare(name: str, k: int, regrets: dict[str, np.ndarray], peers: Any) -> dict[str, Any]:
    peer = min(peers, key=lambda other: regrets[other][:, :, k].mean())
    n = min(regrets[name].shape[1], regrets[peer].shape[1])
    difference = regrets[name][:, :n, k] - regrets[peer][:, :n, k]
    picks = np.random.default_rng(0).integers(0, n, (RESAMPLES, len(difference), n))
    means = np.take_along_axis(difference[None], picks, 2).mean((1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return {"ours": name, "full_runs": BUDGETS[k] // MAX_T, "peer": peer, "seeds": n,
            "difference": float(difference.mean()), "low": float(low), "high": float(high)}  # fmt: skip


def _verdict(low: float) -> str:
    return "not worse" if low <= 0 else "WORSE"


# (c) Diverged trials -----------------------------------------------------------------------------------------------------------


def spoiled(task: Task, seed: int, share: float = 0.2) -> Task | None:
    """As large a part of the task as has this share of diverged rows; None if there are fewer than 10 such rows."""
    rng = np.random.default_rng(seed)
    losses = np.array(task.losses)
    bad, good = np.flatnonzero(~np.isfinite(losses[:, 1:]).all(1)), np.flatnonzero(np.isfinite(losses[:, 1:]).all(1))
    n = min(len(bad), int(len(good) * share / (1 - share)))
    if n < 10:
        return None
    chosen = np.concatenate([rng.choice(bad, n, False), rng.choice(good, round(n * (1 - share) / share), False)])
    names = list(task.rows[0])
    return Task(task.name, names, np.array([list(task.rows[i].values()) for i in chosen]), losses[chosen])


def diverged(tasks: list[Task], seeds: int) -> dict[str, Any]:
    rays = PEERS / "ray_asha_diverged.json"
    ray = json.loads(rays.read_text())["beyond_first_nan"] if rays.exists() else {}
    rows, found = [], {}
    for task in tasks:
        some = spoiled(task, 0)
        if some is None:
            continue
        beyond, on_bad, spent, late, trials = 0, 0, 0, 0, 0
        first = [next((t for t in range(1, MAX_T + 1) if not math.isfinite(row[t])), math.inf) for row in some.losses]
        for seed in range(seeds):
            stands: dict[int, tuple[int, int]] = {}
            for look in some.looks(hp.ASHA(max_t=MAX_T, reduction_factor=ETA), workers=1, seed=seed):
                stands[look.trial] = (some.row(look.config), look.step)
            spent += sum(step for _, step in stands.values())
            on_bad += sum(step for row, step in stands.values() if first[row] < math.inf)
            over = [max(0.0, step - first[row]) for row, step in stands.values()]
            beyond, late, trials = beyond + int(sum(over)), late + sum(o > 0 for o in over), trials + len(stands)
        found[task.name] = {"rows": len(some.rows), "epochs": spent, "on_diverged": on_bad, "beyond_first_nan": beyond, "ended_late": late}
        rows.append([task.name, len(some.rows), on_bad / spent, beyond / spent, late, ray.get(task.name, math.nan)])
    common.table(
        "(c) 20 % of the trials diverge: share of all epochs",
        ["task", "trials", "on diverged trials", "after their first NaN", "ended late", "Ray's ASHA: after first NaN"],
        rows,
    )
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any] | None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", nargs="?", help="taskset_curves.npz; without it there is nothing to measure")
    parser.add_argument("--quick", action="store_true", help="2 seeds; writes nothing without --results")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--tasks", type=int, help="only the first so many tasks")
    parser.add_argument("--results", help="folder for the result; the full form's default is benchmarks/results")
    options = parser.parse_args(arguments)
    if options.curves is None or not Path(options.curves).exists():
        print("early_stopping: skipped. Pass the path of taskset_curves.npz (benchmarks/README.md says what is in it).")
        return None
    seeds = options.seeds or (2 if options.quick else 20)
    where, probed = common.environment("optuna", "syne-tune", "smac", "ray"), common.probes()
    common.heading(where, probed)
    tasks = list(islice(tasks_of(options.curves), options.tasks))
    a, b, c = equal_quality(tasks, seeds), equal_epochs(tasks, seeds), diverged(tasks, seeds)
    goals = []
    for name in METHODS:
        ratios = list(a[name]["vs_64"].values())
        goals.append(Goal(f"(a) {name}: epochs saved, median over tasks", float(np.median(ratios)), ">=", 4.0, "x"))
        goals.append(Goal(f"(a) {name}: epochs saved, the worst task", min(ratios), ">=", 2.0, "x"))
    goals += [Goal(f"(b) {x['ours']} - {x['peer']}, {x['full_runs']} runs: lower end", x["low"], "<=", 0.0) for x in b["compared"]]
    goals.append(Goal("(c) diverged trials that ended late", sum(task["ended_late"] for task in c.values()), "<=", 0))
    common.show_goals(goals)
    result = {"environment": where, "probes": probed, "quick": options.quick, "seeds": seeds, "max_t": MAX_T, "eta": ETA}
    result |= {"equal_quality": a, "equal_epochs": b, "diverged": c, "goals": common.goals_json(goals)}
    common.save("early_stopping", options.results or (None if options.quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

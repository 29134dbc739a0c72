"""Does our fit of a Gaussian process find hyperparameters as good as BoTorch's own?

200 random problems: n from 5 to 500 points, d from 1 to 20, functions of four kinds (a draw of a Gaussian process, waves, a bowl
with a rough floor, a step), with noise or without, one in four with dimensions that do not matter. Model and prior are BoTorch's
SingleTaskGP: RBF (every other problem: Matern-5/2) with dimension-scaled priors, unit outputscale, free constant mean, learned noise.

BoTorch's side was run once, by `fit_gpytorch_mll` with its defaults (peers/suggest_fit.py), and is kept with its versions, its
hyperparameters and its log posterior. Here our fit runs on the same problems. The figure is the share of problems on which ours
is at least BoTorch's - 0.01, in natural-log units of the log posterior of all n points together. Our log posterior *at BoTorch's
hyperparameters* is also compared with what BoTorch says there: if they differ, the comparison is void, and the claim is false. (They
differ by up to 1e-5: BoTorch keeps loc and scale of its priors in float32.)

    python benchmarks/suggest_fit.py [--quick] [--restarts 4] [--results DIR]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import common
import numpy as np
import torch
from torch import Tensor

from torchtune_hp.gp.fit import fit
from torchtune_hp.gp.kernel import Kernel
from torchtune_hp.gp.priors import default, log_prior
from torchtune_hp.gp.regression import log_marginal

PROBLEMS = 200
SLACK = 1e-2


class Problem(NamedTuple):
    """x (n, d) and y (n,) standardised, float64. `shape`: of the kernel."""

    number: int
    shape: str
    x: Tensor
    y: Tensor


def problems(count: int = PROBLEMS) -> Iterator[Problem]:
    """The same for everyone: problem i depends on i alone."""
    for number in range(count):
        rng = np.random.default_rng([2024, number])
        n = round(5 * 100 ** rng.random())
        d = int(rng.integers(1, 21))
        x = rng.random((n, d))
        seen = x[:, : max(1, d // 3)] if number % 4 == 3 else x
        y = FUNCTIONS[number % len(FUNCTIONS)](seen, rng)
        y = y + rng.choice([0.0, 0.01, 0.1, 0.5]) * y.std() * rng.standard_normal(n)
        y = (y - y.mean()) / y.std(ddof=1)
        yield Problem(number, ("rbf", "matern52")[number // 4 % 2], torch.from_numpy(x), torch.from_numpy(y))


def _draw(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    z = x / (np.sqrt(x.shape[1]) * np.exp(rng.normal(-0.7, 0.7, x.shape[1])))
    square = ((z[:, None] - z[None]) ** 2).sum(-1)
    return np.linalg.cholesky(np.exp(-0.5 * square) + 1e-8 * np.eye(len(x))) @ rng.standard_normal(len(x))


def _waves(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.sin(x * rng.uniform(1, 8, x.shape[1]) + rng.uniform(0, 6, x.shape[1])) @ rng.standard_normal(x.shape[1])


def _bowl(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    z = 4 * (x - rng.random(x.shape[1]))
    return -20 * np.exp(-0.2 * np.sqrt((z**2).mean(-1))) - np.exp(np.cos(2 * np.pi * z).mean(-1))     # Ackley


def _step(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.tanh(20 * (x @ rng.standard_normal(x.shape[1]) - rng.normal())) + 0.3 * x[:, 0] ** 2


FUNCTIONS = (_draw, _waves, _bowl, _step)


def kernel_of(problem: Problem) -> Kernel:
    return Kernel(tuple(range(problem.x.shape[1])), shape="rbf" if problem.shape == "rbf" else "matern52")


def log_posterior(problem: Problem, raw: Tensor) -> float:
    kernel = kernel_of(problem)
    return float(log_marginal(kernel, problem.x, problem.y, raw)[0] + log_prior(default(kernel), raw)[0])


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first 40 problems of at most 150 points")
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--results", help="folder of the JSON (full form: benchmarks/results)")
    options = parser.parse_args(arguments)
    peer = json.loads((common.HERE / "peers" / "suggest_fit.json").read_text())
    chosen = [problem for problem in problems() if not options.quick or len(problem.y) <= 150][: 40 if options.quick else None]
    where = common.environment() | {"botorch": peer["botorch"], "gpytorch": peer["gpytorch"]}
    probed = common.probes()
    common.heading(where, probed)
    rows, seconds = [], 0.0
    for problem in chosen:
        theirs = peer["problems"][problem.number]
        began = time.perf_counter()
        ours = fit(kernel_of(problem), problem.x, problem.y, restarts=options.restarts, seed=problem.number)
        seconds += time.perf_counter() - began
        rows.append({
            "problem": problem.number, "n": len(problem.y), "d": problem.x.shape[1], "shape": problem.shape,
            "ours": float(ours.value), "botorch": theirs["log_posterior"], "gain": float(ours.value) - theirs["log_posterior"],
            "disagree": abs(log_posterior(problem, torch.tensor(theirs["raw"], dtype=torch.float64)) - theirs["log_posterior"]),
            "converged": bool(ours.converged),
        })  # fmt: skip
    gains = [row["gain"] for row in rows]
    share = 100 * sum(gain >= -SLACK for gain in gains) / len(gains)
    common.table(
        f"log posterior, ours - BoTorch {peer['botorch']}, {len(rows)} problems, {options.restarts} starts, {seconds:.0f} s",
        ["", "least", "median", "most", "problems better by > 0.01", "worse by > 0.01", "converged"],
        [["ours", min(gains), common.median(gains), max(gains), sum(gain > SLACK for gain in gains),
          sum(gain < -SLACK for gain in gains), sum(row["converged"] for row in rows)]],
    )  # fmt: skip
    goals = [
        common.Goal("problems on which ours reaches BoTorch's log posterior - 0.01", share, ">=", 95.0, " %"),
        common.Goal("largest disagreement about BoTorch's own log posterior", max(row["disagree"] for row in rows), "<=", 1e-5, ""),
    ]
    common.show_goals(goals)
    result = {
        "environment": where, "probes": probed, "quick": options.quick, "restarts": options.restarts, "problems": rows,
        "goals": common.goals_json(goals),
    }  # fmt: skip
    common.save("suggest_fit", options.results or (None if options.quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

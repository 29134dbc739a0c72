"""What does a suggestion cost? Ours against BoTorch's and Optuna's, from the same observations.

Observations are of Hartmann-6 at uniform points (for the largest batch: a sum of waves in 20 dimensions), with noise of a hundredth
of its deviation, standardised. Ours is timed twice. "From nothing": a fit from four starts (BoTorch has one), then log EI climbed from the
best 32 of 512 points, or a batch conditioned on its own earlier points. "As used": what `GPSearch.ask` costs a study that has told it
so many trials, one by one. It fits when an eighth more rows are there, from the last fit; a suggestion is one ask and its share of the
fit. The goals for one suggestion are about this figure, for it is what a user waits; suggest_quality.py says what it is worth.
BoTorch: `SingleTaskGP`, `fit_gpytorch_mll`, `LogExpectedImprovement` (a batch: `qLogExpectedImprovement`, sequential=True),
`optimize_acqf` with 10 restarts of 512 raw samples, as in its tutorials. Optuna: `GPSampler` with its
defaults, asked by a study that holds the same trials.

A faster suggestion counts only if it is as good. On the same observations our log posterior must be at least BoTorch's - 0.01 (same
model, same priors, RBF), and, under BoTorch's own hyperparameters, our log EI at least log 0.99 above BoTorch's. Both are goals.

The claim would be false if "from nothing" kept a fit between rounds, or if a batch were drawn without its points knowing of each other.

    python benchmarks/suggest_latency.py [--quick] [--rounds 5] [--threads N] [--without botorch,optuna] [--results DIR]
"""

from __future__ import annotations

import argparse
import math
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
from common import Goal, timed
from suggest_ours import as_used, conditioned, kernel_of, log_ei, many_given, one_given, ours
from suggest_peers import botorch, botorch_given, botorch_model, optuna_asked, optuna_study
from torch import Tensor

from torchtune_hp.gp.fit import fit
from torchtune_hp.gp.kernel import unpack
from torchtune_hp.gp.priors import default, draw, log_prior, mode
from torchtune_hp.gp.regression import condition, log_marginal

ONE = {100: (5.0, 5.0), 300: (3.0, 5.0), 1000: (1.5, 5.0)}
"""Observations -> how many times faster than BoTorch, and than Optuna, one suggestion is to be."""


# The problems ---------------------------------------------------------------------------------------------------------------


def hartmann6(x: Tensor) -> Tensor:
    """(n, 6) of the unit cube -> (n,). L. Dixon and G. Szego, 1978."""
    a = x.new_tensor([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
    p = 1e-4 * x.new_tensor([
        [1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381],
    ])  # fmt: skip
    return -torch.exp(-(a * (x[:, None] - p).square()).sum(-1)) @ x.new_tensor([1.0, 1.2, 3.0, 3.2])


def waves(x: Tensor) -> Tensor:
    """(n, d) -> (n,)."""
    k = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)
    return torch.sin(x * (1 + k % 5) + k) @ (1 / k.sqrt())


def observed(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """x (n, d) uniform and y (n,) standardised, float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, dtype=torch.float64, generator=generator)
    y = hartmann6(x) if d == 6 else waves(x)
    y = y + 0.01 * y.std() * torch.randn(n, dtype=torch.float64, generator=generator)
    return x, (y - y.mean()) / y.std()


# What is measured -----------------------------------------------------------------------------------------------------------


def one_suggestion(sizes: list[int], rounds: int, peers: set[str]) -> dict[str, Any]:
    """Seconds of one suggestion, and what it is worth."""
    found: dict[str, Any] = {}
    for n in sizes:
        x, y = observed(n, 6, seed=n)
        cases: dict[str, Callable[[], float]] = {"ours": partial(as_used, x, y), "from_nothing": timed(ours, x, y, 1, 0)}
        if "botorch" in peers:
            cases["botorch"] = timed(botorch, x, y, 1, 0)
        if "optuna" in peers:
            # What was asked for runs on, and what runs is no observation: all rounds see the same.
            cases["optuna"] = timed(optuna_asked, optuna_study(x, y), 6)
        seconds = common.interleaved(cases, rounds)
        found[str(n)] = {name: common.median(times) for name, times in seconds.items()}
        if "botorch" in peers:
            found[str(n)] |= worth(x, y)
    return found


def worth(x: Tensor, y: Tensor) -> dict[str, float]:
    """How good ours is on the same observations: log posterior, ours - BoTorch's; log EI under BoTorch's hyperparameters, likewise."""
    kernel, prior = kernel_of(x), default(kernel_of(x))
    torch.manual_seed(0)
    model = botorch_model(x, y)
    with torch.no_grad():
        theirs = torch.cat([
            model.covar_module.lengthscale[0].log(), y.new_zeros(1), model.likelihood.noise.log(), -model.mean_module.constant[None],
        ])  # fmt: skip
    reached = float(log_marginal(kernel, x, y, theirs)[0] + log_prior(prior, theirs)[0])
    same, best = condition(kernel, x, y, unpack(kernel, theirs)), y.amin()
    return {
        "log_posterior_gain": float(fit(kernel, x, y).value) - reached,
        "log_ei_gain": float(log_ei(same, one_given(same, 0), best) - log_ei(same, botorch_given(model, y, 1), best)),
    }


def many_suggestions(n: int, q: int, peer_q: int, rounds: int, peers: set[str]) -> dict[str, Any]:
    """Seconds of fit + q suggestions against fit + one; BoTorch's fit + `peer_q`, one after another."""
    x, y = observed(n, 6, seed=n)
    cases = {"one": timed(ours, x, y, 1, 0), "all": timed(ours, x, y, q, 0)}
    if "botorch" in peers:
        cases["botorch"] = timed(botorch, x, y, peer_q, 0)
    seconds = common.interleaved(cases, rounds, {"botorch": min(rounds, 2)})
    return {"n": n, "q": q, "botorch_q": peer_q, **{name: common.median(times) for name, times in seconds.items()}}


def largest(n: int, d: int, q: int) -> dict[str, float]:
    """In a process of its own: seconds of the fit and of q suggestions given it, and the most memory it ever held, in GiB."""
    x, y = observed(n, d, seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    fitted = conditioned(x, y)
    middle = time.perf_counter()
    found = many_given(fitted, q, 0)
    end = time.perf_counter()
    assert found.shape == (q, d) and len(found.unique(dim=0)) == q
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss       # KiB on Linux
    return {"n": n, "d": d, "q": q, "fit": middle - began, "suggest": end - middle, "GiB": most / 2**20, "GiB_before": before / 2**20}


def fits(processes: int, restarts: int, n: int, rounds: int) -> dict[str, float]:
    """Seconds of all fits at once against a loop over processes and starts: the same rows, one at a time."""
    x, y = (torch.stack(parts) for parts in zip(*(observed(n, 6, seed=k) for k in range(processes))))
    kernel, prior = kernel_of(x[0]), default(kernel_of(x[0]))
    start = torch.cat([mode(prior)[None], draw(prior, restarts - 1, torch.Generator().manual_seed(0))])

    def loop() -> Tensor:
        rows = [[fit(kernel, x[k], y[k], start=row[None], restarts=0).value for row in start] for k in range(processes)]
        return torch.stack([torch.stack(row).amax() for row in rows])

    def at_once() -> Tensor:
        return fit(kernel, x, y, start=start, restarts=0).value

    apart = float((loop() - at_once()).abs().amax())
    seconds = common.interleaved({"at_once": timed(at_once), "loop": timed(loop)}, rounds)
    return {"processes": processes, "restarts": restarts, "n": n, "apart": apart} | {k: common.median(v) for k, v in seconds.items()}


def threads(n: int, rounds: int) -> dict[str, float]:
    """Seconds of one suggestion at n by all threads and by one: threads must not make a small one slower."""
    x, y = observed(n, 6, seed=n)
    all_of_them = torch.get_num_threads()

    def case(count: int) -> Callable[[], float]:
        def seconds() -> float:
            torch.set_num_threads(count)
            try:
                return timed(ours, x, y, 1, 0)()
            finally:
                torch.set_num_threads(all_of_them)

        return seconds

    seconds = common.interleaved({"all": case(all_of_them), "one": case(1)}, rounds)
    return {"n": n, "threads": all_of_them} | {name: common.median(times) for name, times in seconds.items()}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="n = 100, fewer points, one round")
    parser.add_argument("--rounds", type=int, default=0, help="default: 5, or 1 with --quick")
    parser.add_argument("--threads", type=int, default=0, help="of torch; default: torch's own")
    parser.add_argument("--without", default="", help="peers to leave out: botorch,optuna")
    parser.add_argument("--largest", nargs=3, type=int, metavar=("N", "D", "Q"), help=argparse.SUPPRESS)
    parser.add_argument("--results", help="folder of the JSON (full form: benchmarks/results)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.largest:
        import json

        found = largest(*options.largest)
        print(json.dumps(found))
        return found
    warnings.simplefilter("ignore")
    quick, rounds = options.quick, options.rounds or (1 if options.quick else 5)
    peers = {name for name in ("botorch", "optuna") if common.version(name) and name not in options.without.split(",")}
    where, probed = common.environment("botorch", "gpytorch", "optuna"), common.probes()
    common.heading(where, probed)
    ours(*observed(20, 6, 0), 1, 0)                 # what is loaded at first use is loaded now
    for name in peers:
        botorch(*observed(20, 6, 0), 1, 0) if name == "botorch" else optuna_asked(optuna_study(*observed(20, 6, 0)), 6)

    one = one_suggestion([100] if quick else list(ONE), rounds, peers)
    many = many_suggestions(*((100, 16, 2) if quick else (300, 64, 64)), rounds, peers)
    size = ("200", "20", "32") if quick else ("1000", "20", "256")
    most = common.child(__file__, "--threads", str(torch.get_num_threads()), "--largest", *size)
    fitted = fits(*((8, 2, 40) if quick else (64, 8, 100)), min(rounds, 3))
    bound = threads(100, max(rounds, 3))
    goals = show(one, many, most, fitted, bound, quick)
    result = {
        "environment": where, "probes": probed, "quick": quick, "rounds": rounds, "one": one, "many": many, "largest": most,
        "fits": fitted, "threads": bound, "goals": common.goals_json(goals),
    }  # fmt: skip
    common.save("suggest_latency", options.results or (None if quick else common.HERE / "results"), result)
    return result


def show(
    one: dict[str, Any], many: dict[str, Any], most: dict[str, Any], fitted: dict[str, float], bound: dict[str, float], quick: bool
) -> list[Goal]:
    def ratio(row: dict[str, Any], slow: str, fast: str = "ours") -> float:
        return row.get(slow, math.nan) / row[fast]

    common.table(
        "one suggestion, Hartmann-6: seconds (median), ratios to ours as used, and ours - BoTorch's on the same observations",
        ["n", "as used", "from nothing", "BoTorch", "Optuna", "BoTorch / ours", "Optuna / ours", "log posterior", "log EI"],
        [[n, row["ours"], row["from_nothing"], row.get("botorch"), row.get("optuna"), ratio(row, "botorch"), ratio(row, "optuna"),
          row.get("log_posterior_gain"), row.get("log_ei_gain")] for n, row in one.items()],
    )  # fmt: skip
    common.table(
        f"fit + {many['q']} suggestions at once, n = {many['n']}: seconds",
        ["one", "all", "all / one", f"BoTorch, sequential q={many['botorch_q']}", "BoTorch / ours"],
        [[many["one"], many["all"], many["all"] / many["one"], many.get("botorch"), ratio(many, "botorch", "all")]],
    )
    common.table(
        f"{most['q']} suggestions at once, n = {most['n']}, d = {most['d']}, in a process of its own",
        ["s of the fit", "s of the suggestions", "GiB at most", "GiB before"],
        [[most["fit"], most["suggest"], most["GiB"], most["GiB_before"]]],
    )
    common.table(
        f"{fitted['processes']:.0f} processes x {fitted['restarts']:.0f} starts, n = {fitted['n']:.0f}: seconds of all fits",
        ["at once", "loop", "loop / at once", "log posteriors apart"],
        [[fitted["at_once"], fitted["loop"], fitted["loop"] / fitted["at_once"], fitted["apart"]]],
    )
    common.table(
        f"threads, one suggestion at n = {bound['n']:.0f}: seconds",
        ["with all of them", "with one", "all / one"], [[bound["all"], bound["one"], bound["all"] / bound["one"]]],
    )  # fmt: skip
    void = math.nan     # a quick form is another size: its figures are no measurement of the goals
    goals = []
    for n, (than_botorch, than_optuna) in ONE.items():
        row = one.get(str(n), {"ours": math.nan})
        goals.append(Goal(f"one suggestion, n = {n}: BoTorch / ours", ratio(row, "botorch"), ">=", than_botorch, "x"))
        goals.append(Goal(f"one suggestion, n = {n}: Optuna / ours", ratio(row, "optuna"), ">=", than_optuna, "x"))
    gains = {key: min((row[key] for row in one.values() if key in row), default=void) for key in ("log_posterior_gain", "log_ei_gain")}
    goals += [
        Goal("log posterior, ours - BoTorch's, the least", gains["log_posterior_gain"], ">=", -0.01),
        Goal("log EI, ours - BoTorch's, the least", gains["log_ei_gain"], ">=", math.log(0.99)),
        Goal("64 at once, n = 300: all / one", void if quick else many["all"] / many["one"], "<=", 2.0, "x"),
        Goal("64 at once, n = 300: BoTorch's sequential / ours", void if quick else ratio(many, "botorch", "all"), ">=", 50.0, "x"),
        Goal("256 at once, n = 1000, d = 20, given a fit", void if quick else most["suggest"], "<=", 2.0, " s"),
        Goal("the fit itself", void if quick else most["fit"], "<=", 6.0, " s"),
        Goal("memory of both, at most", void if quick else most["GiB"], "<=", 2.0, " GiB"),
        Goal("64 GPs x 8 starts, n = 100: loop / at once", void if quick else fitted["loop"] / fitted["at_once"], ">=", 10.0, "x"),
        Goal("one suggestion, n = 100: all threads / one thread", bound["all"] / bound["one"], "<=", 1.0, "x"),
    ]
    common.show_goals(goals)
    return goals


if __name__ == "__main__":
    main()

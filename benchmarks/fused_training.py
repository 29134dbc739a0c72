"""What an update of one model costs when P of them are trained at once, against what people do: one after another.

Measured: milliseconds per model-update, the time of one update of all P members divided by P. Every case trains the same P
models from the same initial weights on the same batch in float32 (no TF32), each member with its own learning rate, weight
decay, betas and gradient norm to clip at, and looks once an update whether all P losses are finite:

    eager loop          plain torch, one model after another: zero_grad, loss, backward, clip_grad_norm_, step
    best single step    the fastest that torch.compile makes of one model's step, called for one model after another: forward and
                        backward compiled, with each of torch's forms of optimizer and clipping, or the whole step as one
                        program (stacked parameters of one member, vmap of functional_call, grad, the library's optimizer rules);
                        all tried at the smallest P, the last alone in the quick form
    ours, vmap          hp.Population(strategy="vmap").step
    ours, loop          hp.Population(strategy="loop").step, where P is at most 16: what "auto" takes for one model
    ours, graph         hp.Population(strategy="graph").step, on CUDA: the library's own step replayed from CUDA graphs
    fused, compiled     hp.Population(strategy="compile").step
    JAX                 the same MLP and Adam under jit(vmap), the call from Python included; only where `import jax` works
    ..., graphed        on CUDA: the update of all P captured in one CUDA graph by this benchmark, for the loops and, to compare, for the
                        fused program; "ours" is in no goal but by what the library itself does. The baseline of the goals is the
                        fastest of all loops, graphed and compiled ones included

Compile time stands beside (the caches are empty: every run compiles anew). "limit" is the FLOP of one model's forward and backward
pass by the GEMM rate that the probe reached. Rounds are interleaved, medians of them.

The claim would be false if the models were not trained alike, so the losses of the first 4 updates of every case are compared
with the eager loop's, and the benchmark stops where they differ by more than 1e-4 of the loss or 2 % of the way that it came
(on the MLPs a learning rate wrong by a tenth shows; a wrong clip hardly does, for Adam undoes it); if the members were alike (their
hyperparameters are drawn apart); or if a shape that fuses well were shown for spaces that do not, so the last table counts,
for 128 random configurations of each of five spaces, three of them published, how many stacks there are: if only equal shapes
share one, and with widths padded, on a CPU and on a GPU.

    python benchmarks/fused_training.py [--quick] [--device cpu] [--rounds 5] [--without compile,jax] [--results DIR]
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import common
import torch
import torch._dynamo
from fused_training_cases import (
    COMPILED,
    EAGER,
    EAGER_GRAPHED,
    FEW,
    GRAPH,
    JAX,
    LOOP,
    SINGLE,
    SINGLE_GRAPHED,
    VMAP,
    forms_of,
)
from fused_training_checks import Built, Different, Row, build, burst
from fused_training_models import Task, limit_ms, plan
from fused_training_spaces import PADDED, spaces, stacks_of
from torch import Tensor


def gpu_probes() -> dict[str, float]:
    """As common.probes, on the GPU: best of several tries, each long enough to be timed from outside."""

    def best(run: Callable[[], Any], times: int) -> float:
        tries = []
        for _ in range(5):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(times):
                run()
            torch.cuda.synchronize()
            tries.append((time.perf_counter() - began) / times)
        return min(tries)

    source, a, one = torch.ones(2**28, device="cuda"), torch.ones(8192, 8192, device="cuda"), torch.ones(1, device="cuda")
    target = torch.empty_like(source)
    return {
        "gpu_copy_GB_per_s": 2 * source.nbytes / best(lambda: target.copy_(source), 10) / 1e9,
        "gpu_gemm_GFLOP_per_s": 2 * 8192**3 / best(lambda: a @ a, 5) / 1e9,
        "launch_us": best(lambda: one + one, 1000) * 1e6,
    }


def measure(row: Row, rounds: int, seconds: float) -> None:
    cases = {name: partial(burst, case, row.task.P, seconds) for name, case in row.built.items()}
    row.rounds = common.interleaved(cases, rounds)


def show(rows: Sequence[Row], rounds: int) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.built))
    title = rows[0].task.work.name
    times = [[row.task.P, *[row.ms(name) for name in names], row.limit_ms] for row in rows]
    common.table(f"{title}: ms per model-update, medians of {rounds} interleaved rounds", ["P", *names, "limit"], times)
    bases, ours = (EAGER, SINGLE, EAGER_GRAPHED, SINGLE_GRAPHED, JAX), (VMAP, GRAPH, COMPILED)
    pairs = [(base, mine) for mine in ours for base in bases if {base, mine} <= set(names)]
    shown = [mine for mine in ours if mine in names]
    ratios = [[row.task.P, *[row.ms(a) / row.ms(b) for a, b in pairs], *[row.limit_ms / row.ms(mine) for mine in shown]] for row in rows]
    columns = [*[f"{a} / {b}" for a, b in pairs], *[f"limit / {mine}" for mine in shown]]
    common.table(f"{title}: how many times faster", ["P", *columns], ratios)
    for row in rows:
        notes = [f"{name}: {b.form}, compiled in {b.compile_s:.1f} s" for name, b in row.built.items() if name in (SINGLE, COMPILED, JAX)]
        for note in (*notes, *[f"{name} is absent: {why}" for name, why in row.why_not.items()]):
            print(f"  P={row.task.P}: {note}")
    sys.stdout.flush()


def goals(rows: Sequence[Row], cuda: bool) -> list[common.Goal]:
    at = {(row.task.work.name.split(",")[0], row.task.P): row for row in rows}
    nothing = Row(rows[0].task, math.nan)

    def row(name: str, P: int) -> Row:
        return at.get((name, P), nothing)

    if cuda:
        ours = (VMAP, GRAPH, COMPILED)
        loops = (EAGER, SINGLE, EAGER_GRAPHED, SINGLE_GRAPHED)
        bounds = [("MLP 784-256-10", 128, 40.0, 10.0), ("FCNet 9-64-64-1", 512, 150.0, 40.0), ("cuda-convnet", 32, 4.0, 1.5)]
        found = []
        for name, P, eager, graph in bounds:
            own = row(name, P)
            found.append(common.Goal(f"{name}, P={P}: eager loop / best fused", own.ms(EAGER) / own.least(*ours), ">=", eager, "x"))
            ratio = own.least(*loops) / own.least(*ours)
            found.append(common.Goal(f"{name}, P={P}: best loop, compiled or graphed / best fused", ratio, ">=", graph, "x"))
        return found
    name = "MLP 64-64-64-10"
    many, one, cnn = row(name, 128), row(name, 1), row("small CNN 3-16-32", 16)
    return [
        common.Goal(f"{name}, P=128: eager loop / ours, vmap", many.ms(EAGER) / many.ms(VMAP), ">=", 8.0, "x"),
        common.Goal(f"{name}, P=128: eager loop / fused, compiled", many.ms(EAGER) / many.ms(COMPILED), ">=", 20.0, "x"),
        common.Goal(f"{name}, P=128: JAX / fused, compiled", many.ms(JAX) / many.ms(COMPILED), ">=", 1.3, "x"),
        common.Goal(f"{name}, P=1: ours (best of vmap, loop) / eager loop", one.least(VMAP, LOOP) / one.ms(EAGER), "<=", 1.3, "x"),
        common.Goal("small CNN, P=16: eager loop / ours (best of vmap, loop)", cnn.ms(EAGER) / cnn.least(VMAP, LOOP), ">=", 0.95, "x"),
    ]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="P = 1, 16, 128, images of 8x8, 3 rounds; compiles for the MLP alone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--without", default="", help="what to leave out: compile, jax")
    parser.add_argument("--results", help="folder for the result; the full form's default is benchmarks/results")
    options = parser.parse_args(arguments)
    device, without = torch.device(options.device), set(options.without.split(","))
    cuda, quick = device.type == "cuda", options.quick
    rounds, seconds = options.rounds or (3 if quick else 5), 0.1 if quick else 0.5
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not cuda:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    torch._dynamo.config.recompile_limit = 256      # one for each shape here; past it a graph would silently run eager
    where = {**common.environment("jax"), **({"gpu": torch.cuda.get_device_name()} if cuda else {})}
    probed = {**common.probes(), **(gpu_probes() if cuda else {})}
    common.heading(where, probed)

    startup, found = math.nan, list[Row]()
    with tempfile.TemporaryDirectory(prefix="fused-", ignore_cleanup_errors=True) as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        if "compile" not in without:
            began = time.perf_counter()
            try:
                torch.compile(lambda x: x + 1)(torch.ones(8, device=device))
                startup = time.perf_counter() - began
                print(f"the compiler's own start: {startup:.1f} s, in no compile time below")
            except Exception as error:
                without.add("compile")
                print(f"torch.compile does not work here, so what needs it is absent: {type(error).__name__}")
        for work, sizes in plan(quick, cuda):
            chosen: dict[str, str] = {}
            limit = limit_ms(work, probed["gpu_gemm_GFLOP_per_s" if cuda else "gemm_GFLOP_per_s"])
            shown: list[Row] = []
            for P in sizes:
                task = Task(work, P, device, work.data(device))
                row = Row(task, limit)
                compiles = "compile" not in without and not (quick and work.name != "MLP 64-64-64-10")
                forms = forms_of(task, compiles, quick, not quick or P != FEW)
                if "jax" in without or where["jax"] is None:
                    forms.pop(JAX, None)
                build(row, forms, chosen, seconds)
                measure(row, rounds, seconds)
                row.built = {name: Built(_gone, b.form, b.compile_s, b.each_s) for name, b in row.built.items()}    # frees the models
                shown.append(row)
            show(shown, rounds)
            found += shown
    if where["jax"] is None or "jax" in without:
        print(f"\n{JAX}: {common.ABSENT}")
    counted = {name: stacks_of(space, model) for name, space, model in spaces()}
    figures = {name: [[len(sizes), sum(sizes) / len(sizes)] for sizes in ways.values()] for name, ways in counted.items()}
    table = [[name, *itertools.chain(*each)] for name, each in figures.items()]
    columns = ["space", *[column for way in ("equal shapes", *PADDED) for column in (f"stacks, {way}", "members per stack")]]
    common.table("128 random configurations of whole spaces: what shares a stack", columns, table)
    wanted = goals(found, cuda)
    common.show_goals(wanted)
    result = {
        "environment": where, "probes": probed, "quick": quick, "rounds": rounds, "compiler_start_s": startup,
        "rows": [_row_json(row) for row in found], "members_per_stack": counted, "goals": common.goals_json(wanted),
    }  # fmt: skip
    name = f"fused_training-{torch.cuda.get_device_name().lower().replace(' ', '-')}" if cuda else "fused_training"
    common.save(name, options.results or (None if quick else common.HERE / "results"), result)
    return result


def _gone() -> Tensor:
    raise RuntimeError("This case was measured and let go.")


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "workload": row.task.work.name, "P": row.task.P, "batch": row.task.work.batch, "limit_ms": row.limit_ms,
        "ms_per_model_update": {name: row.ms(name) for name in row.rounds}, "rounds_of": row.rounds,
        "forms": {name: case.form for name, case in row.built.items()}, "absent": row.why_not,
        "compile_s": {name: case.compile_s for name, case in row.built.items() if name not in (EAGER, VMAP, LOOP, GRAPH)},
    }  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except Different as error:
        sys.exit(f"stopped: {error}")

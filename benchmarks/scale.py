"""A million trials: how many reports a second the decision core takes, alone and with its journal, and what a study of that size
costs to open, to ask for its best, and to resume.

Measured: ASHA (promotion, eta 4, max_t 64) over random search in six dimensions, on 512 simulated workers, with a learning
curve that is computed from the config at every look, look_every="grant": about 4/3 reports a trial (`--eta 3` gives 1.5). Each
part runs in a process of its own, one after the other, so that its memory is its own:

    loop      Study + Simulated, no journal
    journal   Tuner on disk (it commits every 256 turns of a simulation)
    open      Results.open on that study, in a fresh process; best: results.best after it, both without torch
    resume    Tuner.resume(trials="+512") until the replay is done and the first new turn may come

"first tenth" and "last tenth" are the cost of a report over these parts of all reports, some seconds each, measured side by side in two
processes that take turns (see scale_pace.py). The first two parts are run `--rounds` times, in turn; their figures are medians.
Memory is the high-water mark of the process, the import of torch (some 300 MB) included.

The claim would be false if reports were skipped (they are counted, and in the journal as well), if the curve were trivial (it
depends on every coordinate and on the step), or if cost grew with the number of trials (hence the tenths).

    python benchmarks/scale.py [--quick] [--trials 1000000] [--eta 4] [--rounds 3] [--results DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from scale_pace import Pace, side_by_side

BEGAN = time.perf_counter()
WORKERS = 512
MAX_T = 64
Tenth = Literal["first", "last"] | None


def curve(config: dict[str, float], step: int) -> dict[str, float]:
    """A loss that falls from 1 to a floor, at a rate; both depend on the config, so curves cross."""
    a, b, c = config["a"] - 0.3, config["b"] - 0.6, config["c"] - 0.5
    floor = a * a + b * b + 0.1 * c * c * config["d"]
    return {"loss": floor + (1.0 - floor) * math.exp(-(0.05 + 0.4 * config["e"] * config["f"]) * step)}


def high_water() -> float:
    """GB of memory this process ever held.

    Linux hands ru_maxrss of the parent on to what it starts, so there the kernel's own line of this process is read.
    ru_maxrss counts KiB, but on macOS bytes.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


# The parts, each in a process of its own ---------------------------------------------------------------------------------------


def loop(trials: int, eta: float, folder: str, tenth: Tenth = None) -> dict[str, Any]:
    import common

    import torchtune_hp as hp
    from torchtune_hp.trial import Limits

    study, executor = common.simulated(
        space(), hp.ASHA(max_t=MAX_T, reduction_factor=eta), curve, workers=WORKERS, seed=0, look_every="grant"
    )
    limits = Limits(WORKERS, trials)
    pace = Pace(reports(trials, eta), tenth)
    pace.begin(None)
    commands = study.step((), limits)
    while True:
        for command in commands:
            executor.submit(command)
        if not study.running:
            break
        events = executor.wait()
        commands = study.step(events, limits)
        pace.told(events, commands)
    pace.end(None)
    return {"trials": study.trials} | pace.figures() | {"rss_GB": high_water()}


def journal(trials: int, eta: float, folder: str, tenth: Tenth = None) -> dict[str, Any]:
    import common  # noqa: F401

    import torchtune_hp as hp

    pace = Pace(reports(trials, eta), tenth)
    tuner = hp.Tuner(
        None, space(), metric="loss", mode="min", trials=trials, searcher=hp.RandomSearch(), executor=executor(), observers=[pace],
        scheduler=hp.ASHA(max_t=MAX_T, reduction_factor=eta), storage=folder, name="scale", verbose=0, look_every="grant",
    )  # fmt: skip
    results = tuner.fit()
    figures = {"trials": len(results)} | pace.figures() | {"rss_GB": high_water()}
    held = next(results.journal.rows("SELECT count(*) FROM report"))[0]
    if held != pace.reports:
        raise RuntimeError(f"the journal holds {held} reports, but {pace.reports} were made.")
    return figures | {"file_GB": (Path(folder) / "scale" / "study.db").stat().st_size / 1e9, "best": results.best.metrics["loss"]}


def opened(trials: int, eta: float, folder: str, tenth: Tenth = None) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import torchtune_hp as hp

    open_ = hp.Results.open         # imports what it needs
    began = time.perf_counter()
    results = open_(Path(folder) / "scale")
    after = time.perf_counter()
    best = results.best
    known = time.perf_counter()
    n = len(results)
    counted = time.perf_counter()
    return {
        "import_s": began - BEGAN, "open_s": after - began, "best_s": known - after, "len_s": counted - known, "trials": n,
        "best": best.metrics["loss"], "rss_GB": high_water(), "torch": "torch" in sys.modules,
    }  # fmt: skip


def resume(trials: int, eta: float, folder: str, tenth: Tenth = None) -> dict[str, Any]:
    import common  # noqa: F401

    import torchtune_hp as hp

    pace = Pace(WORKERS)
    results = hp.Tuner.resume(
        Path(folder) / "scale", trials=f"+{WORKERS}", space=space(), executor=executor(), observers=[pace], verbose=0
    ).fit()
    return {"until_first_new_turn_s": pace.replayed - BEGAN, "trials": len(results), "new_reports": pace.reports, "rss_GB": high_water()}


def reports(trials: int, eta: float) -> int:
    """About how many there will be: 1/eta of a rung's trials go on to the next."""
    from torchtune_hp.schedulers.rungs import exact, levels

    return round(trials * sum(eta**-k for k in range(len(levels(1, MAX_T, exact(eta))))))


def space() -> Any:
    import torchtune_hp as hp

    return hp.Space({name: hp.uniform(0.0, 1.0) for name in "abcdef"})


def executor() -> Any:
    import torchtune_hp as hp

    return hp.Simulated(WORKERS, curve)


PARTS = {"loop": loop, "journal": journal, "open": opened, "resume": resume}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50,000 trials, 1 round; writes nothing without --results")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--eta", type=float, default=4)
    parser.add_argument("--storage", help="folder in which the study is made; default: a temporary one")
    parser.add_argument("--results", help="folder for the result; the full form's default is benchmarks/results")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--tenth", choices=("first", "last"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    trials = options.trials or (50_000 if options.quick else 1_000_000)
    if options.part:
        figures = PARTS[options.part](trials, options.eta, options.storage, options.tenth)
        print(json.dumps(figures))
        return figures
    import common

    where, probed = common.environment(), common.probes()
    common.heading(where, probed)
    rounds = options.rounds or (1 if options.quick else 3)
    folder = tempfile.mkdtemp(prefix="scale-", dir=options.storage)
    each: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    try:
        for part in [*("loop", "journal") * rounds, "open", "resume"]:
            if part == "journal":
                shutil.rmtree(Path(folder) / "scale", ignore_errors=True)
            said = ["--part", part, "--trials", str(trials), "--eta", str(options.eta), "--storage"]
            if part in ("loop", "journal"):
                other = str(Path(folder) / "other")
                each[part].append(side_by_side(__file__, [*said, folder, "--tenth", "last"], [*said, other, "--tenth", "first"]))
                shutil.rmtree(other, ignore_errors=True)
            else:
                each[part].append(common.child(__file__, *said, folder))
            print(f"  {part}: " + ", ".join(f"{key} {common.number(value)}" for key, value in each[part][-1].items()), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = {part: {key: common.median([figures[key] for figures in runs]) for key in runs[0]} for part, runs in each.items()}
    goals = [
        common.Goal("reports a second, no journal", found["loop"]["reports_per_s"], ">=", 30_000),
        common.Goal("reports a second, journal on disk", found["journal"]["reports_per_s"], ">=", 20_000),
        common.Goal("last tenth / first tenth, no journal", found["loop"]["last_to_first"], "<=", 1.5, "x"),
        common.Goal("last tenth / first tenth, journal", found["journal"]["last_to_first"], "<=", 1.5, "x"),
        common.Goal("memory, no journal", found["loop"]["rss_GB"], "<=", 2.0, " GB"),
        common.Goal("memory, journal", found["journal"]["rss_GB"], "<=", 2.0, " GB"),
        common.Goal("memory, resume", found["resume"]["rss_GB"], "<=", 2.0, " GB"),
        common.Goal("open", found["open"]["open_s"], "<=", 1.0, " s"),
        common.Goal("best known after opening", found["open"]["best_s"], "<=", 0.2, " s"),
        common.Goal("resume, until the first new turn", found["resume"]["until_first_new_turn_s"], "<=", 60.0, " s"),
    ]
    if trials >= 1_000_000:
        goals.append(common.Goal("reports in all", found["journal"]["reports"], ">=", 1_500_000 if options.eta < 4 else 1_300_000))
    common.show_goals(goals)
    result = {"environment": where, "probes": probed, "quick": options.quick, "eta": options.eta, "workers": WORKERS, "max_t": MAX_T}
    result |= {"parts": found, "rounds_of": each, "goals": common.goals_json(goals)}
    common.save("scale", options.results or (None if options.quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

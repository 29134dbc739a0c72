"""A fixed toy study of 30 trials on 4 slots for each scheduler, every turn written out: what tests/golden/ holds.

`python -m tests.golden.regenerate` writes the files anew. Do that only where decisions were meant to change, and read the diff.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from torchtune_hp.schedulers import ASHA, FullRuns, Hyperband, MedianStopping, Scheduler, SuccessiveHalving
from torchtune_hp.seeds import derive
from torchtune_hp.trial import Decision, Drop, New, Train

from .simulate import Turn, setting, simulate

FOLDER = Path(__file__).parent.parent / "golden"
STUDIES: dict[str, Callable[[], Scheduler]] = {
    "asha": lambda: ASHA(max_t=27, reduction_factor=3),
    "asha_brackets": lambda: ASHA(max_t=16, reduction_factor=2, brackets=3),
    "asha_stopping": lambda: ASHA(max_t=27, reduction_factor=3, variant="stopping"),
    "full_runs": lambda: FullRuns(max_t=5),
    "hyperband": lambda: Hyperband(max_t=9, reduction_factor=3),
    "median_stopping": lambda: MedianStopping(max_t=6, grace_period=2),
    "successive_halving": lambda: SuccessiveHalving(max_t=8, reduction_factor=2, trials=12),
}


def score(trial: int, step: int) -> float:
    """Better the longer it is trained, in an order that changes as it goes; every ninth trial diverges at step 3 or later."""
    if trial % 9 == 4 and step >= 3:
        return math.inf
    return (derive(0, trial) % 1000 + derive(0, trial, step) % 1000 / step) / 1000


def ends(trial: int) -> int:
    """Every seventh trial ends by itself at step 4."""
    return 4 if trial % 7 == 3 else 1000


def played(name: str) -> list[dict[str, object]]:
    """The study of this name, as plain data."""
    scheduler = STUDIES[name]()
    scheduler.begin(setting(capacity=4))
    return [told(turn) for turn in simulate(scheduler, score, trials=30, capacity=4, ends=ends).turns]


def told(turn: Turn) -> dict[str, object]:
    reports = [
        [report.trial, report.step, "inf" if report.failed else report.values[0], *["done"] * report.done] for report in turn.reports
    ]
    return {
        "tick": turn.tick,
        "reports": reports,
        "free": turn.free,
        "fresh": turn.fresh,
        "decisions": [words(decision) for decision in turn.decisions],
    }


def words(decision: Decision) -> list[object]:
    match decision:
        case New(until, tag):
            return ["new", until, tag]
        case Train(trial, until):
            return ["train", trial, until]
        case Drop(trial):
            return ["drop", trial]
    raise NotImplementedError(decision)


def kept(name: str) -> object:
    """What the file holds."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def regenerate() -> None:
    for name in STUDIES:
        turns = ",\n".join(json.dumps(turn) for turn in played(name))
        (FOLDER / f"{name}.json").write_text(f"[\n{turns}\n]\n")

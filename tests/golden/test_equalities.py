"""One study, whoever runs it: whole journals are equal but for time.

    Serial() == Simulated(1)          Serial(8) == Simulated(8) == Processes(8, ordered=True)

and the stories themselves are written down in golden files, so that no change moves a decision unseen.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import torchtune_hp as hp
from tests.faults.studies import Walk, arguments, story
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.testing.toys import quadratic

SCHEDULERS = {
    "full": lambda: hp.FullRuns(max_t=9),
    "asha-promotion": lambda: hp.ASHA(max_t=9, reduction_factor=3, variant="promotion"),
    "asha-stopping": lambda: hp.ASHA(max_t=9, reduction_factor=3, variant="stopping"),
    "asha-brackets": lambda: hp.ASHA(max_t=9, reduction_factor=3, brackets=2),
    "halving": lambda: hp.SuccessiveHalving(max_t=9, reduction_factor=3),
    "hyperband": lambda: hp.Hyperband(max_t=9, reduction_factor=3),
    "median": lambda: hp.MedianStopping(max_t=9),
}
FILE = Path(__file__).with_name("studies.json")


def told(tmp_path: Path, executor: Any, **changes: Any) -> list[Any]:
    given = arguments(tmp_path / f"{type(executor).__name__}-{executor!r}"[:60].replace("/", ""), executor, **changes)
    hp.Tuner(**given).fit()
    return story(Path(given["storage"]) / "walk")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_serial_equals_one_simulated_worker_and_eight_slots_eight_workers(tmp_path: Path, name: str) -> None:
    make = SCHEDULERS[name]
    one = told(tmp_path / "a", hp.Serial(), scheduler=make())
    assert one == told(tmp_path / "b", hp.Simulated(1), scheduler=make())
    eight = told(tmp_path / "c", hp.Serial(8), scheduler=make())
    assert eight == told(tmp_path / "d", hp.Simulated(8), scheduler=make())
    assert eight != one
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    found = {"one": digest(one), "eight": digest(eight), "turns": [len(one), len(eight)]}
    assert golden.get(name) == found, f"to accept the new stories: python -m tests.golden.studies; {name}: {found}"


def digest(told: list[Any]) -> str:
    """Of trials, steps and decisions; metrics are left out, they are the machine's."""
    lines = [
        [[(type(event).__name__, event.trial, event.step) for event in events],
         [repr(command[0].trial.id if isinstance(command, tuple) else command) for command in commands]]
        for events, commands in told
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]


@pytest.mark.usefixtures("quick_server")
@pytest.mark.parametrize(
    "study",
    [
        {"scheduler": hp.ASHA(max_t=9, reduction_factor=3)},
        {"scheduler": hp.Hyperband(max_t=9, reduction_factor=3), "look_every": "grant"},
        {"scheduler": hp.ASHA(max_t=9, reduction_factor=3), "searcher": hp.GPSearch()},
        {"trainable": quadratic, "scheduler": hp.FullRuns(),
         "space": {"x": hp.uniform(0.0, 1.0), "y": hp.uniform(0.0, 1.0), "steps": hp.choice([3, 5, 9])}},
        {"trainable": ToyModel, "trials": 6, "scheduler": hp.ASHA(max_t=3, reduction_factor=3),
         "space": {"lr": hp.loguniform(1e-3, 1e-1), "width": hp.choice([4, 8]), "dropout": hp.uniform(0.0, 0.5), "momentum": 0.9}},
    ],
    ids=["promotion", "whole grants", "suggested", "functions", "models"],
)  # fmt: skip
def test_eight_ordered_processes_equal_eight_simulated_workers_bit_for_bit(tmp_path: Path, study: dict[str, Any]) -> None:
    simulated = told(tmp_path / "a", hp.Simulated(8), **study)
    assert simulated == told(tmp_path / "b", hp.Processes(8, ordered=True), **study)
    assert len(simulated) > 3


@pytest.mark.usefixtures("quick_server")
def test_processes_as_they_come_can_be_replayed(tmp_path: Path) -> None:
    given = arguments(tmp_path, hp.Processes(2))
    hp.Tuner(**given).fit()
    results = hp.Tuner.resume(tmp_path / "walk", Walk, trials="+4", verbose=0).fit()  # goes through every turn again
    assert len(results) == 24

"""Clocks that jump, and a study's time: what is counted is the study's own seconds, and nobody is declared dead by a date."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import torchtune_hp as hp
from torchtune_hp.cli import main
from torchtune_hp.executors import local, serial
from torchtune_hp.lock import DriverLock
from torchtune_hp.trial import Failed, Reached

from .studies import Walk, arguments, run_and_kill, story


class Clock:
    """A monotonic clock that goes on when it is told to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(1e6)
    for module in (serial, local):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


def seconds_of(folder: Path) -> list[float]:
    with hp.Results.open(folder) as results:
        return [event.time for events, *_ in results.journal.turns() for event in events if isinstance(event, (Reached, Failed))]


def test_a_time_budget_ends_a_study_within_a_step_and_more_of_it_goes_on(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    class Slow(hp.Trainable):
        """A step takes 7 seconds."""

        def setup(self, config: dict[str, Any]) -> None:
            self.n = 0

        def step(self) -> dict[str, Any]:
            clock.now += 7.0
            self.n += 1
            return {"loss": self.config["drift"] + 1 / self.n}

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {"n": self.n}

        def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.n = checkpoint["n"]

    given = arguments(tmp_path, hp.Serial(), trainable=Slow, trials=None, time_budget=100.0, scheduler=hp.FullRuns(max_t=4), verbose=1)
    results = hp.Tuner(**given).fit()
    assert results.seconds == 105.0 and len(results) == 4 and len(seconds_of(tmp_path / "walk")) == 15
    assert [note.text for note in results.log if note.kind == "end"] == [
        'the time budget of 100 s is spent; time_budget="+60" gives a minute more'
    ]
    assert f"best loss: {results.best.metrics['loss']:.4g} (trial {results.best.trial}," in capsys.readouterr().err
    clock.now = 3.0         # the machine was started again since
    more = hp.Tuner.resume(tmp_path / "walk", Slow, time_budget="+21", verbose=0).fit()
    assert more.seconds == 126.0
    assert seconds_of(tmp_path / "walk") == [7.0 * (number + 1) for number in range(18)]


def test_clocks_that_jump_change_no_decision_and_no_duration_is_negative(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dates, alive = random.Random(0), []

    class Jumpy(Walk):
        def step(self) -> dict[str, Any]:
            clock.now += 0.25
            alive.append(DriverLock(tmp_path / "walk").held())
            return super().step()

    hp.Tuner(**arguments(tmp_path / "whole", hp.Serial(4))).fit()
    given = arguments(tmp_path, hp.Serial(4), trainable=type("Walk", (Jumpy,), {}))
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: dates.uniform(0.0, 4e9))        # 1970 to 2096
        run_and_kill(9, True, given, monkeypatch)
        clock.now = 5.0
        results = hp.Tuner(**given).fit()
        assert main(["ls", str(tmp_path)]) == main(["show", str(tmp_path / "walk")]) == 0
    assert story(tmp_path / "walk") == story(tmp_path / "whole" / "walk")
    assert alive and all(alive), "whoever looked meanwhile found a driver"
    times = seconds_of(tmp_path / "walk")
    assert all(earlier <= later for earlier, later in pairwise(times)) and times[0] == 0.25 * 4
    assert all(result.metrics["time_total_s"] >= 0.0 for result in results if result.metrics)

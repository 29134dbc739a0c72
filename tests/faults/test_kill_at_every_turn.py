"""Interrupted equals uninterrupted: killed at every single turn, with virtual slots and with worker processes.

A kill is played in this process: the journal's connection, the executor and all states in memory are let go of as they
are, and worker processes get a real SIGKILL, as they do when their driver dies. Real deaths of a real driver, at random
moments, are in test_kill_at_random.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import torchtune_hp as hp

from .studies import arguments, best_again, run_and_kill, story


@pytest.mark.parametrize("committed", [False, True], ids=["before-its-commit", "after-its-commit"])
def test_a_simulated_study_killed_at_any_turn_resumes_to_the_same_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    hp.Tuner(**arguments(tmp_path / "whole", hp.Simulated(8))).fit()
    whole = story(tmp_path / "whole" / "walk")
    assert len(whole) > 8
    for turn in range(1, len(whole) + 1):
        folder = tmp_path / str(turn)
        run_and_kill(turn, committed, arguments(folder, hp.Simulated(8)), monkeypatch)
        hp.Tuner(**arguments(folder, hp.Simulated(8))).fit()
        assert story(folder / "walk") == whole, f"killed at turn {turn}"
        reported, loaded = best_again(folder / "walk")
        assert reported == loaded


@pytest.mark.usefixtures("quick_server")
def test_ordered_processes_killed_at_any_turn_resume_to_the_story_of_simulated_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow: for each turn, sixteen worker processes are started and half of them killed."""
    small = {"trials": 14}
    hp.Tuner(**arguments(tmp_path / "whole", hp.Simulated(8), **small)).fit()
    whole = story(tmp_path / "whole" / "walk")
    assert len(whole) > 8
    for turn in range(1, len(whole) + 1):
        folder = tmp_path / str(turn)
        run_and_kill(turn, turn % 2 == 0, arguments(folder, hp.Processes(8, ordered=True), **small), monkeypatch)
        hp.Tuner(**arguments(folder, hp.Processes(8, ordered=True), **small)).fit()
        assert story(folder / "walk") == whole, f"killed at turn {turn}"
        reported, loaded = best_again(folder / "walk")
        assert reported == loaded

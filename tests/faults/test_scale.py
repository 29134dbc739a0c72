"""Studies of many trials: what it costs to open one and to know its best does not grow with it. Counted, not timed: steps of the database's
machine, and bytes. A million trials are timed by benchmarks/scale.py."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import torchtune_hp as hp
from torchtune_hp import journal_file
from torchtune_hp.cli_read import ls
from torchtune_hp.journal import Journal

SMALL, LARGE = 4_000, 16_000


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    home = tmp_path_factory.mktemp("studies")
    for trials in (SMALL, LARGE):
        hp.tune(
            None, {"x": hp.uniform(0.0, 1.0)}, metric="loss", mode="min", trials=trials, searcher=hp.RandomSearch(),
            scheduler=hp.ASHA(max_t=27, reduction_factor=3), verbose=0, storage=home, name=str(trials),
            executor=hp.Simulated(64, curve=lambda config, step: {"loss": config["x"] + 1 / step}),
        ).close()   # fmt: skip
    return {trials: home / str(trials) for trials in (SMALL, LARGE)}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How often each of the databases' machines did a hundred steps."""
    count, connect = [0], journal_file._connect

    def counted(target: str, path: Any) -> Any:
        def beat() -> None:
            count[0] += 1

        db = connect(target, path)
        db.set_progress_handler(beat, 100)
        return db

    monkeypatch.setattr(journal_file, "_connect", counted)
    yield count


def opening(folder: Path) -> None:
    hp.Results.open(folder).close()


def knowing_the_best(folder: Path) -> None:
    with hp.Results.open(folder) as results:
        assert results.best.metrics["loss"] < 0.1 and results[5].trial == 5 and results.journal.checkpoints() == []


def driving(folder: Path) -> None:
    """What a driver reads before it goes on from a journal that it has replayed, but for who was dropped: a byte each eight trials."""
    Journal.open(folder, write=True).close()


@pytest.mark.parametrize("does", [opening, knowing_the_best, driving])
def test_what_is_read_of_a_study_does_not_grow_with_it(studies: dict[int, Path], steps: list[int], does: Callable[[Path], None]) -> None:
    took = []
    for folder in studies.values():
        steps[0] = 0
        does(folder)
        took.append(steps[0])
    assert took[1] <= 2 * took[0] + 4, took


def test_looking_through_all_trials_takes_no_more_memory_for_more_of_them(studies: dict[int, Path]) -> None:
    peaks: dict[str, list[int]] = {"records": [], "turns": []}
    for trials, folder in studies.items():
        with hp.Results.open(folder) as results:
            streams: dict[str, Callable[[], Iterator[Any]]] = {"records": results.records, "turns": results.journal.turns}
            for name, stream in streams.items():
                next(stream())          # what is kept for good: names, and the database's own
                tracemalloc.start()
                assert sum(1 for _ in stream()) == (trials if name != "turns" else len(results.journal))
                peaks[name].append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
    assert all(large <= 2 * small for small, large in peaks.values()), peaks        # of four times as many


def test_a_study_of_many_is_listed_and_its_best_found_among_all(studies: dict[int, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert ls(studies[LARGE].parent, False) == 0
    assert "16,000" in capsys.readouterr().out.replace("16000", "16,000")
    with hp.Results.open(studies[LARGE]) as results:
        assert results.best.metrics["loss"] == min(row["loss"] for curve in results.curves().values() for row in curve)

"""Files that are torn, full, missing or not to be written: what the user reads, and what a resumed study comes to."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import torchtune_hp as hp
from tests.spoiled import DAMAGES, a_full_disk
from torchtune_hp.cli import main
from torchtune_hp.journal import Journal

from .studies import SPACE, Walk, arguments, best_again, run_and_kill, story


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process has written outlives the process, if not the machine; waiting for the disk is most of these tests' time."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The story of the study that nothing happened to."""
    home = tmp_path_factory.mktemp("whole")
    hp.Tuner(**arguments(home, hp.Simulated(4))).fit()
    return story(home / "walk")


def interrupted(home: Path, monkeypatch: pytest.MonkeyPatch, *, turn: int = 12, **changes: Any) -> dict[str, Any]:
    """The arguments of a study that died in that turn; every look of it was saved."""
    given = arguments(home, hp.Simulated(4), checkpoint_every=0.0, **changes)
    run_and_kill(turn, True, given, monkeypatch)
    return given


# The journal --------------------------------------------------------------------------------------------------------------


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def overwritten(content: bytes) -> bytes:
    return bytes(byte ^ 0xFF if 1024 <= place < 8192 else byte for place, byte in enumerate(content))


TORN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "garbage": lambda content: b"\x00garbage" * 999,
    "its-beginning": lambda content: bytes(100) + content[100:],
    "cut": cut,
    "overwritten": overwritten,
}


@pytest.mark.parametrize("how", TORN)
def test_a_torn_study_is_told_kept_as_it_is_and_never_begun_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    given = arguments(tmp_path, hp.Simulated(8), trials=40)
    hp.Tuner(**given).fit().close()
    file = tmp_path / "walk" / "study.db"
    torn = TORN[how](file.read_bytes())
    file.write_bytes(torn)
    for verb in ("show", "best", "resume"):
        if how in ("cut", "overwritten") and verb == "best":
            continue                    # one row, which may lie in a sound page
        assert main([verb, str(tmp_path / "walk")]) == 2
        out, error = capsys.readouterr()
        assert out == "" and str(file) in error and "left as it" in error
    with pytest.raises(hp.TorchtuneError, match="left as it"):
        hp.Tuner(**given).fit()         # resume="auto"
    assert file.read_bytes() == torn


def test_a_disk_that_is_full_pauses_the_study_which_goes_on_once_there_is_room(tmp_path: Path) -> None:
    hp.Tuner(**arguments(tmp_path / "whole", hp.Simulated(4), trials=60)).fit()
    whole = story(tmp_path / "whole" / "walk")
    for limit in (60_000, 75_000, 90_000):
        given = arguments(tmp_path / str(limit), hp.Simulated(4), trials=60)
        with a_full_disk(limit), pytest.raises(hp.JournalError) as caught:
            hp.Tuner(**given).fit()
        said = r"walk/study\.db: .*Is the disk full\? The journal takes [\d,]+ bytes, .* Make room and resume: whole turns are safe"
        assert re.search(said, str(caught.value))
        there = story(tmp_path / str(limit) / "walk")
        assert 0 < len(there) < len(whole) and there == whole[: len(there)]
        with hp.Tuner(**given).fit() as results:
            assert story(tmp_path / str(limit) / "walk") == whole and results.journal.check() == []


@pytest.mark.usefixtures("quick_server")
def test_where_the_disk_is_full_workers_go_with_their_driver(tmp_path: Path) -> None:
    seen = tmp_path / "pids"
    seen.mkdir()

    class Marking(Walk):
        def step(self) -> dict[str, Any]:
            (seen / str(os.getpid())).touch()
            return super().step()

    marking = type("Walk", (Marking,), {})
    given = arguments(tmp_path, hp.Processes(2, ordered=True), trainable=marking, trials=40)
    with a_full_disk(60_000), pytest.raises(hp.JournalError, match="Is the disk full?"):
        hp.Tuner(**given).fit()
    pids = [path.name for path in seen.iterdir()]
    assert len(pids) == 2 and not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    hp.Tuner(**given).fit().close()
    hp.Tuner(**given | {"storage": tmp_path / "whole", "executor": hp.Simulated(2)}).fit().close()
    assert story(tmp_path / "walk") == story(tmp_path / "whole" / "walk")


class Printing(Walk):
    def step(self) -> dict[str, Any]:
        print("x" * 50_000, flush=True)
        return super().step()


@pytest.mark.usefixtures("quick_server")
def test_what_a_trial_itself_writes_to_a_full_disk_fails_it(tmp_path: Path) -> None:
    """Seen, and not promised: its print goes to a file of the study, and raises as any print to a full disk does."""
    given = arguments(tmp_path, hp.Processes(1), trainable=Printing, trials=3, scheduler=hp.FullRuns(max_t=6))
    with a_full_disk(190_000):
        results = hp.Tuner(**given).fit()
    assert {error.trial: error.line for error in results.errors}[0] == "OSError: [Errno 27] File too large"
    assert (tmp_path / "walk" / "trials" / "000000" / "output.txt").stat().st_size == 190_000


def test_a_database_that_may_not_grow_pauses_the_study_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(tmp_path, hp.Serial())
    create = Journal.create.__func__        # type: ignore[attr-defined]

    def bounded(cls: type[Journal], *what: Any, **more: Any) -> Journal:
        journal: Journal = create(cls, *what, **more)
        (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
        journal._db.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
        return journal

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "create", classmethod(bounded))
        with pytest.raises(hp.JournalError, match="Is the disk full?"):
            hp.Tuner(**given).fit()
    hp.Tuner(**given).fit()
    hp.Tuner(**given | {"storage": tmp_path / "whole"}).fit()
    assert story(tmp_path / "walk") == story(tmp_path / "whole" / "walk")


@pytest.mark.parametrize("where", ["storage", "study"])
def test_a_folder_that_cannot_be_is_named_before_anything_is_trained(tmp_path: Path, where: str) -> None:
    trained: list[int] = []

    def train(config: dict[str, Any]) -> float:
        trained.append(1)
        return 0.0

    inway = tmp_path / "runs" if where == "storage" else tmp_path / "runs" / "mine"
    inway.parent.mkdir(exist_ok=True)
    inway.write_text("a file")
    with pytest.raises(hp.JournalError, match=rf"must be writable, but {inway}.*Choose another storage"):
        hp.tune(train, SPACE, metric="loss", mode="min", trials=2, executor=hp.Serial(), storage=tmp_path / "runs", name="mine", verbose=0)
    assert not trained and inway.read_text() == "a file"


def test_a_journal_that_may_only_be_read_is_read_and_refused_to_a_driver_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = interrupted(tmp_path, monkeypatch)
    connect = sqlite3.connect

    def reading(target: str, **how: Any) -> sqlite3.Connection:
        return connect(target.replace("mode=rw", "mode=ro"), **how)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", reading)
        assert len(hp.Results.open(tmp_path / "walk")) > 0
        with pytest.raises(hp.JournalError, match=r"walk/study\.db: attempt to write a readonly database.*writable"):
            hp.Tuner(**given).fit()


# Checkpoints --------------------------------------------------------------------------------------------------------------


class Heavy(Walk):
    """Each checkpoint takes 240 kB."""

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"value": self.value, "weights": torch.zeros(60_000)}


def test_where_a_checkpoint_finds_no_room_the_trial_goes_on_and_it_is_said(tmp_path: Path) -> None:
    given = arguments(tmp_path, hp.Serial(), trainable=Heavy, checkpoint_every=0.0, trials=8)
    with a_full_disk(200_000):
        results = hp.Tuner(**given).fit()
    hp.Tuner(**given | {"storage": tmp_path / "whole"}).fit()
    assert story(tmp_path / "walk") == story(tmp_path / "whole" / "walk")
    said = [note.text for note in results.log if note.kind == "checkpoint"]
    words = re.compile(r"not saved at step \d: .*needs 24\d,\d{3} bytes and cannot be written: File too large")
    assert said and all(words.search(text) for text in said)
    assert not list((tmp_path / "walk" / "checkpoints").rglob("*-*"))
    with pytest.raises(hp.CheckpointError, match="were not kept"):
        hp.Results.open(tmp_path / "walk", trainable=Heavy).best.load()
    hp.Tuner(**given).fit()             # there is room again: what was to be kept is made again
    best = hp.Results.open(tmp_path / "walk", trainable=Heavy).best
    assert abs(best.load().value) == best.metrics["loss"]


@pytest.mark.parametrize(
    ("damage", "all_of_them"), [("flipped", False), ("cut", False), ("gone", False), ("flipped", True), ("gone", True)]
)
def test_a_damaged_checkpoint_is_said_and_the_one_before_or_the_start_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[Any], damage: str, all_of_them: bool
) -> None:
    given = interrupted(tmp_path, monkeypatch)
    with Journal.open(tmp_path / "walk") as journal:
        rows = journal.checkpoints(purpose="resume")
    newest = {row.trial: row for row in rows}
    spoiled = rows if all_of_them else list(newest.values())
    assert len(rows) > len(newest) > 1
    for row in spoiled:
        DAMAGES[damage][0](tmp_path / "walk" / row.path)
    results = hp.Tuner(**given).fit()
    assert story(tmp_path / "walk") == whole
    said = " ".join(note.text for note in results.log if note.kind == "checkpoint")
    if damage == "gone":
        assert f"{len(spoiled)} records of files that are gone" in said
    else:
        assert "The one before it is used instead, or none." in said and any(row.path in said for row in spoiled)
    reported, loaded = best_again(tmp_path / "walk")
    assert reported == loaded


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_weights_that_were_kept_and_are_damaged_are_an_error_that_says_how_to_have_them_again(tmp_path: Path, damage: str) -> None:
    given = arguments(tmp_path, hp.Simulated(4))
    hp.Tuner(**given).fit().close()
    with Journal.open(tmp_path / "walk") as journal:
        (row,) = journal.checkpoints(purpose="keep")
    file = tmp_path / "walk" / row.path
    DAMAGES[damage][0](file)
    best = hp.Results.open(tmp_path / "walk", trainable=Walk).best
    again = f"To have trial {row.trial} trained to step {row.step} again, remove {file} and resume the study"
    with pytest.raises(hp.CheckpointError, match=f"{file}.* (is damaged|cannot be read).* {again}"):
        best.load()
    file.unlink(missing_ok=True)
    hp.Tuner(**given).fit().close()
    reported, loaded = best_again(tmp_path / "walk")
    assert reported == loaded

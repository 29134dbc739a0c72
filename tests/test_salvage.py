"""What is said of a damaged study, and what is saved of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import torchtune_hp as hp
from tests.faults.studies import Walk, arguments, best_again, run_and_kill, story
from tests.spoiled import DAMAGES, a_full_disk
from torchtune_hp.cli import main
from torchtune_hp.journal import Journal
from torchtune_hp.lock import DriverLock
from torchtune_hp.salvage import examine, salvage
from torchtune_hp.testing.journal_suite import HEADER, a_study, write
from torchtune_hp.trial import Note

PAGE = 1024


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that is over, as a folder."""
    home = tmp_path_factory.mktemp("whole")
    hp.Tuner(**arguments(home, hp.Simulated(4), trials=60)).fit().close()
    return home / "walk"


def copy_of(folder: Path, copy: Path, content: bytes) -> Path:
    copy.mkdir(parents=True)
    (copy / "study.db").write_bytes(content)
    return copy


def resumed(folder: Path) -> list[Any]:
    hp.Tuner.resume(folder, Walk, executor=hp.Simulated(4), verbose=0).fit().close()
    return story(folder)


def test_of_a_sound_study_there_is_nothing_to_say_and_all_of_it_is_copied(tmp_path: Path, whole: Path) -> None:
    found = examine(whole)
    assert (found.problems, found.whole, found.turns, found.trials, found.checkpoints) == ([], True, len(story(whole)), 60, 1)
    assert salvage(whole, tmp_path / "new") == found
    assert story(tmp_path / "new") == story(whole)
    with Journal.open(whole) as old, Journal.open(tmp_path / "new") as new:
        assert new.header == old.header and new.check() == []
        assert new.notes()[:-1] == old.notes() and new.notes()[-1].text.startswith(f"saved from a damaged study, {whole}: its first ")
    reported, loaded = best_again(tmp_path / "new")
    assert reported == loaded


def test_whatever_page_is_lost_a_beginning_is_saved_or_nothing_and_goes_on_to_the_same_story(tmp_path: Path, whole: Path) -> None:
    content, told = (whole / "study.db").read_bytes(), story(whole)
    pages = len(content) // PAGE
    saved = []
    for page in range(0, pages, max(1, pages // 14)):
        torn = content[: page * PAGE] + b"\xa5" * PAGE + content[(page + 1) * PAGE :]
        folder, new = copy_of(whole, tmp_path / str(page), torn), tmp_path / f"{page}-new"
        try:
            found = salvage(folder, new)
        except (hp.JournalError, hp.ConfigurationError):
            assert not new.exists(), "what cannot be saved at all leaves nothing"
            continue
        finally:
            assert (folder / "study.db").read_bytes() == torn
        assert story(new) == told[: found.turns] and found.whole == (found.turns == len(told))
        assert found.problems, "one page is gone"
        assert resumed(new) == told, page
        saved.append(found.turns)
    assert len(saved) >= 3 and any(0 < turns < len(told) for turns in saved), saved


def test_of_a_file_that_was_cut_the_beginning_is_saved_if_its_tables_are_there(tmp_path: Path, whole: Path) -> None:
    content, told = (whole / "study.db").read_bytes(), story(whole)
    saved = []
    for share in (0.05, 0.5, 0.8, 0.9, 0.95, 0.99):
        torn = content[: int(len(content) * share)]
        folder, new = copy_of(whole, tmp_path / str(share), torn), tmp_path / f"{share}-new"
        try:
            found = salvage(folder, new)
        except hp.JournalError as error:
            assert str(folder) in str(error) and not new.exists()
        else:
            assert found.problems[0] == f"{folder}/study.db was cut: it has {len(torn):,} of {len(content):,} bytes"
            assert "salvage-" not in str(found.problems)
            assert story(new) == told[: found.turns] and resumed(new) == told
            saved.append(found.turns)
        assert (folder / "study.db").read_bytes() == torn
    assert len(saved) >= 2 and saved == sorted(saved) and saved[0] > 0, saved


def test_checkpoints_that_are_sound_and_of_that_time_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(tmp_path, hp.Simulated(4), checkpoint_every=0.0)
    run_and_kill(12, True, given, monkeypatch)
    with Journal.open(tmp_path / "walk") as journal:
        rows = journal.checkpoints()
    DAMAGES["flipped"][0](tmp_path / "walk" / rows[0].path)
    DAMAGES["gone"][0](tmp_path / "walk" / rows[1].path)
    found = examine(tmp_path / "walk")
    assert (found.whole, found.checkpoints, len(found.problems)) == (True, len(rows) - 2, 2)
    assert "SHA-256" in found.problems[0] and "cannot be read" in found.problems[1]
    assert salvage(tmp_path / "walk", tmp_path / "new") == found
    with Journal.open(tmp_path / "new") as journal:
        assert [row.path for row in journal.checkpoints()] == [row.path for row in rows[2:]]
    hp.Tuner(**given | {"storage": tmp_path / "whole"}).fit()
    assert resumed(tmp_path / "new") == story(tmp_path / "whole" / "walk")


def test_where_there_is_a_study_or_no_room_nothing_is_saved(tmp_path: Path, whole: Path) -> None:
    before = story(whole)
    with pytest.raises(hp.StudyExistsError):
        salvage(whole, whole)
    with pytest.raises(hp.StudyNotFoundError):
        salvage(tmp_path / "nothing", tmp_path / "new")
    with a_full_disk(60_000), pytest.raises(hp.JournalError, match=r"new/study\.db.*Is the disk full"):
        salvage(whole, tmp_path / "new")
    assert not (tmp_path / "new").exists() and story(whole) == before


def test_the_command_says_what_is_wrong_and_what_to_type(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(whole)]) == 0
    assert capsys.readouterr().out == f"sound: {len(story(whole))} turns, 60 trials, 1 checkpoints\n"
    content = (whole / "study.db").read_bytes()
    with Journal.open(whole) as journal:
        ((row,),) = journal.rows("SELECT path FROM checkpoint")
    folder = copy_of(whole, tmp_path / "torn", content)         # without its checkpoint
    assert main(["doctor", str(folder)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"can be read: {len(story(whole))} turns, 60 trials, 0 checkpoints" and row in out[3]
    assert out[-1] == f"to save what can be read: torchtune-hp doctor {folder} --to NEW"
    with DriverLock(folder):
        assert main(["doctor", str(folder)]) == 1 and "a driver is at work on it" in capsys.readouterr().out
    assert main(["doctor", str(folder), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert row in said.pop("problems")[0]
    assert said == {"turns": len(story(whole)), "trials": 60, "checkpoints": 0, "whole": True}
    assert main(["doctor", str(folder), "--to", str(folder)]) == 2
    assert main(["doctor", str(folder), "--to", str(tmp_path / "new")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"saved in {tmp_path / 'new'}: ") and out[-1] == f"to go on: torchtune-hp resume {tmp_path / 'new'}"
    (folder / "study.db").write_bytes(b"garbage" * 999)
    for way in ([], ["--to", str(tmp_path / "other")]):
        assert main(["doctor", str(folder), *way]) == 2
        assert "not a journal" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_notes_keep_their_places_among_turns(tmp_path: Path) -> None:
    with Journal.create(tmp_path / "old", HEADER) as journal:
        for number, turn in enumerate(a_study(8)):
            journal.note(Note("said", f"before turn {number}", None, 0.5 * number))
            write(journal, [turn])
        journal.note(Note("said", "at the end", 3, 9.0))
    salvage(tmp_path / "old", tmp_path / "new")
    placed = []
    for name in ("old", "new"):
        with Journal.open(tmp_path / name) as journal:
            placed.append(list(journal.rows("SELECT turn, place, kind, text, trial, time FROM note ORDER BY id")))
    assert placed[1][:-1] == placed[0] and placed[1][-1][2] == "journal"


def test_it_needs_no_torch() -> None:
    code = "import sys, torchtune_hp.cli_doctor; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)

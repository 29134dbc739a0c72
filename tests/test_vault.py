"""The vault and its files: what is read back, what is kept, and what a crash, a full disk or an attacker may do to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.spoiled import DAMAGES, Malicious, a_folder, a_full_disk, flip
from torchtune_hp.checkpoints import Stamp, pack, write_state
from torchtune_hp.errors import CheckpointError, JournalError, UnsafeCheckpointError
from torchtune_hp.journal import Journal
from torchtune_hp.testing.journal_suite import HEADER
from torchtune_hp.vault import Vault


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.create(tmp_path, HEADER) as journal:
        yield journal


@pytest.fixture(params=["disk", "memory"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Vault]:
    folder = tmp_path if request.param == "disk" else None
    with Journal.create(folder, HEADER) as journal:
        yield Vault(folder, journal)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in (folder / "checkpoints").rglob("*") if path.is_file())


def the_file(folder: Path, start: str) -> Path:
    (path,) = (folder / "checkpoints").glob(f"*/{start}*")
    return path


@pytest.mark.parametrize("kind", ["state", "folder"])
def test_a_full_disk_leaves_the_earlier_checkpoint_as_it_was(tmp_path: Path, journal: Journal, kind: str) -> None:
    held = Vault(tmp_path, journal)
    held.put(3, 1, {"w": 1})
    large: Any = {"w": torch.zeros(200_000)} if kind == "state" else a_folder(tmp_path / "source", "x" * 400_000)
    before = files(tmp_path)
    message = r"000003/000000002-resume-\w+ needs \d\d\d,\d\d\d bytes and cannot be written: File too large"
    with a_full_disk(300_000), pytest.raises(CheckpointError, match=message):
        held.put(3, 2, large)
    assert files(tmp_path) == before
    assert held.newest(3) == (1, {"w": 1})


# What is kept -------------------------------------------------------------------------------------------------------------


def test_two_checkpoints_to_resume_from_and_one_kept(either: Vault) -> None:
    for step in range(1, 5):
        either.put(7, step, {"step": step})
        either.put(7, step, {"kept": step}, purpose="keep")
        either.put(8, step, {"other": step})
    rows = either._journal.checkpoints(7)
    assert [(row.step, row.purpose) for row in rows] == [(3, "resume"), (4, "resume"), (4, "keep")]
    assert len(either._journal.checkpoints(8)) == 2
    assert either.kept(7) == either.kept(7, 4) == {"kept": 4}
    assert (either.kept_step(7), either.kept_step(8)) == (4, None)
    if either.folder is not None:
        assert [name.rpartition("-")[0] for name in files(either.folder)] == [
            "checkpoints/000007/000000003-resume", "checkpoints/000007/000000004-keep", "checkpoints/000007/000000004-resume",
            "checkpoints/000008/000000003-resume", "checkpoints/000008/000000004-resume",
        ]   # fmt: skip
        assert {row.path for row in either._journal.checkpoints()} == set(files(either.folder))
    else:
        assert len(either._held) == 5


def test_what_was_not_kept_is_an_error_that_says_how_to_keep_it(either: Vault) -> None:
    either.put(7, 3, {"a": 1})
    either.put(8, 3, {"a": 1}, purpose="keep")
    with pytest.raises(CheckpointError, match="weights of trial 7 were not kept. `keep=k`"):
        either.kept(7)
    with pytest.raises(CheckpointError, match="trial 8 at step 4 were not kept"):
        either.kept(8, 4)


def test_the_newest_is_the_highest_step_whatever_it_was_written_for(either: Vault) -> None:
    assert either.newest(7) is None
    either.put(7, 5, {"a": 5}, purpose="keep")
    either.put(7, 3, {"a": 3})
    either.put(7, 4, {"a": 4})
    assert either.newest(7) == (5, {"a": 5})
    assert either.newest(7, upto=4) == (4, {"a": 4})
    assert either.newest(7, upto=2) is None
    either.put(7, 4, {"a": "again"})
    assert either.newest(7, upto=4) == (4, {"a": "again"})


def test_forgetting_to_resume_leaves_what_is_kept(either: Vault) -> None:
    either.put(7, 3, {"a": 3})
    either.put(7, 3, {"kept": 3}, purpose="keep")
    either.rest(7, 4, {"a": 4})
    either.forget(7)
    assert either.wake(7) is None
    assert either.newest(7) == (3, {"kept": 3})
    either.forget(7, purpose="keep")
    assert either.newest(7) is None
    either.forget(7)
    if either.folder is not None:
        assert list((either.folder / "checkpoints").iterdir()) == []


def test_a_state_in_the_vault_does_not_change_as_training_goes_on(either: Vault) -> None:
    weights = torch.zeros(2)
    either.put(1, 1, {"w": weights})
    either.rest(2, 1, {"w": weights})
    weights += 1
    for found in (either.newest(1), either.wake(2)):
        assert found is not None and isinstance(found[1], dict) and found[1]["w"].tolist() == [0.0, 0.0]


def test_folders_are_held_like_dicts(either: Vault, tmp_path: Path) -> None:
    source = a_folder(tmp_path / "source")
    either.put(1, 2, source)
    either.rest(1, 3, source)
    (source / "model.bin").write_text("changed")
    for found in (either.newest(1), either.wake(1)):
        assert found is not None and isinstance(found[1], Path)
        assert (found[1] / "model.bin").read_text() == "weights"
        assert (found[1] / "sub" / "model.bin").read_text() == "weights!"


def test_the_previous_file_goes_only_after_the_new_row_is_there(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Vault(tmp_path, journal)
    held.put(1, 1, {"a": 1}, purpose="keep")
    monkeypatch.setattr(Journal, "add_checkpoint", lambda *_: (_ for _ in ()).throw(JournalError("full")))
    with pytest.raises(JournalError):
        held.put(1, 2, {"a": 2}, purpose="keep")
    monkeypatch.undo()
    assert held.kept(1) == {"a": 1}
    assert held.sweep() == 1
    assert (held.kept(1), len(files(tmp_path))) == ({"a": 1}, 1)


def test_a_file_that_a_worker_wrote_is_recorded_by_its_relative_path(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Vault(tmp_path, journal)
    target = held.target(12, 3, "resume")
    assert target.parent == tmp_path / "checkpoints" / "000012" and target != held.target(12, 3, "resume")
    held.record(12, 3, write_state(target, {"a": 1}), "resume")
    (row,) = journal.checkpoints(12)
    assert row.path == target.relative_to(tmp_path).as_posix()
    assert (row.size, row.sha256) == (target.stat().st_size, sha256(target.read_bytes()).hexdigest())
    monkeypatch.chdir(tmp_path.parent)
    relative = Vault(Path(tmp_path.name), journal)
    relative.put(12, 4, {"a": 2})
    assert all(row.path.startswith("checkpoints/") for row in journal.checkpoints())
    assert Vault(tmp_path, journal).newest(12) == (4, {"a": 2})


def test_a_study_in_memory_has_no_files() -> None:
    with Journal.create(None, HEADER) as journal, pytest.raises(CheckpointError, match="has no files"):
        Vault(None, journal).target(1, 1, "resume")


def test_states_in_memory_are_gone_with_their_vault() -> None:
    with Journal.create(None, HEADER) as journal:
        Vault(None, journal).put(1, 1, {"a": 1}, purpose="keep")
        with pytest.raises(CheckpointError, match="was in memory, and is gone"):
            Vault(None, journal).kept(1)
        assert Vault(None, journal).sweep() == 1
        assert journal.checkpoints() == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_note(tmp_path: Path, journal: Journal, damage: str) -> None:
    held = Vault(tmp_path, journal)
    held.put(7, 1, {"a": 1})
    held.put(7, 2, {"a": 2})
    DAMAGES[damage][0](the_file(tmp_path, "000000002"))
    assert held.newest(7) == (1, {"a": 1})
    (note,) = journal.notes("checkpoint")
    assert note.trial == 7 and "000000002-resume" in note.text and note.text.endswith("The one before it is used instead, or none.")
    DAMAGES[damage][0](the_file(tmp_path, "000000001"))
    assert held.newest(7) is None
    with Journal.open(tmp_path) as reader:
        assert Vault(tmp_path, reader).newest(7) is None


def test_an_unsafe_checkpoint_is_not_passed_over(tmp_path: Path, journal: Journal) -> None:
    held = Vault(tmp_path, journal)
    held.put(7, 1, {"a": 1})
    target = held.target(7, 2, "resume")
    torch.save(Malicious(tmp_path / "marker"), target)
    held.record(7, 2, Stamp(str(target), target.stat().st_size, sha256(target.read_bytes()).hexdigest(), "state"), "resume")
    with pytest.raises(UnsafeCheckpointError):
        held.newest(7)
    assert not (tmp_path / "marker").exists()


def test_a_kept_checkpoint_that_is_damaged_is_an_error(tmp_path: Path, journal: Journal) -> None:
    held = Vault(tmp_path, journal)
    held.put(7, 1, {"a": 1}, purpose="keep")
    flip(the_file(tmp_path, "000000001"))
    with pytest.raises(CheckpointError, match="damaged"):
        held.kept(7)


def test_the_sweep_removes_orphans_and_empty_promises_and_nothing_else(tmp_path: Path, journal: Journal) -> None:
    held = Vault(tmp_path, journal)
    assert held.sweep() == 0
    held.put(1, 1, {"a": 1})
    held.put(1, 2, a_folder(tmp_path / "source"))
    held.put(2, 1, {"a": 2})
    assert (held.sweep(), journal.notes()) == (0, [])
    the_file(tmp_path, "000000002").joinpath("x").write_text("")
    outside = a_folder(tmp_path / "outside")
    write_state(held.target(1, 3, "keep"), {"a": 3})
    write_state(held.target(3, 3, "keep"), a_folder(tmp_path / "source3"))
    (tmp_path / "checkpoints" / "000001" / ".tmp-half").write_bytes(b"half")
    (tmp_path / "checkpoints" / "link").symlink_to(outside)
    next((tmp_path / "checkpoints" / "000002").iterdir()).unlink()
    assert held.sweep() == 5
    assert journal.notes("checkpoint")[0].text == "4 unrecorded checkpoint files were removed, and 1 records of files that are gone."
    assert (outside / "model.bin").exists() and not (tmp_path / "checkpoints" / "link").is_symlink()
    assert held.newest(1, upto=1) == (1, {"a": 1})
    assert [row.trial for row in journal.checkpoints()] == [1, 1]
    assert held.sweep() == 0


# Resting ------------------------------------------------------------------------------------------------------------------


def test_a_resting_state_is_woken_once(either: Vault) -> None:
    assert either.wake(1) is None
    either.rest(1, 3, {"a": 3})
    either.rest(1, 4, {"a": 4})
    assert either.wake(1) == (4, {"a": 4})
    assert either.wake(1) is None
    assert either._used == 0


def test_a_folder_that_a_trial_was_woken_with_lasts_until_it_rests_again_or_is_forgotten(either: Vault, tmp_path: Path) -> None:
    source = a_folder(tmp_path / "source")
    woken: list[Path] = []
    for step in range(3):
        either.rest(1, step, source)
        assert not any(path.exists() for path in woken)
        found = either.wake(1)
        assert found is not None and isinstance(found[1], Path)
        woken.append(found[1])
        assert (woken[-1] / "model.bin").read_text() == "weights"
    either.rest(1, 3, woken[-1])        # looked at, and put back
    assert (woken[-1] / "model.bin").read_text() == "weights"
    found = either.wake(1)
    assert found is not None and isinstance(found[1], Path) and found[1] != woken[-1]
    either.forget(2)
    either.forget(1, purpose="keep")
    assert found[1].exists()
    either.forget(1)
    assert not found[1].exists() and not woken[-1].exists()


def test_resting_states_beyond_the_budget_are_on_the_disk(tmp_path: Path, journal: Journal) -> None:
    size = len(pack({"a": 1}))
    held = Vault(tmp_path, journal, budget=2 * size)
    for trial in range(4):
        held.rest(trial, 1, {"a": trial})
    assert (held._used, [row.trial for row in journal.checkpoints(purpose="resume")]) == (2 * size, [2, 3])
    assert [held.wake(trial) for trial in (0, 3)] == [(1, {"a": 0}), (1, {"a": 3})]
    assert held.wake(3) is None
    held.rest(4, 1, {"a": 4})
    assert [row.trial for row in journal.checkpoints()] == [2, 3]
    held.forget(2)
    assert held.wake(2) is None
    held.forget(1)
    assert held._used == size


def test_without_a_disk_every_resting_state_is_held() -> None:
    with Journal.create(None, HEADER) as journal:
        held = Vault(None, journal, budget=0)
        held.rest(1, 1, {"a": 1})
        assert held.wake(1) == (1, {"a": 1})


def test_a_state_that_spilled_and_rests_again_is_the_newer_one(tmp_path: Path, journal: Journal) -> None:
    held = Vault(tmp_path, journal, budget=len(pack({"a": 1})))
    held.rest(1, 1, {"a": 1})
    held.rest(2, 5, {"a": 5})
    assert held.wake(1) is not None
    held.rest(2, 6, {"a": 6})
    assert held.wake(2) == (6, {"a": 6})
    assert held.wake(2) is None


def test_vault_and_checkpoints_need_no_torch_until_a_state_comes() -> None:
    code = "import sys, torchtune_hp.vault; assert 'torch' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

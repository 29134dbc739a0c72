"""Names, files and paths that were made to do harm: nothing runs, nothing is written outside, and text is shown as text."""

from __future__ import annotations

import json
import os
import sqlite3
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

import torchtune_hp as hp
from tests.spoiled import Malicious
from torchtune_hp.cli import main
from torchtune_hp.journal import CheckpointRow, Journal

from .studies import Walk, arguments, run_and_kill, story

# Checkpoints --------------------------------------------------------------------------------------------------------------


def poison(study: Path, marker: Path, purpose: str, *, recorded: bool) -> list[CheckpointRow]:
    """Replaces each checkpoint by one that makes `marker` when it is unpickled. `recorded`: the journal's row is forged as well."""
    with Journal.open(study) as journal:
        rows = journal.checkpoints(purpose=purpose)
    for row in rows:
        torch.save({"value": Malicious(marker)}, study / row.path)
        content = (study / row.path).read_bytes()
        if recorded:
            with sqlite3.connect(study / "study.db") as db:
                db.execute("UPDATE checkpoint SET size = ?, sha256 = ? WHERE id = ?", (len(content), sha256(content).hexdigest(), row.id))
            db.close()
    return rows


@pytest.mark.parametrize("recorded", [False, True], ids=["the-file", "the-file-and-its-row"])
def test_a_malicious_checkpoint_of_a_study_that_goes_on_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    marker, given = tmp_path / "marker", arguments(tmp_path, hp.Serial(), checkpoint_every=0.0, scheduler=hp.FullRuns(max_t=9), trials=3)
    run_and_kill(6, True, given, monkeypatch)
    assert len(poison(tmp_path / "walk", marker, "resume", recorded=recorded)) == 2
    results = hp.Tuner(**given).fit()
    assert not marker.exists()
    if recorded:            # it is the trial's own, and its last word
        error, *others = results.errors
        assert error.trial == 0 and "UnsafeCheckpointError" in error.line and "would run code" in error.line
        assert all("walked off" in other.line for other in others)
    else:                   # no state at all: it is trained again
        assert any("is damaged" in note.text for note in results.log if note.kind == "checkpoint")
        hp.Tuner(**given | {"storage": tmp_path / "whole"}).fit()
        assert story(tmp_path / "walk") == story(tmp_path / "whole" / "walk")


@pytest.mark.parametrize("recorded", [False, True], ids=["the-file", "the-file-and-its-row"])
def test_malicious_weights_are_not_loaded(tmp_path: Path, recorded: bool) -> None:
    marker = tmp_path / "marker"
    hp.Tuner(**arguments(tmp_path, hp.Serial(), trials=4)).fit()
    (row,) = poison(tmp_path / "walk", marker, "keep", recorded=recorded)
    best = hp.Results.open(tmp_path / "walk", trainable=Walk).best
    expected: Any = (hp.UnsafeCheckpointError, f"{row.path} holds more than data") if recorded else (hp.CheckpointError, "is damaged")
    with pytest.raises(expected[0], match=expected[1]):
        best.load()
    assert not marker.exists()


def test_a_journal_cannot_send_a_reader_out_of_its_folder(tmp_path: Path) -> None:
    hp.Tuner(**arguments(tmp_path, hp.Serial(), trials=4)).fit()
    with sqlite3.connect(tmp_path / "walk" / "study.db") as db:
        db.execute("UPDATE checkpoint SET path = '../../../etc/passwd'")
    db.close()
    with pytest.raises(hp.UnsafeCheckpointError, match=r"passwd' is outside of"):
        hp.Results.open(tmp_path / "walk", trainable=Walk).best.load()


# Names of studies ---------------------------------------------------------------------------------------------------------

ODD = ["../x", "..", ".", "/etc/x", "a/b", "a\\b", "nul\0", "new\nline", " x", "", "-rf", ".hidden", "a" * 101, "a" * 300, "é", "x y", 3]


@pytest.mark.parametrize("name", ODD, ids=[repr(name)[:12] for name in ODD])
def test_a_name_that_is_more_than_a_name_is_refused_and_makes_nothing(tmp_path: Path, name: Any) -> None:
    home = tmp_path / "home"
    home.mkdir()
    law = r"name: letters, digits, '\.', '_' and '-', at most 100, the first a letter or digit"
    for storage in (home, None):
        with pytest.raises(hp.ConfigurationError, match=law):
            hp.Tuner(**arguments(home, hp.Serial(), resume="never", name=name) | {"storage": storage})
    assert [path for path in tmp_path.rglob("*") if path != home] == []


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-9", "a" * 100])
def test_a_plain_name_is_a_folder(tmp_path: Path, name: str) -> None:
    hp.Tuner(**arguments(tmp_path, hp.Serial(), trials=1, name=name)).fit()
    assert os.listdir(tmp_path) == [name]


# Names of parameters and metrics ------------------------------------------------------------------------------------------

SQL = "x'); drop table trial;--"
HTML = "<script>alert('x')</script>"
MARKUP = "[red]bold[/red]"
ANSI = "\x1b[31mred\x1b[0m\rback"
NAMES = [SQL, HTML, MARKUP, ANSI, '"; DROP TABLE report; --', "{0}%s{metric!r}", "naïve ünïcode 🦊", "\x00\x7f\u202egnp"]


def odd_study(home: Path) -> hp.Results:
    """Each odd name is a parameter's, a value's, a metric's and an error's."""

    def train(config: dict[str, Any]) -> Any:
        if config["x"] > 0.8:
            raise ValueError(" ".join(NAMES))
        for step in range(2):
            yield {SQL: config["x"] + step, **dict.fromkeys(NAMES[1:], config["x"]), "text": HTML + ANSI}

    space = {"x": hp.uniform(0.0, 1.0), **{name: hp.choice([name, "b"]) for name in NAMES}}
    return hp.tune(
        train, space, metric=SQL, mode="min", trials=12, executor=hp.Serial(), searcher=hp.RandomSearch(), storage=home, name="odd",
        verbose=0,
    )  # fmt: skip


def test_names_of_any_kind_are_stored_as_they_are(tmp_path: Path) -> None:
    odd_study(tmp_path).close()
    results = hp.Results.open(tmp_path / "odd")
    assert len(results) == 12 and results.journal.check() == [] and results.objective.metrics == (SQL,)
    best = results.best
    assert set(best.config) == {"x", *NAMES} and all(best.config[name] in (name, "b") for name in NAMES)
    assert {name: best.metrics[name] for name in NAMES} == dict.fromkeys(NAMES, best.config["x"])
    assert results.errors and all(" ".join(NAMES) in error.traceback for error in results.errors)
    assert results.get_best_result(metric=NAMES[4], mode="max").metrics[NAMES[4]] == max(
        row[NAMES[4]] for curve in results.curves().values() for row in curve
    )


def test_what_is_written_to_a_terminal_is_text_and_no_command_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd_study(tmp_path).close()
    for command in (["show", str(tmp_path / "odd")], ["best", str(tmp_path / "odd")], ["ls", str(tmp_path)]):
        assert main(command) == 0
        out = "".join(capsys.readouterr())
        assert not [sign for sign in out if sign != "\n" and not sign.isprintable()], command
        assert MARKUP in out or command[0] == "ls"
        assert main([*command, "--json"]) == 0
        out, _ = capsys.readouterr()
        json.loads(out)
        assert "\x1b" not in out and "\x00" not in out
    with pytest.raises(hp.StudyExistsError) as caught:
        odd_study(tmp_path)
    assert "\x1b" not in str(caught.value)


def test_the_progress_of_such_a_study_is_text_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(hp.StudyFailedError):
        hp.tune(
            _raising, {"x": hp.uniform(0.0, 1.0), ANSI: hp.choice([ANSI, "b"])}, metric=ANSI, mode="min", trials=6,
            executor=hp.Serial(), searcher=hp.RandomSearch(), storage=tmp_path, name="odd",
        )  # fmt: skip
    said = "".join(capsys.readouterr())
    assert said and not [sign for sign in said if sign != "\n" and not sign.isprintable()]


def _raising(config: dict[str, Any]) -> None:
    raise ValueError(ANSI)

"""What `make mutants` changes, and its arithmetic: mutmut itself is not run here."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

import pytest

from . import mutants
from .test_floors import PACKAGE, ROOT, floor_of, name_of


def written(folder: Path, **codes: list[int | None]) -> Path:
    for name, of in codes.items():
        (folder / "pkg").mkdir(exist_ok=True)
        (folder / "pkg" / f"{name}.py.meta").write_text(json.dumps({"exit_code_by_key": {str(k): code for k, code in enumerate(of)}}))
    return folder


@pytest.mark.parametrize(
    "code, fate",
    [(1, "killed"), (3, "killed"), (36, "killed"), (-11, "killed"), (0, "survived"), (5, "no test"), (33, "no test"), (None, "untried"),
     (2, "untried"), (34, "untried")],
)   # fmt: skip
def test_an_exit_code_says_what_became_of_a_mutant(code: int | None, fate: str) -> None:
    assert mutants.fate(code) == fate


def test_85_per_cent_over_all_modules_is_enough_and_less_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mutants.told(written(tmp_path, a=[1] * 10, b=[1] * 7 + [0, 0, 33], c=[None])) == 0
    out = capsys.readouterr().out.splitlines()
    assert [row.split() for row in out[1:]] == [
        ["10", "0", "0", "100.0", "pkg/a.py"], ["7", "2", "1", "70.0", "pkg/b.py"],
        ["17", "2", "1", "85.0", "in", "all,", "1", "not", "tried"],
    ]  # fmt: skip
    assert mutants.told(written(tmp_path, b=[1] * 6 + [0] * 4)) == 1


def test_no_mutant_tried_is_a_failure(tmp_path: Path) -> None:
    assert mutants.told(tmp_path) == 1


def test_floors_0_2_and_3_are_mutated_and_no_other() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT.parent / "setup.cfg")
    named = setup["mutmut"]["only_mutate"].split()
    mutated = {path for pattern in named for path in ROOT.parent.glob(pattern)}
    deciding = {path for path in ROOT.rglob("*.py") if floor_of(name_of(path)) in (0, 2, 3)}
    assert mutated == deciding and all(pattern.startswith(f"{PACKAGE}/") for pattern in named)

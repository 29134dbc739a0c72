"""docs/guarantees.md says nothing that no test holds."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)


def test_every_test_that_is_named_is_there() -> None:
    missing = [
        f"{file}::{name}" for file, name in NAMED
        if not re.search(rf"^(async )?def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]  # fmt: skip
    assert missing == [] and len(NAMED) > 40


def test_every_promise_is_held_by_a_test_or_is_said_to_be_none_yet() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith(("| What happens", "| ---"))]
    assert len(rows) > 35
    for row in rows:
        assert row.count(" | ") == 2, row
        assert "::" in row or "**Not yet" in row, row


def test_every_test_of_faults_is_named_or_of_a_file_that_is() -> None:
    files = {file for file, _ in NAMED}
    assert {f"faults/{path.name}" for path in Path(__file__).parent.glob("test_*.py")} - files == {"faults/test_guarantees.py"}

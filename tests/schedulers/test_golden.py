"""The decisions of each scheduler in a fixed study, turn by turn. `python -m tests.golden.regenerate` writes them anew."""

from __future__ import annotations

import pytest

from .golden import STUDIES, kept, played


@pytest.mark.parametrize("name", STUDIES)
def test_the_decisions_are_those_written_down(name: str) -> None:
    expected = kept(name)
    got = played(name)
    assert isinstance(expected, list) and len(got) == len(expected)
    for k, (mine, golden) in enumerate(zip(got, expected)):
        assert mine == golden, f"turn {k} differs"

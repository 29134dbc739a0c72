"""What the commands share: errors of usage, and strict JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from .observers.wording import inert


class UsageError(Exception):
    """The command cannot be carried out as it was typed; the message says what to type instead."""


class NoResult(Exception):
    """There is a study, but nothing came of it (yet)."""


def inert_lines(text: str) -> str:
    """`inert`, line by line: a traceback keeps its lines."""
    return "\n".join(inert(line.replace("\t", "    ")) for line in text.splitlines())


def write(*lines: str) -> None:
    """Lines of data, to stdout."""
    for line in lines:
        print(line)


def write_json(value: Any) -> None:
    json.dump(strict(value), sys.stdout, indent=2, allow_nan=False)
    print()


def strict(value: Any) -> Any:
    """The value with "NaN", "Infinity" and "-Infinity" for the numbers that JSON has no word for."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return value

"""Values as people read them in a terminal: inert, short, and of a known width.

Law: whatever stands in a name, a config or a metric key, what comes out of `inert` is printable and on one line: an escape
code written by a trial cannot move the cursor, and a bidirectional mark cannot turn a line around.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..result import flat as prefixed


def inert(value: object, width: int | None = None) -> str:
    """`value` as printable text; every other character is a "?". Longer than `width` characters: cut, with ".." at its end."""
    text = str(value)
    if not text.isprintable():
        text = "".join(character if character.isprintable() else "?" for character in text)
    if width is not None and len(text) > width:
        text = text[: max(0, width - 2)] + ".."[:width]
    return text


def number(value: object) -> str:
    """A value in few characters: four significant digits, or more where 0.99996 would read as 1; anything else by its text."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        if value == int(value):
            return str(int(value)) if abs(value) < 1e6 else f"{value:.4g}"
        texts = (f"{value:.{digits}g}" for digits in (4, 6, 9))
        return next((text for text in texts if float(text) != int(float(text)) or abs(value) >= 1e3), repr(value))
    return inert(value)


def clock(seconds: float) -> str:
    """75.2 -> "01:15", 3600 -> "1:00:00", 90000 -> "1d 01:00:00"."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    if not hours:
        return f"{minute:02d}:{second:02d}"
    days, hour = divmod(hours, 24)
    return f"{days}d {hour:02d}:{minute:02d}:{second:02d}" if days else f"{hour}:{minute:02d}:{second:02d}"


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested config in one level: {"model": {"width": 8}} -> {"model.width": 8}."""
    return {name.removeprefix("config."): value for name, value in prefixed(config).items()}


def counted(counts: Mapping[str, int], none: str = "") -> str:
    """{"diverged": 2, "error": 1} -> "2 diverged, 1 error"; zeros are left out."""
    return ", ".join(f"{count} {inert(name)}" for name, count in counts.items() if count) or none


def width_of(text: str) -> int:
    """How many cells of a terminal the text takes: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, width: int, right: bool = False) -> str:
    gap = " " * (width - width_of(text))
    return gap + text if right else text + gap


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], room: int | None = None, widths: dict[str, int] | None = None) -> list[str]:
    """A table as lines, the head first. What reads as a number stands at the right.

    `room`: leaves out columns at the right that do not fit, and says how many in the head ("+3"). `widths`: at least so wide
    is a column; updated, so that a table that is drawn again and again does not tremble.
    """
    cells = [[head[i], *(row[i] for row in rows)] for i in range(len(head))]
    wide = [max([(widths or {}).get(column[0], 0), *map(width_of, column)]) for column in cells]
    if widths is not None:
        widths.update(zip(head, wide))
    fit = len(head)
    if room is not None and sum(wide) + 2 * (fit - 1) > room:
        room -= len("  +99")
        fit = max((n for n in range(1, fit) if sum(wide[:n]) + 2 * (n - 1) <= room), default=1)
    lines: list[str] = []
    rights = [any(map(_reads_as_number, column[1:])) for column in cells]
    for row in zip(*cells[:fit]):
        line = "  ".join(padded(text, width, right) for text, width, right in zip(row, wide, rights))
        lines.append(line if lines or fit == len(head) else f"{line}  +{len(head) - fit}")
    return [line.rstrip() for line in lines]


def named(values: Iterable[tuple[str, str]], indent: str = "  ") -> list[str]:
    """Name and value, one pair a line, the values under each other."""
    pairs = list(values)
    wide = max((width_of(name) for name, _ in pairs), default=0)
    return [f"{indent}{padded(name, wide)}  {value}".rstrip() for name, value in pairs]


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""How a running study looks: at most 20 lines, from what is tallied. Plain text with styles; nothing in it is read as markup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..spec import brief
from .base import StudyInfo
from .tally import TOP, Row, Tally
from .wording import clock, columns, counted, flat, inert, number

if TYPE_CHECKING:
    from rich.text import Text

LINES = 20


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast it goes. `elapsed`: seconds of all sessions; `left`: seconds, None where nobody can know."""

    elapsed: float
    trials: float = 0.0
    reports: float = 0.0
    left: float | None = None


@dataclass(frozen=True, slots=True)
class Loading:
    """How far the reading of a data set has come, in samples."""

    what: str
    done: int
    total: int

    def __str__(self) -> str:
        return f"{inert(self.what, 40)}  {self.done:,} of {self.total:,} samples"


def pace(info: StudyInfo, tally: Tally, seconds: float) -> Pace:
    """`seconds` of this session by the wall clock."""
    elapsed = info.standing.seconds + seconds
    if seconds <= 0:
        return Pace(elapsed)
    return Pace(elapsed, tally.over / seconds, tally.reports / seconds, _left(info, tally, seconds))


def _left(info: StudyInfo, tally: Tally, seconds: float) -> float | None:
    """The nearer of two ends: the last trial, at the rate trials have left the slots so far, and the time budget."""
    ends = []
    limits = info.limits
    through = tally.made - tally.running - (info.before - len(info.standing.since))
    if limits.trials is not None and through >= 3:
        ends.append(seconds / through * max(0, limits.trials - tally.made + tally.running))
    if limits.seconds is not None:
        spent = tally.seconds - info.standing.seconds
        left = limits.seconds - info.standing.seconds
        # Study time runs ahead of the wall clock only where it is simulated; then it is a measure, not a time.
        ends.append(left - seconds if spent <= seconds + 1 else (left - spent) * seconds / spent)
    return max(0.0, min(ends)) if ends else None


def goal(info: StudyInfo) -> str:
    """accuracy max, params min"""
    return ", ".join(f"{inert(metric, 40)} {mode}" for metric, mode in zip(info.objective.metrics, info.objective.modes))


def trained(header: Mapping[str, Any]) -> str:
    """What is trained."""
    return inert((header.get("trainable") or {}).get("name", ""), 40)


def made(info: StudyInfo, tally: Tally) -> str:
    """12/64"""
    return f"{tally.made}" if info.limits.trials is None else f"{tally.made}/{info.limits.trials}"


def counts(tally: Tally) -> str:
    """8 running, 3 resting, 1 completed, 2 failed (1 diverged, 1 error)"""
    parts = {"running": tally.running, "resting": tally.resting, "completed": tally.ended["completed"], "stopped": tally.ended["stopped"]}
    text = counted(parts)
    if tally.ended["failed"]:
        failed = f"{tally.ended['failed']} failed ({counted(dict(tally.kinds.most_common()))})"
        text = f"{text}, {failed}" if text else failed
    return text


def bests(info: StudyInfo, tally: Tally) -> list[str]:
    """One line for the best, or the front and its extremes."""
    metrics = info.objective.metrics
    if len(metrics) == 1:
        if tally.best is None:
            return ["none yet"]
        return [f"{value(tally.best, metrics[0])}  trial {tally.best.trial}, step {tally.best.step}"]
    lines = [f"{len(tally.front)} trials" if len(tally.front) != 1 else "1 trial"]
    for metric, mode in zip(metrics, info.objective.modes):
        rows = [row for row in tally.front.values() if isinstance(row.metrics.get(metric), (int, float))]
        if rows:
            row = (min if mode == "min" else max)(rows, key=lambda row: float(row.metrics[metric] or 0.0))
            lines.append(f"{inert(metric, 24)} {value(row, metric)}  trial {row.trial}, step {row.step}")
    return lines


def value(row: Row, metric: str) -> str:
    return number(row.metrics.get(metric))


def config_line(row: Row, width: int = 200) -> str:
    """lr=0.00123 width=32"""
    return inert(" ".join(f"{key}={number(item)}" for key, item in flat(row.config).items()), max(8, width))


def per(rate: float, what: str) -> str:
    """3.1 trials/s; what is slow is counted by the minute or the hour."""
    for seconds, unit in ((1, "s"), (60, "min")):
        if rate * seconds >= 0.95 or not rate:
            return f"{number(float(f'{rate * seconds:.2g}'))} {what}/{unit}"
    return f"{number(float(f'{rate * 3600:.2g}'))} {what}/h"


def picture(
    info: StudyInfo, tally: Tally, at: Pace, width: int, height: int, widths: dict[str, int], loading: Loading | None = None
) -> Text:
    """The whole of it, at most `width` cells wide, and LINES or `height` lines high."""
    lines = _head(info, tally, at, width)
    if loading is not None:
        lines.append(_labeled("loading", str(loading)))
    rest = min(LINES, height - 1) - len(lines) - 2
    if rest > 0 and (tally.top or tally.front):
        lines += [[], *_top(info, tally, rest, width, widths)]
    return _text(lines[: max(1, min(LINES, height - 1))], width)


Line = list[tuple[str, str]]
"""Pieces of a line: (text, style)."""


def _head(info: StudyInfo, tally: Tally, at: Pace, width: int) -> list[Line]:
    how = ", ".join(brief(info.header[part]).partition("(")[0] for part in ("scheduler", "searcher") if info.header.get(part))
    left = f"  left {clock(at.left)}" if at.left is not None else ""
    time = f"{clock(at.elapsed)}{left}"
    title = ", ".join(filter(None, [trained(info.header), goal(info), inert(how, 60)]))
    name = inert(info.name, 40)
    room = width - len(name) - len(time) - 4
    lines: list[Line] = [[(name, "bold"), (f"  {inert(title, room):<{max(0, room)}}  ", "dim"), (time, "")]]
    first, *others = bests(info, tally)
    if len(info.objective.metrics) > 1:
        lines += [_labeled("front", first), *(_labeled("", line) for line in others)]
    else:
        lines.append(_labeled("best", first, "bold green" if tally.best is not None else "dim"))
        if tally.best is not None and (room := width - 13 - len(first)) >= 12:
            lines[-1].append((f"   {config_line(tally.best, room)}", "dim"))
    lines.append(_labeled("trials", f"{made(info, tally)}  {counts(tally)}"))
    if rungs := tally.rungs:
        lines.append(_labeled("rungs", "  ".join(f"{level}: {count}" for level, count in rungs)))
    lines.append(_labeled("rate", f"{per(at.trials, 'trials')}, {per(at.reports, 'reports')}"))
    if tally.stacks:
        lines.append(_labeled("stacks", inert(tally.stacks, max(8, width - 8))))
    if tally.notes:
        lines.append(_labeled("notes", counted(dict(tally.notes.most_common(6)))))
    return lines


def _labeled(label: str, text: str, style: str = "") -> Line:
    return [(f"{label:<8}", "cyan"), (text, style)]


def _top(info: StudyInfo, tally: Tally, rest: int, width: int, widths: dict[str, int]) -> list[Line]:
    metrics = info.objective.metrics
    several = len(metrics) > 1
    rows = sorted((tally.front if several else tally.top).values(), key=lambda row: row.value)[: min(TOP, rest)]
    head, cells = table(rows, metrics)
    first, *others = columns(head, cells, width, widths)
    return [[(first, "dim")], *([(line, "bold" if place == 0 and not several else "")] for place, line in enumerate(others))]


def table(rows: list[Row], metrics: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Rank, trial, step, the metrics, and the config, as a head and rows of text."""
    configs = [flat(row.config) for row in rows]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    head = ["#", "trial", "step", *(inert(metric, 20) for metric in metrics), *(inert(key, 20) for key in keys)]
    cells = [
        [
            str(place), str(row.trial), str(row.step), *(inert(value(row, metric), 12) for metric in metrics),
            *(inert(number(config[key]), 16) if key in config else "" for key in keys),
        ]
        for place, (row, config) in enumerate(zip(rows, configs), 1)
    ]  # fmt: skip
    return head, cells


def _text(lines: list[Line], width: int) -> Text:
    from rich.text import Text

    whole = Text(no_wrap=True, overflow="crop", end="")
    for place, line in enumerate(lines):
        text = Text(no_wrap=True)
        for piece, style in line:
            text.append(piece, style)
        text.truncate(width)
        whole.append("\n" if place else "")
        whole.append_text(text)
    return whole

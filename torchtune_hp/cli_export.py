"""`export`: trials or reports as CSV, row by row, so that a study of any size takes no memory.

Columns: trial, state, step, time, the metrics by their names, and the hyperparameters as config.<name>. A metric that is
named like one of the first four is metrics.<name>. Strings as they are, NaN and infinities as nan, inf, -inf, None as nothing.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .journal import Journal
from .journal_rows import from_json, to_json
from .result import flat

FIXED = ("trial", "state", "step", "time")

Record = tuple[tuple[Any, ...], Mapping[str, Any], Mapping[str, Any]]
"""The fixed columns, the metrics, the hyperparameters."""

# Of one objective the best report of a trial, the earliest of equals; of several the last one.
_TRIALS = """SELECT t.id, t.state, r.step, r.time, r.metrics, t.config FROM trial t
    LEFT JOIN report r ON r.id = (SELECT id FROM report WHERE trial = t.id ORDER BY {order} LIMIT 1) ORDER BY t.id"""
_REPORTS = "SELECT r.trial, t.state, r.step, r.time, r.metrics, t.config FROM report r JOIN trial t ON t.id = r.trial ORDER BY r.id"


def export(folder: Path, output: str | None, reports: bool) -> int:
    with Journal.open(folder) as journal:
        order = "value = -9e999, value, turn" if len(journal.objective.metrics) == 1 else "id DESC"
        sql = _REPORTS if reports else _TRIALS.format(order=order)
        metrics: dict[str, None] = {}
        configs: dict[str, None] = {}
        for _, shown, config in _records(journal, sql):         # two passes: a trial of the end may report what none did before
            metrics |= dict.fromkeys(shown)
            configs |= dict.fromkeys(config)
        if output is None:
            _write(sys.stdout, list(metrics), list(configs), _records(journal, sql))
        else:
            with open(output, "w", newline="", encoding="utf-8") as file:
                _write(file, list(metrics), list(configs), _records(journal, sql))
    return 0


def _records(journal: Journal, sql: str) -> Iterator[Record]:
    for trial, state, step, time, metrics, config in journal.rows(sql):
        reported = {} if metrics is None else from_json(metrics)
        named = {f"metrics.{name}" if name in FIXED else name: value for name, value in reported.items()}
        yield (trial, state, step, time), named, flat(from_json(config))


def _write(file: IO[str], metrics: list[str], configs: list[str], records: Iterable[Record]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*FIXED, *metrics, *configs])
    for fixed, shown, config in records:
        writer.writerow([*fixed, *(_cell(shown.get(name)) for name in metrics), *(_cell(config.get(name)) for name in configs)])


def _cell(value: Any) -> Any:
    return to_json(value) if isinstance(value, (list, dict)) else value

"""`export`: trials or reports as CSV, row by row, so that a study of any size takes no memory.

Columns: trial, state, step, time, the metrics by their names, and the hyperparameters as config.<name>. A metric that is
named like one of the first four is metrics.<name>. Strings as they are, NaN and infinities as nan, inf, -inf, None as nothing.
A trial stands with the report that `Results.get_dataframe` shows.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .journal_text import to_json
from .results import Results
from .tables import FIXED, LOOK, Record, record

_REPORTS = f"""SELECT r.trial, t.state, r.step, r.time, r.metrics, config_text(t.x, t.config, t.names)
    FROM report r JOIN trials t ON t.id = r.trial WHERE r.{LOOK} ORDER BY r.id"""


def export(folder: Path, output: str | None, reports: bool) -> int:
    with Results.open(folder) as results:
        metrics: dict[str, None] = {}
        configs: dict[str, None] = {}
        for row in _records(results, reports):      # two passes: a trial of the end may report what none did before
            metrics |= dict.fromkeys(row.metrics)
            configs |= dict.fromkeys(row.config)
        if output is None:
            _write(sys.stdout, list(metrics), list(configs), _records(results, reports))
        else:
            with open(output, "w", newline="", encoding="utf-8") as file:
                _write(file, list(metrics), list(configs), _records(results, reports))
    return 0


def _records(results: Results, reports: bool) -> Iterator[Record]:
    if not reports:
        return results.records()
    return (record(tuple(fixed), metrics, config) for *fixed, metrics, config in results.journal.rows(_REPORTS))


def _write(file: IO[str], metrics: list[str], configs: list[str], records: Iterable[Record]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*FIXED, *metrics, *configs])
    for fixed, shown, config in records:
        writer.writerow([*fixed, *(_cell(shown.get(name)) for name in metrics), *(_cell(config.get(name)) for name in configs)])


def _cell(value: Any) -> Any:
    return to_json(value) if isinstance(value, (list, dict)) else value

"""What came of a study as tables: a row for each trial or report, and a curve for each trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .journal import Journal
from .journal_text import from_json
from .result import flat

LOOK = """id NOT IN (SELECT max(id) FROM report WHERE trial IN (SELECT trial FROM report WHERE done)
    GROUP BY trial HAVING count(*) > count(DISTINCT step))"""
"""Of rows of the table `report`, those that are looks. Law: a trial is looked at once a step. One that ended without a further report,
as a function does, said so with its last one again, and that is no look of its own."""

FIXED = ("trial", "state", "step", "time")


class Record(NamedTuple):
    """A row of a table. `fixed`: the values of FIXED. `metrics`: one named like those is metrics.<name>. `config`: config.<name>."""

    fixed: tuple[Any, ...]
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]


def record(fixed: tuple[Any, ...], metrics: str | None, config: str) -> Record:
    """From a row of the journal."""
    named = {f"metrics.{name}" if name in FIXED else name: value for name, value in metrics_of(metrics).items()}
    return Record(fixed, named, flat(from_json(config)))


def metrics_of(text: str | None) -> dict[str, Any]:
    """Of a report in the journal; None: there was none."""
    return {} if text is None else from_json(text)


def frame(records: Iterable[Record]) -> Any:
    """`Results.get_dataframe`."""
    table = list(records)
    columns = [*FIXED[:3], *_keys(row.metrics for row in table), *_keys(row.config for row in table), FIXED[3]]
    rows = [{**dict.fromkeys(columns), **row.metrics, **row.config, **dict(zip(FIXED, row.fixed))} for row in table]
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows, columns=columns)


def curves(journal: Journal) -> dict[int, list[dict[str, Any]]]:
    """`Results.curves`."""
    found: dict[int, list[dict[str, Any]]] = {trial: [] for (trial,) in journal.rows("SELECT id FROM trial ORDER BY id")}
    for trial, step, metrics in journal.rows(f"SELECT trial, step, metrics FROM report WHERE {LOOK} ORDER BY id"):
        named = {"metrics.step" if name == "step" else name: value for name, value in from_json(metrics).items()}
        found.setdefault(trial, []).append({**named, "step": step})
    return found


def _keys(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))

"""The commands that read studies: `ls`, `show`, `best`. They open journals for reading, and import nothing a study names."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .cli_output import NoResult, UsageError, write, write_json
from .errors import TorchtuneError
from .journal_file import NAME
from .lock import DriverLock
from .observers.picture import table
from .observers.tally import Row
from .observers.wording import clock, columns, counted, flat, inert, named, number
from .population.census import STACKS
from .result import Result
from .results import Results
from .spec import brief
from .tables import LOOK

STATES = ("running", "interrupted", "resting", "completed", "stopped", "failed")
"""The journal's, and "interrupted": a trial was under way when its study lost its driver, and goes on when that is resumed."""
TOP = 10
SHOWN = 20
"""So many errors, and so many notes, are shown; `--json` has all."""


def ls(storage: Path, as_json: bool) -> int:
    if not storage.is_dir():
        raise UsageError(f"{storage} is no folder. Studies are kept in `runs`, unless storage= said otherwise: torchtune-hp ls FOLDER.")
    folders = sorted((file.parent for file in storage.glob(f"*/{NAME}")), key=lambda folder: (_when(folder), folder.name))
    studies = [_listed(folder) for folder in folders]
    if as_json:
        write_json(studies)
        return 0
    if not studies:
        write(f"no studies in {inert(storage)}")
        return 0
    rows = []
    for study in studies:
        states = counted({state: study["states"].get(state, 0) for state in STATES}, "none")
        error = f"unreadable: {study['error']}" if "error" in study else ""
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(study["modified"]))
        rows.append([inert(study["name"], 40), "-" if error else str(study["trials"]), inert(error, 100) or states, _best_of(study), day])
    write(*columns(["name", "trials", "states", "best", "when"], rows))
    return 0


def show(folder: Path, as_json: bool) -> int:
    with Results.open(folder) as results:
        study = _shown(folder, results)
        front = len(results.objective.metrics) > 1
        if as_json:
            write_json(study)
            return 0
        header = results.header
        write(*named([(name, inert(value)) for name, value in _settings(folder, header).items()], indent=""))
        states = counted({state: study["states"].get(state, 0) for state in STATES}, "none")
        kinds = counted(Counter(error["kind"] for error in study["errors"]))
        counts = [("trials", f"{study['trials']}: {states}" + (f" ({kinds})" if kinds else ""))]
        counts.append(("reports", f"{study['reports']} in {clock(study['seconds'])} of study time"))
        if study["members_per_stack"]:
            counts.append(("stacks", inert(study["members_per_stack"], 160)))
        write(*named(counts, indent=""))
        rows = [_row(result, results) for result in (results.pareto if front else results.top(TOP))]
        if rows:
            lines = columns(*table(rows[:SHOWN], results.objective.metrics), _room(2))
            write("", "front" if front else "best", *(f"  {line}" for line in lines))
        errors = [(f"trial {error['trial']}", f"{error['kind']}: {inert(error['line'], 100)}") for error in study["errors"]]
        _section("errors", errors)
        _section("notes", [(inert(note["kind"], 20), inert(note["text"], 160)) for note in study["notes"] if note["kind"] != STACKS])
    return 0


def best(folder: Path, as_json: bool) -> int:
    with Results.open(folder) as results:
        if len(results.objective.metrics) > 1:
            front = results.pareto
            if not front:
                raise NoResult(f"{folder}: no trial has reported finite metrics yet.")
            if as_json:
                write_json({"pareto": [_result(folder, result) for result in front]})
            else:
                write(*columns(*table([_row(result, results) for result in front], results.objective.metrics), _room()))
            return 0
        try:
            found = results.best
        except TorchtuneError as error:
            raise NoResult(f"{folder}: {error}") from None
        if as_json:
            write_json(_result(folder, found))
            return 0
        write(f"trial {found.trial}, step {found.step}, {_state(folder, found.state)}")
        write("config", *named([(inert(name), _whole(value)) for name, value in flat(found.config).items()]))
        write("metrics", *named([(inert(name), _whole(value)) for name, value in found.reported.items()]))
    return 0


def _room(indent: int = 0) -> int | None:
    """Cells of a line: a terminal's width, and as many as there are for a pipe."""
    return shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else None


def _section(title: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        write("", title, *named(rows[:SHOWN]))
        if len(rows) > SHOWN:
            write(f"  and {len(rows) - SHOWN} more (--json has all)")


def _listed(folder: Path) -> dict[str, Any]:
    """A study as `ls` lists it. One that cannot be read is listed with its error, and never as an empty one."""
    study: dict[str, Any] = {"name": folder.name, "path": str(folder), "modified": _when(folder)}
    study |= {"trials": None, "states": {}, "best": None}
    try:
        with Results.open(folder) as results:
            study |= {"trials": len(results), "states": _states(folder, results), "best": _brief_best(results)}
    except TorchtuneError as error:
        study["error"] = str(error).removeprefix(f"{folder / NAME}").lstrip(": ")
    return study


def _states(folder: Path, results: Results) -> dict[str, int]:
    return {_state(folder, state): count for state, count in results.counts().items()}


def _state(folder: Path, state: str) -> str:
    return "interrupted" if state == "running" and not DriverLock(folder).held() else state


def _brief_best(results: Results) -> dict[str, Any] | None:
    """The first metric's best. Of several objectives none is the best, and finding the front would read every report."""
    if len(results.objective.metrics) > 1:
        return None
    for result in results.top(1):
        metric = results.objective.metrics[0]
        return {"metric": metric, "value": result.reported.get(metric), "trial": result.trial, "step": result.step}
    return None


def _best_of(study: Mapping[str, Any]) -> str:
    found = study["best"]
    return "" if found is None else f"{inert(found['metric'], 24)} {number(found['value'])}"


def _when(folder: Path) -> float:
    """When the journal was last written to: itself, or the log beside it, which readers may have left there empty."""
    times = [0.0]
    for file in (folder / NAME, folder / f"{NAME}-wal"):
        with suppress(FileNotFoundError):       # a driver that ends removes its log, at any time
            stat = file.stat()
            times += [stat.st_mtime] if stat.st_size else []
    return max(times)


def _settings(folder: Path, header: Mapping[str, Any]) -> dict[str, str]:
    trainable = header.get("trainable") or {}
    goals = ", ".join(f"{metric} {mode}" for metric, mode in zip(header["metric"], header["mode"]))
    file = f" ({trainable['file']})" if trainable.get("file") else ""
    name = f"{trainable.get('name', '?')}{file}"
    settings = {"name": header.get("name", folder.name), "folder": str(folder), "trainable": name, "goal": goals}
    for name in ("outcome_constraints", "searcher", "scheduler", "executor", "stop"):
        if header.get(name):
            settings[name] = ", ".join(header[name]) if name == "outcome_constraints" else brief(header[name])
    if header.get("seeds", 1) > 1:
        settings["seeds"] = f"{header['seeds']} of each trial"
    if header.get("folds") is not None:
        settings["folds"] = str(header["folds"])
    return settings | {name: str(header[name]) for name in ("seed", "capacity", "max_t") if header.get(name) is not None}


def _shown(folder: Path, results: Results) -> dict[str, Any]:
    (reports,) = next(results.journal.rows(f"SELECT count(*) FROM report WHERE {LOOK}"))
    several = len(results.objective.metrics) > 1
    found = results.pareto if several else results.top(TOP)
    return {
        "name": results.header.get("name", folder.name),
        "path": str(folder),
        "settings": results.header,
        "trials": len(results),
        "states": _states(folder, results),
        "reports": reports,
        "seconds": results.seconds,
        "members_per_stack": results.members_per_stack,
        "best": None if several or not found else _result(folder, found[0]),
        "pareto" if several else "top": [_result(folder, result) for result in found],
        "errors": [{"trial": error.trial, "kind": error.kind, "line": error.line} for error in results.errors],
        "notes": [{"kind": note.kind, "text": note.text, "trial": note.trial, "seconds": note.time} for note in results.log],
    }


def _result(folder: Path, result: Result) -> dict[str, Any]:
    return {
        "trial": result.trial, "state": _state(folder, result.state), "step": result.step,
        "config": result.config, "metrics": result.reported,
    }  # fmt: skip


def _row(result: Result, results: Results) -> Row:
    return Row(result.trial, result.config, result.step or 0, results.objective.values(result.reported)[0], result.reported)


def _whole(value: object) -> str:
    """All digits: this is what people copy."""
    return inert(repr(value) if isinstance(value, float) else value)

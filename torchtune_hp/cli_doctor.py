"""`doctor`: what is wrong with a study's files; with `--to`, what can be read of it as a study in another folder."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

from .cli_output import UsageError, inert_lines, write, write_json
from .lock import DriverLock
from .salvage import Findings, examine, salvage


def doctor(folder: Path, to: str | None, json: bool) -> int:
    """0: all of it is sound, or what could be read was saved. 1: something is wrong."""
    if to is None:
        found = examine(folder)
        if json:
            write_json(asdict(found))
            return 1 if found.problems else 0
        write(_counted(found, "sound" if not found.problems else "can be read"))
        _problems(found)
        if found.problems:
            if DriverLock(folder).held():
                write("", "a driver is at work on it: checkpoints come and go meanwhile. Look again when it has ended.")
            write("", f"to save what can be read: torchtune-hp doctor {shlex.quote(str(folder))} --to NEW")
        return 1 if found.problems else 0
    if Path(to).absolute() == folder.absolute():
        raise UsageError(f"--to: another folder than {folder} is needed, which is left as it is.")
    found = salvage(folder, Path(to))
    if json:
        write_json(asdict(found))
        return 0
    write(_counted(found, f"saved in {to}"))
    _problems(found)
    write("", f"to go on: torchtune-hp resume {shlex.quote(to)}")
    return 0


def _counted(found: Findings, what: str) -> str:
    return f"{what}: {found.turns:,} turns, {found.trials:,} trials, {found.checkpoints:,} checkpoints"


def _problems(found: Findings) -> None:
    if found.problems:
        write("", "problems", *(f"  {inert_lines(problem)}" for problem in found.problems))

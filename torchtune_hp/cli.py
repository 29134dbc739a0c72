"""The command line: `torchtune-hp`.

    run FILE:NAME     a study of a train function, a class or a Tuner in a Python file
    resume DIR        goes on with a study that was interrupted, or extends one that was over
    ls [STORAGE]      the studies in a folder
    show DIR          one study: settings, counts, the best trials, errors, notes
    best DIR          the best config and its metrics
    export DIR        all trials, or all reports, as CSV
    doctor DIR        what is wrong with a study's files; --to NEW: what can be read of it, as a study there

Laws:
1. Data goes to stdout, progress and errors to stderr.
2. Exit status: 0 ok; 1 the study failed, no trial has a result, or its files are damaged; 2 it cannot be done as asked; 130, 143
   after a signal.
3. Only `run` and `resume` import a user's file. The others open a journal for reading, and load no torch.
4. `--json` writes strict JSON. Numbers that it has no word for are strings: "NaN", "Infinity", "-Infinity".
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from .cli_output import NoResult, UsageError, inert_lines
from .errors import StudyFailedError, TorchtuneError
from .interrupts import StudyInterrupted
from .version import __version__

OK, FAILED, USAGE = 0, 1, 2
SIGINT = 2
SIGPIPE = 13


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; `argv` without the program's name. Returns the exit status."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as exit:          # argparse has said what is wrong, or printed its help
        return exit.code if isinstance(exit.code, int) else USAGE
    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        status = command(arguments)
        sys.stdout.flush()
        return status
    except StudyInterrupted as interrupt:
        _say(str(interrupt))
        return 128 + (interrupt.signum or SIGINT)
    except KeyboardInterrupt:
        _say("interrupted")
        return 128 + SIGINT
    except BrokenPipeError:             # the reader of a pipe, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + SIGPIPE
    except Exception as error:
        if arguments.traceback:
            traceback.print_exc()
        else:
            _say(_message(error))
        return _status(error)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="torchtune-hp", description="Hyperparameter tuning for PyTorch.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"torchtune-hp {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, does: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        made.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
        made.set_defaults(command=does)
        return made

    run = command("run", _run, "run a study of a train function, a class or a Tuner in a Python file")
    run.add_argument("target", metavar="FILE:NAME", help="such as train.py:train")
    _add_limits(run, int)
    run.add_argument("--seed", type=int, help="the one seed of everything")
    run.add_argument("--seeds", type=int, metavar="N", help="each trial is trained with so many seeds, and judged by the mean")
    run.add_argument("--folds", type=int, metavar="N", help="each trial is trained on so many folds (of a ModelTrainable)")
    run.add_argument("--name", help="the study's name (default: <trainable>-<n>)")
    run.add_argument("--storage", metavar="DIR", help="the folder of studies (default: runs)")
    run.add_argument("--metric", action="append", metavar="M", help="what is optimized; again for several objectives")
    run.add_argument("--mode", action="append", choices=["min", "max"], help="its direction; again for several objectives")
    run.add_argument("--space", metavar="FILE.yaml", help="the search space")
    run.add_argument("--searcher", choices=["random", "grid", "sobol", "gp"], help="where to look (default: gp, or grid for a grid_search)")
    run.add_argument("--scheduler", choices=["asha", "hyperband", "halving", "median", "full"], help="how much to spend on which trial")
    run.add_argument("--max-t", type=int, metavar="N", help="steps a trial is trained at most; alone: --scheduler full")
    run.add_argument("--executor", choices=["serial", "processes"], help="where trials are trained (default: processes; for models fused)")
    run.add_argument("--workers", type=int, metavar="N", help="how many processes")
    run.add_argument("--warm-start", action="append", metavar="DIR", help="an earlier study to learn from; again for several")
    run.add_argument("--resume", action="store_true", help="go on if there is a study of this name")
    run.add_argument("--quiet", action="store_true", help="no progress")

    resume = command("resume", _resume, "go on with a study that was interrupted, or extend one that was over")
    resume.add_argument("folder", metavar="DIR", help="the study's folder, such as runs/digits")
    resume.add_argument("target", metavar="FILE:NAME", nargs="?", help="what is trained (default: where it was when the study began)")
    _add_limits(resume, str)
    resume.add_argument("--quiet", action="store_true", help="no progress")

    ls = command("ls", _ls, "list the studies in a folder")
    ls.add_argument("storage", metavar="STORAGE", nargs="?", default="runs", help="the folder of studies (default: runs)")
    show = command("show", _show, "show a study: its settings, counts, best trials, errors and notes")
    best = command("best", _best, "show the best config and its metrics, or the front of several objectives")
    export = command("export", _export, "write all trials, one a row with its best report, or all reports")
    doctor = command("doctor", _doctor, "say what is wrong with a study's files, and save what can be read of it")
    for reading in (show, best, export, doctor):
        reading.add_argument("folder", metavar="DIR", help="the study's folder, such as runs/digits")
    for reading in (ls, show, best, doctor):
        reading.add_argument("--json", action="store_true", help="as JSON")
    export.add_argument("--to", choices=["csv"], required=True, help="the format")
    export.add_argument("-o", "--output", metavar="FILE", help="where to (default: stdout)")
    doctor.add_argument("--to", metavar="NEW", help="a folder for what can be read; DIR is left as it is")
    export.add_argument("--reports", action="store_true", help="every report, one a row")
    return top


def _add_limits(command: argparse.ArgumentParser, number: type) -> None:
    more = "" if number is int else ", or +N for more"
    command.add_argument("--trials", type=number, metavar="N", help=f"trials in all{more}")
    command.add_argument("--time-budget", type=float if number is int else str, metavar="S", help=f"seconds in all{more}")
    command.add_argument("--target", type=float, metavar="V", help="end at this value of the first metric", dest="goal")


# The commands: what each needs is imported when it runs ---------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    from .cli_run import run

    return run(arguments)


def _resume(arguments: argparse.Namespace) -> int:
    from .cli_run import resume

    return resume(arguments)


def _ls(arguments: argparse.Namespace) -> int:
    from .cli_read import ls

    return ls(Path(arguments.storage), arguments.json)


def _show(arguments: argparse.Namespace) -> int:
    from .cli_read import show

    return show(Path(arguments.folder), arguments.json)


def _best(arguments: argparse.Namespace) -> int:
    from .cli_read import best

    return best(Path(arguments.folder), arguments.json)


def _export(arguments: argparse.Namespace) -> int:
    from .cli_export import export

    return export(Path(arguments.folder), arguments.output, arguments.reports)


def _doctor(arguments: argparse.Namespace) -> int:
    from .cli_doctor import doctor

    return doctor(Path(arguments.folder), arguments.to, arguments.json)


# Errors -----------------------------------------------------------------------------------------------------------------------


def _status(error: Exception) -> int:
    if isinstance(error, StudyFailedError):
        return FAILED
    return USAGE if isinstance(error, (TorchtuneError, UsageError, OSError)) else FAILED


def _message(error: Exception) -> str:
    if isinstance(error, (TorchtuneError, UsageError, NoResult, OSError)):
        return str(error)
    return f"{type(error).__name__}: {error} (an unexpected error; --traceback shows where it came from)"


def _say(text: str) -> None:
    print(f"torchtune-hp: {inert_lines(text)}", file=sys.stderr)

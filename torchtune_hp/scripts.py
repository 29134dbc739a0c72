"""Scripts that start a study when they are imported: what keeps them from starting it again and again.

A script may call `fit()` at its top level, without `if __name__ == "__main__"`. Its own worker processes never import it: what
is of `__main__` travels by value. But the command line reads a script to find the class in it, and would start its study; and
workers would import the module by name, each starting another. So:

1. While the command line reads a script, `fit` does not run: it ends the reading (`StudyMet`), with all that stands above it.
2. In a worker process `fit` is an error.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConfigurationError
from .executors.worker import IN_WORKER

_reading = 0


class StudyMet(BaseException):
    """`fit` was called while a script was read. A BaseException, so that the script does not catch it by mistake."""


@contextmanager
def reading() -> Iterator[None]:
    """Meanwhile `fit` raises StudyMet."""
    global _reading
    _reading += 1
    try:
        yield
    finally:
        _reading -= 1


def check_may_fit() -> None:
    """Raises where a study must not be started."""
    if _reading:
        raise StudyMet
    if IN_WORKER in os.environ:
        raise ConfigurationError(
            "fit: a worker process does not start a study of its own. A module that calls fit() when it is imported is imported by "
            'the workers too: put the call under `if __name__ == "__main__":`, or into a function. For a study inside of a trial, '
            "run the outer one with executor=hp.Serial()."
        )


def how_to_resume(folder: Path) -> str:
    """The command to type, with the path of the program where a shell would not find it."""
    program = "torchtune-hp"
    beside = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and beside.exists():
        program = os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
    return f"{shlex.quote(program)} resume {shlex.quote(str(folder))}"

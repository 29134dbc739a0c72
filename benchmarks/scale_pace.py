"""The first and the last tenth of a long run, measured side by side.

They are half a minute apart, and a shared machine is half as fast, or twice, within seconds: their ratio would be the machine's. So two
processes run the same study: one until nine tenths of its reports are in, then the other from its beginning, and from there they take
turns, MARKS reports each, until the one is at its end and the other has a tenth. Whoever waits is at rest, and its clock stands.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

MARKS = 2048
"""Reports between two looks at the clock."""
TENTH = 0.1
_READY = "ready"


class Pace:
    """When how many of the `expected` reports had come. As an observer it counts a Tuner's.

    `tenth`: the part of the run in which it takes turns with another process. "first": the process ends with it.
    """

    def __init__(self, expected: int, tenth: Literal["first", "last"] | None = None) -> None:
        self.reports = 0
        self.replayed = math.nan
        self._expected = expected
        self._tenth = tenth
        self._waited = 0.0
        self._marks = [(0, time.perf_counter())]

    def begin(self, info: Any) -> None:
        self.replayed = time.perf_counter()
        if self._tenth == "first":
            self._wait()
        self._marks = [(0, self._clock())]

    def told(self, events: Sequence[Any], commands: Sequence[Any]) -> None:
        self.reports += len(events)
        if self.reports - self._marks[-1][0] < MARKS:
            return
        self._marks.append((self.reports, self._clock()))
        share = self.reports / self._expected
        if self._tenth == "first" and share >= TENTH:
            print(json.dumps({"us_first_tenth": self._cost(0.0, share)}), flush=True)
            os._exit(0)
        if self._tenth == "first" or (self._tenth == "last" and share >= 1 - TENTH):
            self._wait()

    def end(self, results: Any) -> None:
        """The journal's last commit came before this."""
        self._marks.append((self.reports, self._clock()))

    def figures(self) -> dict[str, Any]:
        (_, began), (_, ended) = self._marks[0], self._marks[-1]
        return {
            "reports": self.reports, "seconds": ended - began, "reports_per_s": self.reports / (ended - began),
            "us_last_tenth": self._cost(1 - TENTH, self.reports / self._expected),
        }  # fmt: skip

    def _cost(self, low: float, high: float) -> float:
        """Microseconds a report between two shares of what is expected, from the marks nearest to them."""
        (n0, t0), (n1, t1) = (min(self._marks, key=lambda mark: abs(mark[0] - share * self._expected)) for share in (low, high))
        return (t1 - t0) / max(1, n1 - n0) * 1e6

    def _clock(self) -> float:
        return time.perf_counter() - self._waited

    def _wait(self) -> None:
        """Until it is this process's turn."""
        began = time.perf_counter()
        print(_READY, flush=True)
        sys.stdin.readline()
        self._waited += time.perf_counter() - began


def side_by_side(script: str, last: Sequence[str], first: Sequence[str]) -> dict[str, Any]:
    """Figures of the whole run, with the cost of its last tenth and of another's first. The two lists are arguments of `script`."""
    whole = _Child(script, last)
    other = _Child(script, first)
    while whole.figures is None or other.figures is None:
        for child in (whole, other):
            if child.figures is None:
                child.go_on()
    figures = whole.figures | {"us_first_tenth": other.figures.get("us_first_tenth", math.nan)}     # NaN: fewer reports than a mark
    return figures | {"last_to_first": figures["us_last_tenth"] / figures["us_first_tenth"]}


class _Child:
    """A process that takes turns; it is made when it waits for its first."""

    def __init__(self, script: str, arguments: Sequence[str]) -> None:
        self._script = script
        self._process = subprocess.Popen([sys.executable, script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.figures: dict[str, Any] | None = None
        self._listen()

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._listen()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        if said == _READY:
            return
        if self._process.wait() or not said:
            raise RuntimeError(f"{self._script} ended with {self._process.returncode}; what it wrote of it stands above.")
        self.figures = json.loads(said)

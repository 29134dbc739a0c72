"""How a study of several objectives came on: the hypervolume that its reports dominate, each time it grew.

As with the front, a report that is not finite or violates an outcome constraint counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import NamedTuple

from .errors import ConfigurationError
from .journal import Journal
from .journal_text import from_json
from .objective import VIOLATED, Objective
from .pareto import Values, dominates, fronts, gain, reference_point


class Growth(NamedTuple):
    """A report that enlarged the hypervolume, and to what. `time`: seconds of the study; `trials`: how many had reported by then."""

    trial: int
    step: int
    time: float
    trials: int
    hypervolume: float


def growth(journal: Journal, objective: Objective, reference: Sequence[float] | None) -> list[Growth]:
    """`Results.hypervolume`."""
    given = None if reference is None else _minimized(objective, reference)
    looks = list(_looks(journal, objective))
    points = sorted({values for *_, values in looks if values is not None})
    if not points:
        return []
    corner = given or reference_point([points[i] for i in fronts(points)[0]])
    found: list[Growth] = []
    front: list[Values] = []
    seen: set[int] = set()
    total = 0.0
    for trial, step, time, values in looks:
        seen.add(trial)
        if values is not None and (more := gain(values, front, corner)) > 0:
            front = [*(other for other in front if not dominates(values, other)), values]
            total += more
            found.append(Growth(trial, step, time, len(seen), total))
    return found


def _looks(journal: Journal, objective: Objective) -> Iterator[tuple[int, int, float, Values | None]]:
    """Every report in order, with what is minimized; None: it counts for nothing."""
    for trial, step, time, metrics in journal.rows("SELECT trial, step, time, metrics FROM report ORDER BY id"):
        values = objective.values(from_json(metrics))
        yield trial, step, time, values if all(-math.inf < value < VIOLATED for value in values) else None


def _minimized(objective: Objective, reference: Sequence[float]) -> Values:
    values = tuple(reference) if isinstance(reference, Iterable) else ()
    if len(values) != len(objective.metrics) or not all(map(_is_finite, values)):
        raise ConfigurationError(
            f"reference: one finite number for each of {list(objective.metrics)} is needed, but got {reference!r}. "
            "Give each in its metric's own direction, or leave the reference out."
        )
    return tuple(float(value) if mode == "min" else -float(value) for value, mode in zip(values, objective.modes))


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)

"""From a trial's metrics to what is minimized: sign, NaN, missing and violated constraints are dealt with here, once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .errors import ConfigurationError
from .trial import Scalar

Mode = Literal["min", "max"]
VIOLATED = 1e30
"""A report that violates an outcome constraint scores from here to 2e30, by how much: behind every feasible one, yet finite."""

_CONSTRAINT = re.compile(r"\s*(?P<metric>[^<>\s][^<>]*?)\s*(?P<relation><=|>=)\s*(?P<bound>[-+0-9._eE]+|[-+]?inf)\s*")


@dataclass(frozen=True, slots=True)
class Constraint:
    """`metric <= bound` (sign 1) or `metric >= bound` (sign -1)."""

    metric: str
    sign: float
    bound: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        match = _CONSTRAINT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ConfigurationError(f'outcome_constraints: expected "metric <= number" or "metric >= number", but got {text!r}.')
        try:
            bound = float(match["bound"])
        except ValueError:
            raise ConfigurationError(f"outcome_constraints: {match['bound']!r} in {text!r} is not a number.") from None
        return cls(match["metric"], 1.0 if match["relation"] == "<=" else -1.0, bound)

    def violation(self, metrics: Mapping[str, Scalar]) -> float:
        """0 if it holds, else how far beyond the bound, relative to it; +inf for NaN or a missing metric."""
        value = _number(metrics.get(self.metric))
        excess = self.sign * (value - self.bound)
        if math.isnan(excess):
            return math.inf
        return max(0.0, excess) / max(1.0, abs(self.bound))


class Objective:
    """What a study is after. `values` turns metrics into numbers of which smaller is better.

    >>> Objective("accuracy", "max").values({"accuracy": 0.9})
    (-0.9,)
    >>> Objective("loss", "min").values({"loss": float("nan")})
    (inf,)
    """

    def __init__(self, metric: str | Sequence[str], mode: Mode | Sequence[Mode], constraints: str | Sequence[str] = ()) -> None:
        self.metrics: tuple[str, ...] = _all_of(metric)
        self.modes: tuple[Mode, ...] = (mode,) * len(self.metrics) if isinstance(mode, str) else _all_of(mode)
        self.texts: tuple[str, ...] = _all_of(constraints)
        self.constraints = tuple(Constraint.parse(text) for text in self.texts)
        problems = []
        if not self.metrics or not all(isinstance(name, str) and name for name in self.metrics):
            problems.append(f"metric: expected the name of a metric, or a list of names, but got {metric!r}.")
        elif len(set(self.metrics)) != len(self.metrics):
            problems.append(f"metric: each name may stand once, but got {metric!r}.")
        if any(mode not in ("min", "max") for mode in self.modes):
            problems.append(f'mode: must be "min" or "max", but got {mode!r}.')
        elif len(self.modes) != len(self.metrics):
            problems.append(f"mode: one for each metric is needed, but got {len(self.modes)} for {len(self.metrics)}.")
        if problems:
            raise ConfigurationError("\n".join(problems))
        self._signs = tuple(1.0 if mode == "min" else -1.0 for mode in self.modes)
        self._worst = (math.inf,) * len(self.metrics)
        self._only = (self.metrics[0], self._signs[0]) if len(self.metrics) == 1 and not self.constraints else None

    @property
    def needed(self) -> tuple[str, ...]:
        """The metrics that every report must hold as numbers."""
        return tuple(dict.fromkeys((*self.metrics, *(constraint.metric for constraint in self.constraints))))

    def values(self, metrics: Mapping[str, Scalar]) -> tuple[float, ...]:
        """One number per objective, smaller is better. NaN, either infinity, a missing metric and a wrong type make all +inf."""
        if self._only is not None:      # nearly always: one metric and no constraints
            name, sign = self._only
            found = metrics.get(name)
            if type(found) is float and -math.inf < found < math.inf:
                return (sign * found,)
        values = []
        for name, sign in zip(self.metrics, self._signs):
            value = sign * _number(metrics.get(name))
            if not -math.inf < value < math.inf:        # NaN too
                return self._worst
            values.append(value)
        if self.constraints:
            violation = sum(constraint.violation(metrics) for constraint in self.constraints)
            if violation > 0:
                share = 1.0 if math.isinf(violation) else violation / (1.0 + violation)
                return (VIOLATED * (1.0 + share),) * len(values)
        return tuple(values)

    def own(self, value: float) -> float:
        """The first objective's value back in the user's direction."""
        return self._signs[0] * value


def _all_of(given: Any) -> tuple[Any, ...]:
    """One thing, or several of them; whatever they are is checked by whoever asks."""
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


def _number(value: Scalar) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan

"""When one trial has had enough, whatever its scheduler grants: `stop=` of a Tuner.

    stop={"accuracy": 0.95}                 any of these values reached, each in its metric's direction
    stop=hp.MaxSteps(20)                    after so many steps
    stop=hp.Plateau(patience=5)             no improvement for so many steps
    stop=lambda trial, metrics: ...         true: end this trial
    stop=[...]                              any of several
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from .errors import ConfigurationError
from .objective import Objective
from .parts import part
from .trial import Scalar

Metrics = Mapping[str, Scalar]


@runtime_checkable
class StopRule(Protocol):
    """Law: the answers depend on the calls alone, so that a replay of the study repeats them."""

    def begin(self, objective: Objective) -> None:
        """Once, before anything else."""
        ...

    def ends(self, trial: int, step: int, metrics: Metrics) -> bool:
        """Asked at every look of a trial, once, in order of its steps."""
        ...

    def forget(self, trial: int) -> None:
        """The trial has ended."""
        ...


@part
class MaxSteps:
    """Ends a trial after `steps` steps."""

    def __init__(self, steps: int) -> None:
        if type(steps) is not int or steps < 1:
            raise ConfigurationError(f"MaxSteps: `steps >= 1` must hold for an int, but got {steps!r}.")
        self.steps = steps

    def begin(self, objective: Objective) -> None:
        """Needs nothing."""

    def ends(self, trial: int, step: int, metrics: Metrics) -> bool:
        return step >= self.steps

    def forget(self, trial: int) -> None:
        """Remembers nothing."""


class _FirstReport:
    """Law: a study's first report holds every metric that a rule names; else ConfigurationError."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._checked = False

    def check(self, metrics: Metrics) -> None:
        """At every look. No metrics: the trial ended without a report."""
        if self._checked or not metrics:
            return
        missing = [name for name in self.names if name not in metrics]
        if missing:
            raise ConfigurationError(
                f"stop: every metric that a rule names must be reported, but the first report holds {sorted(metrics)} and not {missing}. "
                "Correct the name, or report it from the first step on (NaN while there is none)."
            )
        self._checked = True


@part
class Plateau:
    """Ends a trial whose metric has not improved by more than `min_delta` for `patience` steps.

    `metric` and `mode` default to the study's first. Steps up to `grace_period` never end a trial. The study's first report must
    hold a metric of its own, or a misspelt name would end every trial: ConfigurationError.
    """

    def __init__(
        self, patience: int, min_delta: float = 0.0, grace_period: int = 0, metric: str | None = None, mode: str | None = None
    ) -> None:
        problems = []
        if type(patience) is not int or patience < 1:
            problems.append(f"Plateau: `patience >= 1` must hold for an int, but got {patience!r}.")
        if not isinstance(min_delta, (int, float)) or not 0 <= min_delta < math.inf:
            problems.append(f"Plateau: `min_delta >= 0` must hold, but got {min_delta!r}.")
        if type(grace_period) is not int or grace_period < 0:
            problems.append(f"Plateau: `grace_period >= 0` must hold for an int, but got {grace_period!r}.")
        if mode not in (None, "min", "max"):
            problems.append(f'Plateau: mode must be "min", "max" or None, but got {mode!r}.')
        if metric is not None and mode is None:
            problems.append(f'Plateau: a metric of its own ({metric!r}) needs mode="min" or mode="max" beside it.')
        if problems:
            raise ConfigurationError("\n".join(problems))
        self.patience = patience
        self.min_delta = min_delta
        self.grace_period = grace_period
        self.metric = metric
        self.mode = mode

    def begin(self, objective: Objective) -> None:
        self._of = Objective(self.metric or objective.metrics[0], self.mode or objective.modes[0])  # type: ignore[arg-type]
        self._names = _FirstReport(self._of.metrics)
        self._best: dict[int, tuple[float, int]] = {}       # trial -> (best value, the step it was made at)

    def ends(self, trial: int, step: int, metrics: Metrics) -> bool:
        self._names.check(metrics)
        value = self._of.values(metrics)[0]
        best, since = self._best.get(trial, (math.inf, step))
        if value < best - self.min_delta or trial not in self._best:
            self._best[trial] = (value, step)
            return False
        return step - since >= self.patience and step > self.grace_period

    def forget(self, trial: int) -> None:
        self._best.pop(trial, None)


class Threshold:
    """Ends a trial once any of these metrics reached its value: at least it, or at most it for a metric that is minimized.

    A metric that is none of the study's objectives is taken to be maximized, as in Ray Tune. The study's first report must hold
    every one of them, or a misspelt name would never end anything: ConfigurationError.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = dict(values)

    def begin(self, objective: Objective) -> None:
        modes = dict(zip(objective.metrics, objective.modes))
        self._signs = {name: -1.0 if modes.get(name) == "min" else 1.0 for name in self.values}
        self._names = _FirstReport(self.values)

    def ends(self, trial: int, step: int, metrics: Metrics) -> bool:
        self._names.check(metrics)
        for name, bound in self.values.items():
            value = metrics.get(name)
            if isinstance(value, (int, float)) and self._signs[name] * (value - bound) >= 0:
                return True
        return False

    def forget(self, trial: int) -> None:
        """Remembers nothing."""


class Predicate:
    """A function of (trial, metrics). The metrics it sees hold `training_iteration`, the step, too."""

    def __init__(self, function: Callable[[int, dict[str, Any]], Any]) -> None:
        self.function = function

    def begin(self, objective: Objective) -> None:
        """Needs nothing."""

    def ends(self, trial: int, step: int, metrics: Metrics) -> bool:
        try:
            return bool(self.function(trial, {**metrics, "training_iteration": step}))
        except Exception as error:
            raise ConfigurationError(f"stop: {self.function!r} raised {error!r} for trial {trial} at step {step}.") from error

    def forget(self, trial: int) -> None:
        """Remembers nothing."""


class AnyOf:
    """Ends a trial when one of several rules does. Each hears of every look."""

    def __init__(self, rules: Sequence[StopRule]) -> None:
        self.rules = tuple(rules)

    def begin(self, objective: Objective) -> None:
        for rule in self.rules:
            rule.begin(objective)

    def ends(self, trial: int, step: int, metrics: Metrics) -> bool:
        answers = [rule.ends(trial, step, metrics) for rule in self.rules]       # all of them: a rule may remember
        return any(answers)

    def forget(self, trial: int) -> None:
        for rule in self.rules:
            rule.forget(trial)


def most_steps(rule: StopRule | None) -> int | None:
    """The steps after which every trial ends under this rule, or under one of its several; None: it counts none."""
    if isinstance(rule, MaxSteps):
        return rule.steps
    if isinstance(rule, AnyOf):
        return min((steps for steps in map(most_steps, rule.rules) if steps is not None), default=None)
    return None


def stop_rule(stop: Any) -> StopRule | None:
    """What was written as `stop=`, as a rule; ConfigurationError for anything else."""
    if isinstance(stop, type):
        raise ConfigurationError(f"stop: expected an object, but got the class {stop.__name__}; write {stop.__name__}(...).")
    if stop is None or isinstance(stop, StopRule):
        return stop
    if isinstance(stop, Mapping):
        wrong = {name: value for name, value in stop.items() if not _is_finite(value)}
        if wrong or not stop:
            raise ConfigurationError(f"stop: a dict holds a number for each metric, but got {wrong or stop!r}.")
        if "training_iteration" in stop:
            rest = {name: value for name, value in stop.items() if name != "training_iteration"}
            rules: list[StopRule] = [MaxSteps(int(stop["training_iteration"]))]
            return AnyOf([*rules, Threshold(rest)]) if rest else rules[0]
        return Threshold(stop)
    if isinstance(stop, (list, tuple)):
        parts = [rule for rule in map(stop_rule, stop) if rule is not None]
        return AnyOf(parts) if parts else None
    if callable(stop):
        return Predicate(stop)
    raise ConfigurationError(
        f"stop: expected a dict like {{'accuracy': 0.95}}, hp.MaxSteps(n), hp.Plateau(patience), a function of (trial, metrics), "
        f"or a list of these, but got {stop!r}."
    )


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

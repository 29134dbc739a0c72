"""Arguments people bring along from other libraries, and checks that collect every problem before one error is raised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from .errors import ConfigurationError, TorchtuneError
from .parts import nearest

T = TypeVar("T")

OURS = {
    "num_samples": "trials=", "n_trials": "trials=", "max_evals": "trials=", "max_trials": "trials=",
    "budget": "trials= or time_budget=", "param_space": "space=", "search_space": "space=", "config": "space=",
    "domain": "space=", "parameters": "space=", "direction": 'mode="min" or mode="max"', "directions": "mode=, a list",
    "objective": "trainable=", "fn": "trainable=", "func": "trainable=", "run_or_experiment": "trainable=",
    "sampler": "searcher=", "search_alg": "searcher=", "algo": "searcher=", "pruner": "scheduler=",
    "resources_per_trial": "executor=hp.Processes(cpus=..., gpus=...)", "n_jobs": "executor=hp.Processes(workers=...)",
    "max_concurrent_trials": "executor=hp.Processes(workers=...)", "time_budget_s": "time_budget=", "timeout": "time_budget=",
    "study_name": "name=", "storage_path": "storage=", "local_dir": "storage=", "load_if_exists": 'resume="auto"',
    "callbacks": "observers=", "random_state": "seed=", "rstate": "seed=", "points_to_evaluate": "points=",
    "show_progress_bar": "verbose=", "max_t": "scheduler=hp.ASHA(max_t=...)", "max_iter": "scheduler=hp.ASHA(max_t=...)",
    "tune_config": "its fields as arguments: metric=, mode=, trials=, ...",
    "run_config": "its fields as arguments: name=, storage=, ...", "checkpoint_freq": "checkpoint_every=",
    "keep_checkpoints_num": "keep=", "cv": "folds=", "n_splits": "folds=", "stopper": "stop=", "patience": "stop=hp.Plateau(patience)",
}  # fmt: skip
"""What Ray Tune, Optuna, Hyperopt, scikit-learn and others call it -> what it is called here."""


def refuse_foreign(call: str, given: Iterable[str], known: Iterable[str]) -> None:
    """A TypeError that says of each argument that `call` does not know what it is called here."""
    lines = []
    for name in given:
        if name in OURS:
            lines.append(f"`{name}` is {OURS[name]} here.")
        else:
            near = nearest(name, known)
            lines.append(f"`{name}` is not an argument" + (f"; did you mean {near}=?" if near else "."))
    if lines:
        raise TypeError(f"{call}: " + " ".join(lines))


class Problems:
    """Collects what is wrong; `raise_any` says all of it at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def attempt(self, name: str, build: Callable[[], T]) -> T | None:
        """`build()`, or None with its error noted under the argument's name."""
        try:
            return build()
        except (TorchtuneError, TypeError, ValueError, OverflowError) as error:
            text = str(error)
            self.lines.append(text if text.startswith((name, "mode:")) else f"{name}: {text}")
            return None

    def need(self, holds: bool, text: str) -> bool:
        if not holds:
            self.lines.append(text)
        return holds

    def raise_any(self) -> None:
        if self.lines:
            raise ConfigurationError("\n".join(self.lines))


def check_counts(given: Mapping[str, Any], problems: Problems) -> None:
    """trials, keep and seed, of which there are: whole numbers."""
    for name, least, optional in (("trials", 1, True), ("keep", 0, False), ("seed", 0, False)):
        value = given.get(name, least)
        fine = (optional and value is None) or (type(value) is int and least <= value < 2**53)
        problems.need(fine, f"{name}: `{name} >= {least}` must hold for an int below 2**53, but got {value!r}.")


def check_replicas(seeds: Any, folds: Any, problems: Problems) -> bool:
    """How often each trial is trained: whole numbers."""
    fine = problems.need(type(seeds) is int and seeds >= 1, f"seeds: how many? `seeds >= 1` must hold for an int, but got {seeds!r}.")
    wanted = f"folds: `folds >= 2` must hold for an int, but got {folds!r}. Leave it out for none."
    return problems.need(folds is None or (type(folds) is int and folds >= 2), wanted) and fine


def check_part(name: str, value: Any, contract: type, such_as: str, problems: Problems) -> None:
    """A searcher, a scheduler, an executor: an object with what its contract names, not the class of one."""
    fine = isinstance(value, contract) and not isinstance(value, type)
    problems.need(fine, f"{name}: expected an object such as {such_as}, but got {shown(value)}.")


def check_points(points: Any, problems: Problems) -> bool:
    """Whether these are configs; whether they are of the space is another question."""
    fine = isinstance(points, Sequence) and all(isinstance(point, Mapping) for point in points)
    return problems.need(fine, f"points: a list of configs is needed, but got {points!r}.")


def check_numbers(given: Mapping[str, Any], problems: Problems) -> None:
    """trials, time_budget, target, keep, seed, look_every, checkpoint_every, verbose: types and ranges."""
    check_counts(given, problems)
    budget = given["time_budget"]
    fine = budget is None or (_is_number(budget) and 0 < budget < math.inf)
    problems.need(fine, f"time_budget: `time_budget > 0` must hold, in seconds, but got {budget!r}.")
    target = given["target"]
    fine = target is None or (_is_number(target) and math.isfinite(target))
    problems.need(fine, f"target: a finite value of the first metric is needed, but got {target!r}.")
    look = given["look_every"]
    fine = look == "grant" or (type(look) is int and look >= 1)
    problems.need(fine, f'look_every: `look_every >= 1` must hold for an int, or it is "grant", but got {look!r}.')
    every = given["checkpoint_every"]
    fine = _is_number(every) and every >= 0
    problems.need(fine, f"checkpoint_every: `checkpoint_every >= 0` must hold, in seconds of training, but got {every!r}.")
    problems.need(given["verbose"] in (0, 1, True, False), f"verbose: must be 0 or 1, but got {given['verbose']!r}.")


def shown(value: Any) -> str:
    """A value as an error message shows it; a class is told from an object."""
    return f"the class {value.__name__}; write {value.__name__}(...)" if isinstance(value, type) else repr(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

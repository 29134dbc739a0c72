"""What a study is to be: a Tuner's arguments, checked and resolved; as JSON for the journal's header; and back from it."""

from __future__ import annotations

import copy
import platform
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from .arguments import Problems, check_numbers, check_part, check_points, check_replicas, shown
from .errors import ConfigurationError
from .executors.base import Executor
from .executors.simulated import Simulated
from .objective import Objective
from .observers.base import Observer
from .schedulers import FullRuns
from .schedulers.base import Scheduler
from .searchers import GPSearch, GridSearch
from .searchers.base import Searcher
from .space import Space
from .space.described import of_points
from .spec import of_callable, spec
from .stopping import StopRule, most_steps, stop_rule
from .study import Study
from .supply import check_own
from .training.recipe import recipe_of
from .training.runner import Place, Recipe, Runner, State
from .trial import Limits, Scalar, Setting, Source, Trial
from .version import __version__
from .warm_start import described, read

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Plan:
    """Everything a study is made of. What the header describes is fixed for the study's life, but for the executor and
    `checkpoint_every`, which belong to a session like the rest."""

    trainable: Any
    recipe: Recipe
    space: Space
    objective: Objective
    searcher: Searcher
    scheduler: Scheduler
    executor: Executor
    stop: StopRule | None
    points: tuple[Mapping[str, Any], ...]
    keep: int
    seed: int
    seeds: int
    folds: int | None
    look_every: int | Literal["grant"]
    checkpoint_every: float
    trials: int | None
    time_budget: float | None
    target: float | None
    storage: Path | None
    name: str | None
    resume: str
    verbose: int
    observers: tuple[Any, ...]
    sources: tuple[Source, ...] = ()
    learned: tuple[str, ...] = ()
    """What the log of a new study should say of its sources."""

    @property
    def pretends(self) -> bool:
        """Nothing is trained: metrics come from a curve."""
        return isinstance(self.recipe, Nothing)

    @property
    def max_t(self) -> int | None:
        """The largest budget of a trial in steps: the scheduler's, the stop rule's or the trainable's own."""
        return _largest_budget(self.recipe, self.scheduler, self.stop)

    def setting(self, capacity: int) -> Setting:
        return Setting(
            self.space.dims, self.space.feasible, len(self.objective.metrics), self.max_t, capacity, self.seed,
            self.recipe.saves, self.space.rows, self.space.levels, self.sources,
        )  # fmt: skip

    def study(self, capacity: int) -> Study:
        return Study(
            self.space, self.searcher, self.scheduler, self.objective, self.setting(capacity),
            points=self.points, stop=self.stop, keep=self.keep, look_every=self.look_every,
        )  # fmt: skip

    def limits(self, capacity: int) -> Limits:
        return Limits(capacity, self.trials, self.time_budget, self.target)

    def header(self) -> dict[str, Any]:
        """JSON. The session adds `name` and `capacity`."""
        return {
            "trainable": ({} if self.trainable is None else source_of(self.trainable)) | {"name": self.recipe.name},
            "space": self.space.describe(),
            "dims": list(self.space.names),
            "metric": list(self.objective.metrics),
            "mode": list(self.objective.modes),
            "outcome_constraints": list(self.objective.texts),
            "searcher": spec(self.searcher),
            "scheduler": spec(self.scheduler),
            "executor": spec(self.executor),
            "stop": spec(self.stop),
            "points": of_points(self.points),
            "warm_start": described(self.sources),
            "keep": self.keep,
            "seed": self.seed,
            "seeds": self.seeds,
            "folds": self.folds,
            "look_every": self.look_every,
            "limits": {"trials": self.trials, "time_budget": self.time_budget, "target": self.target},
            "checkpoint_every": self.checkpoint_every,
            "max_t": self.max_t,
            "saves": self.recipe.saves,
            "versions": {"torchtune_hp": __version__, "torch": _torch_version(), "python": platform.python_version()},
        }


def make_plan(given: Mapping[str, Any]) -> Plan:
    """A Tuner's arguments -> a Plan, or one ConfigurationError that lists every problem."""
    problems = Problems()
    trainable, executor = given["trainable"], given["executor"]
    recipe: Recipe | None
    pretends = isinstance(executor, Simulated) and executor.curve is not None
    text = "seeds, folds: a curve is no training, so there is nothing to train several times. Leave them out."
    problems.need(not pretends or (given["seeds"], given["folds"]) == (1, None), text)
    if trainable is not None:
        recipe = problems.attempt("trainable", lambda: recipe_of(trainable))
        if pretends and recipe is not None:
            recipe = Nothing(recipe.name, recipe.max_t)
        elif recipe is not None and check_replicas(given["seeds"], given["folds"], problems):
            recipe = problems.attempt("folds", lambda: recipe_of(trainable, given["seeds"], given["folds"])) or recipe
    else:
        recipe = Nothing()
        text = "trainable: a function or a class is needed, to resume a study too: Tuner.resume(path, Digits)."
        problems.need(pretends, f"{text} Only Simulated(curve=...) does without.")
    space = None
    if problems.need(given["space"] is not None, "space: what is to be searched? Pass space={'lr': hp.loguniform(1e-4, 1e-1)}, say."):
        space = problems.attempt("space", lambda: Space.of(given["space"]))
    objective = None
    known = problems.need(given["metric"] is not None, 'metric: what is to be optimized? Pass metric="accuracy", mode="max", say.')
    if known:
        wanted = f'mode: is {given["metric"]!r} to be minimized or maximized? Pass mode="min" or mode="max".'
        known = problems.need(given["mode"] is not None, wanted)
    if known:
        objective = problems.attempt("metric", lambda: Objective(given["metric"], given["mode"], given["outcome_constraints"]))
    stop = problems.attempt("stop", lambda: stop_rule(given["stop"]))
    warm = given["warm_start"]
    searcher = given["searcher"] if given["searcher"] is not None else default_searcher(space)
    check_part("searcher", searcher, Searcher, "hp.RandomSearch()", problems)
    scheduler = given["scheduler"] if given["scheduler"] is not None else FullRuns()
    check_part("scheduler", scheduler, Scheduler, "hp.ASHA(max_t=27)", problems)
    if executor == "auto":
        executor = _executor_for(recipe)
    problems.need(
        _is_part(executor, Executor), f'executor: expected "auto" or an object such as hp.Processes(workers=4), but got {shown(executor)}.'
    )
    unnamed = given["searcher"] is None and isinstance(searcher, GridSearch)
    why, way = (", the default for a grid_search axis,", "Pass") if unnamed else ("", "Leave searcher= out or pass")
    problems.need(
        not warm or getattr(searcher, "learns_from_sources", False),
        f"warm_start: {type(searcher).__name__}{why} learns nothing from earlier studies. {way} searcher=hp.GPSearch(). "
        "To try configs of theirs first, pass points=[...].",
    )
    points = _points(given["points"], space, problems)
    check_numbers(given, problems)
    _check_names(given, problems)
    watching = isinstance(given["observers"], (list, tuple)) and all(_is_part(one, Observer) for one in given["observers"])
    problems.need(watching, f"observers: a list of objects with begin, told and end is needed, but got {given['observers']!r}.")
    stored = given["storage"] is None or isinstance(given["storage"], (str, Path))
    problems.need(stored, f"storage: a folder, or None for memory, is needed, but got {given['storage']!r}.")
    if not problems.lines:
        assert recipe is not None and space is not None
        _check_ends(recipe, scheduler, stop, problems)
        blind = given["look_every"] == "grant" and stop is not None and most_steps(stop) is None
        ends = recipe.ends or recipe.max_t is not None or scheduler.max_t is not None
        text = 'stop: with look_every="grant" a trial is looked at when its grant is used up, so it needs a scheduler with max_t as well.'
        problems.need(ends or not blind, text)
        bounded = any(given[name] is not None for name in ("trials", "time_budget", "target"))
        endless = space.rows is None and not isinstance(searcher, GridSearch)
        problems.need(
            bounded or not endless,
            f"trials: when does the study end? Pass trials=, time_budget= or target= ({type(searcher).__name__} has no end of its own).",
        )
    problems.raise_any()
    assert recipe is not None and space is not None and objective is not None
    max_t = _largest_budget(recipe, scheduler, stop)
    sources, learned = _sources(given, lambda: read(warm, space, objective, fidelity=max_t != 1), problems)
    problems.raise_any()
    plan = Plan(
        trainable, recipe, space, objective, searcher, scheduler, executor, stop, points, given["keep"], given["seed"], given["seeds"],
        given["folds"], given["look_every"], float(given["checkpoint_every"]), given["trials"], given["time_budget"], given["target"],
        None if given["storage"] is None else Path(given["storage"]).expanduser().absolute(),
        given["name"], given["resume"], int(given["verbose"]), tuple(given["observers"]), sources, learned,
    )  # fmt: skip
    for name, part in (("searcher", searcher), ("scheduler", scheduler)):       # on copies: a part begins once
        problems.attempt(name, lambda: copy.deepcopy(part).begin(plan.setting(1)))     # noqa: B023  (called at once)
    problems.raise_any()
    return plan


def default_searcher(space: Space | None) -> Searcher:
    """GridSearch for a space with a `grid_search` axis, GPSearch for any other."""
    if space is not None and any(dim.grid for dim in space.dims):
        return GridSearch()
    return GPSearch()


def _largest_budget(recipe: Recipe, scheduler: Scheduler, stop: StopRule | None) -> int | None:
    return min((limit for limit in (scheduler.max_t, recipe.max_t, most_steps(stop)) if limit is not None), default=None)


def _sources(
    given: Mapping[str, Any], read: Callable[[], list[tuple[Source, str]]], problems: Problems
) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """What earlier studies found, and what the log should say of it: recorded when the study was made, or read now."""
    warm = given["warm_start"]
    if warm is None or (isinstance(warm, (list, tuple)) and all(isinstance(one, Source) for one in warm)):
        return tuple(warm or ()), ()
    if given["resume"] == "auto" and (Path(given["storage"]).expanduser() / given["name"] / "study.db").exists():
        return (), ()       # the study has its own record of them
    found = problems.attempt("warm_start", read) or []
    return tuple(source for source, _ in found), tuple(text for _, text in found)


def source_of(trainable: Any) -> dict[str, str]:
    """Where a trainable comes from: "module:qualname" where it can be imported, a hash of its source, and its file."""
    target = getattr(trainable, "__wrapped__", None) or getattr(trainable, "target", trainable)
    found = of_callable(target.func if isinstance(target, partial) else target)      # the text of a partial would hold its data
    module = sys.modules.get(getattr(target, "__module__", ""), None)
    file = getattr(module, "__file__", None)
    return {**found, "qualname": getattr(target, "__qualname__", "")} | ({"file": str(Path(file).resolve())} if file else {})


class Nothing:
    """The recipe of a study that trains nothing: Simulated(curve=...) answers for it, until `max_t` if that is known."""

    saves = True            # a promotion costs a simulation nothing
    ends = False

    def __init__(self, name: str = "simulated", max_t: int | None = None) -> None:
        self.name = name
        self.max_t = max_t

    def start(self, trial: Trial, place: Place, state: State | None = None, step: int = 0) -> Runner:
        raise ConfigurationError("a study of learning curves trains nothing.")

    def restore(self, trial: Trial, place: Place, state: State, step: int) -> Any:
        raise ConfigurationError("a study of learning curves has no weights to load.")

    def test(self, trial: Trial, place: Place, state: State, step: int) -> dict[str, Scalar]:
        raise ConfigurationError("a study of learning curves has no test set.")


def _is_part(value: Any, contract: type) -> bool:
    return isinstance(value, contract) and not isinstance(value, type)


def _points(points: Any, space: Space | None, problems: Problems) -> tuple[Mapping[str, Any], ...]:
    if not check_points(points, problems) or space is None:
        return ()
    if points:
        problems.attempt("points", lambda: check_own(space, points))
    return tuple(points)


def _executor_for(recipe: Recipe | None) -> Executor:
    """What executor="auto" means: all at once where trials are models or train them by hp.Trainer, else side by side."""
    from .executors.fused import Fused
    from .executors.processes import Processes
    from .training.model import ModelRecipe
    from .training.sighting import makes_trainer

    at_once = isinstance(recipe, ModelRecipe) or (recipe is not None and makes_trainer(recipe))
    return Fused() if at_once else Processes()


def _check_names(given: Mapping[str, Any], problems: Problems) -> None:
    name, resume = given["name"], given["resume"]
    fine = name is None or (isinstance(name, str) and NAME.fullmatch(name) is not None)
    problems.need(fine, f"name: letters, digits, '.', '_' and '-', at most 100, the first a letter or digit, but got {name!r}.")
    problems.need(resume in ("never", "auto"), f'resume: must be "never" or "auto", but got {resume!r}.')
    found = resume != "auto" or (name is not None and given["storage"] is not None)
    problems.need(found, 'resume: "auto" needs name= and storage= to find the study by.')


def _check_ends(recipe: Recipe, scheduler: Scheduler, stop: StopRule | None, problems: Problems) -> None:
    problems.need(
        recipe.ends or recipe.max_t is not None or scheduler.max_t is not None or stop is not None,
        f"scheduler, stop: {recipe.name} has no end of its own. Pass a scheduler with max_t, such as "
        f"scheduler=hp.FullRuns(max_t=27) or hp.ASHA(max_t=27), or a stop, such as stop=hp.MaxSteps(27).",
    )


def _torch_version() -> str:
    import torch

    return str(torch.__version__)

"""Our Gaussian process as a search algorithm of Ray Tune.

    from ray import tune
    from torchtune_hp.integrations.ray_tune import GPSearch

    tune.Tuner(train, param_space={"lr": tune.loguniform(1e-4, 1e-1)}, tune_config=tune.TuneConfig(
        metric="loss", mode="min", num_samples=100, search_alg=GPSearch()
    )).fit()

It learns from every result of every trial that is over. One that a scheduler stopped early is a look at a share of the largest
`training_iteration` so far, not a result; one that failed says where trials fail; one that runs is kept away from. Of a class Trainable
that returned done=True, or met Ray's `stop=`, Ray says what it says of one that a scheduler stopped, so it counts as one: fully trained
only if none was trained for longer.

Laws:
1. The space is Ray's `param_space`, or ours (`space=`), which knows branches and constraints. What cannot be searched is refused.
2. `save` and `restore` keep what was told as JSON, and nothing is pickled: a restored search suggests what the saved one would have.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    from ray.tune.result import TRAINING_ITERATION
    from ray.tune.search import Searcher
    from ray.tune.search.sample import Categorical, Domain as RayDomain, Float, Function, Integer, LogUniform, Normal, Quantized
except ImportError as error:
    raise ImportError("torchtune_hp.integrations.ray_tune needs Ray Tune: pip install 'torchtune-hp[ray]'") from error

from .. import space as ours
from ..errors import ConfigurationError, SpaceError
from ..searchers import GPSearch as Process
from ..space import Space
from ..space.described import check_passive
from .suggester import Suggester


class GPSearch(Searcher):  # type: ignore[misc]
    """Suggests by `torchtune_hp.GPSearch`. `startup`, `exact`, `warp`: its arguments. `metric`, `mode` and `space` default to Ray's.

    Raises ConfigurationError as that does, and for a `mode` other than "min" and "max"; SpaceError, by parameter, for what cannot be
    searched.
    """

    def __init__(
        self, space: Space | Mapping[str, Any] | None = None, metric: str | None = None, mode: str | None = None, *,
        startup: int | None = None, exact: int = 1000, warp: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(metric=metric, mode=mode)
        self._process = Process(startup, exact, warp)
        self._seed = seed
        self._suggester: Suggester | None = None
        self._numbers: dict[str, int] = {}                      # Ray's trial -> ours
        self._running: dict[int, list[float]] = {}              # number -> where it lies in the unit cube
        self._seen: dict[int, list[list[Any]]] = {}             # number -> its looks [step, value], while it runs
        self._told: list[list[Any]] = []                        # for `save`: the arguments of each telling
        if space is not None:
            self._begin(Space.of(space))

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Ray's metric, mode and param_space, where none were given before. False: there is a space already."""
        if metric:
            self._metric = metric
        if mode:
            self._mode = mode
        if self._suggester is not None:
            return not config
        self._begin(Space(translated(config)))
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._suggester is None or self._metric is None or self._mode not in ("min", "max"):
            raise ConfigurationError(
                f"GPSearch needs a space, a metric and a mode 'min' or 'max', but has metric={self._metric!r}, mode={self._mode!r} and "
                f"{'no space' if self._suggester is None else 'a space'}. Give them to TuneConfig and Tuner(param_space=...)."
            )
        number = self._numbers.setdefault(trial_id, len(self._numbers))
        config = self._suggester.ask([tuple(x) for x in self._running.values()], number)
        self._running[number], self._seen[number] = self._place(config), []
        return config

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._look(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self._numbers.get(trial_id)
        if number is None or number not in self._running:
            return
        # Ray says "done" of a trial that a scheduler stopped, too; but only of one that ended by itself has the last result been seen.
        ended = bool(result) and not self._look(trial_id, result or {})
        self._tell(number, self._running.pop(number), self._seen.pop(number), ended, error)

    def add_evaluated_point(
        self, parameters: dict[str, Any], value: float, error: bool = False, pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:  # fmt: skip
        """A trial that was run elsewhere; its steps count from 1. Call it once metric, mode and space are known."""
        number = self._numbers.setdefault(f"evaluated {len(self._numbers)}", len(self._numbers))
        looks = [[step, self._signed(seen)] for step, seen in enumerate(intermediate_values or [], 1)]
        if not error:
            looks.append([len(looks) or 1, self._signed(value)])
        self._tell(number, self._place(parameters), looks, not pruned, error)

    def save(self, checkpoint_path: str) -> None:
        state = {
            "metric": self._metric, "mode": self._mode, "seed": self._seed, "numbers": self._numbers, "told": self._told,
            "searcher": {"startup": self._process.startup, "exact": self._process.exact, "warp": self._process.warp},
            "running": [[number, x, self._seen[number]] for number, x in self._running.items()],
            "space": None if self._suggester is None else self._suggester.space.describe(),
        }  # fmt: skip
        Path(checkpoint_path).write_text(json.dumps(state))

    def restore(self, checkpoint_path: str) -> None:
        """All that was saved, its seed and arguments too.

        ConfigurationError where it was saved for another space; SpaceError where the space holds functions: pass `space`.
        """
        state = json.loads(Path(checkpoint_path).read_text())
        self._metric, self._mode, self._seed = state["metric"], state["mode"], state["seed"]
        if "searcher" in state:         # not in files of older versions
            self._process = Process(**state["searcher"])
        if state["space"] is None:
            return
        if self._suggester is None:
            check_passive(state["space"], checkpoint_path)
            space = Space.rebuild(state["space"])
        else:
            space = self._suggester.space
            if space.describe() != state["space"]:
                raise ConfigurationError(f"space: {checkpoint_path} was saved for {state['space']}, but this is {space.describe()}.")
        self._begin(space)
        self._numbers, self._told = state["numbers"], []
        for entry in state["told"]:
            self._tell(*entry)
        self._running = {number: x for number, x, _ in state["running"]}
        self._seen = {number: looks for number, _, looks in state["running"]}

    # -------------------------------------------------------------------------------------------------------------------------

    def _begin(self, space: Space) -> None:
        self._suggester = Suggester(self._process, space, 1, looks=True, seed=self._seed)

    def _signed(self, value: Any) -> float:
        number = float(value)
        return math.inf if math.isnan(number) else -number if self._mode == "max" else number

    def _look(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether it is one more."""
        number = self._numbers.get(trial_id)
        if number is None or number not in self._running or self._metric not in result:
            return False
        seen = self._seen[number]
        step = int(result.get(TRAINING_ITERATION, len(seen) + 1))
        if seen and step <= seen[-1][0]:
            return False
        seen.append([step, self._signed(result[self._metric])])
        return True

    def _place(self, config: Mapping[str, Any]) -> list[float]:
        if self._suggester is None:
            raise ConfigurationError("GPSearch has no space yet. Give GPSearch(space=...) or Tuner(param_space=...) before points.")
        x = self._suggester.point(config)
        if x is None:
            raise SpaceError(f"{dict(config)!r} is not in {self._suggester.space!r}.")
        return list(x)

    def _tell(self, number: int, x: list[float], looks: list[list[Any]], ended: bool, failed: bool) -> None:
        assert self._suggester is not None
        self._told.append([number, x, looks, ended, failed])
        self._suggester.tell(number, tuple(x), [(step, [value]) for step, value in looks], ended=ended, failed=failed)


# Ray's words as ours, which have the same names and meaning --------------------------------------------------------------------


def translated(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A param_space of Ray's as a spec of ours: domains translated, dicts entered, all else constants."""
    spec: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping) and set(value) == {"grid_search"}:
            raise SpaceError(f"{name}: a grid is run whole, not searched. Write tune.choice({value['grid_search']!r}).")
        if isinstance(value, Mapping):
            spec[key] = translated(value, f"{name}.")
        else:
            spec[key] = _domain(name, value) if isinstance(value, RayDomain) else value
    return spec


def _domain(name: str, domain: Any) -> ours.Domain:
    sampler = domain.get_sampler()
    q = sampler.q if isinstance(sampler, Quantized) else None
    sampler = sampler.get_sampler() if isinstance(sampler, Quantized) else sampler
    steps = () if q is None else (q,)
    if isinstance(domain, Categorical):
        return ours.choice(domain.categories)
    if isinstance(domain, Float):
        if isinstance(sampler, Normal):
            return (ours.randn if q is None else ours.qrandn)(sampler.mean, sampler.sd, *steps)
        words: Any = (ours.uniform, ours.quniform, ours.loguniform, ours.qloguniform)
    elif isinstance(domain, Integer):
        words = (ours.randint, ours.qrandint, ours.lograndint, ours.qlograndint)
    elif isinstance(domain, Function):
        raise SpaceError(f"{name}: sample_from cannot be searched. Give GPSearch(space=...) with hp.sample_from, or a constant.")
    else:
        raise SpaceError(f"{name}: {type(domain).__name__} is no domain that is known here. Give GPSearch(space=...).")
    found: ours.Domain = words[2 * isinstance(sampler, LogUniform) + (q is not None)](domain.lower, domain.upper, *steps)
    return found

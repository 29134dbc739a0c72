"""The functions that suggest_quality.py and peers/suggest_quality.py minimize: the same for everyone.

A task is a space (ours; peers translate it), a value at a config, and the least value there is. Classical functions in their usual
bounds (Surjanovic and Bingham, "Virtual library of simulation experiments", 2013); "noisy": the observation has a tenth of the
function's deviation over the space added; "mixed": two coordinates are a category of 5 levels, in shuffled order, and an integer of 9.
FCNet: the mean over four seeds of log10 validation MSE in complete tables (Klein and Hutter 2019), where the file is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import common  # noqa: F401     # the checkout's own package
import numpy as np
import torch

import torchtune_hp as hp
from torchtune_hp.space import Domain

Vector = np.ndarray
_ORDER = (3, 0, 4, 1, 2)        # the levels of a category say nothing by their order


@dataclass(frozen=True)
class Task:
    """`value(config)` without noise; `noise`: deviation of what is added to it."""

    name: str
    space: dict[str, Domain]
    value: Callable[[Mapping[str, Any]], float]
    least: float
    noise: float = 0.0

    def observed(self, value: float, seed: int, number: int) -> float:
        """The value as it is told, for evaluation `number` of a run."""
        return value + self.noise * float(np.random.default_rng([seed, number]).standard_normal()) if self.noise else value


def branin(x: Vector) -> float:
    a, b = x
    first = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    return float(first**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10)


_H3 = (
    np.array([[3, 10, 30], [0.1, 10, 35]] * 2),
    1e-4 * np.array([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]]),
)
_H6 = (
    np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]),
    1e-4 * np.array([
        [1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381],
    ]),
)  # fmt: skip


def hartmann(x: Vector) -> float:
    scale, place = _H3 if len(x) == 3 else _H6
    return -float(np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-(scale * (x - place) ** 2).sum(1)))


def ackley(x: Vector) -> float:
    return float(-20 * np.exp(-0.2 * np.sqrt((x**2).mean())) - np.exp(np.cos(2 * np.pi * x).mean()) + 20 + math.e)


def levy(x: Vector) -> float:
    w = 1 + (x - 1) / 4
    middle = ((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2)).sum()
    return float(np.sin(np.pi * w[0]) ** 2 + middle + (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2))


def rosenbrock(x: Vector) -> float:
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


def styblinski_tang(x: Vector) -> float:
    return float(0.5 * (x**4 - 16 * x**2 + 5 * x).sum())


_SMOOTH: dict[str, tuple[Callable[[Vector], float], list[tuple[float, float]], float]] = {
    "branin": (branin, [(-5, 10), (0, 15)], 0.39788735772973816),
    "hartmann-3": (hartmann, [(0, 1)] * 3, -3.8627821478),
    "hartmann-6": (hartmann, [(0, 1)] * 6, -3.3223680114),
    # Not centred: a Sobol sequence, and many a sampler, begins in the middle.
    "ackley-5": (ackley, [(-30, 34.5)] * 5, 0.0),
    "ackley-10": (ackley, [(-30, 34.5)] * 10, 0.0),
    "levy-6": (levy, [(-10, 10)] * 6, 0.0),
    "rosenbrock-4": (rosenbrock, [(-5, 10)] * 4, 0.0),
    "stybtang-5": (styblinski_tang, [(-5, 5)] * 5, -39.16616570377142 * 5),
}


def tasks(tables: str | None = None) -> dict[str, Task]:
    """All tasks by name; FCNet's only with the file of their tables."""
    found = [_smooth(name) for name in _SMOOTH]
    found += [_noisy(_smooth(name)) for name in ("branin", "hartmann-6", "ackley-5")]
    found += [_mixed(name) for name in ("hartmann-6", "ackley-5")]
    return {task.name: task for task in found + (_fcnet(tables) if tables else [])}


def _smooth(name: str) -> Task:
    function, bounds, least = _SMOOTH[name]
    space = {f"x{k}": hp.uniform(float(low), float(high)) for k, (low, high) in enumerate(bounds)}
    return Task(name, space, lambda config: function(np.array([config[key] for key in space])), least)


def _noisy(task: Task) -> Task:
    drawn = hp.Space(task.space).decode(torch.from_numpy(np.random.default_rng(0).random((2000, len(task.space)))))
    return Task(f"{task.name} noisy", task.space, task.value, task.least, 0.1 * float(np.std([task.value(config) for config in drawn])))


def _mixed(name: str) -> Task:
    function, bounds, _ = _SMOOTH[name]
    space = {f"x{k}": hp.uniform(float(low), float(high)) for k, (low, high) in enumerate(bounds)}
    space |= {"x0": hp.choice(["a", "b", "c", "d", "e"]), "x1": hp.randint(0, 9)}

    def at(level: int, number: int, rest: Vector) -> float:
        (low0, high0), (low1, high1) = bounds[:2]
        return function(np.array([low0 + (high0 - low0) * level / 4, low1 + (high1 - low1) * number / 8, *rest]))

    def value(config: Mapping[str, Any]) -> float:
        return at(_ORDER["abcde".index(config["x0"])], config["x1"], np.array([config[f"x{k}"] for k in range(2, len(bounds))]))

    return Task(f"{name} mixed", space, value, MIXED[name])


MIXED = {"hartmann-6": -3.2877174053628075, "ackley-5": 5.849935696325019}
"""The least over all 45 pairs of levels, each climbed by L-BFGS from six starts."""


def _fcnet(path: str) -> list[Task]:
    found = []
    with np.load(path) as data:
        axes = [(key.removeprefix("axis/"), data[key].tolist()) for key in data.files if key.startswith("axis/")]
        axes = sorted((name, values) for name, values in axes if name != "seed")
        for name in ("protein_structure", "parkinsons_telemonitoring"):
            table = np.log10(data[name].astype(np.float64).mean(-1))
            found.append(Task(f"fcnet {name}", _listed(axes), _looked_up(table, axes), float(table.min())))
    return found


def _listed(axes: list[tuple[str, list[Any]]]) -> dict[str, Domain]:
    return {name: hp.choice(values) if isinstance(values[0], str) else hp.ordinal(values) for name, values in axes}


def _looked_up(table: Vector, axes: list[tuple[str, list[Any]]]) -> Callable[[Mapping[str, Any]], float]:
    return lambda config: float(table[tuple(values.index(config[name]) for name, values in axes)])

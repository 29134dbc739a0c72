"""The tasks of suggest_objectives.py and peers/suggest_objectives.py: two or three objectives, all minimized, the same for everyone.

- ZDT1, ZDT2 and ZDT3 (Zitzler, Deb and Thiele, Evol. Comput. 8 (2000)) in 6 dimensions: a convex front, a concave one, one of five pieces.
- DTLZ2 (Deb et al., CEC 2002) in 6 dimensions: a quarter of a circle; with three objectives, an eighth of a sphere.
- digits: validation error against log10 of the number of parameters of 864 multilayer perceptrons on scikit-learn's digits, looked up
  in digits_mlps.json, which digits_mlps.py trained.

Reference points were fixed before any run: 1.1 in each objective of ZDT and DTLZ2, whose fronts end at 1 (what starts beyond it is
worth nothing until it comes nearer); on digits the error of guessing and the size of the largest network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import common
import numpy as np

import torchtune_hp as hp
from torchtune_hp.pareto import Values, hypervolume
from torchtune_hp.space import Domain

D = 6
TABLE = common.HERE / "digits_mlps.json"


@dataclass(frozen=True)
class Task:
    """`values(config)`: what is minimized. `volume`: the hypervolume of the true front up to `reference`."""

    name: str
    space: dict[str, Domain]
    values: Callable[[Mapping[str, Any]], Values]
    reference: Values
    volume: float


def tasks() -> dict[str, Task]:
    """All tasks by name."""
    found = [_zdt("zdt1", _zdt1), _zdt("zdt2", _zdt2), _zdt("zdt3", _zdt3), _dtlz2(2), _dtlz2(3), _digits()]
    return {task.name: task for task in found}


# Functions ------------------------------------------------------------------------------------------------------------------


def _zdt1(f: float, g: float) -> float:
    return g * (1 - math.sqrt(f / g))


def _zdt2(f: float, g: float) -> float:
    return g * (1 - (f / g) ** 2)


def _zdt3(f: float, g: float) -> float:
    return g * (1 - math.sqrt(f / g) - f / g * math.sin(10 * math.pi * f))


def _zdt(name: str, second: Callable[[float, float], float]) -> Task:
    def values(config: Mapping[str, Any]) -> Values:
        x = _point(config)
        return x[0], second(x[0], 1 + 9 * sum(x[1:]) / (D - 1))

    reference = (1.1, 1.1)
    front = [(f, second(f, 1.0)) for f in np.linspace(0, 1, 100_001).tolist()]
    return Task(name, _cube(), values, reference, hypervolume(front, reference))


def _dtlz2(m: int) -> Task:
    def values(config: Mapping[str, Any]) -> Values:
        x = _point(config)
        radius = 1 + sum((value - 0.5) ** 2 for value in x[m - 1 :])
        cosines = [math.cos(0.5 * math.pi * value) for value in x[: m - 1]]
        sines = [1.0] + [math.sin(0.5 * math.pi * value) for value in reversed(x[: m - 1])]
        return tuple(radius * math.prod(cosines[: m - 1 - j]) * sines[j] for j in range(m))

    ball = {2: math.pi / 4, 3: math.pi / 6}[m]         # the part of the unit ball that nothing reaches
    return Task(f"dtlz2-{m}", _cube(), values, (1.1,) * m, 1.1**m - ball)


def _cube() -> dict[str, Domain]:
    return {f"x{k}": hp.uniform(0.0, 1.0) for k in range(D)}


def _point(config: Mapping[str, Any]) -> list[float]:
    return [config[f"x{k}"] for k in range(D)]


# A table --------------------------------------------------------------------------------------------------------------------


def _digits() -> Task:
    said = json.loads(TABLE.read_text())
    axes: dict[str, list[Any]] = said["axes"]
    rows = dict(zip(product(*axes.values()), zip(said["error"], map(math.log10, said["parameters"]))))
    reference = (0.9, max(size for _, size in rows.values()))
    space = {name: hp.choice(values) if isinstance(values[0], str) else hp.ordinal(values) for name, values in axes.items()}
    volume = hypervolume(rows.values(), reference)
    return Task("digits", space, lambda config: rows[tuple(config[name] for name in axes)], reference, volume)

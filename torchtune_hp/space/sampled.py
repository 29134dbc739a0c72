"""`sample_from`: what the user computes or draws for himself, under the trial's seed and seen by no searcher."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import SpaceError
from ..seeds import derive


@dataclass(frozen=True, slots=True)
class Sampled:
    """One parameter: its place in the config, and the branches (path, name) in which it exists."""

    name: str
    path: tuple[str, ...]
    guards: tuple[tuple[tuple[str, ...], str], ...]
    function: Callable[[dict[str, Any]], Any]


def fill(config: dict[str, Any], sampled: Sequence[Sampled], seed: int) -> None:
    """Run them in the order they were written; each sees what stands in the config by then."""
    with _drawing_under(seed):
        for one in sampled:
            if _exists(config, one):
                _at(config, one.path[:-1])[one.path[-1]] = _run(one, config)


def stands_in(config: Mapping[str, Any], one: Sampled) -> bool:
    """Whether the config gives a value for it."""
    return _exists(config, one) and one.path[-1] in _at(config, one.path[:-1])


def _exists(config: Mapping[str, Any], one: Sampled) -> bool:
    return all(_at(config, path).get("name") == branch for path, branch in one.guards)


def _at(config: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    here: Any = config
    for key in path:
        here = here.get(key, {})        # absent: the parameter stands in a branch within another branch
    return here


def _run(one: Sampled, config: dict[str, Any]) -> Any:
    try:
        return one.function(config)
    except Exception as error:
        raise SpaceError(
            f"{one.name}: sample_from failed: {type(error).__name__}: {error}. It is handed the config so far, a plain dict "
            f'({sorted(config)}): read config["x"]; parameters of other branches and later sample_from are absent.'
        ) from error


@contextmanager
def _drawing_under(seed: int) -> Iterator[None]:
    """The three global generators, seeded for the user's function and then put back as they were.

    Nothing of this library draws from them here. The user's function may, and this is what makes it repeat itself.
    """
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    own = derive(seed, "sample_from")
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.default_generator.manual_seed(own)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])

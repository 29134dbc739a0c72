"""GPSearch in a study that somebody else runs: trials by number, configs in, configs out.

Laws:
1. A config is told, or running, as what it decodes to; one that the space cannot hold is left out: its `point` is None.
2. A trial is told once it is over, looks first; nothing is told of it afterwards. A look that is not finite is told only if it is the
   last: a trial that recovered has not failed.
3. `ask` changes nothing that is told: same tellings, same running configs, same index, same config.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SpaceError
from ..searchers import GPSearch
from ..seeds import derive
from ..space import Space
from ..trial import Report, Setting

_log = logging.getLogger("torchtune_hp")


class Suggester:
    """`objectives`: how many values a look has, smaller is better. `looks`: whether trials are seen before they end."""

    def __init__(self, searcher: GPSearch, space: Space, objectives: int, *, looks: bool, seed: int) -> None:
        self.space, self._searcher, self._seed, self._objectives = space, searcher, seed, objectives
        setting = Setting(
            space.dims, space.feasible, objectives, None if looks else 1, seed=seed, rows=space.rows, levels=space.levels
        )  # fmt: skip
        searcher.begin(setting)

    def point(self, config: Mapping[str, Any]) -> tuple[float, ...] | None:
        """Where a config lies in the unit cube; None where the space does not hold it."""
        try:
            return tuple(self.space.encode([config])[0].tolist())
        except SpaceError:
            return None

    def tell(
        self, trial: int, x: tuple[float, ...], looks: Iterable[tuple[int, Sequence[float]]], *, ended: bool, failed: bool = False
    ) -> None:
        """Looks (step, values) of a trial that is over, steps from 1. `ended`: by itself, so that its last look is all there is to see."""
        told = [Report(trial, step, tuple(values), 0, x) for step, values in looks]
        told = [report for report in told[:-1] if all(map(math.isfinite, report.values))] + told[-1:]
        if failed:
            told.append(Report(trial, told[-1].step if told else 1, (float("inf"),) * self._objectives, 0, x, done=True, failed=True))
        elif told and ended:
            last = told[-1]
            told[-1] = Report(trial, last.step, last.values, 0, x, done=True)
        self._searcher.tell(told)

    def ask(self, running: Sequence[tuple[float, ...]], index: int) -> dict[str, Any]:
        """The config of trial number `index`, while others run at these points."""
        pending = torch.tensor(running, dtype=torch.float64).reshape(len(running), len(self.space.dims))
        found: Tensor = self._searcher.ask(1, pending=pending, index=index, seed=derive(self._seed, "searcher"))
        for text in self._searcher.notes():
            _log.info(text)
        return self.space.decode(found, [derive(self._seed, "trial", index)])[0]

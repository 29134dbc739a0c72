"""The config of a recorded trial, with what JSON could not hold of it: objects, and tuples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .journal_text import from_json, to_json
from .spec import without_addresses
from .trial import Config, Trial

if TYPE_CHECKING:
    from .space import Space


def whole_config(trial: Trial, space: Space) -> Config:
    """The config that `space` makes of the trial's x and seed, if as JSON it is the recorded one; else the recorded one."""
    import torch

    fresh: Config = space.decode(torch.tensor([trial.x], dtype=torch.float64), [trial.seed])[0]
    return fresh if _stored(fresh) == _stored(trial.config) else trial.config


def _stored(config: Config) -> Any:
    """What JSON holds. Functions stand there with their addresses, which are others in each process."""
    return from_json(without_addresses(to_json(config)))

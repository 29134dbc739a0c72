"""A recorded trial's config, with what JSON could not hold of it: objects, and tuples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, SpaceError
from .journal_text import from_json, to_json
from .spec import without_addresses
from .trial import Config, Trial

if TYPE_CHECKING:
    from .space import Space


def whole_config(trial: Trial, space: Space) -> Config:
    """The config that `space` makes of the trial's x and seed, if as JSON it is the recorded one; else the recorded one."""
    import torch

    if len(trial.x) != len(space):
        return trial.config
    fresh: Config = space.decode(torch.tensor([trial.x], dtype=torch.float64), [trial.seed])[0]
    return fresh if _stored(fresh) == _stored(trial.config) else trial.config


def recorded_space(header: Mapping[str, Any]) -> Space:
    """The space of a journal's header, to decode with; constraints are left out.

    A journal is data: it must choose neither what is called nor what is imported. SpaceError where it would, or where the space cannot
    be rebuilt; KeyError where there is none.
    """
    from .space import Space
    from .space.described import check_passive

    description = {**header["space"], "constraints": []}
    check_passive(description)
    return Space.rebuild(description)


def whole_trial(trial: Trial, header: Mapping[str, Any], given: Any = None) -> Trial:
    """The trial as it was launched, by the space that is `given`, or that of the journal's header. ConfigurationError if it cannot be."""
    from .space import Space

    try:
        space = recorded_space(header) if given is None else Space.of(given)
    except (SpaceError, KeyError) as error:
        if '"__repr__":' not in to_json(trial.config):
            return trial
        raise ConfigurationError(
            f"The config of trial {trial.id} holds objects, and the space that made them cannot be rebuilt ({error}). Pass space=."
        ) from error
    return replace(trial, config=whole_config(trial, space))


def _stored(config: Config) -> Any:
    """What JSON holds. Functions stand there with their addresses, which are others in each process."""
    return from_json(without_addresses(to_json(config)))

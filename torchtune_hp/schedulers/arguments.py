"""What the constructors of schedulers check, said once: every problem at once, each with the argument it is about."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..errors import ConfigurationError


def refuse(problems: Iterable[str | None]) -> None:
    """Raises one ConfigurationError that lists all problems; None stands for no problem."""
    found = [problem for problem in problems if problem is not None]
    if found:
        raise ConfigurationError("\n".join(found))


def whole(name: str, value: object, least: int = 1) -> str | None:
    """The problem with an argument that must be an integer of at least `least`."""
    if is_whole(value, least):
        return None
    return f"{name}: must be an integer >= {least}, but got {value!r}."


LEAST_FACTOR = 1.01
"""Below it a ladder has hundreds of rungs, which helps nobody."""


def factor(name: str, value: object) -> str | None:
    """The problem with an argument that must be a finite number of at least 1.01."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and LEAST_FACTOR <= value < math.inf:
        return None
    return f"{name}: must be a finite number >= {LEAST_FACTOR}, but got {value!r}."


def ordered(name: str, value: object, limit: str, most: object) -> str | None:
    """The problem with `name <= limit`; None where either is no integer, which is a problem of its own."""
    if is_whole(value) and is_whole(most) and value > most:  # type: ignore[operator]
        return f"{name}: `{name} <= {limit}` must hold, but got ({name}={value}, {limit}={most})."
    return None


def is_whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least

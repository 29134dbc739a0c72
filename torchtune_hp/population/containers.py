"""Python's containers, copied and compared: whether a hook has filled one shows in a copy that was made before."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

CONTAINERS: Any = (list, deque, dict, set)


def copied(value: Any) -> Any:
    """Containers anew, with those that they hold; all else as it is."""
    if not isinstance(value, CONTAINERS):
        return value
    made: Any = copy.copy(value)
    if not isinstance(made, set):
        for place in list(made) if isinstance(made, dict) else range(len(made)):
            made[place] = copied(made[place])
    return made


def as_before(now: Any, before: Any) -> bool:
    """Whether they hold the same objects, at the same places."""
    if not isinstance(now, CONTAINERS):
        return now is before
    if type(now) is not type(before) or len(now) != len(before):
        return False
    if isinstance(now, dict):
        return now.keys() == before.keys() and all(as_before(now[key], value) for key, value in before.items())
    return bool(now == before) if isinstance(now, set) else all(map(as_before, now, before))

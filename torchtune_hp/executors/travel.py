"""What is to be trained, packed for a journey to another process."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any

import cloudpickle

from ..errors import ConfigurationError


def packed(recipe: object, here: str = "hp.Serial()") -> bytes:
    """The recipe by cloudpickle: what is defined in `__main__` or a notebook travels by value. Raises ConfigurationError.

    `here`: the executor that would train it in this process.
    """
    try:
        return bytes(cloudpickle.dumps(recipe))
    except Exception as error:
        path, value = _culprit(recipe, getattr(recipe, "name", None) or type(recipe).__name__)
        raise ConfigurationError(
            f"What is trained in other processes must be picklable, but `{path}` ({type(value).__name__}) is not: {error}. Make it "
            f"where the trial begins (in setup, or inside the function), or train in this process with executor={here}."
        ) from error


def _culprit(value: object, path: str, depth: int = 8) -> tuple[str, object]:
    """The innermost part of `value` that cannot be pickled by itself: where it is, and what."""
    if depth:
        for name, part in _parts(value, path):
            try:
                cloudpickle.dumps(part)
            except Exception:
                return _culprit(part, name, depth - 1)
    return path, value


def _parts(value: object, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, types.MethodType):
        yield f"{path}.__self__", value.__self__
        value = value.__func__
    if isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
            yield f"{path}: {name}", cell.cell_contents
        for name in value.__code__.co_names:
            if name in value.__globals__:
                yield f"{path}: {name}", value.__globals__[name]
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{path}[{key!r}]", part
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield f"{path}[{index}]", part
    else:
        for name, part in getattr(value, "__dict__", {}).items():
            yield f"{path}.{name}", part
        for owner in type(value).__mro__:
            for name in getattr(owner, "__slots__", ()):
                if hasattr(value, name):
                    yield f"{path}.{name}", getattr(value, name)

"""Whether a trainable's code makes an hp.Trainer, as far as it can be seen without running it: what executor="auto" goes by.

Looked through are the function or the methods, the functions that stand in them, and what they name: globals, what they close over,
and attributes of modules, for as long as it is Python of the user's own.
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .function import FunctionRecipe
from .replicas import of_one_training
from .runner import Recipe
from .trainable import TrainableRecipe

_DEEP = 1000
"""Things that are looked at, at most."""


def makes_trainer(recipe: Recipe) -> bool:
    """Whether a trial of this recipe makes one."""
    recipe = of_one_training(recipe)
    if isinstance(recipe, FunctionRecipe):
        return _reaches(recipe.function, *recipe.keywords.values())
    return isinstance(recipe, TrainableRecipe) and _reaches(recipe.cls, *recipe.keywords.values())


def _reaches(*roots: Any) -> bool:
    from .trainer import Trainer

    waiting, seen = deque(roots), set[int]()       # the nearest first
    while waiting and len(seen) < _DEEP:
        thing = waiting.popleft()
        if thing is Trainer or (isinstance(thing, type) and issubclass(thing, Trainer)):
            return True
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, functools.partial):
            waiting.append(thing.func)
        elif isinstance(thing, type):
            if _is_users(thing):
                waiting += [value for base in thing.__mro__ if _is_users(base) for value in vars(base).values()]
        elif isinstance(thing, (staticmethod, classmethod)):
            waiting.append(thing.__func__)
        elif isinstance(function := _unwrapped(thing), FunctionType) and _is_users(function):
            waiting += [value for value in _named(function) if value is not None]
    return False


def _unwrapped(thing: Any) -> Any:
    try:
        return inspect.unwrap(thing)        # what decorators put around it
    except Exception:       # of an object that answers to every name
        return None


def _is_users(thing: Any) -> bool:
    return (getattr(thing, "__module__", None) or "").partition(".")[0] not in ("torch", "torchtune_hp", "numpy", "builtins")


def _named(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:      # not filled yet
            pass
    yield from function.__defaults__ or ()
    names = set(_names(function.__code__))
    if "Trainer" in names and "torchtune_hp" in names:      # imported in it
        from .trainer import Trainer

        yield Trainer
    for name in names:
        value = function.__globals__.get(name)
        yield value
        if isinstance(value, ModuleType):
            yield from (vars(value).get(part) for part in names)
            if "Trainer" in names:
                yield getattr(value, "Trainer", None)       # it may not be loaded yet


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)

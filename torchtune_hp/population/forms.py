"""Functions of torch whose numbers may be tensors here: those of torchtune_hp/functional.py, in the place of torch's.

Laws:
1. Where such a number is a tensor our function is called, else torch's own. Nothing is drawn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .. import functional
from .mode import REPLACED, own_randomness

_LEGACY = ("size_average", "reduce")


def _form(ours: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
    numbers = [each.name for each in inspect.signature(ours).parameters.values() if each.annotation == "Number"]
    order = list(inspect.signature(ours if inspect.isbuiltin(theirs) else theirs).parameters)

    def form(own: own_randomness, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(order, args)), **kwargs}
        if not any(isinstance(given.get(name), Tensor) for name in numbers) or any(given.get(name) is not None for name in _LEGACY):
            return theirs(*args, **kwargs)
        return ours(**{name: value for name, value in given.items() if name not in _LEGACY})

    return form


REPLACED.update({getattr(F, name): _form(getattr(functional, name), getattr(F, name)) for name in functional.__all__})

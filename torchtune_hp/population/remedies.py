"""What a person can do about a value for which no tensor can stand."""

from __future__ import annotations

import traceback

from torch import nn
from torch.nn import functional as F

from .. import functional


def in_the_model(shown: str, module: nn.Module) -> str:
    """Why a module that each trial holds on self keeps them apart, and the way out."""
    return (
        f"{shown} is a {type(module).__name__} of each trial's own. As a part of self.model, frozen where it is not trained, it is each "
        "one's own in a stack."
    )


def remedy(shown: str, error: BaseException) -> str:
    """Why this read keeps members apart, and the way out, from what was raised where a tensor stood in its place."""
    called = [frame.name for frame in traceback.extract_tb(error.__traceback__) if frame.filename == F.__file__]
    text = str(error).strip().partition("\n")[0].partition(". ")[0]
    why = f": torch's {called[0]} takes a float." if called else f" ({type(error).__name__}: {text})."
    forms = ", ".join(functional.__all__)
    return (
        f"{shown} cannot be a tensor where it is used{why} torchtune_hp.functional has forms that take one: {forms}; "
        "what is written out with tensor operations takes one, too."
    )

"""Checkpoints in hand: a dict is copied at the border, a folder is copied away before the user may delete it.

State that is saved must not change as training goes on, and state that several trials start from must not be changed by
one of them (`load_state_dict` of torch's optimizers keeps the given tensors and then updates them in place).
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .runner import State


def snapshot(value: Any) -> Any:
    """A copy that shares nothing mutable with `value`; tensors are detached. Kinds of containers are kept."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        fresh = copy.copy(value)        # an OrderedDict's attributes (a state_dict's versions) and a default factory stay
        for key, item in value.items():
            fresh[key] = snapshot(item)
        return fresh
    if isinstance(value, (list, tuple)):
        items = [snapshot(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return copy.deepcopy(value)


def own_config(value: Any) -> Any:
    """A config that the user's code may change: its dicts, lists and tuples copied, what lies in them by reference."""
    if isinstance(value, dict):
        return {key: own_config(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(own_config(item) for item in value)
    return value


def handed(state: State) -> dict[str, Any] | Path:
    """A state on its way to the user's code, which may do with it what it likes (a folder is read, not written)."""
    return state if isinstance(state, Path) else snapshot(dict(state))


def fresh_folder(under: Path | None, purpose: str) -> Path:
    """A new empty folder in this one, which may not be there yet; None: among the system's temporary ones."""
    if under is not None:
        under.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=under))


def copied_folder(source: Path, under: Path | None, purpose: str) -> Path:
    """The content of `source` in a new folder; after this the user may delete `source`."""
    folder = fresh_folder(under, purpose)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def forget(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)

"""Data sets that were decoded once, on disk, so that the next process need not decode them again.

They lie in $TORCHTUNE_HP_CACHE, else in $XDG_CACHE_HOME/torchtune_hp, else in ~/.cache/torchtune_hp; an empty TORCHTUNE_HP_CACHE
turns caching off. The folder may be deleted at any time. One file holds one set:

    <set>-<state>-<content>.pt      which set it is; which files it was made of; SHA-256 of this file (hashes, the first two cut)

Laws:
1. What is read from the cache is what was written, bit for bit: the name holds the hash of the content, which is checked, and
   torch loads data only.
2. A set has one file. One whose source has changed since, or that is damaged, is replaced, with a warning.
3. A file appears under its name complete or not at all. Where it cannot be written, a warning says so, and nothing else happens.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .drain import Tree

VARIABLE = "TORCHTUNE_HP_CACHE"
FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """What a set is read from, as JSON. `name`: which set it is; `state`: what changes when its content does."""

    name: Any
    state: Any

    def hashes(self) -> tuple[str, str]:
        return _hash([FORMAT, self.name])[:16], _hash(self.state)[:16]


def folder() -> Path | None:
    """Where decoded sets lie; None: nowhere."""
    said = os.environ.get(VARIABLE)
    if said is not None:
        return Path(said).expanduser() if said else None
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "torchtune_hp"


def find(origin: Origin, where: str) -> Tree | None:
    """What was kept of this origin; None: nothing, or nothing that is still good. `where` is for the warnings."""
    place = folder()
    name, state = origin.hashes()
    for path in [] if place is None else sorted(place.glob(f"{name}-*.pt")):
        _, made_of, content = path.stem.split("-")
        if made_of != state:
            _say(f"{where}: the files have changed since they were decoded into {path}, so they are decoded again.")
        elif _digest(path) != content:
            _say(f"{where}: the cached copy {path} is damaged, so the files are decoded again.")
        else:
            return torch.load(path, map_location="cpu", weights_only=True)
    return None


def keep(origin: Origin, where: str, tree: Tree) -> None:
    """Keeps a set for later processes, in the place of what was kept of it before."""
    place = folder()
    if place is None:
        return
    name, state = origin.hashes()
    draft = place / f".tmp-{uuid.uuid4().hex[:8]}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:      # by name, torch would write the name into it
            torch.save(tree, file)
        target = place / f"{name}-{state}-{_digest(draft)}.pt"
        os.replace(draft, target)
        for path in place.glob(f"{name}-*.pt"):
            if path != target:
                path.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:        # torch.save says RuntimeError where the disk is full
        _say(f"{where}: the decoded files could not be kept in {place}, so they will be decoded again next time: {error}")
    finally:
        with suppress(OSError):
            draft.unlink()


def _digest(path: Path) -> str | None:
    """None: it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _hash(described: Any) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _say(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=6)       # where hp.Data was called

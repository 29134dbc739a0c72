"""How trials of a structure are trained: as the strategy says, or as a clock found faster (speeds.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from ..training.alone import ModelRunner
from .graphed import can_capture
from .group import Group
from .kinds import Structure, any_width, is_padded, named
from .padding import common
from .reads import Reads
from .sorting import streamed
from .speeds import BEFORE, UNPADDED, WIDTHS, Choices, Speeds
from .words import Words

Strategy = Literal["auto", "vmap", "loop", "compile", "graph"]

FEW = 2
"""So many runners of a kind or fewer are trained one by one."""


class Choosing:
    """`strategy`, `choices`: as of Engine. `words`: told what was chosen, and why."""

    def __init__(self, strategy: Strategy, choices: Choices, words: Words) -> None:
        self.strategy = strategy
        self._choices = choices
        self._words = words
        self._given = len(choices)
        self._speeds: dict[Structure, Speeds] = {}
        self._by_shape: set[str] = set()                    # names of structures that are not padded: as they are, or of any width
        if strategy == "auto":
            self._by_shape.update(key.removesuffix(WIDTHS) for key, chosen in choices.items() if chosen == UNPADDED)
        self._by_form: set[str] = set()                     # and of those whose activations split
        self._uncompiled: set[Structure] = set()            # on which the compiler failed,
        self._uncaptured: set[Structure] = set()            # and those whose steps no graph can hold

    def alone(self, structure: Structure, members: Sequence[ModelRunner]) -> bool:
        """Whether these are trained one by one."""
        k = len(members)
        few = 1 if streamed(members[0]) else FEW            # two that share a DataLoader's batches play it once
        if k <= few or self.strategy == "loop":
            return True
        slow = self._loses(structure, members)
        if slow is not None:
            text = f"{structure[0].__name__}: trained one by one where there are {k} or so: {slow}."
            self._words.say("choice", text, (structure, k.bit_length()))
        return slow is not None

    def padding_loses(self, structure: Structure, members: Sequence[ModelRunner]) -> str | None:
        """Why these are not padded from now on, if they would be trained one by one for being padded. Lighter ones may well be."""
        slow = self._loses(structure, members) if len(members) > FEW else None
        if slow is None or not is_padded(structure) or not common([runner.member.model for runner in members]):
            return None
        self._choices[named(structure) + WIDTHS] = UNPADDED
        return f"padded, {slow}"

    def unpad(self, structure: Structure, why: str, any_one: bool) -> None:
        """From now on, members of this structure share a stack where their shapes are equal; with `any_one`, all that differ from it in
        widths only."""
        name = named(any_width(structure) if any_one else structure)
        self._by_shape.add(name)
        self._words.by_shape("stack", structure, name, why)

    def by_shape(self, structure: Structure) -> bool:
        """Whether widths are not padded."""
        if not self._by_shape:
            return False
        name = next((each for each in (named(any_width(structure)), named(structure)) if each in self._by_shape), None)
        if name is not None:
            self._words.by_shape("choice", structure, name, BEFORE)        # if nobody gave another reason
        return name is not None

    def divide(self, structure: Structure, why: str) -> None:
        """From now on, members of this structure of any width whose activations differ do not share a stack."""
        self._by_form.add(named(any_width(structure)))
        self._words.say("stack", f"{structure[0].__name__}: activations split, so there is a stack for each: {why}.")

    def by_form(self, structure: Structure) -> bool:
        """Whether activations split."""
        return bool(self._by_form) and named(any_width(structure)) in self._by_form

    def group(self, structure: Structure, reads: Reads, device: torch.device) -> Group:
        """That trains runners of this structure."""
        compiled = self.strategy == "compile" and structure not in self._uncompiled
        return Group(reads, self._timed(structure, device), compiled, self._graphed(structure, device))

    def uncompiled(self, structure: Structure, why: str) -> None:
        """The compiler failed."""
        self._uncompiled.add(structure)
        self._words.say("choice", f"{structure[0].__name__}: stacks are not compiled: {why}.")

    def trained(self, structure: Structure, group: Group, k: int) -> None:
        """Says what was chosen where a group trained k."""
        self._said_of_graphs(structure, group, k)
        if group.speeds is not None and (found := group.speeds.wins(k)) is not None:
            text = f"{structure[0].__name__}: trained at once where there are {k} or so: {found}."
            self._words.say("choice", text, (structure, "at once"))
        if len(self._choices) > self._given:
            self._words.timed(structure[0].__name__)

    def _said_of_graphs(self, structure: Structure, group: Group, k: int) -> None:
        """Which was faster, once that is known, or why there are no graphs."""
        graphs, speeds, name = group.stack and group.stack.graphs, group.speeds, structure[0].__name__
        if graphs and graphs.why:
            self._uncaptured.add(structure)
            if speeds is not None:
                speeds.graphs = False
            self._words.say("choice", f"{name}: steps are not replayed from a CUDA graph: {graphs.why}.", (structure, "graph"))
        elif speeds is not None and (found := speeds.graph(k)) is not None:
            taken = "replayed from a CUDA graph" if speeds.replays(k) else "not replayed from a CUDA graph"
            self._words.say("choice", f"{name}: steps of {k} or so are {taken}: {found}.", (structure, "graph", k.bit_length()))

    def _loses(self, structure: Structure, members: Sequence[ModelRunner]) -> str | None:
        """Why so many of a structure are faster one after another; None where they are not, or nobody asks."""
        speeds = self._timed(structure, members[0].member.device)
        return None if speeds is None else speeds.loses(len(members))

    def _timed(self, structure: Structure, device: torch.device) -> Speeds | None:
        """Of a structure; None where the strategy is given."""
        if self.strategy == "auto" and structure not in self._speeds:
            self._speeds[structure] = Speeds(self._graphed(structure, device), self._choices, named(structure))
        return self._speeds.get(structure)

    def _graphed(self, structure: Structure, device: torch.device) -> bool:
        return self.strategy in ("auto", "graph") and structure not in self._uncaptured and can_capture(device)

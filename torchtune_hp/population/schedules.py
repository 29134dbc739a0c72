"""What the schedulers of a stack's members make of their hyperparameters, ahead of the updates that need it.

A scheduler's `step` costs 7 us and more: for hundreds of members, more than the update itself on a GPU. So those that are alike
share one (`cohort`); a member with a scheduler that torch does not know, or with a tensor for a learning rate, has its own stepped.

Laws:
1. In update u, row i holds what member i's `param_groups` would after u updates alone, bit for bit.
2. `commit` leaves schedulers and `param_groups` as the steps of all updates alone would, `state_dict()` included; without it they
   stand where they stood (`put_back`).
3. A function given to a scheduler is one of its argument: two that are equal (`signature`, law 3) are called once for both.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cohort import Cohort, Driven, Entry, key, known
from .optimizers import numbers_of

Column = np.ndarray[Any, np.dtype[np.float64]]

AHEAD = 256
"""Updates that are unrolled at once: a table of a pass over much data would not fit."""


class Schedules:
    """The numbers of `members` in each of the coming updates, one iteration after another: `begin`, `at` 1, 2, ..., `commit`.

    Args:
        members: in the order of their rows. Between iterations their schedulers may be stepped, or load a state; their arguments stay.
        names: of the numbers that the rule of their optimizers reads.
        device: where `at` gives them.
    """

    def __init__(self, members: Sequence[Driven], names: Sequence[str], device: torch.device) -> None:
        self._members, self._names, self._device = members, names, device
        self._moving = any(schedulers for _, schedulers in members)
        self._parts: list[Cohort | _Own] = []

    def begin(self, turns: Sequence[Sequence[int]]) -> None:
        """`turns`: (k, n): how often the schedulers of each member are stepped after each of the n updates."""
        self._updates = len(turns[0])
        if not (self._parts and all(part.again(turns) for part in self._parts)):
            self._parts = list(_parts(self._members, turns, self._names)) if self._moving else []
        self._now: dict[Entry, Column] = {}         # (k,) each; never written to once it was handed on
        for part in self._parts:
            for entry, value in part.moved():
                self._now.setdefault(entry, np.empty(len(self._members)))[part.rows] = value
        self._done = 0                              # so many updates are behind `_now`
        self._first = 0                             # the update of the table's first row
        self._entries: list[Entry] = []             # of the table, (entries, updates, k)
        self._table = torch.empty(0)

    def at(self, update: int) -> dict[Entry, Tensor]:
        """What moved since the update before, and maybe more: (k,) float64 each. To be asked for updates 1, 2, ... in order."""
        if not self._parts:
            return {}
        if update > self._done:
            self._unroll(min(update + AHEAD, self._updates) - 1)
        return {entry: table[update - self._first] for entry, table in zip(self._entries, self._table)}

    def finish(self) -> None:
        """All updates were made. A law that reads what validation fills is asked before it, as alone."""
        if self._parts and self._done < self._updates:
            self._unroll(self._updates)

    def commit(self) -> None:
        """All updates were made: the members' own schedulers and optimizers follow."""
        self.finish()
        for part in self._parts:
            part.commit()

    def put_back(self) -> None:
        """No update was made."""
        for part in self._parts:
            part.put_back()
        self._parts = []

    def _unroll(self, until: int) -> None:
        before, self._first = self._now, self._done + 1
        rows = [self._after(update) for update in range(self._done, until)]
        self._done = until
        self._entries = [entry for entry in before if any(row[entry] is not before[entry] for row in rows)]
        if self._entries:
            table = np.stack([np.stack([row[entry] for row in rows]) for entry in self._entries])
            self._table = torch.from_numpy(table).to(self._device, non_blocking=True)

    def _after(self, update: int) -> dict[Entry, Column]:
        now = dict(self._now)
        for part in self._parts:
            if part.step(update):
                for entry, value in part.moved():
                    if now[entry] is self._now[entry]:
                        now[entry] = now[entry].copy()
                    now[entry][part.rows] = value
        self._now = now
        return now


def _parts(members: Sequence[Driven], turns: Sequence[Sequence[int]], names: Sequence[str]) -> Iterator[Cohort | _Own]:
    cohorts: dict[Hashable, list[int]] = {}
    for row, (member, own) in enumerate(zip(members, turns)):
        if known(member):
            cohorts.setdefault(key(member, own), []).append(row)
        else:
            yield _Own(row, member, own, names)
    for rows in cohorts.values():
        yield Cohort(rows, [members[row] for row in rows], turns[rows[0]], names)


# A member by itself ---------------------------------------------------------------------------------------------------------


class _Own:
    """The member's own schedulers are stepped ahead, and put back if nothing comes of it."""

    def __init__(self, row: int, member: Driven, turns: Sequence[int], names: Sequence[str]) -> None:
        self.rows = [row]
        self._optimizer, self._schedulers = member
        self._turns, self._names = turns, names
        self._seen: dict[Entry, float] = {}
        self._states = [copy.deepcopy(scheduler.state_dict()) for scheduler in self._schedulers]
        groups = self._optimizer.param_groups
        self._groups = [copy.deepcopy({name: value for name, value in group.items() if name != "params"}) for group in groups]

    def again(self, turns: Sequence[Sequence[int]]) -> bool:
        """It is made anew: what its schedulers remember is copied."""
        return False

    def step(self, update: int) -> bool:
        for scheduler in self._schedulers:
            for _ in range(self._turns[update]):
                scheduler.step()
        return self._turns[update] > 0

    def moved(self) -> list[tuple[Entry, float]]:
        """The numbers that are not as they were when this was asked last."""
        now = {
            (place, name): value
            for place, group in enumerate(self._optimizer.param_groups)
            for name, value in numbers_of(group).items() if name in self._names
        }   # fmt: skip
        found = [(entry, value) for entry, value in now.items() if self._seen.get(entry) != value]
        self._seen = now
        return found

    def commit(self) -> None:
        """They stand there already, and are not put back any more."""
        self._states, self._groups = [], []

    def put_back(self) -> None:
        for scheduler, state in zip(self._schedulers, self._states):
            scheduler.load_state_dict(state)
        for group, values in zip(self._optimizer.param_groups, self._groups):
            group.update(values)

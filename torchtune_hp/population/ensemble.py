"""Models that predict together and are not trained: those that agree as rows of one program, the others one by one.

The models of a search's best trials are of several widths and depths, so here, where nothing is trained, members need not agree:
there are rows for each kind. What they give must have one shape all the same, for it comes back as one tensor.

Laws:
1. Row i is what `model_i.eval()` gives alone, up to rounding, wherever it lies.
2. The models are the truth at any time: nothing is ever written back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ..errors import ConfigurationError
from .batched import dims_of
from .held import Member
from .loop import Loop
from .program import Hook
from .room import OUT_OF_MEMORY
from .rows import MemberRows
from .seats import line_of
from .signature import Signature, signature


class Ensemble:
    """`few`: so many of a kind are not worth rows; None: none are. `strict`: what cannot lie in rows raises, and is not taken one by one.
    """

    def __init__(self, members: Sequence[Member], few: int | None, strict: bool) -> None:
        self.members: list[Member] = list(members)
        self._strict = strict
        self._why = ""
        self._rows: list[tuple[list[int], MemberRows]] = []
        self._single: list[int] = []
        kinds: dict[Signature, list[int]] = {}
        for place, member in enumerate(self.members):
            kinds.setdefault(signature(*member), []).append(place)
        for places in kinds.values():
            if few is None or len(places) <= few:
                self._single += places
                continue
            try:
                self._rows.append((places, MemberRows([self.members[place] for place in places])))
            except OUT_OF_MEMORY:
                raise
            except Exception as error:      # a copy is made of the first model, and that may be anything
                self._apart(places, error)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def reason(self) -> str:
        """How many predict at once, and why others do not."""
        parts = [f"{len(places)} at once" for places, _ in self._rows]
        return ", ".join(parts + [f"{len(self._single)} one by one"] * bool(self._single)) + self._why

    @torch.no_grad()
    def evaluate(self, hook: Hook, batch: Any, in_dims: Any, keys: Tensor) -> Any:
        each: list[tuple[list[int], Any]] = []
        for places, rows in list(self._rows):
            own = _of(batch, in_dims, places)
            try:
                found, _ = rows.program.run(hook, rows.rows(), keys[places], own, in_dims, None, training=False)
            except OUT_OF_MEMORY:
                raise
            except Exception as error:      # what a forward pass does with a value is seen when it runs
                found = self._alone(places, hook, own, in_dims, keys)       # which raises what is the user's own mistake
                self._rows.remove((places, rows))
                self._apart(places, error)
            each.append((places, found))
        left = sorted(set(self._single).difference(*(places for places, _ in each)))
        if left:
            each.append((left, self._alone(left, hook, _of(batch, in_dims, left), in_dims, keys)))
        return each[0][1] if len(each) == 1 else _in_order(each)

    def _alone(self, places: list[int], hook: Hook, batch: Any, in_dims: Any, keys: Tensor) -> Any:
        return Loop([self.members[place] for place in places]).evaluate(hook, batch, in_dims, keys[places])

    def dump(self, row: int) -> Member:
        return self.members[row]

    def _apart(self, places: Sequence[int], error: Exception) -> None:
        if self._strict:
            raise ConfigurationError(f'Population: strategy="vmap" cannot be kept: {line_of(error)} Let it be "auto".') from error
        self._single += places
        self._why = self._why or f": {line_of(error)}"


def _of(batch: Any, in_dims: Any, places: Sequence[int]) -> Any:
    """The parts of a batch that these members have of their own, and all of what is everybody's."""
    leaves, spec = tree_flatten(batch)
    index = torch.tensor(places)
    parts = zip(leaves, dims_of(batch, in_dims), strict=True)
    return tree_unflatten([leaf if dim is None else leaf.index_select(dim, index.to(leaf.device)) for leaf, dim in parts], spec)


def _in_order(each: Sequence[tuple[list[int], Any]]) -> Any:
    """What members of several kinds gave, as one tree by their order. ConfigurationError where shapes differ."""
    shapes = [tree_map(lambda part: (tuple(part.shape[1:]), part.dtype), found) for _, found in each]
    for (places, _), other in zip(each, shapes):
        if other != shapes[0]:
            raise ConfigurationError(
                f"Population: what the members give comes back as one tensor, so it must have one shape and dtype, but member "
                f"{each[0][0][0]} gives {shapes[0]} and member {places[0]} {other}. Make a Population for each kind."
            )
    order = torch.tensor([place for places, _ in each for place in places]).argsort()
    columns = zip(*(tree_flatten(found)[0] for _, found in each), strict=True)
    return tree_unflatten([torch.cat(column)[order.to(column[0].device)] for column in columns], tree_flatten(each[0][1])[1])

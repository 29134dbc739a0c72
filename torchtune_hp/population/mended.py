"""Rules of torch's own vmap that give wrong numbers, each computed by others that do not; an entry goes when its rule is right.

    roll                    of a tensor without dimensions: it rolls along the members
    index_fill              of what all share, with a member's own value: another's is everybody's
    select_scatter          the gradient of what is put in is that of another place
    linear_cross_entropy    with `options`: its operator asks in the forward pass who requires a gradient, which under vmap is nobody. It is
                            computed without them: they say how it is done, not what
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.nn import functional as F

from .batched import current, own, plain


def _roll(input: Tensor, shifts: Any, dims: Any = ()) -> Tensor | None:
    return input.clone() if input.dim() == 0 and dims in ((), [], None) else None


def _index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor | None:
    level = current(value) if isinstance(value, Tensor) else None
    if level is None or current(input) is not None:
        return None
    each = input.expand(len(plain(value, level)), *input.shape)
    return own(each, level).index_fill(dim, index, value)


def _select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor | None:
    if input.dim() == 0 or input.select(dim, index).shape != src.shape:
        return None     # torch's own says what is wrong
    begin = index % input.shape[dim]
    return torch.slice_scatter(input, src.unsqueeze(dim), dim, begin, begin + 1)


def _linear_cross_entropy(*args: Any, options: Any = None, **others: Any) -> Tensor | None:
    return None if options is None else F.linear_cross_entropy(*args, **others)


def _members(mended: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """Under vmap; outside of it torch's own is right."""
    return lambda *args, **options: None if _functorch.maybe_current_level() is None else mended(*args, **options)


_EVERY: list[tuple[Callable[..., Tensor | None], list[Any]]] = [
    (_roll, [torch.roll, Tensor.roll]),
    (_index_fill, [torch.index_fill, Tensor.index_fill]),
    (_select_scatter, [torch.select_scatter, Tensor.select_scatter]),
    (_linear_cross_entropy, [getattr(F, "linear_cross_entropy", None)]),        # not in every version of torch
]
MENDED: dict[Any, Callable[..., Any]] = {function: _members(mended) for mended, functions in _EVERY for function in functions if function}

"""The members' dimension, by hand: what `torch.func.vmap` does in Python around the one function that a stack calls.

    torch.func.vmap     looks its arguments and results through anew in each call: 0.35 ms, where a small stack's whole step takes 2
    here                the same level of torch's own vmap is entered, and each tensor is put under it and taken out by one call

What runs at a level is torch's vmap to the letter, draws raise, and a level is left whatever is raised in it.

Laws:
1. A tensor is a member's own at one level only: under a transform of the user's own in between it is nobody's, and taken as it is.
2. `plain` and `own` are inverse, and neither copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.vmap import lazy_load_decompositions  # type: ignore[attr-defined]
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

wrapped: Callable[[Tensor], bool] = _functorch.is_functorch_wrapped_tensor


class members:
    """The level of k members, for as long as the block runs."""

    __slots__ = ("_k",)

    def __init__(self, k: int) -> None:
        self._k = k

    def __enter__(self) -> int:
        lazy_load_decompositions()      # rules that torch has in Python; once in a process
        return _functorch._vmap_increment_nesting(self._k, "error")

    def __exit__(self, *error: object) -> None:
        _functorch._vmap_decrement_nesting()


class outside:
    """A block outside of the innermost level and of function modes, for what is computed of plain tensors alone. Each call of torch is
    spared its way through them, and an `autograd.Function` its 0.4 ms of Python."""

    __slots__ = ("_level", "_modes")

    def __enter__(self) -> None:
        self._level = _functorch.pop_dynamic_layer_stack()
        self._modes = torch._C.DisableTorchFunction()
        self._modes.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._modes.__exit__(*error)
        _functorch.push_dynamic_layer_stack(self._level)


def own(tensor: Tensor, level: int, dim: int = 0) -> Tensor:
    """A tensor with one dimension of members -> what each of them sees of it."""
    return _functorch._add_batch_dim(tensor, dim, level)


def plain(tensor: Tensor, level: int) -> Tensor:
    """(k, ...), of a tensor that is a member's own at this level."""
    found, dim = _functorch._unwrap_batched(tensor, level)
    return found.movedim(dim, 0) if dim else found


def of_members(tensor: Tensor, level: int) -> bool:
    """Whether each member has its own, at this level, the innermost."""
    return _functorch._unwrap_batched(tensor, level)[1] is not None


def leading(tensor: Tensor, level: int) -> Tensor:
    """(k, ...), or (1, ...) where all members share it."""
    plain, dim = _functorch._unwrap_batched(tensor, level)
    if dim is None:
        return tensor.unsqueeze(0)
    return plain.movedim(dim, 0) if dim else plain


def out_of(tensor: Any, level: int, k: int) -> Tensor:
    """(k, ...) of a result; of one that is the same for all members, k times that. ValueError: it is no tensor."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"What a hook gives for each member must be tensors, but it gave a {type(tensor).__name__}: torch.as_tensor(...).")
    return _functorch._remove_batch_dim(tensor, level, k, 0)


def into(leaf: Any, dim: int | None, level: int, k: int) -> Any:
    """What a member sees of a leaf; `dim`: where its dimension of members is, None: all see all of it."""
    if dim is None:
        return leaf
    if not isinstance(leaf, Tensor) or not -leaf.dim() <= dim < leaf.dim() or leaf.shape[dim] != k:
        shape = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
        raise ValueError(f"in_dims: dimension {dim} must be that of the {k} members, but what is given there is {shape}.")
    return own(leaf, level, dim % leaf.dim())


def tree_into(tree: Any, in_dims: Any, level: int, k: int) -> Any:
    """The tree of what a member sees, in containers of its own; `in_dims` as of torch.func.vmap."""
    if in_dims is None or isinstance(in_dims, int):
        return mapped(lambda leaf: into(leaf, in_dims, level, k), tree)
    leaves, spec = tree_flatten(tree)
    return tree_unflatten([into(leaf, dim, level, k) for leaf, dim in zip(leaves, dims_of(tree, in_dims), strict=True)], spec)


def mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    """torch's `tree_map`; for plain containers without the 30 us that it takes to look each one up."""
    kind = type(tree)
    if kind is dict:
        return {key: mapped(change, part) for key, part in tree.items()}
    if kind is tuple or kind is list:
        return kind([mapped(change, part) for part in tree])
    return change(tree) if isinstance(tree, Tensor) else tree_map(change, tree)


def current(tensor: Tensor) -> int | None:
    """The level at which the call runs, if the tensor is a member's own there; None where it is not, or where it is traced by Dynamo."""
    if torch.compiler.is_compiling():
        return None
    level = _functorch.maybe_current_level()
    return level if level is not None and _functorch.is_batchedtensor(tensor) and _functorch.maybe_get_level(tensor) == level else None


def traced() -> bool:
    """Whether what is called is written down for the compiler."""
    if torch.compiler.is_compiling():
        return True
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def dims_of(tree: Any, in_dims: Any) -> list[int | None]:
    """The dimension of members of each leaf; `in_dims` may be a prefix of the tree."""
    if in_dims is None or isinstance(in_dims, int):
        return [in_dims] * len(tree_flatten(tree)[0])
    parts = [(tree[key], in_dims[key]) for key in tree] if isinstance(tree, dict) else list(zip(tree, in_dims, strict=True))
    return [dim for part, dims in parts for dim in dims_of(part, dims)]

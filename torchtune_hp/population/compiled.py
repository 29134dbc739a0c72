"""A stack's step through `torch.compile`: fewer kernels and fewer passes over memory, for seconds of compiling.

A step is compiled as two graphs, the gradients and the optimizer. Both are traced here first (`make_fx`: the hook runs once, on the
real tensors, and what it called is written down), for a hook is ordinary Python, of which `torch.compile` by itself takes in a part.
What a hook computes without tensors is thus computed once for each form of a call.

    form        what a program was traced for: `token`, shapes, strides and dtypes, what is batched, autocast, threads
    rows        the gradients are compiled for 8, 16, 32, ... rows; spare ones repeat the first, and nobody sees their results
    optimizer   one graph for any number of rows and parameters

On CUDA it is the compiler's default mode, without CUDA graphs: its own (mode="reduce-overhead") copy every input that may lie elsewhere
next time, and leave out what changes an input in place, as an update does. Replays are a strategy of their own (graphed.py).

Laws:
1. The numbers are those of the program as it is, up to rounding.
2. An error of the hook is raised as it is; one of the compiler is CompilerFailed, and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from .batched import dims_of
from .program import CompilerFailed, Gradients, Hook, Program, Rows
from .room import OUT_OF_MEMORY
from .values import frozen

LEAST = 8
"""Rows below which nothing is compiled: such a stack gains less than it costs."""

FORMS = 16
"""Of one program; whoever needs more compiles without end."""


class TooManyForms(ValueError):
    """Every call is a new one."""


class CompiledGradients:
    """`Program.gradients`, compiled."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._forms: dict[Hashable, tuple[Callable[..., Any], Any]] = {}

    def __call__(
        self, hook: Hook, token: Callable[[], Hashable], rows: Rows, keys: Tensor, batch: Any, in_dims: Any, more: Any = None
    ) -> Gradients:
        """`token()`: what the hook is besides its arguments; where it is equal, the hook does the same."""
        k = len(keys)
        if k < LEAST:
            return self._program.gradients(hook, rows, keys, batch, in_dims, more)
        held, own = rows.tensors(), [0 if of_each else None for of_each in rows.of_each()]
        others, spec = tree_flatten((keys, more, batch))
        theirs = dims_of(batch, in_dims)
        dims = [*own, *[0] * (len(others) - len(theirs)), *theirs]
        given = [_padded(leaf, 1 << (k - 1).bit_length(), dim) for leaf, dim in zip((*held, *others), dims, strict=True)]
        device = keys.device.type
        shapes = tuple([(leaf.shape, leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else frozen(leaf) for leaf in given])
        around = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device), torch.get_num_threads()
        form = shapes, rows.names(), str(spec), tuple(dims), around
        known = self._forms.get((form, token()))
        if known is None:
            if len(self._forms) == FORMS:
                raise TooManyForms(
                    f'strategy="compile": a step must keep its form, but this would be number {FORMS + 1} to be compiled. Hand tensors '
                    "over in the batch, not in the function, and keep their shapes."
                )
            outer: list[Any] = []

            def traced(*leaves: Any) -> list[Any]:
                own = rows.filled(leaves[: len(held)])
                own = own._replace(
                    flats=[flat.detach().requires_grad_() for flat in own.flats],
                    buffers={name: buffer.clone() for name, buffer in own.buffers.items()},
                )
                keys, more, batch = tree_unflatten(leaves[len(held) :], spec)
                outs, out_spec = tree_flatten(self._program.gradients(hook, own, keys, batch, in_dims, more))
                outer.append(out_spec)
                return outs

            compiled = _compiled(traced, given)
            outs = _run(partial(_made, compiled), given, device)
            self._forms[form, token()] = known = compiled, outer[0]
        else:
            outs = _run(known[0], given, device)
        found: Gradients = tree_unflatten([out if len(out) == k else out[:k] for out in outs], known[1])
        return found


class CompiledUpdate:
    """`Rule.update` of all blocks, compiled for any number of rows.

    The norms to clip by are not in it: PyTorch 2.15's compiler fails on CPUs where a sum over a row and what is done with the row
    come together.
    """

    def __init__(self, update: Callable[..., None]) -> None:
        self._update = update
        self._compiled: dict[tuple[bool, bool], Callable[..., Any]] = {}

    def __call__(self, *trees: Any) -> None:
        leaves, spec = tree_flatten(trees)
        form = trees[-1] is not None, len(trees[0][0]) == 1       # a size of 1 is no symbol
        if form in self._compiled:
            self._compiled[form](*leaves)
            return

        def traced(*leaves: Tensor) -> None:
            self._update(*tree_unflatten(list(leaves), spec))

        copies = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        compiled = _made(partial(_compiled, any_size=True), traced, copies)
        _made(compiled, *leaves)
        self._compiled[form] = compiled


def _compiled(function: Callable[..., Any], example: Sequence[Any], any_size: bool = False) -> Callable[..., Any]:
    """The function as one graph of tensor operations; it runs once here, on the example."""
    graph = make_fx(function, tracing_mode="symbolic" if any_size else "real")(*example)
    options: dict[str, Any] | None = None if any_size else {"guard_filter_fn": _none}
    return torch.compile(graph.forward, fullgraph=True, dynamic=any_size, options=options)


def _none(guards: Sequence[Any]) -> list[bool]:
    """Where sizes are fixed, the form says all that the compiler would look at anew before each call, for 0.1 ms. That no two inputs are
    one tensor as Python sees it is seen to by `_padded`."""
    return [False] * len(guards)


def _run(compiled: Callable[..., Any], given: Sequence[Any], device: str) -> Any:
    """What autocast does is in the graph."""
    with torch.no_grad(), torch.autocast(device, enabled=False):
        return compiled(*given)


def _made(compiled: Callable[..., Any], *given: Any) -> Any:
    try:
        return compiled(*given)
    except OUT_OF_MEMORY:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise CompilerFailed(f"torch.compile failed ({type(error).__name__}: {line})") from error


def _padded(leaf: Any, n: int, dim: int | None) -> Any:
    """A tensor of its own, with n rows along `dim`; the spare ones repeat the first."""
    if not isinstance(leaf, Tensor) or dim is None or leaf.shape[dim] == n:
        return leaf.detach() if isinstance(leaf, Tensor) else leaf
    leaf = leaf.detach()
    spare = [n - size if place == dim else size for place, size in enumerate(leaf.shape)]
    return torch.cat([leaf, leaf.narrow(dim, 0, 1).expand(spare)], dim)


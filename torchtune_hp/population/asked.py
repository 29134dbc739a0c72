"""What a tensor says of its own gradient inside a stack: what it would say of the member alone.

Under vmap a tensor is a wrapper through which no gradient passes, and it says so: `requires_grad` is False, `grad_fn` None, and a model's
parameter is no `nn.Parameter`. The gradient passes through what lies under it, so that is asked instead.

    p.requires_grad, isinstance(p, nn.Parameter)        for what stands in a model's `_parameters`, as it is alone (`parameter`)
    h.requires_grad, h.grad_fn, h.is_leaf               of what was computed, as of the members' tensor under it

Laws:
1. A branch on one of these is taken as it is alone.
2. What waits for a member's own gradient (`register_hook`, `retain_grad`), and what would change who has one (`p.requires_grad = False`),
   raises: there is one backward pass for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch


def parameter(tensor: Tensor, trained: bool) -> None:
    """From now on this is a parameter of a member. `trained`: whether it requires a gradient alone."""
    tensor._is_param = True     # for which `isinstance(tensor, nn.Parameter)` looks
    tensor._trained = trained  # type: ignore[attr-defined]


def _under(tensor: Tensor) -> Tensor | None:
    """All members' tensor under that of one; None for what is shared, and where a transform of the user's own lies in between."""
    if torch.compiler.is_compiling() or not _functorch.is_batchedtensor(tensor):
        return None
    under: Tensor = _functorch.get_unwrapped(tensor)
    return None if _functorch.is_functorch_wrapped_tensor(under) else under


def _requires_grad(tensor: Tensor) -> bool | None:
    trained: bool | None = getattr(tensor, "_trained", None)
    if trained is not None:
        return trained
    under = _under(tensor)
    return None if under is None else under.requires_grad


def _grad_fn(tensor: Tensor) -> Any:
    under = None if hasattr(tensor, "_trained") else _under(tensor)     # a parameter comes from nowhere
    return None if under is None else under.grad_fn


def _is_leaf(tensor: Tensor) -> bool | None:
    under = None if hasattr(tensor, "_trained") else _under(tensor)
    return None if under is None else under.is_leaf


def _set_requires_grad(tensor: Tensor, value: bool) -> bool | None:
    now = _requires_grad(tensor)
    if now is not None and bool(value) != now:
        raise RuntimeError("requires_grad is set in a hook that runs once for many members, whose tensors it does not reach. Use detach()")
    return now is not None or None      # it is what it is to be


def _waits(name: str) -> Callable[..., None]:
    def wait(tensor: Tensor, *_: Any, **__: Any) -> None:
        if _requires_grad(tensor):
            raise RuntimeError(f"{name} waits for the gradient of one member, but a stack computes that of all members at once")

    return wait


ASKED: dict[Any, Callable[..., Any]] = {
    Tensor.requires_grad.__get__: _requires_grad,  # type: ignore[attr-defined]
    Tensor.grad_fn.__get__: _grad_fn,  # type: ignore[union-attr]
    Tensor.is_leaf.__get__: _is_leaf,  # type: ignore[attr-defined]
    Tensor.requires_grad.__set__: _set_requires_grad,  # type: ignore[attr-defined]
    **{getattr(Tensor, name): _waits(name) for name in ("register_hook", "register_post_accumulate_grad_hook", "retain_grad")},
}
"""A function of torch, and what is asked in its place; where that gives None, torch's own is."""

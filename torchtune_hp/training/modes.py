"""What torch and asyncio keep per thread, carried along with a train function that stands still.

A function may report inside `torch.no_grad()`, `inference_mode`, `autocast`, `torch.device("cuda")` or a running event loop.
These are states of the thread, and the thread goes on with the study and with other trials. So whoever hands over control
notes them (`standing`), and whoever gets it has its own put back (`change`).

Law: after `change(standing(), modes)` it is so that `standing() == modes`, and nothing that autocast cached for one trial's
weights is seen by another.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import overrides
from torch.utils import _python_dispatch as dispatch

_stack: Any = overrides._get_current_function_mode_stack
_push: Any = overrides._push_mode
_pop: Any = overrides._pop_mode
_nest: Any = torch.autocast_increment_nesting
_unnest: Any = torch.autocast_decrement_nesting
_any_autocast: Any = torch._C._is_any_autocast_enabled
_grad_enabled: Any = torch.is_grad_enabled
_inference_enabled: Any = torch.is_inference_mode_enabled
_functions: Any = torch._C._len_torch_function_stack
_dispatches: Any = torch._C._len_torch_dispatch_stack
_DEVICES = ("cpu", "cuda", "mps", "xpu")


class Modes(NamedTuple):
    """`autocast`: (depth, cache, and for each device type whether and to what), None outside of it. `cuda`: device and stream."""

    grad: bool
    inference: bool
    autocast: tuple[Any, ...] | None
    functions: tuple[Any, ...]
    dispatches: tuple[Any, ...]
    cuda: tuple[int, torch.cuda.Stream] | None
    loop: Any


_NOTHING = Modes(True, False, None, (), (), None, None)
"""What nearly every thread stands in. Two that do are told apart by nothing, and one object says so fastest."""


def standing() -> Modes:
    """What is set in this thread now. 1.5 us; some more inside anything, and where CUDA is in use."""
    depth = _nest() - 1
    _unnest()
    autocast = _autocast(depth) if depth or _any_autocast() else None
    cuda, loop = _cuda(), _loop()
    if (
        autocast is cuda is loop is None
        and _grad_enabled()
        and not (_inference_enabled() or _functions() or _dispatches())
    ):
        return _NOTHING
    functions = tuple(_stack()) if _functions() else ()
    dispatches = tuple(dispatch._get_current_dispatch_mode_stack()) if _dispatches() else ()
    return Modes(_grad_enabled(), _inference_enabled(), autocast, functions, dispatches, cuda, loop)


def change(now: Modes, modes: Modes) -> None:
    """Makes `modes` the state of this thread, where `now` is."""
    if now is modes or now == modes:
        return
    for _ in now.functions:     # they see what is set below, and may refuse
        _pop()
    if now.inference != modes.inference:
        _guards.append(torch._C._InferenceMode(modes.inference))    # before the grad mode, which it sets too
    torch._C._set_grad_enabled(modes.grad)
    if now.autocast != modes.autocast:
        _set_autocast(now.autocast, modes.autocast)
    if now.dispatches != modes.dispatches:
        for _ in now.dispatches:
            dispatch._pop_mode()
        for mode in modes.dispatches:
            dispatch._push_mode(mode)
    if modes.cuda is not None and now.cuda != modes.cuda:
        device, stream = modes.cuda
        torch.cuda.set_stream(stream)
        torch.cuda.set_device(device)
    if now.loop is not modes.loop:
        sys.modules["asyncio"]._set_running_loop(modes.loop)
    for mode in modes.functions:
        _push(mode)


_guards: list[Any] = []
"""Inference modes that are never left: torch has a guard, but no setter, and a guard that goes would put its own past back."""


def _autocast(depth: int) -> tuple[Any, ...]:
    devices = tuple((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in _DEVICES)
    return (depth, torch.is_autocast_cache_enabled(), *devices)


def _set_autocast(now: tuple[Any, ...] | None, modes: tuple[Any, ...] | None) -> None:
    torch.clear_autocast_cache()        # it holds casts of the weights of whoever stands still
    depth, cache, *devices = modes or (0, True, *((False, None) for _ in _DEVICES))
    for _ in range(now[0] if now else 0):
        torch.autocast_decrement_nesting()
    for _ in range(depth):
        torch.autocast_increment_nesting()
    torch.set_autocast_cache_enabled(cache)
    for device, (enabled, dtype) in zip(_DEVICES, devices):
        torch.set_autocast_enabled(device, enabled)
        if dtype is not None:
            torch.set_autocast_dtype(device, dtype)


def _cuda() -> tuple[int, torch.cuda.Stream] | None:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    return torch.cuda.current_device(), torch.cuda.current_stream()


def _loop() -> Any:
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()

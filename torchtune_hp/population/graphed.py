"""A stack's step as CUDA graphs: hundreds of kernels, which the host starts one by one, become two replays.

A step is captured as two graphs, the gradients (forward, backward, running statistics) and the optimizer (clipping, update), for
batches are summed and a member is compared with itself alone between them.

    held     the rows: parameters, buffers, states, hyperparameters. A graph works on them in place, where they lie
    given    keys, batch, members' own numbers, norms to clip at: copied into tensors of the graph's own before each replay
    form     what a graph was captured for: the hook, shapes and dtypes, what is batched, autocast

A form is captured when it comes for the second time; the first runs as ever, and warms up. That costs about two steps, so where rows
came, left or moved their graphs are captured anew, and no row is spare. Graphs of a stack share their scratch memory.

Laws:
1. The numbers are those of the program as it is: the same kernels on the same tensors.
2. Whatever may differ from step to step is held or given; what a hook computes without tensors is computed once for each form.
3. A step that cannot be captured, for it waits for the device or has no room, is done all the same, as is whoever raises. `why` says
   what stood against it, and nothing is captured any more.
4. `parts` are the graph's own and hold until the next call; all else that is handed out is the caller's.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from .batched import dims_of
from .program import Gradients, Hook, Program, Rows
from .room import let_go
from .values import frozen

FORMS = 16
"""Of one stack's gradients, or updates, that are remembered; past it the one that rested longest is forgotten."""


class Capture(Protocol):
    """What captures a function of tensors that stay where they are."""

    def __call__(self, dry: Callable[[], Any], run: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        """(what `run` gives, a tree of tensors; what does `run` again, into those tensors).

        `dry` computes the same and leaves nothing behind. Nothing of what `run` changes is changed here.
        """


class CudaCapture:
    """By torch.cuda.CUDAGraph, on one stream of its own.

    PyTorch cannot promise to come out of a capture that failed as it went in. So what waits for the device, which is what fails, is
    found by the dry run, before the capture begins.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._last: Callable[[], torch.cuda.CUDAGraph | None] = lambda: None

    def __call__(self, dry: Callable[[], Any], run: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        with torch.cuda.device(self._device):
            here = torch.cuda.current_stream()
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream), _no_waiting():
                dry()
            here.wait_stream(self._stream)
            graph, last = torch.cuda.CUDAGraph(), self._last()
            pool = None if last is None else last.pool()        # replayed in turn, on one stream: they may share what they scribble on
            with torch.cuda.stream(here):       # before torch 2.15 a capture that fails leaves its own stream the current one
                # another thread may pin a DataLoader's batches meanwhile, and that is no error of ours
                with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                    found = run()
        self._last = weakref.ref(graph)
        return found, graph.replay


CAPTURES: dict[str, Callable[[torch.device], Capture]] = {"cuda": CudaCapture}
"""By type of device: what captures there."""


def can_capture(device: torch.device) -> bool:
    return device.type in CAPTURES


class GraphedStep:
    """`Program.gradients`, and `update(flats, gradients, states, numbers, clip)`, from graphs."""

    def __init__(self, program: Program, update: Callable[..., None], capture: Capture) -> None:
        self.why = ""
        self._program, self._update = program, update
        self._gradients, self._updates = (_Graphs(partial(_Graph, capture)) for _ in range(2))
        self._parts: tuple[Tensor, ...] = ()        # of the last replay

    def gradients(
        self, hook: Hook, token: Callable[[], Hashable], rows: Rows, keys: Tensor, batch: Any, in_dims: Any, more: Any = None
    ) -> Gradients:
        """`token()`: what the hook is besides its arguments; where it is equal, the hook does the same on the same tensors.

        Of `buffers`, those that are of another shape or dtype than before; all others have moved on where they lie.
        """
        given, spec = tree_flatten((keys, more, batch))

        def onto(buffers: Mapping[str, Tensor], leaves: Sequence[Any]) -> Gradients:
            keys, more, batch = tree_unflatten(leaves, spec)
            own = rows._replace(buffers=tree_map(_copied, dict(rows.buffers)))
            with _uncached():
                return _moved_on(buffers, self._program.gradients(hook, own, keys, batch, in_dims, more))

        def dry(leaves: Sequence[Any]) -> Gradients:
            return onto(tree_map(_copied, dict(rows.buffers)), leaves)

        run = partial(onto, rows.buffers)
        device = keys.device.type
        autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        form = token(), str(spec), tuple(dims_of(batch, in_dims)), autocast
        graph = self._found(self._gradients, form, rows.tensors(), given, dry, run, hook)
        self._parts = ()
        if graph is None:
            return run(given)
        found: Gradients = graph(given)
        self._parts = found.parts
        return found._replace(losses=found.losses.clone(), extras=tree_map(_copied, found.extras))

    def update(
        self, flats: Sequence[Tensor], gradients: Sequence[Tensor], states: Sequence[dict[str, Tensor]],
        numbers: Sequence[Mapping[str, Tensor]], clip: Tensor | None,
    ) -> None:  # fmt: skip
        ours = len(gradients) == len(self._parts) and all(one is other for one, other in zip(gradients, self._parts))
        given = [clip] if ours else [clip, *gradients]      # a graph's own parts are read where they lie

        def applied(leaves: Sequence[Any], flats: Sequence[Tensor], states: Sequence[dict[str, Tensor]]) -> None:
            self._update(flats, gradients if ours else leaves[1:], states, numbers, leaves[0])

        def dry(leaves: Sequence[Any]) -> None:
            applied(leaves, *tree_map(_copied, (list(flats), list(states))))

        def run(leaves: Sequence[Any]) -> None:
            applied(leaves, flats, states)

        form = ours and tuple(part.data_ptr() for part in gradients)
        held = [*flats, *(tensor for part in (*states, *numbers) for tensor in part.values())]
        graph = self._found(self._updates, form, held, given, dry, run)
        (run if graph is None else graph)(given)

    def _found(
        self, graphs: _Graphs, form: Hashable, held: Sequence[Tensor], given: Sequence[Any], dry: Callable[[Sequence[Any]], Any],
        run: Callable[[Sequence[Any]], Any], alive: Any = None,
    ) -> _Graph | None:  # fmt: skip
        """The graph of this form, where there is one or one is due."""
        if self.why:
            return None
        shapes = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else frozen(leaf) for leaf in given)
        try:
            return graphs.of((form, shapes), held, given, dry, run, alive)
        except Exception as error:
            self.why = let_go(error)
            self.clear()
            return None

    def clear(self) -> None:
        """No graph is held any more, nor its memory."""
        self._parts = ()
        for graphs in (self._gradients, self._updates):
            graphs.clear()


class _Graphs:
    """Graphs of one function by their forms, for as long as what is held lies where it lay."""

    def __init__(self, make: Callable[..., _Graph]) -> None:
        self._make = make
        self._lie: Hashable = None
        self._known: dict[Hashable, _Graph | None] = {}     # None: the form was there once

    def of(self, form: Hashable, held: Sequence[Tensor], *what: Any) -> _Graph | None:
        """None where the form was not there yet. An address stands for what lies there: it is all that a graph knows of it."""
        lie = tuple((tensor.data_ptr(), tensor.shape, tensor.dtype) for tensor in held)
        if lie != self._lie:
            self.clear()
            self._lie = lie
        if form in self._known:
            self._known[form] = graph = self._known.pop(form) or self._make(held[0].device, *what)
            return graph
        if len(self._known) == FORMS:
            del self._known[next(iter(self._known))]
        self._known[form] = None
        return None

    def clear(self) -> None:
        self._known = {}


class _Graph:
    """One form of a function. `alive`: whatever else it reads is held by this."""

    def __init__(
        self, capture: Capture, device: torch.device, given: Sequence[Any], dry: Callable[[Sequence[Any]], Any],
        run: Callable[[Sequence[Any]], Any], alive: Any,
    ) -> None:  # fmt: skip
        own = [leaf.detach().to(device, copy=True) if isinstance(leaf, Tensor) else leaf for leaf in given]
        self._found, self._replay = capture(lambda: dry(own), lambda: run(own))
        self._given, self._alive = own, alive

    def __call__(self, given: Sequence[Any]) -> Any:
        with torch.no_grad():
            for own, leaf in zip(self._given, given):
                if isinstance(own, Tensor):
                    own.copy_(leaf)
        self._replay()
        return self._found


def _moved_on(buffers: Mapping[str, Tensor], found: Gradients) -> Gradients:
    """With the buffers that are of another kind than before; the others are copied to where they lie."""
    others = {}
    for name, buffer in found.buffers.items():
        if buffer.shape == buffers[name].shape and buffer.dtype == buffers[name].dtype:
            buffers[name].copy_(buffer)
        else:
            others[name] = buffer
    return found._replace(buffers=others)


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


@contextmanager
def _uncached() -> Iterator[None]:
    """What autocast keeps for the whole of its block would lie in the memory of one graph."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """What waits for the device raises."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)

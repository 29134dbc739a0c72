"""The global generators of torch, numpy and `random`, lent to a trial for a while: `with seeded(seed): ...`.

Users write `torch.randn`, `np.random.permutation`, `random.choice`; what these draw must depend on the trial and its step
alone, and the program around the study must not notice that they were drawn from.

Laws:
1. Inside, all three draw as after `manual_seed`, `np.random.seed`, `random.seed`; so does CUDA, also where it is initialized
   only inside the block.
2. Afterwards, also after an exception, the caller's streams go on where they stood. One thing is not kept, for it alone
   would cost 100 us: the second half of a pair of normals that legacy numpy holds back.
3. Inside `undisturbed`, which is meant to be used once, around a whole study, law 2 holds for that block as a whole, held back
   normals included; the outermost `seeded` then leaves the streams as they are.
4. Blocks nest. The generators are the process's own: two threads cannot be inside at once.

5. What draws in turns, as coroutines do, takes its `Streams` along: put back, every block that it stands in goes on as if nobody had
   drawn in between.

Measured on two CPU cores: `seeded` 28 us, inside `undisturbed` 9 us; `undisturbed` 115 us.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand

_spare: list[np.random.MT19937] = []
"""Bit generators to put in the place of the caller's: reading numpy's state out and back costs 100 us, swapping 1."""

_active: list[int] = []
"""The seeds in force, innermost last: what CUDA is seeded with if it wakes up inside a block."""

_lent = 0
"""How many `undisturbed` blocks there are."""

_waiting_for_cuda = False


class seeded:
    """A block under one seed. `reseed` gives the generators another one, without leaving it. `puts_back`: inside `undisturbed`, too."""

    __slots__ = ("_bits", "_cuda", "_own", "_puts_back", "_python", "_restores", "_seed", "_torch")

    def __init__(self, seed: int, puts_back: bool = False) -> None:
        self._seed, self._puts_back = seed, puts_back

    def __enter__(self) -> None:
        self._restores = self._puts_back or not _lent or bool(_active)
        if self._restores:
            self._save()
        _active.append(self._seed)
        reseed(self._seed)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        _active.pop()
        if self._restores:
            self._restore()

    def _save(self) -> None:
        self._torch = torch.default_generator.get_state()
        self._python = random.getstate()
        self._bits = mtrand.get_bit_generator()
        self._own = _spare.pop() if _spare else np.random.MT19937()
        self._cuda = [generator.get_state() for generator in _cuda_generators()]
        mtrand.set_bit_generator(self._own)

    def _restore(self) -> None:
        torch.default_generator.set_state(self._torch)
        random.setstate(self._python)
        mtrand.set_bit_generator(self._bits)
        _spare.append(self._own)
        for generator, state in zip(_cuda_generators(), self._cuda, strict=False):
            generator.set_state(state)


def reseed(seed: int) -> None:
    """Seeds all global generators; used inside a `seeded` block, which puts the caller's back."""
    torch.default_generator.manual_seed(seed)       # `torch.manual_seed` visits every backend, at 230 us
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    if _active:
        _active[-1] = seed
    _seed_cuda(seed)


class Streams:
    """Where all global generators stand, and the seeds in force; `put` makes it so again.

    `fresh`: a place outside of every block, for what seeds them first. Whoever draws nothing more from it gives it back.
    """

    __slots__ = ("_active", "_bits", "_rest")

    def __init__(self, fresh: bool = False) -> None:
        self._rest: tuple[Any, ...] | None = None
        self._bits: Any
        self._active: list[int] = []
        if fresh:
            self._bits = _spare.pop() if _spare else np.random.MT19937()
        else:
            self._bits, self._active = mtrand.get_bit_generator(), _active.copy()
            cuda = [generator.get_state() for generator in _cuda_generators()]
            self._rest = torch.default_generator.get_state(), random.getstate(), cuda

    def put(self) -> None:
        mtrand.set_bit_generator(self._bits)
        _active[:] = self._active
        if self._rest is not None:
            own, python, cuda = self._rest
            torch.default_generator.set_state(own)
            random.setstate(python)
            for generator, state in zip(_cuda_generators(), cuda, strict=False):
                generator.set_state(state)

    def give_back(self) -> None:
        _spare.append(self._bits)


def generators() -> Any:
    """Where the global generators of torch (on the CPU), numpy and `random` stand: two that are equal, and nothing was drawn between."""
    state = np.random.get_state(legacy=False)["state"]
    return torch.default_generator.get_state().numpy().tobytes(), random.getstate(), state["pos"], state["key"].tobytes()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever happens inside, the caller's global generators are afterwards bit for bit what they were."""
    global _lent
    bits, numpy_state = mtrand.get_bit_generator(), np.random.get_state(legacy=False)
    torch_state, python_state = torch.default_generator.get_state(), random.getstate()
    cuda = [generator.get_state() for generator in _cuda_generators()]
    mtrand.set_bit_generator(np.random.MT19937())       # the caller's may be of a kind that cannot be seeded
    _lent += 1
    try:
        yield
    finally:
        _lent -= 1
        mtrand.set_bit_generator(bits)
        np.random.set_state(numpy_state)
        torch.default_generator.set_state(torch_state)
        random.setstate(python_state)
        for generator, state in zip(_cuda_generators(), cuda, strict=False):
            generator.set_state(state)


def _cuda_generators() -> tuple[torch.Generator, ...]:
    return torch.cuda.default_generators if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]


def _seed_cuda(seed: int) -> None:
    for generator in _cuda_generators():
        generator.manual_seed(seed)
    global _waiting_for_cuda
    if not _waiting_for_cuda and torch.backends.cuda.is_built() and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        _waiting_for_cuda = True
        torch.cuda._lazy_call(_cuda_woke_up)  # type: ignore[no-untyped-call]  # once a process; `cuda.manual_seed_all` would queue a call at every step


def _cuda_woke_up() -> None:
    """CUDA was initialized; if that happened in a trial's first step, its draws there must come from the trial too."""
    if _active:
        for generator in torch.cuda.default_generators:
            generator.manual_seed(_active[-1])

"""The cases of fused_training.py: each makes the members of a task and returns what updates all of them once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import common  # noqa: F401     # the checkout's own package
import torch
from fused_training_jax import jax_case
from fused_training_models import Task, Workload
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.utils import clip_grad_norm_

import torchtune_hp as hp
from torchtune_hp.population.stack import Stack

Update = Callable[[], Tensor]
"""One update of all members -> losses (P,), as they were before it."""

FEW = 16
"""Up to so many members, ours is measured one by one too."""

EAGER, SINGLE, VMAP, LOOP, COMPILED, JAX = "eager loop", "best single step", "ours, vmap", "ours, loop", "fused, compiled", "JAX"
GRAPH, EAGER_GRAPHED, SINGLE_GRAPHED = "ours, graph", "eager loop, graphed", "best single step, graphed"
PROGRAM = "the benchmark's own program"

Forms = Mapping[str, Callable[[], Update]]
"""Ways to do the same; the fastest is kept. A name that ends in ", graphed" is captured in a CUDA graph."""


def forms_of(task: Task, compiles: bool, quick: bool, fused_compile: bool) -> dict[str, Forms]:
    """What is measured, by case."""
    work, cuda = task.work, task.device.type == "cuda"
    found: dict[str, Forms] = {
        EAGER: {"": lambda: in_turn(task, work.loss, {})},
        VMAP: {"": lambda: population(task, "vmap")},
    }
    if task.P <= FEW:
        found[LOOP] = {"": lambda: population(task, "loop")}
    if compiles:
        compiled: dict[str, Callable[[], Update]] = {"the whole step": lambda: program(task, each=True)}
        for how, foreach in () if quick else itertools.product(("plain", "fused", "foreach"), (False, True)):
            form = f"forward and backward, {how} optimizer, {'foreach' if foreach else 'plain'} clipping"
            compiled[form] = partial(_half_compiled, task, {} if how == "plain" else {how: True}, foreach)
        found[SINGLE] = compiled
        if fused_compile:
            found[COMPILED] = {"hp.Population": lambda: population(task, "compile")}
    if cuda:
        found[GRAPH] = {"": lambda: population(task, "graph")}
        found[EAGER_GRAPHED] = {", graphed": lambda: in_turn(task, work.loss, {"capturable": True})}
        found["fused, graphed"] = {f"{PROGRAM}, eager, graphed": lambda: program(task, compiled=False)}
        if compiles:
            options = {"capturable": True, "fused": True}
            found[SINGLE_GRAPHED] = {
                "forward and backward, graphed": lambda: _half_compiled(task, options, True),
                "the whole step, graphed": lambda: program(task, each=True),
            }
            found["fused, compiled, graphed"] = {f"{PROGRAM}, graphed": lambda: program(task)}
    if work.widths and not work.grouped:
        found[JAX] = {"jit(vmap)": lambda: jax_case(task)}
    return found


def in_turn(task: Task, loss: Callable[..., Tensor], how: Mapping[str, Any], foreach: bool | None = None) -> Update:
    """One model after another. `foreach`: of clip_grad_norm_."""
    models, optimizers, clips = task.members(**how)

    def update() -> Tensor:
        losses = []
        for model, optimizer, clip in zip(models, optimizers, clips):
            optimizer.zero_grad()
            found = loss(model, task.batch)
            found.backward()  # type: ignore[no-untyped-call]
            clip_grad_norm_(model.parameters(), clip, foreach=foreach)
            optimizer.step()
            losses.append(found.detach())
        return torch.stack(losses)

    return update


def population(task: Task, strategy: Any) -> Update:
    models, optimizers, clips = task.members()
    members = hp.Population(models, optimizers, max_grad_norm=clips, strategy=strategy)
    return partial(members.step, task.work.loss, task.batch)


class Program:
    """The step of a stack of k as one function of tensors alone, which can be compiled whole; models without buffers and dropout.

    All stacks of one k share it.
    """

    def __init__(self, work: Workload, stack: Stack, compiled: bool) -> None:
        self.work, self.layout, self.rule = work, stack.layout, stack.rule
        self.model = work.model().to(stack.flats[0].device)
        self.step = torch.compile(self._step, fullgraph=True, dynamic=False) if compiled else self._step

    def _step(self, flats: list[Tensor], states: Any, numbers: Any, clip: Tensor, batch: Any) -> Tensor:
        def member(tensors: dict[str, Tensor]) -> Tensor:
            return self.work.loss(partial(functional_call, self.model, tensors), batch)     # type: ignore[arg-type]

        def total(flats: list[Tensor]) -> tuple[Tensor, Tensor]:
            views: dict[str, Tensor] = {}
            for block, flat in zip(self.layout.blocks, flats):
                views.update(block.views(flat))
            losses = vmap(member)(views)
            return losses.sum(), losses

        gradients, losses = grad(total, has_aux=True)(flats)
        norms = torch.stack([gradient.square().sum(1) for gradient in gradients]).sum(0).sqrt()
        scale = (clip / (norms + 1e-6)).clamp(max=1.0).unsqueeze(1)
        for block, flat, gradient, state, own in zip(self.layout.blocks, flats, gradients, states, numbers):
            self.rule.update(flat, gradient * scale, state, own, block.flags)
        return losses


def program(task: Task, compiled: bool = True, each: bool = False) -> Update:
    """The program above for all P at once, or (`each`) the one of a single model for one after another."""
    models, optimizers, clips = task.members()
    members = list(zip(models, optimizers))
    stacks = [Stack([member]) for member in members] if each else [Stack(members)]
    made = _program(task, stacks[0], compiled)
    limits = torch.tensor(clips, device=task.device).split(1 if each else task.P)  # type: ignore[no-untyped-call]
    given = [([f.detach() for f in stack.flats], stack.states, stack.numbers, clip) for stack, clip in zip(stacks, limits)]

    def update() -> Tensor:
        with torch.no_grad():
            losses = [made.step(*own, task.batch) for own in given]
        return torch.cat(losses) if each else losses[0]

    return update


_programs: dict[tuple[str, int, bool], Program] = {}
_compiled: dict[str, Callable[..., Tensor]] = {}


def _program(task: Task, stack: Stack, compiled: bool) -> Program:
    key = (task.work.name, len(stack), compiled)
    if key not in _programs:
        _programs[key] = Program(task.work, stack, compiled)
    return _programs[key]


def _half_compiled(task: Task, how: Mapping[str, Any], foreach: bool) -> Update:
    """One compiled loss for all members and all P: modules of one class and shape share its code."""
    if task.work.name not in _compiled:
        _compiled[task.work.name] = torch.compile(task.work.loss, fullgraph=True, dynamic=False)
    return in_turn(task, _compiled[task.work.name], how, foreach)


def graphed(update: Update, run: Callable[[Update], None]) -> Update:
    """`run` makes the updates that warm it up, on a stream of their own; then one update is captured, for replay."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(update)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = update()

    def replay() -> Tensor:
        graph.replay()
        return losses

    return replay

"""What an update of one model costs when P of them are trained at once, against what people do: one after another.

Measured: milliseconds per model-update, the time of one update of all P members divided by P. Every case trains the same P
models from the same initial weights on the same batch in float32 (no TF32), each member with its own learning rate, weight
decay, betas and gradient norm to clip at, and looks once an update whether all P losses are finite:

    eager loop          plain torch, one model after another: zero_grad, loss, backward, clip_grad_norm_, step
    best single step    the fastest that torch.compile makes of one model's step, called for one model after another: forward and
                        backward compiled, with each of torch's forms of optimizer and clipping, or the whole step as one
                        program (the "*" below for one member); all tried at the smallest P, the last alone in the quick form
    ours, vmap          hp.Population(strategy="vmap").step
    ours, loop          hp.Population(strategy="loop").step, where P is at most 16: what "auto" takes for one model
    ours, graph         hp.Population(strategy="graph").step, on CUDA: the library's own step replayed from CUDA graphs
    fused, compiled     hp.Population(strategy="compile") if there is one; else, and then marked "*", the same program written here
                        (stacked parameters, vmap of functional_call, grad, the library's optimizer rules) under torch.compile, as
                        one graph or as two (gradients; optimizer), whichever is faster. It does not look for changed learning rates
    JAX                 the same MLP and Adam under jit(vmap), the call from Python included; only where `import jax` works
    ..., graphed        on CUDA: the update of all P captured in one CUDA graph by this benchmark, for the loops and, to compare, for the
                        fused program; "ours" is in no goal but by what the library itself does. The baseline of the goals is the
                        fastest of all loops, graphed and compiled ones included

Compile time stands beside (the caches are empty: every run compiles anew). "limit" is the FLOP of one model's forward and backward
pass by the GEMM rate that the probe reached. Rounds are interleaved, medians of them.

The claim would be false if the models were not trained alike, so the losses of the first 4 updates of every case are compared
with the eager loop's, and the benchmark stops where they differ by more than 1e-4 of the loss or 2 % of the way that it came
(on the MLPs a learning rate wrong by a tenth shows; a wrong clip hardly does, for Adam undoes it); if the members were alike (their
hyperparameters are drawn apart); or if a shape that fuses well were shown for spaces that do not, so the last table counts,
for 128 random configurations of each of three published spaces, how many stacks there are: if only equal shapes share one, and
with widths padded, on a CPU and on a GPU.

    python benchmarks/fused_training.py [--quick] [--device cpu] [--rounds 5] [--without compile,jax] [--results DIR]
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import tempfile
import time
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import common
import torch
import torch._dynamo
from networks import asha_cnn, cuda_convnet
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, Optimizer
from torch.utils.flop_counter import FlopCounterMode

import torchtune_hp as hp
from torchtune_hp.population import population as library
from torchtune_hp.population.padding import rounded
from torchtune_hp.population.signature import structure
from torchtune_hp.population.stack import Stack

Update = Callable[[], Tensor]
"""One update of all members -> losses (P,), as they were before it."""

CHECKED = 4
AGREE, MOVED, NOISE = 1e-4, 0.02, 5e-6
"""How far losses may be from the eager loop's: relative to the loss, and to the way that it has come since the first
update, with an allowance for float32."""

PADDED = {"padded, CPU": "cpu", "padded, GPU": "cuda"}
"""In whole spaces: what is padded follows from the kind of device."""

FEW = 16
"""Up to so many members, ours is measured one by one too."""

EAGER, SINGLE, VMAP, LOOP, COMPILED, JAX = "eager loop", "best single step", "ours, vmap", "ours, loop", "fused, compiled", "JAX"
GRAPH, EAGER_GRAPHED, SINGLE_GRAPHED = "ours, graph", "eager loop, graphed", "best single step, graphed"
OWN_COMPILE = "compile" in typing.get_args(library.Strategy)


# What is trained --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """A model and its batch. `widths`: of an MLP. `classes` 0: regression to one number, mean squared error."""

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    classes: int
    widths: tuple[int, ...] = ()
    grouped: bool = False       # SGD with a weight decay for each layer, instead of Adam

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y) if self.classes else F.mse_loss(model(x), y)

    def data(self, device: torch.device) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.batch, *self.shape, generator=generator)
        if self.classes:
            return x.to(device), torch.randint(self.classes, (self.batch,), generator=generator).to(device)
        return x.to(device), torch.randn(self.batch, 1, generator=generator).to(device)

    def optimizer(self, model: nn.Module, values: Mapping[str, Any], how: Mapping[str, Any]) -> Optimizer:
        if not self.grouped:
            betas, decay = values["betas"], values["weight_decay"]
            return Adam(model.parameters(), lr=values["lr"], betas=betas, weight_decay=decay, **how)
        layers = [list(layer.parameters()) for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
        decays = [values["weight_decay"] * (k + 1) for k in range(len(layers))]
        groups = [{"params": own, "weight_decay": decay} for own, decay in zip(layers, decays)]
        return SGD(groups, lr=values["lr"], momentum=0.9, **{name: on for name, on in how.items() if name != "capturable"})


def mlp(name: str, *widths: int, batch: int = 64) -> Workload:
    """The last width 1 means regression."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for n, m in itertools.pairwise(widths):
            layers += [nn.Linear(n, m), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return Workload(name, model, widths[:1], batch, widths[-1] if widths[-1] > 1 else 0, widths)


def small_cnn(side: int) -> Workload:
    def model() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 10),
        )  # fmt: skip

    return Workload(f"small CNN 3-16-32, {side}x{side}", model, (3, side, side), 64, 10)


@dataclass(frozen=True)
class Task:
    """A workload of P members on a device: every case makes its own members, and all cases the same."""

    work: Workload
    P: int
    device: torch.device
    batch: tuple[Tensor, Tensor]

    def members(self, **how: Any) -> tuple[list[nn.Module], list[Optimizer], list[float]]:
        """-> models, their optimizers, the norms at which their gradients are clipped. `how`: options of the optimizer's form."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            models = [self.work.model().to(self.device) for _ in range(self.P)]
            draws = torch.rand(self.P, 5, dtype=torch.float64).tolist()
        values = [
            {"lr": 10 ** (-4 + 1.5 * a), "weight_decay": 10 ** (-6 + 3 * b), "betas": (0.85 + 0.1 * c, 0.99 + 0.009 * d)}
            for a, b, c, d, _ in draws
        ]
        optimizers = [self.work.optimizer(model, own, how) for model, own in zip(models, values)]
        return models, optimizers, [10 ** (-1.5 + 1.5 * e) for *_, e in draws]      # most of them below the norms at the start


# The cases --------------------------------------------------------------------------------------------------------------------


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
    """The step of a stack of k as functions of tensors alone, which can be compiled whole; models without buffers and dropout.

    parts: 0 eager; 1 compiled as one graph; 2 compiled as two, gradients and optimizer. All stacks of one k share it.
    """

    def __init__(self, work: Workload, stack: Stack, parts: int) -> None:
        self.work, self.layout, self.rule = work, stack.layout, stack.rule
        self.model = work.model().to(stack.flats[0].device)
        run = partial(torch.compile, fullgraph=True, dynamic=False)
        self.step = run(self._step) if parts == 1 else self._step
        self.gradients = run(self._gradients) if parts == 2 else self._gradients
        self.update = run(self._update) if parts == 2 else self._update

    def _step(self, flats: Any, states: Any, numbers: Any, clip: Tensor, batch: Any) -> Tensor:
        gradients, scale, losses = self.gradients(flats, clip, batch)
        self.update(flats, gradients, scale, states, numbers)
        return losses

    def _gradients(self, flats: list[Tensor], clip: Tensor, batch: Any) -> tuple[list[Tensor], Tensor, Tensor]:
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
        return gradients, (clip / (norms + 1e-6)).clamp(max=1.0).unsqueeze(1), losses

    def _update(self, flats: Any, gradients: Any, scale: Tensor, states: Any, numbers: Any) -> None:
        for block, flat, gradient, state, own in zip(self.layout.blocks, flats, gradients, states, numbers):
            self.rule.update(flat, gradient * scale, state, own, block.flags)


def program(task: Task, parts: int, each: bool = False) -> Update:
    """The program above for all P at once, or (`each`) the one of a single model for one after another."""
    models, optimizers, clips = task.members()
    members = list(zip(models, optimizers))
    stacks = [Stack([member]) for member in members] if each else [Stack(members)]
    made = _program(task, stacks[0], parts)
    limits = torch.tensor(clips, device=task.device).split(1 if each else task.P)  # type: ignore[no-untyped-call]
    given = [([f.detach() for f in stack.flats], stack.states, stack.numbers, clip) for stack, clip in zip(stacks, limits)]

    def update() -> Tensor:
        with torch.no_grad():
            losses = [made.step(*own, task.batch) for own in given]
        return torch.cat(losses) if each else losses[0]

    return update


_programs: dict[tuple[str, int, int], Program] = {}
_compiled: dict[str, Callable[..., Tensor]] = {}


def _program(task: Task, stack: Stack, parts: int) -> Program:
    key = (task.work.name, len(stack), parts)
    if key not in _programs:
        _programs[key] = Program(task.work, stack, parts)
    return _programs[key]


def _half_compiled(task: Task, how: Mapping[str, Any], foreach: bool) -> Update:
    """One compiled loss for all members and all P: modules of one class and shape share its code."""
    if task.work.name not in _compiled:
        _compiled[task.work.name] = torch.compile(task.work.loss, fullgraph=True, dynamic=False)
    return in_turn(task, _compiled[task.work.name], how, foreach)


def jax_case(task: Task) -> Update:
    """Adam with weight decay in the gradient, as torch's; bias corrections without cancellation in float32."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if jax.default_backend() != ("gpu" if task.device.type == "cuda" else "cpu"):
        raise RuntimeError(f"JAX runs on {jax.default_backend()}")
    jax.config.update("jax_default_matmul_precision", "float32")
    models, optimizers, clips = task.members()
    states = [list(model.parameters()) for model in models]
    params = [jnp.asarray(np.stack([own[k].detach().cpu().numpy() for own in states])) for k in range(len(states[0]))]
    groups = [optimizer.param_groups[0] for optimizer in optimizers]
    columns = {
        "lr": [group["lr"] for group in groups], "decay": [group["weight_decay"] for group in groups], "clip": clips,
        **{f"fresh{k}": [1 - group["betas"][k] for group in groups] for k in (0, 1)},
        **{f"log{k}": [math.log(group["betas"][k]) for group in groups] for k in (0, 1)},
    }  # fmt: skip
    own = {name: jnp.asarray(np.array(column, dtype=np.float32)) for name, column in columns.items()}
    x, y = (jnp.asarray(part.cpu().numpy()) for part in task.batch)
    classes = task.work.classes

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        for k in range(0, len(params), 2):
            x = (jax.nn.relu(x) if k else x) @ params[k].T + params[k + 1]
        if not classes:
            return jnp.mean((x - y) ** 2)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1))

    def member(params: Any, first: Any, second: Any, own: Any, t: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in gradients))
        scale = jnp.minimum(1.0, own["clip"] / (norm + 1e-6))
        gradients = [g * scale + own["decay"] * p for g, p in zip(gradients, params)]
        first = [m + own["fresh0"] * (g - m) for m, g in zip(first, gradients)]
        second = [v + own["fresh1"] * (g * g - v) for v, g in zip(second, gradients)]
        size, root = own["lr"] / -jnp.expm1(t * own["log0"]), jnp.sqrt(-jnp.expm1(t * own["log1"]))
        return [p - size * m / (jnp.sqrt(v) / root + 1e-8) for p, m, v in zip(params, first, second)], first, second, loss

    stepped = jax.jit(jax.vmap(member, in_axes=(0, 0, 0, 0, None, None, None)), donate_argnums=(0, 1, 2))
    state: list[Any] = [params, [jnp.zeros_like(p) for p in params], [jnp.zeros_like(p) for p in params]]
    t = 0

    def update() -> Tensor:
        nonlocal t
        t += 1
        *state[:], losses = jax.block_until_ready(stepped(*state, own, np.float32(t), x, y))
        return torch.from_numpy(np.array(losses))

    return update


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


# Built, checked, chosen -------------------------------------------------------------------------------------------------------


class Different(Exception):
    """A case does not train the models that the eager loop trains."""


@dataclass
class Built:
    """A case that was checked. `each_s`: seconds of an update of all P; `compile_s`: what its code took to compile, here or before."""

    update: Update
    form: str
    compile_s: float
    each_s: float


@dataclass
class Row:
    """A workload at one P, and what was found."""

    task: Task
    limit_ms: float
    built: dict[str, Built] = field(default_factory=dict)
    why_not: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def ms(self, name: str) -> float:
        return common.median(self.rounds.get(name, []))

    def least(self, *names: str) -> float:
        """Of several cases, those that were measured."""
        return min((self.ms(name) for name in names if name in self.rounds), default=math.nan)


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
        compiled: dict[str, Callable[[], Update]] = {"the whole step": lambda: program(task, 1, each=True)}
        for how, foreach in () if quick else itertools.product(("plain", "fused", "foreach"), (False, True)):
            form = f"forward and backward, {how} optimizer, {'foreach' if foreach else 'plain'} clipping"
            compiled[form] = partial(_half_compiled, task, {} if how == "plain" else {how: True}, foreach)
        found[SINGLE] = compiled
        if fused_compile and OWN_COMPILE:
            found[COMPILED] = {"hp.Population": lambda: population(task, "compile")}
        elif fused_compile:
            # Inductor of PyTorch 2.15 fails on the one graph for some k on CPUs, after as long as it takes to compile it.
            parts = (1,) if task.P == 1 else (2,) if quick else (1, 2)
            found[COMPILED] = {f"* {n} graph{'s'[:n - 1]}": partial(program, task, n) for n in parts}
    if cuda:
        found[GRAPH] = {"": lambda: population(task, "graph")}
        found[EAGER_GRAPHED] = {", graphed": lambda: in_turn(task, work.loss, {"capturable": True})}
        found["fused, graphed"] = {"* eager, graphed": lambda: program(task, 0)}
        if compiles:
            options = {"capturable": True, "fused": True}
            found[SINGLE_GRAPHED] = {
                "forward and backward, graphed": lambda: _half_compiled(task, options, True),
                "the whole step, graphed": lambda: program(task, 1, each=True),
            }
            found["fused, compiled, graphed"] = {"* 1 graph, graphed": lambda: program(task, 1)}
    if work.widths and not work.grouped:
        found[JAX] = {"jit(vmap)": lambda: jax_case(task)}
    return found


def look(losses: Tensor) -> None:
    """Once an update, in every case: it waits for the device, as a study does that must know who diverged."""
    if not bool(losses.isfinite().all()):
        raise Different(f"a loss is not finite: {losses.tolist()}")


def built(task: Task, name: str, form: str, make: Callable[[], Update], reference: list[Tensor]) -> Built:
    """Makes a case and checks its first updates; the very first case gives the reference."""
    update = make()
    times: list[float] = []

    def checked(update: Update, k: int) -> None:
        began = time.perf_counter()
        losses = update().cpu()
        look(losses)
        times.append(time.perf_counter() - began)
        if len(reference) == k:
            reference.append(losses)
        right, moved = reference[k], sum(((b - a).abs() for a, b in itertools.pairwise(reference[: k + 1])), torch.zeros(task.P))
        allowed = torch.minimum(AGREE * right.abs(), MOVED * moved + NOISE * right.abs())
        worst = int(((losses - right).abs() - allowed).argmax())
        if not (losses - right).abs()[worst] <= allowed[worst]:
            raise Different(
                f"{task.work.name}, P={task.P}: {name} ({form}) gives member {worst} the loss {losses[worst]:.7g} in update {k + 1}, "
                f"but the eager loop {right[worst]:.7g}; at most {allowed[worst]:.2g} between them is allowed."
            )

    def all_but_one(update: Update) -> None:
        for k in range(CHECKED - 1):
            checked(update, k)

    if form.endswith(", graphed"):
        update = graphed(update, all_but_one)
    else:
        all_but_one(update)
    checked(update, CHECKED - 1)
    code = _code(task, name, form)
    _compile_s[code] = max(_compile_s.get(code, 0.0), times[0] - times[1])
    return Built(update, form, _compile_s[code], times[-1])


_compile_s: dict[Any, float] = {}
"""Of what is compiled once and used in several cases: the first update's time less the second's, where it was new."""


def _code(task: Task, name: str, form: str) -> tuple[Any, ...]:
    """Which compiled code a form runs."""
    if form.startswith("forward and backward"):
        return task.work.name, "loss"
    if form.startswith("the whole step"):
        return task.work.name, 1, "* 1 graph"
    return (task.work.name, task.P, form.removesuffix(", graphed")) if form.startswith("* ") else (task.work.name, task.P, name)


def build(row: Row, forms: Mapping[str, Forms], chosen: dict[str, str], seconds: float) -> None:
    """Fills `row.built`, of each case with its fastest form. `chosen`: by case, what was found to be fastest at the first P."""
    reference: list[Tensor] = []
    for name, ways in forms.items():
        if name in chosen and chosen[name] in ways:
            ways = {chosen[name]: ways[chosen[name]]}
        made: list[Built] = []
        for form, make in ways.items():
            try:
                made.append(built(row.task, name, form, make, reference))
            except Different:
                raise
            except Exception as error:      # a compiler that fails, or is not there, leaves the case out, and says so
                lines = str(error).strip().splitlines()
                row.why_not[f"{name} {f'({form})' if form else ''}".strip()] = f"{type(error).__name__}: {(lines or [''])[0][:120]}"
        if not made:
            continue
        best = made[0]
        if len(made) > 1:
            best = min(made, key=lambda each: min(burst(each, row.task.P, seconds / 5) for _ in range(3)))
            if name == SINGLE:
                chosen[name] = best.form
        row.built[name] = best


def burst(case: Built, P: int, seconds: float) -> float:
    """ms per model-update over so many updates as last about so long."""
    n = max(1, math.ceil(seconds / max(case.each_s, 1e-6)))
    began = time.perf_counter()
    for _ in range(n):
        look(case.update())
    took = time.perf_counter() - began
    case.each_s = took / n
    return took / n / P * 1e3


def limit_ms(work: Workload, rate: float) -> float:
    """The matrix products and convolutions of a model's forward and backward pass at `rate` GFLOP/s."""
    model, batch = work.model(), work.data(torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        work.loss(model, batch).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops() / rate / 1e6)


def gpu_probes() -> dict[str, float]:
    """As common.probes, on the GPU: best of several tries, each long enough to be timed from outside."""

    def best(run: Callable[[], Any], times: int) -> float:
        tries = []
        for _ in range(5):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(times):
                run()
            torch.cuda.synchronize()
            tries.append((time.perf_counter() - began) / times)
        return min(tries)

    source, a, one = torch.ones(2**28, device="cuda"), torch.ones(8192, 8192, device="cuda"), torch.ones(1, device="cuda")
    target = torch.empty_like(source)
    return {
        "gpu_copy_GB_per_s": 2 * source.nbytes / best(lambda: target.copy_(source), 10) / 1e9,
        "gpu_gemm_GFLOP_per_s": 2 * 8192**3 / best(lambda: a @ a, 5) / 1e9,
        "launch_us": best(lambda: one + one, 1000) * 1e6,
    }


# Whole spaces -----------------------------------------------------------------------------------------------------------------


def stacks_of(space: Mapping[str, Any], model: Callable[[Mapping[str, Any]], nn.Module], n: int = 128) -> dict[str, list[int]]:
    """Members of each stack that n random configurations make, by what shares one besides a batch size; the largest first."""
    x = torch.rand(n, len(hp.Space(space)), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts: dict[str, Counter[Any]] = {way: Counter() for way in ("equal shapes", *PADDED)}
    for config in hp.Space(space).decode(x):
        with torch.device("meta"):      # shapes are all that counts
            made = model(config)
        optimizer = Adam(made.parameters())
        counts["equal shapes"][config["batch_size"], structure(made, optimizer)] += 1
        for way, device in PADDED.items():
            counts[way][config["batch_size"], structure(made, optimizer, rounded(made, optimizer, device))] += 1
    return {way: sorted(found.values(), reverse=True) for way, found in counts.items()}


def one_shape(config: Mapping[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(64, 10))


def one_width(config: Mapping[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear(64, config["width"]), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(config["width"], 10))


def fcnet(config: Mapping[str, Any]) -> nn.Module:
    """Klein and Hutter 2019: two hidden layers."""
    layers: list[nn.Module] = []
    for n, m, k in ((9, config["n_units_1"], 1), (config["n_units_1"], config["n_units_2"], 2)):
        layers += [nn.Linear(n, m), {"relu": nn.ReLU, "tanh": nn.Tanh}[config[f"activation_{k}"]](), nn.Dropout(config[f"dropout_{k}"])]
    return nn.Sequential(*layers, nn.Linear(config["n_units_2"], 1))


def lcbench(config: Mapping[str, Any]) -> nn.Module:
    """After Zimmer et al. 2021: layers of one width."""
    widths = [54, *[config["width"]] * config["layers"]]
    hidden = [part for n, m in itertools.pairwise(widths) for part in (nn.Linear(n, m), nn.ReLU(), nn.Dropout(config["dropout"]))]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], 7))


def spaces() -> Iterator[tuple[str, dict[str, Any], Callable[[Mapping[str, Any]], nn.Module]]]:
    units = hp.choice([2**k for k in range(4, 10)])
    relu_tanh, dropout = hp.choice(["relu", "tanh"]), hp.choice([0.0, 0.3, 0.6])
    own = {"n_units_1": units, "n_units_2": units, "activation_1": relu_tanh, "activation_2": relu_tanh}
    yield "one shape", {"batch_size": hp.choice([64]), "dropout": hp.uniform(0.0, 0.8)}, one_shape
    yield "FCNet's grid", {**own, "dropout_1": dropout, "dropout_2": dropout, "batch_size": hp.choice([8, 16, 32, 64])}, fcnet
    sizes = {"batch_size": hp.choice([64, 128, 256, 512]), "layers": hp.choice([2, 3, 4]), "filters": hp.choice([16, 32, 48, 64])}
    yield "ASHA's small CNN", sizes, asha_cnn
    ranges = {"layers": hp.randint(1, 6), "width": hp.lograndint(64, 1025), "batch_size": hp.lograndint(16, 513)}
    yield "one width", {"width": hp.lograndint(8, 512), "batch_size": hp.choice([64]), "dropout": hp.uniform(0.0, 0.8)}, one_width
    yield "LCBench's", {**ranges, "dropout": hp.uniform(0.0, 1.0)}, lcbench


# The run ----------------------------------------------------------------------------------------------------------------------


def plan(quick: bool, cuda: bool) -> list[tuple[Workload, tuple[int, ...]]]:
    digits = mlp("MLP 64-64-64-10", 64, 64, 64, 10)
    regression = mlp("FCNet 9-64-64-1", 9, 64, 64, 1)
    if quick:
        return [(digits, (1, 16, 128)), (regression, (128,)), (small_cnn(8), (16,))]
    rows = [(digits, (1, 4, 16, 64, 128, 256, 1024)), (regression, (512 if cuda else 128,)), (small_cnn(16), (16,))]
    convnet = Workload("cuda-convnet", cuda_convnet, (3, 32, 32), 100, 10, grouped=True)
    return [*rows, (mlp("MLP 784-256-10", 784, 256, 10), (128,)), (convnet, (32,))] if cuda else rows


def measure(row: Row, rounds: int, seconds: float) -> None:
    cases = {name: partial(burst, case, row.task.P, seconds) for name, case in row.built.items()}
    row.rounds = common.interleaved(cases, rounds)


def show(rows: Sequence[Row], rounds: int) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.built))
    title = rows[0].task.work.name
    times = [[row.task.P, *[row.ms(name) for name in names], row.limit_ms] for row in rows]
    common.table(f"{title}: ms per model-update, medians of {rounds} interleaved rounds", ["P", *names, "limit"], times)
    bases, ours = (EAGER, SINGLE, EAGER_GRAPHED, SINGLE_GRAPHED, JAX), (VMAP, GRAPH, COMPILED)
    pairs = [(base, mine) for mine in ours for base in bases if {base, mine} <= set(names)]
    shown = [mine for mine in ours if mine in names]
    ratios = [[row.task.P, *[row.ms(a) / row.ms(b) for a, b in pairs], *[row.limit_ms / row.ms(mine) for mine in shown]] for row in rows]
    columns = [*[f"{a} / {b}" for a, b in pairs], *[f"limit / {mine}" for mine in shown]]
    common.table(f"{title}: how many times faster", ["P", *columns], ratios)
    for row in rows:
        notes = [f"{name}: {b.form}, compiled in {b.compile_s:.1f} s" for name, b in row.built.items() if name in (SINGLE, COMPILED, JAX)]
        for note in (*notes, *[f"{name} is absent: {why}" for name, why in row.why_not.items()]):
            print(f"  P={row.task.P}: {note}")
    sys.stdout.flush()


def goals(rows: Sequence[Row], cuda: bool) -> list[common.Goal]:
    at = {(row.task.work.name.split(",")[0], row.task.P): row for row in rows}
    nothing = Row(rows[0].task, math.nan)

    def row(name: str, P: int) -> Row:
        return at.get((name, P), nothing)

    if cuda:
        ours = (VMAP, GRAPH, COMPILED) if OWN_COMPILE else (VMAP, GRAPH)
        loops = (EAGER, SINGLE, EAGER_GRAPHED, SINGLE_GRAPHED)
        bounds = [("MLP 784-256-10", 128, 40.0, 10.0), ("FCNet 9-64-64-1", 512, 150.0, 40.0), ("cuda-convnet", 32, 4.0, 1.5)]
        found = []
        for name, P, eager, graph in bounds:
            own = row(name, P)
            found.append(common.Goal(f"{name}, P={P}: eager loop / best fused", own.ms(EAGER) / own.least(*ours), ">=", eager, "x"))
            ratio = own.least(*loops) / own.least(*ours)
            found.append(common.Goal(f"{name}, P={P}: best loop, compiled or graphed / best fused", ratio, ">=", graph, "x"))
        return found
    name = "MLP 64-64-64-10"
    many, one, cnn = row(name, 128), row(name, 1), row("small CNN 3-16-32", 16)
    star = "" if OWN_COMPILE else " *"
    return [
        common.Goal(f"{name}, P=128: eager loop / ours, vmap", many.ms(EAGER) / many.ms(VMAP), ">=", 8.0, "x"),
        common.Goal(f"{name}, P=128: eager loop / fused, compiled{star}", many.ms(EAGER) / many.ms(COMPILED), ">=", 20.0, "x"),
        common.Goal(f"{name}, P=128: JAX / fused, compiled{star}", many.ms(JAX) / many.ms(COMPILED), ">=", 1.3, "x"),
        common.Goal(f"{name}, P=1: ours (best of vmap, loop) / eager loop", one.least(VMAP, LOOP) / one.ms(EAGER), "<=", 1.3, "x"),
        common.Goal("small CNN, P=16: eager loop / ours (best of vmap, loop)", cnn.ms(EAGER) / cnn.least(VMAP, LOOP), ">=", 0.95, "x"),
    ]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="P = 1, 16, 128, images of 8x8, 3 rounds; compiles for the MLP alone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--without", default="", help="what to leave out: compile, jax")
    parser.add_argument("--results", help="folder for the result; the full form's default is benchmarks/results")
    options = parser.parse_args(arguments)
    device, without = torch.device(options.device), set(options.without.split(","))
    cuda, quick = device.type == "cuda", options.quick
    rounds, seconds = options.rounds or (3 if quick else 5), 0.1 if quick else 0.5
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not cuda:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    torch._dynamo.config.recompile_limit = 256      # one for each shape here; past it a graph would silently run eager
    where = {**common.environment("jax"), **({"gpu": torch.cuda.get_device_name()} if cuda else {})}
    probed = {**common.probes(), **(gpu_probes() if cuda else {})}
    common.heading(where, probed)

    startup, found = math.nan, list[Row]()
    with tempfile.TemporaryDirectory(prefix="fused-", ignore_cleanup_errors=True) as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        if "compile" not in without:
            began = time.perf_counter()
            try:
                torch.compile(lambda x: x + 1)(torch.ones(8, device=device))
                startup = time.perf_counter() - began
                print(f"the compiler's own start: {startup:.1f} s, in no compile time below")
            except Exception as error:
                without.add("compile")
                print(f"torch.compile does not work here, so what needs it is absent: {type(error).__name__}")
        for work, sizes in plan(quick, cuda):
            chosen: dict[str, str] = {}
            limit = limit_ms(work, probed["gpu_gemm_GFLOP_per_s" if cuda else "gemm_GFLOP_per_s"])
            shown: list[Row] = []
            for P in sizes:
                task = Task(work, P, device, work.data(device))
                row = Row(task, limit)
                compiles = "compile" not in without and not (quick and work.name != "MLP 64-64-64-10")
                forms = forms_of(task, compiles, quick, not quick or P != FEW)
                if "jax" in without or where["jax"] is None:
                    forms.pop(JAX, None)
                build(row, forms, chosen, seconds)
                measure(row, rounds, seconds)
                row.built = {name: Built(_gone, b.form, b.compile_s, b.each_s) for name, b in row.built.items()}    # frees the models
                shown.append(row)
            show(shown, rounds)
            found += shown
    if where["jax"] is None or "jax" in without:
        print(f"\n{JAX}: {common.ABSENT}")
    if not OWN_COMPILE and "compile" not in without:
        print("* a program of this benchmark, not of the library: hp.Population has no compiled strategy")
    counted = {name: stacks_of(space, model) for name, space, model in spaces()}
    figures = {name: [[len(sizes), sum(sizes) / len(sizes)] for sizes in ways.values()] for name, ways in counted.items()}
    table = [[name, *itertools.chain(*each)] for name, each in figures.items()]
    columns = ["space", *[column for way in ("equal shapes", *PADDED) for column in (f"stacks, {way}", "members per stack")]]
    common.table("128 random configurations of whole spaces: what shares a stack", columns, table)
    wanted = goals(found, cuda)
    common.show_goals(wanted)
    result = {
        "environment": where, "probes": probed, "quick": quick, "rounds": rounds, "compiler_start_s": startup,
        "compiled_strategy_of": "hp.Population" if OWN_COMPILE else "this benchmark", "rows": [_row_json(row) for row in found],
        "members_per_stack": counted, "goals": common.goals_json(wanted),
    }  # fmt: skip
    name = f"fused_training-{torch.cuda.get_device_name().lower().replace(' ', '-')}" if cuda else "fused_training"
    common.save(name, options.results or (None if quick else common.HERE / "results"), result)
    return result


def _gone() -> Tensor:
    raise RuntimeError("This case was measured and let go.")


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "workload": row.task.work.name, "P": row.task.P, "batch": row.task.work.batch, "limit_ms": row.limit_ms,
        "ms_per_model_update": {name: row.ms(name) for name in row.rounds}, "rounds_of": row.rounds,
        "forms": {name: case.form for name, case in row.built.items()}, "absent": row.why_not,
        "compile_s": {name: case.compile_s for name, case in row.built.items() if name not in (EAGER, VMAP, LOOP, GRAPH)},
    }  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except Different as error:
        sys.exit(f"stopped: {error}")

"""`hp.Population`: ordinary modules and ordinary optimizers in, trained as one tensor program, ordinary ones out.

    population = hp.Population(models, optimizers)
    for x, y in loader:
        losses = population.step(lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), (x, y))       # (k,)
    models = population.unstack()

It needs nothing else of this library: a cross-validation, an ensemble or a loop of one's own is as good a use as a study.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import LBFGS, Optimizer
from torch.utils._pytree import tree_leaves

from ..errors import ConfigurationError
from ..parts import as_int
from .keys import base_of, keys_of, later
from .loop import Loop
from .program import Hook
from .randomness import OwnRandomnessError
from .room import OUT_OF_MEMORY
from .rows import Member
from .seats import line_of
from .signature import Signature, difference, signature
from .stack import OtherUse, Stack
from .stackable import Unstackable
from .written import written

Strategy = Literal["auto", "vmap", "loop", "compile", "graph"]
FEW = 2
"""So many members or fewer are trained one by one: a stack of them costs more than it saves."""


class Population:
    """`k` models with an optimizer each, trained at once with the numbers that each would have alone.

    Args:
        models: modules that agree in everything but the values of their tensors and the `p` of their dropout modules.
        optimizers: a `torch.optim` optimizer for each, of one class and the same flags; every number in their `param_groups`
            may differ, and schedulers that drive them work as ever: they are read before each step.
        seeds: an int for each, from which its random numbers in `step` come (dropout, `torch.randn` in the loss, ...), together
            with the number of its steps, and from nothing else: not from its place among the others. Default: 0, 1, 2, ...
        max_grad_norm: clips the norm of each member's whole gradient; one number for all, or one for each.
        strategy: "vmap" trains all at once, "loop" one after another; "auto": all at once, but one after another where there are
            at most two, or where no stack can be made of them (what `loss_fn` does is seen only when it runs: one that calls `.item()`
            needs "loop"). "compile": all at once, through torch.compile, which takes seconds for each form of a step and pays where
            there are many. "graph": all at once, on a GPU, replayed from a CUDA graph, which takes about two steps for each form.
            `reason` says which and why.

    Raises ConfigurationError where members cannot share a stack, and names the first thing in which two of them differ, and where
    two train one tensor.

    While they are in the population, the tensors of the given modules and optimizers are stale; `unstack` writes them.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        *,
        seeds: Sequence[int] | None = None,
        max_grad_norm: float | Sequence[float] | None = None,
        strategy: Strategy = "auto",
    ) -> None:
        members = _members(models, optimizers)
        if not members:
            raise ConfigurationError("Population: at least one model is needed, but got none.")
        if strategy not in get_args(Strategy):
            known = ", ".join(map(repr, get_args(Strategy)))
            raise ConfigurationError(f"Population: strategy must be one of {known}, but got {strategy!r}.")
        self.strategy: Strategy = strategy
        self.reason = ""
        """How the members are trained, and why."""
        self._signature = signature(*members[0])
        _agree(self._signature, members)
        _no_tensor_of_two(members)
        self._seeds = [base_of(seed, "train") for seed in _seeds(seeds, len(members), 0)]
        self._steps = [0] * len(members)
        self._clips = _clips(max_grad_norm, len(members))
        self._born = len(members)
        self._next: Tensor | None = None        # keys of the step to come, and the norms to clip at, on the device; None: to be uploaded
        self._norms: Tensor | None = None
        self._rows = self._made(members)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Population({len(self)} members; {self.reason})"

    def step(self, loss_fn: Hook, batch: Any, in_dims: Any = None) -> Tensor:
        """One update of every member -> losses (k,), as they were before it.

        `loss_fn(model, batch)` is one member's view: the loss as a 0-dim tensor. `in_dims`: None, one batch for all; 0, the
        leading dimension of every tensor in it is the member; or a tree of those, as of torch.func.vmap.
        """
        self._check(batch, in_dims)
        keys = self._keys()
        if self._clips is not None and self._norms is None:
            self._norms = torch.tensor(self._clips, device=self._device)
        clip = None if self._clips is None else self._norms
        try:
            losses, _ = self._rows.step(loss_fn, batch, in_dims, keys, clip)
        except OtherUse as other:       # torch.optim leaves alone what no loss depends on, so it has no row
            self.unstack()
            self._rows = self._made(self._rows.members, other.idle)
            losses, _ = self._rows.step(loss_fn, batch, in_dims, keys, clip)
        if isinstance(self._rows, Stack) and self._rows.graphs is not None and self._rows.graphs.why:
            self.reason = f"{len(self)} at once, not from a graph: {self._rows.graphs.why}"
        self._steps = [step + 1 for step in self._steps]
        self._next = later(keys, 1)
        return losses

    def evaluate(self, fn: Hook, batch: Any, in_dims: Any = None) -> Any:
        """What `fn(model, batch)` gives in eval mode and without gradients: a tensor, or a tree of them, each with a leading (k,)."""
        self._check(batch, in_dims)
        return self._rows.evaluate(fn, batch, in_dims, self._keys())

    def add(self, model: nn.Module, optimizer: Optimizer, seed: int | None = None, max_grad_norm: float | None = None) -> int:
        """One more member, at the end; returns its place."""
        members = _members([model], [optimizer])
        _agree(self._signature, members)
        _no_tensor_of_two([*self._rows.members, *members])
        (own,) = _seeds(None if seed is None else [seed], 1, self._born)
        _clips(max_grad_norm, 1)
        clips = [*(self._clips or [float("inf")] * len(self)), float("inf") if max_grad_norm is None else max_grad_norm]
        if isinstance(self._rows, Loop) and self.strategy == "auto" and len(self) == FEW:
            self._rows = self._made([*self._rows.members, *members])
        else:
            try:
                self._rows.add(members)
            except OUT_OF_MEMORY:
                raise
            except Exception as error:
                self._let_go(error)
                self.unstack()
                self._rows = Loop([*self._rows.members, *members])
        self._seeds.append(base_of(own, "train"))
        self._born += 1
        self._steps.append(0)
        self._next = self._norms = None
        if self._clips is not None or max_grad_norm is not None:
            self._clips = clips
        return len(self) - 1

    def take_out(self, *places: int) -> list[nn.Module]:
        """These members leave, written back as by `unstack`; the others close ranks, in order."""
        self._are_there("take_out", places)
        if len(set(places)) == len(self):
            raise ConfigurationError("Population.take_out: at least one member must stay.")
        gone = self._rows.take_out(places)
        kept = [place for place in range(len(self._seeds)) if place not in set(places)]
        self._seeds = [self._seeds[place] for place in kept]
        self._steps = [self._steps[place] for place in kept]
        self._next = self._norms = None
        self._clips = None if self._clips is None else [self._clips[place] for place in kept]
        return [model for model, _ in gone]

    def copy(self, source: int, target: int) -> None:
        """Weights, buffers and optimizer state of one member onto another, which keeps its hyperparameters and its seed."""
        self._are_there("copy", (source, target))
        self._rows.copy(source, target)

    def unstack(self) -> list[nn.Module]:
        """Writes every member into its own module and optimizer, in place; returns the modules. They stay in the population."""
        return [self._rows.dump(row)[0] for row in range(len(self))]

    def reload(self) -> None:
        """Reads every member from its own module and optimizer again, after they were changed from outside."""
        try:
            for row in range(len(self)):
                self._rows.load(row)
        except (Unstackable, ValueError) as error:      # what no stack holds, such as parameters of one group after different steps
            self._let_go(error)
            self._rows = Loop(self._rows.members)

    def _are_there(self, word: str, places: Sequence[int]) -> None:
        wrong = [place for place in places if not isinstance(place, int) or not 0 <= place < len(self)]
        if wrong:
            raise ConfigurationError(f"Population.{word}: there are members 0 to {len(self) - 1}, but got {wrong}.")

    def _check(self, batch: Any, in_dims: Any) -> None:
        """A batch of which each member has its own part has as many parts as there are members."""
        if in_dims != 0 or isinstance(in_dims, bool):
            return
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor) and leaf.shape[:1] != (len(self),):
                raise ConfigurationError(
                    f"Population: with in_dims=0 the leading dimension of each tensor of the batch is the member, so it must be "
                    f"{len(self)}, but one has the shape {tuple(leaf.shape)}. One batch for all has in_dims=None."
                )

    @property
    def _device(self) -> torch.device:
        return next(self._rows.members[0][0].parameters()).device

    def _keys(self) -> Tensor:
        return keys_of(self._seeds, self._steps, self._device) if self._next is None else self._next

    def _made(self, members: Sequence[Member], idle: Sequence[str] = ()) -> Stack | Loop:
        """`idle`: parameters that no loss depends on."""
        strategy = self.strategy
        if strategy == "loop":
            self.reason = "one by one, as asked for"
        elif strategy == "auto" and len(members) <= FEW:
            self.reason = f"one by one: {len(members)} gain nothing from a stack"
        else:
            try:
                stack = Stack(members, idle, strategy == "compile", graphed=strategy == "graph")
                stack.watches = True
                self.reason = f"{len(members)} at once" + {"compile": ", compiled", "graph": ", from a graph"}.get(strategy, "")
                return stack
            except OUT_OF_MEMORY:
                raise
            except Exception as error:      # a copy is made of the first model, and that may be anything
                self._let_go(error)
        return Loop(members)

    def _let_go(self, error: Exception) -> None:
        """There is no stack any more, if that is ours to say."""
        known = isinstance(error, (Unstackable, OwnRandomnessError, ValueError))
        why = (str(error) if known else line_of(error)).rstrip(".")
        if self.strategy != "auto":
            raise ConfigurationError(f'Population: strategy="{self.strategy}" cannot be kept: {why}. Let it be "auto".') from error
        self.reason = f"one by one: {why}"


def _members(models: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> list[Member]:
    models, optimizers = list(models), list(optimizers)
    problems = []
    if len(models) != len(optimizers):
        problems.append(f"an optimizer for each model is needed, but got {len(models)} models and {len(optimizers)} optimizers.")
    for what, given, kind in (("models", models, nn.Module), ("optimizers", optimizers, Optimizer)):
        wrong = next((each for each in given if not isinstance(each, kind)), None)
        if wrong is not None:
            problems.append(f"{what} must be of {kind.__module__}.{kind.__name__}, but one is a {type(wrong).__name__}.")
    lazy = [place for place, model in enumerate(models) if isinstance(model, nn.Module) and any(map(is_lazy, model.parameters()))]
    if lazy:
        problems.append(f"lazy layers must have seen a batch, but model {lazy[0]} has some without shapes. Call each model once before.")
    if any(isinstance(optimizer, LBFGS) for optimizer in optimizers):
        problems.append("LBFGS evaluates the loss several times in a step, which `step` does not. Take another optimizer.")
    if problems:
        raise ConfigurationError("\n".join(f"Population: {problem}" for problem in problems))
    for place, (model, optimizer) in enumerate(zip(models, optimizers)):
        own = {id(parameter) for parameter in model.parameters()}
        if any(id(parameter) not in own for group in optimizer.param_groups for parameter in group["params"]):
            raise ConfigurationError(f"Population: optimizer {place} must train parameters of model {place}, but some of its are not.")
    return list(zip(models, optimizers))


def _agree(first: Signature, members: Sequence[Member]) -> None:
    for place, (model, optimizer) in enumerate(members):
        found = difference(first, signature(model, optimizer))
        if found is not None:
            raise ConfigurationError(
                f"Population: members must agree in all but the values of tensors and the numbers of param_groups, but member {place} and "
                f"the first differ in {found}. Make a Population for each kind."
            )


def _no_tensor_of_two(members: Sequence[Member]) -> None:
    owners: dict[int, int] = {}
    for place, (model, optimizer) in enumerate(members):
        for name, tensor in written(model, optimizer):
            if owners.setdefault(id(tensor), place) != place:
                raise ConfigurationError(
                    f"Population: each member must have the tensors that its steps write for itself, but {name} of member {place} is also "
                    f"member {owners[id(tensor)]}'s. Give each a copy.deepcopy; what all have in common must be frozen."
                )


def _seeds(given: Sequence[int] | None, k: int, start: int) -> list[int]:
    if given is None:
        return list(range(start, start + k))
    if isinstance(given, Sequence):
        given = [as_int(seed) for seed in given]
    if not isinstance(given, Sequence) or not all(isinstance(seed, int) for seed in given):
        raise ConfigurationError(f"Population: seeds must be a list with an int for each model, but got {given!r:.60}.")
    if len(given) != k:
        raise ConfigurationError(f"Population: a seed for each model is needed, but got {len(given)} for {k}.")
    return list(given)


def _clips(given: float | Sequence[float] | None, k: int) -> list[float] | None:
    if given is None:
        return None
    clips = list(given) if isinstance(given, Sequence) else [given] * k
    if len(clips) != k or not all(isinstance(clip, (int, float)) and not isinstance(clip, bool) and clip > 0 for clip in clips):
        raise ConfigurationError(f"Population: max_grad_norm must be positive, one number or one for each of {k}, but got {given!r}.")
    return [float(clip) for clip in clips]

"""`hp.Population`: ordinary modules and ordinary optimizers in, trained as one tensor program, ordinary ones out.

    population = hp.Population(models, optimizers)
    for x, y in loader:
        losses = population.step(lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), (x, y))       # (k,)
    models = population.unstack()

    hp.Population(models).predict(x)        # (k, ...): an ensemble, of models that may differ

It needs nothing else of this library: a cross-validation, an ensemble or a loop of one's own is as good a use as a study.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from ..errors import ConfigurationError
from .ensemble import Ensemble
from .foreign import Watch
from .given import agree, clips_of, members_of, no_tensor_of_two, seeds_of
from .held import Member
from .keys import base_of, keys_of, later
from .loop import Loop
from .program import Gradients, Hook
from .randomness import OwnRandomnessError
from .room import OUT_OF_MEMORY
from .seats import line_of
from .signature import Signature, difference, signature
from .stack import OtherUse, Stack
from .stackable import Unstackable

Strategy = Literal["auto", "vmap", "loop", "compile", "graph"]
FEW = 2
"""So many members or fewer are trained one by one: a stack of them costs more than it saves."""


class Population:
    """`k` models with an optimizer each, trained at once with the numbers that each would have alone.

    Args:
        models: modules that agree in everything but the values of their tensors and the `p` of their dropout modules.
        optimizers: a `torch.optim` optimizer for each, of one class and the same flags; every number in their `param_groups`
            may differ, and schedulers that drive them work as ever: they are read before each step. None: an ensemble that
            predicts and is not trained; its models may differ in everything but the shape of what they give.
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
        optimizers: Sequence[Optimizer] | None = None,
        *,
        seeds: Sequence[int] | None = None,
        max_grad_norm: float | Sequence[float] | None = None,
        strategy: Strategy = "auto",
    ) -> None:
        self._trained = optimizers is not None
        members = members_of(models, optimizers)
        if not members:
            raise ConfigurationError("Population: at least one model is needed, but got none.")
        if strategy not in get_args(Strategy):
            known = ", ".join(map(repr, get_args(Strategy)))
            raise ConfigurationError(f"Population: strategy must be one of {known}, but got {strategy!r}.")
        self.strategy: Strategy = strategy
        self._reason = ""
        self._known: set[Hashable] = set()      # forms of steps, that were watched
        self._signature = signature(*members[0])
        if self._trained:
            agree(self._signature, members)
            no_tensor_of_two(members)
        self._seeds = [base_of(seed, "train") for seed in seeds_of(seeds, len(members), 0)]
        self._steps = [0] * len(members)
        self._clips = clips_of(max_grad_norm, len(members))
        self._born = len(members)
        self._next: Tensor | None = None        # keys of the step to come, and the norms to clip at, on the device; None: to be uploaded
        self._norms: Tensor | None = None
        self._rows = self._made(members)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Population({len(self)} members; {self.reason})"

    @property
    def reason(self) -> str:
        """How the members are trained, or predict, and why."""
        return self._rows.reason if isinstance(self._rows, Ensemble) else self._reason

    def step(self, loss_fn: Hook, batch: Any, in_dims: Any = None) -> Tensor:
        """One update of every member -> losses (k,), as they were before it.

        `loss_fn(model, batch)` is one member's view: the loss as a 0-dim tensor. `in_dims`: None, one batch for all; 0, the
        leading dimension of every tensor in it is the member; or a tree of those, as of torch.func.vmap.

        All at once, `loss_fn` and the modules' Python run once for all members. What a module remembers in Python (a counter, not a
        buffer; a cache that is filled once is none) and draws from `random` or numpy are looked for in the first step of each form, that
        is a `loss_fn` with shapes of batches: there are none in a stack, so with "auto" that step and all later ones are one by one, and
        `reason` says why; else it is a ConfigurationError, and nothing was trained. What begins later in the same form is not noticed.
        """
        rows = self._training("step")
        self._check(batch, in_dims)
        keys = self._keys()
        if self._clips is not None and self._norms is None:
            self._norms = torch.tensor(self._clips, device=self._device)
        clip = None if self._clips is None else self._norms
        losses = self._at_once(rows, loss_fn, batch, in_dims, keys, clip) if isinstance(rows, Stack) else None
        if losses is None:
            losses, _ = self._training("step").step(loss_fn, batch, in_dims, keys, clip)
        self._steps = [step + 1 for step in self._steps]
        self._next = later(keys, 1)
        return losses

    def _at_once(self, stack: Stack, loss_fn: Hook, batch: Any, in_dims: Any, keys: Tensor, clip: Tensor | None) -> Tensor | None:
        """A step of all; None where it cannot be one: then nothing has changed, and they are trained one by one from now on."""
        shapes = tuple([leaf.shape for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)])
        form = getattr(loss_fn, "__code__", type(loss_fn)), shapes
        watch = None if form in self._known else Watch(stack, batch)
        found: Gradients | OtherUse
        try:
            found = stack.gradients(loss_fn, batch, in_dims, keys)
            why = "" if watch is None else watch.why(loss_fn, in_dims, keys)
        except OtherUse as other:
            found, why = other, "" if watch is None else watch.why(loss_fn, in_dims, keys)
        except Unstackable as error:
            why = str(error)
        except Exception:
            if watch is None:
                raise
            watch.put_back()
            if not stack.give_each_what_is_written():
                raise
            return self._at_once(stack, loss_fn, batch, in_dims, keys, clip)
        if why:
            if watch is not None:
                watch.put_back()
            self._let_go(Unstackable(why))
            self.unstack()
            self._rows = Loop(stack.members)
            return None
        if isinstance(found, OtherUse):     # torch.optim leaves alone what no loss depends on, so it has no row
            try:
                self.unstack()
                self._rows = rows = self._made_to_train(stack.members, found.idle)
            except BaseException:
                (watch or found).put_back()
                raise
            rows.take(found.gradients, clip)
        else:
            with torch.no_grad():
                stack.update(found.parts, clip)
            if stack.graphs is not None and stack.graphs.why:
                self._reason = f"{len(self)} at once, not from a graph: {stack.graphs.why}"
        self._known.add(form)
        return found.losses

    def evaluate(self, fn: Hook, batch: Any, in_dims: Any = None) -> Any:
        """What `fn(model, batch)` gives in eval mode and without gradients: a tensor, or a tree of them, each with a leading (k,)."""
        self._check(batch, in_dims)
        return self._rows.evaluate(fn, batch, in_dims, self._keys())

    def predict(self, *inputs: Any) -> Any:
        """What each `model(*inputs)` gives in eval mode and without gradients, (k, ...): of classifiers the vote is
        `predict(x).softmax(-1).mean(0)`."""
        return self.evaluate(lambda model, given: model(*given), inputs)

    def add(
        self, model: nn.Module, optimizer: Optimizer | None = None, seed: int | None = None, max_grad_norm: float | None = None
    ) -> int:
        """One more member, at the end; returns its place. It has an optimizer if the others have."""
        if self._trained != (optimizer is not None):
            raise ConfigurationError(f"Population.add: {'an' if self._trained else 'no'} optimizer is given, as for the others.")
        members = members_of([model], None if optimizer is None else [optimizer])
        if self._trained:
            agree(self._signature, members)
            no_tensor_of_two([*self._rows.members, *members])
        (own,) = seeds_of(None if seed is None else [seed], 1, self._born)
        clips_of(max_grad_norm, 1)
        clips = [*(self._clips or [float("inf")] * len(self)), float("inf") if max_grad_norm is None else max_grad_norm]
        if isinstance(self._rows, Ensemble):
            self._rows = self._made([*self._rows.members, *members])
        elif isinstance(self._rows, Loop) and self.strategy == "auto" and len(self) == FEW:
            everyone = [*self._rows.members, *members]
            self._rows = self._made_of_these(everyone, [signature(*member) for member in everyone])
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
        if isinstance(self._rows, Ensemble):
            gone = [self._rows.members[place] for place in places]
            self._rows = self._made([member for place, member in enumerate(self._rows.members) if place not in set(places)])
        else:
            gone = self._rows.take_out(places)
        kept = [place for place in range(len(self._seeds)) if place not in set(places)]
        self._seeds = [self._seeds[place] for place in kept]
        self._steps = [self._steps[place] for place in kept]
        self._next = self._norms = None
        self._clips = None if self._clips is None else [self._clips[place] for place in kept]
        return [model for model, _ in gone]

    def copy(self, source: int, target: int) -> None:
        """Weights, buffers and optimizer state of one member onto another, which keeps its hyperparameters and its seed."""
        rows = self._training("copy")
        self._are_there("copy", (source, target))
        rows.copy(source, target)

    def unstack(self) -> list[nn.Module]:
        """Writes every member into its own module and optimizer, in place; returns the modules. They stay in the population."""
        return [self._rows.dump(row)[0] for row in range(len(self))]

    def reload(self) -> None:
        """Reads every member from its own module and optimizer again, after they were changed from outside: values, and all in which
        members must agree (what requires a gradient, param groups, flags, attributes of modules). Where they do not agree any more, they
        are trained one by one with "auto" and "loop", and it is a ConfigurationError otherwise.
        """
        if isinstance(self._rows, Ensemble):
            self._rows = self._made(self._rows.members)
            return
        members = self._rows.members
        now = [signature(*member) for member in members]
        if any(each != self._signature for each in now):
            no_tensor_of_two(members)
            self._rows = self._made_of_these(members, now)
            self._signature = now[0]
            return
        try:
            for row in range(len(self)):
                self._rows.load(row)
        except (Unstackable, ValueError) as error:      # what no stack holds, such as parameters of one group after different steps
            self._let_go(error)
            self._rows = Loop(self._rows.members)

    def _training(self, word: str) -> Stack | Loop:
        if isinstance(self._rows, Ensemble):
            raise ConfigurationError(
                f"Population.{word}: members are trained by their optimizers, but this population has none: it predicts. "
                "Make it with hp.Population(models, optimizers)."
            )
        return self._rows

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

    def _made(self, members: Sequence[Member]) -> Stack | Loop | Ensemble:
        if self._trained:
            return self._made_to_train(members)
        if self._clips is not None:
            raise ConfigurationError("Population: max_grad_norm is for training. Without optimizers leave it out.")
        if self.strategy in ("compile", "graph"):
            raise ConfigurationError(f'Population: strategy="{self.strategy}" is for training. Without optimizers let it be "auto".')
        return Ensemble(members, {"loop": None, "vmap": 0}.get(self.strategy, FEW), strict=self.strategy == "vmap")

    def _made_to_train(self, members: Sequence[Member], idle: Sequence[str] = ()) -> Stack | Loop:
        """`idle`: parameters that no loss depends on."""
        strategy = self.strategy
        self._known.clear()
        if strategy == "loop":
            self._reason = "one by one, as asked for"
        elif strategy == "auto" and len(members) <= FEW:
            self._reason = f"one by one: {len(members)} gain nothing from a stack"
        else:
            try:
                stack = Stack(members, idle, strategy == "compile", graphed=strategy == "graph")
                stack.watches = True
                self._reason = f"{len(members)} at once" + {"compile": ", compiled", "graph": ", from a graph"}.get(strategy, "")
                return stack
            except OUT_OF_MEMORY:
                raise
            except Exception as error:      # a copy is made of the first model, and that may be anything
                self._let_go(error)
        return Loop(members)

    def _made_of_these(self, members: Sequence[Member], signatures: Sequence[Signature]) -> Stack | Loop:
        """Of members that were trained, or changed, alone since they were seen to agree."""
        apart = [(place, difference(signatures[0], each)) for place, each in enumerate(signatures) if each != signatures[0]]
        if not apart or self.strategy == "loop":
            return self._made_to_train(members)
        self._let_go(Unstackable("member {} and the first now differ in {}".format(*apart[0])))
        return Loop(members)

    def _let_go(self, error: Exception) -> None:
        """There is no stack any more, if that is ours to say."""
        known = isinstance(error, (Unstackable, OwnRandomnessError, ValueError))
        why = (str(error) if known else line_of(error)).rstrip(".")
        if self.strategy != "auto":
            raise ConfigurationError(f'Population: strategy="{self.strategy}" cannot be kept: {why}. Let it be "auto".') from error
        self._reason = f"one by one: {why}"

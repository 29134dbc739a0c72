"""One model's hook as a function of tensors: for one member after another, or under `torch.func.vmap` for all.

The prototype is a real module, and a hook is called with it. For the time of the call each member's tensors take the places of its
parameters and buffers, as `torch.func.functional_call` does it; the places are looked up once, not at every step.

`Rows` are the tensors of all members, by what they are; parameters that are trained lie in flat rows (module layout).

Laws:
1. After a call the prototype holds what it held, whatever the hook raised.
2. A buffer that was changed in place and one that was replaced both come back in the buffers of the call.
3. A tensor that stands in several places is put into all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .asked import parameter
from .batched import mapped, members, out_of, own, tree_into
from .layout import Block
from .lowering import lower, lowered
from .memories import Notes
from .randomness import REPLACED, own_randomness

Hook = Callable[..., Any]
"""(model, batch) -> loss, or (loss, anything made of tensors); with `more`, (model, batch, more)."""


NO_GRADIENT = "The loss of a member must depend on what its optimizer trains, but it has no gradient. Is it detached, or is all frozen?"


NOTED = 16
"""First calls of a program, in training as in validation: what modules keep from one to the next shows in them."""


class CompilerFailed(Exception):
    """torch.compile could not do it; the text says where it stopped."""


Attributes = Mapping[tuple[str, str], Tensor]
"""(path of the module, attribute) -> (k,) its value for each member."""


class Rows(NamedTuple):
    """Tensors of all members; `shared` are those that they have in common, all others have a leading (k,)."""

    flats: Sequence[Tensor]
    buffers: Mapping[str, Tensor]
    stacked: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    attributes: Attributes

    def tensors(self) -> list[Tensor]:
        """All of them, in the order of the fields."""
        return [*self.flats, *(tensor for part in self[1:] for tensor in part.values())]

    def of_each(self) -> list[bool]:
        """Whether a tensor has a leading (k,), in the order of `tensors`."""
        return [part is not self.shared for part in self for _ in part]

    def names(self) -> tuple[tuple[Any, ...], ...]:
        """What the tensors are called; flats are not."""
        return tuple([tuple(part) for part in self[1:]])

    def filled(self, tensors: Sequence[Tensor]) -> Rows:
        """With other tensors in the places of these."""
        left = iter(tensors)
        return Rows([next(left) for _ in self.flats], *({name: next(left) for name in part} for part in self[1:]))  # type: ignore[arg-type]


class Gradients(NamedTuple):
    """`losses` (k,); `extras`: what the hook gave besides; `parts`: one (k, D) for each block; `buffers` as they are now; `unused`: the
    parameters that the losses do not depend on, if that was asked for, and `woken`: the gradients (k, *shape) of those in no block that
    they do depend on."""

    losses: Tensor
    extras: Any
    parts: tuple[Tensor, ...]
    buffers: dict[str, Tensor]
    unused: tuple[str, ...] = ()
    woken: tuple[tuple[str, Tensor], ...] = ()


class Program:
    """`model` is copied: the prototype is the program's own. `blocks`: how its trained parameters lie in flat rows. `held`: what is not
    copied, for all members have it in common."""

    def __init__(self, model: nn.Module, blocks: Sequence[Block], held: Iterable[Tensor] = ()) -> None:
        self.model = copy.deepcopy(model, {id(tensor): tensor for tensor in held})
        self._blocks = blocks
        self._modules = dict(self.model.named_modules())
        self._places = list(_places(self.model))
        self._trained = {name: registry[key].requires_grad for registry, key, name, buffer in self._places if not buffer}
        registries = (registry for module in self._modules.values() for registry in (module._parameters, module._buffers))
        self._registries = [(registry, len(registry)) for registry in registries]
        self._plain = all(type(module).train is nn.Module.train and "train" not in vars(module) for module in self._modules.values())
        self._turned: dict[bool, list[bool]] = {}       # mode -> how each module stands in it
        self._noted = {True: 0, False: 0}       # calls in each mode of which it is noted what they read and write
        self.written: set[str] = set()          # of what all members share
        for each in self.model.parameters():
            each.requires_grad_(False)      # the rows are trained, not the prototype

    def gradients(
        self, hook: Hook, rows: Rows, keys: Tensor, batch: Any, in_dims: Any, more: Any = None, idle: Sequence[str] | None = None
    ) -> Gradients:
        """In training mode. The flats must require gradients.

        `idle`: parameters that are in no block, for no loss depended on them; None: `unused` is not asked for.
        """
        def checked(*given: Any) -> Any:
            found = hook(*given)
            loss = found[0] if isinstance(found, tuple) and len(found) == 2 else found
            if not isinstance(loss, Tensor):
                raise ValueError(f"The loss of a member must be a 0-dim tensor, but is a {type(loss).__name__}.")
            return found

        asleep = {name: _asleep(rows, name) for name in idle or ()}
        rows = rows._replace(**{  # type: ignore[arg-type]
            part: {name: asleep.get(name, tensor) for name, tensor in getattr(rows, part).items()} for part in ("stacked", "shared")
        }) if asleep else rows  # fmt: skip
        used: set[str] | None = None if idle is None else set()
        found, buffers = self.run(checked, rows, keys, batch, in_dims, more, training=True, used=used)
        losses, extras = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
        if losses.dim() != 1:
            raise ValueError(f"The loss of a member must be a 0-dim tensor, but is {tuple(losses.shape[1:])}. Take its mean().")
        if not losses.requires_grad:
            raise ValueError(NO_GRADIENT)
        inputs = [*rows.flats, *asleep.values()]
        found_parts = torch.autograd.grad(losses, inputs, torch.ones_like(losses), allow_unused=True)       # of their sum
        parts = tuple(torch.zeros_like(flat) if part is None else part for flat, part in zip(rows.flats, found_parts))
        others = list(zip(asleep, found_parts[len(parts) :]))
        woken = tuple((name, part) for name, part in others if part is not None)
        unused = [name for block in self._blocks for name in block.names if used is not None and name not in used]
        unused += [name for name, part in others if part is None]
        after = {name: buffer.detach() for name, buffer in buffers.items()}
        return Gradients(losses.detach(), mapped(detached, extras), parts, after, tuple(unused), woken)

    def run(
        self, hook: Hook, rows: Rows, keys: Tensor, batch: Any, in_dims: Any, more: Any, training: bool, used: set[str] | None = None
    ) -> tuple[Any, dict[str, Tensor]]:
        """All members -> (what the hook gives, buffers), each tensor with a leading (k,).

        `in_dims`: as of torch.func.vmap, for `batch`. `keys`: (k,) int64, from which each member's random numbers come. `more`: None,
        or a tree of (k, ...) tensors, a member's own each, which the hook is given as a third argument. `used`: to it are added, when
        what came out is differentiated, the names of trained parameters that a gradient reaches.
        """
        k = len(keys)
        tensors = {**rows.buffers, **rows.stacked}
        for block, flat in zip(self._blocks, rows.flats):
            views = block.views(flat)
            tensors.update(views)
            if used is not None:
                _watch(views, used)
        self._turn(training)
        with members(k) as level:
            held = {name: own(tensor, level) for name, tensor in tensors.items()}
            held.update(rows.shared)
            for name, trained in self._trained.items():
                parameter(held[name], trained)
            attributes = {place: own(values, level) for place, values in rows.attributes.items()}
            given = [tree_into(batch, in_dims, level, k)]
            if more is not None:
                given.append(tree_into(more, 0, level, k))
            with self._put(held, attributes), self._mode(own(keys, level), training, rows.shared):
                found = hook(self.model, *given)
                buffers = {name: registry[place] for registry, place, name, buffer in self._places if buffer and name in rows.buffers}
            return mapped(lambda part: out_of(part, level, k), found), {name: out_of(part, level, k) for name, part in buffers.items()}

    def _mode(self, key: Tensor, training: bool, shared: Mapping[str, Tensor]) -> _inside:
        if self._noted[training] == NOTED:
            return _inside(key)
        self._noted[training] += 1
        return _noting(key, Notes(self.model), {id(tensor): name for name, tensor in shared.items()}, self.written)

    def _turn(self, training: bool) -> None:
        """`model.train(training)`, which takes a tenth of a small model's validation, where a module stands otherwise or has its own."""
        if not self._plain or self._turned.get(training) != [module.training for module in self._modules.values()]:
            self.model.train(training)
            self._turned[training] = [module.training for module in self._modules.values()]

    @contextmanager
    def _put(self, tensors: Mapping[str, Tensor], attributes: Attributes) -> Iterator[None]:
        before = [registry[key] for registry, key, _, _ in self._places]
        own = {(path, name): getattr(self._modules[path], name) for path, name in attributes}
        for registry, key, name, _ in self._places:
            registry[key] = tensors[name]
        for (path, name), value in attributes.items():
            setattr(self._modules[path], name, value)
        try:
            yield
        finally:
            for registry, size in self._registries:
                while len(registry) > size:     # `self.kept = self.layer.weight` in a forward pass
                    registry.popitem()
            for (registry, key, _, _), tensor in zip(self._places, before):
                registry[key] = tensor
            for (path, name), value in own.items():
                setattr(self._modules[path], name, value)


class _inside(own_randomness):
    """`own_randomness` within `lowered`, as one mode: each call of torch makes its way through Python once, and not twice."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in REPLACED:
            return lower(func, args, kwargs or {})
        with lowered():
            return super().__torch_function__(func, types, args, kwargs)


class _noting(_inside):
    """As it is, and it is noted what is read of what modules keep, and what is written of `shared`, {id: name}."""

    def __init__(self, key: Tensor, notes: Notes, shared: Mapping[int, str], written: set[str]) -> None:
        super().__init__(key)
        self._notes, self._shared, self._written = notes, shared, written

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._notes.note(func, (args, kwargs))
        if args and id(args[0]) in self._shared and _in_place(getattr(func, "__name__", "")):
            self._written.add(self._shared[id(args[0])])
        return super().__torch_function__(func, types, args, kwargs)


def _in_place(name: str) -> bool:
    """Whether a method of this name writes its tensor."""
    return name.startswith(("__i", "__setitem__")) or (name.endswith("_") and not name.endswith("__"))


def _places(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, str, bool]]:
    """(the module's dict, its key, the name by which the tensor is known, whether it is a buffer)."""
    first: dict[int, str] = {}
    for path, module in model.named_modules():
        for registry in (module._parameters, module._buffers):
            for key, tensor in registry.items():
                if tensor is not None:
                    name = first.setdefault(id(tensor), f"{path}.{key}" if path else key)
                    yield registry, key, name, registry is module._buffers


def _watch(views: Mapping[str, Tensor], used: set[str]) -> None:
    def reached(name: str, gradient: Tensor) -> None:
        used.add(name)

    for name, view in views.items():
        view.register_hook(partial(reached, name))  # type: ignore[no-untyped-call]


def _asleep(rows: Rows, name: str) -> Tensor:
    """A parameter that is not trained, as a leaf of its own: whether a loss depends on it shows in its gradient."""
    return (rows.stacked[name] if name in rows.stacked else rows.shared[name]).detach().requires_grad_()


def detached(part: Any) -> Any:
    """A leaf of a tree, without its history."""
    return part.detach() if isinstance(part, Tensor) else part

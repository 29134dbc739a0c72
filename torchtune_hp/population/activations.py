"""Activations in which members of a stack differ: where one has a ReLU and another a Tanh, each row has its own.

Laws:
1. Which activation shares a place with others follows from the member alone: it is of one of torch's classes in `FORMS`, hooked by
   nobody, and its floats are those of its class, but for the one in `NUMBERS` that is each member's own. On a CPU the member is light.
2. Where members agree the program has their own module. Where they differ it has a `Chosen`, which holds the forms that occur.
3. A row's numbers are those of its own form, and rows never meet: what is not finite in one form reaches no row of another.
4. That a program asks nothing else of an activation but its values is checked, not assumed (module widths).

On a CPU each form is computed of its own rows only, between two copies: for all rows it took up to seven times as long. Elsewhere, and
where a step is traced, each is computed of all rows and chosen from by a tensor: no size depends on who has which row.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..functional import celu, elu, leaky_relu, softplus
from .batched import of_members, outside, own as own_of, plain, traced
from .costs import cost
from .padding import Place, UpTo
from .signature import HOOKS, REGISTRIES, is_compiled, is_of_every_module

FORMS: dict[type[nn.Module], tuple[str, ...]] = {
    **dict.fromkeys((nn.ReLU, nn.SELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid), ("inplace",)),
    **dict.fromkeys((nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Identity), ()),
    **dict.fromkeys((nn.Hardtanh, nn.ReLU6), ("min_val", "max_val", "inplace")), nn.GELU: ("approximate",),
    **dict.fromkeys((nn.Softshrink, nn.Hardshrink), ("lambd",)),
    **dict.fromkeys((nn.ELU, nn.CELU), ("alpha", "inplace")), nn.LeakyReLU: ("negative_slope", "inplace"),
    nn.Softplus: ("beta", "threshold"),
}  # fmt: skip
"""Classes of activations, and the attributes that they read."""

NUMBERS: dict[type[nn.Module], tuple[str, Callable[..., Tensor]]] = {
    nn.ELU: ("alpha", elu), nn.CELU: ("alpha", celu), nn.LeakyReLU: ("negative_slope", leaky_relu), nn.Softplus: ("beta", softplus),
}  # fmt: skip
"""The attribute that may be any float, and the function that takes a tensor for it."""

Form = tuple[Any, ...]
"""(class, value of each of its attributes but its number)"""

PLACE = "an activation"
"""What stands for its class in a structure."""

NOBODY_S = math.nan
"""A form and a number outside of calls. It differs from every member's, so that each always has its own."""


# Of one model ---------------------------------------------------------------------------------------------------------------


def places(model: nn.Module) -> dict[str, tuple[Form, float]]:
    """path -> its form and number, for each activation that may share its place with others; 0 for one that has no number."""
    if any(map(is_compiled, model.modules())):
        return {}
    found: dict[str, tuple[Form, float]] = {}
    for path, parent in model.named_modules():
        before: nn.Module | None = None
        for name, module in parent._modules.items():
            own = None if module is None or type(module) not in FORMS else _told(module)
            if own is not None and not (getattr(module, "inplace", False) and not _is_fresh(parent, before)):
                found[f"{path}.{name}" if path else name] = own
            before = module
    return found


def _told(module: nn.Module) -> tuple[Form, float] | None:
    cls, held = type(module), vars(module)
    attributes = {name: value for name, value in held.items() if name not in REGISTRIES and not is_of_every_module(name)}
    usual, numbered = _USUAL[cls], NUMBERS[cls][0] if cls in NUMBERS else ""
    if attributes.keys() != usual.keys() or any(held.get(each) for each in HOOKS):
        return None
    number = attributes.pop(numbered, 0.0)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return None
    if any(not isinstance(value, (bool, str)) and value != usual[name] for name, value in attributes.items()):
        return None
    return (cls, *attributes.values()), float(number)


def _usual(made: nn.Module) -> dict[str, Any]:
    return {name: getattr(made, name) for name in FORMS[type(made)]}


_USUAL = {cls: _usual(cls()) for cls in FORMS}
"""Their attributes as they are if nothing is said."""


def _is_fresh(parent: nn.Module, before: nn.Module | None) -> bool:
    """Whether nobody else has what comes to an activation after `before`, so that it may be written to or not."""
    return type(parent) is nn.Sequential and type(before) in _FRESH and not any(vars(before).get(each) for each in HOOKS)


_FRESH = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm,
)  # fmt: skip


def may_join(model: nn.Module, device: str, batch: int, sizes: Mapping[Place, UpTo]) -> bool:
    """Whether a stack of several activations is faster than one for each. Where arithmetic takes the time nothing is gained.

    `sizes`: what stands for its widths in its structure."""
    if device != "cpu":
        return True
    of_step = cost(model, {place: upto.size for place, upto in sizes.items()}, batch)
    return of_step is not None and of_step <= HEAVY


HEAVY = 1.0
"""A member that costs a CPU as much as a step of a stack. Measured as in costs.py, half of them ReLU and half Tanh: one stack was 1.3 to
1.5 times as fast as two for MLPs of two layers of 16 and 64, about as fast for 256 and eight of 512, and slower for 32 of 512 (0.7) and
for two convolutions (0.75, 0.96): with or without other activations, a stack so large is slower than two."""


# Of a stack -----------------------------------------------------------------------------------------------------------------


class Chosen(nn.Module):
    """`modules`: of each form that occurs, one. `form`, the number of the one that is called, and `number`, what it is called with, are for
    the time of a call each member's own tensors."""

    def __init__(self, modules: Mapping[Form, nn.Module]) -> None:
        super().__init__()
        self.forms = tuple(modules)
        self.form: float | Tensor = NOBODY_S
        self.number: float | Tensor = NOBODY_S
        self._calls = tuple(map(_Call, modules.values()))

    def forward(self, x: Tensor) -> Tensor:
        level, form, number = _functorch.maybe_current_level(), self.form, self.number
        assert isinstance(form, Tensor) and isinstance(number, Tensor)
        if level == 1 and x.device.type == "cpu" and x.is_floating_point() and not traced() and all(map(_of_members, (x, form, number))):
            rows = _rows(tuple(plain(form, 1).tolist()), tuple(plain(number, 1).tolist()))
            bare = plain(x, 1)
            with outside():
                found: Tensor = _ByRow.apply(bare, [(partial(self._calls[which], number=own), its) for which, own, its in rows])
            return own_of(found, 1)
        return _of_all(x, [(partial(call, number=number), form == which) for which, call in enumerate(self._calls)])

    @property
    def said(self) -> str:
        return ", ".join(sorted({cls.__name__ for cls, *_ in self.forms}))


class _Call:
    """An activation as a function, that writes to nothing. `number`: a tensor that broadcasts, or a float."""

    def __init__(self, module: nn.Module) -> None:
        self._module = copy.deepcopy(module)
        if hasattr(module, "inplace"):
            self._module.inplace = False  # type: ignore[assignment]
        self._numbered = NUMBERS.get(type(module))
        self._others = {"threshold": module.threshold} if isinstance(module, nn.Softplus) else {}

    def __call__(self, x: Tensor, number: float | Tensor) -> Tensor:
        if self._numbered is None:
            return self._module(x)  # type: ignore[no-any-return]
        name, function = self._numbered
        return function(x, **{name: number}, **self._others)


def joined(model: nn.Module, members: Sequence[nn.Module], held: Iterable[Tensor] = ()) -> nn.Module:
    """The model, with a Chosen wherever these members differ: itself, or a copy. `held`: what is not copied."""
    each = [places(member) for member in members]
    differing = [path for path in each[0] if any(other[path] != each[0][path] for other in each)]
    if not differing:
        return model
    made = copy.deepcopy(model, {id(tensor): tensor for tensor in held})
    for path in differing:
        modules = {own[path][0]: member.get_submodule(path) for own, member in zip(each, members)}
        parent, _, name = path.rpartition(".")
        made.get_submodule(parent)._modules[name] = Chosen(dict(sorted(modules.items(), key=lambda item: _name(item[0]))))
    return made


def chosen(program: nn.Module) -> dict[str, Chosen]:
    """Where members of a program may differ."""
    return {path: module for path, module in program.named_modules() if isinstance(module, Chosen)}


def fits(program: nn.Module, model: nn.Module) -> bool:
    """Whether a member's activations are among those of a program."""
    several, its, own = chosen(program), places(program), places(model)
    return all(each[0] in several[path].forms if path in several else its.get(path) == each for path, each in own.items())


def own_forms(several: Mapping[str, Chosen], model: nn.Module) -> dict[tuple[str, str], float]:
    """(path, attribute of a Chosen) -> what a member has there."""
    own = places(model) if several else {}
    found: dict[tuple[str, str], float] = {}
    for path, each in several.items():
        form, number = own[path]
        found[path, "form"], found[path, "number"] = float(each.forms.index(form)), number
    return found


def forms_of(several: Mapping[str, Chosen], model: nn.Module) -> Hashable:
    """Those of a member where members differ."""
    own = places(model) if several else {}
    return tuple([own[path][0] for path in several])


def _name(form: Form) -> tuple[str, str]:
    return form[0].__name__, str(form[1:])


def _of_members(tensor: Tensor) -> bool:
    return of_members(tensor, 1)


Calls = Sequence[tuple[Callable[[Tensor], Tensor], Tensor]]


def _of_all(x: Tensor, calls: Calls) -> Tensor:
    """Each form of all rows; (form, where it is chosen). What the others see are zeros, and so is the gradient that comes back to them."""
    (found, _), *others = [(call(torch.where(mask, x, torch.zeros_like(x))), mask) for call, mask in calls]
    for other, mask in others:
        found = torch.where(mask, other, found)
    return found


@lru_cache(256)
def _rows(forms: tuple[float, ...], numbers: tuple[float, ...]) -> list[tuple[int, float | Tensor, Tensor]]:
    """(form, number, the rows that have it); the number is a tensor where theirs differ."""
    found: list[tuple[int, float | Tensor, Tensor]] = []
    for form in sorted(set(forms)):
        rows = [row for row, own in enumerate(forms) if own == form]
        its = [numbers[row] for row in rows]
        found.append((int(form), its[0] if len(set(its)) == 1 else torch.tensor(its, dtype=torch.float64), torch.tensor(rows)))
    return found


class _ByRow(Function):
    """(k, ...) -> (k, ...), where each form is computed of its own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, calls: Sequence[tuple[partial[Tensor], Tensor]]) -> Tensor:
        needed = ctx.needs_input_grad[0]
        parts = []
        for call, rows in calls:
            given = x.index_select(0, rows)
            number = call.keywords["number"]
            if isinstance(number, Tensor):
                call = partial(call.func, number=number.to(x.dtype).view(-1, *[1] * (x.dim() - 1)))
            with torch.set_grad_enabled(needed):
                parts.append((given.requires_grad_(needed), call(given)))
        dtypes = {part.dtype for _, part in parts}
        found = x.new_empty(x.shape, dtype=dtypes.pop() if len(dtypes) == 1 else torch.float32)     # autocast makes some float32
        for (_, rows), (_, part) in zip(calls, parts):
            found.index_copy_(0, rows, part.detach().to(found.dtype))
        if needed:
            ctx.rows, ctx.parts = [rows for _, rows in calls], parts
        return found

    @staticmethod
    @once_differentiable    # who differentiates twice does it by a transform, at another level
    def backward(ctx: Any, gradient: Tensor) -> Any:
        back = torch.empty_like(gradient, dtype=ctx.parts[0][0].dtype)
        for rows, (given, found) in zip(ctx.rows, ctx.parts):
            part = gradient.index_select(0, rows).to(found.dtype)
            back.index_copy_(0, rows, torch.autograd.grad(found, given, part, retain_graph=True)[0])
        return back, None

"""Members whose schedulers are alike share one step of them: equal in class, arguments and place in the schedule, but for rates.

It is torch's own code, run on a stand-in whose `param_groups` hold a column (m,) of float64 in the place of each number: a law on
numbers is one on columns, where it only adds, multiplies, divides and negates. So an element is, bit for bit, what the member's own
scheduler would have computed, and a new version of torch brings its own rules along.

A function that a scheduler was given is shared where it is the same code over values that stay as they are. One that closes over what
others may fill (a list, a dict, a tensor, an object) equals itself alone, and a cohort whose functions close over other values than when
it was formed is formed anew.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer, lr_scheduler as lrs
from torch.optim.lr_scheduler import LRScheduler

from .values import Same, frozen

Driven = tuple[Optimizer, Sequence[LRScheduler]]
"""A member's optimizer, and the schedulers that are stepped after its updates or passes."""

Entry = tuple[int, str]
"""A number of an optimizer: its param group, and its name as in `optimizers.numbers_of`."""

_RATES = ("base_lrs", "_last_lr")
KNOWN: dict[type[LRScheduler], tuple[str, ...]] = {
    lrs.LambdaLR: _RATES,
    lrs.MultiplicativeLR: _RATES,
    lrs.StepLR: (*_RATES, "gamma"),
    lrs.MultiStepLR: _RATES,
    lrs.ConstantLR: (*_RATES, "factor"),
    lrs.LinearLR: (*_RATES, "start_factor", "end_factor"),
    lrs.ExponentialLR: (*_RATES, "gamma"),
    lrs.PolynomialLR: _RATES,
    lrs.CosineAnnealingLR: (*_RATES, "eta_min"),
    lrs.CosineAnnealingWarmRestarts: (*_RATES, "eta_min"),
    lrs.CyclicLR: (*_RATES, "max_lrs", "base_momentums", "max_momentums"),
    lrs.OneCycleLR: _RATES,
    lrs.SequentialLR: _RATES,
    lrs.ChainedScheduler: _RATES,
}
"""torch's classes, and the attributes in which members of a cohort may differ: what torch only adds, multiplies and divides. A power
is not among them, for numpy's differs from Python's in the last bit, nor is what decides a branch."""



def known(member: Driven) -> bool:
    """Whether it can be in a cohort: its schedulers are torch's own, its numbers no tensors."""
    optimizer, schedulers = member
    for group in optimizer.param_groups:
        for name, value in group.items():
            if type(value) not in _SCALARS and name != "params":
                if not isinstance(value, (list, tuple)) or not _SCALARS.issuperset(map(type, value)):
                    return False
    return all(map(_plain, schedulers))


def key(member: Driven, turns: Sequence[int]) -> Hashable:
    """Equal for members of a cohort, all of them `known`."""
    optimizer, schedulers = member
    return tuple(map(tuple, optimizer.param_groups)), tuple(map(_alike, schedulers)), tuple(turns) if schedulers else ()


class Cohort:
    """One step for all of them; their own schedulers and optimizers are not touched before `commit`."""

    def __init__(self, rows: Sequence[int], members: Sequence[Driven], turns: Sequence[int], names: Sequence[str]) -> None:
        self.rows = list(rows)
        self._names = frozenset(names)
        self._optimizers = [optimizer for optimizer, _ in members]
        self._standin = _Standin()
        self._shared: list[_Shared] = []            # composites and what they are made of
        self._schedulers = [self._share(same) for same in zip(*(schedulers for _, schedulers in members))]
        functions = [given for _, schedulers in members for scheduler in schedulers for given in _functions(scheduler)]
        self._closed = list(_closed_over([function for function in functions if _settled(function)])) if len(members) > 1 else []
        self._begin(turns)

    def _begin(self, turns: Sequence[int]) -> None:
        self._turns = turns
        self._standin.param_groups = [_columns(groups) for groups in zip(*(optimizer.param_groups for optimizer in self._optimizers))]
        self._before = [dict(group) for group in self._standin.param_groups]
        self._seen: dict[Entry, Any] = {}

    def again(self, turns: Sequence[Sequence[int]]) -> bool:
        """Whether it is ready for another iteration: its members stand where `commit` left them, and are still alike."""
        own = turns[self.rows[0]]
        if any(turns[row] != own for row in self.rows) or not all(shared.untouched() for shared in self._shared):
            return False
        if any(_content(cell) is not content for cell, content in self._closed):
            return False
        self._begin(own)
        return True

    def step(self, update: int) -> bool:
        for scheduler in self._schedulers:
            for _ in range(self._turns[update]):
                scheduler.step()
        return bool(self._schedulers) and self._turns[update] > 0

    def moved(self) -> list[tuple[Entry, Any]]:
        """The columns that are not the ones they were when this was asked last."""
        now = {}
        for place, group in enumerate(self._standin.param_groups):
            for name, value in group.items():
                if name == "betas":
                    now[place, "beta1"], now[place, "beta2"] = value
                else:
                    now[place, name] = value
        found = [(entry, value) for entry, value in now.items() if entry[1] in self._names and self._seen.get(entry) is not value]
        self._seen = now
        return found

    def commit(self) -> None:
        k = len(self._optimizers)
        for place, (group, before) in enumerate(zip(self._standin.param_groups, self._before)):
            for name, value in group.items():
                if value is not before[name]:
                    for optimizer, own in zip(self._optimizers, _split(value, k)):
                        optimizer.param_groups[place][name] = own
        for shared in self._shared:
            shared.commit()

    def put_back(self) -> None:
        """They were not touched."""

    def _share(self, same: Sequence[LRScheduler]) -> LRScheduler:
        parts = [self._share(each) for each in zip(*(getattr(scheduler, "_schedulers", ()) for scheduler in same))]
        self._shared.append(_Shared(same, parts, self._standin))
        return self._shared[-1].scheduler


class _Standin:
    """What a scheduler needs of an optimizer. It does not warn of one that has not stepped: the stack does the steps."""

    _opt_called = True
    param_groups: list[dict[str, Any]]

    def step(self) -> None:
        """Never called."""

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]


class _Shared:
    """One scheduler for the counterparts `same`, with columns where they may differ."""

    def __init__(self, same: Sequence[LRScheduler], parts: Sequence[LRScheduler], standin: _Standin) -> None:
        self._same = same
        kind = type(same[0])
        self.scheduler = kind.__new__(kind)
        own = vars(self.scheduler)
        own.update(vars(same[0]), optimizer=standin)
        for name in KNOWN[kind]:
            if name in own:
                own[name] = _column([vars(scheduler)[name] for scheduler in same])
        if parts:
            own["_schedulers"] = list(parts)
        self._leave()

    def _leave(self) -> None:
        self._before = dict(vars(self.scheduler))
        self._rates = [vars(scheduler).get("_last_lr") for scheduler in self._same]

    def untouched(self) -> bool:
        """A step puts another list there, and so does `load_state_dict`."""
        return all(vars(scheduler).get("_last_lr") is rates for scheduler, rates in zip(self._same, self._rates))

    def commit(self) -> None:
        moved = {name: value for name, value in vars(self.scheduler).items() if value is not self._before.get(name)}
        names = list(moved)
        for scheduler, values in zip(self._same, zip(*(_split(value, len(self._same)) for value in moved.values()))):
            vars(scheduler).update(zip(names, values))
        self._leave()


def _plain(scheduler: LRScheduler) -> bool:
    """One of torch's own, given no callable but functions: what an object remembers of its calls would be shared."""
    own = vars(scheduler)
    if type(scheduler) not in KNOWN or "step" in own or "get_lr" in own:
        return False
    plain = all(isinstance(function, FunctionType) for function in _functions(scheduler, parts=False))
    return plain and all(map(_plain, own.get("_schedulers", ())))


def _functions(scheduler: LRScheduler, parts: bool = True) -> list[Any]:
    """What it was given to call; with `parts`, those of what it is made of too."""
    own = vars(scheduler)
    given = [*own.get("lr_lambdas", ()), *filter(None, [own.get("_scale_fn_custom")])]
    return given + [function for part in own.get("_schedulers", ()) if parts for function in _functions(part)]


def _closed_over(functions: Sequence[Any]) -> Iterator[tuple[CellType, Any]]:
    """Cells, and what they hold now; `functions` are settled."""
    for function in functions:
        for cell in (function.__closure__ or ()) if isinstance(function, FunctionType) else ():
            content = _content(cell)
            yield cell, content
            if content is not function:
                yield from _closed_over([content])


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:      # not filled yet
        return cell


def _settled(value: Any, above: tuple[Any, ...] = ()) -> bool:
    """Whether it stays as it is, but for cells that are given another content."""
    if isinstance(value, (tuple, frozenset)):
        return all(_settled(part, above) for part in value)
    if isinstance(value, FunctionType):
        if any(value is other for other in above):
            return len(above) == 1      # a function that calls itself
        parts = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *map(_content, value.__closure__ or ())]
        return not vars(value) and all(_settled(part, (*above, value)) for part in parts)
    return value is None or isinstance(value, _STAYS)


_STAYS = (int, float, complex, str, bytes, type, ModuleType, BuiltinFunctionType, torch.dtype, torch.device)


def _alike(scheduler: LRScheduler) -> Hashable:
    kind, own = type(scheduler), vars(scheduler)
    free = KNOWN[kind]
    parts = tuple(map(_alike, own.get("_schedulers", ())))
    return kind, parts, tuple(own), tuple([None if name in free or name in _REFERENCES else _quick(own[name]) for name in own])


def _quick(value: Any) -> Hashable:
    """`frozen`, for what most attributes are: it is asked of all members in each iteration."""
    kind = type(value)
    if kind in _SCALARS:
        return value  # type: ignore[no-any-return]
    if kind is list or kind is tuple:
        return tuple(map(_quick, value))
    if kind is dict:
        return tuple(value), tuple(map(_quick, value.values()))
    if kind is FunctionType:
        return (frozen(value), Same(value.__globals__)) if _settled(value) else Same(value)
    return frozen(value)


_REFERENCES = ("optimizer", "_schedulers")
_SCALARS = frozenset({int, float, bool, str, type(None)})


def _columns(groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of counterparts of a param group."""
    names = [name for name, value in groups[0].items() if type(value) in (int, float) or name == "betas"]
    return {name: _column([group[name] for group in groups]) for name in names}


def _column(values: Sequence[Any]) -> Any:
    """Numbers to one column (m,), lists of them to a list of columns. One member's stay as they are: floats are faster."""
    if len(values) == 1:
        return values[0]
    if isinstance(values[0], (list, tuple)):
        return type(values[0])(map(_column, zip(*values)))
    return np.array(values, dtype=np.float64)


def _split(value: Any, m: int) -> list[Any]:
    """The inverse of `_column`; what is no column is the same for all."""
    if isinstance(value, np.ndarray) and m > 1:
        numbers: list[Any] = value.tolist()
        return numbers
    if isinstance(value, (list, tuple)):
        return [type(value)(own) for own in zip(*(_split(part, m) for part in value))]
    return [value] * m

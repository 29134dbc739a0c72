"""Schedules ahead of need, against the steps of each member's own schedulers: equal in every bit."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler as lrs
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from torchtune_hp.population import cohort, schedules
from torchtune_hp.population.cohort import Driven, key, known
from torchtune_hp.population.optimizers import numbers_of, rule_of
from torchtune_hp.population.schedules import Schedules

from .test_schedules import SCHEDULES

UNROLLED = [name for name in SCHEDULES if name != "ReduceLROnPlateau" and not name.startswith("ReduceLROnPlateau,")]
N = 9
"""Updates."""

Places = Sequence[tuple[int, float, int]]
"""Of each member: which arguments its schedulers have, its learning rate, and how many steps it has made."""


def member(name: str, k: int, rate: float, made: int) -> Driven:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    groups: Any = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": rate / 3, "weight_decay": 0.01 * k}]
    optimizer: Any = Adam(groups, lr=rate) if "betas" in name else SGD(groups, lr=rate, momentum=0.9)
    given = SCHEDULES[name](optimizer, k, 3 * N)
    driven = [each for each in (given if isinstance(given, list) else [given]) if not isinstance(each, ReduceLROnPlateau)]
    optimizer._opt_called = True
    for _ in range(made):
        stepped(driven, 1)
    return optimizer, driven


def stepped(schedulers: Sequence[LRScheduler], turns: int) -> None:
    for scheduler in schedulers:
        for _ in range(turns):
            scheduler.step()


def numbers(optimizer: Optimizer) -> dict[tuple[int, str], float]:
    return {(place, name): value for place, group in enumerate(optimizer.param_groups) for name, value in numbers_of(group).items()}


def standing(driven: Driven) -> Any:
    """Where a member stands, in bits and with types of containers."""
    optimizer, schedulers = driven
    return shown([[{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]]), [
        (shown(scheduler.state_dict()), shown(scheduler.get_last_lr())) for scheduler in schedulers
    ]


def shown(value: Any) -> Any:
    if isinstance(value, Tensor):
        return "tensor", shown(value.tolist())
    if isinstance(value, float):
        return struct.pack("d", value)
    if isinstance(value, dict):
        return type(value), sorted((repr(name), shown(part)) for name, part in value.items() if not callable(part))
    if isinstance(value, (list, tuple)):
        return type(value), [shown(part) for part in value if not callable(part)]
    return repr(value)


def unrolled(members: Sequence[Driven], turns: Sequence[Sequence[int]]) -> Schedules:
    rule = rule_of(members[0][0])
    assert rule is not None
    ahead = Schedules(members, rule.numbers, torch.device("cpu"))
    ahead.begin(turns)
    return ahead


def iteration(ahead: Schedules, members: Sequence[Driven], twins: Sequence[Driven], turns: Sequence[Sequence[int]]) -> None:
    now = [numbers(optimizer) for optimizer, _ in members]
    for update in range(len(turns[0])):
        for (group, number), values in (ahead.at(update) if update else {}).items():
            assert values.dtype == torch.float64 and values.shape == (len(members),)
            for row, value in enumerate(values.tolist()):
                now[row][group, number] = value
        assert now == [numbers(optimizer) for optimizer, _ in twins], f"update {update}"
        for (_, schedulers), own in zip(twins, turns):
            stepped(schedulers, own[update])
    ahead.commit()


def check(name: str, places: Places, turns: Sequence[Sequence[int]], touched: int = 0) -> None:
    members, twins = [[member(name, *place) for place in places] for _ in range(2)]
    ahead = unrolled(members, turns)
    iteration(ahead, members, twins, turns)
    for mine in (members, twins):           # in between: what ReduceLROnPlateau does, and a step alone
        for group in mine[0][0].param_groups:
            group["lr"] *= 0.3
        for _, schedulers in mine[:touched]:
            stepped(schedulers, 1)
    turns = [own[::-1] for own in turns]
    ahead.begin(turns)
    iteration(ahead, members, twins, turns)
    for mine, twin in zip(members, twins):
        assert standing(mine) == standing(twin)
        stepped(mine[1], 1)
        stepped(twin[1], 1)
        assert standing(mine) == standing(twin), "and it goes on alone as it would have"


each = pytest.mark.parametrize("name", UNROLLED)
MIXED: Places = [(0, 0.1, 0), (0, 0.017, 0), (1, 0.1, 0), (1, 0.3, 3), (1, 0.2, 3), (2, 1e-3, 5), (0, 0.7, 0)]


@each
def test_each_update_has_the_numbers_of_the_members_own_schedulers(name: str) -> None:
    check(name, MIXED, [[1] * N] * len(MIXED))


@each
def test_a_member_that_was_stepped_alone_in_between_goes_on_from_there(name: str) -> None:
    check(name, MIXED, [[1] * (N - 1)] * len(MIXED), touched=2)


@each
def test_passes_may_end_at_different_updates(name: str) -> None:
    check(name, MIXED, [[0, 1, 0, 0, 2, 0], [0, 1, 0, 0, 2, 0], [0, 0, 1, 0, 0, 1], *[[0, 1, 0, 0, 0, 0]] * 4])


@each
def test_a_long_iteration_is_unrolled_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "AHEAD", 2)
    check(name, MIXED, [[1] * N] * len(MIXED))
    check(name, MIXED, [[0, 0, 0, 1, 0, 0, 0]] * len(MIXED))


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(UNROLLED),
    places=st.lists(st.tuples(st.integers(0, 3), st.floats(1e-6, 10), st.integers(0, 9)), min_size=1, max_size=6),
    turns=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    touched=st.integers(0, 2),
)
def test_any_members_at_any_places(name: str, places: Places, turns: list[int], touched: int) -> None:
    check(name, places, [turns] * len(places), touched)


@each
def test_what_is_put_back_stands_where_it_stood(name: str) -> None:
    members = [member(name, *place) for place in MIXED]
    before = [standing(each) for each in members]
    ahead = unrolled(members, [[1] * N] * len(members))
    for update in range(1, N):
        ahead.at(update)
    ahead.put_back()
    assert [standing(each) for each in members] == before


def test_every_scheduler_of_torch_that_follows_updates_is_known() -> None:
    """A class that torch adds is not: it has its own steps, which is right and slow."""
    theirs = {found for name, found in vars(lrs).items() if isinstance(found, type) and issubclass(found, LRScheduler) and name[0] != "_"}
    assert set(cohort.KNOWN) == theirs - {LRScheduler, ReduceLROnPlateau}


@pytest.mark.parametrize("name", ["OneCycleLR, betas", "LambdaLR", "SequentialLR", "CosineAnnealingLR", "StepLR"])
def test_members_that_differ_in_their_rates_share_one_step(name: str) -> None:
    members = [member(name, 0, rate, 2) for rate in (0.1, 0.2, 0.3)]
    assert all(map(known, members)) and len({key(each, [1]) for each in members}) == 1


def test_members_at_different_places_do_not() -> None:
    members = [member("StepLR", 0, 0.1, made) for made in (0, 1)]
    assert len({key(each, [1]) for each in members}) == 2


class Doubling(lrs.ExponentialLR):
    """Not torch's own, so it may do anything."""

    def get_lr(self) -> Any:
        for group in self.optimizer.param_groups:
            group["weight_decay"] *= 2
        return super().get_lr()


class Counting:
    """Remembers its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        return 1.0 / self.calls


@pytest.mark.parametrize("kind", ["a class of the user's", "an object that remembers", "both in a chain"])
def test_what_torch_does_not_know_is_stepped_itself(kind: str) -> None:
    def made(rate: float) -> Driven:
        optimizer: Any = AdamW(nn.Linear(2, 1).parameters(), lr=rate, weight_decay=0.1)
        optimizer._opt_called = True
        counting = lrs.LambdaLR(optimizer, Counting())      # type: ignore[arg-type]
        if kind == "an object that remembers":
            return optimizer, [counting]
        doubling = Doubling(optimizer, 0.9)
        return optimizer, [doubling] if kind == "a class of the user's" else [lrs.ChainedScheduler([counting, doubling])]

    members, twins = [[made(rate) for rate in (0.1, 0.2)] for _ in range(2)]
    assert not any(map(known, members))
    ahead = unrolled(members, [[1] * N] * 2)
    for update in range(1, N):
        for _, schedulers in twins:
            stepped(schedulers, 1)
        found = ahead.at(update)
        for row, (optimizer, _) in enumerate(twins):
            own = numbers(optimizer)
            assert {entry: values[row].item() for entry, values in found.items()} == {entry: own[entry] for entry in found}
    before = [standing(each) for each in map(made, (0.1, 0.2))]
    ahead.put_back()
    assert [standing(each) for each in members] == before


def test_no_schedulers_no_table() -> None:
    members: list[Driven] = [(SGD(nn.Linear(1, 1).parameters(), lr=0.1), []) for _ in range(3)]
    ahead = unrolled(members, [[1] * N] * 3)
    assert [ahead.at(update) for update in range(1, N)] == [{}] * (N - 1)


def test_members_with_and_without_schedulers_share_a_table() -> None:
    members = [member("StepLR", 0, 0.1, 0), (member("StepLR", 0, 0.2, 0)[0], [])]
    found = unrolled(members, [[1] * 2] * 2).at(1)
    assert found[0, "lr"][1] == 0.2 and found[0, "lr"][0] != 0.1


def test_a_schedule_that_is_over_raises_as_it_would_alone_and_nothing_moved() -> None:
    members = [member("OneCycleLR, momentum", 0, rate, 3 * N - 3) for rate in (0.1, 0.2)]
    before = [standing(each) for each in members]
    ahead = unrolled(members, [[1] * N] * 2)
    with pytest.raises(ValueError, match="Tried to step"):
        ahead.at(1)
    ahead.put_back()
    assert [standing(each) for each in members] == before

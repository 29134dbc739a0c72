"""How many at once: the smallest size within a tenth of the best, as far as there are room, time and trials."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import torchtune_hp as hp
from torchtune_hp.population import sizes as module
from torchtune_hp.population.sizes import Bench, Size, available, best_size, chosen, climbed, foreseen, sizes
from torchtune_hp.population.stack import Stack
from torchtune_hp.population.stackable import Unstackable
from torchtune_hp.training.alone import ModelRunner

from . import test_shared_batches as shared
from .test_engine import Drawing, Grouped, Norm, Toy, Unknown, WithHparams, runners


def one(cls: type[Toy] = Toy) -> Any:
    return runners(cls, [{"lr": 0.01, "p": 0.1, "alpha": 0.5}])[0]


class Hours:
    """Clocks that only updates move: an update takes `fixed` seconds and `member` more for each; the first of a stack, and of one
    member alone, `first` more. By the clock on the wall everything takes `busy` times as long. The updates are torch's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fixed: float, member: float, first: float = 0.0, busy: float = 1.0) -> None:
        self.now = 0.0
        self.stacks: list[int] = []         # the sizes that were tried
        begun: set[int] = set()
        kept: list[Any] = []        # so that no two have one id
        clocks = SimpleNamespace(perf_counter=lambda: busy * self.now)
        gradients, update_once = Stack.gradients, ModelRunner.update_once

        def passes(owner: Any, k: int) -> None:
            self.now += fixed + member * k + (0.0 if id(owner) in begun else first)
            begun.add(id(owner))
            kept.append(owner)

        def stacked(stack: Stack, *args: Any) -> Any:
            self.stacks += [len(stack)] if id(stack) not in begun else []
            passes(stack, len(stack))
            return gradients(stack, *args)

        def alone(runner: ModelRunner, *args: Any) -> Any:
            passes(runner, 1)
            return update_once(runner, *args)

        monkeypatch.setattr(Stack, "gradients", stacked)
        monkeypatch.setattr(ModelRunner, "update_once", alone)
        monkeypatch.setattr(module, "time", clocks)
        monkeypatch.setattr(module, "_clock", lambda device: (lambda: self.now, 1e-9))


@pytest.mark.parametrize(("most", "tried"), [(3, [3]), (8, [8]), (20, [8, 16, 20]), (64, [8, 16, 32, 64])])
def test_sizes_double_up_to_the_number_of_trials(most: int, tried: list[int]) -> None:
    assert list(sizes(most)) == tried


CLIMBS: list[tuple[Callable[[int], Any], list[int], str]] = [
    (lambda k: float(k), [8, 16, 32, 64, 100], "100 are the most there can be"),
    (lambda k: float(min(k, 20)), [8, 16, 32, 64, 100], "more gain less than a tenth"),
    (lambda k: 1.05**k if k < 9 else 1.4, [8, 16, 32], "more gain less than a tenth"),
    (lambda k: 8.0 if k == 16 else float(k), [8, 16, 32, 64, 100], "100 are the most there can be"),        # one may be off
    (lambda k: float(k) if k < 32 else "32 have no room", [8, 16], "32 have no room"),
]


@pytest.mark.parametrize(("rate", "tried", "end"), CLIMBS)
def test_it_climbs_for_as_long_as_that_gains_a_tenth_and_there_is_room(rate: Callable[[int], Any], tried: list[int], end: str) -> None:
    found = climbed(rate, 100)
    assert (list(found[0]), found[1]) == (tried, end)


@pytest.mark.parametrize(
    ("alone", "rates", "slots"),
    [
        (100.0, {8: 200.0, 16: 390.0, 32: 410.0, 64: 420.0}, 16),
        (100.0, {8: 60.0, 16: 80.0}, 1),
        (None, {8: 60.0, 16: 80.0}, 16),
        (100.0, {8: 109.0}, 1),
        (100.0, {}, 1),
    ],
)
def test_the_smallest_within_a_tenth_of_the_best_is_taken(alone: float | None, rates: dict[int, float], slots: int) -> None:
    assert chosen(alone, rates, "end", "memory").slots == slots


def test_what_was_measured_is_said() -> None:
    assert chosen(12.5, {8: 2000.0, 16: 3900.4}, "more gain less than a tenth", "one needs little").why == (
        "members updated a second: 12.5 one by one, 2,000 by 8, 3,900 by 16; more gain less than a tenth; one needs little"
    )


@pytest.mark.parametrize("cls", [Toy, WithHparams, Drawing, Grouped, Norm, shared.Streamed, shared.Table, shared.InPlace])
def test_a_size_is_found_on_one_member_with_its_figures(cls: type[Toy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 600.0)
    size = best_size(one(cls), 40, "auto")
    assert size.slots in (1, 8, 16, 32, 40) and "one by one" in size.why and "one needs about" in size.why
    assert " by 8," in size.why or " by 8;" in size.why         # one stack at least was measured
    hours = Hours(monkeypatch, 1.3e-3, 1e-4)        # a busy machine may find anything; this one gains 714, 3,810, 5,517, 7,111 and 7,547
    assert best_size(one(cls), 40, "auto").slots == 32 and hours.stacks == [8, 16, 32, 40]


def test_each_strategy_has_its_sizes() -> None:
    for strategy in ("vmap", "compile"):
        assert best_size(one(), 20, strategy).slots in (8, 16, 20)      # type: ignore[arg-type]
    assert best_size(one(), None, "loop") == Size(1, 'one by one, as strategy="loop" asks for')
    assert best_size(one(), 2, "auto").slots == 1


def test_room_that_runs_out_ends_the_climb(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = Stack.gradients

    def small(stack: Stack, *args: Any) -> Any:
        if len(stack) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has.")
        return gradients(stack, *args)

    monkeypatch.setattr(Stack, "gradients", small)
    monkeypatch.setattr(module, "GAIN", 1e-9)       # whatever is tried gains
    bench = Bench(one())
    rates, end = climbed(bench, 64)
    assert list(rates) == [8, 16] and end == "32 have no room: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


def test_what_will_have_no_room_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = one()
    own = sum(parameter.nbytes for parameter in runner.member.model.parameters())
    monkeypatch.setattr(module, "available", lambda device: int(20 * module.COPIES * own / module.SHARE))
    monkeypatch.setattr(module, "GAIN", 1e-9)
    rates, end = climbed(Bench(runner), 64)
    assert list(rates) == [8, 16] and end == "32 have no room"


def test_the_time_for_measuring_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    bench = Bench(one())
    alone = bench.alone()
    assert climbed(bench, 64) == ({}, "the 0 s for measuring are over")
    assert chosen(alone, {}, "the 0 s for measuring are over", bench.memory()).slots == 1


def test_measuring_takes_a_share_of_one_iteration_of_every_trial_at_the_best_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 0.0)
    monkeypatch.setattr(module, "SECONDS", 600.0)
    bench = Bench(one(), trials=40)
    assert bench._budget == module.SECONDS      # nothing is known yet
    rate = bench.alone()
    updates = len(one().plan().passes)
    assert bench._budget == pytest.approx(module.PART * 40 * updates / rate) and updates > 1
    monkeypatch.setattr(module, "LEAST", 300.0)
    few = Bench(one(), trials=1)
    few.alone()
    assert few._budget == module.LEAST      # less is not worth to be spared
    endless = Bench(one())
    endless.alone()
    assert endless._budget == module.SECONDS


def test_a_study_too_short_for_measuring_is_not_measured_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 0.0)
    monkeypatch.setattr(module, "LEAST", 0.0)
    bench = Bench(one(), trials=40)
    bench.alone()
    rates, end = climbed(bench, 40)
    assert (list(rates), end) == ([8], "the 0 s for measuring are over") and bench.over
    assert best_size(one(), 40, "vmap").slots == 8      # the first size is measured, and by one rate nothing is foreseen


@pytest.mark.parametrize("strategy", ["auto", "vmap"])
def test_what_the_first_updates_take_beyond_later_ones_leaves_time_for_the_others(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = Hours(monkeypatch, 1.3e-3, 1e-4, first=0.5)
    assert best_size(one(), 64, strategy).slots >= 32 and hours.stacks[:3] == [8, 16, 32]
    assert hours.now <= module.SECONDS


def test_a_step_that_costs_as_much_for_one_as_for_many_is_not_foreseen_to_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = Hours(monkeypatch, 6e-3, 0.0)
    assert best_size(one(), 16, "auto").slots == 16 and hours.stacks == [8, 16]
    assert hours.now <= 1.5 * module.LEAST


def test_the_first_size_may_take_more_than_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 0.0)
    monkeypatch.setattr(module, "LEAST", 0.0)
    hours = Hours(monkeypatch, 0.1, 1e-3)
    assert best_size(one(), 40, "auto").slots == 8 and hours.stacks == [8]
    assert hours.now == pytest.approx(3 * 0.101 + 3 * 0.108)        # two that count: one may be off


@pytest.mark.parametrize(("member", "first", "stacks"), [(0.4, 0.0, []), (1e-3, 1.2, [8])])
@pytest.mark.filterwarnings("ignore")
def test_where_no_stack_could_be_measured_in_time_the_number_is_fixed_and_that_is_said(
    member: float, first: float, stacks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = Hours(monkeypatch, 0.0, member, first)
    with pytest.raises(TimeoutError, match="the 3 s for measuring are over before a stack was measured"):
        best_size(one(), 40, "auto")
    assert hours.stacks == stacks
    results = hp.tune(
        Toy, {"lr": 0.01, "p": 0.1, "alpha": hp.uniform(0, 1)}, metric="loss", mode="min", trials=4, storage=None, verbose=0,
        searcher=hp.RandomSearch(), scheduler=hp.ASHA(max_t=2), executor=hp.Fused(devices="cpu"),
    )  # fmt: skip
    (text,) = [note.text for note in results.log if note.kind == "slots"]
    assert text.startswith("32: as ever on a cpu, for it could not be measured: TimeoutError: the 3 s for measuring are over")


def test_a_stack_of_which_only_the_first_update_was_in_time_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = Hours(monkeypatch, 0.0, 1e-3, first=1.2)
    bench = Bench(one())
    assert climbed(bench, 40) == ({8: pytest.approx(1e3)}, "the 3 s for measuring are over") and bench.over
    assert hours.stacks == [8, 16]


@pytest.mark.parametrize("busy", [1.0, 5.0, 50.0])
def test_on_a_busy_machine_the_clock_on_the_wall_ends_it(busy: float, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = Hours(monkeypatch, 0.02, 1e-3, busy=busy)
    climbed(Bench(one()), 1024)
    assert busy * hours.now <= module.SECONDS and hours.stacks


def test_an_update_that_takes_less_than_the_clock_can_tell_takes_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_clock", lambda device: (lambda: 0.0, 0.015))
    bench = Bench(one(), trials=40)
    bench._load = 0.0
    assert bench.alone() == pytest.approx(1 / 0.015) and bench(8) == pytest.approx(8 / 0.015, rel=0.2)      # a batch takes its time to come


FORESEEN: list[tuple[dict[int, float], dict[int, float]]] = [
    ({8: 8 / 10, 16: 16 / 12}, {32: 32 / 16}),          # 10 s and 12 s a step: 0.25 s a member, and 8 s by itself
    ({8: 1.0, 16: 1.0}, {32: 1.0}),                     # a step takes nothing by itself
    ({8: 8 / 10, 16: 16 / 9}, {32: 32 / 9}),            # more members cost nothing
    ({8: 1.0, 16: 2.0, 32: 2.0}, {40: 2.0}),            # of the last two
    ({8: 1.0}, {}),
    ({8: 1.0, 16: 2.0, 32: 3.0, 40: 3.0}, {}),          # there is none
]


@pytest.mark.parametrize(("rates", "found"), FORESEEN)
def test_the_next_size_is_foreseen_by_the_line_through_the_last_two(rates: dict[int, float], found: dict[int, float]) -> None:
    assert foreseen(rates, 40, lambda k: True) == pytest.approx(found)
    assert foreseen(rates, 40, lambda k: k < 32) == {}


def test_what_was_foreseen_may_be_taken_and_is_said() -> None:
    size = chosen(None, {8: 100.0, 16: 150.0}, "the time is over", "one needs little", {32: 200.0})
    assert size == Size(32, "members updated a second: 100 by 8, 150 by 16, presumably 200 by 32; the time is over; one needs little")
    assert chosen(None, {8: 100.0, 16: 150.0}, "the time is over", "one needs little", {32: 160.0}).slots == 16


def test_on_a_cpu_the_time_of_other_programs_does_not_count() -> None:
    bench = Bench(one())
    assert bench._clock is (time.perf_counter if sys.platform == "win32" else time.thread_time)
    name = "perf_counter" if sys.platform == "win32" else "thread_time"
    assert bench._tick == max(1e-9, time.get_clock_info(name).resolution)


def test_who_cannot_be_stacked_cannot_be_measured() -> None:
    with pytest.raises(Unstackable, match="Rprop"):
        best_size(one(Unknown), 40, "auto")


def test_the_free_memory_is_known_on_linux_and_on_a_gpu() -> None:
    assert (available(torch.device("cpu")) or 2**30) >= 2**20
    if torch.cuda.is_available():
        assert (available(torch.device("cuda")) or 0) >= 2**20

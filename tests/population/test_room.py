"""Where memory runs out nobody fails: fewer are trained at once, the others wait in host memory, and the curves are the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchtune_hp.population import residents
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.room import let_go
from torchtune_hp.population.stack import Stack
from torchtune_hp.training import resting as resting_module
from torchtune_hp.training.alone import ModelRunner
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.moving import move
from torchtune_hp.training.runner import Look, Place
from torchtune_hp.trial import Trial

from . import test_shared_batches as shared
from .test_engine import Drawing, Grouped, Hooked, Norm, Plateau, ReadsConfig, Scheduled, Several, Toy, Updates, alone, runners, same

CONFIGS = [{"lr": 0.003 * (1 + k), "p": 0.1 * (k % 5), "alpha": 0.1 * k, "steps": 1 + k % 2} for k in range(9)]


@cache
def single_toys() -> list[list[Look]]:
    """What most tests compare with."""
    return alone(Toy, CONFIGS)


class Budget:
    """A fake budget: a stack of more rows than `rows` finds no memory in `where`, from its `after`th call on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int, where: str, after: int = 0) -> None:
        self.rows, self.calls, self.after, self.refused = rows, 0, after, 0
        right = getattr(Stack, where)

        def claimed(stack: Stack, *args: Any, **keywords: Any) -> Any:
            if where == "__init__":
                self.claim(len(args[0]))
            elif where == "add":
                self.claim(len(stack) + len(args[0]))
            else:
                self.claim(len(stack))
            return right(stack, *args, **keywords)

        monkeypatch.setattr(Stack, where, claimed)

    def claim(self, rows: int) -> None:
        self.calls += rows > self.rows
        if rows > self.rows and self.calls > self.after:
            self.calls, self.refused = 0, self.refused + 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB.")


class Moves:
    """Host memory that is not the device's: tensors are copied there and back, and what they were is spoiled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = torch.device("cpu:0")       # unequal to "cpu", and the same
        self.moved: list[str] = []
        monkeypatch.setattr(resting_module, "HOST", self.host)
        monkeypatch.setattr(resting_module, "move", self.move)

    def move(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        before = list(tensors(model, optimizer))
        self.moved.append("host" if device == self.host else "device")
        with torch.no_grad():
            move(model, optimizer, torch.device("cpu:0"))       # a copy, whichever way
            for tensor in before:
                if tensor.is_floating_point() and tensor.dim():
                    tensor.fill_(float("nan"))

    def resting(self, members: list[ModelRunner]) -> list[bool]:
        return [member._lies == self.host for member in members]


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    yield from (parameter.data for parameter in model.parameters())
    yield from model.buffers()
    yield from (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))


def advanced(members: list[ModelRunner], n: int = 3, strategy: Any = "vmap") -> tuple[list[list[Any]], list[str], Engine]:
    said: list[str] = []
    engine = Engine(lambda kind, text: said.append(f"{kind}: {text}"), strategy)
    looks = [engine.advance(members) for _ in range(n)]
    return [[look[member] for look in looks] for member in members], [text for text in said if "begins with" not in text], engine


# Halving ----------------------------------------------------------------------------------------------------------------------


PLACES = [("__init__", 0), ("snapshot", 0), ("look", 0), ("gradients", 0), ("gradients", 5), ("update", 2), ("evaluate", 1)]


@pytest.mark.parametrize(("where", "after"), PLACES)
def test_wherever_memory_runs_out_half_as_many_go_on_from_where_the_iteration_began(
    where: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    single, moves = single_toys(), Moves(monkeypatch)
    budget = Budget(monkeypatch, 4, where, after)
    members = runners(Toy, CONFIGS)
    fused, said, engine = advanced(members)
    same(fused, single)
    assert budget.refused == len(said) == 1
    assert said[0] == (
        "slots: Toy: there is no room for 9 at once (OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.). From now on 4 "
        "at a time are trained, and the others wait in host memory for their turn. A smaller batch_size, or Fused(slots=4), needs less."
    )
    assert engine.stacks() == [3] and moves.resting(members).count(False) == 3


WHATEVER = [Drawing, Several, Updates, Scheduled, Plateau, Grouped, Hooked, Norm, shared.Streamed, shared.Accumulating, shared.Table]


@pytest.mark.parametrize("cls", WHATEVER)
def test_whatever_is_trained_the_curves_are_those_of_alone(cls: type[Toy], monkeypatch: pytest.MonkeyPatch) -> None:
    single, _ = alone(cls, CONFIGS), Moves(monkeypatch)
    Budget(monkeypatch, 4, "gradients", 1)
    fused, said, _ = advanced(runners(cls, CONFIGS))
    same(fused, single)
    assert len(said) == 1


class Lifting(Toy):
    """Reads what differs between members, and can be a tensor."""

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, batch) * (1 + self.config["alpha"])


@pytest.mark.parametrize(("where", "after"), [("look", 0), ("look", 1), ("gradients", 0)])
def test_room_may_run_out_while_it_is_found_out_what_hooks_read(where: str, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    single, _ = alone(Lifting, CONFIGS), Moves(monkeypatch)
    budget = Budget(monkeypatch, 4, where, after)
    fused, said, engine = advanced(runners(Lifting, CONFIGS))
    same(fused, single)
    assert budget.refused == len([text for text in said if "From now on" in text]) and budget.refused >= 1
    assert any("is lifted" in text for text in said) and engine.stacks() in ([3], [9])      # a kind of another key learns anew


def test_it_halves_down_to_one_and_says_so_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    single, moves = single_toys(), Moves(monkeypatch)
    Budget(monkeypatch, 1, "gradients")
    members = runners(Toy, CONFIGS)
    fused, said, engine = advanced(members)
    same(fused, single)
    assert [text.split(" at once")[0].split()[-1] for text in said] == ["9", "3"] and engine.stacks() == []
    assert moves.resting(members).count(False) == 1


def test_room_may_run_out_where_members_are_written_back_for_their_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    single, _ = alone(Hooked, CONFIGS), Moves(monkeypatch)
    dump, calls = Stack.dump, list[int]()

    def dumped(stack: Stack, row: int) -> Any:
        calls.append(row)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("no room")
        return dump(stack, row)

    monkeypatch.setattr(Stack, "dump", dumped)
    fused, said, _ = advanced(runners(Hooked, CONFIGS))
    same(fused, single)
    assert len(said) == 1


def test_room_may_run_out_where_members_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    single, _ = alone(Toy, CONFIGS, n=2), Moves(monkeypatch)
    members, said = runners(Toy, CONFIGS), list[str]()
    engine = Engine(lambda kind, text: said.append(kind), "vmap")
    first = engine.advance(members[:5])
    budget = Budget(monkeypatch, 5, "add")
    second = engine.advance(members)
    assert budget.refused == said.count("slots") == 1
    same([[first[member], second[member]] for member in members[:5]], single[:5])
    same([[second[member]] for member in members[5:]], [curve[:1] for curve in single[5:]])


def test_room_may_run_out_where_the_others_close_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    single, moves = single_toys(), Moves(monkeypatch)
    members, engine = runners(Toy, CONFIGS), Engine(strategy="vmap")
    looks = {member: [look] for member, look in engine.advance(members).items()}
    budget = Budget(monkeypatch, 1, "keep")
    engine.rest(members[:2])
    assert engine.stacks() == [7] and moves.resting(members) == [True] * 2 + [False] * 7
    for chosen in (members[2:], members[:2], members[4:], members[:4]):
        for member, look in engine.advance(chosen).items():
            looks[member].append(look)
    same([looks[member] for member in members], single)
    assert budget.refused
    engine.advance(members)
    there = [member for member, rests in zip(members, moves.resting(members)) if not rests]
    engine.rest(there[:1])          # tight by now: rows that are left are given back, and not even that can be
    assert engine.stacks() == [] and all(moves.resting(members)) and budget.refused == 2


def test_another_kind_is_not_made_to_wait_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [{"width": 4 if k < 6 else 800, "lr": 0.01} for k in range(12)]
    single = alone(Toy, configs)
    gradients = Stack.gradients

    def narrow(stack: Stack, *args: Any) -> Any:
        if stack.layout.blocks[0].width > 100 and len(stack) > 3:
            raise torch.OutOfMemoryError("no room")
        return gradients(stack, *args)

    monkeypatch.setattr(Stack, "gradients", narrow)
    fused, said, engine = advanced(runners(Toy, configs))
    same(fused, single)
    assert len(said) == 1 and "no room for 6 at once" in said[0]


class Hungry(Toy):
    """The loss of one member needs more than there is, also by itself."""

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        if self.config["bad"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 900.00 GiB.")
        return super().training_step(model, batch)


@pytest.mark.parametrize("bad", [{2}, {2, 3, 4, 5}])
def test_who_has_no_room_alone_fails_alone(bad: set[int]) -> None:
    configs = [{"lr": 0.01 * (k + 1), "bad": k in bad} for k in range(8)]
    members = runners(Hungry, configs)
    fused, said, engine = advanced(members, n=1)
    assert [isinstance(curve[0], torch.OutOfMemoryError) for curve in fused] == [k in bad for k in range(8)]
    well = [k for k in range(8) if k not in bad]
    same([fused[k] for k in well], [[runners(Hungry, configs)[k].advance()] for k in well])
    assert len([text for text in said if "From now on" in text]) == (0 if len(bad) == 1 else 1)
    engine.advance([members[k] for k in well])
    assert engine.stacks() == [len(well)]           # what did not fit was another's


def test_the_tensors_of_the_failed_attempt_are_gone_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Tensor]] = []
    alive: list[list[bool]] = []
    gradients = Stack.gradients

    def failing(stack: Stack, *args: Any) -> Any:
        alive.append([reference() is not None for reference in held])
        found = gradients(stack, *args)
        if len(stack) > 4:
            large = torch.ones(1000)
            held.append(weakref.ref(large))
            held.append(weakref.ref(found[0]))
            raise torch.OutOfMemoryError("no room")
        return found

    monkeypatch.setattr(Stack, "gradients", failing)
    fused, _, _ = advanced(runners(Toy, CONFIGS), n=1)
    assert len(held) == 2 and not any(flag for flags in alive[1:] for flag in flags)
    same(fused, alone(Toy, CONFIGS, n=1))


def test_an_error_keeps_its_lines_and_lets_go_of_the_rest() -> None:
    def inner() -> None:
        large = torch.ones(1000)
        references.append(weakref.ref(large))
        raise KeyError("first")

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise MemoryError("none left. Really. I say.") from error

    references: list[weakref.ref[Tensor]] = []
    with pytest.raises(MemoryError) as caught:
        outer()
    assert let_go(caught.value) == "MemoryError: none left. Really."
    assert references[0]() is None and "outer" in "".join(str(entry) for entry in caught.traceback)


def test_what_was_compiled_is_kept_while_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [*CONFIGS, *CONFIGS]
    single, _ = alone(Toy, configs), Moves(monkeypatch)
    compiled: list[Any] = []

    def compiling(graph: Any, **options: Any) -> Any:
        compiled.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", compiling)
    Budget(monkeypatch, 9, "gradients")
    fused, said, _ = advanced(runners(Toy, configs), strategy="compile")
    same(fused, single)
    assert len(compiled) == 2 and len(said) == 1        # the gradients of 9 and the optimizer, once each


def test_a_stack_that_is_given_up_leaves_the_device_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    members, engine = runners(Toy), Engine(strategy="vmap")
    engine.advance(members)
    (group,) = engine._groups.values()
    assert group.stack is not None
    rows = weakref.ref(group.stack.flats[0])
    gc.disable()        # no cycle keeps it until the collector comes
    try:
        engine.rest(members)
        assert rows() is None
    finally:
        gc.enable()


# Who is in the way ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A device where so many runners have room, as its own memory would have."""
    moves = Moves(monkeypatch)
    monkeypatch.setattr(residents, "limited", lambda device: True)

    def allow(most: int, members: list[ModelRunner]) -> None:
        def check() -> None:
            if moves.resting(members).count(False) > most:
                raise torch.OutOfMemoryError("no room")

        update, right = ModelRunner._update, moves.move

        def updated(self: ModelRunner, *args: Any) -> None:
            update(self, *args)
            check()

        def moved(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
            if device != moves.host:
                here = [member for member in members if member.member.model is not model]
                if moves.resting(here).count(False) >= most:
                    raise torch.OutOfMemoryError("no room")
            right(model, optimizer, device)

        monkeypatch.setattr(ModelRunner, "_update", updated)
        monkeypatch.setattr(resting_module, "move", moved)

    return allow


@pytest.mark.parametrize("cls", [Toy, Scheduled, Hooked])
def test_one_for_whom_the_others_leave_no_room_is_put_back_and_trained_without_them(cls: type[Toy], small: Any) -> None:
    single = alone(cls, CONFIGS)
    members = runners(cls, CONFIGS)
    small(3, members)
    fused, said, _ = advanced(members, strategy="loop")
    same(fused, single)
    name = cls.__name__
    assert said == [f"slots: {name}: the device has no room for all trials at once. Who is not being trained waits in host memory."]


def test_one_more_is_begun_where_there_is_no_room_for_it_and_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    single, moves = single_toys(), Moves(monkeypatch)
    made, said = runners(Toy, CONFIGS), list[str]()
    engine = Engine(lambda kind, text: said.append(kind), "vmap")

    def start(k: int) -> ModelRunner:
        if moves.resting(members).count(False) >= 4:
            raise torch.OutOfMemoryError("no room")
        return made[k]

    members: list[ModelRunner] = []
    for k in range(9):
        members.append(engine.begin(lambda k=k: start(k)))      # type: ignore[misc]
    assert said == ["slots"] and all(moves.resting(members[:4])) and all(moves.resting(members[5:]))
    looks = [engine.advance(members) for _ in range(3)]
    same([[look[member] for look in looks] for member in members], single)


def test_one_that_cannot_be_begun_without_the_others_either_fails_and_they_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    members, said = runners(Toy), list[str]()
    engine = Engine(lambda kind, text: said.append(kind), "vmap")
    engine.advance(members)

    def start() -> ModelRunner:
        raise torch.OutOfMemoryError("too large")

    with pytest.raises(torch.OutOfMemoryError, match="too large"):
        engine.begin(start)
    engine.advance(members)
    assert engine.stacks() == [5] and "slots" not in said


def test_a_checkpoint_is_made_in_host_memory_where_the_device_has_no_room_for_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    single, moves = single_toys(), Moves(monkeypatch)
    members, engine = runners(Toy, CONFIGS), Engine(strategy="vmap")
    looks = [engine.advance(members) for _ in range(2)]
    save = ModelRunner.save

    def saving(self: ModelRunner) -> dict[str, Any]:
        if self._lies != moves.host:
            raise torch.OutOfMemoryError("no room")
        return save(self)

    monkeypatch.setattr(ModelRunner, "save", saving)
    states = [engine.save(member) for member in members[:2]]
    assert moves.resting(members) == [True] * 2 + [False] * 7
    looks.append(engine.advance(members))
    same([[look[member] for look in looks] for member in members], single)
    for member, state, curve in zip(runners(Toy, CONFIGS[:2]), states, single):
        member.stand(state)
        member.step = 2
        same([[member.advance()]], [curve[2:]])


# Resting ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Toy, Scheduled, Grouped, Hooked, Norm, Several, ReadsConfig])
def test_who_rests_lies_in_host_memory_and_goes_on_as_if_nothing_had_been(cls: type[Toy], monkeypatch: pytest.MonkeyPatch) -> None:
    single, moves = alone(cls, CONFIGS, n=4), Moves(monkeypatch)
    members, engine = runners(cls, CONFIGS), Engine(strategy="vmap")
    looks: dict[ModelRunner, list[Any]] = {member: [] for member in members}
    for turn in (range(9), range(3), range(6), range(2, 9), range(3, 9), (0, 1, 6, 7, 8)):
        chosen = [members[k] for k in turn if len(looks[members[k]]) < 4]
        for member, look in engine.advance(chosen).items():
            looks[member].append(look)
        engine.rest([member for member in members if member not in chosen])
        assert moves.resting(members) == [member not in chosen for member in members]
    same([looks[member] for member in members], [curve[: len(looks[member])] for curve, member in zip(single, members)])
    moved = len(moves.moved)
    engine.rest([member for member in members if member not in chosen])
    assert len(moves.moved) == moved                # who rests already is left alone


class Backbone(Toy):
    """Its first layer is not trained, and is the same in all members but one."""

    def build(self, config: Any) -> nn.Module:
        torch.manual_seed(7 if config["alpha"] < 0.45 else 8)
        model = super().build(config)
        model[0].requires_grad_(False)  # type: ignore[index]
        return model


def test_a_row_that_was_left_is_never_written_back_over_who_went_on_elsewhere() -> None:
    configs = [{**config, "alpha": 0.1 * k} for k, config in enumerate(CONFIGS[:6])]
    single, members, engine = alone(Backbone, configs), runners(Backbone, configs), Engine(strategy="vmap")
    looks: dict[ModelRunner, list[Any]] = {member: [] for member in members}
    for chosen in (members[:5], members[1:2], members[2:], members[:2], members[:5], members[1:], [members[5]]):
        going = [member for member in chosen if len(looks[member]) < 3]
        for member, look in engine.advance(going).items():
            looks[member].append(look)
    same([looks[member] for member in members], [curve[: len(looks[member])] for curve, member in zip(single, members)])
    assert sum(map(len, looks.values())) >= 16


def test_on_a_cpu_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("moved")

    members, engine = runners(Toy), Engine(strategy="vmap")
    monkeypatch.setattr(resting_module, "move", never)
    engine.advance(members)
    before = [[parameter.data_ptr() for parameter in member.member.model.parameters()] for member in members]
    engine.rest(members)
    engine.advance(members)
    assert before == [[parameter.data_ptr() for parameter in member.member.model.parameters()] for member in members]


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True), torch.optim.NAdam,
    torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adafactor, torch.optim.ASGD, torch.optim.Rprop,
    lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
]  # fmt: skip


class Scaled(nn.Module):
    """With a parameter of no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.scale


def places(optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.device]]:
    states = [state.items() for state in optimizer.state.values()]
    return [(name, value.device) for state in states for name, value in state if isinstance(value, Tensor)]


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("device", ["cpu:0", pytest.param("cuda", marks=gpu)])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_that_was_away_steps_as_if_it_had_stayed(kind: Callable[[Any], torch.optim.Optimizer], device: str) -> None:
    found = []
    for away in (False, True):
        torch.manual_seed(0)
        model = Scaled()
        optimizer = kind(model.parameters())
        place = torch.device(device)
        move(model, optimizer, place)
        parameters = list(model.parameters())
        for step in range(4):
            if away:
                lay = places(optimizer)
                move(model, optimizer, torch.device("cpu"))
                assert all(tensor.device.type == "cpu" for tensor in tensors(model, optimizer) if tensor.dim())
                move(model, optimizer, place)
                assert lay == places(optimizer)
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(step)
            model(torch.randn(5, 3, generator=generator).to(device)).square().mean().backward()
            optimizer.step()
        assert all(ours is theirs for ours, theirs in zip(parameters, model.parameters(), strict=True))
        found.append([tensor.cpu() for tensor in tensors(model, optimizer)])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


@gpu
def test_a_gpu_s_memory_is_free_while_its_members_rest() -> None:
    configs = [{"width": 4096, "lr": 0.01 * (1 + k)} for k in range(6)]
    place = Place(None, "cuda", 9, ("loss",), "toy")
    members = [ModelRecipe(Toy).start(Trial(k, (), config, seed=k), place) for k, config in enumerate(configs)]
    engine = Engine(strategy="vmap")
    engine.advance(members)
    engine.advance(members)
    before = torch.cuda.memory_allocated()
    engine.rest(members)
    assert torch.cuda.memory_allocated() < 0.5 * before
    assert all(tensor.device.type == "cpu" for member in members for tensor in tensors(member.member.model, member.member.optimizer))
    looks = engine.advance(members)
    assert all(isinstance(look, Look) for look in looks.values())


def test_who_is_put_back_in_the_middle_stands_where_it_stood_with_its_rates() -> None:
    """Its schedule is past its first moves; what it began with is not what it has now."""

    class Decaying(Toy):
        def setup(self, config: Any) -> None:
            super().setup(config)
            self.lr_scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.5)

    (runner,), (other,) = (runners(Decaying, CONFIGS[:1]) for _ in range(2))
    for each in (runner, other):
        each.advance(), each.advance()
    state = runner.save()
    runner._train(3)        # an iteration that comes to nothing
    runner.stand(state)
    ours, theirs = runner.advance().metrics, other.advance().metrics
    assert ours == theirs

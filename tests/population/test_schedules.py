"""Every scheduler of `torch.optim.lr_scheduler`, with arguments that differ between members: together is as alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer, lr_scheduler as lrs
from torch.optim.lr_scheduler import LRScheduler

import torchtune_hp as hp
from torchtune_hp.population.cohort import key
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.schedules import Schedules
from torchtune_hp.training.alone import ModelRunner
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.runner import Look, Place
from torchtune_hp.trial import Trial

Y = torch.arange(72) % 3
X = F.one_hot(Y, 6).double() + 0.8 * torch.randn(72, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
N = 4
"""Iterations."""
MEMBERS = 4

Make = Callable[[Any, int, int], LRScheduler | list[LRScheduler]]
"""(optimizer, number of the member, how often it will be stepped) -> its schedulers. The optimizer has two param groups."""


def sequential(optimizer: Any, k: int, n: int) -> LRScheduler:
    warmup = lrs.LinearLR(optimizer, 0.1 + 0.1 * k, total_iters=1 + k % 3)
    return lrs.SequentialLR(optimizer, [warmup, lrs.ExponentialLR(optimizer, 0.9 - 0.1 * k)], milestones=[1 + k % 3])


def chained(optimizer: Any, k: int, n: int) -> LRScheduler:
    return lrs.ChainedScheduler([lrs.ConstantLR(optimizer, 0.3, total_iters=1 + k), lrs.ExponentialLR(optimizer, 0.95 - 0.1 * k)])


def plateau(optimizer: Any, k: int, **more: Any) -> LRScheduler:
    return lrs.ReduceLROnPlateau(optimizer, factor=0.2 + 0.1 * k, threshold=0.02 * (1 + 3 * k), patience=k % 2, cooldown=k // 3, **more)


def of_a_tensor(optimizer: Any, k: int) -> LRScheduler:
    """torch's schedulers change a learning rate that is a tensor in place."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    return lrs.ExponentialLR(optimizer, 0.9 - 0.1 * k)


SCHEDULES: dict[str, Make] = {
    "LambdaLR": lambda o, k, n: lrs.LambdaLR(o, lambda t: 1 / (1 + k + t)),
    "LambdaLR, one for each group": lambda o, k, n: lrs.LambdaLR(o, [lambda t: 0.9 ** (t + k), lambda t: 1 + t / (1 + k)]),
    "MultiplicativeLR": lambda o, k, n: lrs.MultiplicativeLR(o, lambda t: 1 - 0.1 * k if t % 2 else 0.9),
    "StepLR": lambda o, k, n: lrs.StepLR(o, step_size=1 + k % 3, gamma=0.3 + 0.1 * k),
    "MultiStepLR": lambda o, k, n: lrs.MultiStepLR(o, milestones=[1, n // 2 + k % 2, n // 2 + k], gamma=0.5 + 0.05 * k),
    "ConstantLR": lambda o, k, n: lrs.ConstantLR(o, factor=0.2 + 0.1 * k, total_iters=2 + k * n // 5),
    "LinearLR": lambda o, k, n: lrs.LinearLR(o, 0.1 + 0.1 * k, 1 - 0.1 * k, total_iters=n // 2 + k),
    "ExponentialLR": lambda o, k, n: lrs.ExponentialLR(o, gamma=0.95 - 0.1 * k),
    "ExponentialLR of a tensor": lambda o, k, n: of_a_tensor(o, k),
    "PolynomialLR": lambda o, k, n: lrs.PolynomialLR(o, total_iters=n - k % 3, power=1 + 0.5 * k),
    "CosineAnnealingLR": lambda o, k, n: lrs.CosineAnnealingLR(o, T_max=n - k % 4, eta_min=1e-4 * k),
    "CosineAnnealingWarmRestarts": lambda o, k, n: lrs.CosineAnnealingWarmRestarts(o, T_0=3 + k, T_mult=1 + k % 2, eta_min=1e-4 * k),
    "CyclicLR, momentum": lambda o, k, n: lrs.CyclicLR(
        o, 0.01, 0.1 * (1 + k), 1 + k % 3, 2 + k % 2, mode=("triangular", "triangular2", "exp_range")[k % 3], gamma=0.97,
        base_momentum=0.5 + 0.05 * k, max_momentum=0.95,
    ),
    "CyclicLR, betas": lambda o, k, n: lrs.CyclicLR(
        o, 0.001, 0.01 * (1 + k), 2, scale_fn=lambda t: 1 / (1 + 0.1 * k * t), base_momentum=0.6 + 0.05 * k
    ),
    "CyclicLR, no momentum": lambda o, k, n: lrs.CyclicLR(o, 0.001, 0.01 * (1 + k), 2 + k, cycle_momentum=False),
    "OneCycleLR, momentum": lambda o, k, n: lrs.OneCycleLR(
        o, 0.1 * (1 + k), total_steps=n + 1 + k, pct_start=0.3 + 0.1 * k, base_momentum=0.5 + 0.05 * k, three_phase=k % 2 == 1
    ),
    "OneCycleLR, betas": lambda o, k, n: lrs.OneCycleLR(
        o, [0.01 * (1 + k), 0.02], total_steps=n + 2, anneal_strategy=("cos", "linear")[k % 2], max_momentum=0.9 + 0.01 * k
    ),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
    "ReduceLROnPlateau": lambda o, k, n: plateau(o, k),
    "ReduceLROnPlateau, absolute": lambda o, k, n: plateau(o, k, threshold_mode="abs", min_lr=[1e-3, 1e-4 * k], eps=0.0),
    "warmup, then steps": lambda o, k, n: [lrs.LinearLR(o, 0.2 + 0.1 * k, total_iters=2 + k % 2), lrs.StepLR(o, 2 + k % 2, 0.3 + 0.1 * k)],
    "cosine and plateau": lambda o, k, n: [lrs.CosineAnnealingLR(o, T_max=n + k), plateau(o, k)],
    "sequential, plateau, exponential": lambda o, k, n: [sequential(o, k, n), plateau(o, k), lrs.ExponentialLR(o, 0.99 - 0.02 * k)],
}

HOW: dict[str, tuple[str, Any]] = {"each pass": ("epoch", "epoch"), "each update": ("update", 2)}
"""name -> (lr_step, iteration); a pass has 3 updates, so that an iteration of 2 ends within one."""


class Base(hp.ModelTrainable):
    """A small network on three blobs, in float64, with two param groups."""

    make: Make
    adam: bool

    def setup(self, config: Any) -> None:
        self.model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        first, second = self.model[0].parameters(), self.model[2].parameters()
        lr = 0.01 * (1 + config["k"]) if self.adam else 0.1 * (1 + config["k"])
        groups = [{"params": first, "lr": lr}, {"params": second, "lr": 0.5 * lr}]
        self.optimizer: Optimizer = Adam(groups) if self.adam else SGD(groups, momentum=0.1 * config["k"])
        steps = N if self.lr_step == "epoch" else N * int(type(self).iteration)
        self.lr_scheduler = type(self).make(self.optimizer, config["k"], steps)

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data((X[:48], Y[:48]), val=(X[48:], Y[48:]), batch_size=16)

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def validation_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(model(batch[0]), batch[1])}


class Splits(Base):
    """What its hook reads parts the members, which is found out when an iteration has been trained."""

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        return super().training_step(model, batch) * (2 if self.config["last"] else 1)


@functools.cache
def recipe(schedule: str, how: str, base: type[Base] = Base) -> ModelRecipe:
    lr_step, iteration = HOW[how]
    words = {"make": staticmethod(SCHEDULES[schedule]), "adam": "betas" in schedule, "lr_step": lr_step, "iteration": iteration}
    return ModelRecipe(type(base.__name__, (base,), words))


def runner(made: ModelRecipe, k: int, state: Any = None, step: int = 0) -> ModelRunner:
    trial = Trial(k, (), {"k": k, "last": k == MEMBERS - 1}, seed=50 + k)
    return made.start(trial, Place(None, "cpu", 2 * N, ("loss",), "schedules"), state, step)


@functools.cache
def alone(made: ModelRecipe, n: int = N) -> list[list[Look]]:
    runners = [runner(made, k) for k in range(MEMBERS)]
    return [[one.advance() for _ in range(n)] for one in runners]


def stacked(engine: Engine, runners: Sequence[ModelRunner], n: int) -> list[list[Look]]:
    """n iterations of all of them, as one stack -> the looks of each."""
    looks = [engine.advance(runners) for _ in range(n)]
    assert engine.stacks() == [len(runners)]
    return [[each[one] for each in looks] for one in runners]  # type: ignore[misc]


@functools.cache
def together(made: ModelRecipe) -> tuple[list[list[Look]], list[Any]]:
    """The looks of each, and its checkpoint after two iterations."""
    engine, runners = Engine(strategy="vmap"), [runner(made, k) for k in range(MEMBERS)]
    begun = stacked(engine, runners, 2)
    for one in runners:
        engine.settle(one)
    states = [one.save() for one in runners]
    return [first + rest for first, rest in zip(begun, stacked(engine, runners, N - 2))], states


def same(fused: Sequence[Sequence[Any]], single: Sequence[Sequence[Look]]) -> None:
    for ours, theirs in zip(fused, single, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert isinstance(one, Look), one
            assert one.step == other.step
            assert one.metrics == pytest.approx(other.metrics, rel=1e-8)


def rates(looks: Sequence[Look]) -> list[float]:
    first, *rest = [look.metrics["lr"] for look in looks]
    return [rate / first for rate in rest]  # type: ignore[operator]


every = pytest.mark.parametrize(("schedule", "how"), [(schedule, how) for schedule in SCHEDULES for how in HOW])
each = pytest.mark.parametrize("schedule", SCHEDULES)


def test_every_scheduler_of_torch_is_in_the_matrix() -> None:
    defined = {name for name, found in vars(lrs).items() if inspect.isclass(found) and issubclass(found, LRScheduler)}
    used = set()
    for name, make in SCHEDULES.items():
        model = nn.Linear(1, 1)
        groups: Any = [{"params": [model.weight]}, {"params": [model.bias]}]
        made = make(Adam(groups) if "betas" in name else SGD(groups, lr=0.1, momentum=0.9), 0, 9)
        used |= {type(one).__name__ for one in ([made] if isinstance(made, LRScheduler) else [])}
    assert used == {name for name in defined if not name.startswith("_")} - {"LRScheduler"}


@every
def test_the_schedule_moves_the_learning_rate_and_not_alike(schedule: str, how: str) -> None:
    """Else the tests below would compare nothing."""
    curves = [rates(looks) for looks in alone(recipe(schedule, how))]
    assert sum(len({1.0, *curve}) > 1 for curve in curves) >= MEMBERS - 1
    assert len(set(map(tuple, curves))) >= MEMBERS - 1


@every
def test_together_is_as_alone(schedule: str, how: str) -> None:
    made = recipe(schedule, how)
    same(together(made)[0], alone(made))


@every
def test_a_member_that_is_saved_and_begun_elsewhere_goes_on_as_if_nothing_were(schedule: str, how: str) -> None:
    made = recipe(schedule, how)
    _, states = together(made)
    rest = [curve[2:] for curve in alone(made)]
    elsewhere = [runner(made, k, state, 2) for k, state in enumerate(states)]
    same(stacked(Engine(strategy="vmap"), elsewhere, N - 2), rest)
    last = runner(made, MEMBERS - 1, states[-1], 2)
    same([[last.advance() for _ in range(N - 2)]], rest[-1:])


@each
def test_members_at_different_places_of_their_schedules_share_a_stack(schedule: str) -> None:
    made, engine = recipe(schedule, "each update"), Engine(strategy="vmap")
    runners = [runner(made, k) for k in range(MEMBERS)]
    *ahead, late = alone(made)
    same(stacked(engine, runners[:-1], 1), [curve[:1] for curve in ahead])
    same(stacked(engine, runners, N - 1), [*(curve[1:] for curve in ahead), late[:-1]])


@each
def test_an_iteration_that_is_taken_back_leaves_the_schedules_where_they_stood(schedule: str) -> None:
    made, engine = recipe(schedule, "each update", Splits), Engine(strategy="vmap")
    runners = [runner(made, k) for k in range(MEMBERS)]
    looks = engine.advance(runners)
    assert engine.stacks() == [MEMBERS - 1], "and so the iteration was trained twice"
    same([[looks[one]] for one in runners], alone(made, 1))


class Meddling(Base):
    """Its own Python changes what its scheduler was given, one member's otherwise than another's."""

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        self.lr_scheduler.gamma *= 0.9 - 0.1 * self.config["k"]  # type: ignore[union-attr, operator]
        self.optimizer.param_groups[1]["lr"] *= 1.5


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("schedule", ["ExponentialLR", "StepLR", "MultiStepLR"])
def test_what_on_iteration_end_changes_is_in_force_in_the_next_iteration(schedule: str, how: str) -> None:
    made = recipe(schedule, how, Meddling)
    same(stacked(Engine(strategy="vmap"), [runner(made, k) for k in range(MEMBERS)], N), alone(made))


def filled(start: float) -> tuple[Callable[[int], float], Callable[[float], None]]:
    seen: list[float] = [start]
    return lambda t: 1.0 / (1 + t) * seen[-1], seen.append


def rebound(start: float) -> tuple[Callable[[int], float], Callable[[float], None]]:
    factor = start

    def note(value: float) -> None:
        nonlocal factor
        factor = value

    return lambda t: 1.0 / (1 + t) * factor, note


def noted_on_itself(start: float) -> tuple[Callable[[int], float], Callable[[float], None]]:
    def law(t: int) -> float:
        return law.factor / (1 + t)  # type: ignore[attr-defined, no-any-return]

    law.factor = start  # type: ignore[attr-defined]
    return law, functools.partial(setattr, law, "factor")


@pytest.mark.parametrize("made", [filled, rebound, noted_on_itself])
def test_a_function_of_the_schedule_reads_what_others_fill(made: Any) -> None:
    """One member's is filled with another value after the first iteration: until then they are alike."""
    def driven() -> tuple[SGD, LRScheduler, Callable[[float], None]]:
        law, fill = made(0.5)
        optimizer = SGD([torch.zeros(1)], lr=0.1)
        optimizer._opt_called = True  # type: ignore[attr-defined]
        return optimizer, lrs.LambdaLR(optimizer, law), fill

    stacked, alone = ([driven() for _ in range(MEMBERS)] for _ in range(2))
    schedules = Schedules([(optimizer, [scheduler]) for optimizer, scheduler, _ in stacked], ["lr"], torch.device("cpu"))
    for _ in range(3):
        schedules.begin([(1, 1)] * MEMBERS)
        schedules.at(1)
        schedules.finish()
        for _, scheduler, _ in alone:
            scheduler.step()
            scheduler.step()
        for _, _, fill in (stacked[0], alone[0]):
            fill(0.25)
        schedules.commit()
        rates = [[optimizer.param_groups[0]["lr"] for optimizer, _, _ in each] for each in (stacked, alone)]
        assert rates[0] == rates[1]
    assert rates[0][0] == rates[0][1] / 2


def warm(n: int) -> Callable[[int], float]:
    def ramp(t: int) -> float:
        return min(1.0, t / n)

    return lambda t: ramp(t) * 0.5


def test_functions_that_are_alike_and_stay_so_are_one() -> None:
    optimizers = [SGD([torch.zeros(1)], lr=0.1) for _ in range(MEMBERS)]
    members = [(one, [lrs.LambdaLR(one, warm(3))]) for one in optimizers]
    other = SGD([torch.zeros(1)], lr=0.1)
    assert len({key(member, (1,)) for member in members}) == 1
    assert key((other, [lrs.LambdaLR(other, warm(4))]), (1,)) != key(members[0], (1,))

"""What happens to one member of a stack is its own: the bits of the others are those of a run in which it did not happen."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils._pytree import tree_leaves

import torchtune_hp as hp
from torchtune_hp.errors import DivergedError
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.rules import RULES
from torchtune_hp.population.stack import Stack
from torchtune_hp.training.alone import ModelRunner
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.runner import Look, Place
from torchtune_hp.trial import Failed, Launch, Reached, Trial

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.arange(48) % 3
X = F.one_hot(Y, 6).float() + 0.8 * torch.randn(48, 6, generator=GENERATOR)
K, ILL = 5, 1


class Toy(hp.ModelTrainable):
    """BatchNorm and dropout on three blobs. `poison` says what is wrong with a member, `at` after how many updates."""

    def setup(
        self, config: Any, kind: type[Optimizer] = Adam, options: Mapping[str, Any] | None = None, clip: bool = False,
        precision: Any = "fp32",
    ) -> None:  # fmt: skip
        self.model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        self.model.register_buffer("updates", torch.zeros(()))
        self.optimizer = kind(self.model.parameters(), lr=config["lr"], **options or {})  # type: ignore[call-arg]
        self.precision = precision
        self.max_grad_norm = 10 * config["lr"] if clip else None
        if config["poison"] in ("nan", "inf"):
            with torch.no_grad():
                self.model[0].weight.fill_(float(config["poison"]))

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data((X[:32], Y[:32]), val=(X[32:], Y[32:]), batch_size=16)

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        model.updates += 1  # type: ignore[operator]
        factor = torch.where(model.updates > self.hparams["at"], float("nan"), 1.0)
        return F.cross_entropy(model(batch[0]), batch[1]) * factor

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {"loss": F.cross_entropy(model(batch[0]), batch[1])}


HEALTHY = [{"lr": 0.002 * (1 + k), "poison": "", "at": 999.0, "ill": False} for k in range(K)]


def but(ill: int = ILL, /, **wrong: Any) -> list[dict[str, Any]]:
    return [{**config, **(wrong if k == ill else {})} for k, config in enumerate(HEALTHY)]


def runners(cls: type[hp.ModelTrainable], configs: Sequence[dict[str, Any]], **keywords: Any) -> list[ModelRunner]:
    recipe, place = ModelRecipe(cls, keywords), Place(None, "cpu", 9, ("loss",), "toy")
    return [recipe.start(Trial(k, (), config, seed=70 + k), place) for k, config in enumerate(configs)]


Run = tuple[list[Any], list[Any], Engine]
"""The answers of each member, what it holds at last, and the engine."""


def trained(cls: type[hp.ModelTrainable], configs: Sequence[dict[str, Any]], n: int = 3, **keywords: Any) -> Run:
    """`n` iterations, in which nothing was said of the sharing."""
    said: list[str] = []
    engine = Engine(lambda kind, text: said.append(text), "vmap")
    members = runners(cls, configs, **keywords)
    answers = [engine.advance(members) for _ in range(n)]
    for member in members:
        engine.settle(member)
    held = [tree_leaves((member.member.model.state_dict(), member.member.optimizer.state_dict())) for member in members]
    assert [text for text in said if "begins with" not in text] == []
    return [[each[member] for each in answers] for member in members], held, engine


def others_are_the_same(well: Run, ill: Run, *but_for: int) -> None:
    for k, (answers, others) in enumerate(zip(ill[0], well[0], strict=True)):
        if k not in (but_for or (ILL,)):
            assert answers == others and all(isinstance(answer, Look) for answer in answers)
            assert all(same(one, other) for one, other in zip(ill[1][k], well[1][k], strict=True))


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


# NaN and inf ------------------------------------------------------------------------------------------------------------------

POISONS: dict[int, tuple[dict[str, Any], str]] = {       # by member
    1: ({"poison": "nan"}, "iteration 1, batch 1 of 2"),
    2: ({"poison": "inf"}, "iteration 1, batch 1 of 2"),
    4: ({"lr": math.inf}, "iteration 1, batch 2 of 2"),
    5: ({"at": 2.0}, "iteration 2, batch 1 of 2"),
}
SEVEN = [{"lr": 0.002 * (1 + k), "poison": "", "at": 999.0, "ill": False} for k in range(7)]
FLAGS = {"nesterov": {"momentum": 0.9}}       # torch allows it only so
PROGRAMS = [
    (kind, {flag: True, **FLAGS.get(flag, {})} if flag else {})
    for kind, rule in RULES.items()
    for flag in ("", *(flag for flag in rule.flags if (kind, flag) != (AdamW, "decoupled_weight_decay")))       # it always decays so
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("clip", [False, True], ids=["unclipped", "clipped"])
@pytest.mark.parametrize(("kind", "options"), PROGRAMS, ids=[" ".join((kind.__name__, *options)) for kind, options in PROGRAMS])
def test_what_is_not_finite_ends_its_member_at_that_step_and_reaches_no_bit_of_another(
    kind: type[Optimizer], options: dict[str, Any], clip: bool, precision: str
) -> None:
    wrong = [{**config, **POISONS.get(k, ({}, ""))[0]} for k, config in enumerate(SEVEN)]
    well, ill = (trained(Toy, configs, 2, kind=kind, options=options, clip=clip, precision=precision) for configs in (SEVEN, wrong))
    others_are_the_same(well, ill, *POISONS)
    for k, (_, when) in POISONS.items():
        answer = next(answer for answer in ill[0][k] if not isinstance(answer, Look))
        assert isinstance(answer, DivergedError) and when in str(answer)


@pytest.mark.parametrize("clip", [False, True], ids=["unclipped", "clipped"])
def test_it_does_not_matter_which_member_it_is(clip: bool) -> None:
    well = trained(Toy, HEALTHY, clip=clip)
    for ill in range(K):
        others_are_the_same(well, trained(Toy, but(ill, at=2.0), clip=clip), ill)


class Images(Toy):
    """Convolutions of 3 and of 8 channels, which a stack computes in different ways."""

    def setup(self, config: Any, **keywords: Any) -> None:
        super().setup(config, **keywords)
        layers = [nn.Unflatten(1, (3, 2, 1)), nn.Conv2d(3, 8, (2, 1)), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.Flatten()]
        self.model = nn.Sequential(*layers, nn.Linear(5, 3))
        self.model.register_buffer("updates", torch.zeros(()))
        self.optimizer = Adam(self.model.parameters(), lr=config["lr"])
        if config["poison"]:
            with torch.no_grad():
                self.model[1].weight.fill_(float(config["poison"]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_convolutions_keep_members_apart_as_well(precision: str) -> None:
    wrong = [{**config, **POISONS.get(k, ({}, ""))[0]} for k, config in enumerate(SEVEN)]
    well, ill = (trained(Images, configs, 2, clip=True, precision=precision) for configs in (SEVEN, wrong))
    others_are_the_same(well, ill, *POISONS)
    assert all(any(isinstance(answer, DivergedError) for answer in ill[0][k]) for k in POISONS)


class Steep(Toy):
    """Its gradient is NaN where its loss is not: the root of a sum of squares of zeros."""

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        weight = model[0].weight  # type: ignore[index]
        root = torch.where(self.hparams["at"] < 1, 0 * weight, weight + 1).square().sum().sqrt()
        return F.cross_entropy(model(batch[0]), batch[1]) + 1e-3 * root


def test_a_gradient_of_nan_in_the_first_member_is_not_taken_for_a_fault_of_the_sharing() -> None:
    well, ill = trained(Steep, HEALTHY), trained(Steep, but(0, at=0.5))
    assert isinstance(ill[0][0][0], DivergedError) and ill[2].stacks() == [K]
    others_are_the_same(well, ill, 0)


def test_a_fault_of_the_sharing_is_still_found_once_those_that_hide_it_have_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    configs = [*but(0, at=0.5)[:-1], but(K - 1, at=0.5)[-1]]        # the first and the last, who are compared with themselves alone
    engine, members = Engine(lambda kind, text: said.append(text), "vmap"), runners(Steep, configs)
    gradients = Stack.gradients

    def wrong_loss(self: Stack, *args: Any) -> Any:
        found = gradients(self, *args)
        return found._replace(losses=1.01 * found.losses)

    monkeypatch.setattr(Stack, "gradients", wrong_loss)
    engine.advance(members)
    assert len(said) == 1
    for gone in (members[0], members[-1]):
        engine.leave(gone)
    engine.advance(members[1:-1])
    assert len(said) == 2 and "the loss differs" in said[1]


# A member's own Python --------------------------------------------------------------------------------------------------------


class Gathering(Toy):
    """`validation_end` refuses what is not finite, as scikit-learn's metrics do."""

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {"loss": F.cross_entropy(model(batch[0]), batch[1]), "scores": model(batch[0])}

    def validation_end(self, gathered: Any) -> Any:
        if not gathered["scores"].isfinite().all() or self.config["ill"]:
            raise ValueError("Input contains NaN.")
        return {"mean": gathered["scores"].mean()}


class Ending(Toy):
    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        if self.config["ill"]:
            raise SystemExit(3)


@pytest.mark.parametrize(("cls", "error"), [(Gathering, ValueError), (Ending, SystemExit)])
def test_what_a_hook_of_one_member_raises_ends_it_and_changes_no_bit_of_another(cls: type[Toy], error: type[BaseException]) -> None:
    well, ill = trained(cls, HEALTHY), trained(cls, but(ill=True))
    assert isinstance(ill[0][ILL][0], error)
    others_are_the_same(well, ill)


def test_a_member_that_diverges_in_an_iteration_is_not_validated_in_it_and_one_that_does_in_its_last_update_is_by_itself() -> None:
    well = trained(Gathering, HEALTHY)
    for wrong, error in (({"poison": "nan"}, DivergedError), ({"lr": math.inf}, (DivergedError, ValueError))):
        ill = trained(Gathering, but(**wrong))
        assert isinstance(ill[0][ILL][0], error)
        others_are_the_same(well, ill)


class Scheduled(Toy):
    """A scheduler that raises where it is stepped more often than it was told of."""

    lr_step = "update"

    def setup(self, config: Any, kind: type[Optimizer]) -> None:
        super().setup(config, kind)
        steps = 3 if config["ill"] else 99
        self.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.1, total_steps=steps, cycle_momentum=False)


class Choosy(Toy):
    """`training_step` raises at a config's value."""

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        if self.config["ill"]:
            raise self.config["kind"]("not this one")
        return super().training_step(model, batch)


@pytest.mark.parametrize("kind", [KeyError, SystemExit, None])
def test_an_error_inside_the_shared_step_is_the_error_of_the_member_that_makes_it(kind: type[BaseException] | None) -> None:
    cls = Scheduled if kind is None else Choosy
    configs = [{**config, "kind": kind} for config in but(ill=True)]
    said: list[str] = []
    engine, members = Engine(lambda what, text: said.append(text), "vmap"), runners(cls, configs, kind=SGD)
    looks = [engine.advance(members) for _ in range(2)]
    assert isinstance(looks[1][members[ILL]], ValueError if kind is None else kind)
    assert not any("one by one" in text for text in said)
    single = runners(cls, configs, kind=SGD)
    for k, member in enumerate(members):
        if k != ILL:
            metrics = [look[member].metrics for look in looks]
            assert metrics == [pytest.approx(single[k].advance().metrics, rel=1e-4, abs=1e-5) for _ in range(2)]


# Whose row is free ------------------------------------------------------------------------------------------------------------


def members(dropouts: Sequence[float], frozen: bool = False) -> list[tuple[nn.Module, Optimizer]]:
    made = []
    for k, p in enumerate(dropouts):
        torch.manual_seed(k)
        model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(p), nn.Linear(4, 3))
        model[0].requires_grad_(not frozen)
        made.append((model, AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01 * (1 + k))))
    return made


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "partly frozen"])
@pytest.mark.parametrize("dropouts", [(0.2,) * 6, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)], ids=["alike", "lifted"])
def test_a_new_member_takes_a_row_and_the_others_keep_theirs(dropouts: Sequence[float], frozen: bool) -> None:
    def step(stack: Stack) -> Tensor:
        keys = torch.arange(len(stack))
        return stack.step(lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), (X[:16], Y[:16]), None, keys)[0]

    first = members(dropouts, frozen)
    new, untouched = first[4:], copy.deepcopy(first[4:])
    stack, other = Stack(first[:4]), Stack(copy.deepcopy(first[:4]))
    for each in (stack, other):
        step(each)
    stack.replace([2, 0], new)
    assert [stack.members[row] for row in (0, 1, 2, 3)] == [new[1], first[1], new[0], first[3]]
    for (model, _), (before, _) in zip((stack.dump(2), stack.dump(0)), untouched):
        assert all(torch.equal(one, two) for one, two in zip(model.state_dict().values(), before.state_dict().values(), strict=True))
    for _ in range(2):
        stayed, as_if = step(stack), step(other)
        assert torch.equal(stayed[[1, 3]], as_if[[1, 3]]) and not torch.equal(stayed[[0, 2]], as_if[[0, 2]])


def test_one_that_comes_again_goes_on_from_where_it_was_alone() -> None:
    engine, fused, single = Engine(strategy="vmap"), runners(Toy, HEALTHY, kind=SGD), runners(Toy, HEALTHY, kind=SGD)
    engine.advance(fused)
    engine.leave(fused[1])
    looks = [fused[1].advance(), engine.advance(fused)[fused[1]]]
    assert engine.stacks() == [K]
    alone = [single[1].advance() for _ in range(3)][1:]
    assert [look.metrics for look in looks] == [pytest.approx(look.metrics, rel=1e-4, abs=1e-5) for look in alone]


def test_when_all_have_left_nothing_is_held() -> None:
    engine, fused = Engine(strategy="vmap"), runners(Toy, HEALTHY)
    engine.advance(fused)
    for runner in fused:
        engine.leave(runner)
    assert engine.stacks() == [] and not any(group.runners for group in engine._groups.values())


# A study ----------------------------------------------------------------------------------------------------------------------


class Failing(Toy):
    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        if self.config["ill"]:
            raise OSError("no room")


def study(cls: type[Toy], **wrong: Any) -> dict[int, list[Any]]:
    """Each trial's events, with their turns: launched, looks, failed."""
    space = {"lr": hp.loguniform(1e-3, 0.1), "at": hp.uniform(0, 999), "poison": hp.choice(["", "nan"]), "ill": hp.choice([False, True])}
    results = hp.tune(
        cls, space, points=[*but(**wrong), *SEVEN[K:]], metric="loss", mode="min", trials=7, seed=1, scheduler=hp.FullRuns(max_t=5),
        searcher=hp.RandomSearch(), executor=hp.Fused(K, strategy="vmap"), storage=None, verbose=0,
    )  # fmt: skip
    told: dict[int, list[Any]] = {}
    for turn, (events, _, commands) in enumerate(results.journal.turns()):
        for event in events:
            if isinstance(event, Reached):
                told.setdefault(event.trial, []).append((turn, event.step, event.metrics))
            elif isinstance(event, Failed):
                told.setdefault(event.trial, []).append((turn, event.step, event.kind))
        for command in commands:
            if isinstance(command, Launch):
                told.setdefault(command.trial.id, []).append((turn, "launched"))
    return told


@pytest.mark.parametrize(
    ("cls", "wrong", "kind", "step"),
    [(Toy, {"poison": "nan"}, "diverged", 1), (Toy, {"at": 4.0}, "diverged", 3), (Failing, {"ill": True}, "error", 1)],
)
def test_in_a_study_it_fails_at_that_step_and_its_slot_is_refilled_at_once(cls: type[Toy], wrong: Any, kind: str, step: int) -> None:
    well, ill = study(cls), study(cls, **wrong)
    turn = ill[ILL][-1][0]
    assert ill[ILL][-1] == (turn, step, kind)
    assert ill[K][0] == (turn, "launched") and well[K][0] == (5, "launched")
    for trial in range(K):
        if trial != ILL:
            assert ill[trial] == well[trial] and ill[trial][-1][1] == 5

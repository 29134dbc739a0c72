"""`order="shared"`: trials that stand in one pass are given its batches together, once, and each has the looks that it has alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler

import torchtune_hp as hp
from torchtune_hp.interrupts import StudyInterrupted
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.stack import Stack
from torchtune_hp.training.alone import ModelRunner
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.runner import Look, Place
from torchtune_hp.trial import Trial

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.arange(96) % 3
X = F.one_hot(Y, 6).double() + 0.8 * torch.randn(96, 6, generator=GENERATOR, dtype=torch.float64)
TRAIN = 70


class Noisy(Dataset[Any]):
    """Draws in its transform, and counts what it is asked for."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop, self.asked = start, stop, 0

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, i: int) -> Any:
        self.asked += 1
        return X[self.start + i] + 0.1 * torch.randn(6, dtype=torch.float64), Y[self.start + i]


class Streamed(hp.ModelTrainable):
    """Batches of 16 and one of 6, in float64."""

    items: Noisy

    def setup(self, config: Any) -> None:
        self.model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(config["p"]), nn.Linear(8, 3)).double()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["lr"])

    @classmethod
    def data(cls) -> hp.Data:
        cls.items = Noisy(0, TRAIN)
        return hp.Data(DataLoader(cls.items, 16, shuffle=True), val=DataLoader(Noisy(TRAIN, 96), 8, shuffle=True), order="shared")

    def augment(self, batch: Any) -> Any:
        x, y = batch
        return x + 0.1 * torch.randn_like(x), y

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {"loss": F.cross_entropy(model(batch[0]), batch[1])}


class Accumulating(Streamed):
    accumulate = 2


class Updates(Streamed):
    """Iterations end in the middle of passes."""

    iteration = 3
    lr_step = "update"

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.lr_scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)


class Whole(Updates):
    """The remainder of accumulated batches too; a loader with a generator of its own, whose sampler draws as it goes."""

    accumulate = 2

    @classmethod
    def data(cls) -> hp.Data:
        cls.items = Noisy(0, TRAIN)
        sampler = RandomSampler(cls.items, replacement=True, generator=torch.Generator())
        return hp.Data(DataLoader(cls.items, 16, sampler=sampler), val=(X[TRAIN:], Y[TRAIN:]), order="shared", drop_last=False)


class Table(Streamed):
    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data((X[:TRAIN], Y[:TRAIN]), val=(X[TRAIN:], Y[TRAIN:]), batch_size=16, order="shared")


class Remainders(Table):
    """Tensors whose last batch is smaller, in iterations that end in the middle of passes."""

    iteration = 3

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data((X[:TRAIN], Y[:TRAIN]), val=(X[TRAIN:], Y[TRAIN:]), batch_size=16, drop_last=False)


class InPlace(Streamed):
    """Its hook writes on the batch."""

    def augment(self, batch: Any) -> Any:
        return batch[0].mul_(2), batch[1]


CONFIGS = [{"lr": 0.003 * (1 + k), "p": 0.1 * k} for k in range(5)]
ALL = [Streamed, Accumulating, Updates, Whole, Table, Remainders, InPlace]


def runners(cls: type[hp.ModelTrainable], seed: int = 4) -> list[ModelRunner]:
    recipe, place = ModelRecipe(cls), Place(None, "cpu", 9, ("loss",), "toy", seed)
    return [recipe.start(Trial(k, (), config, seed=50 + k), place) for k, config in enumerate(CONFIGS)]


def engine(strategy: Any = "vmap") -> tuple[Engine, list[str]]:
    said: list[str] = []
    return Engine(lambda kind, text: said.append(text), strategy), said


def same(ours: Sequence[Any], theirs: Sequence[Look]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, Look), one
        assert one.step == other.step and one.metrics == pytest.approx(other.metrics, rel=1e-8, abs=1e-9)


# The looks of alone -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL)
def test_together_gives_the_looks_of_alone(cls: type[Streamed]) -> None:
    fused, single, (shared, said) = runners(cls), runners(cls), engine()
    looks = [shared.advance(fused) for _ in range(4)]
    assert shared.stacks() == [5] and not any("one by one" in text for text in said)
    for ours, theirs in zip(fused, single):
        same([look[ours] for look in looks], [theirs.advance() for _ in range(4)])


@pytest.mark.parametrize("cls", ALL)
def test_whoever_comes_and_goes_the_curves_are_the_same(cls: type[Streamed]) -> None:
    fused, single, (shared, said) = runners(cls), runners(cls), engine()
    looks: dict[ModelRunner, list[Any]] = {runner: [] for runner in fused}
    for turn in ([0, 1, 2], [0, 1, 2, 3, 4], [1, 3, 4], [0], [0, 1, 2, 3, 4], [2, 4], [0, 1, 2, 3, 4]):
        for runner, look in shared.advance([fused[k] for k in turn]).items():
            looks[runner].append(look)
    for ours, theirs in zip(fused, single):
        same(looks[ours], [theirs.advance() for _ in looks[ours]])
    told = [text for text in said if "different places of the DataLoader" in text]
    assert len(told) == (cls not in (Table, Remainders)) and not any("one by one" in text for text in said)


@pytest.mark.parametrize("cls", [Streamed, Updates, Whole, Table])
def test_what_was_saved_in_a_stack_goes_on_in_another_as_if_nothing_had_been(cls: type[Streamed]) -> None:
    fused, whole, (shared, _) = runners(cls), runners(cls), engine()
    for _ in range(2):
        shared.advance(fused)
    for runner in fused:
        shared.settle(runner)
    place = Place(None, "cpu", 9, ("loss",), "toy", 4)
    states = [ModelRecipe(cls).start(Trial(k, (), config, 50 + k), place, fused[k].save(), 2) for k, config in enumerate(CONFIGS)]
    other, (once, _) = engine()[0], engine()
    looks = [once.advance(whole) for _ in range(4)]
    again = [other.advance(states) for _ in range(2)]
    for ours, theirs in zip(states, whole):
        same([look[ours] for look in again], [look[theirs] for look in looks[2:]])


# Once -------------------------------------------------------------------------------------------------------------------------


def test_a_pass_is_played_once_for_all_that_stand_in_it() -> None:
    fused, (shared, _) = runners(Streamed), engine()
    items = Streamed.items
    shared.advance(fused)           # the first hook runs find out what is idle, and compare with alone
    for turn, passes in (([0, 1, 2, 3, 4], 1), ([0, 1, 2], 1), ([0, 1, 2, 3, 4], 2), ([3, 4], 1), ([0, 1, 2, 3, 4], 1)):
        items.asked = 0
        shared.advance([fused[k] for k in turn])
        assert items.asked == passes * TRAIN


def test_a_pass_is_not_begun_anew_by_each_iteration_in_it() -> None:
    fused, (shared, _) = runners(Updates), engine()
    for _ in range(2):
        shared.advance(fused)
    Updates.items.asked = 0
    for _ in range(5):              # of 3 updates of 16, five to a pass of 70
        shared.advance(fused)
    assert Updates.items.asked == 3 * TRAIN


def test_a_shared_batch_of_tensors_is_taken_once_and_own_ones_where_members_stand_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    gradients = Stack.gradients

    def watched(self: Stack, hook: Any, batch: Any, in_dims: Any, *rest: Any) -> Any:
        seen.append((in_dims, batch[0].shape[:-1]))
        return gradients(self, hook, batch, in_dims, *rest)

    monkeypatch.setattr(Stack, "gradients", watched)
    fused, (shared, _) = runners(Table), engine()
    shared.advance(fused)
    assert set(seen) == {(None, (16,))}
    seen.clear()
    shared.advance(fused[:3])
    shared.advance(fused)
    assert seen == 4 * [(None, (16,))] + 4 * [(0, (5, 16))]


def test_two_that_share_a_loader_are_a_stack_and_auto_counts_what_each_would_wait_for() -> None:
    fused, (shared, _) = runners(Streamed)[:2], engine()
    shared.advance(fused)
    assert shared.stacks() == [2]
    timed, (auto, _) = runners(Streamed), engine("auto")
    single = runners(Streamed)
    for _ in range(3):
        for look, runner in zip(auto.advance(timed).values(), single):
            same([look], [runner.advance()])


# A study ----------------------------------------------------------------------------------------------------------------------


def study(cls: type[Streamed], executor: Any, **more: Any) -> Any:
    space = {"lr": hp.loguniform(1e-3, 0.1), "p": hp.uniform(0.0, 0.5)}
    options: dict[str, Any] = {"trials": 9, "seed": 3, "storage": None, "scheduler": hp.ASHA(max_t=4, reduction_factor=2), **more}
    return hp.tune(cls, space, metric="loss", mode="min", searcher=hp.RandomSearch(), executor=executor, verbose=0, **options)


@pytest.mark.usefixtures("quick_server")
@pytest.mark.parametrize(
    ("cls", "executor"),
    [(Streamed, hp.Serial(4)), (Updates, hp.Serial(4)), (Table, hp.Serial(4)), (Updates, hp.Processes(4, ordered=True))],
)
def test_every_executor_gives_the_same_study(cls: type[Streamed], executor: Any) -> None:
    for one, other in zip(study(cls, hp.Fused(4, strategy="vmap")), study(cls, executor), strict=True):
        assert one.config == other.config and one.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-8)


def test_the_order_is_the_study_seeds() -> None:
    def first(seed: int) -> list[int]:
        batch, _ = runners(Streamed, seed)[0].feed.take(16, 1)[0]
        labels: list[int] = batch[1].tolist()
        return labels

    assert first(4) == first(4) != first(5)
    assert runners(Streamed, 4)[1].feed.take(16, 1)[0][0][1].tolist() == first(4)


class Interrupted(Updates):
    """Ctrl-C in the middle of a pass, once it is told."""

    after = -1

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        Interrupted.after -= 1
        if Interrupted.after == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_study_goes_on_to_the_same_results(tmp_path: Path) -> None:
    whole = study(Interrupted, hp.Fused(4, strategy="vmap"), storage=tmp_path, name="whole")
    Interrupted.after = 11
    with pytest.raises(StudyInterrupted):
        study(Interrupted, hp.Fused(4, strategy="vmap"), storage=tmp_path, name="parts")
    parts = hp.Tuner.resume(tmp_path / "parts", Interrupted, executor=hp.Fused(4, strategy="vmap"), verbose=0).fit()
    for one, other in zip(parts, whole, strict=True):
        assert one.config == other.config and one.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-8)

"""ModelTrainable alone: the numbers of a hand-written loop, and what a look holds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LinearLR, ReduceLROnPlateau

from torchtune_hp.population.keys import base_of, key_of
from torchtune_hp.population.randomness import own_randomness
from torchtune_hp.seeds import derive
from torchtune_hp.training.data import Data
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.seeding import seeded

from .model_parts import Digits, Scripted, digits, looks, mlp, one_thread, place, runner, trial

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(config: dict[str, Any], epochs: int, seed: int = 11, size: int = 32, clip: float | None = None, build: Any = mlp) -> Any:
    """The loop a person would write, with the library's seeds: per epoch (train loss, loss, accuracy), and the model."""
    x, y = digits()
    with seeded(derive(seed, "setup")):
        model = build(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.get("lr", 1e-2), weight_decay=config.get("wd", 0.01))
    rows = []
    for epoch in range(epochs):
        order = torch.randperm(240, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))
        losses = []
        model.train()
        with seeded(derive(seed, "step", epoch + 1)):
            for k in range(240 // size):
                index = order[k * size : (k + 1) * size]
                with own_randomness(key_of(base_of(seed, "train"), epoch * (240 // size) + k)):
                    loss = F.cross_entropy(model(x[index]), y[index])
                optimizer.zero_grad()
                loss.backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            logits, labels = model(x[240:320]), y[240:320]
        accuracy = (logits.argmax(-1) == labels).float().mean().item()
        rows.append((sum(losses) / len(losses), F.cross_entropy(logits, labels).item(), accuracy))
    return rows, model


def conv(config: Any) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


class Rows(nn.Module):
    """An LSTM over the rows of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x.view(-1, 8, 8))[0][:, -1])


@pytest.mark.parametrize("build", [mlp, conv, lambda config: Rows()], ids=["mlp with dropout", "conv with batch norm", "lstm"])
def test_the_numbers_are_those_of_a_hand_written_loop(build: Any) -> None:
    class Built(Digits):
        pass

    Built.build = staticmethod(build)
    config = {"lr": 3e-3, "wd": 0.1, "dropout": 0.2}
    rows, model = by_hand(config, 3, build=build)
    alone = runner(Built, config)
    for train_loss, loss, accuracy in rows:
        metrics = alone.advance().metrics
        assert metrics == {
            "train_loss": pytest.approx(train_loss, rel=1e-6),
            "loss": pytest.approx(loss, rel=1e-5),      # over batches of 32, 32 and 16
            "accuracy": pytest.approx(accuracy, rel=1e-6),
            "lr": 3e-3,
        }
    assert all(torch.equal(a, b) for a, b in zip(alone.member.model.state_dict().values(), model.state_dict().values()))
    assert (alone.step, alone.updates) == (3, 21)


def test_gradients_are_clipped_to_the_norm() -> None:
    class Clipped(Digits):
        max_grad_norm = 0.1

    alone, (rows, model) = runner(Clipped), by_hand({}, 2, clip=0.1)
    assert [look["train_loss"] for look in looks(alone, 2)] == pytest.approx([row[0] for row in rows], rel=1e-6)
    assert torch.equal(alone.member.model[0].weight, model[0].weight)      # type: ignore[index]


def test_accumulated_batches_are_one_update_of_the_whole() -> None:
    class Split(Digits):
        accumulate, batch_size = 4, 8

    alone, (rows, model) = runner(Split), by_hand({}, 2)
    assert [look["train_loss"] for look in looks(alone, 2)] == pytest.approx([row[0] for row in rows], rel=1e-5)
    assert torch.allclose(alone.member.model[0].weight, model[0].weight, atol=1e-6) and alone.updates == 14      # type: ignore[index]


def test_an_update_of_unequal_batches_weighs_samples_equally() -> None:
    class Uneven(Digits):
        accumulate, batch_size = 2, 160

        @classmethod
        def data(cls) -> Data:
            x, y = digits()
            return Data((x[:240], y[:240]), drop_last=False)

    alone, (rows, model) = runner(Uneven), by_hand({}, 1, size=240)
    assert alone.advance().metrics["train_loss"] == pytest.approx(rows[0][0], rel=1e-5)
    assert torch.allclose(alone.member.model[0].weight, model[0].weight, atol=1e-5)      # type: ignore[index]


def test_an_iteration_of_updates_goes_on_over_the_ends_of_passes() -> None:
    class Three(Digits):
        iteration = 3

        def training_step(self, model: nn.Module, batch: Any) -> Any:
            seen.extend(batch[0].sum(1).tolist())
            return super().training_step(model, batch)

    seen: list[float] = []
    alone = runner(Three)
    looks(alone, 7)
    in_threes, seen = seen, []

    class Whole(Three):
        iteration = "epoch"

    looks(runner(Whole), 3)
    assert in_threes == seen and len(seen) == 21 * 32 and alone.updates == 21


def test_neither_the_study_nor_its_neighbors_move_a_trial() -> None:
    one, other = runner(Digits, {"dropout": 0.5}), runner(Digits, {"dropout": 0.5}, seed=12)
    apart = looks(runner(Digits, {"dropout": 0.5}), 2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    together = []
    for _ in range(2):
        together += looks(one, 1)
        assert looks(other, 1) != together[-1:]
    assert together == apart
    assert torch.equal(torch.get_rng_state(), before)


# Schedules ----------------------------------------------------------------------------------------------------------------


def scheduled(lr_step: str, iteration: Any, *factories: Any) -> type[Digits]:
    class Scheduled(Digits):
        def setup(self, config: Any) -> None:
            super().setup(config)
            made = [factory(self.optimizer) for factory in factories]
            self.lr_scheduler = made[0] if len(made) == 1 else made
            self.lr_step = lr_step      # type: ignore[assignment]

    Scheduled.iteration = iteration
    return Scheduled


def rates(cls: type[Digits], n: int) -> list[float]:
    return [look["lr"] for look in looks(runner(cls, {"lr": 1.0}), n)]


def test_a_schedule_steps_at_the_end_of_each_pass_or_after_each_update() -> None:
    def halve(optimizer: Any) -> Any:
        return ExponentialLR(optimizer, 0.5)

    assert rates(scheduled("epoch", "epoch", halve), 3) == [0.5, 0.25, 0.125]
    assert rates(scheduled("update", "epoch", halve), 2) == [0.5**7, 0.5**14]
    assert rates(scheduled("epoch", 3, halve), 5) == [1.0, 1.0, 0.5, 0.5, 0.25]      # passes end at updates 7 and 14
    assert rates(scheduled("update", 3, halve), 2) == [0.5**3, 0.5**6]


def test_several_schedules_multiply() -> None:
    cls = scheduled("epoch", "epoch", lambda o: ExponentialLR(o, 0.5), lambda o: LinearLR(o, 0.1, 1.0, total_iters=1))
    assert rates(cls, 2) == pytest.approx([0.5, 0.25])


def test_a_cosine_schedule_reads_the_budget_in_setup() -> None:
    class Cosine(Digits):
        def setup(self, config: Any) -> None:
            super().setup(config)
            self.lr_scheduler = CosineAnnealingLR(self.optimizer, T_max=self.max_t)      # type: ignore[arg-type]

    found = looks(runner(Cosine, {"lr": 1.0}, max_t=4), 4)
    assert [look["lr"] for look in found] == pytest.approx([(1 + math.cos(math.pi * t / 4)) / 2 for t in (1, 2, 3, 4)], abs=1e-12)


def test_reduce_on_plateau_follows_the_first_metric_in_the_users_mode() -> None:
    class Followed(Scripted):
        scores, others = [1.0, 2.0, 2.0, 3.0], [9.0, 8.0, 9.0, 9.0]

    recipe = ModelRecipe(Followed)
    found = [look["lr"] for look in looks(recipe.start(trial({"lr": 1.0}), place("score", "loss")), 4)]
    assert found == [1.0, 1.0, 0.5, 0.5]
    assert [look["lr"] for look in looks(recipe.start(trial({"lr": 1.0}), place("loss", "score")), 4)] == [1.0, 0.5, 0.25, 0.125]
    assert [look["lr"] for look in looks(recipe.start(trial({"lr": 1.0}), place()), 4)] == [1.0, 0.5, 0.25, 0.125]


def test_reduce_on_plateau_is_stepped_only_by_what_was_validated_anew() -> None:
    class Rare(Scripted):
        scores, others, validate_every = [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], 2

    found = [look["lr"] for look in looks(ModelRecipe(Rare).start(trial({"lr": 1.0}), place("score")), 4)]
    assert found == [1.0, 0.5, 0.5, 0.25]


def test_without_a_validation_set_reduce_on_plateau_follows_the_training_loss() -> None:
    class Trained(Digits):
        def setup(self, config: Any) -> None:
            super().setup(config)
            self.lr_scheduler = ReduceLROnPlateau(self.optimizer, mode="max", factor=0.5, patience=0)

        @classmethod
        def data(cls) -> Data:
            return Data(digits())

    assert [look["lr"] for look in looks(runner(Trained), 2)] == [0.01, 0.005]

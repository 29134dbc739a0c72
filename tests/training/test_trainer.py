"""hp.Trainer, alone: the loop of a ModelTrainable in code of one's own."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.errors import ConfigurationError, DivergedError
from torchtune_hp.testing.toy_models import ToyModel

from .trainer_parts import built, loss_fn, metrics, points, trainer

X, Y = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2


def weights(made: hp.Trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in made.model.parameters()]


def seeded(config: Any = None, seed: int = 0, **words: Any) -> hp.Trainer:
    torch.manual_seed(seed)
    return trainer(config or {}, **words)


def test_in_a_trial_its_numbers_are_those_of_a_model_trainable() -> None:
    class Same(ToyModel):
        def setup(self, config: Any) -> None:
            torch.manual_seed(7)
            super().setup(config)

    def train(config: Any) -> None:
        torch.manual_seed(7)
        made = trainer(config)
        for _ in range(3):
            trained = made.train()
            hp.report(made.evaluate() | trained)

    found = [
        hp.tune(each, {"lr": hp.loguniform(1e-3, 0.1)}, metric="loss", mode="min", trials=3, scheduler=hp.FullRuns(max_t=3), seed=1,
                searcher=hp.RandomSearch(), executor=hp.Serial(), storage=None, verbose=0)
        for each in (Same, train)
    ]  # fmt: skip
    for one, other in zip(*found, strict=True):
        for name in ("loss", "accuracy", "train_loss", "lr"):
            assert one.metrics[name] == other.metrics[name]


def test_alone_the_generator_of_torch_repeats_it() -> None:
    one, other, another = seeded(), seeded(), seeded(seed=1)
    assert one.train(2) == other.train(2) != another.train(2)
    assert one.evaluate() == other.evaluate()
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)


def test_epochs_and_updates_are_the_same_way_through_the_data() -> None:
    by_epoch, by_update = seeded(), seeded()
    by_epoch.train(epochs=2)
    by_update.train(updates=3)
    assert by_update.train()["train_loss"] > 0        # to the end of the pass
    by_update.train(updates=8)
    torch.testing.assert_close(weights(by_epoch), weights(by_update), rtol=0, atol=0)
    assert repr(by_update) == "<hp.Trainer of a Sequential, after 16 updates>"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"epochs": 0}, "Trainer.train: epochs: `epochs >= 1` must hold for a whole number, but got 0."),
        ({"updates": 1.5}, "Trainer.train: updates: `updates >= 1` must hold for a whole number, but got 1.5."),
        ({"epochs": 1, "updates": 2}, "Trainer.train: only one of epochs and updates may be given, but got 1 and 2."),
    ],
    ids=["epochs", "updates", "both"],
)
def test_how_far_to_train_is_a_whole_number(words: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        seeded().train(**words)
    assert str(caught.value) == message


def test_it_is_evaluated_as_it_is_whenever_it_is_asked() -> None:
    made = seeded()
    before = made.evaluate()
    assert before == made.evaluate()
    made.train(3)
    after = made.evaluate()
    assert after["loss"] < before["loss"]
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.zero_()
    assert made.evaluate()["loss"] == pytest.approx(torch.tensor(2.0).log().item())
    made.train(2)
    made.train(2)
    quiet = made.evaluate()
    assert quiet == made.evaluate() and quiet == made._runner.evaluate()
    assert made.test().keys() == {"loss", "accuracy"}


def test_a_second_trainer_of_a_model_goes_on_with_it() -> None:
    model, optimizer = built({})
    for _ in range(2):
        made = hp.Trainer(model, optimizer, loss_fn, points, metrics)
        made.train()
        assert made.model is model and model.training
        made.evaluate()
        assert not model.training


def test_where_it_cannot_train_it_says_so() -> None:
    made = seeded()
    with torch.no_grad(), pytest.raises(ConfigurationError, match="where torch computes no gradients"):
        made.train()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigurationError, match='hp.Trainer\\(precision="bf16"\\) does it itself'):
        made.train()
    made.model[0] = nn.Linear(4, 8)
    with pytest.raises(ConfigurationError, match="Trainer.optimizer: its parameters must be self.model's, but some are not"):
        made.train()
    with pytest.raises(ConfigurationError, match="must be given what a trainer's state_dict"):
        made.load_state_dict(nn.Linear(4, 2).state_dict())


def test_lazy_layers_have_their_shapes_after_the_first_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    made = hp.Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn, points, metrics)
    made.train(3)
    assert made.evaluate()["loss"] < 0.5


def test_data_changes_of_weights_count_at_once() -> None:
    made = seeded()
    made.train()
    for parameter in made.model.parameters():
        parameter.data.zero_()
    assert made.evaluate()["loss"] == pytest.approx(torch.tensor(2.0).log().item())


def test_what_was_changed_by_hand_is_trained_on() -> None:
    one, other = seeded(), seeded()
    for made in (one, other):
        made.train()
        made.optimizer.param_groups[0]["lr"] = 0.5 if made is one else 0.05
        made.train()
    assert one.train()["lr"] == 0.5
    assert not torch.equal(weights(one)[0], weights(other)[0])


def test_a_state_is_gone_on_from_in_the_middle_of_a_pass() -> None:
    made = seeded({"dropout": 0.3}, lr_scheduler=None)
    made.train(updates=5)
    state = made.state_dict()
    expected = [made.train(), made.evaluate()]
    fresh = seeded({"dropout": 0.3}, seed=0)
    fresh.load_state_dict(state)
    assert [fresh.train(), fresh.evaluate()] == expected
    torch.testing.assert_close(weights(fresh), weights(made), rtol=0, atol=0)


def test_schedulers_are_stepped_by_it_and_reduce_on_plateau_by_what_is_evaluated() -> None:
    model, optimizer = built({})
    made = hp.Trainer(model, optimizer, loss_fn, points, metrics, lr_scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
    assert [made.train()["lr"] for _ in range(3)] == [0.025, 0.0125, 0.00625]
    model, optimizer = built({"lr": 1e-3})
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9)
    made = hp.Trainer(model, optimizer, loss_fn, points, metrics, lr_scheduler=plateau)
    made.train(3)
    made.train()
    assert optimizer.param_groups[0]["lr"] == 1e-3
    for _ in range(3):
        made.evaluate()
        made.evaluate()
        made.train()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_a_function_with_a_third_argument_is_given_the_numbers_of_the_config() -> None:
    def weighted(model: nn.Module, batch: Any, hparams: Any) -> Any:
        loss = F.cross_entropy(model(batch[0]), batch[1])
        return loss * hparams["loss.weight"], {"plain": loss}

    def of_config(model: nn.Module, batch: Any, hparams: Any) -> Any:
        return {"w": hparams["loss.weight"]}

    made = hp.Trainer(*built({}), weighted, points, of_config, config={"loss": {"weight": 0.5}})
    found = made.train()
    assert found["train_loss"] == pytest.approx(0.5 * found["train_plain"])
    assert made.evaluate() == {"w": 0.5}


def test_what_metrics_gather_comes_to_its_end() -> None:
    def scores(model: nn.Module, batch: Any) -> Any:
        return {"score": model(batch[0])[:, 1], "label": batch[1]}

    def auc(gathered: Any) -> Any:
        return {"auc": hp.metrics.roc_auc(gathered["score"], gathered["label"]), "n": float(len(gathered["label"]))}

    made = seeded(metrics=scores, metrics_end=auc)
    made.train(3)
    assert made.evaluate()["auc"] > 0.8 and made.evaluate()["n"] == 32


def test_data_is_made_once_however_often_its_function_is_written_down() -> None:
    made = []

    def build(size: int) -> hp.Trainer:
        def data() -> hp.Data:
            made.append(size)
            return hp.Data(tuple(part[:size] for part in points().train.tree), batch_size=16)

        return hp.Trainer(*built({}), loss_fn, data)

    first, second, other = build(64), build(64), build(32)
    assert made == [64, 32]
    assert first._runner.data is second._runner.data is not other._runner.data
    twice = [hp.Trainer(*built({}), loss_fn, functools.partial(sized, 64, batch=8)) for _ in range(2)]
    assert twice[0]._runner.data is twice[1]._runner.data
    numbers = [hp.Trainer(*built({}), loss_fn, lambda: hp.Data((X, Y), batch_size=16)) for _ in range(2)]
    assert numbers[0]._runner.data is numbers[1]._runner.data
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "X", X + 1)
        assert hp.Trainer(*built({}), loss_fn, lambda: hp.Data((X, Y), batch_size=16))._runner.data is not numbers[0]._runner.data
    with pytest.raises(ConfigurationError, match="and takes no arguments, but got .* functools.partial gives them."):
        hp.Trainer(*built({}), loss_fn, sized)
    given = points()
    assert hp.Trainer(*built({}), loss_fn, given)._runner.data is hp.Trainer(*built({}), loss_fn, given)._runner.data


def sized(size: int, batch: int) -> hp.Data:
    return hp.Data(tuple(part[:size] for part in points().train.tree), batch_size=batch)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"loss_fn": None}, "hp.Trainer: loss_fn: must be a function, but got a NoneType."),
        ({"metrics": 3, "augment": "flip"},
         "hp.Trainer: metrics: must be a function, but got a int.\nhp.Trainer: augment: must be a function, but got a str."),
        ({"data": 3}, "hp.Trainer: data must be an hp.Data, or a function that returns one, but got a int."),
        ({"data": lambda: 3}, "hp.Trainer: data must be an hp.Data, or a function that returns one, but gave a int."),
        ({"accumulate": 0}, "Trainer.accumulate: `accumulate >= 1` must hold for a whole number, but got 0."),
        ({"precision": "fp16"}, "Trainer.precision: must be 'fp32' or 'bf16', but got 'fp16'."),
    ],
    ids=["loss_fn", "metrics", "data", "what data gives", "accumulate", "precision"],
)  # fmt: skip
def test_a_wrong_argument_says_what_it_must_be(words: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        seeded(**words)
    assert str(caught.value) == said


def test_a_wrong_model_or_optimizer_is_told() -> None:
    model, optimizer = built({})
    with pytest.raises(ConfigurationError, match="hp.Trainer: model: must be an nn.Module, but got a str."):
        hp.Trainer("model", optimizer, loss_fn, points)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"Trainer.optimizer: its parameters must be self.model's, but some are not."):
        hp.Trainer(nn.Linear(4, 2), optimizer, loss_fn, points)


def test_what_its_functions_give_wrong_is_said_in_their_names() -> None:
    with pytest.raises(ConfigurationError, match="^loss_fn must return the loss as a tensor"):
        seeded(loss_fn=lambda model, batch: "x").train()
    with pytest.raises(ConfigurationError, match="^metrics must return a dict of metrics, but it returned a list."):
        seeded(metrics=lambda model, batch: []).evaluate()
    with pytest.raises(ConfigurationError, match="which is for metrics_end. "):
        seeded(metrics=lambda model, batch: {"y": batch[1]}).evaluate()
    with pytest.raises(ConfigurationError, match="Trainer.evaluate: there is nothing to measure. Give hp.Trainer metrics="):
        seeded(metrics=None).evaluate()
    with pytest.raises(ConfigurationError, match="Trainer.evaluate: there is no validation set."):
        seeded(data=lambda: hp.Data(points().train.tree)).evaluate()
    with pytest.raises(ConfigurationError, match="There is no test set."):
        seeded(data=lambda: hp.Data(points().train.tree, batch_size=16)).test()


def test_a_loss_that_is_not_finite_is_raised_where_it_is_trained() -> None:
    made = seeded(loss_fn=lambda model, batch: loss_fn(model, batch) * float("nan"))
    with pytest.raises(DivergedError):
        made.train()


def test_one_that_was_made_by_hand_leaves_nothing_open() -> None:
    from torchtune_hp.training.context import _open

    before = dict(_open)
    seeded().train()
    assert _open == before and hp.context().trial_id is None

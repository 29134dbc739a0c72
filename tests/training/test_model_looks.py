"""What a look holds, what hooks see and may change, and what goes wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from torchtune_hp.errors import ConfigurationError, DivergedError, ReportError, TrialFinishedError
from torchtune_hp.testing.toy_models import ToyDivergingModel, ToyModel
from torchtune_hp.training.context import context
from torchtune_hp.training.model import ModelRecipe

from .model_parts import Digits, Scripted, looks, one_thread, place, runner, trial

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")


# Looks --------------------------------------------------------------------------------------------------------------------


def test_validation_is_at_the_first_iteration_every_so_many_and_at_the_end() -> None:
    class Rare(Scripted):
        scores, others, validate_every = [0.0, 1.0, 2.0, 3.0], [0.0] * 4, 3

    found = looks(ModelRecipe(Rare).start(trial(), place("score", max_t=7)), 7)
    assert [look["score"] for look in found] == [0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 3.0]
    assert len({look["train_loss"] for look in found}) == 7


def test_numbers_beside_the_loss_are_reported_as_means_of_training() -> None:
    class More(Digits):
        def training_step(self, model: nn.Module, batch: Any) -> Any:
            loss = super().training_step(model, batch)
            return loss, {"double": 2 * loss, "one": 1}

    metrics = looks(runner(More), 1)[0]
    assert metrics["train_double"] == pytest.approx(2 * metrics["train_loss"], rel=1e-6) and metrics["train_one"] == 1.0


def test_a_hook_at_the_end_may_change_what_comes_and_not_what_was_reported() -> None:
    class Changing(Digits):
        def on_iteration_end(self, metrics: dict[str, float]) -> None:
            told.append(dict(metrics))
            metrics["loss"] = -1.0
            self.batch_size = 60
            self.optimizer.param_groups[0]["lr"] /= 2
            self.model[0].weight.requires_grad_(False)      # type: ignore[index, union-attr]

    told: list[dict[str, float]] = []
    alone = runner(Changing, {"lr": 0.5})
    first = alone.advance()
    assert told[0] == first.metrics and alone.updates == 7
    weights = alone.member.model[0].weight.clone()      # type: ignore[index, operator, union-attr]
    second = alone.advance()
    assert alone.updates == 11 and second.metrics["lr"] == 0.25 and second.metrics["loss"] != -1.0
    assert torch.equal(alone.member.model[0].weight, weights)      # type: ignore[index]


def test_the_gradients_of_an_iteration_are_there_for_its_end_and_then_given_back() -> None:
    class Watching(Digits):
        def on_iteration_end(self, metrics: dict[str, float]) -> None:
            seen.append(self.model[0].weight.grad is not None)      # type: ignore[index, union-attr]

    seen: list[bool] = []
    alone = runner(Watching)
    alone.advance()
    assert seen == [True] and all(parameter.grad is None for parameter in alone.member.model.parameters())


def test_training_is_in_train_mode_and_validation_in_eval_mode_without_gradients() -> None:
    class Modes(Digits):
        def training_step(self, model: nn.Module, batch: Any) -> Any:
            seen.add(("train", model.training, torch.is_grad_enabled()))
            return super().training_step(model, batch)

        def validation_step(self, model: nn.Module, batch: Any) -> Any:
            seen.add(("validate", model.training, torch.is_grad_enabled()))
            return super().validation_step(model, batch)

    seen: set[Any] = set()
    looks(runner(Modes), 2)
    assert seen == {("train", True, True), ("validate", False, False)}


def test_what_validation_draws_does_not_move_training() -> None:
    class Drawing(Digits):
        def validation_step(self, model: nn.Module, batch: Any) -> Any:
            return {**super().validation_step(model, batch), "drawn": torch.rand(3).mean()}

    config = {"dropout": 0.5}
    plain, drawing = looks(runner(Digits, config), 2), looks(runner(Drawing, config), 2)
    assert [look.pop("drawn") for look in drawing] != [0, 0] and plain == drawing


def test_batches_are_augmented_in_training_only() -> None:
    class Blank(Digits):
        def augment(self, batch: Any) -> Any:
            return torch.zeros_like(batch[0]), batch[1]

        def training_step(self, model: nn.Module, batch: Any) -> Any:
            assert not batch[0].any()
            return super().training_step(model, batch)

        def validation_step(self, model: nn.Module, batch: Any) -> Any:
            assert batch[0].any()
            return super().validation_step(model, batch)

    looks(runner(Blank), 1)


def test_bf16_computes_in_bfloat16_and_keeps_weights_in_float32() -> None:
    class Half(Digits):
        precision = "bf16"

        def training_step(self, model: nn.Module, batch: Any) -> Any:
            kinds.add(model(batch[0]).dtype)
            return super().training_step(model, batch)

        def validation_step(self, model: nn.Module, batch: Any) -> Any:
            kinds.add(model(batch[0]).dtype)
            return super().validation_step(model, batch)

    kinds: set[torch.dtype] = set()
    alone = runner(Half)
    close = looks(alone, 2)[-1]["loss"]
    assert kinds == {torch.bfloat16} and alone.member.model[0].weight.dtype == torch.float32      # type: ignore[index, union-attr]
    exact = looks(runner(Digits), 2)[-1]["loss"]
    assert close != exact and close == pytest.approx(exact, rel=0.05)


def test_setup_can_read_where_it_is() -> None:
    class Reading(Digits):
        def setup(self, config: Any) -> None:
            super().setup(config)
            self.batch_size = 16
            read.update(t=self.max_t, updates=self.updates_per_epoch, device=self.device, id=self.trial_id, context=context().trial_id)
            self.batch_size, self.accumulate = 10, 3
            read["accumulated"] = self.updates_per_epoch
            read["config"] = (self.config, config)

    read: dict[str, Any] = {}
    ModelRecipe(Reading).start(trial({"a": {"b": 1}}, id=5), place(max_t=9))
    assert read == {
        "t": 9, "updates": 15, "accumulated": 8, "device": torch.device("cpu"), "id": 5, "context": 5, "config": ({"a": {"b": 1}},) * 2,
    }  # fmt: skip
    assert context().trial_id is None


def test_a_class_may_state_its_own_end() -> None:
    class Ending(Digits):
        max_t = 2

        def setup(self, config: Any) -> None:
            super().setup(config)
            self.seen = self.max_t

    recipe = ModelRecipe(Ending)
    assert (recipe.max_t, recipe.ends, ModelRecipe(Digits).max_t, ModelRecipe(Digits).ends) == (2, True, None, False)
    alone = recipe.start(trial(), place(max_t=1))
    assert (alone.member.seen, recipe.start(trial(), place(max_t=5)).member.seen, recipe.start(trial(), place()).member.seen) == (1, 2, 2)      # type: ignore[attr-defined]
    assert [alone.advance().done for _ in range(2)] == [False, True]
    with pytest.raises(TrialFinishedError, match="Trial 3 has ended"):
        alone.advance()


def test_a_closed_trial_trains_no_more() -> None:
    alone = runner(Digits)
    alone.close()
    alone.close()
    with pytest.raises(TrialFinishedError, match="Trial 3 has ended"):
        alone.advance()


# What goes wrong ----------------------------------------------------------------------------------------------------------


def test_a_training_loss_that_is_not_finite_ends_the_trial_as_diverged() -> None:
    alone = runner(ToyDivergingModel, {"at": 3})
    assert [alone.advance().step for _ in range(2)] == [1, 2]
    with pytest.raises(DivergedError, match="must be finite, but was nan in iteration 3, batch 1 of 8"):
        alone.advance()

    class Infinite(ToyModel):
        def training_step(self, model: nn.Module, batch: Any) -> Any:
            calls.append(1)
            return super().training_step(model, batch) * (math.inf if len(calls) == 5 else 1)

    calls: list[int] = []
    with pytest.raises(DivergedError, match="was inf in iteration 1, batch 5 of 8"):
        runner(Infinite).advance()


def test_a_validation_metric_may_be_nan() -> None:
    class Nan(ToyModel):
        def validation_step(self, model: nn.Module, batch: Any) -> Any:
            return {"accuracy": torch.tensor(math.nan)}

    assert math.isnan(looks(runner(Nan), 1)[0]["accuracy"])


def test_a_needed_metric_that_is_missing_is_a_report_error() -> None:
    with pytest.raises(ReportError, match=r"'acuracy' must be in every report.*Did you mean 'accuracy'"):
        ModelRecipe(ToyModel).start(trial(), place("acuracy")).advance()


def test_what_a_hook_raises_comes_out_unchanged_and_the_generators_are_put_back() -> None:
    class Raising(ToyModel):
        def training_step(self, model: nn.Module, batch: Any) -> Any:
            raise error

    error = KeyError("mine")
    alone = runner(Raising)
    before = torch.get_rng_state()
    with pytest.raises(KeyError) as caught:
        alone.advance()
    assert caught.value is error and torch.equal(torch.get_rng_state(), before) and context().trial_id is None


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda model, x: model(x).sum(1), r"0-dim tensor, but has the shape \(16,\)"),
        (lambda model, x: 3.0, "the loss as a tensor.* returned a float"),
        (lambda model, x: {"loss": model(x).mean()}, "returned a dict"),
        (lambda model, x: (model(x).mean(), 1), "returned a tuple"),
        (lambda model, x: model(x).mean().detach(), "must depend on parameters that require gradients"),
        (lambda model, x: (model(x).mean(), {"a": x}), "'a' must be a number or 0-dim tensor"),
        (lambda model, x: (model(x).mean(), {"a": "b"}), "'a' must be a number or 0-dim tensor, not 'b'"),
    ],
)
def test_a_wrong_loss_says_what_it_must_be(returned: Any, message: str) -> None:
    class Wrong(ToyModel):
        def training_step(self, model: nn.Module, batch: Any) -> Any:
            return returned(model, batch[0])

    with pytest.raises(ConfigurationError, match=message):
        runner(Wrong).advance()


def test_names_that_training_reports_are_taken() -> None:
    for name in ("lr", "train_loss", "train_a"):

        class Clash(ToyModel):
            def training_step(self, model: nn.Module, batch: Any) -> Any:
                return super().training_step(model, batch), {"a": 1.0}

            def validation_step(self, model: nn.Module, batch: Any) -> Any:
                return {name: 1.0}      # noqa: B023

        with pytest.raises(ConfigurationError, match=f"'{name}' is reported by training"):
            runner(Clash).advance()

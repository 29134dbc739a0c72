"""The words of a ModelTrainable, and what is said of wrong ones; keywords."""

from __future__ import annotations

from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, TensorDataset

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.training.context import _open
from torchtune_hp.training.data import Data
from torchtune_hp.training.model import ModelRecipe, ModelTrainable

from .model_parts import Digits, digits, looks, one_thread, place, runner, trial

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")


def with_setup(change: Any) -> type[ToyModel]:
    class Changed(ToyModel):
        def setup(self, config: Any) -> None:
            super().setup(config)
            change(self)

    return Changed


def word(name: str, value: Any) -> Any:
    return lambda self: setattr(self, name, value)


def other_optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (word("model", None), "Changed.model: setup must set self.model to an nn.Module, but it is not set"),
        (word("model", 3), "model: .* but it is a int"),
        (word("optimizer", None), "optimizer: setup must set self.optimizer to one torch.optim.Optimizer, but it is not set"),
        (word("optimizer", [1]), "but it is a list"),
        (word("optimizer", other_optimizer()), "its parameters must be self.model's, but some are not"),
        (lambda self: setattr(self, "optimizer", torch.optim.LBFGS(self.model.parameters())), "LBFGS needs a closure"),
        (word("lr_scheduler", 0.1), "lr_scheduler: expected .* but got a float"),
        (word("lr_scheduler", [None]), "lr_scheduler: .* but got not set"),
        (word("lr_scheduler", ExponentialLR(other_optimizer(), 0.5)), "it must drive self.optimizer"),
        (word("lr_step", "foo"), "lr_step: must be 'epoch' or 'update', but got 'foo'"),
        (word("precision", "fp16"), "precision: must be 'fp32' or 'bf16', but got 'fp16'"),
        (word("batch_size", 0), "batch_size: `batch_size >= 1` must hold for a whole number, but got 0"),
        (word("batch_size", 2.0), "but got 2.0"),
        (word("accumulate", None), "accumulate: .* but got None"),
        (word("accumulate", True), "accumulate: .* but got True"),
        (word("validate_every", 0), "validate_every: .* but got 0"),
        (word("max_grad_norm", 0), "max_grad_norm: `max_grad_norm > 0` must hold, or None, but got 0"),
        (word("max_grad_norm", float("nan")), "max_grad_norm: .* but got nan"),
        (word("max_grad_norm", True), "max_grad_norm: .* but got True"),
        (word("max_grad_norm", "1"), "max_grad_norm: .* but got '1'"),
        (word("iteration", 3), "iteration: it is set on the class"),
        (word("batch_size", 129), "one update must fit the training set"),
    ],
)
def test_a_wrong_word_says_the_law_the_value_and_the_way_out(change: Any, message: str) -> None:
    before = len(_open)
    with pytest.raises(ConfigurationError, match=message):
        runner(with_setup(change))
    assert len(_open) == before


def test_all_wrong_words_are_listed_at_once() -> None:
    def change(self: Any) -> None:
        self.lr_step, self.precision, self.model = "a", "b", None

    with pytest.raises(ConfigurationError) as error:
        runner(with_setup(change))
    assert len(str(error.value).splitlines()) == 3


def test_the_smallest_right_words_are_taken() -> None:
    def change(self: Any) -> None:
        self.batch_size = self.accumulate = self.validate_every = 1
        self.max_grad_norm = 1e-9
        self.lr_scheduler = (ExponentialLR(self.optimizer, 0.5),)

    assert runner(with_setup(change)).advance().step == 1


def test_a_hook_that_sets_a_wrong_word_is_told_at_once() -> None:
    class Wrong(ToyModel):
        def on_iteration_end(self, metrics: dict[str, float]) -> None:
            self.batch_size = -1

    with pytest.raises(ConfigurationError, match="batch_size >= 1"):
        runner(Wrong).advance()


def test_a_class_must_have_its_hooks() -> None:
    class Empty(ModelTrainable):
        pass

    with pytest.raises(ConfigurationError) as error:
        ModelRecipe(Empty)
    assert str(error.value).splitlines() == [f"Empty.{hook} must be written." for hook in ("setup", "data", "training_step")]

    class Bound(ToyModel):
        def data(self) -> Data:      # type: ignore[override]
            raise ValueError

    with pytest.raises(ConfigurationError, match="write @classmethod above it"):
        ModelRecipe(Bound)

    class Static(ToyModel):
        @staticmethod
        def data() -> Data:      # type: ignore[override]
            return ToyModel.data()

    assert runner(Static).advance().step == 1


@pytest.mark.parametrize("iteration", [0, -1, 1.5, "epochs", True, None])
def test_an_iteration_is_a_pass_or_a_number_of_updates(iteration: Any) -> None:
    cls = type("Odd", (ToyModel,), {"iteration": iteration})
    with pytest.raises(ConfigurationError, match=f'Odd.iteration must be "epoch" or a number of updates, at least 1, but is {iteration!r}'):
        ModelRecipe(cls)
    assert ModelRecipe(type("Even", (ToyModel,), {"iteration": 1})).start(trial(), place()).advance().step == 1


@pytest.mark.parametrize("end", [0, "3", 2.5])
def test_an_end_of_its_own_is_a_number_of_iterations(end: Any) -> None:
    with pytest.raises(ConfigurationError, match="`max_t >= 1` must hold"):
        ModelRecipe(type("Odd", (ToyModel,), {"max_t": end}))


def test_a_validation_set_needs_a_validation_step_and_a_test_a_test_set() -> None:
    class Trained(ModelTrainable):
        setup = ToyModel.setup
        training_step = ToyModel.training_step

        @classmethod
        def data(cls) -> Data:
            x, y = digits()
            return Data((x[:, :4], y % 2), test=(x[:, :4], y % 2))

    class Unvalidated(Trained):
        @classmethod
        def data(cls) -> Data:
            return ToyModel.data()

    class Untested(ToyModel):
        @classmethod
        def data(cls) -> Data:
            x, y = digits()
            return Data((x[:, :4], y % 2))

    with pytest.raises(ConfigurationError, match="Unvalidated.validation_step must be written, for"):
        runner(Unvalidated)
    assert looks(runner(Trained), 1)[0].keys() == {"train_loss", "lr"}
    with pytest.raises(ConfigurationError, match="Trained.validation_step must be written: it gives the metrics of the test set"):
        runner(Trained).test()
    with pytest.raises(ConfigurationError, match=r"There is no test set. Give one: hp.Data\(\.\.\., test="):
        runner(Untested).test()


def test_a_loader_has_its_own_batch_size() -> None:
    class Streamed(ToyModel):
        @classmethod
        def data(cls) -> Data:
            x, y = digits()
            return Data(DataLoader(TensorDataset(x[:60, :4], y[:60] % 2), 20, shuffle=True), order="shared")

    alone = runner(Streamed)
    looks(alone, 2)
    assert alone.updates == 6

    class Sized(Streamed):
        batch_size = 10

    with pytest.raises(ConfigurationError, match="Sized.batch_size: a DataLoader has its own, but setup set 10"):
        runner(Sized)


def test_what_is_readable_in_a_trial_is_an_error_outside() -> None:
    for name in ("config", "hparams", "max_t", "updates_per_epoch", "device", "trial_id"):
        with pytest.raises(RuntimeError, match=f"`{name}` can be read from setup on, in a trial; this Digits was made by hand"):
            getattr(Digits(), name)


def test_a_setup_may_change_its_config_without_changing_the_trials() -> None:
    def change(self: Any) -> None:
        changed.append(self.config)

    class Popping(ToyModel):
        def setup(self, config: Any) -> None:
            super().setup(config)
            config["nested"]["a"] = 2
            change(self)

    changed: list[Any] = []
    runner(Popping, {"nested": {"a": 1}})
    assert changed == [{"nested": {"a": 1}}]


# Keywords -----------------------------------------------------------------------------------------------------------------


class Keyed(ToyModel):
    def setup(self, config: Any, width: int, *, both: int = 0) -> None:      # type: ignore[override]
        super().setup({**config, "width": width})
        self.got = both

    @classmethod
    def data(cls, half: bool = False, both: int = 0) -> Data:
        whole = ToyModel.data()
        return Data(whole.train.rows(torch.arange(64)), batch_size=32) if half else whole      # type: ignore[union-attr]

    def named(self) -> int:
        return self.got


def test_setup_and_data_each_get_the_keywords_they_name() -> None:
    recipe = ModelRecipe(Keyed, {"width": 5, "half": True, "both": 7})
    alone = recipe.start(trial(), place())
    alone.advance()
    assert alone.member.model[0].out_features == 5 and alone.updates == 2 and alone.member.got == 7      # type: ignore[index, union-attr, attr-defined]
    assert (recipe.name, recipe.saves, recipe.keywords) == ("Keyed", True, {"width": 5, "half": True, "both": 7})


def test_a_keyword_that_nothing_names_and_one_that_is_missing_are_errors() -> None:
    with pytest.raises(ConfigurationError, match="must name 'depth', but Keyed.setup names 'width', 'both' and data 'half', 'both'"):
        ModelRecipe(Keyed, {"width": 5, "depth": 3})
    with pytest.raises(ConfigurationError, match=r"Keyed.setup needs 'width'. Give it: hp.with_parameters\(Keyed, width=...\)"):
        ModelRecipe(Keyed)
    with pytest.raises(ConfigurationError, match="must name 'config', but ToyModel.setup names none and data none"):
        ModelRecipe(ToyModel, {"config": 1})

    class Open(ToyModel):
        def setup(self, config: Any, **rest: Any) -> None:
            super().setup(config)
            self.rest = rest

        @classmethod
        def data(cls, path: str) -> Data:
            return ToyModel.data()

    assert ModelRecipe(Open, {"path": "a", "more": 1}).start(trial(), place()).member.rest == {"path": "a", "more": 1}      # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="Open.data needs 'path'"):
        ModelRecipe(Open)


def test_a_recipe_travels() -> None:
    recipe = cloudpickle.loads(cloudpickle.dumps(ModelRecipe(Keyed, {"width": 4})))
    assert looks(recipe.start(trial(), place()), 1) == looks(ModelRecipe(Keyed, {"width": 4}).start(trial(), place()), 1)

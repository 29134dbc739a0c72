"""The numbers of a config as tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.training.hparams import Hparams

from .model_parts import looks, one_thread, runner

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")


def test_hparams_are_tensors_of_the_configs_numbers() -> None:
    found = Hparams({"a": 0.5, "n": 3, "loss": {"b": 2.0, "deep": {"c": 1}, "kind": "x"}, "dotted.d": 4, "flag": True})
    assert found["a"].dtype == torch.float32 and found["a"].dim() == 0 and found["a"].item() == 0.5
    assert found["n"].dtype == torch.int64 and found["n"] is found["n"]
    assert found["loss.b"].item() == found["loss"]["b"].item() == 2.0 and found["loss.deep.c"].item() == found["loss"]["deep.c"].item() == 1
    assert found["dotted.d"].item() == 4
    assert list(found) == ["a", "n", "loss", "dotted.d"] and len(found) == 4 and "kind" not in found["loss"]
    every = {name: value.item() for name, value in found.tensors().items()}
    assert every == {"a": 0.5, "n": 3, "loss.b": 2.0, "loss.deep.c": 1, "dotted.d": 4}
    assert found.get("missing") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flag", "hparams holds numbers, but 'flag' is True"),
        ("missing", "'missing' is not in the config, which holds 'flag', 'loss'"),
        ("loss.kind", "hparams holds numbers, but 'loss.kind' is 'x'"),
        ("loss.none", "'loss.none' is not in the config, which holds 'kind'"),
        ("flag.a", "'flag.a' is not in the config"),
    ],
)
def test_a_wrong_hparam_says_what_there_is(name: str, message: str) -> None:
    with pytest.raises(KeyError) as error:
        Hparams({"flag": True, "loss": {"kind": "x"}})[name]
    assert message in error.value.args[0]


def test_an_empty_config_holds_nothing() -> None:
    with pytest.raises(KeyError, match="which holds nothing"):
        Hparams({})["a"]


def test_hparams_enter_the_loss() -> None:
    class Weighted(ToyModel):
        def training_step(self, model: nn.Module, batch: Any) -> Any:
            return super().training_step(model, batch) * self.hparams["loss.scale"]

    plain, twice = runner(ToyModel, {"dropout": 0.0}), runner(Weighted, {"loss": {"scale": 2.0}, "lr": 0.025, "dropout": 0.0})
    assert looks(twice, 1)[0]["train_loss"] == pytest.approx(2 * looks(plain, 1)[0]["train_loss"], rel=1e-5)


def test_a_member_has_one_config_as_long_as_it_lives() -> None:
    member = runner(ToyModel, {"lr": 0.5, "dropout": 0.0}).member
    assert member.config is member.config and member.config == {"lr": 0.5, "dropout": 0.0}

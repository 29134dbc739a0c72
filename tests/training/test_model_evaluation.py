"""Metrics over whole sets: weights, what is gathered, named sets, and wrong returns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.training.data import Data
from torchtune_hp.training.evaluation import means

from .model_parts import one_thread, runner

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")


def validated(step: Any, end: Any = None, **sets: Any) -> dict[str, float]:
    """The metrics of sets of the numbers 0 to 9, in batches of 4, 4 and 2."""

    class Valued(ToyModel):
        @classmethod
        def data(cls) -> Data:
            numbers = torch.arange(10.0)
            val = {name: numbers[:size] for name, size in sets.items()} if sets else numbers
            return Data(ToyModel.data().train.rows(torch.arange(8)), val=val, batch_size=4)      # type: ignore[union-attr]

        def validation_step(self, model: nn.Module, batch: Any) -> Any:
            return step(batch)

    if end is not None:
        Valued.validation_end = lambda self, gathered: end(gathered)      # type: ignore[method-assign, assignment]
    return runner(Valued).evaluate()


def test_means_are_weighted_by_the_size_of_the_batch() -> None:
    found = validated(
        lambda x: {"mean": x.mean(), "number": len(x), "numpy": np.float32(len(x)), "count": torch.tensor(len(x)), "flag": True}
    )
    assert found == {"mean": 4.5, "number": 3.6, "numpy": 3.6, "count": 3.6, "flag": 1.0}


def test_a_pair_has_its_own_weight() -> None:
    found = validated(
        lambda x: {
            "a": (float(x[0]), float(x[0])),
            "b": (x[0], x[0]),
            "c": (x[0].int(), 1),
            "one": (x[0], float(x[0] == 4)),
            "none": (1.0, 0.0),
        }
    )
    assert found["a"] == found["b"] == pytest.approx((4 * 4 + 8 * 8) / 12)
    assert found["c"] == 4.0 and found["one"] == 4.0 and math.isnan(found["none"])


def test_a_mean_of_one_batch_is_its_value_bit_for_bit() -> None:
    assert means({"a": [(0.1, 3)], "b": [(torch.tensor(0.1), 7)]}) == {"a": 0.1, "b": torch.tensor(0.1).item()}
    assert math.isnan(means({"a": [(0.1, 0)]})["a"]) and means({}) == {}


def test_tensors_of_a_batch_are_gathered_once_for_the_end() -> None:
    calls = []

    def end(gathered: Any) -> Any:
        calls.append(gathered)
        return {"median": gathered["x"].median(), "width": float(gathered["wide"].shape[1])}

    found = validated(lambda x: {"x": x, "wide": x[:, None].expand(-1, 3), "mean": x.mean()}, end)
    assert found == {"mean": 4.5, "median": 4.0, "width": 3.0}
    assert len(calls) == 1 and calls[0]["x"].tolist() == list(range(10)) and calls[0]["wide"].shape == (10, 3)


def test_the_end_is_not_called_where_nothing_is_gathered() -> None:
    def end(gathered: Any) -> Any:
        raise AssertionError

    assert validated(lambda x: {"mean": x.mean()}, end) == {"mean": 4.5}


def test_named_sets_name_their_metrics() -> None:
    assert validated(lambda x: {"mean": x.mean()}, clean=10, noisy=3) == {"clean/mean": 4.5, "noisy/mean": 1.0}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda x: x.mean(), "validation_step must return a dict of metrics, but it returned a Tensor"),
        (lambda x: {"a": torch.zeros(3)}, r"'a' must be a number.*the batch of 4 as leading dimension, but has the shape \(3,\)"),
        (lambda x: {"a": "b"}, "'a' must be a number, a 0-dim tensor, or .value, weight., but got 'b'"),
        (lambda x: {"a": (1.0, "b")}, "'a' must be a number"),
        (lambda x: {"a": (1.0, 2.0, 3.0)}, "'a' must be a number"),
        (lambda x: {"a": None}, "but got None"),
        (lambda x: {"a": x, "b": x}, "returned 'a', 'b' per sample, which is for validation_end"),
    ],
)
def test_a_wrong_return_says_what_it_must_be(step: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        validated(step)


def test_a_wrong_return_of_the_end_says_what_it_must_be() -> None:
    with pytest.raises(ConfigurationError, match="validation_end must return a dict of metrics, but it returned a NoneType"):
        validated(lambda x: {"a": x}, lambda gathered: None)
    with pytest.raises(ConfigurationError, match="'a' must be a number"):
        validated(lambda x: {"a": x}, lambda gathered: gathered)


def test_a_batch_is_the_hook_s_own_and_the_set_stays_as_it_is() -> None:
    numbers = torch.arange(10.0)

    class InPlace(ToyModel):
        @classmethod
        def data(cls) -> Data:
            return Data(ToyModel.data().train.rows(torch.arange(8)), val=numbers, batch_size=4)      # type: ignore[union-attr]

        def validation_step(self, model: nn.Module, batch: Any) -> Any:
            batch.sub_(4.5)
            return {"mean": batch.mean()}

    one = runner(InPlace)
    assert one.evaluate() == one.evaluate() == {"mean": 0.0}
    assert torch.equal(numbers, torch.arange(10.0))


def test_numbers_beside_smaller_ones_are_not_rounded_to_them() -> None:
    found = means({"count": [(torch.tensor(16777217), torch.tensor(3))], "mean": [(torch.tensor(0.5, dtype=torch.bfloat16), 257)] * 2})
    assert found == {"count": 16777217.0, "mean": 0.5}
    weights = {"mean": [(torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(257)), (torch.tensor(0.0), torch.tensor(1))]}
    assert means(weights) == {"mean": pytest.approx(257 / 258, rel=1e-15)}

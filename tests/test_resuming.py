"""What a study is made of, when somebody goes on with it: what comes back from the journal, and what may be another."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torchtune_hp as hp
from torchtune_hp.journal import Journal
from torchtune_hp.resuming import resumed_arguments
from torchtune_hp.space import Space

SPACE = {"x": hp.uniform(0.0, 1.0)}


def train(config: dict[str, Any]) -> None:
    hp.report(loss=config.get("x", 0.0))


def made(storage: Path, space: Any = SPACE, **changes: Any) -> Path:
    """A study of three trials in `storage`/made."""
    given: dict[str, Any] = {"metric": "loss", "mode": "min", "trials": 3, "executor": hp.Serial(), "storage": storage, "verbose": 0}
    hp.Tuner(train, space, **given | {"name": "made"} | changes).fit()
    return storage / "made"


def resumed(folder: Path, **changes: Any) -> hp.Results:
    return hp.Tuner.resume(folder, train, verbose=0, **changes).fit()


# What may be changed ------------------------------------------------------------------------------------------------------


def test_later_points_are_refused_for_they_would_not_be_tried_first(tmp_path: Path) -> None:
    folder = made(tmp_path)
    message = r"points come first.*start another study.*points=.*warm_start=\['.*made'\]"
    with pytest.raises(hp.ConfigurationError, match=message):
        resumed(folder, points=[{"x": 0.7}], allow="points", trials="+2")


def test_a_difference_offers_allow_for_what_may_be_changed_and_for_nothing_else(tmp_path: Path) -> None:
    folder = made(tmp_path)
    with pytest.raises(hp.StudyChangedError) as fixed:
        resumed(folder, keep=3, stop=hp.MaxSteps(2))
    assert "allow" not in str(fixed.value) and "start another study" in str(fixed.value)
    with pytest.raises(hp.StudyChangedError) as mixed:
        resumed(folder, keep=3, seed=4)
    assert f"On purpose, seed may be changed: hp.Tuner.resume({str(folder)!r}, ..., allow=('seed',))." in str(mixed.value)
    with pytest.raises(hp.StudyChangedError) as auto:
        hp.Tuner(
            train, {"x": hp.uniform(0.0, 2.0)}, metric="loss", mode="min", trials=4, storage=tmp_path, name="made", resume="auto", seed=1
        ).fit()
    assert f"hp.Tuner.resume({str(folder)!r}, ..., allow=('space', 'seed'))" in str(auto.value)
    assert len(resumed(folder, space={"x": hp.uniform(0.0, 2.0)}, seed=1, allow=("space", "seed"), trials="+1")) == 4


@pytest.mark.parametrize("searcher", [hp.RandomSearch(), hp.GPSearch()])
@pytest.mark.parametrize("other", [{"x": hp.uniform(0.0, 1.0), "z": hp.uniform(0.0, 1.0)}, {"z": hp.uniform(0.0, 1.0)}])
def test_another_space_has_the_same_dimensions(tmp_path: Path, searcher: Any, other: Any) -> None:
    space = SPACE | {"drawn": hp.sample_from(lambda config: 1)}         # which the journal cannot give back
    folder = made(tmp_path, space, searcher=searcher)
    with pytest.raises(hp.ConfigurationError, match=r"allow: .*dimensions.*\['x'\].*but got \['.*z'\].*warm_start=\['.*made'\]"):
        resumed(folder, space=other, allow="space", trials="+2")
    assert len(resumed(folder, space={"x": hp.uniform(0.0, 2.0)}, allow="space", trials="+2")) == 5


def test_a_recorded_config_stands_where_a_space_of_other_dimensions_is_given(tmp_path: Path) -> None:
    with hp.Results.open(made(tmp_path), space={"x": hp.uniform(0.0, 1.0), "z": hp.uniform(0.0, 1.0)}) as results:
        assert results.launched(0).config == results[0].config


# What comes back ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "point"),
    [
        ({"k": hp.choice([(3, 3), (5, 5)])}, {"k": (3, 3)}),
        ({"k": hp.choice([[3, (1,)], None])}, {"k": [3, (1,)]}),
        ({"type": hp.choice(["a", "b"]), "args": hp.uniform(0.0, 1.0)}, {"type": "a", "args": 0.5}),
        ({"model": hp.choice({"mlp": {"callable": hp.choice([1, 2])}, "cnn": {}})}, {"model": {"name": "mlp", "callable": 2}}),
        ({"f": hp.choice([math.sin, math.cos]), "x": hp.uniform(0.0, 1.0)}, {"f": math.cos, "x": np.float64(0.5)}),
    ],
)
def test_points_come_back_as_they_were_whatever_they_hold(tmp_path: Path, space: Any, point: Any) -> None:
    folder = made(tmp_path, space, points=[point], trials=1)
    with Journal.open(folder) as journal:
        assert resumed_arguments(journal, {"trainable": train})["points"] == [point]
    assert len(resumed(folder, trials="+1")) == 2
    assert len(resumed(folder, trials="+1", points=[point])) == 3
    with pytest.raises(hp.StudyChangedError, match="points: "):
        resumed(folder, points=[point, point])


def test_points_that_json_cannot_hold_are_asked_for_by_name(tmp_path: Path) -> None:
    def local() -> None: ...

    space = Space({"f": hp.choice([local, 1])})
    folder = made(tmp_path, space, points=[{"f": local}], trials=1)
    with pytest.raises(hp.SpaceError, match=r"points\[0\]: .* Pass points= again"):
        resumed(folder, space=space, trials="+1")
    assert len(resumed(folder, space=space, points=[{"f": local}], trials="+1")) == 2


def test_one_constraint_comes_back_as_one_whether_alone_or_in_a_list(tmp_path: Path) -> None:
    folder = made(tmp_path, outcome_constraints="loss <= 3")
    for given in ({}, {"outcome_constraints": "loss <= 3"}, {"outcome_constraints": ["loss <= 3"]}):
        assert resumed(folder, **given).objective.texts == ("loss <= 3",)
    with pytest.raises(hp.StudyChangedError, match=r"outcome_constraints: \['loss <= 3'\] -> \['loss <= 4'\]"):
        resumed(folder, outcome_constraints="loss <= 4")

"""Whole numbers of numpy, which come out of arrays and tables, are taken wherever an int is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torchtune_hp as hp
from torchtune_hp.testing.toy_models import ToyModel


def test_a_study_takes_whole_numbers_of_numpy_wherever_it_takes_an_int(tmp_path: Path) -> None:
    class Counted(hp.Trainable):
        max_t = np.int64(4)

        def step(self) -> dict[str, float]:
            assert type(self.max_t) is int
            return {"loss": self.config["x"]}

    given = {"space": {"x": hp.uniform(0.0, 1.0)}, "metric": "loss", "mode": "min", "executor": hp.Serial(), "verbose": np.int64(0)}
    numbers = {"trials": np.int64(3), "keep": np.uint8(2), "seed": np.int32(7), "look_every": np.int64(2), "time_budget": np.int64(60)}
    tuner = hp.Tuner(Counted, storage=tmp_path, name="numbers", **given, **numbers)
    assert all(type(tuner._given[name]) is int for name in (*numbers, "verbose"))
    with tuner.fit() as results:
        assert len(results) == 3 and results.counts() == {"completed": 3} and results.header["seed"] == 7
    with hp.Tuner.resume(tmp_path / "numbers", Counted, trials=np.int64(5), seed=np.int64(7), verbose=0).fit() as results:
        assert len(results) == 5
    assert type(hp.Tuner(hp.trainable(**given, **numbers)(lambda config: None))._given["trials"]) is int
    for name in ("trials", "keep", "seed", "look_every"):
        for wrong in (np.True_, True, np.float64(3.0)):
            with pytest.raises(hp.ConfigurationError, match=f"{name}: "):
                hp.Tuner(Counted, **given, **numbers | {name: wrong})


def test_a_model_takes_whole_numbers_of_numpy_too() -> None:
    class Numbered(ToyModel):
        iteration = np.int64(2)  # type: ignore[assignment]

        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config)
            self.batch_size, self.accumulate, self.validate_every = np.int64(8), np.int64(1), np.int64(1)

    given = {"metric": "loss", "mode": "min", "storage": None, "verbose": 0, "executor": hp.Fused(np.int64(2), strategy="vmap")}
    space = {"lr": hp.loguniform(1e-3, 1e-1), "width": 4, "dropout": 0.1, "momentum": 0.9}
    results = hp.tune(Numbered, space, trials=2, searcher=hp.RandomSearch(), scheduler=hp.FullRuns(max_t=2), **given)
    assert results.counts() == {"completed": 2}
    assert hp.Data(train=(torch.zeros(4, 2),), batch_size=np.int64(2)).batch_size == 2


def test_ask_and_tell_and_a_grid_take_them_too() -> None:
    study = hp.AskTell({"x": hp.uniform(0.0, 1.0)}, metric="y", mode="min", trials=np.int64(1), seed=np.int64(3), scheduler=hp.FullRuns(3))
    trial = study.ask()
    assert trial is not None and study.ask() is None and study.tell(trial, 0.5, step=np.int64(1)) and study.steps(trial) == 1
    for wrong in (1.5, True, "2", np.True_):
        with pytest.raises(hp.ConfigurationError, match="tell: a step is a whole number, counted from 1, but trial 0 got "):
            study.tell(trial, 0.5, step=wrong)  # type: ignore[arg-type]
    grid = hp.GridSearch({"x": np.int64(3)})
    assert type(grid.points["x"]) is int and hp.GridSearch(np.int64(3)).points == 3  # type: ignore[index,call-overload]

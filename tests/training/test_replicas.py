"""Trials that are trained several times: the laws of Runner hold for them, each replica is what it would be alone, metrics are means."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.errors import CheckpointError, ConfigurationError, DivergedError, ReportError
from torchtune_hp.seeds import derive
from torchtune_hp.testing import toys
from torchtune_hp.testing.runner_suite import RunnerSuite
from torchtune_hp.testing.toy_models import ToyDivergingModel, ToyModel
from torchtune_hp.training.recipe import recipe_of
from torchtune_hp.training.replicas import Part, Replicas, merged, parts_of
from torchtune_hp.training.runner import Place
from torchtune_hp.trial import Trial

from .test_runners import BrokenStep, broken


class Cut(ToyModel):
    """As its base, without a validation set of its own."""

    @classmethod
    def data(cls) -> Any:
        given = super().data()
        return hp.Data(given.train.tree, test=given.test[""].tree, batch_size=16)


class Several(ToyModel):
    @classmethod
    def data(cls) -> Any:
        x, y = Cut.data().train.tree
        even, odd = (x[::2], y[::2]), (x, 1 - y)
        return {"even": hp.Data(even, val_fraction=0.25, batch_size=16), "odd": hp.Data(odd, val_fraction=0.25, batch_size=8)}


class Files(toys.Quadratic):
    def save_checkpoint(self, checkpoint_dir: Any) -> Any:
        Path(checkpoint_dir, "state.json").write_text(json.dumps(super().save_checkpoint(checkpoint_dir)))

    def load_checkpoint(self, checkpoint: Any) -> None:
        super().load_checkpoint(json.loads(Path(checkpoint, "state.json").read_text()))


class TestSeedsOfATrainable(RunnerSuite):
    def make(self) -> Any:
        return recipe_of(toys.Quadratic, 3)

    def broken(self) -> Any:
        return recipe_of(BrokenStep, 3), toys.ToyError


class TestSeedsInFolders(RunnerSuite):
    def make(self) -> Any:
        return recipe_of(Files, 2)


class TestSeedsOfAFunction(RunnerSuite):
    config = {"x": 0.25, "y": 0.5, "saves": True}

    def make(self) -> Any:
        return recipe_of(toys.quadratic, 2)

    def broken(self) -> Any:
        return recipe_of(broken, 2), toys.ToyError


class TestSeedsOfAModel(RunnerSuite):
    def make(self) -> Any:
        return recipe_of(ToyModel, 2)


class TestFoldsOfAModel(RunnerSuite):
    def make(self) -> Any:
        return recipe_of(Cut, 1, 3)


class TestSeveralDataSets(RunnerSuite):
    def make(self) -> Any:
        return recipe_of(Several)


X = torch.ones(4, 2)
PLACE = Place(metrics=("loss",))


def trial(config: Any = None, seed: int = 11, id: int = 7) -> Trial:
    return Trial(id, (), config or {}, seed)


# What a replica is -----------------------------------------------------------------------------------------------------------


def test_a_replica_is_trained_as_a_trial_of_its_own_seed_would_be() -> None:
    runner = recipe_of(ToyModel, 3).start(trial(), PLACE)
    alone = [recipe_of(ToyModel).start(trial(seed=derive(11, "replica", f"seed {k}")), PLACE) for k in range(3)]
    for _ in range(2):
        look, looks = runner.advance(), [one.advance() for one in alone]
        for name in ("loss", "accuracy", "train_loss"):
            each = [found.metrics[name] for found in looks]
            assert look.metrics[name] == pytest.approx(np.mean(each), rel=1e-15)
            assert look.metrics[f"{name}_std"] == pytest.approx(np.std(each), rel=1e-12, abs=1e-17)
    assert look.metrics["loss_std"] > 0


def test_a_fold_is_trained_on_the_others_and_judged_on_itself() -> None:
    """Each fold alone, with scikit-learn's own split."""
    model_selection = pytest.importorskip("sklearn.model_selection")
    x, y = Cut.data().train.tree
    study = 3
    runner = recipe_of(Cut, 1, 5).start(trial(), replace(PLACE, seed=study))
    looks = [runner.advance() for _ in range(2)]
    losses = []
    for k, (train, val) in enumerate(model_selection.StratifiedKFold(5, shuffle=True, random_state=study).split(x, y)):

        class Fold(ToyModel):
            @classmethod
            def data(cls, train: Any = train, val: Any = val) -> Any:
                return hp.Data((x[train], y[train]), val=(x[val], y[val]), batch_size=16)

        alone = recipe_of(Fold).start(trial(seed=derive(11, "replica", f"seed 0, fold {k}")), PLACE)
        losses.append([alone.advance().metrics["loss"] for _ in range(2)])
    assert [look.metrics["loss"] for look in looks] == pytest.approx(np.mean(losses, 0), rel=1e-12)
    assert [look.metrics["loss_std"] for look in looks] == pytest.approx(np.std(losses, 0), rel=1e-9)


def test_a_training_loop_by_hand_gives_the_numbers_of_a_fold() -> None:
    """Nothing of this library but the trial's seeds: ordinary torch on one of scikit-learn's folds."""
    model_selection = pytest.importorskip("sklearn.model_selection")
    x, y = Cut.data().train.tree
    runner = recipe_of(Cut, 1, 4).start(trial({"dropout": 0.0}), PLACE)
    runner.advance()
    folds = model_selection.StratifiedKFold(4, shuffle=True, random_state=0).split(x, y)
    for k, (train, val) in enumerate(folds):
        seed = derive(11, "replica", f"seed 0, fold {k}")
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(0.0), torch.nn.Linear(8, 2))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "setup"))
            for layer in (model[0], model[3]):
                layer.reset_parameters()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        order = torch.randperm(96, generator=torch.Generator().manual_seed(derive(seed, "order", 0)))
        for index in order.split(16):
            optimizer.zero_grad()
            F.cross_entropy(model(x[train][index]), y[train][index]).backward()
            optimizer.step()
        member = runner.members[k].member.model.eval()
        assert torch.allclose(member(x[val]), model.eval()(x[val]), atol=1e-6)


def test_seeds_and_folds_are_crossed_and_each_seed_has_its_own_cut() -> None:
    assert [str(part) for part in parts_of(2, 2)] == ["seed 0, fold 0", "seed 0, fold 1", "seed 1, fold 0", "seed 1, fold 1"]
    runner = recipe_of(Cut, 2, 4).start(trial(), PLACE)
    held = [set(member.data.val[""].places.tolist()) for member in runner.members]
    assert len(held) == 8 and set.union(*held[:4]) == set.union(*held[4:]) == set(range(128)) and held[:4] != held[4:]
    assert len({member.base for member in runner.members}) == 8


def test_of_several_data_sets_each_has_its_own_metrics_too() -> None:
    runner = recipe_of(Several).start(trial(), PLACE)
    look = runner.advance()
    each = [look.metrics[f"{name}/loss"] for name in ("even", "odd")]
    assert look.metrics["loss"] == pytest.approx(np.mean(each)) and look.metrics["loss_std"] == pytest.approx(abs(each[0] - each[1]) / 2)
    assert [str(part) for part in runner.parts] == ["seed 0, data 'even'", "seed 0, data 'odd'"]


def test_the_first_trial_says_how_its_data_is_cut() -> None:
    def said(cls: Any, id: int = 0) -> Any:
        return recipe_of(cls, 1, 4).start(trial(id=id), PLACE).advance().notes

    class Fraction(ToyModel):
        @classmethod
        def data(cls) -> Any:
            x, y = Cut.data().train.tree
            return hp.Data((x, y), val_fraction=0.2, batch_size=16)

    assert said(Cut) == ("Cut: 4 folds, stratified by 2 classes.",) and said(Cut, id=1) == ()
    assert said(Fraction) == ("Fraction: 4 folds, stratified by 2 classes; in the place of val_fraction=0.2.",)


def test_one_seed_and_no_folds_is_a_trial_as_ever() -> None:
    assert not isinstance(recipe_of(ToyModel).start(trial(), PLACE), Replicas)


# Metrics ---------------------------------------------------------------------------------------------------------------------


def test_metrics_are_means_with_their_standard_deviation() -> None:
    one, other = {"a": 1.0, "b": 2, "word": "x", "odd": None}, {"a": 4.0, "b": 2, "word": "x", "odd": "y", "more": 1.0}
    found, left_out = merged([one, other], ("", ""))
    assert found == {"a": 2.5, "b": 2.0, "word": "x", "a_std": pytest.approx(1.5), "b_std": 0.0} and sorted(left_out) == ["more", "odd"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_in_one_replica_is_not_finite_in_the_mean(bad: float) -> None:
    found, _ = merged([{"a": 1.0}, {"a": bad}], ("", ""))
    assert (math.isnan(found["a"]) if math.isnan(bad) else found["a"] == bad) and math.isnan(found["a_std"])


def test_equal_values_are_their_own_mean() -> None:
    for value in (0.1, 1e300, 3e-320, 0.3):
        assert merged([{"a": value}] * 7, ("",) * 7)[0] == {"a": value, "a_std": 0.0}


def test_a_metric_that_is_called_as_the_spread_of_another_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'a_std': replicas report it themselves, but it is what their mean or spread is called"):
        merged([{"a": 1.0, "a_std": 0.0}, {"a": 1.0, "a_std": 0.0}], ("", ""))


def test_the_log_says_why_a_metric_was_dropped_and_where_one_is_nan() -> None:
    def function(config: Any) -> None:
        first = hp.context().seed == derive(11, "replica", "seed 0")
        hp.report({"loss": 1.0 if first else math.nan, "word": str(first)} | ({} if first else {"more": 1.0}))

    notes = recipe_of(function, 2).start(trial(), PLACE).advance().notes
    assert notes == (
        "Trial 7: the metric 'more' was dropped: not reported by the replica with seed 0.",
        "Trial 7: the metric 'word' was dropped: replicas differ in it, and it is no number.",
        "Trial 7: loss is nan at step 1 in the replica with seed 1.",
    )


def test_without_a_validation_set_the_error_says_where_to_get_one() -> None:
    with pytest.raises(ReportError, match=r"must be in every report, but training, without a validation set \(val= or val_fraction="):
        recipe_of(Cut, 2).start(trial(), PLACE).advance()


def test_a_study_may_need_the_spread() -> None:
    place = Place(metrics=("loss", "loss_std"))
    assert recipe_of(ToyModel, 2).start(trial(), place).advance().metrics["loss_std"] > 0
    with pytest.raises(ReportError, match="los_std"):
        recipe_of(ToyModel, 2).start(trial(), Place(metrics=("loss", "los_std"))).advance()


def test_replicas_that_end_at_different_steps_end_with_the_last_one() -> None:
    def function(config: Any) -> None:
        for step in range(2 if hp.context().seed == derive(11, "replica", "seed 0") else 4):
            hp.report(loss=float(step))

    runner = recipe_of(function, 2).start(trial(), PLACE)
    looks = [runner.advance()]
    while not looks[-1].done:
        looks.append(runner.advance())
    assert [(look.step, look.metrics["loss"]) for look in looks] == [(1, 0.0), (2, 1.0), (3, 1.5), (4, 2.0), (4, 2.0)]


def test_a_replica_that_had_ended_when_it_was_saved_takes_no_further_step() -> None:
    class Ends(toys.Quadratic):
        def step(self) -> Any:
            first = hp.context().seed == derive(11, "replica", "seed 0")
            return {"loss": float(self.iteration), "done": first and self.iteration == 1}

    config = {"x": 0.25, "y": 0.5}
    whole, cut = (recipe_of(Ends, 2).start(trial(config), PLACE) for _ in range(2))
    looks = [whole.advance() for _ in range(5)]
    for _ in range(3):
        cut.advance()
    again = recipe_of(Ends, 2).start(trial(config), PLACE, cut.save(), 3)
    assert [again.advance() for _ in range(2)] == looks[3:] and [look.step for look in looks] == [1, 2, 3, 4, 5]
    assert [look.metrics["loss"] for look in looks] == [0.0, 1.0, 1.5, 2.0, 2.5]


# Failing, saving -------------------------------------------------------------------------------------------------------------


def test_an_error_says_which_replica_raised_it() -> None:
    def function(config: Any) -> None:
        hp.report(loss=1.0)
        if hp.context().seed == derive(11, "replica", "seed 1"):
            raise ValueError("no")
        hp.report(loss=1.0)

    runner = recipe_of(function, 3).start(trial(), PLACE)
    runner.advance()
    with pytest.raises(ValueError, match="no") as caught:
        runner.advance()
    assert caught.value.__notes__ == ["It is the replica with seed 1."]
    diverging = recipe_of(ToyDivergingModel, 2).start(trial({"at": 1}), PLACE)
    with pytest.raises(DivergedError) as diverged:
        diverging.advance()
    assert diverged.value.__notes__ == ["It is the replica with seed 0."]


def test_when_one_cannot_begin_those_that_had_begun_are_closed() -> None:
    closed = []

    class Half(toys.Quadratic):
        def setup(self, config: Any) -> None:
            super().setup(config)
            if hp.context().seed == derive(11, "replica", "seed 2"):
                raise ValueError("no third")

        def cleanup(self) -> None:
            closed.append(hp.context().seed)

    with pytest.raises(ValueError, match="no third"):
        recipe_of(Half, 4).start(trial({"x": 0.25, "y": 0.5}), PLACE)
    assert closed == [derive(11, "replica", f"seed {k}") for k in range(2)]


def test_a_checkpoint_of_other_replicas_is_refused(tmp_path: Path) -> None:
    two, three, one = recipe_of(ToyModel, 2), recipe_of(ToyModel, 3), recipe_of(ToyModel)
    runner = two.start(trial(), PLACE)
    runner.advance()
    state = runner.save()
    with pytest.raises(CheckpointError, match="Trial 7 has 3 replicas, but its checkpoint is of 2"):
        three.start(trial(), PLACE, state, 1)
    single = one.start(trial(), PLACE)
    single.advance()
    with pytest.raises(CheckpointError, match="is not of replicas: the trial was trained once"):
        two.start(trial(), PLACE, single.save(), 1)
    with pytest.raises(CheckpointError, match="is not of replicas: the trial was trained once"):
        two.start(trial(), PLACE, tmp_path, 1)


def test_each_replica_has_a_folder_of_its_own(tmp_path: Path) -> None:
    seen = []

    class Folders(toys.Quadratic):
        def setup(self, config: Any) -> None:
            super().setup(config)
            seen.append(hp.context().dir)

    recipe_of(Folders, 2).start(trial({"x": 0.25, "y": 0.5}), Place(folder=tmp_path, metrics=("loss",)))
    assert seen == [tmp_path / "replica-0", tmp_path / "replica-1"]


def test_weights_are_restored_and_tested_replica_by_replica() -> None:
    recipe = recipe_of(Cut, 1, 3)
    runner = recipe.start(trial(), PLACE)
    runner.advance()
    state = runner.save()
    models = recipe.restore(trial(), PLACE, state, 1)
    for model, member in zip(models, runner.members):
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), member.member.model.state_dict().values()))
    each = [member.test() for member in runner.members]
    tested = recipe.test(trial(), PLACE, state, 1)
    assert tested["loss"] == pytest.approx(np.mean([one["loss"] for one in each])) and tested["loss_std"] > 0
    assert recipe.evaluate(trial(), PLACE, state, 1)["loss"] == runner.evaluate()["loss"]


# What cannot be --------------------------------------------------------------------------------------------------------------


def test_folds_need_data_that_can_be_cut() -> None:
    class Loader(ToyModel):
        @classmethod
        def data(cls) -> Any:
            pairs = torch.utils.data.TensorDataset(*Cut.data().train.tree)
            return hp.Data(torch.utils.data.DataLoader(pairs, batch_size=8), order="shared")

    with pytest.raises(ConfigurationError, match="folds: cut from what data\\(\\) of an hp.ModelTrainable gives, but quadratic has none"):
        recipe_of(toys.quadratic, 1, 3)
    with pytest.raises(ConfigurationError, match="ToyModel.data gives a validation set of its own. Leave out val, or call it test"):
        recipe_of(ToyModel, 1, 3).start(trial(), PLACE)
    with pytest.raises(ConfigurationError, match="Loader.data gives a DataLoader to train on, which cannot be cut"):
        recipe_of(Loader, 1, 3).start(trial(), PLACE)


@pytest.mark.parametrize(
    ("given", "words"),
    [(3, "must return an hp.Data, or a dict of several by name, but it returned int"), ({}, "but it returned dict"),
     ({"a": 3}, "returned int"), ({1: hp.Data((X, X))}, "each of several data sets needs a name, but got \\[1\\]")],
)  # fmt: skip
def test_data_that_is_none_is_refused(given: Any, words: str) -> None:
    class Wrong(ToyModel):
        @classmethod
        def data(cls) -> Any:
            return given

    with pytest.raises(ConfigurationError, match=words):
        recipe_of(Wrong).start(trial(), PLACE)


def test_a_part_is_said_in_words() -> None:
    assert str(Part(2, 1, "mnist")) == "seed 2, fold 1, data 'mnist'"

"""Seeds and folds in whole studies: every executor gives the same numbers, and the decision core sees one trial in one slot."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import torchtune_hp as hp
from tests.training.test_replicas import Cut, Several
from torchtune_hp.errors import ConfigurationError, StudyChangedError
from torchtune_hp.testing import toys
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.trial import Note

SPACE = {"lr": hp.loguniform(1e-3, 0.1), "dropout": hp.uniform(0.0, 0.6), "width": hp.choice([4, 8])}


def study(executor: Any, trainable: Any = Cut, storage: Any = None, **more: Any) -> hp.Results:
    options: dict[str, Any] = {"trials": 9, "searcher": hp.RandomSearch(), "seed": 3, "verbose": 0, "folds": 3, **more}
    scheduler = options.pop("scheduler", None) or hp.ASHA(max_t=4, reduction_factor=2)
    return hp.tune(trainable, SPACE, metric="loss", mode="min", executor=executor, scheduler=scheduler, storage=storage, **options)


def looks(results: hp.Results) -> list[tuple[Any, ...]]:
    rows = results.journal.rows("SELECT trial, step, metrics FROM report ORDER BY trial, step")
    return [tuple(row) for row in rows]


def curves(results: hp.Results, name: str = "loss") -> dict[int, list[float]]:
    return {trial: [row[name] for row in frame] for trial, frame in _frames(results).items()}


def _frames(results: hp.Results) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for events, _, _ in results.journal.turns():
        for event in events:
            if hasattr(event, "metrics"):
                found.setdefault(event.trial, []).append(dict(event.metrics))
    return found


def same(one: hp.Results, other: hp.Results) -> None:
    for name in ("loss", "loss_std", "train_loss"):
        ours, theirs = curves(one, name), curves(other, name)
        assert ours.keys() == theirs.keys()
        for trial in ours:
            assert ours[trial] == pytest.approx(theirs[trial], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("more", [{"folds": 3}, {"folds": None, "seeds": 2}, {"folds": 2, "seeds": 2}], ids=str)
def test_a_stack_gives_what_one_after_another_gives(more: Any) -> None:
    trainable = ToyModel if more["folds"] is None else Cut
    alone, stacked = study(hp.Serial(4), trainable, **more), study(hp.Fused(4, strategy="vmap"), trainable, **more)
    same(alone, stacked)
    assert len(alone) == 9 and all(result.metrics["loss_std"] > 0 for result in stacked)


def test_several_data_sets_are_trained_at_once() -> None:
    alone, stacked = study(hp.Serial(4), Several, folds=None), study(hp.Fused(4, strategy="vmap"), Several, folds=None)
    same(alone, stacked)
    assert {"even/loss", "odd/loss"} <= set(stacked.best.metrics)


def test_folds_of_one_size_share_a_stack_and_are_called_replicas() -> None:
    """128 samples in 3 folds are 43, 43 and 42: two stacks, and no third."""
    results = study(hp.Fused(9, strategy="vmap"), scheduler=hp.FullRuns(1))
    assert results.stacks[0] == "Cut: stack 1 begins with 18 replicas."
    assert results.stacks[-1] == "13.5 replicas per stack (last 27 in 2)"
    assert [note.text for note in results.log if note.kind == "report"] == ["Cut: 3 folds, stratified by 2 classes."]


def test_data_sets_of_the_same_tensor_are_not_taken_for_one() -> None:
    q = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))

    class Twice(Cut):
        @classmethod
        def data(cls) -> Any:
            return {"a": hp.Data(q, batch_size=3, drop_last=False), "b": hp.Data(q, batch_size=4, drop_last=False)}

        def training_step(self, model: Any, batch: Any) -> Any:
            return model(batch).square().mean()

        def validation_step(self, model: Any, batch: Any) -> Any:
            return {"loss": model(batch).abs().max()}

    one, other = study(hp.Serial(4), Twice, folds=2), study(hp.Fused(4, strategy="vmap"), Twice, folds=2)
    same(one, other)
    for trial, losses in curves(one, "b/loss").items():
        assert losses == pytest.approx(curves(other, "b/loss")[trial], rel=1e-5)


def test_an_order_that_is_shared_is_each_fold_s_own() -> None:
    class Shared(ToyModel):
        @classmethod
        def data(cls) -> Any:
            return hp.Data(Cut.data().train.tree, batch_size=16, order="shared")

    same(study(hp.Serial(4), Shared, folds=4), study(hp.Fused(4, strategy="vmap"), Shared, folds=4))


def test_capacity_counts_trials() -> None:
    results = study(hp.Fused(2, strategy="vmap"), seeds=2, scheduler=hp.FullRuns(2))
    assert results.header["capacity"] == 2 and results.header["seeds"] == 2 and results.header["folds"] == 3
    first = next(iter(results.journal.turns()))
    assert len(first[2]) == 2


@pytest.mark.parametrize("executor", [lambda: hp.Serial(2), lambda: hp.Fused(2, strategy="vmap"), lambda: hp.Fused(2, strategy="loop")])
def test_a_replica_that_diverges_is_a_trial_that_diverges(executor: Any) -> None:
    class Odd(ToyModel):
        def setup(self, config: Any) -> None:
            super().setup(config)
            with torch.no_grad():
                self.model[0].weight *= float("nan") if self.trial_id == 1 and hp.context().seed % 3 == 0 else 1.0

    results = study(executor(), Odd, folds=None, seeds=7, trials=4, scheduler=hp.FullRuns(2))
    assert [(error.trial, error.kind) for error in results.errors] == [(1, "diverged")]
    assert "It is the replica with seed" in results.errors[0].traceback and results.counts()["completed"] == 3


def test_the_best_is_loaded_tested_and_averaged(tmp_path: Path) -> None:
    results = study(hp.Fused(4, strategy="vmap"), storage=tmp_path)
    models = results.best.load()
    assert len(models) == 3
    whole = Cut.data()
    losses = []
    for model, held in zip(models, (part for part in _held(results))):
        x, y = (leaf[held] for leaf in whole.train.tree)
        with torch.no_grad():
            losses.append(float(torch.nn.functional.cross_entropy(model(x), y)))
    assert sum(losses) / 3 == pytest.approx(results.best.metrics["loss"], rel=1e-5)
    tested = results.best.test()
    assert tested["loss_std"] > 0 and 0 <= tested["accuracy"] <= 1
    opened = hp.Results.open(results.path, trainable=Cut)
    assert opened.best.test() == tested


def _held(results: hp.Results) -> list[Any]:
    from torchtune_hp.training.made import made_of

    made = made_of(Cut, {}, torch.device("cpu"))
    return [part.val[""].places for part in made.folds("", 3, results.header["seed"])]  # type: ignore[union-attr]


def test_a_study_that_is_interrupted_resumes_to_the_result_it_would_have_had(tmp_path: Path) -> None:
    class Interrupting(Cut):
        def on_iteration_end(self, metrics: dict[str, float]) -> None:
            if armed and self.trial_id == 4:
                armed.pop()
                os.kill(os.getpid(), signal.SIGINT)

    armed = [True]
    whole = study(hp.Fused(4, strategy="vmap"), storage=None)
    with pytest.raises(hp.StudyInterrupted):
        study(hp.Fused(4, strategy="vmap"), Interrupting, tmp_path, name="cut", checkpoint_every=0)
    results = hp.Tuner.resume(tmp_path / "cut", Interrupting, verbose=0).fit()
    same(whole, results)
    assert results.best.trial == whole.best.trial


def test_seeds_and_folds_are_fixed_for_a_study_s_life(tmp_path: Path) -> None:
    study(hp.Serial(2), storage=tmp_path, name="cut", trials=2)
    assert len(hp.Tuner.resume(tmp_path / "cut", Cut, trials=3, verbose=0).fit().best.load()) == 3
    with pytest.raises(StudyChangedError, match="folds: 3 -> 4"):
        hp.Tuner.resume(tmp_path / "cut", Cut, folds=4)
    with pytest.raises(StudyChangedError, match="seeds: 1 -> 2"):
        hp.Tuner.resume(tmp_path / "cut", Cut, seeds=2)


def test_worker_processes_train_replicas_too() -> None:
    """Some seconds: two real workers are started."""
    same(study(hp.Serial(2), trials=3, scheduler=hp.FullRuns(2)), study(hp.Processes(2, ordered=True), trials=3, scheduler=hp.FullRuns(2)))


def test_functions_and_trainables_have_seeds() -> None:
    space = {"x": hp.uniform(0, 1), "y": hp.uniform(0, 1)}
    for trainable in (toys.Quadratic, toys.quadratic):
        results = hp.tune(trainable, space, metric="loss", mode="min", trials=5, seeds=3, executor=hp.Serial(2), storage=None, verbose=0,
                          scheduler=hp.ASHA(max_t=4, reduction_factor=2), searcher=hp.RandomSearch())  # fmt: skip
        assert results.best.metrics["loss_std"] == 0.0 and results.best.metrics["draw_std"] > 0


def test_slots_are_measured_in_trials() -> None:
    results = study(hp.Fused("auto"), trials=12, folds=4, scheduler=hp.FullRuns(1))
    said = next(note for note in results.log if note.kind == "slots")
    assert isinstance(said, Note) and " members, and a trial has 4; " in said.text
    members = int(said.text.split(": ")[1].split()[0])
    assert results.header["capacity"] == -(-members // 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seeds": 0}, "seeds: how many\\? `seeds >= 1` must hold for an int, but got 0"),
        ({"seeds": True}, "seeds: how many\\? `seeds >= 1` must hold for an int, but got True"),
        ({"folds": 1}, "folds: `folds >= 2` must hold for an int, but got 1. Leave it out for none"),
        ({"folds": 2.5}, "folds: `folds >= 2` must hold for an int, but got 2.5"),
        ({"folds": 3, "trainable": toys.quadratic}, "folds: cut from what data\\(\\) of an hp.ModelTrainable gives, but quadratic has"),
        ({"seeds": 2, "executor": hp.Simulated(2, curve=lambda config, step: {"loss": 1.0})}, "seeds, folds: a curve is no training"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(arguments: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"trainable": ToyModel, "executor": hp.Serial(), "trials": 3, "scheduler": hp.FullRuns(2), **arguments}
    with pytest.raises(ConfigurationError, match=words):
        hp.Tuner(given.pop("trainable"), SPACE, metric="loss", mode="min", **given)

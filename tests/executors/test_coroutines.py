"""Train functions and Trainables that call hp.Trainer, in Fused: what each would do alone, and as few stacks as can be."""

from __future__ import annotations

import contextvars
import gc
import os
import random
import signal
import sys
import threading
import types
import unittest.mock
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchtune_hp as hp
from tests.training.trainer_parts import built, loss_fn, metrics, points, trainer
from torchtune_hp.errors import DivergedError
from torchtune_hp.executors import Fused, Processes
from torchtune_hp.executors.coroutines import CoroutineTrials
from torchtune_hp.plan import _executor_for
from torchtune_hp.population.engine import Engine
from torchtune_hp.training.recipe import recipe_of
from torchtune_hp.training.sighting import makes_trainer

SPACE = {"lr": hp.loguniform(1e-3, 0.1), "dropout": hp.uniform(0.0, 0.6), "n": hp.randint(1, 4), "momentum": hp.uniform(0.0, 0.9)}


def study(trainable: Any, executor: Any, storage: Any = None, **more: Any) -> hp.Results:
    options: dict[str, Any] = {"trials": 10, "searcher": hp.RandomSearch(), "seed": 3, "verbose": 0, **more}
    scheduler = options.pop("scheduler", None) or hp.ASHA(max_t=4, reduction_factor=2)
    return hp.tune(trainable, SPACE, metric="loss", mode="min", executor=executor, scheduler=scheduler, storage=storage, **options)


def curves(results: hp.Results) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in results.journal.rows("SELECT trial, step, metrics FROM report ORDER BY trial, step"):
        found.setdefault(row[0], []).append(row[2])
    return found


def told(results: hp.Results) -> dict[int, Any]:
    names = ("config", "time_total_s", "trial_id")
    return {one.trial: ({k: v for k, v in one.metrics.items() if k not in names}, one.state, one.config) for one in results}


def same(trainable: Any, **more: Any) -> hp.Results:
    """In a stack as one by one."""
    alone, fused = study(trainable, hp.Serial(5), **more), study(trainable, hp.Fused(5, strategy="vmap"), **more)
    ours, theirs = told(fused), told(alone)
    assert ours.keys() == theirs.keys()
    for trial in ours:
        assert ours[trial][1:] == theirs[trial][1:]
        assert ours[trial][0] == pytest.approx(theirs[trial][0], rel=1e-4, abs=1e-6)
    return fused


def plain(config: Any) -> None:
    made = trainer(config)
    for _ in range(4):
        trained = made.train()
        hp.report(made.evaluate() | trained)


def calls_of_each_its_own(config: Any) -> Any:
    made = trainer(config)
    for epoch in range(4):
        for _ in range(config["n"]):
            made.train(updates=3)
        if config["n"] == 1:
            made.train()
        hp.report(made.evaluate())
        if config["n"] == 3 and epoch == 1:
            return


def yielding(config: Any) -> Any:
    made = trainer(config)
    for _ in range(4):
        made.train(epochs=config["n"])
        yield made.evaluate()


def by_hand(config: Any) -> None:
    """Changes rates and weights, looks at the model, and draws, between calls."""
    made = trainer(config)
    model, optimizer = made.model, made.optimizer
    average = [parameter.detach().clone() for parameter in model.parameters()]
    for epoch in range(4):
        made.train()
        noise = torch.randn(()) + random.random() + np.random.rand()
        for mean, parameter in zip(average, model.parameters()):
            mean.lerp_(parameter.detach(), 0.5)
        optimizer.param_groups[0]["lr"] *= 0.5
        if epoch == 1 and config["n"] > 1:
            with torch.no_grad():
                for mean, parameter in zip(average, model.parameters()):
                    parameter.copy_(mean)
        if epoch == 2:
            model[2].p = 0.3
            model[0].requires_grad_(config["n"] == 1)
        state = sum(float(value["momentum_buffer"].sum()) for value in optimizer.state.values())
        hp.report(made.evaluate(), noise=float(noise), momentum_sum=state, kept=float(model(torch.ones(3, 4)).sum()))


def two(config: Any) -> None:
    """A model is trained on the other's."""
    teacher, student = trainer({}), None
    teacher.train(2)
    for _ in range(3):
        if student is None:
            student = trainer(config)
        student.train()
        teacher.train(updates=2)
        hp.report(student.evaluate(), teacher=teacher.evaluate()["loss"])


class Stepping(hp.Trainable):
    max_t = 4

    def setup(self, config: Any) -> None:
        self.trainer = trainer(config)

    def step(self) -> Any:
        return self.trainer.train() | self.trainer.evaluate()

    def save_checkpoint(self, checkpoint_dir: Any) -> Any:
        return self.trainer.state_dict()

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.trainer.load_state_dict(checkpoint)


@pytest.mark.parametrize("trainable", [plain, calls_of_each_its_own, yielding, by_hand, two, Stepping])
def test_together_each_is_what_it_is_alone(trainable: Any) -> None:
    results = same(trainable)
    assert not results.errors and len(results) == 10
    assert any("stack 1 begins with 5 trials." in text for text in results.stacks)


def test_the_same_again_is_the_same_in_every_bit() -> None:
    assert told(study(plain, hp.Fused(5, strategy="vmap"))) == told(study(plain, hp.Fused(5, strategy="vmap")))


@pytest.mark.parametrize("more", [{"seeds": 2}, {"scheduler": hp.Hyperband(max_t=4, reduction_factor=2)}], ids=["seeds", "hyperband"])
def test_with_seeds_and_other_schedulers(more: Any) -> None:
    same(plain, **more)


def lossy(config: Any) -> None:
    def own(model: nn.Module, batch: Any, hparams: Any) -> Any:
        loss = loss_fn(model, batch)
        return loss * (1 + hparams["lr"]), {"plain": loss}

    made = trainer(config, loss_fn=own, data=lambda: points(), max_grad_norm=config["lr"] * 20)
    for _ in range(4):
        trained = made.train()
        hp.report(made.evaluate(), plain=trained["train_plain"])


def test_functions_that_stand_in_the_train_function_share_a_stack() -> None:
    assert same(lossy).stacks[0] == "lossy: stack 1 begins with 5 trials."


def closing(config: Any) -> None:
    rate = config["lr"]

    def own(model: nn.Module, batch: Any) -> Any:
        return loss_fn(model, batch) * (1 + rate)

    made = trainer(config, loss_fn=own)
    for _ in range(4):
        made.train()
        hp.report(made.evaluate())


def test_who_closes_over_what_differs_is_trained_by_itself_and_told_the_way_out() -> None:
    results = same(closing)
    assert results.stacks[0] == (
        "closing: the hooks read loss_fn, which differs between trials: one stack for each value. A number read as hparams[...], a third "
        "argument of the function, would not split them."
    )


def test_data_that_each_makes_for_itself_is_named_as_what_splits() -> None:
    def train(config: Any) -> None:
        made = trainer(config, data=points())
        made.train()
        hp.report(made.evaluate())

    said = "for too few of them are alike: each has data of its own. Make it once, in ModelTrainable.data() or a function that hp.Trainer"
    assert said in same(train).stacks[0]


def failing(config: Any) -> None:
    made = trainer(config, loss_fn=lambda model, batch, hparams: loss_fn(model, batch) * torch.where(hparams["n"] == 1, torch.nan, 1.0))
    for epoch in range(4):
        try:
            made.train()
        except DivergedError:
            if config["lr"] > 0.01:
                raise
            hp.report(loss=9.0)
            return
        if config["n"] == 2 and epoch == 1:
            raise ValueError("mine")
        hp.report(made.evaluate())


def test_what_fails_fails_alone_and_may_be_caught() -> None:
    results = same(failing)
    kinds = {error.trial: error.kind for error in results.errors}
    assert set(kinds.values()) == {"diverged", "error"}
    for one in results:
        if one.config["n"] == 1:
            assert (kinds.get(one.trial) == "diverged") == (one.config["lr"] > 0.01)


@pytest.mark.parametrize("checkpoints", [True, False])
def test_an_interrupted_study_goes_on_to_the_same_results(tmp_path: Path, checkpoints: bool) -> None:
    stop = tmp_path / "stop"

    def train(config: Any) -> None:
        made = trainer(config)
        state = hp.get_checkpoint()
        first = 0
        if isinstance(state, dict):
            made.load_state_dict(state["trainer"])
            first = state["epoch"]
        for epoch in range(first, 4):
            made.train()
            if epoch == 2 and stop.exists():
                stop.unlink()
                os.kill(os.getpid(), signal.SIGINT)
            hp.report(made.evaluate(), checkpoint={"trainer": made.state_dict(), "epoch": epoch + 1} if checkpoints else None)

    whole = study(train, hp.Fused(5, strategy="vmap"), tmp_path / "whole", name="s")
    stop.touch()
    with pytest.raises(hp.StudyInterrupted):
        study(train, hp.Fused(5, strategy="vmap"), tmp_path / "broken", name="s")
    resumed = hp.Tuner.resume(tmp_path / "broken" / "s", train, executor=hp.Fused(5, strategy="vmap"), verbose=0).fit()
    assert told(resumed).keys() == told(whole).keys()
    for trial, (found, *rest) in told(resumed).items():
        assert found == pytest.approx(told(whole)[trial][0], rel=1e-5) and rest == list(told(whole)[trial][1:])


def test_who_stands_in_a_call_when_a_study_is_stopped_runs_its_cleanup(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def train(config: Any) -> None:
        made = trainer(config)
        try:
            made.train()
        except hp.TrialStopped as stop:
            said.append(str(stop))
            raise
        finally:
            said.append("cleaned")

    def stopped(self: Engine, runners: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "advance", stopped)
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    with pytest.raises((KeyboardInterrupt, hp.StudyInterrupted)):
        study(train, hp.Fused(3, strategy="vmap"))
    assert said == ["The trial was ended by its study.", "cleaned"] * 3
    after = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1]  # type: ignore[index]
    assert torch.equal(before[0], after[0]) and before[1] == after[1] and (before[2] == after[2]).all()


def test_what_data_and_hooks_do_to_a_model_between_calls_counts() -> None:
    def train(config: Any) -> None:
        made = trainer(config)
        for epoch in range(4):
            made.train()
            for parameter in made.model.parameters():
                parameter.data.clamp_(-0.1, 0.1)
            if epoch == 1:
                made.model[0].weight.register_hook(lambda gradient: gradient * 0.5)
            kept = float(made.model(torch.ones(64, 4)).sum())       # in training mode, dropout and all
            made.model(torch.ones(3, 4)).sum().backward()
            norm = float(made.model[0].weight.grad.norm())
            hp.report(made.evaluate(), kept=kept, norm=norm, training=float(made.model.training))

    assert not same(train).errors


def test_what_no_row_holds_is_trained_one_by_one() -> None:
    def train(config: Any) -> None:
        made = trainer(config)
        for epoch in range(4):
            made.train()
            if epoch == 1 and config["n"] == 1:
                made.optimizer.state.pop(made.model[0].weight)
            hp.report(made.evaluate())

    results = same(train, scheduler=hp.FullRuns(max_t=4))
    assert not results.errors and any("must have made the same steps" in text for text in results.stacks)


def test_a_thread_of_the_function_s_own_may_train_too() -> None:
    def train(config: Any) -> None:
        made = trainer(config)
        for epoch in range(4):
            if epoch == 1:
                thread = threading.Thread(target=contextvars.copy_context().run, args=(made.train,))
                thread.start(), thread.join()
            made.train()
            hp.report(made.evaluate())

    assert not same(train).errors


def test_several_trainers_of_one_model_and_what_was_dropped_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []

    def train(config: Any) -> None:
        model, optimizer = built(config)
        hp.Trainer(model, optimizer, loss_fn, points).train(updates=4)
        made = hp.Trainer(model, torch.optim.SGD(model.parameters(), lr=config["lr"]), loss_fn, points, metrics)
        for _ in range(4):
            other = trainer(config)
            other.train()
            alive.append(weakref.ref(other.model))
            made.train()
            hp.report(made.evaluate())

    assert not same(train).errors
    gc.collect()
    assert not any(each() for each in alive)


def test_one_trial_s_trainer_is_no_other_s() -> None:
    held: list[hp.Trainer] = []

    def train(config: Any) -> None:
        if not held:
            held.append(trainer(config))
        for _ in range(4):
            held[0].train()
            hp.report(held[0].evaluate())

    for executor in (hp.Serial(5), hp.Fused(5, strategy="vmap")):
        held.clear()
        results = study(train, executor)
        assert len(results.errors) == 9
        assert "Trainer.train: it was made in trial 0, but is called in trial" in results.errors[0].line


def test_who_stands_in_a_call_has_the_thread_s_modes_to_itself() -> None:
    def train(config: Any) -> None:
        made = trainer(config)
        for _ in range(4):
            with torch.no_grad() if config["n"] == 1 else torch.enable_grad():
                grad = torch.is_grad_enabled()
                with torch.enable_grad():
                    made.train()
                assert torch.is_grad_enabled() == grad
            assert torch.is_grad_enabled()
            hp.report(made.evaluate())

    assert not same(train).errors


def test_auto_is_fused_where_a_trainer_is_in_sight() -> None:
    def helper(config: Any) -> Any:
        return trainer(config)

    def through(config: Any) -> None:
        made = helper(config)
        hp.report(made.evaluate())

    def without(config: Any) -> None:
        hp.report(loss=float(F.relu(torch.ones(())).sum()) + len(built(config)))

    class Other(Stepping):
        pass

    def odd(config: Any) -> None:
        return sys.modules[__name__].ODD.numbers or unittest.mock.call.anything(ODD) or trainer(config)  # type: ignore[return-value]

    def inside(config: Any) -> None:
        from torchtune_hp import Trainer

        Trainer(*built(config), loss_fn, points)

    class Mine(hp.Trainer):
        pass

    def derived(config: Any, kind: Any = Mine) -> None:
        kind(*built(config), loss_fn, points)

    bound = hp.with_parameters(lambda config, a: plain(config), a=1)
    for trainable in (plain, through, odd, inside, derived, Stepping, Other, hp.trainable(through), bound):
        assert makes_trainer(recipe_of(trainable)), trainable
        assert isinstance(_executor_for(recipe_of(trainable)), Fused)
    assert makes_trainer(recipe_of(plain, seeds=2))
    for trainable in (without, Plain):
        assert isinstance(_executor_for(recipe_of(trainable)), Processes)


ODD = types.SimpleNamespace(numbers=np.arange(3), call=unittest.mock.MagicMock(), trainer=np.arange(3))


class Plain(hp.Trainable):
    max_t = 4

    def step(self) -> Any:
        return {"loss": 1.0}


def test_processes_train_it_too() -> None:
    alone, workers = study(plain, hp.Serial(2)), study(plain, hp.Processes(2, ordered=True))
    for (mine, *_), (theirs, *_) in zip(told(alone).values(), told(workers).values(), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_slots_of_functions_are_not_measured_and_that_is_said() -> None:
    results = study(plain, hp.Fused(strategy="vmap"), trials=2, scheduler=hp.FullRuns(max_t=1))
    said = [note.text for note in results.log if note.kind == "slots"]
    assert len(said) == 1 and said[0].startswith("32: as ever on a cpu")


def test_nothing_of_a_trial_is_held_when_it_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CoroutineTrials] = []
    begun: Callable[..., None] = CoroutineTrials.__init__

    def noted(self: CoroutineTrials, *args: Any) -> None:
        begun(self, *args)
        seen.append(self)

    monkeypatch.setattr(CoroutineTrials, "__init__", noted)
    study(plain, hp.Fused(5, strategy="vmap"))
    (trials,) = seen
    assert not trials._members and not trials.engine._residents._here and not trials.engine._sorting._kinds

"""What is saved, and that a trial goes on from it as if nothing had happened; forks, whose config differs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from torchtune_hp.errors import CheckpointError, UnsafeCheckpointError
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.training.data import Data
from torchtune_hp.training.model import ModelRecipe

from .model_parts import Digits, digits, equal_states, looks, one_thread, place, runner, through_a_file, trial

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")

OPTIMIZERS: dict[str, Any] = {
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw with amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "two groups": lambda p: torch.optim.Adam([{"params": list(p)[:2], "lr": 0.03}, {"params": []}], lr=0.01),
}
SCHEDULES: dict[str, Any] = {
    "none": lambda o: None,
    "multistep": lambda o: schedules.MultiStepLR(o, [1, 3, 3], 0.5),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.1, total_steps=40),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.01, 0.1, step_size_up=2, cycle_momentum=False),
    "lambda": lambda o: schedules.LambdaLR(o, lambda t: 0.9**t),
    "warm restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 2),
    "plateau": lambda o: schedules.ReduceLROnPlateau(o, patience=0),
    "sequence": lambda o: schedules.SequentialLR(o, [schedules.LinearLR(o), schedules.ExponentialLR(o, 0.9)], [2]),
    "two": lambda o: [schedules.ConstantLR(o, total_iters=2), schedules.ReduceLROnPlateau(o, patience=0)],
}


def made(optimizer: Any, schedule: Any, **words: Any) -> type[ToyModel]:
    class Made(ToyModel):
        def setup(self, config: Any) -> None:
            self.model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 2))
            self.optimizer = optimizer(self.model.parameters())
            self.lr_scheduler = schedule(self.optimizer)
            for word, value in words.items():
                setattr(self, word, value)

    return Made


def assert_resumes(cls: type[Any], n: int = 5, cut: int = 2, config: dict[str, Any] | None = None) -> None:
    recipe = ModelRecipe(cls)
    whole = recipe.start(trial(config), place())
    first = [whole.advance() for _ in range(cut)]
    state = through_a_file(whole.save())
    rest = [whole.advance() for _ in range(n - cut)]
    again = recipe.start(trial(config), place(), state, cut)
    assert again.step == cut and again.updates == state["updates"] and equal_states(again.save(), state)
    assert [again.advance() for _ in range(n - cut)] == rest
    assert [look.step for look in first + rest] == list(range(1, n + 1))
    assert equal_states(again.save(), whole.save())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_trial_gives_the_same_looks_with_each_optimizer(optimizer: str) -> None:
    assert_resumes(made(OPTIMIZERS[optimizer], SCHEDULES["none"], max_grad_norm=1.0))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("lr_step", ["epoch", "update"])
def test_a_resumed_trial_gives_the_same_looks_with_each_schedule(schedule: str, lr_step: str) -> None:
    if schedule == "one cycle" and lr_step == "update":
        assert_resumes(made(OPTIMIZERS["sgd with momentum"], SCHEDULES[schedule], lr_step=lr_step), n=4)
    else:
        assert_resumes(made(OPTIMIZERS["sgd with momentum"], SCHEDULES[schedule], lr_step=lr_step))


def test_a_trial_resumed_in_the_middle_of_a_pass_gives_the_same_looks() -> None:
    for order in ("member", "shared"):

        class Three(made(OPTIMIZERS["rmsprop"], SCHEDULES["multistep"])):  # type: ignore[misc]
            iteration = 3

            @classmethod
            def data(cls) -> Data:
                x, y = digits()
                return Data((x[:100, :4], y[:100] % 2), val_fraction=0.2, batch_size=9, order=order)      # noqa: B023

        for cut in (1, 3, 4):
            assert_resumes(Three, n=6, cut=cut)


def test_a_trial_resumed_between_two_validations_reports_the_last_ones_metrics() -> None:
    assert_resumes(made(OPTIMIZERS["rmsprop"], SCHEDULES["plateau"], validate_every=3), n=7, cut=4)


def test_what_a_hook_changed_is_there_after_a_resume() -> None:
    class Hooked(Digits):
        def on_iteration_end(self, metrics: dict[str, float]) -> None:
            self.ended = getattr(self, "ended", 0) + 1
            self.batch_size = 20 * self.ended
            self.max_grad_norm = 1.0 / self.ended
            self.optimizer.param_groups[0]["weight_decay"] += 0.1
            if self.ended == 2:
                self.model[0].weight.requires_grad_(False)      # type: ignore[index, union-attr]

    assert_resumes(Hooked, n=5, cut=2, config={"dropout": 0.2})
    assert_resumes(Hooked, n=5, cut=3)


def head_first(change: Any) -> type[Digits]:
    class HeadFirst(Digits):
        """The last layer alone, then, after two iterations, what `change` makes of it."""

        def setup(self, config: Any) -> None:
            super().setup(config)
            self.ended = 0
            self.optimizer = torch.optim.AdamW(self.model[3].parameters(), lr=config.get("lr", 1e-2))      # type: ignore[index, union-attr]

        def on_iteration_end(self, metrics: dict[str, float]) -> None:
            self.ended += 1
            if self.ended == 2:
                change(self)

    return HeadFirst


THAWS: dict[str, Any] = {
    "another group": lambda self: self.optimizer.add_param_group({"params": list(self.model[0].parameters()), "lr": 1e-3}),
    "a longer group": lambda self: self.optimizer.param_groups[0]["params"].extend(self.model[0].parameters()),
    "two from one": lambda self: self.optimizer.add_param_group({"params": [self.optimizer.param_groups[0]["params"].pop()], "lr": 1e-3}),
    "none": lambda self: setattr(self, "optimizer", torch.optim.AdamW(self.model.parameters(), lr=1e-3)),
}


@pytest.mark.parametrize("thaw", THAWS)
def test_groups_that_a_hook_made_are_there_after_a_resume(thaw: str) -> None:
    assert_resumes(head_first(THAWS[thaw]), n=6, cut=2)
    assert_resumes(head_first(THAWS[thaw]), n=6, cut=4)


def test_a_fork_has_the_groups_of_its_parent_each_at_its_own_rate() -> None:
    cls = head_first(THAWS["another group"])
    parent = runner(cls, {"lr": 0.01})
    looks(parent, 3)
    fork = ModelRecipe(cls).start(trial({"lr": 0.1}, parent=3), place(), parent.save(), 3)
    assert [group["lr"] for group in fork.member.optimizer.param_groups] == [0.1, 0.001]
    assert fork.member.optimizer.param_groups[1]["betas"] == (0.9, 0.999)
    fork.advance()


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda self: setattr(self, "optimizer", torch.optim.SGD(self.model.parameters(), lr=0.1)),
      r"setup makes AdamW for self.optimizer, but it is SGD since on_iteration_end"),
     (lambda self: setattr(self, "lr_scheduler", schedules.ExponentialLR(self.optimizer, 0.5)),
      r"setup makes nothing for self.lr_scheduler, but it is ExponentialLR since on_iteration_end")],
)  # fmt: skip
def test_what_setup_would_not_make_again_is_not_saved_and_named(change: Any, words: str) -> None:
    one = runner(head_first(change))
    looks(one, 1)
    one.save()
    looks(one, 1)
    with pytest.raises(UnsafeCheckpointError, match=words):
        one.save()
    looks(one, 1)


def test_a_checkpoint_of_step_0_starts_anew() -> None:
    recipe = ModelRecipe(Digits)
    one = recipe.start(trial(), place())
    other = recipe.start(trial(), place(), through_a_file(one.save()), 0)
    assert looks(one, 2) == looks(other, 2)


def test_a_saved_state_is_a_copy_and_stays_one_when_it_is_loaded() -> None:
    recipe = ModelRecipe(made(OPTIMIZERS["sgd with momentum"], SCHEDULES["multistep"]))
    whole = recipe.start(trial(), place())
    whole.advance()
    state = whole.save()
    kept = through_a_file(state)
    looks(whole, 2)
    assert equal_states(state, kept)
    one, other = (recipe.start(trial(), place(), state, 1) for _ in range(2))
    assert looks(one, 2) == looks(other, 2) and equal_states(state, kept)


def test_a_state_holds_the_ordinary_state_dicts() -> None:
    alone = runner(Digits)
    looks(alone, 2)
    state = alone.save()
    assert {"model", "optimizer", "lr_scheduler", "step", "updates"} <= set(state)
    assert (state["step"], state["updates"], state["epoch"], state["offset"], state["lr_scheduler"]) == (2, 14, 2, 0, [])
    plain = Digits.build({})
    plain.load_state_dict(state["model"])
    torch.optim.AdamW(plain.parameters()).load_state_dict(state["optimizer"])
    assert equal_states(state["words"], {}) and state["validated"].keys() == {"loss", "accuracy"}


# Evaluated, tested, restored ----------------------------------------------------------------------------------------------


def test_a_checkpoint_evaluated_again_gives_the_reported_metrics_bit_for_bit() -> None:
    class Drawing(made(OPTIMIZERS["rmsprop"], SCHEDULES["none"])):  # type: ignore[misc]
        def validation_step(self, model: nn.Module, batch: Any) -> Any:
            return {**super().validation_step(model, batch), "noise": torch.rand(())}

        def on_iteration_end(self, metrics: dict[str, float]) -> None:
            self.batch_size = 10

    recipe = ModelRecipe(Drawing)
    alone = recipe.start(trial(), place())
    for step in (1, 2):
        look = alone.advance()
        found = recipe.evaluate(trial(), place(), through_a_file(alone.save()), step)
        assert found == {name: value for name, value in look.metrics.items() if name not in ("train_loss", "lr")} and len(found) == 3


def test_restore_gives_the_model_in_eval_mode_with_the_weights_of_the_checkpoint() -> None:
    recipe = ModelRecipe(Digits)
    alone = recipe.start(trial(), place())
    metrics = looks(alone, 2)[-1]
    state = alone.save()
    looks(alone, 1)
    model = recipe.restore(trial(), place(), state, 2)
    assert isinstance(model, nn.Sequential) and not model.training
    x, y = digits()
    with torch.no_grad():
        assert (model(x[240:320]).argmax(-1) == y[240:320]).float().mean().item() == pytest.approx(metrics["accuracy"])


def test_the_test_set_is_evaluated_only_when_asked_for() -> None:
    recipe = ModelRecipe(Digits)
    alone = recipe.start(trial(), place())
    looks(alone, 3)
    found = recipe.test(trial(), place(), alone.save(), 3)
    x, y = digits()
    with torch.no_grad():
        logits = alone.member.model.eval()(x[320:])
    assert found.keys() == {"loss", "accuracy"}
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == y[320:]).float().mean().item(), rel=1e-6)


def test_a_folder_is_no_checkpoint_of_a_model(tmp_path: Any) -> None:
    with pytest.raises(CheckpointError, match="A Digits starts from a dict of tensors, but the checkpoint is the folder"):
        ModelRecipe(Digits).start(trial(), place(), tmp_path, 1)

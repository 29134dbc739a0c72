"""What is frozen and as setup made it is not in a checkpoint, and nothing of it is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.errors import CheckpointError
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.training import frozen
from torchtune_hp.training.model import ModelRecipe
from torchtune_hp.training.recipe import recipe_of

from .model_parts import equal_states, looks, one_thread, place, through_a_file, trial

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")

LARGE, SMALL = (4, 2048), (2048, 1)


class Net(nn.Module):
    """A frozen backbone of 32 KB and a head."""

    def __init__(self, backbone: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(2048, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.backbone(x))
        return found


class OnABackbone(ToyModel):
    def setup(self, config: Any, backbone: nn.Linear | None = None) -> None:  # type: ignore[override]
        self.model = Net(nn.Linear(4, 2048).requires_grad_(False) if backbone is None else backbone)
        self.optimizer = torch.optim.SGD(self.model.head.parameters(), lr=0.01)


class ChangesIt(OnABackbone):
    """`how`: what is done to the backbone after each iteration."""

    how: Any

    def on_iteration_end(self, metrics: Any) -> None:
        type(self).how(self.model.backbone, self)


def backbone() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(4, 2048).requires_grad_(False)


def in_place(layer: nn.Linear, _: Any) -> None:
    layer.weight.mul_(0.9)


def by_data(layer: nn.Linear, _: Any) -> None:
    layer.weight.data[1000, 2] += 1.0


def anew(layer: nn.Linear, _: Any) -> None:
    layer.weight = nn.Parameter(layer.weight * 0.9, requires_grad=False)


def thawed(layer: nn.Linear, member: Any) -> None:
    if not layer.weight.requires_grad:
        member.optimizer.add_param_group({"params": [layer.weight.requires_grad_()], "lr": 0.01})


def test_it_is_left_out_and_a_trial_goes_on_as_if_it_were_there() -> None:
    recipe = ModelRecipe(OnABackbone)
    whole = recipe.start(trial(), place())
    first = looks(whole, 2)
    state = through_a_file(whole.save())
    assert set(state["model"]) == {"backbone.bias", "head.weight", "head.bias"} and set(state["frozen"]) == {"backbone.weight"}
    again = recipe.start(trial(), place(), state, 2)
    assert equal_states(again.member.model.state_dict(), whole.member.model.state_dict())
    assert looks(again, 3) == looks(whole, 3) and len(first) == 2


@pytest.mark.parametrize("how", [in_place, by_data, anew, thawed])
@pytest.mark.parametrize("given", [False, True])
def test_what_has_changed_since_setup_is_saved(how: Any, given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChangesIt, "how", staticmethod(how), raising=False)
    if given:
        monkeypatch.setattr(ChangesIt, "setup", lambda self, config: OnABackbone.setup(self, config, backbone()))
    recipe = ModelRecipe(ChangesIt)
    whole = recipe.start(trial(), place())
    looks(whole, 2)
    state = through_a_file(whole.save())
    assert "backbone.weight" in state["model"] and not state["frozen"]
    again = recipe.start(trial(), place(), state, 2)
    assert looks(again, 2) == looks(whole, 2)


def test_another_backbone_is_an_error_that_names_it() -> None:
    class Others(OnABackbone):
        seed = 0

        def setup(self, config: Any) -> None:  # type: ignore[override]
            torch.manual_seed(self.seed)
            super().setup(config)

    recipe = ModelRecipe(Others)
    state = recipe.start(trial(), place()).save()
    recipe.start(trial(), place(), state, 0)
    Others.seed = 1
    with pytest.raises(CheckpointError, match=r"setup makes it otherwise now: backbone\.weight has another content.*same weights"):
        recipe.start(trial(), place(), state, 0)


def test_what_several_trials_hold_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    digest = frozen._digest
    monkeypatch.setattr(frozen, "_digest", lambda tensor: calls.append(tensor) or digest(tensor))  # type: ignore[func-returns-value]
    held = backbone()
    version = held.weight._version
    recipe: Any = recipe_of(hp.with_parameters(OnABackbone, backbone=held))
    runners = [recipe.start(trial(id=number), place()) for number in range(4)]
    states = [runner.save() for runner in runners]
    assert len(calls) == 1
    runners += [recipe.start(trial(id=number), place(), state, 0) for number, state in enumerate(states)]
    assert len(calls) == 1 and all(set(state["frozen"]) == {"backbone.weight"} for state in states)
    assert held.weight._version == version       # nobody wrote what all hold


def test_a_trainer_s_own_state_is_whole() -> None:
    """It is loaded into the trainer as it is then, not as something made it."""
    model = Net(backbone())
    x, y = torch.randn(8, 4), torch.randint(0, 2, (8,))
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    data = hp.Data(train=(x, y), batch_size=4)
    trainer = hp.Trainer(model, optimizer, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data)
    assert "backbone.weight" in trainer.state_dict()["model"]


def test_fused_trials_on_one_backbone_are_kept_resumed_and_loaded(tmp_path: Any) -> None:
    held = backbone()
    best = hp.tune(
        hp.with_parameters(OnABackbone, backbone=held), {"lr": hp.loguniform(1e-3, 1e-1)}, metric="loss", mode="min", trials=4, seed=0,
        verbose=0, scheduler=hp.FullRuns(max_t=2), executor=hp.Fused(4, strategy="vmap"), searcher=hp.RandomSearch(), storage=tmp_path,
    ).best  # fmt: skip
    assert best.load().backbone.weight is held.weight
    files = [path for path in (tmp_path).rglob("*-keep-*") if path.is_file()]
    assert files and all(path.stat().st_size < 32 * 1024 + 20_000 for path in files)

"""hp.Population without optimizers: models that predict together."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.population.population import Population

X = torch.randn(16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mlp(seed: int, width: int = 8, depth: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(seed)
    hidden = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.BatchNorm1d(width), act(), nn.Dropout(0.5))]
    model = nn.Sequential(nn.Linear(5, width), *hidden, nn.Linear(width, 3)).double()
    model(torch.randn(32, 5, dtype=torch.float64))      # running statistics of its own
    return model


def alone(models: list[nn.Module], *inputs: Any) -> Tensor:
    with torch.no_grad():
        return torch.stack([copy.deepcopy(model).eval()(*inputs) for model in models])


class Rude(nn.Module):
    """What no row can be made of: its forward looks at a value."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net = mlp(seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if x.sum().item() > -1e9 and self.net[0].weight.sum().item() > -1e9 else x


def test_models_of_one_kind_predict_at_once() -> None:
    models = [mlp(seed) for seed in range(4)]
    ensemble = Population(models)
    assert ensemble.reason == "4 at once"
    torch.testing.assert_close(ensemble.predict(X), alone(models, X), rtol=1e-12, atol=1e-12)


def test_models_of_several_kinds_come_back_in_their_order() -> None:
    models = [mlp(0), mlp(1, width=4), mlp(2), mlp(3, act=nn.Tanh), mlp(4, width=4), mlp(5), mlp(6, depth=3), mlp(7, width=4)]
    ensemble = Population(models)
    assert ensemble.reason == "3 at once, 3 at once, 2 one by one"
    torch.testing.assert_close(ensemble.predict(X), alone(models, X), rtol=1e-12, atol=1e-12)


def test_each_may_have_an_input_of_its_own() -> None:
    models = [mlp(0), mlp(1, width=4), mlp(2), mlp(3)]
    own = torch.randn(4, 16, 5, dtype=torch.float64)
    found = Population(models).evaluate(lambda model, batch: {"y": model(batch[0]) + batch[1]}, (own, X.sum()), (0, None))
    wanted = torch.stack([alone([model], part)[0] for model, part in zip(models, own)]) + X.sum()
    torch.testing.assert_close(found, {"y": wanted}, rtol=1e-12, atol=1e-12)


def test_frozen_models_and_a_backbone_that_all_share() -> None:
    backbone = mlp(0).requires_grad_(False).eval()
    models = [nn.Sequential(backbone, nn.Linear(3, 2).double()) for _ in range(4)]
    models[3].requires_grad_(False)
    for model in (models, [model.requires_grad_(False) for model in models]):
        torch.testing.assert_close(Population(model).predict(X), alone(model, X), rtol=1e-12, atol=1e-12)


def test_what_cannot_be_stacked_is_asked_one_by_one_and_said() -> None:
    models = [Rude(seed) for seed in range(3)]
    ensemble = Population(models)
    torch.testing.assert_close(ensemble.predict(X), alone(models, X), rtol=1e-12, atol=1e-12)
    assert ensemble.reason.startswith("3 one by one: RuntimeError: vmap: It looks like you're calling .item()")
    with pytest.raises(ConfigurationError, match='strategy="vmap" cannot be kept'):
        Population(models, strategy="vmap").predict(X)


def test_a_user_s_own_mistake_is_raised_as_it_is() -> None:
    models = [mlp(seed) for seed in range(3)]
    for strategy in ("auto", "vmap"):
        ensemble = Population(models, strategy=strategy)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            ensemble.predict(X[:, :4])
        assert ensemble.reason == "3 at once"
        torch.testing.assert_close(ensemble.predict(X), alone(models, X), rtol=1e-12, atol=1e-12)


def test_add_take_out_and_reload() -> None:
    models = [mlp(seed) for seed in range(4)]
    ensemble = Population(models[:2])
    assert ensemble.reason == "2 one by one"
    assert [ensemble.add(model) for model in models[2:]] == [2, 3]
    assert ensemble.reason == "4 at once"
    assert ensemble.take_out(1) == [models[1]] and len(ensemble) == 3
    with torch.no_grad():
        models[2][0].weight.zero_()  # type: ignore[union-attr, operator]
    ensemble.reload()
    assert ensemble.unstack() == [models[0], *models[2:]]
    torch.testing.assert_close(ensemble.predict(X), alone([models[0], *models[2:]], X), rtol=1e-12, atol=1e-12)


def test_outputs_of_several_shapes_are_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"member 0 gives \(\(16, 3\), torch.float64\) and member 1 \(\(16, 8\)"):
        Population([mlp(0), mlp(1)[:-1], mlp(2), mlp(3)]).predict(X)  # type: ignore[index]


def test_nothing_is_trained_without_optimizers() -> None:
    ensemble = Population([mlp(seed) for seed in range(3)])
    for call in (lambda: ensemble.step(lambda model, x: model(x).sum(), X), lambda: ensemble.copy(0, 1)):
        with pytest.raises(ConfigurationError, match=r"Make it with hp.Population\(models, optimizers\)"):
            call()
    with pytest.raises(ConfigurationError, match="no optimizer is given, as for the others"):
        ensemble.add(mlp(4), torch.optim.SGD(mlp(4).parameters()))
    with pytest.raises(ConfigurationError, match='strategy="compile" is for training'):
        Population([mlp(0)], strategy="compile")
    with pytest.raises(ConfigurationError, match="max_grad_norm"):
        Population([mlp(0)], max_grad_norm=1.0)

"""What is one trial's and no tensor: a hook that runs once for many trials never takes the first one's for everybody's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import torchtune_hp as hp
from torchtune_hp.errors import ConfigurationError
from torchtune_hp.population.population import Population

from .test_engine import Toy, alone, same, together

CONFIGS = [{"lr": 0.01 * (1 + k), "p": 0.0, "alpha": 0.5 + 0.25 * (k % 2)} for k in range(6)]


class Plain(Toy):
    """SGD, so that a factor of the loss is one of the step as well."""

    def optimize(self, config: Any) -> torch.optim.Optimizer:
        return SGD(self.model.parameters(), lr=config["lr"])

    def factor(self) -> Any:
        return 1.0

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, batch) * self.factor()


class OfOptimizer(Plain):
    def factor(self) -> Any:
        return 1 + self.optimizer.param_groups[0]["lr"]


class InValidation(Plain):
    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {"loss": super().validation_step(model, batch)["loss"] * self.optimizer.param_groups[0]["lr"]}


class WritesOptimizer(Plain):
    def factor(self) -> Any:
        self.optimizer.param_groups[0]["lr"] *= 0.5
        return 1.0


class OfScheduler(Plain):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.lr_scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, config["alpha"])

    def factor(self) -> Any:
        return 1 + self.lr_scheduler.get_last_lr()[0]  # type: ignore[union-attr]


class OfDict(Plain):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.alpha = config["alpha"]

    def factor(self) -> Any:
        return vars(self)["alpha"]


class OfContext(Plain):
    def factor(self) -> Any:
        return 1 + hp.context().seed % 7


class Fills(Plain):
    """A list that a hook fills."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.calls: list[int] = []

    def factor(self) -> Any:
        self.calls.append(1)
        return len(self.calls)


class Counts(Plain):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.counts = {"of": {"calls": 0}}

    def factor(self) -> Any:
        self.counts["of"]["calls"] += 1
        return self.counts["of"]["calls"]


class HookOnGradient(Plain):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.model[0].weight.register_hook(lambda gradient: gradient * config["alpha"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (OfOptimizer, "self.optimizer, which is one trial's"), (WritesOptimizer, "self.optimizer, which is one trial's"),
        (OfScheduler, "self.lr_scheduler, which is one trial's"),
        (OfDict, "self.__dict__, which is one trial's"), (OfContext, "hp.context() is one trial's"),
        (Fills, "writes self.calls"), (Counts, "writes self.counts"),
        (HookOnGradient, "0.weight has a hook on its gradient, which would not run"),
    ],
)  # fmt: skip
def test_those_who_use_what_is_one_s_alone_are_trained_one_by_one(cls: type[Toy], why: str) -> None:
    fused, said, engine = together(cls, CONFIGS)
    assert not engine.stacks() and len(said) == 1 and why in said[0] and not said[0].endswith("..")
    same(fused, alone(cls, CONFIGS))


def test_a_validation_that_uses_what_is_one_s_alone_is_done_one_by_one() -> None:
    fused, said, engine = together(InValidation, CONFIGS)
    assert engine.stacks() == [len(CONFIGS)] and "validated one by one" in said[0] and "self.optimizer, which is one trial's" in said[0]
    same(fused, alone(InValidation, CONFIGS))


class OfWord(Plain):
    """A word of the engine's, as a value."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.max_grad_norm = 100 * config["alpha"]

    def factor(self) -> Any:
        return self.max_grad_norm


class OfDefault(Plain):
    """The first member has what its class has."""

    alpha = 0.5

    def setup(self, config: Any) -> None:
        super().setup(config)
        if config["alpha"] != 0.5:
            self.alpha = config["alpha"]

    def factor(self) -> Any:
        return self.alpha


@pytest.mark.parametrize(("cls", "name"), [(OfWord, "self.max_grad_norm"), (OfDefault, "self.alpha")])
def test_a_number_is_each_one_s_own_wherever_it_is_held(cls: type[Toy], name: str) -> None:
    fused, said, engine = together(cls, CONFIGS)
    assert engine.stacks() == [6]
    assert said == [f"{cls.__name__}: {name} differs between trials and is lifted: each has its own in the stack."]
    same(fused, alone(cls, CONFIGS))


class OfNumber(Plain):
    def factor(self) -> Any:
        return 1 + self.trial_id % 2


class IfThere(Plain):
    """The first member has no such attribute."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        if config["alpha"] != 0.5:
            self.extra = 3.0

    def factor(self) -> Any:
        return getattr(self, "extra", 1.0)


class Scaled(nn.Sequential):
    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class OfModuleDefault(Plain):
    def build(self, config: Any) -> nn.Module:
        model = Scaled(nn.Linear(6, 3))
        if config["alpha"] != 0.5:
            model.scale = 3.0
        return model


class SomeWithHook(Plain):
    def setup(self, config: Any) -> None:
        super().setup(config)
        if config["alpha"] != 0.5:
            self.optimizer.register_step_post_hook(lambda optimizer, args, keywords: self.model[3].bias.data.zero_())  # type: ignore[index]


@pytest.mark.parametrize("cls", [OfNumber, IfThere, OfModuleDefault, SomeWithHook])
def test_those_who_have_it_are_told_from_those_who_have_not(cls: type[Toy]) -> None:
    fused, _, engine = together(cls, CONFIGS)
    assert 6 not in engine.stacks()
    same(fused, alone(cls, CONFIGS))


class Anew(Plain):
    """Another optimizer after the first iteration."""

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        if type(self.optimizer) is SGD:
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.config["lr"])


class AnewOfOneKind(Plain):
    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        self.optimizer = SGD(self.model.parameters(), lr=3 * self.config["lr"])


@pytest.mark.parametrize("cls", [Anew, AnewOfOneKind])
def test_who_has_another_optimizer_after_an_iteration_goes_on_with_it(cls: type[Toy]) -> None:
    fused, said, _ = together(cls, CONFIGS)
    assert not said
    same(fused, alone(cls, CONFIGS))


class Lazy(Plain):
    def build(self, config: Any) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3))


def test_lazy_layers_are_stacked_once_they_have_shapes() -> None:
    fused, said, engine = together(Lazy, CONFIGS)
    assert engine.stacks() == [6] and not said
    same(fused, alone(Lazy, CONFIGS))


class Complex(Plain):
    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return {**super().validation_step(model, batch), "z": batch[0].mean() * 1j}


def test_a_complex_metric_is_refused_as_it_is_alone() -> None:
    fused, _, _ = together(Complex, CONFIGS, n=1)
    assert all(isinstance(look, ConfigurationError) and "'z' must be a number" in str(look) for (look,) in fused)


class Backbone(Plain):
    body = nn.Linear(6, 6).double()

    def build(self, config: Any) -> nn.Module:
        return nn.Sequential(self.body, nn.Linear(6, 3))


class Frozen(Backbone):
    body = nn.Linear(6, 6).double().requires_grad_(False)


def test_a_trained_backbone_that_trials_share_is_refused_and_a_frozen_one_is_not() -> None:
    with pytest.raises(ConfigurationError, match="Backbone.model: each trial must have .* but 0.weight is also trial 0's"):
        alone(Backbone, CONFIGS)
    fused, said, _ = together(Frozen, CONFIGS)
    assert not said
    same(fused, alone(Frozen, CONFIGS))


class Generated(Plain):
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.lr_scheduler = (torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.5) for _ in range(1))  # type: ignore[assignment]


def test_schedulers_that_would_be_stepped_once_at_most_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="lr_scheduler: it is stepped again and again, so it must be a list"):
        alone(Generated, CONFIGS)


class Leaves(Plain):
    def factor(self) -> Any:
        raise SystemExit(3)


def test_a_hook_that_exits_fails_its_trials_and_not_the_study() -> None:
    fused, _, _ = together(Leaves, CONFIGS, n=1)
    assert all(isinstance(look, SystemExit) for (look,) in fused)


def test_a_population_is_trained_one_by_one_where_a_hook_waits_for_a_gradient() -> None:
    models: list[nn.Module] = [nn.Linear(2, 1) for _ in range(3)]
    for model in models:
        model.weight.register_hook(torch.zeros_like)  # type: ignore[operator, union-attr]
    population = Population(models, [SGD(model.parameters(), lr=0.1) for model in models])
    before = [model.weight.clone() for model in models]  # type: ignore[operator]
    population.step(lambda model, batch: model(batch).square().mean(), torch.ones(4, 2))
    assert "hook on its gradient" in population.reason
    assert all(torch.equal(model.weight, weight) for model, weight in zip(population.unstack(), before))

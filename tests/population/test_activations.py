"""Members that differ in their activations share a stack, and compute what they compute alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.population import activations
from torchtune_hp.population.activations import Chosen, places
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.keys import keys_of
from torchtune_hp.population.loop import Loop
from torchtune_hp.population.stack import Stack

from .test_engine import Toy, alone, runners, same, together

FLOAT64 = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(16, 6, generator=GENERATOR, dtype=FLOAT64)
Y = torch.arange(16) % 3
Build = Callable[[], nn.Module]
ALL: Sequence[Build] = [
    *activations.FORMS, lambda: nn.LeakyReLU(0.2), lambda: nn.GELU(approximate="tanh"), lambda: nn.ELU(0.5), lambda: nn.Softplus(2.5),
    lambda: nn.ELU(2), lambda: nn.ReLU(inplace=True),
]  # fmt: skip


def mlp(act: Build, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), act(), nn.Dropout(0.2), nn.Linear(width, 7), act(), nn.Linear(7, 3)).double()


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def pairs(models: Sequence[Callable[[], nn.Module]]) -> list[Any]:
    members = []
    for k, build in enumerate(models):
        torch.manual_seed(k)
        model = build()
        members.append((model, torch.optim.AdamW(model.parameters(), lr=0.003 * (k + 1))))
    return members


def compare(models: Sequence[Callable[[], nn.Module]], hook: Any = loss, steps: int = 10, batch: Any = (X, Y), **options: Any) -> Stack:
    """Trained and evaluated in a stack and one by one, members agree in losses, parameters and buffers."""
    stack, loop = Stack(pairs(models), **options), Loop(pairs(models))
    for step in range(steps):
        keys = keys_of(range(len(models)), [step] * len(models))
        torch.testing.assert_close(stack.step(hook, batch, None, keys)[0], loop.step(hook, batch, None, keys)[0], rtol=1e-10, atol=1e-10)
    one, other = (each.evaluate(lambda model, batch: model(batch[0]), batch, None, keys) for each in (stack, loop))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    for row, (model, _) in enumerate(loop.members):
        made, _ = stack.dump(row)
        assert [type(module) for module in made.modules()] == [type(module) for module in model.modules()]
        for ours, theirs in zip((*made.parameters(), *made.buffers()), (*model.parameters(), *model.buffers()), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    return stack


# What shares ------------------------------------------------------------------------------------------------------------------


def test_where_members_agree_their_own_module_stands() -> None:
    acts = [nn.ReLU, nn.Tanh]
    models = [nn.Sequential(nn.Linear(6, 8), act(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)) for act in acts]
    stack = Stack([(model, torch.optim.SGD(model.parameters())) for model in models])
    assert [type(module) for module in stack.model.children()] == [nn.Linear, Chosen, nn.Linear, nn.ReLU, nn.Linear]
    assert not any(isinstance(module, Chosen) for model in models for module in model.modules())


def test_what_may_share_follows_from_the_module_alone() -> None:
    class Own(nn.ReLU):
        pass

    hooked, noted, called = nn.ReLU(), nn.ReLU(), nn.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    noted.note = "mine"  # type: ignore[assignment]
    called.forward = torch.tanh  # type: ignore[method-assign]
    for module in (Own(), hooked, noted, called, nn.PReLU(), nn.RReLU(), nn.Softmax(-1), nn.Hardshrink(0.123), nn.Dropout(0.5)):
        assert places(nn.Sequential(nn.Linear(2, 2), module)) == {}, module
    assert all(list(places(nn.Sequential(nn.Linear(2, 2), build()))) == ["1"] for build in ALL)


def test_one_that_writes_its_input_shares_where_nobody_else_has_it() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act = nn.Linear(2, 2), nn.ReLU(inplace=True)

    assert places(Around()) == {}
    assert list(places(nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.ReLU(inplace=True)))) == ["1"]


# Equal to alone ---------------------------------------------------------------------------------------------------------------


def test_every_form_in_one_stack() -> None:
    stack = compare([lambda act=act: mlp(act) for act in ALL], steps=3)  # type: ignore[misc]
    assert len(stack.several) == 2


def test_beside_widths() -> None:
    both = [(nn.ReLU, 5), (nn.Tanh, 8), (nn.Sigmoid, 12), (nn.Softplus, 8)]
    assert compare([lambda each=each: mlp(*each) for each in both]).outside  # type: ignore[misc]


def test_on_tensors_of_any_rank_and_on_what_all_members_share() -> None:
    images = torch.randn(4, 2, 6, 6, dtype=FLOAT64, generator=GENERATOR)

    def cnn(act: Build) -> nn.Module:
        layers = [act(), nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), act(), nn.Flatten(), nn.Linear(64, 3)]
        return nn.Sequential(*layers).double()

    compare([lambda act=act: cnn(act) for act in (nn.ReLU, nn.Tanh, nn.Identity)], batch=(images, Y[:4]))  # type: ignore[misc]


def test_under_a_transform_of_the_user_s_own() -> None:
    def summed(model: nn.Module, batch: Any) -> Tensor:
        return torch.func.vmap(model)(batch[0]).square().mean()

    def build(act: Build) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), act(), nn.Linear(8, 3)).double()

    compare([lambda act=act: build(act) for act in (nn.ELU, nn.Tanh)], summed, 3)  # type: ignore[misc]


def test_a_gradient_may_be_differentiated() -> None:
    def penalized(model: nn.Module, batch: Any) -> Tensor:
        slope = torch.func.grad(lambda x: model(x).square().sum())(batch[0])
        return model(batch[0]).square().mean() + slope.square().mean()

    def build(act: Build) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), act(), nn.Linear(8, 3)).double()

    compare([lambda act=act: build(act) for act in (nn.Softplus, nn.Tanh, nn.SiLU)], penalized, 3)  # type: ignore[misc]


def test_traced() -> None:
    models = [lambda act=act: mlp(act) for act in (nn.ReLU, nn.Tanh) * 4]  # type: ignore[misc]
    stack = Stack(pairs(models))
    keys = keys_of(range(8), [0] * 8)
    found = stack.program.gradients(loss, stack.rows(), keys, (X, Y), None)
    from torch.fx.experimental.proxy_tensor import make_fx

    def gradients(*flats: Tensor) -> Any:
        rows = stack.rows()._replace(flats=[flat.detach().requires_grad_() for flat in flats])
        return stack.program.gradients(loss, rows, keys, (X, Y), None).parts

    traced = make_fx(gradients)(*stack.flats)
    for ours, theirs in zip(traced(*stack.flats), found.parts, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("traced", [False, True])
def test_what_is_not_finite_in_one_row_reaches_no_other(traced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if traced:
        monkeypatch.setattr(activations, "traced", lambda: True)
    models = [lambda act=act: mlp(act) for act in (nn.ReLU, nn.Tanh, nn.Softplus)]  # type: ignore[misc]

    def trained(spoil: bool) -> list[Tensor]:
        members = pairs(models)
        if spoil:
            nn.init.constant_(members[1][0][0].weight, float("nan"))
        stack = Stack(members)
        for step in range(3):
            stack.step(loss, (X, Y), None, keys_of(range(3), [step] * 3))
        return [flat.detach()[[0, 2]] for flat in stack.flats]

    for ours, theirs in zip(trained(True), trained(False), strict=True):
        assert torch.equal(ours, theirs) and ours.isfinite().all()


def test_a_row_takes_another_form_when_another_member_comes() -> None:
    models = [lambda act=act: mlp(act) for act in (nn.ReLU, nn.Tanh, nn.Tanh)]  # type: ignore[misc]
    stack, loop = Stack(pairs(models[:2])), Loop(pairs(models))
    new = pairs(models)[2]
    stack.replace([0], [new])
    keys = keys_of([2], [0])
    one = stack.step(loss, (X, Y), None, torch.cat([keys, keys]))[0][0]
    loop.take_out([0, 1])
    torch.testing.assert_close(one, loop.step(loss, (X, Y), None, keys)[0][0])
    assert stack.holds(mlp(nn.ReLU)) and not stack.holds(mlp(nn.GELU))


# In trials --------------------------------------------------------------------------------------------------------------------


ACTS = {"relu": nn.ReLU, "tanh": nn.Tanh, "leaky": lambda: nn.LeakyReLU(0.2), "none": nn.Identity}


class Bent(Toy):
    """`width` and `act` differ."""

    def build(self, config: Any) -> nn.Module:
        act, width = ACTS[config["act"]], config.get("width", 8)
        return nn.Sequential(nn.Linear(6, width), act(), nn.Dropout(0.2), nn.Linear(width, 3))


CONFIGS = [{"lr": 0.01, "act": act} for act in ("relu", "tanh", "leaky", "none", "relu", "tanh")]


def looks_alike(cls: type[hp.ModelTrainable], configs: Any = CONFIGS, n: int = 3) -> tuple[list[int], list[str]]:
    """-> (members of each stack, what was said)."""
    found, said, engine = together(cls, configs, n)
    same(found, alone(cls, configs, n))
    return sorted(engine.stacks()), said


def test_trials_of_all_activations_are_one_stack() -> None:
    sizes, said = looks_alike(Bent)
    assert sizes == [6]
    assert said == [
        "Bent: activations are each one's own, Identity, LeakyReLU, ReLU, Tanh: 6 trials share a stack."
    ]  # fmt: skip


def test_trials_of_all_activations_and_widths_are_one_stack() -> None:
    sizes, _ = looks_alike(Bent, [{**config, "width": 5 + k} for k, config in enumerate(CONFIGS)])
    assert sizes == [6]


class Looked(nn.Module):
    """Asks what its activation is."""

    def __init__(self, act: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(6, width), act, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x)) * (2.0 if isinstance(self.act, nn.Tanh) else 1.0))


class Asked(nn.Module):
    """Reads a number of it."""

    def __init__(self, act: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(6, width), act, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x)) * getattr(self.act, "negative_slope", 1.0))


@pytest.mark.parametrize("kind", [Looked, Asked])
@pytest.mark.parametrize("width", [0, 1])
def test_a_model_that_asks_what_its_activation_is_splits_by_it_alone(kind: Any, width: int) -> None:
    class Curious(Bent):
        def build(self, config: Any) -> nn.Module:
            return kind(ACTS[config["act"]](), config["width"])

    configs = [{"lr": 0.01, "act": act, "width": 8 + k * width} for k, act in enumerate(["leaky", "tanh"] * 4)]
    sizes, said = looks_alike(Curious, configs)
    assert sizes == [4, 4]
    assert any("Curious: activations split" in text for text in said) and not any("widths are not padded" in text for text in said)


class Mixed(nn.Module):
    """Mixes along its width, whatever the activation."""

    def __init__(self, act: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(6, width), act, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x)).softmax(-1))


def test_where_widths_are_at_fault_activations_share_on() -> None:
    class Mixing(Bent):
        def build(self, config: Any) -> nn.Module:
            return Mixed(ACTS[config["act"]](), config["width"])

    configs = [{"lr": 0.01, "act": act, "width": width} for act in ("leaky", "tanh", "relu") for width in (7, 8)]
    sizes, said = looks_alike(Mixing, configs)
    assert sizes == [3, 3]
    assert any("widths are not padded" in text for text in said) and not any("activations split" in text for text in said)


def test_slopes_are_each_trial_s_own() -> None:
    class Sloped(Bent):
        def build(self, config: Any) -> nn.Module:
            return nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(config["slope"]), nn.Linear(8, 3))

    sizes, said = looks_alike(Sloped, [{"slope": 0.1234 + 0.01 * k} for k in range(5)])
    assert sizes == [5] and said == ["Sloped: activations are each one's own, LeakyReLU: 5 trials share a stack."]


def test_a_trial_that_is_given_another_activation_goes_on_with_it() -> None:
    class Turning(Bent):
        def on_iteration_end(self, metrics: Any) -> None:
            if self.config["turns"]:
                self.model[1] = nn.Sigmoid() if isinstance(self.model[1], nn.Tanh) else nn.Tanh()

    looks_alike(Turning, [{"act": act, "turns": k % 2 == 0} for k, act in enumerate(("relu", "tanh", "tanh", "tanh"))], 4)
    looks_alike(Turning, [{"act": "tanh", "turns": k == 1} for k in range(3)], 4)


def test_those_that_come_later_may_have_another_activation() -> None:
    found = []
    for strategy in ("vmap", "loop"):
        engine = Engine(strategy=strategy)  # type: ignore[arg-type]
        members = runners(Bent, CONFIGS)
        first = engine.advance(members[::5])
        second = engine.advance(members)
        third = engine.advance(members[1:4])
        found.append([list(each.values()) for each in (first, second, third)])
    same(*found)


def test_a_study_over_activations_is_the_one_that_serial_gives() -> None:
    space = {"act": hp.choice(list(ACTS)), "lr": hp.loguniform(1e-3, 1e-1)}
    results = [
        hp.tune(
            Bent, space, metric="loss", mode="min", trials=8, searcher=hp.RandomSearch(), scheduler=hp.FullRuns(max_t=2), executor=executor,
            storage=None, verbose=0,
        )
        for executor in (hp.Fused(slots=8, strategy="vmap"), hp.Serial())
    ]  # fmt: skip
    one, other = ([trial.metrics["loss"] for trial in each] for each in results)
    assert one == pytest.approx(other, rel=1e-8)
    assert isinstance(results[0].best.load(), nn.Module)

"""A frozen backbone that members hold in common is held once, and its pass is done once where its inputs are one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp
from torchtune_hp.errors import ConfigurationError
from torchtune_hp.population.population import Population
from torchtune_hp.population.stack import Stack

X, Y = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(12) % 3


class Counted(torch.autograd.Function):
    """The number of samples that come by."""

    seen: list[int] = []

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # type: ignore[override]
        Counted.seen.append(x.numel())
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, int]:
        return Counted.apply(x), in_dims[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class Counting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Counted.apply(x)  # type: ignore[no-any-return]


def backbone() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Counting(), nn.Flatten()).double()
    made(X)         # its running statistics are no initial ones
    made.register_buffer("scale", torch.tensor(0.7, dtype=torch.float64))
    return made.requires_grad_(False).eval()


class Headed(nn.Module):
    def __init__(self, below: nn.Module, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.below, self.head = below, nn.Linear(4 * 36, 3).double()

    def train(self, mode: bool = True) -> Headed:
        super().train(mode)
        self.below.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.below(x) * self.below.scale)  # type: ignore[no-any-return,operator]


class Lora(nn.Module):
    """A frozen layer and two small matrices beside it."""

    def __init__(self, below: nn.Linear, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.below = below
        self.a, self.b = nn.Parameter(torch.randn(8, 2).double()), nn.Parameter(torch.randn(2, 5).double())

    def forward(self, x: Tensor) -> Tensor:
        return self.below(x.flatten(1)[:, :8]) + x.flatten(1)[:, :8] @ self.a @ self.b  # type: ignore[no-any-return]


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def population(strategy: Any, kind: Any = Headed, below: nn.Module | None = None, n: int = 4) -> Population:
    below = backbone() if below is None else below
    models = [kind(below, seed) for seed in range(n)]
    optimizers = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=0.01 * (k + 1)) for k, m in enumerate(models)]
    return Population(models, optimizers, strategy=strategy)


def state(found: Population) -> list[dict[str, Tensor]]:
    return [copy.deepcopy(model.state_dict()) for model in found.unstack()]


@pytest.mark.parametrize(("kind", "below"), [(Headed, None), (Lora, nn.Linear(8, 5).double().requires_grad_(False))], ids=["heads", "lora"])
def test_each_is_trained_as_alone(kind: Any, below: nn.Module | None) -> None:
    found = [population(strategy, kind, below) for strategy in ("vmap", "loop")]
    for _ in range(4):
        one, other = (each.step(loss, (X, Y)) for each in found)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*map(state, found), rtol=1e-10, atol=1e-10)


def test_it_is_the_members_own_tensor_and_is_passed_once() -> None:
    found = population("vmap")
    found.step(loss, (X, Y))
    Counted.seen.clear()
    found.step(loss, (X, Y))
    assert Counted.seen == [12 * 4 * 36]
    (stack,) = _stacks(found)
    model = found.unstack()[0]
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert set(stack.common) == {name for name in held if name.startswith("below.")} and not stack.buffers and not stack.stacked
    assert all(stack.shared[name].data_ptr() == held[name].data_ptr() for name in stack.common)
    own = {tensor.data_ptr() for tensor in (*stack.model.parameters(), *stack.model.buffers())}
    assert own >= {held[name].data_ptr() for name in stack.common}


def test_batches_of_each_its_own_pass_it_for_each() -> None:
    found = [population(strategy) for strategy in ("vmap", "loop")]
    x = torch.stack([X.roll(k, 0) for k in range(4)])
    for _ in range(2):
        one, other = (each.step(loss, (x, torch.stack([Y] * 4)), in_dims=0) for each in found)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("same", [True, False], ids=["the same backbone", "another of equal weights"])
def test_who_joins_may_have_the_same_or_its_own(same: bool) -> None:
    below = backbone()
    found = [population(strategy, below=below) for strategy in ("vmap", "loop")]
    for each in found:
        each.step(loss, (X, Y))
        late = Headed(below if same else copy.deepcopy(below), 9)
        each.add(late, torch.optim.AdamW(late.head.parameters(), lr=0.05))
        each.take_out(1)
    for _ in range(3):
        one, other = (each.step(loss, (X, Y)) for each in found)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    if not same:
        with torch.no_grad():
            for each in found:
                each.unstack()[-1].below[0].weight.mul_(2.0)  # type: ignore[index,operator,union-attr]
                each.reload()
        one, other = (each.step(loss, (X, Y)) for each in found)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*map(state, found), rtol=1e-10, atol=1e-10)


def test_what_is_changed_from_outside_counts_at_once() -> None:
    found = []
    for strategy in ("vmap", "loop"):
        each = population(strategy)
        each.step(loss, (X, Y))
        with torch.no_grad():
            each.unstack()[0].below[0].weight.mul_(0.5)  # type: ignore[index,operator,union-attr]
        found.append([each.step(loss, (X, Y)) for _ in range(2)])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


class Writing(Headed):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.below.scale.mul_(0.9)  # type: ignore[operator,union-attr]
        return super().forward(x)


def test_a_call_that_writes_it_is_done_one_by_one_and_said() -> None:
    found = [population(strategy, Writing) for strategy in ("auto", "loop")]
    for _ in range(3):
        one, other = (each.step(loss, (X, Y)) for each in found)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    why = "a call writes below.scale of the model, which all members hold as one. copy.deepcopy gives each its own"
    assert found[0].reason == f"one by one: {why}"
    with pytest.raises(ConfigurationError, match=why):
        population("vmap", Writing).step(loss, (X, Y))


class Heads(hp.ModelTrainable):
    def setup(self, config: Any, below: nn.Module) -> None:
        self.model = Headed(below, 0).float()
        torch.nn.init.normal_(self.model.head.weight, std=0.1)
        self.optimizer = torch.optim.SGD(self.model.head.parameters(), lr=config["lr"])

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data(train=(X.float(), Y), val=(X.float(), Y), batch_size=4, order="shared")

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        return loss(model, batch)

    def validation_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": loss(model, batch)}


def test_a_study_of_heads_is_the_study_one_by_one() -> None:
    found = []
    for strategy in ("vmap", "loop"):
        results = hp.tune(
            hp.with_parameters(Heads, below=backbone().float()), {"lr": hp.loguniform(1e-3, 0.1)}, metric="loss", mode="min", trials=12,
            scheduler=hp.ASHA(max_t=4, reduction_factor=2), searcher=hp.RandomSearch(), executor=hp.Fused(4, strategy=strategy), seed=0,
            storage=None, verbose=0,
        )  # fmt: skip
        assert not results.errors and (strategy == "loop" or results.stacks[0] == "Heads: stack 1 begins with 4 trials.")
        assert not any("one by one" in text for text in results.stacks if strategy == "vmap")
        found.append({trial: [look["loss"] for look in curve] for trial, curve in results.curves().items()})
    assert found[0].keys() == found[1].keys()
    for trial, curve in found[0].items():
        assert curve == pytest.approx(found[1][trial], rel=1e-4)


def _stacks(found: Population) -> list[Stack]:
    return [value for value in vars(found).values() if isinstance(value, Stack)]


class Frozen(nn.Module):
    """Counts its calls in a frozen parameter, which the loss reads late, and adds up its inputs in another."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(8, 3).double()
        self.calls = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)
        self.sum = nn.Parameter(torch.zeros(8, dtype=torch.float64), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)[:, :8]
        if self.training:
            self.calls += 1
            self.sum.mul_(0.9).add_(0.1 * x.mean(0))
        return self.layer(x - self.sum) + torch.where(self.calls > 2, self.layer.weight.sum(), 0.0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("in_dims", [None, 0])
def test_a_frozen_parameter_that_is_alike_in_all_and_written_is_each_member_s_own(in_dims: Any) -> None:
    found = []
    own = torch.stack([X.roll(k, 0)[:6] for k in range(4)]), torch.stack([Y.roll(k)[:6] for k in range(4)])
    batch = (X, Y) if in_dims is None else own
    for strategy in ("auto", "loop"):
        models = [Frozen(seed) for seed in range(4)]
        optimizers = [torch.optim.SGD(model.layer.parameters(), lr=0.1) for model in models]
        each = Population(models, optimizers, strategy=strategy)  # type: ignore[arg-type]
        losses = [each.step(loss, batch, in_dims) for _ in range(3)]
        late = Frozen(9)
        each.add(late, torch.optim.SGD(late.layer.parameters(), lr=0.1))
        each.take_out(0)
        losses += [each.step(loss, batch, in_dims) for _ in range(3)]
        assert strategy == "loop" or each.reason.endswith("at once")
        found.append((losses, state(each)))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


class Calls(hp.ModelTrainable):
    def setup(self, config: Any) -> None:
        self.model = Frozen(0).float()
        self.optimizer = torch.optim.SGD(self.model.layer.parameters(), lr=config["lr"])

    @classmethod
    def data(cls) -> hp.Data:
        return Heads.data()

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        return loss(model, batch)

    def validation_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": loss(model, batch), "calls": model.calls.detach()}  # type: ignore[operator,union-attr,dict-item]


def test_in_a_study_too() -> None:
    found = []
    for strategy in ("vmap", "loop"):
        results = hp.tune(
            Calls, {"lr": hp.loguniform(1e-3, 0.1)}, metric="loss", mode="min", trials=8, keep=1,
            scheduler=hp.ASHA(max_t=4, reduction_factor=2), searcher=hp.RandomSearch(), executor=hp.Fused(4, strategy=strategy), seed=0,
            storage=None, verbose=0,
        )  # fmt: skip
        assert not results.errors and (strategy == "loop" or results.stacks[0] == "Calls: stack 1 begins with 4 trials.")
        looks = {trial: [(look["loss"], look["calls"]) for look in curve] for trial, curve in results.curves().items()}
        found.append((looks, float(results.best.load().calls)))
    assert found[0][0].keys() == found[1][0].keys() and found[0][1] == found[1][1] == 3.0 * results.best.metrics["training_iteration"]
    for trial, curve in found[0][0].items():
        for one, other in zip(curve, found[1][0][trial], strict=True):
            assert one == pytest.approx(other, rel=1e-4)

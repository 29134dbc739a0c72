"""A row whose member left is the next one's: in place, and for everyone else as if nothing were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from torchtune_hp.population.keys import base_of, keys_of
from torchtune_hp.population.loop import Loop
from torchtune_hp.population.rows import Member
from torchtune_hp.population.stack import Stack

X = torch.randn(16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(16) % 3
K = 5


def plain(k: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3))


def own_dropout(k: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.05 * (1 + k)), nn.Linear(6, 3))


def one_backbone(k: int) -> nn.Module:
    """Held once by the stack: frozen, and equal in all."""
    model = plain(k)
    nn.init.constant_(model[0].weight, 0.3)     # type: ignore[arg-type]
    model[0].weight.requires_grad_(False)
    return model


def another_backbone(k: int) -> nn.Module:
    """Of the last two: what was held once no longer can be."""
    model = one_backbone(k)
    nn.init.constant_(model[0].weight, 0.3 if k < K else -0.2 * k)      # type: ignore[arg-type]
    return model


def momentum(model: nn.Module, k: int) -> torch.optim.Optimizer:
    return SGD([p for p in model.parameters() if p.requires_grad], lr=0.05 * (1 + k), momentum=0.1 * k)


def adam(model: nn.Module, k: int) -> torch.optim.Optimizer:
    return Adam([p for p in model.parameters() if p.requires_grad], lr=torch.tensor(0.01 * (1 + k), dtype=torch.float64))


Make = Callable[[int], nn.Module]
Optimize = Callable[[nn.Module, int], torch.optim.Optimizer]
cases = pytest.mark.parametrize("make", [plain, own_dropout, one_backbone, another_backbone])
optimizers = pytest.mark.parametrize("optimize", [momentum, adam])


def member(make: Make, optimize: Optimize, k: int) -> Member:
    with torch.random.fork_rng():
        torch.manual_seed(k)
        model = make(k).double()
    return model, optimize(model, k)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def step(rows: Stack | Loop, seeds: list[int], n: int) -> Tensor:
    return rows.step(loss, (X, Y), None, keys_of([base_of(seed, "train") for seed in seeds], [n] * len(seeds), X.device))[0]


@cases
@optimizers
def test_each_row_goes_on_as_its_member_would_alone(make: Make, optimize: Optimize) -> None:
    members, alone = [[member(make, optimize, k) for k in range(K + 2)] for _ in range(2)]
    stack, loop = Stack(members[:K]), Loop(alone[:K])
    for n in range(2):
        torch.testing.assert_close(step(stack, list(range(K)), n), step(loop, list(range(K)), n))
    left = [stack.dump(1), stack.dump(3)]
    stack.replace([3, 1], members[K:])
    loop.members[3], loop.members[1] = alone[K:]
    for n in range(2, 4):
        torch.testing.assert_close(step(stack, [0, K + 1, 2, K, 4], n), step(loop, [0, K + 1, 2, K, 4], n))
    for row, (model, optimizer) in enumerate(loop.members):
        ours, its = stack.dump(row)
        assert ours is [members[0], members[K + 1], members[2], members[K], members[4]][row][0]
        torch.testing.assert_close(ours.state_dict(), model.state_dict())
        torch.testing.assert_close(its.state_dict()["state"], optimizer.state_dict()["state"])
    for (model, _), (other, _) in zip(left, (alone[1], alone[3])):
        torch.testing.assert_close(model.state_dict(), other.state_dict(), msg="those who left stand where they left")


@pytest.mark.parametrize("make", [plain, one_backbone])
def test_it_is_in_place_and_no_other_row_changes_a_bit(make: Make) -> None:
    stack = Stack([member(make, momentum, k) for k in range(K)])
    step(stack, list(range(K)), 0)
    tensors = [*stack.flats, *(tensor for group in (*stack.states, stack.stacked, stack.buffers) for tensor in group.values())]
    before = [tensor.detach().clone() for tensor in tensors]
    stack.replace([2], [member(make, momentum, K)])
    after = [*stack.flats, *(tensor for group in (*stack.states, stack.stacked, stack.buffers) for tensor in group.values())]
    others = [row for row in range(K) if row != 2]
    for old, tensor, now in zip(before, tensors, after, strict=True):
        assert now is tensor
        assert torch.equal(old[others], now.detach()[others])
    assert not torch.equal(before[0][2], after[0].detach()[2])


@pytest.mark.parametrize("make", [plain, own_dropout, one_backbone])
def test_who_comes_disturbs_no_row(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of another, or at the end: nobody else is written back, whatever of their own the members' dropouts have."""
    members, alone = [[member(make, momentum, k) for k in range(K + 2)] for _ in range(2)]
    stack, loop = Stack(members[:K]), Loop(alone[:K])
    step(stack, list(range(K)), 0), step(loop, list(range(K)), 0)
    monkeypatch.setattr(Stack, "dump", None)
    place = stack.flats[0].data_ptr()
    stack.replace([2], [members[K]])
    assert stack.flats[0].data_ptr() == place
    stack.add([members[K + 1]])
    loop.members[2] = alone[K]
    loop.add([alone[K + 1]])
    seeds = [0, 1, K, 3, 4, K + 1]
    for n in range(1, 3):
        torch.testing.assert_close(step(stack, seeds, n), step(loop, seeds, n))


# What is written back -----------------------------------------------------------------------------------------------------------


def in_another_order(k: int) -> nn.Module:
    """Its weights lie in memory with the channels last."""
    layers = nn.Unflatten(1, (5, 1, 1)), nn.Conv2d(5, 6, 2, padding=1), nn.Flatten(), nn.Linear(24, 3)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("make", [plain, in_another_order])
def test_what_an_optimizer_gets_back_is_its_parameters_alone_and_lies_as_they_do(make: Make) -> None:
    members = [member(make, lambda model, k: Adam(model.parameters(), lr=0.01), k) for k in range(3)]
    stack = Stack(members)
    step(stack, [0, 1, 2], 0)
    model, optimizer = stack.dump(1)
    rows = {name: tensor.clone() for name, tensor in stack.states[0].items()}
    for parameter in model.parameters():
        for name, value in optimizer.state[parameter].items():
            if name != "step":
                assert value.stride() == parameter.stride() and not value.requires_grad
    first, *others = model.parameters()
    before = [optimizer.state[other]["exp_avg"].clone() for other in others]
    optimizer.state[first]["exp_avg"].fill_(7.0)
    optimizer.state[first]["step"] += 1
    assert all(torch.equal(optimizer.state[other]["exp_avg"], old) for other, old in zip(others, before))
    assert all(optimizer.state[other]["step"] == 1 for other in others)
    assert all(torch.equal(stack.states[0][name], old) for name, old in rows.items())

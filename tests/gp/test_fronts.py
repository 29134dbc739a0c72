"""Fronts of several processes: what a point is worth beside what is pending, and batches. Formulas are in test_hypervolume.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchtune_hp.gp.fronts import Front, choose, imagine, log_improvement, on_the_front
from torchtune_hp.gp.hypervolume import cells, log_noisy_expected_hypervolume_improvement
from torchtune_hp.gp.kernel import Hyper, Kernel
from torchtune_hp.gp.regression import Fitted, condition

KERNEL = Kernel(numbers=(0, 1))


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def points(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def processes(x: Tensor, m: int) -> list[Fitted]:
    """Distances from m corners, observed nearly without noise."""
    one = torch.ones((), dtype=torch.float64)
    hyper = Hyper(0.5 * torch.ones(2, dtype=torch.float64), one, 1e-6 * one, 0 * one, one.new_zeros(0))
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)[:m]
    return [condition(KERNEL, x, (x - corner).norm(dim=1), hyper) for corner in corners]


def drawn(m: int, n: int = 12, s: int = 4) -> tuple[Front, Tensor]:
    x = points(n)
    return imagine(processes(x, m), x, 1.2 * torch.ones(m, dtype=torch.float64), normals(m, s, n)), x


@pytest.mark.parametrize("m", [2, 3])
def test_what_a_point_is_worth_is_noisy_expected_hypervolume_improvement(m: int) -> None:
    front, _ = drawn(m)
    free = cells(torch.stack([one.values for one in front.objectives], -1), front.reference)
    new = points(9, seed=1)
    expected = log_noisy_expected_hypervolume_improvement(front.objectives, free, new)
    assert torch.allclose(log_improvement(front, new), expected, rtol=1e-9)


def test_where_all_objectives_are_known_nothing_is_expected() -> None:
    front, x = drawn(2)
    assert (log_improvement(front, x) == -torch.inf).all()
    assert log_improvement(front, x + 0.05).isfinite().all()


def test_the_slope_is_that_of_the_value() -> None:
    front, _ = drawn(2)
    assert torch.autograd.gradcheck(lambda at: log_improvement(front, at), points(3, seed=2).requires_grad_())


@pytest.mark.parametrize("m", [2, 3])
def test_each_choice_is_the_best_given_those_before_it(m: int) -> None:
    """As if the values imagined at each had been sampled there from the beginning."""
    x, some = points(12), points(40, seed=1)
    reference = 1.2 * torch.ones(m, dtype=torch.float64)
    first, more = normals(m, 4, 12), normals(m, 4, 5, seed=1)
    front = imagine(processes(x, m), x, reference, first)
    found = choose(front, some, more)
    assert len(set(found.tolist())) == 5
    for j in range(5):
        given = imagine(processes(x, m), torch.cat([x, some[found[:j]]]), reference, torch.cat([first, more[:, :, :j]], 2))
        worth = log_improvement(given, some).index_fill(0, found[:j], -torch.inf)
        assert worth[found[j]] >= worth.max() - 1e-6


def test_a_bonus_decides_and_what_it_forbids_comes_last() -> None:
    front, _ = drawn(2)
    some = points(6, seed=1)
    bonus = torch.tensor([-torch.inf] * 4 + [0.0, 0.0], dtype=torch.float64)
    assert set(choose(front, some, normals(2, 4, 2), bonus=bonus).tolist()) == {4, 5}
    assert sorted(choose(front, some, normals(2, 4, 6), bonus=bonus).tolist()) == list(range(6))


def test_a_large_pool_is_cut_to_the_best_and_the_answer_is_of_the_whole() -> None:
    front, _ = drawn(2)
    some = points(500, seed=1)
    (best,) = choose(front, some, normals(2, 4, 1)).tolist()
    assert best == int(log_improvement(front, some).argmax())


def test_a_pool_that_is_too_small_is_told_so() -> None:
    front, _ = drawn(2)
    with pytest.raises(ValueError, match=r"q <= 3, the size of the pool.*Enlarge the pool"):
        choose(front, points(3), normals(2, 4, 4))
    assert choose(front, points(3), normals(2, 4, 0)).tolist() == []


def test_who_may_be_on_the_front_are_all_that_are_and_some_behind() -> None:
    x = torch.stack([torch.linspace(0, 1, 11, dtype=torch.float64), torch.zeros(11, dtype=torch.float64)], 1)
    behind = x + torch.tensor([0.0, 0.5], dtype=torch.float64)
    both = torch.cat([behind, x])
    found = on_the_front(processes(both, 2), both, least=4, most=64)
    assert sorted(found.tolist()) == sorted(x.tolist())
    assert len(on_the_front(processes(both, 2), both, least=15, most=64)) == 15
    few = on_the_front(processes(both, 2), both, least=1, most=3)
    assert len(few) == 3 and few[:, 1].tolist() == [0.0] * 3 and few[:, 0].max() - few[:, 0].min() == 1

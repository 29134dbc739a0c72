"""Cells against the volumes of `pareto`, and what a point is worth against samples, grids and BoTorch."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.quasirandom import SobolEngine

from torchtune_hp import pareto
from torchtune_hp.gp.climb import Column, Cube
from torchtune_hp.gp.fantasies import fantasize
from torchtune_hp.gp.fit import fit
from torchtune_hp.gp.hypervolume import (
    Cells,
    cells,
    hypervolume_improvement,
    log_expected_hypervolume_improvement,
    log_noisy_expected_hypervolume_improvement,
)
from torchtune_hp.gp.kernel import Hyper, Kernel
from torchtune_hp.gp.maximize import pool, starts
from torchtune_hp.gp.regression import Fitted, condition, predict, sample

BOTORCH: dict[str, Any] = json.loads((Path(__file__).parent / "reference" / "hypervolume.json").read_text())
OBJECTIVES = [2, 3, 4]
LOWEST = -1.0       # below every value here: where endless cells are cut
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def volume(points: Tensor, reference: Tensor) -> float:
    return pareto.hypervolume(map(tuple, points.tolist()), tuple(reference.tolist()))


def boxes(cells: Cells) -> Tensor:
    """The volume of the cells above LOWEST."""
    return (cells.upper - cells.lower.clamp_min(LOWEST)).clamp_min(0).prod(-1).sum(-1)


# Cells --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", OBJECTIVES)
def test_cells_and_what_is_dominated_fill_the_space_up_to_the_reference(m: int) -> None:
    for n in (0, 1, 5, 15):
        front, reference = random(n, m, seed=n), torch.full((m,), 0.9, dtype=torch.float64)
        whole = (0.9 - LOWEST) ** m
        assert boxes(cells(front, reference)).item() == pytest.approx(whole - volume(front, reference), rel=1e-12)


@pytest.mark.parametrize("m", OBJECTIVES)
def test_a_point_is_in_one_cell_if_it_is_better_than_the_reference_and_not_dominated_and_in_none_else(m: int) -> None:
    front, reference = random(12, m), torch.full((m,), 0.8, dtype=torch.float64)
    found, y = cells(front, reference), 1.2 * random(500, m, seed=1) - 0.1
    inside = ((found.lower < y[:, None]) & (y[:, None] < found.upper)).all(-1).sum(-1)
    free = (y < reference).all(-1) & ~(front <= y[:, None]).all(-1).any(-1)
    assert torch.equal(inside, free.long()) and free.any() and not free.all()


@quick
@given(st.integers(2, 4).flatmap(lambda m: st.lists(st.tuples(*[st.integers(0, 4).map(float)] * m), min_size=2, max_size=8)))
def test_ties_and_duplicates_leave_no_gap_and_no_overlap(points: list[tuple[float, ...]]) -> None:
    (point, *front), reference = points, (3.0,) * len(points[0])
    found = cells(tensor(front), tensor(reference))
    assert boxes(found).item() == 4.0 ** len(reference) - pareto.hypervolume(front, reference)
    assert hypervolume_improvement(tensor([point]), found).item() == pareto.gain(point, front, reference)


def test_without_a_front_there_is_one_cell() -> None:
    for m in OBJECTIVES:
        reference = random(m)
        found = cells(torch.empty(0, m, dtype=torch.float64), reference)
        assert found.lower.tolist() == [[-math.inf] * m] and found.upper.tolist() == [reference.tolist()]


@pytest.mark.parametrize("m", OBJECTIVES)
def test_a_batch_of_fronts_has_the_cells_of_each_padded_with_nothing(m: int) -> None:
    fronts, reference, y = random(2, 3, 6, m), torch.ones(m, dtype=torch.float64), random(1, m, seed=1)
    together = cells(fronts, reference)
    for i in range(2):
        for j in range(3):
            alone = cells(fronts[i, j], reference)
            assert boxes(Cells(together.lower[i, j], together.upper[i, j])) == pytest.approx(boxes(alone).item(), rel=1e-13)
            value = log_expected_hypervolume_improvement(y, y, alone)
            assert torch.allclose(log_expected_hypervolume_improvement(y, y, Cells(together.lower[i, j], together.upper[i, j])), value)
    assert log_expected_hypervolume_improvement(y[0], y[0], together).shape == (2, 3)


def test_padding_is_worth_nothing_even_to_the_most_hopeless_point() -> None:
    fronts, reference = random(3, 6, 3) - 5, torch.full((3,), -4.0, dtype=torch.float64)     # padding stands at 0, nearer to the point
    fronts[0] = fronts[0, 0]
    mean, one = torch.full((3,), 200.0, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    together = log_expected_hypervolume_improvement(mean, one, cells(fronts, reference))
    alone = [log_expected_hypervolume_improvement(mean, one, cells(front, reference)) for front in fronts]
    assert torch.allclose(together, torch.stack(alone), rtol=1e-14)


def test_three_objectives_have_a_number_of_cells_that_grows_as_the_front() -> None:
    for n in (10, 40):
        front = normal(n, 3).abs()
        front = front / front.norm(dim=-1, keepdim=True)      # on a sphere: nobody is dominated, from outside
        assert len(cells(1 - front, torch.ones(3, dtype=torch.float64)).lower) <= 4 * n + 3


# One value, and several ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", OBJECTIVES)
def test_what_values_improve_together_is_the_difference_of_two_hypervolumes(m: int) -> None:
    front, reference = random(10, m), torch.full((m,), 0.9, dtype=torch.float64)
    found, values = cells(front, reference), 1.3 * random(20, 4, m, seed=2) - 0.2
    improved = hypervolume_improvement(values, found)
    expected = [volume(torch.cat([front, some]), reference) - volume(front, reference) for some in values]
    assert torch.allclose(improved, tensor(expected), rtol=1e-10, atol=1e-13)


def test_one_by_one_is_worth_what_all_are_together() -> None:
    front, reference, values = random(6, 3), torch.ones(3, dtype=torch.float64), random(4, 3, seed=3)
    whole, steps = hypervolume_improvement(values, cells(front, reference)), tensor(0.0)
    for value in values:
        steps = steps + hypervolume_improvement(value[None], cells(front, reference))
        front = torch.cat([front, value[None]])
    assert steps.item() == pytest.approx(whole.item(), rel=1e-12)


def test_too_many_together_are_refused_and_told_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"q=11.*one by one"):
        hypervolume_improvement(torch.zeros(11, 2, dtype=torch.float64), cells(random(3, 2), random(2)))


def test_the_gradient_of_an_improvement_is_its_slope() -> None:
    for m in (2, 3):
        found = cells(random(5, m), torch.full((m,), 1.1, dtype=torch.float64))
        assert torch.autograd.gradcheck(lambda y, found=found: hypervolume_improvement(y, found), random(3, m, seed=5).requires_grad_())


# Expectations -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", OBJECTIVES)
def test_the_expectation_is_the_mean_of_samples(m: int) -> None:
    found = cells(random(8, m), torch.full((m,), 1.1, dtype=torch.float64))
    mean, deviation = random(5, m, seed=1), 0.1 + 0.4 * random(5, m, seed=2)
    samples = 2**16
    improved = hypervolume_improvement((mean + deviation * normal(samples, 5, m))[..., None, :], found)
    error = improved.std(0) / math.sqrt(samples)
    expected = log_expected_hypervolume_improvement(mean, deviation, found).exp()
    assert ((improved.mean(0) - expected).abs() < 5 * error).all()      # 5 standard errors, 15 numbers: false alarm 1e-5


def test_without_uncertainty_the_expectation_is_the_improvement() -> None:
    for m in OBJECTIVES:
        found, y = cells(random(8, m), torch.ones(m, dtype=torch.float64)), random(1, m, seed=9) * 0.3
        expected = hypervolume_improvement(y, found)
        value = log_expected_hypervolume_improvement(y[0], torch.full((m,), 1e-10, dtype=torch.float64), found).exp()
        assert expected > 0 and value.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("m", OBJECTIVES)
def test_the_gradient_of_the_logarithm_is_its_slope(m: int) -> None:
    found = cells(random(6, m), torch.ones(m, dtype=torch.float64))
    mean, deviation = random(4, m, seed=3).requires_grad_(), (0.1 + random(4, m, seed=4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: log_expected_hypervolume_improvement(a, b, found), (mean, deviation))


@pytest.mark.parametrize("m", OBJECTIVES)
@pytest.mark.parametrize("far", [1.0, 10.0, 1e3, 1e5])
def test_a_hopeless_point_has_a_value_and_a_way_up(m: int, far: float) -> None:
    found = cells(random(8, m), torch.ones(m, dtype=torch.float64))
    for deviation in (1e-10, 1e-3, 1.0):
        mean = torch.full((m,), 1 + far, dtype=torch.float64, requires_grad=True)
        value = log_expected_hypervolume_improvement(mean, torch.full_like(mean, deviation), found)
        (slope,) = torch.autograd.grad(value, mean)
        assert value.isfinite() and slope.isfinite().all() and (slope < 0).all()


def test_thin_cells_and_padding_give_no_nan() -> None:
    front = tensor([[0.5, 0.5], [0.5, 0.5], [math.nextafter(0.5, 1), math.nextafter(0.5, 0)], [2.0, 0.1], [0.1, 2.0]])
    mean = tensor([0.4, 0.6]).requires_grad_()
    value = log_expected_hypervolume_improvement(mean, tensor([0.1, 0.1]), cells(front, tensor([1.0, 1.0])))
    (slope,) = torch.autograd.grad(value, mean)
    assert value.isfinite() and slope.isfinite().all()


def test_beside_a_pending_point_the_expectation_is_that_of_the_fronts_it_may_make() -> None:
    """A point beside q - 1 sampled ones: the mean over the samples' fronts, which is qEHVI less what the others are worth."""
    front, reference, samples = random(6, 2), tensor([1.0, 1.0]), 2**12
    mean, deviation = tensor([0.2, 0.3]), tensor([0.2, 0.1])
    pending = 0.3 + 0.2 * normal(samples, 1, 2, seed=1)
    fronts = cells(torch.cat([front.expand(samples, -1, -1), pending], -2), reference)
    beside = log_expected_hypervolume_improvement(mean, deviation, fronts).exp()
    both = torch.cat([pending, mean + deviation * normal(samples, 1, 2, seed=2)], -2)
    joint = hypervolume_improvement(both, cells(front, reference)) - hypervolume_improvement(pending, cells(front, reference))
    assert (beside - joint).mean().abs() < 5 * (beside - joint).std() / math.sqrt(samples)


# Processes ----------------------------------------------------------------------------------------------------------------


def processes(x: Tensor, count: int = 2) -> list[Fitted]:
    """Independent processes that observed different functions at x (n, d)."""
    made = []
    for k in range(count):
        hyper = Hyper(tensor([0.3 + 0.2 * k] * x.shape[-1]), tensor(1.0), tensor(0.02), tensor(0.5), tensor([]))
        made.append(condition(Kernel(tuple(range(x.shape[-1]))), x, (x - k / max(1, count - 1)).square().sum(-1), hyper))
    return made


@pytest.mark.parametrize("m", [2, 3])
def test_with_means_for_samples_noisy_improvement_is_improvement_on_their_front(m: int) -> None:
    x, new, reference = random(8, 2), random(5, 2, seed=1), torch.full((m,), 1.5, dtype=torch.float64)
    found = [fantasize(fitted, x, torch.zeros(1, 8, dtype=torch.float64)) for fitted in processes(x, m)]
    free = cells(torch.stack([one.values for one in found], -1), reference)
    means, variances = zip(*(predict(one.fitted, new) for one in found))
    only = Cells(*(side[0] for side in free))
    expected = log_expected_hypervolume_improvement(torch.stack(means, -1), torch.stack(variances, -1).sqrt(), only)
    assert torch.allclose(log_noisy_expected_hypervolume_improvement(found, free, new), expected, rtol=1e-9)


def test_noisy_improvement_is_the_mean_improvement_of_joint_samples() -> None:
    """Of the process at 6 points and one more, drawn at once: by how much that one enlarges the hypervolume of the 6."""
    x, new, reference, samples = random(6, 2), random(1, 2, seed=1), tensor([1.2, 1.2]), 2**13
    fitted = processes(x)
    found = [fantasize(one, x, normal(samples, 6, seed=k)) for k, one in enumerate(fitted)]
    free = cells(torch.stack([one.values for one in found], -1), reference)
    value = log_noisy_expected_hypervolume_improvement(found, free, new).exp().item()
    drawn = torch.stack([sample(one, torch.cat([x, new]), normal(samples, 7, seed=9 + k)) for k, one in enumerate(fitted)], -1)
    improved = hypervolume_improvement(drawn[:, 6:], cells(drawn[:, :6], reference))
    assert value > 0 and abs(value - improved.mean().item()) < 6 * improved.std().item() / math.sqrt(samples)    # both sides are samples


def test_the_gradient_of_noisy_improvement_is_its_slope() -> None:
    x, reference = random(5, 2), tensor([1.5, 1.5])
    found = [fantasize(one, x, normal(3, 5, seed=k)) for k, one in enumerate(processes(x))]
    free = cells(torch.stack([one.values for one in found], -1), reference)
    new = random(4, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda at: log_noisy_expected_hypervolume_improvement(found, free, at), new)


def test_objectives_and_cells_that_do_not_fit_are_told_so() -> None:
    x = random(4, 2)
    found = [fantasize(one, x, normal(3, 4)) for one in processes(x)]
    free = cells(torch.stack([one.values for one in found], -1), tensor([1.0, 1.0]))
    with pytest.raises(ValueError, match="1 of .* samples"):
        log_noisy_expected_hypervolume_improvement(found[:1], free, x)
    with pytest.raises(ValueError, match=r"cells \(2, "):
        log_noisy_expected_hypervolume_improvement(found, Cells(*(side[:2] for side in free)), x)


def test_a_search_by_it_finds_more_of_a_front_than_chance_does() -> None:
    """Eight points beyond six random ones on a problem whose front is known, against eight Sobol points."""
    reference, cube = tensor([2.0, 2.0]), Cube([Column(), Column()], canonical=lambda x: x)

    def outcome(x: Tensor) -> Tensor:
        """The front is the diagonal from (0, 0) to (1, 1): sqrt(f) + sqrt(g) = sqrt(2)."""
        return torch.stack([x.square().sum(-1), (x - 1).square().sum(-1)], -1)

    for seed in range(2):
        x = random(6, 2, seed=seed)
        chance = torch.cat([x, SobolEngine(2, scramble=True, seed=seed).draw(8, dtype=torch.float64)])
        for turn in range(8):
            y = outcome(x)
            z = (y - y.mean(0)) / y.std(0)
            kernel = Kernel((0, 1))
            fitted = [condition(kernel, x, values, fit(kernel, x, values, restarts=1).hyper) for values in z.mT]
            found = [fantasize(one, x, normal(8, len(x), seed=turn + k)) for k, one in enumerate(fitted)]
            free = cells(torch.stack([one.values for one in found], -1), (reference - y.mean(0)) / y.std(0))
            score = partial(log_noisy_expected_hypervolume_improvement, found, free)
            best = pool(score, cube, starts(cube, 32, x, seed=turn), x, climbs=4)
            x = torch.cat([x, best.x[:1]])
        assert volume(outcome(x), reference) > volume(outcome(chance), reference)


# BoTorch ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BOTORCH["expected"], ids=lambda case: f"{len(case['reference'])} objectives")
def test_expectations_are_botorchs(case: dict[str, Any]) -> None:
    found = cells(tensor(case["front"]), tensor(case["reference"]))
    value = log_expected_hypervolume_improvement(tensor(case["mean"]), tensor(case["deviation"]), found).exp()
    assert torch.allclose(value, tensor(case["ehvi"]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("case", BOTORCH["together"], ids=lambda case: f"{len(case['reference'])} objectives")
def test_improvements_of_three_together_are_botorchs(case: dict[str, Any]) -> None:
    found = cells(tensor(case["front"]), tensor(case["reference"]))
    assert torch.allclose(hypervolume_improvement(tensor(case["values"]), found), tensor(case["improvement"]), rtol=1e-9, atol=1e-12)


# What is refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "reference", "said"),
    [
        (torch.zeros(3, 2), torch.zeros(2), "float64"),
        (random(3, 2), random(3), r"\(3, 2\) and \(3,\)"),
        (random(3, 1), random(1), "expected improvement"),
        (random(3, 2) / 0, random(2), "leave failed trials out"),
        (random(3, 2), random(2) / 0, "finite"),
    ],
)
def test_bad_input_is_told_the_law_and_the_values(front: Tensor, reference: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cells(front, reference)

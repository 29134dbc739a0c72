"""Where an acquisition is largest: mixed columns, constraints, conditions, rows; nothing twice, nothing rounded afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from torchtune_hp.gp.climb import Column, Cube, climb
from torchtune_hp.gp.fantasies import choose, fantasize, log_noisy_expected_improvement
from torchtune_hp.gp.maximize import Pool, batch, best_rows, crossings, enough, path_maxima, pool, starts
from torchtune_hp.gp.paths import draw, evaluate, evaluate_all
from torchtune_hp.gp.regression import Fitted, condition, sample
from torchtune_hp.gp.slopes import scales
from torchtune_hp.space import Space
from torchtune_hp.space.domains import Domain

from .problems import normal, process, uniform

NONE = torch.zeros(0, 3, dtype=torch.float64)


def levels(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def cube(*columns: Column, feasible: Callable[[Tensor], Tensor] | None = None) -> Cube:
    """Columns without conditions: canonical is the nearest level."""

    def canonical(x: Tensor) -> Tensor:
        x = x.clone()
        for k, (steps, _) in enumerate(columns):
            if steps is not None:
                x[:, k] = steps[(x[:, k, None] - steps).abs().argmin(1)]
        return x

    return Cube(columns, canonical, feasible)


FLOAT, INT, CATEGORY = Column(), Column(levels(50)), Column(levels(4), ordered=False)
MIXED = cube(FLOAT, INT, CATEGORY)


def hills(x: Tensor) -> Tensor:
    """Two hills for each category of the third column, their heights its rank; the top lies at a corner of no level."""
    rank = torch.tensor([0.3, 1.0, 0.1, 0.7], dtype=torch.float64)[(x[:, 2] * 4).long()]
    place = torch.stack([0.3 + 0.1 * rank, 0.62 + 0 * rank], -1)
    near = torch.exp(-((x[:, :2] - place) ** 2).sum(-1) / 0.02)
    return rank * near + 0.5 * torch.exp(-((x[:, :2] - 0.9) ** 2).sum(-1) / 0.02)


def on_levels(cube: Cube, x: Tensor) -> bool:
    return all(torch.isin(x[:, k], steps).all() for k, (steps, _) in enumerate(cube.columns) if steps is not None)


def test_mixed_columns_are_climbed_to_the_best_of_a_fine_grid_and_beyond() -> None:
    fine = torch.cartesian_prod(torch.linspace(0, 1, 501, dtype=torch.float64), levels(50), levels(4))
    begun = starts(MIXED, 64, NONE, seed=0)
    found = pool(hills, MIXED, begun, NONE)
    assert found.score[0] >= hills(fine).max() and found.score[0] > hills(begun).max()
    assert on_levels(MIXED, found.x) and torch.equal(found.score, hills(found.x))
    assert (found.score.diff() <= 0).all()


def test_a_climb_never_ends_below_its_start_and_every_point_scored_is_one_that_can_be_run() -> None:
    def score(x: Tensor, start: Tensor) -> Tensor:
        assert on_levels(MIXED, x.detach()) and (x >= 0).all() and (x <= 1).all()
        return hills(x)

    begun = starts(MIXED, 40, NONE, seed=1)
    x, value = climb(score, MIXED, begun)
    assert (value >= hills(begun)).all() and torch.equal(value, hills(x))
    # Nothing next to it is better: no level 1 away, no other category.
    for k, steps in ((1, levels(50)), (2, levels(4))):
        here = (x[:, k, None] - steps).abs().argmin(1)
        for there in [here - 1, here + 1] if k == 1 else [here * 0 + c for c in range(4)]:
            moved = x.clone()
            moved[:, k] = steps[there.clamp(0, len(steps) - 1)]
            assert (hills(moved) <= value).all()


def test_each_start_is_climbed_as_if_it_were_alone() -> None:
    begun = starts(MIXED, 12, NONE, seed=2)
    x, value = climb(lambda x, start: hills(x), MIXED, begun)
    for i in range(len(begun)):
        one_x, one_value = climb(lambda x, start: hills(x), MIXED, begun[i : i + 1])
        torch.testing.assert_close((one_x[0], one_value[0]), (x[i], value[i]), rtol=1e-12, atol=1e-12)


def test_a_million_levels_are_crossed() -> None:
    steps = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    wide = Cube([Column(steps)], lambda x: x)
    x, _ = climb(lambda x, start: -(x[:, 0] - 0.7654321).abs(), wide, steps[[0, 500_000, 999_999], None])
    assert (x - 0.7654321).abs().max() <= 5.1e-7


def test_an_infeasible_region_is_a_wall() -> None:
    walled = cube(FLOAT, FLOAT, feasible=lambda x: x.sum(-1) <= 1)
    target = torch.tensor([0.9, 0.8], dtype=torch.float64)
    begun = starts(walled, 128, NONE[:, :2], seed=0)
    found = pool(lambda x: -(x - target).square().sum(-1), walled, begun, NONE[:, :2])
    assert (found.x.sum(-1) <= 1).all() and (begun.sum(-1) <= 1).all()
    assert (found.x[0] - torch.tensor([0.55, 0.45])).abs().max() < 0.05


class Walled(NamedTuple):
    """A bowl behind a wall in five columns, the last of levels: its top, and what was asked."""

    cube: Cube
    score: Callable[[Tensor, Tensor], Tensor]
    top: float
    asked: list[int]


def walled_bowl() -> Walled:
    steps, asked = levels(10), [0]
    center = torch.tensor([0.7, 0.8, 0.2, 0.4, 0.9], dtype=torch.float64)
    weight = torch.tensor([1.0, 30.0, 4.0, 4.0, 1.0], dtype=torch.float64)

    def score(x: Tensor, start: Tensor) -> Tensor:
        asked[0] += x.requires_grad
        return -(weight * (x - center).square()).sum(-1)

    # Of x0 + x1 <= 0.9 the best point is 0.6 before the center, shared out by 1 / weight.
    lost = (0.6 / (1 + 1 / 30)) ** 2 * (1 + 1 / 30) + (steps - 0.9).square().amin()
    return Walled(cube(*[FLOAT] * 4, Column(steps), feasible=lambda x: x[:, 0] + x[:, 1] <= 0.9), score, -float(lost), asked)


def test_a_start_that_meets_a_wall_slides_along_it_nearly_to_the_top_in_few_rounds() -> None:
    problem = walled_bowl()
    begun = starts(problem.cube, 64, uniform(0, 5), seed=0)[:16]
    x, value = climb(problem.score, problem.cube, begun, gain=1e-3)
    assert (x[:, :2].sum(-1) <= 0.9).all() and on_levels(problem.cube, x)
    assert (value >= problem.score(begun, begun[:, 0])).all() and torch.equal(value, problem.score(x, x[:, 0]))
    assert value.max() >= problem.top - 5e-3 and value.median() >= problem.top - 0.1
    assert value.max() <= problem.top + 1e-12 and problem.asked[0] <= 60


def test_each_start_slides_as_if_it_were_alone() -> None:
    problem = walled_bowl()
    begun = starts(problem.cube, 64, uniform(0, 5), seed=1)[:6]
    x, value = climb(problem.score, problem.cube, begun)
    for i in range(len(begun)):
        one_x, one_value = climb(problem.score, problem.cube, begun[i : i + 1])
        torch.testing.assert_close((one_x[0], one_value[0]), (x[i], value[i]), rtol=1e-12, atol=1e-12)


def test_scores_of_starts_that_are_known_are_not_asked_for_again() -> None:
    begun, calls = starts(MIXED, 20, NONE, seed=1), 0

    def score(x: Tensor, start: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return hills(x)

    (x, value), plain, calls = climb(score, MIXED, begun), calls, 0
    again = climb(score, MIXED, begun, known=hills(begun))
    assert torch.equal(x, again[0]) and torch.equal(value, again[1]) and calls == plain - 1


def two_hills(x: Tensor) -> Tensor:
    """One at 0.2, and one four times as high at 0.8."""
    return torch.exp(-(((x[:, 0] - 0.2) / 0.1) ** 2)) + 4 * torch.exp(-(((x[:, 0] - 0.8) / 0.1) ** 2))


def test_climbs_begin_apart_so_that_good_starts_on_one_hill_do_not_hide_another() -> None:
    crowd = torch.linspace(0.15, 0.25, 7, dtype=torch.float64)
    begun = torch.cat([crowd, torch.tensor([0.66], dtype=torch.float64)])[:, None]
    assert two_hills(begun)[-1] < two_hills(begun)[:-1].min()
    width = torch.tensor([0.1], dtype=torch.float64)
    apart, crowded = (pool(two_hills, cube(FLOAT), begun, NONE[:, :1], climbs=2, scale=scale) for scale in (width, None))
    assert apart.score[0].item() == pytest.approx(4, abs=1e-3) and crowded.score[0] < 1.1
    assert torch.equal(apart.x, pool(two_hills, cube(FLOAT), begun, NONE[:, :1], climbs=2, scale=width).x)


def test_starts_in_different_categories_lie_apart() -> None:
    mixed = cube(FLOAT, CATEGORY)

    def score(x: Tensor) -> Tensor:     # the better category's hill is elsewhere: no exchange finds it from the top of the other
        return torch.where(x[:, 1] > 0.5, 2 * torch.exp(-((x[:, 0] - 0.7) ** 2) / 0.05), torch.exp(-((x[:, 0] - 0.2) ** 2) / 0.05))

    near = torch.linspace(0.15, 0.25, 7, dtype=torch.float64)
    crowd = torch.stack([near, torch.full_like(near, levels(4)[0])], -1)
    begun = torch.cat([crowd, torch.tensor([[0.3, levels(4)[2].item()]], dtype=torch.float64)])
    assert score(begun)[-1] < score(begun)[:-1].min()
    found = pool(score, mixed, begun, NONE[:, :2], climbs=2, scale=torch.ones(2, dtype=torch.float64))
    assert found.score[0].item() == pytest.approx(2, abs=1e-3)


# Never twice ------------------------------------------------------------------------------------------------------------


def test_nothing_that_was_taken_is_offered_and_nothing_twice() -> None:
    begun = starts(MIXED, 64, NONE, seed=0)
    taken = pool(hills, MIXED, begun, NONE).x[:10]
    found = pool(hills, MIXED, begun, taken)
    rows = [tuple(row) for row in found.x.tolist()]
    assert len(set(rows)) == len(rows) and not set(rows) & {tuple(row) for row in taken.tolist()}


def test_a_small_space_is_given_whole_down_to_its_last_point_and_again_when_it_is_exhausted() -> None:
    small = cube(Column(levels(3)), Column(levels(4), ordered=False), feasible=lambda x: x.sum(-1) < 1.5)
    every = [row for row in itertools.product(levels(3).tolist(), levels(4).tolist()) if sum(row) < 1.5]
    begun = starts(small, 8, NONE[:, :2], seed=0)
    assert sorted(map(tuple, begun.tolist())) == sorted(every)
    taken = NONE[:, :2]
    for left in range(len(every), 0, -1):
        found = pool(lambda x: x.sum(-1), small, begun, taken)
        assert len(found.x) == left
        taken = torch.cat([taken, found.x[:1]])
    assert sorted(map(tuple, taken.tolist())) == sorted(every)
    assert torch.equal(pool(lambda x: x.sum(-1), small, begun, taken).x[0], taken[0])


def test_rows_are_scored_one_by_one_and_the_taken_ones_are_left_out() -> None:
    rows, score = uniform(9000, 3), hills
    expected = hills(rows).argsort(descending=True)
    assert torch.equal(best_rows(score, rows, NONE, 7), expected[:7])
    assert torch.equal(best_rows(score, rows, rows[expected[:5]], 7), expected[5:12])
    assert torch.equal(best_rows(score, rows[:4], rows[:3], 7), torch.tensor([3]))
    assert sorted(best_rows(score, rows[:4], rows[:4], 7).tolist()) == [0, 1, 2, 3]
    worthless = best_rows(lambda x: torch.where(x[:, 0] < 0.5, torch.nan, x[:, 0]), rows, NONE, 1)
    assert rows[worthless, 0] == rows[:, 0].max()


# Starts, and a real space -----------------------------------------------------------------------------------------------


def test_starts_are_even_and_near_the_best_and_depend_on_the_seed_alone() -> None:
    best = torch.tensor([[0.111, levels(50)[7].item(), levels(4)[2].item()]], dtype=torch.float64)
    begun = starts(MIXED, 200, best, seed=3)
    assert torch.equal(begun, starts(MIXED, 200, best, seed=3)) and not torch.equal(begun, starts(MIXED, 200, best, seed=4))
    assert 150 <= len(begun) <= 201 and on_levels(MIXED, begun) and torch.equal(begun[0], best[0])
    near = ((begun[:, 0] - 0.111).abs() < 0.02).double().mean()
    assert 0.2 < near < 0.6
    even = starts(cube(FLOAT, FLOAT), 256, NONE[:, :2], seed=1)
    counts = torch.histc(even[:, 0], 16, 0, 1)
    assert counts.min() >= 14 and counts.max() <= 18


def test_crossings_are_all_or_none() -> None:
    assert crossings([Column(levels(3)), Column(levels(2))], 6).shape == (6, 2)
    assert crossings([Column(levels(3))], 6).shape == (3, 1)
    assert crossings([Column(levels(3)), Column(levels(3))], 6) is None and crossings([FLOAT], 6) is None


def test_a_conditional_space_is_climbed_across_its_branches() -> None:
    space = Space({
        "net": Domain("choice", ({"mlp": {"width": Domain("randint", (1, 9))}, "cnn": {"lr": Domain("uniform", (0.0, 1.0))}},)),
        "rate": Domain("uniform", (0.0, 1.0)),
    })  # fmt: skip
    columns = [Column(None if dim.levels is None else levels(dim.levels), dim.kind != "category") for dim in space.dims]
    whole = Cube(columns, space.canonical)
    names = [dim.name for dim in space.dims]
    lr, rate, net = (next(k for k, name in enumerate(names) if name.split(".")[-1] == key) for key in ("lr", "rate", "net"))

    def score(x: Tensor) -> Tensor:        # the cnn branch is the better one, at lr = 0.8
        cnn = x[:, net] > 0.5
        return torch.where(cnn, 1 - (x[:, lr] - 0.8) ** 2, 0.9) - (x[:, rate] - 0.2) ** 2

    begun = whole.canonical(torch.full((1, len(columns)), 0.01, dtype=torch.float64))
    x, value = climb(lambda x, start: score(x), whole, begun)
    assert torch.equal(x, space.canonical(x)) and value.item() == pytest.approx(1.0, abs=1e-9)
    assert space.decode(x)[0]["net"]["name"] == "cnn"


def test_log_nei_is_climbed_as_high_as_a_dense_search_finds() -> None:
    fitted = process(n=25, d=2)
    drawn = fantasize(fitted, fitted.x, normal(8, 25))
    box = cube(FLOAT, FLOAT)
    grid = torch.cartesian_prod(*[torch.linspace(0, 1, 201, dtype=torch.float64)] * 2)
    found = pool(lambda x: log_noisy_expected_improvement(drawn, x), box, starts(box, 256, fitted.x[:3], seed=0), fitted.x)
    assert found.score[0] >= log_noisy_expected_improvement(drawn, grid).max() - 1e-9


def test_climbed_in_units_of_its_lengthscales_it_takes_fewer_steps_to_a_point_as_good() -> None:
    fitted = process(n=25, d=3)
    fitted = condition(fitted.kernel, fitted.x, fitted.y, fitted.hyper._replace(lengthscale=torch.tensor([0.08, 0.8, 8.0]).double()))
    drawn, box = fantasize(fitted, fitted.x, normal(8, 25)), cube(FLOAT, FLOAT, FLOAT)
    widths = scales(fitted.kernel, fitted.hyper, 3)
    assert torch.equal(widths, fitted.hyper.lengthscale)
    calls = 0

    def score(x: Tensor) -> Tensor:
        nonlocal calls
        calls += x.requires_grad
        return log_noisy_expected_improvement(drawn, x)

    begun = starts(box, 256, fitted.x[:3], seed=0)
    plain, calls, steps = pool(score, box, begun, fitted.x), 0, calls
    scaled = pool(score, box, begun, fitted.x, scale=widths)
    assert scaled.score[0] >= plain.score[0] - 1e-2 and calls < steps
    assert ((scaled.x >= 0) & (scaled.x <= 1)).all()


# Batches ----------------------------------------------------------------------------------------------------------------


def joint_improvement(fitted: Fitted, x: Tensor) -> float:
    """By 50,000 joint samples of all observed points and x."""
    draws = sample(fitted, torch.cat([fitted.x, x]), normal(50_000, len(fitted.x) + len(x), seed=99))
    n = len(fitted.x)
    return (draws[:, :n].amin(1) - draws[:, n:].amin(1)).clamp_min(0).mean().item()


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_is_nearly_as_good_as_climbing_anew_after_every_choice(seed: int) -> None:
    fitted, box = process(n=20, d=2, noise=0.01, seed=seed), cube(FLOAT, FLOAT)
    normals, begun = normal(16, 26, seed=3), starts(box, 256, fitted.x[:2], seed=seed)

    def climbed(pending: Tensor) -> Pool:
        drawn = fantasize(fitted, torch.cat([fitted.x, pending]), normals[:, : 20 + len(pending)])
        return pool(lambda x: log_noisy_expected_improvement(drawn, x), box, begun, fitted.x)

    drawn, first = fantasize(fitted, fitted.x, normals[:, :20]), climbed(fitted.x[:0])
    together = batch(drawn, box, first, fitted.x, normals[:, 20:])
    anew = first.x[:1]
    while len(anew) < 6:
        anew = torch.cat([anew, climbed(anew).x[:1]])
    plain = first.x[choose(drawn, first.x, normals[:, 20:])]
    assert joint_improvement(fitted, together) >= 0.9 * joint_improvement(fitted, anew)
    assert joint_improvement(fitted, together) >= 0.98 * joint_improvement(fitted, plain)


def test_a_batch_is_chosen_from_the_best_of_a_pool_and_how_many_more_there_are_does_not_matter() -> None:
    fitted, steps = process(n=20, d=2, noise=0.01), cube(Column(levels(64)), Column(levels(64)))
    drawn, normals = fantasize(fitted, fitted.x, normal(8, 20)), normal(8, 3, seed=4)
    whole = pool(lambda x: log_noisy_expected_improvement(drawn, x), steps, starts(steps, 512, NONE[:, :2], seed=0), NONE[:, :2])
    assert len(whole.x) > enough(3) == 128 and enough(100) == 400
    few = Pool(whole.x[:128], whole.score[:128])
    assert torch.equal(batch(drawn, steps, whole, NONE[:, :2], normals), batch(drawn, steps, few, NONE[:, :2], normals))
    turned = Pool(whole.x.flip(0), whole.score.flip(0))         # the last 128 are the best
    few = Pool(turned.x[:128], turned.score[:128])
    assert torch.equal(batch(drawn, steps, turned, NONE[:, :2], normals), batch(drawn, steps, few, NONE[:, :2], normals))


def test_a_batch_stands_on_levels_within_what_is_feasible_and_apart_from_what_was_taken() -> None:
    walled = cube(FLOAT, INT, CATEGORY, feasible=lambda x: x[:, 0] + x[:, 1] <= 1)
    fitted = process(n=20)
    drawn, begun = fantasize(fitted, fitted.x, normal(4, 20)), starts(walled, 128, NONE, seed=0)
    offered = pool(lambda x: log_noisy_expected_improvement(drawn, x), walled, begun, begun[:9])
    x = batch(drawn, walled, offered, begun[:9], normal(4, 32, seed=1), bonus=lambda x: -100 * (x[:, 0] - 0.2) ** 2)
    assert x.shape == (32, 3) and on_levels(walled, x) and (x[:, :2].sum(-1) <= 1).all()
    assert len(torch.unique(torch.cat([x, begun[:9]]), dim=0)) == 41
    assert (x[:8, 0] - 0.2).abs().max() < 0.3
    assert torch.equal(x, batch(drawn, walled, offered, begun[:9], normal(4, 32, seed=1), bonus=lambda x: -100 * (x[:, 0] - 0.2) ** 2))


# Thompson ---------------------------------------------------------------------------------------------------------------


def test_each_path_is_followed_to_its_own_minimum() -> None:
    fitted = process(n=15, d=2, noise=0.05)
    paths, box = draw(fitted, 12, generator=torch.Generator().manual_seed(0)), cube(FLOAT, FLOAT)
    found = path_maxima(paths, box, starts(box, 256, NONE[:, :2], seed=0), NONE[:, :2])
    grid = torch.cartesian_prod(*[torch.linspace(0, 1, 101, dtype=torch.float64)] * 2)
    short = evaluate(paths, found, torch.arange(12)) - evaluate_all(paths, grid).amin(1)
    # A path has many minima: now and then one of them is missed, by little.
    assert (short <= 1e-9).sum() >= 10 and short.max() < 0.05
    assert len(torch.unique(found, dim=0)) == 12


def test_paths_that_agree_are_given_different_points_as_long_as_there_are_some() -> None:
    fitted = process(n=15, d=3)
    small = cube(*[Column(levels(3))] * 3)
    paths = draw(fitted, 20, generator=torch.Generator().manual_seed(0))
    begun = starts(small, 0, NONE, seed=0)
    found = path_maxima(paths, small, begun, begun[:7])
    both = [tuple(row) for row in torch.cat([found, begun[:7]]).tolist()]
    assert len(set(both)) == 27
    with pytest.raises(ValueError, match="draw more starts"):
        path_maxima(paths, small, begun, begun[:8])

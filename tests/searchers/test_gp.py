"""GPSearch: what it learns from, and what does not change it. The suite of all searchers runs on it in test_laws.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import torchtune_hp as hp
from tests.faults.studies import Walk, arguments, story
from tests.faults.test_kill_at_every_turn import run_and_kill
from torchtune_hp.errors import ConfigurationError, StudyChangedError
from torchtune_hp.journal import Journal
from torchtune_hp.pareto import hypervolume
from torchtune_hp.searchers import GPSearch, RandomSearch, Searcher, SobolSearch
from torchtune_hp.searchers.gp_space import kernel_of
from torchtune_hp.space import Space
from torchtune_hp.testing.searcher_suite import SETTINGS, SearcherSuite, anywhere
from torchtune_hp.trial import Dim, Report, Setting, Source

NONE = torch.empty(0, 2, dtype=torch.float64)
PLANE = Setting((Dim("a", "float"), Dim("b", "float")), anywhere)
CURVES = replace(PLANE, max_t=16)


def begun(setting: Setting = PLANE, **given: Any) -> GPSearch:
    searcher = GPSearch(**given)
    searcher.begin(setting)
    return searcher


def points(n: int, d: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reports(x: Tensor, y: Sequence[float] | Tensor, step: int = 1, first: int = 0, done: bool = True) -> list[Report]:
    return [Report(first + k, step, (float(v),), 0, tuple(row), done=done) for k, (row, v) in enumerate(zip(x.tolist(), y))]


def bowl(x: Tensor, middle: float = 0.3) -> Tensor:
    return (x - middle).square().sum(1)


def ask(searcher: Searcher, n: int, index: int, pending: Tensor = NONE, seed: int = 5) -> Tensor:
    return searcher.ask(n, pending=pending, index=index, seed=seed)


def regret(searcher: Searcher, f: Callable[[Tensor], Tensor], d: int, n: int, seed: int) -> float:
    """The least of n values, asked for one by one."""
    searcher.begin(Setting(tuple(Dim(f"x{k}", "float") for k in range(d)), anywhere, seed=seed))
    least = math.inf
    for k in range(n):
        x = ask(searcher, 1, k, torch.empty(0, d, dtype=torch.float64), seed)
        y = f(x)
        searcher.tell(reports(x, y, first=k))
        least = min(least, float(y))
    return least


def branin(x: Tensor) -> Tensor:
    """Branin on the unit square, its least value 0."""
    a, b = 15 * x[:, 0] - 5, 15 * x[:, 1]
    bend = b - 5.1 / (4 * math.pi**2) * a * a + 5 / math.pi * a - 6
    return bend**2 + 10 * (1 - 1 / (8 * math.pi)) * a.cos() + 10 - 0.397887


def hartmann3(x: Tensor) -> Tensor:
    """Hartmann's function of three numbers, its least value 0."""
    height = x.new_tensor([1.0, 1.2, 3.0, 3.2])
    width = x.new_tensor([[3.0, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]])
    place = 1e-4 * x.new_tensor([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]])
    return 3.86278 - (height * torch.exp(-(width * (x[:, None] - place).square()).sum(-1))).sum(-1)


class TestWarped(SearcherSuite):
    """The suite of all searchers, where axes bend."""

    def make(self) -> GPSearch:
        return GPSearch(startup=4, warp=True)

    @pytest.fixture
    def setting(self) -> Setting:
        return SETTINGS["conditional"]()


# How good it is


@pytest.mark.parametrize("f, d, bound", [(branin, 2, 0.15), (hartmann3, 3, 0.05)])
def test_twenty_evaluations_come_nearer_to_the_least_value_than_random_ones_do(f: Callable[[Tensor], Tensor], d: int, bound: float) -> None:
    """Slow: 42 suggestions, one by one."""
    ours = sorted(regret(GPSearch(), f, d, 22, seed) for seed in range(3))
    random = sorted(regret(RandomSearch(), f, d, 22, seed) for seed in range(3))
    assert ours[1] < bound and ours[1] < random[1] / 4, (ours, random)


def test_a_maximum_is_found_where_the_other_values_are_absurd() -> None:
    x = points(20)
    y = bowl(x).tolist()
    worst = max(range(20), key=y.__getitem__)
    y[worst] = 1e30
    searcher = begun()
    searcher.tell(reports(x, y))
    assert bowl(ask(searcher, 1, 20)) < 0.02


# Axes that bend


def test_floats_and_ints_of_many_levels_are_warped_and_nothing_else() -> None:
    dims = (
        Dim("lr", "float", log=True), Dim("layers", "int", 15), Dim("width", "int", 16), Dim("net", "category", 2),
        Dim("batch", "ordinal", 99), Dim("seed", "int"), Dim("rate", "float", parent=("net", 1)), Dim("rounded", "float", 3),
    )  # fmt: skip
    setting = Setting(dims, anywhere, max_t=9, objectives=2)
    assert kernel_of(setting, looks=True, warp=True).warped == (0, 2, 5, 6)
    assert kernel_of(setting, looks=True).warped == ()


def test_that_there_is_nothing_to_bend_is_said() -> None:
    few = (Dim("net", "category", 2), Dim("layers", "int", 15), Dim("batch", "ordinal", 99), Dim("rounded", "float", 3))
    said = "GPSearch: warp=True bends floats and ints of 16 levels or more; the space has none, so nothing bends"
    for dims, warp, notes in ((few, True, [said]), (few, False, []), ((*few, Dim("width", "int", 16)), True, [])):
        assert begun(Setting(dims, anywhere), warp=warp).notes()[1:] == notes


def along_a_power(x: Tensor) -> Tensor:
    """Branin, most of it in a tenth of each axis."""
    return branin(x**0.25)


def test_with_warped_axes_fewer_evaluations_find_what_lies_crowded_at_one_end() -> None:
    """Slow: 84 suggestions."""
    bent, plain = (sorted(regret(GPSearch(warp=warp), along_a_power, 2, 22, seed) for seed in range(3)) for warp in (True, False))
    assert bent[1] < plain[1] / 4, (bent, plain)


def test_without_a_warp_no_point_is_another_than_by_default() -> None:
    x = points(20)
    default, off, on = begun(), begun(warp=False), begun(warp=True)
    for searcher in (default, off, on):
        searcher.tell(reports(x, bowl(x)))
    assert torch.equal(ask(default, 3, 20), ask(off, 3, 20)) and not torch.equal(ask(off, 3, 20), ask(on, 3, 20))


def test_failures_are_kept_away_from_where_axes_bend_too() -> None:
    x = points(24)
    y = x[:, 1] - x[:, 0] ** 0.1        # flat from a half on, and least beside the failures
    failing = [Report(24 + k, 1, (math.nan,), 0, (0.9, 0.02 * k), failed=True) for k in range(3)]
    searcher = begun(warp=True)
    searcher.tell([*reports(x, y), *failing])
    many = ask(searcher, 12, 27)
    assert ((many - many.new_tensor([0.9, 0.02])).abs() < 0.05).all(1).sum() == 0
    assert ((many[:, 0] > 0.5) & (many[:, 1] < 0.5)).sum() >= 3         # they do not speak for all of the flat part


def test_several_objectives_and_earlier_studies_are_warped_too() -> None:
    x = points(20)
    both = torch.stack([bowl(x**0.25, 0.7), bowl(x, 0.6)], 1).tolist()
    setting = replace(PLANE, objectives=2, max_t=1)
    earlier = Source("runs/a", (0, 1), tuple(map(tuple, x.tolist())), (1.0,) * 20, tuple((values[0],) for values in both))
    for given in (setting, replace(PLANE, sources=(earlier,))):
        told = [
            Report(k, 1, tuple(values[: given.objectives]), 0, tuple(row), done=True)
            for k, (row, values) in enumerate(zip(x.tolist(), both))
        ]
        bent, straight = begun(given, warp=True), begun(given)
        for searcher in (bent, straight):
            searcher.tell(told)
        found = ask(bent, 4, 20)
        assert found.shape == (4, 2) and ((found >= 0) & (found <= 1)).all() and torch.equal(found, ask(bent, 4, 20))
        assert not torch.equal(found, ask(straight, 4, 20))
        sources = [searcher._sources for searcher in (bent, straight)]
        assert [each and each._theirs.warped for each in sources] == ([(0, 1), ()] if given.sources else [None, None])


# First points


def test_the_first_points_are_those_of_sobol_search_and_from_then_on_the_process_suggests() -> None:
    searcher, sobol = begun(startup=5), SobolSearch()
    sobol.begin(PLANE)
    even = ask(sobol, 12, 0)
    assert torch.equal(ask(searcher, 12, 0), even)
    searcher.tell(reports(even[:4], bowl(even[:4])))
    assert torch.equal(ask(searcher, 3, 4), even[4:7])
    searcher.tell(reports(even[4:5], bowl(even[4:5]), first=4))
    assert not torch.equal(ask(searcher, 1, 5), even[5:6])


def test_where_nothing_finite_was_told_points_stay_those_of_sobol_search() -> None:
    searcher, sobol = begun(startup=2), SobolSearch()
    sobol.begin(PLANE)
    searcher.tell(reports(points(6), [math.inf] * 5 + [1.0]))
    assert torch.equal(ask(searcher, 2, 6), ask(sobol, 2, 6))


@pytest.mark.parametrize("warp", [1, 0, None, "yes"])
def test_whether_axes_bend_is_true_or_false(warp: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"warp: True or False is needed, but got {warp!r}"):
        GPSearch(warp=warp)


@pytest.mark.parametrize("given", [{"startup": 1}, {"startup": 2.5}, {"exact": 15}, {"exact": "all"}])
def test_arguments_without_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="a whole number of at least"):
        GPSearch(**given)


def test_a_setting_without_dimensions_has_points_without_coordinates() -> None:
    searcher = begun(Setting((), anywhere), startup=2)
    searcher.tell([Report(k, 1, (float(k),), 0, (), done=True) for k in range(4)])
    assert searcher.ask(3, pending=torch.empty(0, 0, dtype=torch.float64), index=4, seed=0).shape == (3, 0)


# Many at once


@pytest.mark.parametrize("n", [64, 1024])
def test_many_points_of_one_call_are_distinct_spread_and_mostly_good(n: int) -> None:
    """Slow with 1024: each is chosen beside those chosen before it."""
    x = points(30)
    searcher = begun()
    searcher.tell(reports(x, bowl(x)))
    found = ask(searcher, n, 30)
    assert found.shape == (n, 2) and len(torch.unique(found, dim=0)) == n
    assert found.min() >= 0 and found.max() <= 1
    assert found.std(0).min() > 0.02
    assert bowl(found[:16]).median() < bowl(points(1000, seed=1)).median() / 4


def test_what_is_running_is_not_suggested_again_nor_its_neighbourhood_alone() -> None:
    x = points(20)
    searcher = begun()
    searcher.tell(reports(x, bowl(x)))
    first = ask(searcher, 1, 20)
    pending = first.expand(1, 2)
    assert (ask(searcher, 8, 21, pending) - first).abs().sum(1).min() > 1e-4


# What it learns from


def test_looks_of_running_trials_are_learned_from() -> None:
    x = points(20)
    searcher = begun(CURVES)
    searcher.tell(reports(x, 1 + bowl(x, 0.7), step=1, done=False))
    assert bowl(ask(searcher, 4, 20, x), 0.7).min() < 0.03


def test_a_trial_stopped_early_is_judged_by_where_its_curve_leads() -> None:
    """On the left trials ran to their end, at 0.30; on the right they were stopped, ahead of where the left was then."""
    searcher = begun(CURVES, startup=8)
    left, right = points(10), points(10, seed=1)
    left[:, 0], right[:, 0] = 0.3 * left[:, 0], 0.7 + 0.3 * right[:, 0]
    for step, value in ((1, 1.0), (4, 0.6), (16, 0.3)):
        searcher.tell(reports(left, [value + 0.001 * k for k in range(10)], step, done=step == 16))
    for step, value in ((1, 0.8), (4, 0.4)):
        searcher.tell(reports(right, [value + 0.001 * k for k in range(10)], step, first=10, done=False))
    assert ask(searcher, 8, 20)[:, 0].median() > 0.5


def test_while_trials_are_stopped_early_every_third_point_is_even() -> None:
    """What begins well may end badly: where all that is told are beginnings, some points are asked for whatever they say."""
    x = points(20)
    stopped, trained = begun(CURVES), begun(CURVES)
    stopped.tell(reports(x, bowl(x), step=4, done=False))
    trained.tell(reports(x, bowl(x), step=16))
    sobol = SobolSearch()
    sobol.begin(CURVES)
    even = ask(sobol, 9, 20)
    for searcher, which in ((stopped, [0, 3, 6]), (trained, [])):
        found = ask(searcher, 9, 20)
        assert [k for k in range(9) if torch.equal(found[k], even[k])] == which      # of the whole study's numbers 20, 23 and 26
        others = [k for k in range(9) if k not in which]
        assert bowl(found[others]).mean() < bowl(even).mean()
        alone = torch.cat([ask(searcher, 1, 20 + k) for k in range(3)])
        assert [k for k in range(3) if torch.equal(alone[k], even[k])] == which[:1]


def test_where_brackets_stop_at_other_steps_no_point_is_even() -> None:
    x, searcher = points(20), begun(CURVES)
    searcher.tell([replace(report, tag=k % 2) for k, report in enumerate(reports(x, bowl(x), step=4, done=False))])
    sobol = SobolSearch()
    sobol.begin(CURVES)
    found, even = ask(searcher, 6, 20), ask(sobol, 6, 20)
    assert not any(torch.equal(found[k], even[k]) for k in range(6))


def test_of_rows_too_every_third_is_one_of_the_permutation_and_none_comes_twice() -> None:
    rows = points(40)
    setting = replace(CURVES, rows=rows)
    searcher = begun(setting)
    searcher.tell(reports(rows[:20], bowl(rows[:20]), step=4, done=False))
    found = ask(searcher, 12, 20)
    assert len({tuple(row) for row in found.tolist()} | {tuple(row) for row in rows[:20].tolist()}) == 32


def test_failures_are_learned_from_although_they_have_no_value() -> None:
    """The bowl's bottom lies where every trial fails. Who is not told of failures goes there again and again."""
    near = []
    for aware in (True, False):
        searcher = begun()
        tried = points(20)
        index = 0
        for k in range(8):
            some = tried if k == 0 else ask(searcher, 1, index)
            bad = (some[:, 0] < 0.5).tolist()
            told = [
                Report(index + j, 1, (math.inf if no else value,), 0, tuple(row), done=True, failed=no)
                for j, (row, value, no) in enumerate(zip(some.tolist(), bowl(some).tolist(), bad))
            ]
            searcher.tell([report for report in told if aware or not report.failed])
            tried = some if k == 0 else torch.cat([tried, some])
            index = len(tried)
        asked = tried[20:]
        near.append(int((torch.cdist(asked, asked) + torch.eye(len(asked)) < 0.02).any(1).sum()))
    assert near[0] <= near[1] / 2, near


def test_several_objectives_are_searched_along_their_front() -> None:
    searcher = begun(replace(PLANE, objectives=2))
    x = points(25)
    searcher.tell([
        Report(k, 1, (row[0] ** 2 + row[1], (1 - row[0]) ** 2 + row[1]), 0, tuple(row), done=True) for k, row in enumerate(x.tolist())
    ])  # fmt: skip
    found = ask(searcher, 8, 25)
    assert found[:, 1].median() < 0.1, "the front is the lower edge"
    assert found[:, 0].max() - found[:, 0].min() > 0.3
    assert torch.equal(found, ask(searcher, 8, 25))


@pytest.mark.parametrize("m", [2, 3])
def test_a_batch_along_a_front_is_distinct_and_covers_it(m: int) -> None:
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)[:m]
    searcher, x = begun(replace(PLANE, objectives=m)), points(12)

    def told(x: Tensor, first: int) -> list[Report]:
        values = torch.cdist(x, corners).tolist()
        return [Report(first + k, 1, tuple(row), 0, tuple(at), done=True) for k, (row, at) in enumerate(zip(values, x.tolist()))]

    searcher.tell(told(x, 0))
    found = ask(searcher, 6, 12, x[:3])
    assert len(torch.unique(found, dim=0)) == 6 and found.min() >= 0 and found.max() <= 1
    # The front is the edge between two corners, or the triangle of three.
    assert (found.sum(1) < 1.2).double().mean() > 0.8 if m == 3 else found[:, 1].median() < 0.1
    assert found[:, 0].max() - found[:, 0].min() > 0.4
    assert torch.equal(found, ask(searcher, 6, 12, x[:3]))


def test_more_of_a_front_is_found_than_by_chance() -> None:
    """ZDT1 in four dimensions: the share of the true front's hypervolume after 25 evaluations."""

    def share(searcher: Searcher, seed: int) -> float:
        setting = Setting(tuple(Dim(f"x{k}", "float") for k in range(4)), anywhere, objectives=2, seed=seed)
        searcher.begin(setting)
        found = []
        for k in range(25):
            x = ask(searcher, 1, k, torch.empty(0, 4, dtype=torch.float64), seed)
            g = 1 + 3 * float(x[0, 1:].sum())
            found.append((float(x[0, 0]), g * (1 - math.sqrt(float(x[0, 0]) / g))))
            searcher.tell([Report(k, 1, found[-1], 0, tuple(x[0].tolist()), done=True)])
        return hypervolume(found, (1.1, 1.1)) / 0.876667

    ours, random = share(GPSearch(), 0), share(RandomSearch(), 0)
    assert ours > 0.65 and ours > random + 0.4, (ours, random)


def test_failures_and_constraints_are_kept_away_from_along_a_front_too() -> None:
    setting, kept = replace(PLANE, objectives=2, feasible=lambda x: x[:, 1] > 0.05), []
    for seed in range(4):
        searcher, x = begun(setting), points(30, seed=seed)
        x = x[setting.feasible(x)]
        searcher.tell([
            Report(k, 1, (math.inf, math.inf) if a < 0.4 else (a + b, 1 - a + b), 0, (a, b), done=True, failed=a < 0.4)
            for k, (a, b) in enumerate(x.tolist())
        ])  # fmt: skip
        found = ask(searcher, 6, len(x))
        assert setting.feasible(found).all() and found[:, 1].median() < 0.2
        kept += (found[:, 0] > 0.35).tolist()
    assert sum(kept) > 0.8 * len(kept)


def test_rows_along_the_front_come_first() -> None:
    rows = points(200)
    searcher = begun(replace(PLANE, objectives=2, rows=rows))
    x = ask(searcher, 20, 0)
    searcher.tell([Report(k, 1, (a + b, 1 - a + b), 0, (a, b), done=True) for k, (a, b) in enumerate(x.tolist())])
    found = ask(searcher, 12, 20)
    assert {tuple(row) for row in found.tolist()} <= {tuple(row) for row in rows.tolist()} - {tuple(row) for row in x.tolist()}
    assert found[:, 1].median() < 0.15


def test_more_than_three_objectives_are_scalarized_and_the_log_says_so() -> None:
    searcher = begun(replace(PLANE, objectives=4))
    assert "with 4 objectives points are those of 8 weighted scalarizations" in searcher.notes()[1]
    x = points(12)
    searcher.tell([Report(k, 1, (a, 1 - a, b, 1 - b), 0, (a, b), done=True) for k, (a, b) in enumerate(x.tolist())])
    assert len(torch.unique(ask(searcher, 10, 12), dim=0)) == 10
    assert len(begun(replace(PLANE, objectives=3)).notes()) == 1


# Spaces


def test_branches_quantities_and_categories_are_searched_on_their_levels() -> None:
    space = Space({
        "net": hp.choice({"mlp": {"width": hp.randint(1, 9)}, "cnn": {"stride": hp.uniform(0, 1)}}),
        "lr": hp.qloguniform(1e-4, 1e-1, 1e-4), "size": hp.ordinal([8, 16, 32]),
    })  # fmt: skip
    setting = Setting(space.dims, space.feasible, levels=space.levels)
    searcher = begun(setting)
    none = torch.empty(0, len(space.dims), dtype=torch.float64)

    def loss(config: Any) -> float:
        net = config["net"]
        return abs(net["width"] - 6) / 8 if net["name"] == "mlp" else 1 + net["stride"]

    x = space.canonical(points(24, len(space.dims)))
    searcher.tell(reports(x, [loss(config) for config in space.decode(x)]))
    found = ask(searcher, 6, 24, none)
    assert torch.allclose(space.canonical(found), found, atol=1e-6)
    nets = [config["net"] for config in space.decode(found)]
    assert sum(net["name"] == "mlp" and abs(net["width"] - 6) <= 2 for net in nets) >= 4


def test_constraints_hold_where_hardly_anything_is_feasible() -> None:
    setting = replace(PLANE, feasible=lambda x: (x[:, 0] - 0.123).abs() + (x[:, 1] - 0.9).abs() < 0.02)
    sobol = SobolSearch()
    sobol.begin(setting)
    x = ask(sobol, 10, 0)
    searcher = begun(setting)
    searcher.tell(reports(x, bowl(x)))
    found = ask(searcher, 5, 10)
    assert setting.feasible(found).all() and len(torch.unique(found, dim=0)) == 5


@pytest.mark.parametrize("remainder", [3, 20])
def test_what_is_suggested_is_feasible_where_constraints_choose_among_more_levels_than_a_climb_knows(remainder: int) -> None:
    """The thinned levels are others than those that are feasible."""
    space = Space({"a": hp.randint(0, 100_000)}, constraints=[lambda config: config["a"] % 37 == remainder])
    setting = Setting(space.dims, space.feasible, 1, 1, levels=space.levels)
    searcher = begun(setting, startup=2)
    nothing = torch.empty(0, 1, dtype=torch.float64)
    for k in range(9):
        x = space.canonical(ask(searcher, 1, k, nothing))
        assert space.feasible(x).all()
        searcher.tell(reports(x, bowl(x), first=k))


def test_every_row_comes_exactly_once_and_good_ones_first() -> None:
    rows = points(300)
    setting = replace(PLANE, rows=rows)
    searcher = begun(setting)
    x = NONE
    while len(x) < 300:
        some = ask(searcher, min(40, 300 - len(x)), len(x))
        searcher.tell(reports(some, bowl(some), first=len(x)))
        x = torch.cat([x, some])
    assert sorted(x.tolist()) == sorted(rows.tolist())
    assert bowl(x[40:80]).mean() < bowl(x[-100:]).mean() / 3


def test_every_crossing_of_a_small_space_comes_before_any_comes_again() -> None:
    setting = Setting((Dim("a", "category", 4), Dim("b", "ordinal", 4)), anywhere)
    searcher = begun(setting, startup=2)
    x = ((torch.cartesian_prod(torch.arange(4), torch.arange(4)).double() + 0.5) / 4)[:5]
    searcher.tell(reports(x, bowl(x)))
    x = torch.cat([x, ask(searcher, 11, 5)])
    assert len(torch.unique(x, dim=0)) == 16
    searcher.tell(reports(x[5:], bowl(x[5:]), first=5))
    assert ask(searcher, 3, 16).shape == (3, 2)


# What does not change it


def test_whether_and_when_it_was_asked_changes_nothing() -> None:
    x = points(70)
    heard, asked = begun(), begun()
    for k in range(0, 70, 7):
        told = reports(x[k : k + 7], bowl(x[k : k + 7]), first=k)
        asked.tell(told)
        ask(asked, 2, k)
        heard.tell(told[:3])
        heard.tell(told[3:])
    assert torch.equal(ask(heard, 3, 70), ask(asked, 3, 70))


def test_more_observations_than_exact_are_cut_and_the_log_says_so_once() -> None:
    x = points(60)
    searcher = begun(exact=16)
    (said,) = searcher.notes()
    assert "until 8 trials are told" in said and "points are a Sobol sequence" in said
    searcher.tell(reports(x[:16], bowl(x[:16])))
    assert searcher.notes() == []
    searcher.tell(reports(x[16:], bowl(x[16:]), first=16))
    (said,) = searcher.notes()
    assert "more than 16 observations" in said and searcher.notes() == []
    assert bowl(ask(searcher, 1, 60)) < 0.05


# In a study


def small(folder: Path, executor: Any) -> dict[str, Any]:
    return arguments(folder, executor, searcher=hp.GPSearch(startup=4, exact=16), trials=9)


def test_whether_axes_bend_is_in_the_journal_and_a_study_goes_on_as_it_began(tmp_path: Path) -> None:
    given = {**small(tmp_path, hp.Simulated(1)), "searcher": hp.GPSearch(startup=4, exact=16, warp=True)}
    hp.Tuner(**given).fit()
    with Journal.open(tmp_path / "walk") as journal:
        assert journal.header["searcher"]["args"] == {"startup": 4, "exact": 16, "warp": True}
    with pytest.raises(StudyChangedError, match="searcher.warp: True -> False"):
        hp.Tuner(**{**given, "searcher": hp.GPSearch(startup=4, exact=16)}).fit()
    assert len(hp.Tuner.resume(tmp_path / "walk", Walk, trials="+2", verbose=0).fit()) == 11


def said(folder: Path) -> list[str]:
    with Journal.open(folder / "walk") as journal:
        return [note.text for note in journal.notes("searcher")]


def test_serial_equals_simulated_and_the_log_says_what_was_not_the_process(tmp_path: Path) -> None:
    """Slow: three studies, whose every point from the fifth on is the process's."""
    hp.Tuner(**small(tmp_path / "a", hp.Serial())).fit()
    hp.Tuner(**small(tmp_path / "b", hp.Simulated(1))).fit()
    assert story(tmp_path / "a" / "walk") == story(tmp_path / "b" / "walk")
    assert said(tmp_path / "a") == said(tmp_path / "b")
    again = hp.Tuner.resume(tmp_path / "a" / "walk", Walk, trials="+2", verbose=0).fit()
    assert len(again) == 11, "the journal rebuilds the searcher from its arguments"
    assert len(said(tmp_path / "a")) == len(set(said(tmp_path / "a"))) and "until 4 trials" in said(tmp_path / "a")[0]


def test_a_study_killed_resumes_to_the_same_story_and_says_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hp.Tuner(**small(tmp_path / "whole", hp.Simulated(3))).fit()
    whole = story(tmp_path / "whole" / "walk")
    for turn in (3, len(whole) // 2, len(whole) - 2):
        folder = tmp_path / str(turn)
        run_and_kill(turn, turn % 2 == 0, small(folder, hp.Simulated(3)), monkeypatch)
        hp.Tuner(**small(folder, hp.Simulated(3))).fit()
        assert story(folder / "walk") == whole, f"killed at turn {turn}"
        assert said(folder) == said(tmp_path / "whole")

"""GPSearch with earlier studies: what it makes of them, and that they cost little where they mislead. Laws as in `gp_sources`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from torchtune_hp.gp.fit import fit
from torchtune_hp.gp.regression import condition, predict
from torchtune_hp.searchers import GPSearch, SobolSearch
from torchtune_hp.searchers.gp_sources import Sources
from torchtune_hp.space import Space, choice, uniform
from torchtune_hp.testing.searcher_suite import MIXED, SETTINGS, SearcherSuite, anywhere, below_a_plane, the_rows
from torchtune_hp.trial import Dim, Report, Setting, Source

from .test_gp import NONE, PLANE, ask, begun, bowl, branin, points, reports

ELSEWHERE = torch.tensor([0.7, 0.6], dtype=torch.float64)


def valley(x: Tensor) -> Tensor:
    return (x - ELSEWHERE).square().sum(1)


def source(f: Callable[[Tensor], Tensor], x: Tensor | None = None, shared: tuple[int, ...] | None = None, budget: float = 1.0) -> Source:
    x = points(30, seed=9) if x is None else x
    values = tuple((value,) for value in f(x).tolist())
    shared = tuple(range(x.shape[1])) if shared is None else shared
    return Source("runs/a", shared, tuple(map(tuple, x.tolist())), (budget,) * len(x), values)


def warm(*sources: Source, setting: Setting = PLANE, **given: Any) -> GPSearch:
    return begun(replace(setting, sources=sources), **given)


class TestWarm(SearcherSuite):
    """The suite of all searchers, on settings with sources of their dimensions."""

    def make(self) -> GPSearch:
        return GPSearch(startup=4)

    @pytest.fixture(params=("conditional", "rows"))      # as slow as two suites; tests below have the rest
    def setting(self, request: pytest.FixtureRequest) -> Setting:
        setting = SETTINGS[request.param]()
        x = points(12, len(setting.dims), seed=3)
        return replace(setting, sources=(source(bowl, x), source(valley_like, x, (0, 1))))

    def test_each_point_is_one_of_the_rows_and_no_row_comes_twice(self) -> None:
        rows = the_rows()
        setting = Setting(tuple(Dim(f"x{k}", "float") for k in range(4)), anywhere, max_t=9, rows=rows, sources=(source(bowl, rows[:9]),))
        searcher = self.begun(setting)
        taken = torch.empty(0, 4, dtype=torch.float64)
        while len(taken) < len(rows):
            some = searcher.ask(min(3, len(rows) - len(taken)), pending=taken[:0], index=len(taken), seed=1)
            searcher.tell(reports(some, bowl(some), first=len(taken)))
            taken = torch.cat([taken, some])
        assert sorted(taken.tolist()) == sorted(rows.tolist())


def valley_like(x: Tensor) -> Tensor:
    return (x[:, 0] - 0.7).abs()


# First points


def test_every_second_of_the_first_points_is_a_sources_best_and_the_others_are_those_without() -> None:
    searcher, sobol = warm(source(valley), source(bowl, points(20, seed=4))), SobolSearch()
    sobol.begin(PLANE)
    found, even = ask(searcher, 4, 0), ask(sobol, 4, 0)
    assert torch.equal(found[[1, 3]], even[[1, 3]])
    best = [points(30, seed=9)[valley(points(30, seed=9)).argmin()], points(20, seed=4)[bowl(points(20, seed=4)).argmin()]]
    assert torch.equal(found[0], best[0]) and torch.equal(found[2], best[1])
    assert torch.equal(ask(searcher, 1, 1), even[1:2]), "an odd point alone"


def test_the_second_of_a_sources_points_is_not_beside_the_first_nor_beside_what_was_tried() -> None:
    x = torch.cat([ELSEWHERE + 0.01 * points(20), points(20, seed=2)])
    searcher = warm(source(valley, x))
    found = ask(searcher, 3, 0)
    assert torch.dist(found[0], found[2]) > 0.14
    searcher.tell(reports(found[:1], valley(found[:1])))
    assert torch.dist(ask(searcher, 1, 2)[0], found[0]) > 0.14


def told_in_turn(searcher: GPSearch, f: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """The first n points (n, d), one at a time."""
    found = NONE
    for k in range(n):
        x = ask(searcher, 1, k)
        searcher.tell(reports(x, f(x), first=k))
        found = torch.cat([found, x])
    return found


def test_a_source_that_is_wrong_about_all_costs_one_of_the_first_points() -> None:
    """Its best is found to be worse than the even point after it, so no second one is asked for; nor is a process without its help."""
    x = points(40, seed=9)
    misled, alone = warm(source(lambda x: -branin(x), x)), begun()
    assert torch.equal(told_in_turn(misled, branin, 8)[1:], told_in_turn(alone, branin, 8)[1:])


def test_while_no_source_has_weight_early_points_are_those_without() -> None:
    x = points(7)
    for n in (3, 4, 7):
        misled, alone = warm(source(lambda x: -branin(x), points(40, seed=9))), begun()
        for searcher in (misled, alone):
            searcher.tell(reports(x[:n], branin(x[:n])))
        assert torch.equal(ask(misled, 4, n), ask(alone, 4, n))


def test_of_several_sources_those_that_have_the_first_pair_right_are_asked_for_more() -> None:
    x = points(30, seed=9)
    searcher = warm(source(lambda x: -valley(x), x), source(valley, x))
    assert torch.equal(told_in_turn(searcher, valley, 3)[2], x[valley(x).argmin()])


def test_a_pair_that_is_as_good_refutes_no_source() -> None:
    x = points(30, seed=9)
    searcher = warm(source(valley, x))
    searcher.tell(reports(points(2), torch.ones(2, dtype=torch.float64)))
    assert torch.equal(ask(searcher, 1, 2)[0], x[valley(x).argmin()])


def test_looks_at_different_budgets_refute_no_source() -> None:
    sources = warm(source(valley), setting=replace(PLANE, max_t=4))._sources
    assert sources is not None
    near_and_far = torch.stack([ELSEWHERE, torch.zeros(2, dtype=torch.float64)])
    for early, refuted in ((1.0, True), (0.25, False)):
        x = torch.cat([near_and_far, torch.tensor([[early], [1.0]], dtype=torch.float64)], 1)
        assert sources._contradicted(x, torch.tensor([[1.0, 0.0]], dtype=torch.float64)).tolist() == [[refuted]]


def test_a_hyperparameter_that_no_source_knows_is_searched_evenly() -> None:
    searcher, sobol = warm(source(valley, shared=(0,))), SobolSearch()
    sobol.begin(PLANE)
    assert ask(searcher, 1, 0)[0, 1] == ask(sobol, 1, 0)[0, 1]


def test_what_is_infeasible_here_is_not_suggested() -> None:
    setting = Setting(MIXED, below_a_plane)
    x = points(30, 5, seed=1)
    searcher = warm(source(lambda x: x[:, 0], x[~below_a_plane(x)]), setting=setting)
    found = searcher.ask(6, pending=torch.empty(0, 5, dtype=torch.float64), index=0, seed=1)
    assert len(found) == 6 and below_a_plane(found).all()


# The process


def conditioned(*sources: Source, f: Callable[[Tensor], Tensor] = valley, n: int = 8, setting: Setting = PLANE) -> tuple[Any, Any]:
    """This study's process with sources, and without."""
    searcher = warm(*sources, setting=setting)
    x = torch.cat([points(n), torch.ones(n, 1, dtype=torch.float64)], 1)
    y = f(x[:, :-1])
    y = (y - y.mean()) / y.std(correction=0)
    hyper = _hyper(searcher, x, y)
    return searcher._sources.condition(0, x, y, hyper), condition(searcher._kernel, x, y, hyper)     # type: ignore[union-attr]


def _hyper(searcher: GPSearch, x: Tensor, y: Tensor) -> Any:
    return fit(searcher._kernel, x, y).hyper


def test_a_source_without_weight_changes_no_bit() -> None:
    found, alone = conditioned(source(lambda x: -valley(x)))
    assert found.trend is None
    for name in ("x", "y", "noise", "factor", "whitened", "alpha"):
        assert torch.equal(getattr(found, name), getattr(alone, name))


def test_a_source_that_ranks_well_is_the_mean_and_what_it_explains_is_no_more_uncertain() -> None:
    found, alone = conditioned(source(valley))
    new = torch.cat([points(200, seed=5), torch.ones(200, 1, dtype=torch.float64)], 1)
    truth = valley(new[:, :-1])

    def order(fitted: Any) -> float:
        ranks = [values.argsort().argsort().double() for values in (predict(fitted, new)[0], truth)]
        return float(torch.corrcoef(torch.stack(ranks))[0, 1])

    assert found.trend is not None and order(found) > order(alone) and order(found) > 0.97
    assert found.hyper.outputscale < 0.2 * alone.hyper.outputscale


def test_what_was_observed_is_met_however_much_a_source_weighs() -> None:
    found, _ = conditioned(source(valley), f=lambda x: valley(x) + 0.3 * x[:, 0])
    assert found.trend is not None
    assert (predict(found, found.x)[0] - found.y).abs().max() < 0.3


def test_a_source_says_the_same_wherever_a_hyperparameter_stands_that_it_does_not_know() -> None:
    found, _ = conditioned(source(lambda x: valley_like(x), shared=(0,)), f=valley_like, n=12)
    assert found.trend is not None
    line = torch.rand(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    line[:, 0], line[:, 2] = 0.4, 1.0
    assert found.trend(line).std() < 1e-9


def test_looks_at_one_trial_are_one_place_and_silence_no_source() -> None:
    searcher, x = of_two_objectives(max_t=27), points(20, seed=9)
    best = x[int(valley(x).argmin())]
    told = [Report(0, step, (float(valley(best[None])), float(bowl(best[None]))), 0, tuple(best.tolist())) for step in (1, 4, 16)]
    searcher.tell(told[:2])
    before = ask(searcher, 1, 2)
    searcher.tell(told[2:])
    assert torch.equal(ask(searcher, 1, 2), before) and (x == before[0]).all(1).any()


def test_fewer_trials_than_can_be_ranked_leave_the_process_as_it_is() -> None:
    found, alone = conditioned(source(valley), n=2)
    assert torch.equal(found.alpha, alone.alpha) and found.trend is None


def test_trials_are_ranked_among_those_trained_as_far_by_their_newest_looks() -> None:
    """Early looks are all worse than late ones: the wrong source would be right about those pairs."""
    setting = replace(PLANE, max_t=4)
    x = points(16)
    t = torch.where(torch.arange(16) % 2 == 0, 0.25, 1.0).double()[:, None]
    rows = torch.cat([x, t], 1)
    y = valley(x) + 50 * (1 - t[:, 0])
    y = (y - y.mean()) / y.std(correction=0)
    wrong = replace(source(lambda x: -valley(x) + 50 * (1 - t[:, 0]), x), budget=tuple(t[:, 0].tolist()))
    searcher = warm(wrong, setting=setting)
    assert searcher._sources is not None
    assert searcher._sources.condition(0, rows, y, _hyper(searcher, rows, y)).trend is None
    both = torch.cat([rows, torch.cat([x, torch.ones(16, 1).double()], 1)])
    seen = searcher._sources.condition(0, both, torch.cat([y, valley(x)]), _hyper(searcher, rows, y))
    assert seen.y.shape == (32,), "all looks are conditioned on"


# Purity


def test_whether_and_when_it_was_asked_changes_nothing_and_a_copy_is_the_same() -> None:
    x = points(5)
    asked, fresh = warm(source(valley)), warm(source(valley))
    ask(asked, 2, 0)
    for searcher in (asked, fresh):
        searcher.tell(reports(x, valley(x)))
    ask(asked, 3, 5)
    twin = copy.deepcopy(asked)
    found = ask(asked, 2, 6)
    assert torch.equal(found, ask(fresh, 2, 6)) and torch.equal(found, ask(twin, 2, 6))


def test_sources_are_fitted_only_when_they_are_asked() -> None:
    sources = Sources(replace(PLANE, sources=(source(valley),)), begun()._kernel, begun()._reported)
    assert "_fitted" not in vars(sources)


def test_sources_are_fitted_to_the_same_bits_however_many_threads_their_first_reader_has() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            searcher = warm(source(branin, points(128, seed=9)))
            assert searcher._sources is not None
            found.append(searcher._sources._fitted.alpha)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_sources_of_different_sizes_and_budgets_are_one_batch() -> None:
    setting = replace(PLANE, max_t=9)
    searcher = warm(source(valley), source(bowl, points(7), budget=1 / 9), setting=setting)
    assert searcher._sources is not None and searcher._sources._fitted.y.shape == (2, 1, 30)
    assert warm(source(valley), source(bowl, points(2)), setting=setting)._sources._fitted.alpha.isfinite().all()      # type: ignore[union-attr]


# Everything it can be put to


def test_several_objectives_take_sources_of_several() -> None:
    setting = replace(PLANE, objectives=2)
    x = points(20, seed=9)
    both = Source("a", (0, 1), tuple(map(tuple, x.tolist())), (1.0,) * 20, tuple(zip(valley(x).tolist(), bowl(x).tolist())))
    searcher = warm(both, setting=setting)
    first = ask(searcher, 4, 0)
    values = zip(valley(first).tolist(), bowl(first).tolist())
    searcher.tell([Report(k, 1, both, 0, tuple(x), done=True) for k, (x, both) in enumerate(zip(first.tolist(), values))])
    found = ask(searcher, 4, 4)
    assert found.shape == (4, 2) and len(torch.unique(found, dim=0)) == 4


def of_two(x: Tensor) -> list[Report]:
    values = zip(valley(x).tolist(), bowl(x).tolist())
    return [Report(k, 1, both, 0, tuple(x), done=True) for k, (x, both) in enumerate(zip(x.tolist(), values))]


def of_two_objectives(max_t: int | None = None, **given: Any) -> GPSearch:
    reports = of_two(points(20, seed=9))
    both = Source("a", (0, 1), tuple(one.x for one in reports), (1.0,) * 20, tuple(one.values for one in reports))
    return warm(both, setting=replace(PLANE, objectives=2, max_t=max_t or PLANE.max_t), **given)


def test_a_source_of_several_objectives_gives_its_best_in_those_that_it_orders_right() -> None:
    """The first objective of the pair is turned round, the second is not: point 2 is the best in the second."""
    first, second = of_two_objectives(), of_two_objectives()
    x = points(20, seed=9)
    pair = x[[int(valley(x).argmin()), int(valley(x).argmax())]]
    for searcher, sign in ((first, 1.0), (second, -1.0)):
        values = zip((sign * valley(pair)).tolist(), bowl(pair).tolist())
        searcher.tell([Report(k, 1, both, 0, tuple(at), done=True) for k, (at, both) in enumerate(zip(pair.tolist(), values))])
    assert torch.equal(ask(first, 1, 2), ask(second, 1, 2)), "of the second objective"
    theirs, even = ask(first, 1, 4)[0], ask(second, 1, 4)[0]
    assert (x == theirs).all(1).any() and not (x == even).all(1).any()


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_a_source_of_several_objectives_gives_its_best_in_each_in_turn(at_once: int) -> None:
    searcher, x = of_two_objectives(), points(20, seed=9)
    found = NONE
    for index in range(0, 4, at_once):
        found = torch.cat([found, ask(searcher, at_once, index, found)])
    assert torch.equal(found[0], x[valley(x).argmin()]) and torch.equal(found[2], x[bowl(x).argmin()])


def test_early_points_of_the_process_take_turns_between_the_near_and_the_far_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    searcher, seen = of_two_objectives(startup=32), []
    front = [(k / 7, 1 - k / 7) for k in range(8)]
    for k, (x, values) in enumerate(zip(points(12).tolist(), [*front, *[(3.0, 3.0)] * 4])):
        searcher.tell([Report(k, 1, values, 0, tuple(x), done=True)])
    suggested = searcher._suggested

    def watched(processes: Any, reference: Any, *rest: Any) -> Tensor:
        seen.append(reference.tolist())
        return suggested(processes, reference, *rest)

    monkeypatch.setattr(searcher, "_suggested", watched)
    ask(searcher, 1, 12)
    ask(searcher, 1, 14)
    ask(searcher, 2, 13)        # of the two, number 14 is theirs
    _, references = searcher._outcomes(searcher._history.training_set())
    assert references is not None and (references[0] < references[1]).all()
    assert seen == references[[0, 1, 1]].tolist()


def test_the_log_says_whose_the_first_points_are() -> None:
    assert "every second one, which is of the earlier studies" in warm(source(valley)).notes()[0]
    assert "earlier studies" not in begun().notes()[0]


def test_branches_that_a_source_shares_are_searched_in_their_bounds() -> None:
    space = Space({"net": choice({"mlp": {"width": uniform(0.0, 1.0)}, "cnn": {"filters": uniform(0.0, 1.0)}}), "lr": uniform(0.0, 1.0)})
    x = space.canonical(points(24, len(space), seed=1))
    setting = Setting(space.dims, space.feasible, levels=space.levels)
    searcher = warm(source(lambda x: x[:, -1] + x[:, 0], x), setting=setting)
    found = searcher.ask(3, pending=x[:0], index=0, seed=1)
    searcher.tell(reports(found, found[:, -1]))
    again = searcher.ask(4, pending=x[:0], index=3, seed=1)
    theirs = again[[1, 3]]          # the others are Sobol's, of the whole cube
    assert torch.allclose(space.canonical(theirs), theirs, atol=1e-9), "up to the digits that a config has"


# How good it is


def regrets(f: Callable[[Tensor], Tensor], n: int, seeds: range, *sources: Source) -> list[float]:
    least = []
    for seed in seeds:
        searcher, best = begun(replace(PLANE, seed=seed, sources=sources)), float("inf")
        for k in range(n):
            x = ask(searcher, 1, k, NONE, seed)
            searcher.tell(reports(x, f(x), first=k))
            best = min(best, float(f(x)))
        least.append(best)
    return sorted(least)


def test_a_perfect_source_is_better_than_none() -> None:
    """After 6 evaluations, of which 3 are Sobol's with a source, and all are without."""
    alike = regrets(branin, 6, range(5), source(branin, points(40, seed=9)))
    none = regrets(branin, 6, range(5))
    assert alike[2] < 1 and alike[2] < none[2] / 4, (alike, none)


def test_a_misleading_source_is_given_up_once_a_few_trials_contradict_it() -> None:
    """Its best is the worst. From then on points are those without it; what it costs until then is for `benchmarks/warm_start.py`."""
    x = points(8)
    misled, alone = warm(source(lambda x: -branin(x), points(40, seed=9))), begun()
    for searcher in (misled, alone):
        searcher.tell(reports(x, branin(x)))
    assert torch.equal(ask(misled, 2, 8), ask(alone, 2, 8))

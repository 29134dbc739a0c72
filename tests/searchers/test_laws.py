"""The shipped suite on every searcher of the library, and on searchers that break a law: each is caught."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from torchtune_hp.searchers import RandomSearch, Searcher
from torchtune_hp.testing.searcher_suite import SEARCHERS, SETTINGS, SearcherSuite

for _name, _make in SEARCHERS.items():
    globals()[f"Test{_name}"] = type(f"Test{_name}", (SearcherSuite,), {"make": staticmethod(_make)})


class Counts(RandomSearch):
    """Changes by being asked."""

    calls = 0

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        self.calls += 1
        return super().ask(n, pending=pending, index=index, seed=seed + self.calls)


class Global(RandomSearch):
    """Draws from torch's global generator."""

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        return torch.rand(n, len(self.setting.dims), dtype=torch.float64)


class Outside(RandomSearch):
    """Leaves the cube."""

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        return super().ask(n, pending=pending, index=index, seed=seed) + 0.5


class Blocks(RandomSearch):
    """Row i depends on the block it is asked in."""

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        return super().ask(n, pending=pending, index=index, seed=seed).flip(0)


class Repeats(RandomSearch):
    """Gives a row again."""

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        return super().ask(n, pending=pending, index=0, seed=seed)


class Shrinks(RandomSearch):
    """Counts what is left from now on, not from the beginning."""

    gone = 0

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        self.gone = index + n
        return super().ask(n, pending=pending, index=index, seed=seed)

    def left(self) -> int | None:
        left = super().left()
        return None if left is None else left - self.gone + 1


class Forgets(RandomSearch):
    """Keeps its argument under another name."""

    def __init__(self, width: int = 1) -> None:
        self.wide = width


class Single(RandomSearch):
    """Answers in float32."""

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        return super().ask(n, pending=pending, index=index, seed=seed).float()


@pytest.mark.parametrize(
    "make, law, setting",
    [
        (Counts, "test_ask_changes_nothing_bits_included", "mixed"),
        (Global, "test_same_setting_told_reports_pending_index_and_seed_same_points", "mixed"),
        (Global, "test_no_global_randomness_is_drawn", "mixed"),
        (Outside, "test_points_lie_in_the_unit_cube_and_are_feasible", "mixed"),
        (Outside, "test_failures_and_infinite_scores_leave_the_points_finite_and_feasible", "mixed"),
        (Blocks, "test_not_adaptive_means_row_i_depends_on_seed_and_i_alone", "conditional"),
        (Repeats, "test_each_point_is_one_of_the_rows_and_no_row_comes_twice", None),
        (Shrinks, "test_left_is_how_many_points_there_are_in_all_from_index_0_on", "rows"),
        (Forgets, "test_constructor_arguments_are_kept_as_attributes_of_the_same_names", None),
        (Single, "test_ask_gives_as_many_points_as_were_asked_for_in_float64", "mixed"),
    ],
)
def test_a_searcher_that_breaks_a_law_is_caught_by_that_laws_test(make: Callable[[], Searcher], law: str, setting: str | None) -> None:
    suite = type("Suite", (SearcherSuite,), {"make": staticmethod(make)})()
    arguments = () if setting is None else (SETTINGS[setting](),)
    assert hasattr(suite, law)
    with pytest.raises(AssertionError):
        getattr(suite, law)(*arguments)


def test_the_suite_has_to_be_told_how_the_searcher_is_made() -> None:
    with pytest.raises(NotImplementedError):
        SearcherSuite().make()


def test_a_setting_that_the_searcher_leaves_out_is_skipped() -> None:
    class Suite(SearcherSuite):
        settings = ("mixed",)

        def make(self) -> Searcher:
            return RandomSearch()

    with pytest.raises(pytest.skip.Exception):
        Suite().test_each_point_is_one_of_the_rows_and_no_row_comes_twice()


def test_the_registry_holds_every_searcher_the_package_exports() -> None:
    import torchtune_hp.searchers as package

    exported = {name for name in package.__all__ if inspect.isclass(getattr(package, name)) and name not in ("Base", "Searcher")}
    assert exported == set(SEARCHERS)

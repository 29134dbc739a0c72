"""What every searcher must pass: one test for each law of `searchers/base.py`.

    class TestMySearcher(SearcherSuite):
        def make(self):
            return MySearcher()

`settings` names the settings it is tried on; a searcher that cannot serve one leaves it out.
`SEARCHERS` holds the library's own: the tests run this suite on each of them.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ..searchers import GPSearch, GridSearch, RandomSearch, Searcher, SobolSearch
from ..trial import Dim, Report, Setting

SEARCHERS: dict[str, Callable[[], Searcher]] = {
    "GPSearch": lambda: GPSearch(startup=4),
    "GridSearch": lambda: GridSearch(points=3),
    "RandomSearch": RandomSearch,
    "SobolSearch": SobolSearch,
}

MIXED = (
    Dim("lr", "float", log=True), Dim("momentum", "float"), Dim("layers", "int", 4), Dim("activation", "category", 3),
    Dim("batch", "ordinal", 5),
)   # fmt: skip
CONDITIONAL = (
    Dim("net", "category", 2), Dim("lr", "float", log=True), Dim("width", "ordinal", 3, parent=("net", 0)),
    Dim("filters", "int", 4, parent=("net", 1)), Dim("stride", "float", parent=("net", 1)),
)   # fmt: skip


def anywhere(x: Tensor) -> Tensor:
    """Every point is feasible."""
    return torch.ones(len(x), dtype=torch.bool)


def below_a_plane(x: Tensor) -> Tensor:
    """About a quarter of the cube: the learning rate is small, or the momentum and the number of layers are."""
    layers = (x[:, 2] * 4).floor().clamp(max=3)         # a constraint sees values, so it is constant on a value's cell
    return (x[:, 0] < 0.15) | (x[:, 1] + layers / 4 < 0.4)


def the_rows() -> Tensor:
    """17 points of four coordinates."""
    return torch.from_numpy(np.random.default_rng(0).random((17, 4)))


SETTINGS: dict[str, Callable[[], Setting]] = {
    "mixed": lambda: Setting(MIXED, anywhere, max_t=9, capacity=4),
    "conditional": lambda: Setting(CONDITIONAL, anywhere, max_t=9, capacity=4),
    "constrained": lambda: Setting(MIXED, below_a_plane, max_t=9, capacity=4),
    "rows": lambda: Setting(tuple(Dim(f"x{k}", "float") for k in range(4)), anywhere, max_t=9, capacity=4, rows=the_rows()),
}
SEED = 7


class SearcherSuite:
    """Inherit it and say how the searcher is made."""

    settings: Sequence[str] = tuple(SETTINGS)

    def make(self) -> Searcher:
        raise NotImplementedError

    @pytest.fixture(params=tuple(SETTINGS))
    def setting(self, request: pytest.FixtureRequest) -> Setting:
        if request.param not in self.settings:
            pytest.skip(f"not for the setting {request.param!r}")
        return SETTINGS[request.param]()

    def begun(self, setting: Setting) -> Searcher:
        searcher = self.make()
        searcher.begin(setting)
        return searcher

    # The contract itself

    def test_it_is_a_searcher_and_says_whether_it_is_adaptive(self) -> None:
        searcher = self.make()
        assert isinstance(searcher, Searcher)
        assert type(searcher.adaptive) is bool

    def test_constructor_arguments_are_kept_as_attributes_of_the_same_names(self) -> None:
        searcher = self.make()
        for name in inspect.signature(type(searcher)).parameters:
            assert hasattr(searcher, name), f"the journal reads the argument {name!r} from an attribute of that name"

    def test_ask_gives_as_many_points_as_were_asked_for_in_float64(self, setting: Setting) -> None:
        searcher = self.begun(setting)
        for n in (1, 3):
            x = ask(searcher, n, setting=setting)
            assert x.shape == (n, len(setting.dims))
            assert x.dtype == torch.float64 and x.device.type == "cpu" and not x.requires_grad

    # Law 1

    def test_ask_changes_nothing_bits_included(self, setting: Setting) -> None:
        searcher = self.begun(setting)
        played(searcher, setting, 6)
        pending = the_pending(searcher, setting, 6)
        first = ask(searcher, 3, pending, 6 + len(pending), setting=setting)
        kept = first.clone()
        ask(searcher, 2, None, 0, SEED + 1, setting=setting)
        first.fill_(-1.0)               # what was handed out is the asker's own
        again = ask(searcher, 3, pending, 6 + len(pending), setting=setting)
        assert torch.equal(kept, again)

    def test_same_setting_told_reports_pending_index_and_seed_same_points(self, setting: Setting) -> None:
        asked = []
        for noise in (1, 2):
            random.seed(noise), np.random.seed(noise), torch.manual_seed(noise)
            searcher = self.begun(setting)
            played(searcher, setting, 6)
            asked.append(ask(searcher, 3, the_pending(searcher, setting, 6), 8, setting=setting))
        assert torch.equal(asked[0], asked[1])

    def test_no_global_randomness_is_drawn(self, setting: Setting) -> None:
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()      # type: ignore[index]
        searcher = self.begun(setting)
        played(searcher, setting, 6)
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()       # type: ignore[index]
        assert before[:2] == after[:2] and torch.equal(before[2], after[2])

    # Law 2

    def test_points_lie_in_the_unit_cube_and_are_feasible(self, setting: Setting) -> None:
        searcher = self.begun(setting)
        x = played(searcher, setting, min(24, searcher.left() or 24))
        assert x.isfinite().all() and (x >= 0).all() and (x <= 1).all()
        assert setting.feasible(x).all()

    def test_each_point_is_one_of_the_rows_and_no_row_comes_twice(self) -> None:
        if "rows" not in self.settings:
            pytest.skip("not for the setting 'rows'")
        setting = SETTINGS["rows"]()
        assert setting.rows is not None
        searcher = self.begun(setting)
        x = played(searcher, setting, len(setting.rows))
        assert sorted(x.tolist()) == sorted(setting.rows.tolist())

    def test_failures_and_infinite_scores_leave_the_points_finite_and_feasible(self, setting: Setting) -> None:
        searcher = self.begun(setting)
        told = played(searcher, setting, 6, tell=False)
        searcher.tell([
            Report(k, 1, (float("inf") if k % 2 else 1e30,), 0, tuple(row), done=True, failed=k % 4 == 1)
            for k, row in enumerate(told.tolist())
        ])      # fmt: skip
        x = ask(searcher, 3, None, 6, setting=setting)
        assert x.isfinite().all() and (x >= 0).all() and (x <= 1).all() and setting.feasible(x).all()

    # Law 3

    def test_not_adaptive_means_row_i_depends_on_seed_and_i_alone(self, setting: Setting) -> None:
        searcher = self.begun(setting)
        if searcher.adaptive:
            pytest.skip("adaptive")
        n = min(12, searcher.left() or 12)
        whole = ask(searcher, n, setting=setting)
        for block in (1, 2, 5):
            starts = range(0, n, block)
            parts = [ask(searcher, min(block, n - k), None, k, setting=setting) for k in reversed(starts)][::-1]
            assert torch.equal(torch.cat(parts), whole)
        searcher.tell(reports(whole))
        assert torch.equal(ask(searcher, n, whole[:2], setting=setting), whole)

    # Law 4

    def test_left_is_how_many_points_there_are_in_all_from_index_0_on(self, setting: Setting) -> None:
        searcher = self.begun(setting)
        left = searcher.left()
        if setting.rows is not None:
            assert left is not None and left <= len(setting.rows)
        if left is not None:
            assert type(left) is int and left > 0
            n = min(left, 40)
            x = played(searcher, setting, n)
            assert x.shape == (n, len(setting.dims))
            assert searcher.left() == left, "points already given count too"


def ask(
    searcher: Searcher, n: int, pending: Tensor | None = None, index: int = 0, seed: int = SEED, *, setting: Setting
) -> Tensor:
    """`ask` as the study asks: a searcher that is not adaptive sees no pending points."""
    if pending is None or not searcher.adaptive:
        pending = torch.empty(0, len(setting.dims), dtype=torch.float64)
    return searcher.ask(n, pending=pending, index=index, seed=seed)


def played(searcher: Searcher, setting: Setting, n: int, *, tell: bool = True) -> Tensor:
    """The first `n` points of a small study: asked for in twos, told in the order they were asked."""
    done = torch.empty(0, len(setting.dims), dtype=torch.float64)
    while len(done) < n:
        pending = ask(searcher, min(2, n - len(done)), None if tell else done, len(done), setting=setting)
        if tell:
            searcher.tell(reports(pending, len(done)))
        done = torch.cat([done, pending])
    return done


def the_pending(searcher: Searcher, setting: Setting, index: int) -> Tensor:
    """Two points that are running."""
    return ask(searcher, 2, None, index, setting=setting)


def reports(x: Tensor, first: int = 0) -> list[Report]:
    """Two looks at each trial, scored by a bowl; the later one is lower."""
    scores: list[Any] = ((x - 0.3) ** 2).sum(1).tolist()
    return [
        Report(first + k, step, (scores[k] / step,), 0, tuple(row), done=step == 2)
        for k, row in enumerate(x.tolist())
        for step in (1, 2)
    ]

"""Many minimizations at once: each row as if it were alone, and each as good as SciPy's L-BFGS-B."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

from torchtune_hp.gp.lbfgs import Function, Minimum, minimize

Values = Callable[[Tensor, Tensor], Tensor]


def uniform(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def graded(values: Values) -> Function:
    """`values(point (r, n), rows) -> (r,)` with its gradient by autograd."""

    def function(point: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        point = point.clone().requires_grad_()
        value = values(point, rows)
        return value.detach(), torch.autograd.grad(value.sum(), point)[0]

    return function


def rosenbrock(point: Tensor, rows: Tensor | None = None) -> Tensor:
    return (100 * (point[:, 1:] - point[:, :-1] ** 2) ** 2 + (1 - point[:, :-1]) ** 2).sum(-1)


def quadratic(condition: float, n: int, center: Tensor) -> Values:
    scales = torch.logspace(0, torch.tensor(condition).log10().item(), n, dtype=torch.float64)
    return lambda point, rows: 0.5 * (scales * (point - center[rows]) ** 2).sum(-1)


def by_scipy(function: Function, start: Tensor, lower: Tensor | None = None, upper: Tensor | None = None, tolerance: float = 1e-6) -> list:
    found = []
    for i, row in enumerate(start):
        def one(x, i=i):
            value, gradient = function(torch.from_numpy(x)[None].clone(), torch.tensor([i]))
            return value.item(), gradient[0].numpy()

        box = None if lower is None else list(zip(lower.expand_as(start)[i].tolist(), upper.expand_as(start)[i].tolist()))
        options = {"maxiter": 2000, "maxfun": 20000, "ftol": 0.0, "gtol": tolerance}
        found.append(scipy_minimize(one, row.numpy(), jac=True, method="L-BFGS-B", bounds=box, options=options))
    return found


def equal(a: Minimum, b: Minimum) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b))


# Against SciPy, row by row ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 20])
def test_rosenbrock_is_minimized_from_everywhere_as_scipy_does_it(n: int) -> None:
    start = uniform(32, n, low=-2, high=2)
    found = minimize(graded(rosenbrock), start, steps=1000)
    # At the local minimum of value 4 rounding of the value hides the last of the slope.
    assert found.converged.all() and (found.gradient.abs().amax(-1) <= torch.where(found.value < 1e-8, 1e-6, 1e-4)).all()
    theirs = by_scipy(graded(rosenbrock), start)
    # From n = 4 on there is a second local minimum: which one a row finds is its own affair, as often as SciPy's.
    solved = (found.value < 1e-8).sum().item()
    assert solved >= sum(one.fun < 1e-8 for one in theirs) - 4
    assert found.iterations.double().median() <= 1.5 * torch.tensor([float(one.nit) for one in theirs]).median()
    if n == 2:
        torch.testing.assert_close(found.point, torch.ones_like(start), rtol=0, atol=1e-6)


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e5])
def test_an_ill_scaled_quadratic_is_minimized_in_about_as_many_steps_as_scipy_needs(condition: float) -> None:
    center, start = uniform(8, 10, seed=1), uniform(8, 10, seed=2, low=-3, high=3)
    function = graded(quadratic(condition, 10, center))
    found = minimize(function, start, steps=1000)
    assert found.converged.all()
    torch.testing.assert_close(found.point, center, rtol=0, atol=2e-6)
    theirs = torch.tensor([float(one.nit) for one in by_scipy(function, start)])
    assert found.iterations.double().mean() <= 1.5 * theirs.mean() + 2


def test_a_quadratic_of_condition_1e8_is_brought_down_by_nine_orders_of_magnitude() -> None:
    center, start = uniform(8, 10, seed=1), uniform(8, 10, seed=2, low=-3, high=3)
    function = graded(quadratic(1e8, 10, center))
    found = minimize(function, start, steps=1000)
    assert (found.value <= 1e-9 * function(start, torch.arange(8))[0]).all()


@pytest.mark.parametrize("seed", range(4))
def test_within_bounds_the_minimum_of_a_convex_problem_is_scipys(seed: int) -> None:
    b, n = 24, 12
    root = uniform(b, n, n, seed=seed, low=-1, high=1)
    hessian = root @ root.mT + 1e-3 * torch.eye(n, dtype=torch.float64)
    center = uniform(b, n, seed=seed + 10, low=-2, high=2)

    def values(point: Tensor, rows: Tensor) -> Tensor:
        off = point - center[rows]
        return 0.5 * torch.einsum("ri,rij,rj->r", off, hessian[rows], off)

    lower, upper = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    start = uniform(b, n, seed=seed + 20)
    found = minimize(graded(values), start, lower=lower, upper=upper, steps=1000)
    theirs = by_scipy(graded(values), start, lower, upper)
    assert found.converged.all()
    for row, one in enumerate(theirs):
        assert found.value[row].item() <= one.fun + 1e-9 * max(1, abs(one.fun))
        torch.testing.assert_close(found.point[row], torch.from_numpy(one.x), rtol=0, atol=2e-4)
    assert ((found.point == 0) | (found.point == 1)).any()


def test_rosenbrock_in_a_box_that_cuts_off_its_minimum_ends_where_scipy_ends() -> None:
    start = uniform(32, 4, low=-1.5, high=0.5)
    lower, upper = torch.full((4,), -1.5, dtype=torch.float64), torch.tensor([0.5, 2.0, 0.3, 2.0], dtype=torch.float64)
    found = minimize(graded(rosenbrock), start, lower=lower, upper=upper, steps=1000)
    theirs = torch.tensor([one.fun for one in by_scipy(graded(rosenbrock), start, lower, upper)])
    assert found.converged.all()
    assert (found.value <= theirs.sort().values[len(theirs) // 2] + 1e-6).double().mean() >= 0.5
    assert found.value.min() <= theirs.min() + 1e-8


def test_a_flat_region_is_left_where_there_is_a_slope_and_is_an_answer_where_there_is_none() -> None:
    def plateau(point: Tensor, rows: Tensor) -> Tensor:          # constant beyond 1 of the origin, a quartic bowl within
        radius = (point * point).sum(-1)
        return torch.where(radius < 1, -((1 - radius.clamp(max=1)) ** 2), torch.zeros_like(radius))

    start = torch.tensor([[3.0, 3.0], [0.5, 0.0], [0.0, 0.0], [0.6, 0.79]], dtype=torch.float64)
    found = minimize(graded(plateau), start)
    assert found.converged.all() and found.iterations[[0, 2]].tolist() == [0, 0]
    assert torch.equal(found.point[0], start[0])
    torch.testing.assert_close(found.value, torch.tensor([0.0, -1.0, -1.0, -1.0], dtype=torch.float64))

    def gentle(point: Tensor, rows: Tensor) -> Tensor:           # slopes of 1e-5 far from the minimum
        return (1 + 1e-10 * point.square().sum(-1)).log() * 1e5
    far = minimize(graded(gentle), torch.full((3, 2), 3e3, dtype=torch.float64) * torch.tensor([[1.0], [0.1], [2.0]]), tolerance=1e-12)
    assert far.converged.all() and far.point.abs().max() < 1e-3


def test_a_degenerate_minimum_is_approached() -> None:
    found = minimize(graded(lambda point, rows: (point**4).sum(-1)), uniform(8, 5, low=-2, high=2), tolerance=1e-9)
    assert found.converged.all() and found.point.abs().max() < 1e-2


# Rows by themselves -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 4, 17])
def test_a_row_is_bit_identical_alone_and_in_a_batch(n: int) -> None:
    center, start = uniform(13, n, seed=1), uniform(13, n, seed=2, low=-3, high=3)
    scales = torch.logspace(0, 5, n, dtype=torch.float64)

    def function(point: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        off = point - center[rows]
        value = (scales * off * off * (1 + off * off)).sum(-1)
        return value, scales * off * (2 + 4 * off * off)

    lower = torch.full((n,), 0.2, dtype=torch.float64)
    for bounds in ({}, {"lower": lower}):
        together = minimize(function, start, **bounds)
        for row in (0, 7, 12):      # the first and the last of a vector of four or eight, and one left over
            alone = minimize(lambda point, rows, row=row: function(point, rows + row), start[row : row + 1], **bounds)
            assert equal(alone, Minimum(*(part[row : row + 1] for part in together)))


def test_a_row_that_is_nan_throughout_stops_alone_and_the_others_do_not_notice() -> None:
    start = uniform(6, 3, low=-1, high=1)
    base = graded(rosenbrock)

    def spoiled(point: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = base(point, rows)
        return torch.where(rows == 2, torch.nan, value), gradient

    whole, spoilt = minimize(base, start), minimize(spoiled, start)
    others = [0, 1, 3, 4, 5]
    assert equal(Minimum(*(part[others] for part in whole)), Minimum(*(part[others] for part in spoilt)))
    assert not spoilt.converged[2] and spoilt.iterations[2] == 0 and torch.equal(spoilt.point[2], start[2])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_where_the_value_is_not_finite_the_line_search_steps_back(bad: float) -> None:
    def values(point: Tensor, rows: Tensor) -> Tensor:           # finite left of 1 only, where it falls steeply
        return torch.where(point[:, 0] < 1, (1 - point[:, 0]).clamp(min=1e-300).log().neg() * 0.01 + (point[:, 0] - 0.9) ** 2, bad)

    found = minimize(graded(values), torch.tensor([[-50.0], [0.0], [0.999]], dtype=torch.float64))
    assert found.converged.all() and found.value.isfinite().all()
    torch.testing.assert_close(found.point, found.point[1:2].expand(3, 1), rtol=0, atol=1e-5)


def test_a_row_that_meets_a_wall_keeps_its_best_finite_point() -> None:
    def values(point: Tensor, rows: Tensor) -> Tensor:           # falls until 1, where it ends
        return torch.where(point[:, 0] < 1, -point[:, 0], torch.nan)

    found = minimize(graded(values), torch.zeros(1, 1, dtype=torch.float64))
    assert found.value.isfinite().all() and found.point.item() > 0.99 and not found.converged.item()
    assert found.value.item() == -found.point.item()


def test_a_row_that_met_as_many_walls_as_it_may_ends_at_its_best_point_and_the_others_go_on() -> None:
    def values(point: Tensor, rows: Tensor) -> Tensor:          # rows 0 and 1 fall towards 2, and end at 1; row 2 lies behind no wall
        value = (point - 2).square().sum(-1)
        return torch.where((rows < 2) & (point.sum(-1) > 1), torch.nan, value)

    seen = []

    def watched(point: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        seen.extend(rows[values(point, rows).isnan()].tolist())
        return graded(values)(point, rows)

    start = torch.tensor([[0.0, 0.0], [-3.0, 0.5], [0.0, 0.0]], dtype=torch.float64)
    before, patient = values(start, torch.arange(3)), minimize(graded(values), start)
    found = minimize(watched, start, walls=2)
    assert (found.value < before).all() and found.converged.tolist() == [False, False, True]
    assert 2 <= seen.count(0) <= 4 and 2 <= seen.count(1) <= 4 and (found.iterations[:2] <= patient.iterations[:2]).all()
    assert equal(Minimum(*(part[2:] for part in found)), Minimum(*(part[2:] for part in patient)))
    value, gradient = graded(values)(found.point, torch.arange(3))
    assert torch.equal(found.value, value) and torch.equal(found.gradient, gradient)
    free = graded(rosenbrock), uniform(4, 3)
    assert equal(minimize(*free, walls=1), minimize(*free))


def test_a_nan_gradient_is_a_step_too_far() -> None:
    def function(point: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        gradient = 2 * (point - 0.5)
        return ((point - 0.5) ** 2).sum(-1), torch.where(point.abs() > 2, torch.nan, gradient)

    found = minimize(function, torch.full((2, 2), -1.9, dtype=torch.float64))
    assert found.converged.all() and (found.point - 0.5).abs().max() < 1e-6


def test_a_function_whose_gradient_lies_ends_and_says_that_it_has_not_converged() -> None:
    function = graded(rosenbrock)
    found = minimize(lambda point, rows: (function(point, rows)[0], -function(point, rows)[1]), uniform(4, 3, low=2, high=3))
    assert not found.converged.any() and found.value.isfinite().all()


def test_only_rows_at_work_are_evaluated_at_one_point_within_the_bounds_each() -> None:
    seen: list[list[int]] = []
    lower, upper = torch.zeros(2, dtype=torch.float64), torch.tensor([[0.5, 2.0]], dtype=torch.float64).expand(5, 2)

    def function(point: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(rows.tolist())
        assert len(rows) > 0 and rows.dtype == torch.int64
        assert (point >= lower).all() and (point <= upper[rows]).all()
        return graded(rosenbrock)(point, rows)

    start = uniform(5, 2, low=-1, high=3)
    start[3] = torch.tensor([0.5, 0.25])          # the minimum in this box
    found = minimize(function, start, lower=lower, upper=upper)
    assert found.converged.all() and found.iterations[3] == 0
    assert seen[0] == [0, 1, 2, 3, 4] and 3 not in {row for rows in seen[1:] for row in rows}
    assert all(set(later) <= set(sooner) and later == sorted(later) for sooner, later in zip(seen, seen[1:]))


def test_the_value_never_grows_and_belongs_to_the_point() -> None:
    start = uniform(20, 6, low=-2, high=2)
    before = rosenbrock(start)
    for steps in (0, 1, 2, 5, 20, 80):
        found = minimize(graded(rosenbrock), start, steps=steps)
        assert (found.iterations <= steps).all() and (found.value <= before).all()
        value, gradient = graded(rosenbrock)(found.point, torch.arange(20))
        torch.testing.assert_close((found.value, found.gradient), (value, gradient), rtol=1e-12, atol=1e-12)
        before = found.value


def test_bounds_that_meet_hold_a_variable_still() -> None:
    fixed = torch.tensor([0.3, -torch.inf, -torch.inf], dtype=torch.float64)
    found = minimize(graded(rosenbrock), uniform(4, 3), lower=fixed, upper=torch.where(fixed.isfinite(), fixed, torch.inf))
    assert found.converged.all() and (found.point[:, 0] == 0.3).all() and found.gradient[:, 1:].abs().max() <= 1e-6


@pytest.mark.parametrize("promise", [1e-1, 1e-4])
def test_a_row_ends_where_its_model_promises_no_more_and_not_far_above_the_minimum(promise: float) -> None:
    center, start = uniform(8, 6, seed=1), uniform(8, 6, seed=2, low=-3, high=3)
    function = graded(quadratic(100.0, 6, center))
    sooner, later = minimize(function, start, promise=promise), minimize(function, start)
    assert sooner.converged.all() and (sooner.iterations < later.iterations).all()
    # The model is a guess: what is left is about what it said, half of the slope.
    assert (sooner.value - later.value).max() <= 3 * promise


def bowls(point: Tensor, rows: Tensor | None = None) -> Tensor:
    """Waves on a bowl: many minima, the least near 0.37 in every variable."""
    return ((point - 0.4).square() + 0.3 * torch.sin(9 * point)).sum(-1)


def test_of_rivals_the_least_is_found_in_fewer_evaluations_and_the_others_say_that_they_gave_up() -> None:
    start, seen = uniform(40, 3, low=-2, high=2), torch.zeros(40, dtype=torch.int64)

    def counted(point: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        seen[rows] += 1
        return graded(bowls)(point, rows)

    patient = minimize(counted, start)
    evaluations = seen.clone().sum()
    seen.zero_()
    found = minimize(counted, start, rivals=True)
    assert found.value.min() == patient.value.min() and seen.sum() <= 0.7 * evaluations
    gave_up = ~found.converged
    assert patient.converged.all() and gave_up.any() and (found.value[gave_up] > found.value.min()).all()
    # Who does not give up notices nobody.
    assert equal(Minimum(*(part[~gave_up] for part in found)), Minimum(*(part[~gave_up] for part in patient)))
    value, gradient = graded(bowls)(found.point, torch.arange(40))
    assert torch.equal(found.value, value) and torch.equal(found.gradient, gradient) and (value <= bowls(start)).all()


def test_a_rival_gives_up_only_where_its_step_promises_less_than_what_it_is_behind() -> None:
    scales = torch.tensor([1.0, 1.0, 50.0], dtype=torch.float64)

    def values(point: Tensor, rows: Tensor) -> Tensor:      # row 1 is higher, and knows it after a step; row 2 ends as low as row 0
        return scales[rows] * point.square().sum(-1) + torch.tensor([0.0, 100.0, 0.0], dtype=torch.float64)[rows]

    start = torch.tensor([[1.0, 1.0], [1.0, 1.0], [3.0, -2.0]], dtype=torch.float64)
    found = minimize(graded(values), start, rivals=True)
    assert found.converged.tolist() == [True, False, True] and found.iterations[1] == 1
    torch.testing.assert_close(found.value[[0, 2]], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-10)
    alone = minimize(lambda point, rows: graded(values)(point, rows + 1), start[1:2], rivals=True)
    assert alone.converged.all() and alone.value.item() == pytest.approx(100)


def test_each_row_may_have_bounds_of_its_own() -> None:
    lower = torch.tensor([[0.0], [1.0], [-3.0]], dtype=torch.float64)
    found = minimize(graded(lambda point, rows: ((point + 1) ** 2).sum(-1)), torch.full((3, 1), 2.0, dtype=torch.float64), lower=lower)
    torch.testing.assert_close(found.point, torch.tensor([[0.0], [1.0], [-1.0]], dtype=torch.float64))


def test_a_short_history_suffices_and_starts_are_not_changed() -> None:
    start = uniform(8, 5, low=-2, high=2)
    kept = start.clone()
    assert minimize(graded(rosenbrock), start, history=1, steps=3000).converged.all() and torch.equal(start, kept)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_rows_and_no_variables_are_answered(shape: tuple[int, int]) -> None:
    found = minimize(graded(lambda point, rows: point.square().sum(-1)), torch.zeros(shape, dtype=torch.float64))
    assert found.point.shape == shape and found.value.shape == shape[:1] and found.converged.all()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"start": torch.zeros(3, dtype=torch.float64)}, r"start must be \(b, n\) float64, but is \(3,\)"),
        ({"start": torch.zeros(2, 3)}, "float32"),
        ({"lower": torch.zeros(2, dtype=torch.float64)}, r"lower must be \(n,\) or \(b, n\)"),
        ({"lower": torch.ones(3, dtype=torch.float64), "upper": torch.zeros(3, dtype=torch.float64)}, "lower <= upper must hold"),
        ({"upper": torch.full((3,), torch.nan, dtype=torch.float64)}, "lower <= upper must hold"),
        ({"history": 0}, "history >= 1"),
        ({"steps": -1}, "steps >= 0"),
        ({"tolerance": float("nan")}, "tolerance >= 0"),
        ({"promise": -1.0}, "promise >= 0"),
        ({"function": lambda point, rows: (point.sum(), point)}, r"function must answer values \(2,\) and gradients \(2, 3\)"),
    ],
)   # fmt: skip
def test_what_cannot_be_minimized_is_refused_by_name(arguments: dict, words: str) -> None:
    given = {"function": graded(rosenbrock), "start": torch.zeros(2, 3, dtype=torch.float64)} | arguments
    with pytest.raises(ValueError, match=words):
        minimize(**given)

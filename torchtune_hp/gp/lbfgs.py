"""Many minimizations at once, each with its own L-BFGS: history, line search, bounds and convergence per row.

The direction is that of limited-memory BFGS (J. Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 35
(1980)) in the variables that are free, and that of steepest descent in those at a bound that they are
pushed against; steps are projected onto the bounds (D. Bertsekas, "Projected Newton methods for optimization problems with
simple constraints", SIAM J. Control Optim. 20 (1982), eqs. 32-38). Steps satisfy the weak Wolfe conditions along the projected
path, by bracketing (A. Lewis and M. Overton, "Nonsmooth optimization via quasi-Newton methods", Math. Program. 141 (2013),
alg. 2.6) with cubic interpolation (Nocedal and Wright, "Numerical Optimization", 2006, eq. 3.59).

Laws:
1. Rows never influence each other, unless they are rivals: a row's result is the same, bit for bit, alone and in any batch, if
   `function`'s is. (A `function` of batched BLAS may itself differ by rounding, about 1e-15 relative, from batch to batch.)
2. Only rows at work are evaluated, one point each per round.
3. Every point evaluated lies within its bounds. The value never grows, and point, value and gradient belong together.
4. A value or gradient that is not finite makes the line search step back. A row that cannot go on stops alone, at its best point.
5. Of rivals only the least matters: one whose value is above the least by more than its quasi-Newton step promises begins no line search
   more, and has not converged. Its best point and value are kept.

The state of r rows at work over n variables is a tuple of arrays (r, ...); what is one number is (r, 1). They are NumPy's, on the host
whatever the device: a round is a hundred operations on a few numbers, which cost torch more than NumPy, and a GPU a launch each. The
formulas are in `quasi_newton`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .quasi_newton import Bools, Floats, dot, next_step, quasi_newton, remembered, within

Function = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_DECREASE = 1e-4        # c1 of the Wolfe conditions
_CURVATURE = 0.9        # c2
_TRIALS = 20            # points tried in one line search
_NEAR = 1e-4            # share of the box within which a variable counts as at its bound
_ROUNDING = 1e-12       # changes of the value below this share of it are noise
_SETTLED = 1e-8         # and where no step got lower, a promise of at most this share is kept


class Minimum(NamedTuple):
    """What was found for b rows: point (b, n), its value (b,) and gradient (b, n); iterations (b,) int64; converged (b,) bool.

    `behind` (b,) bool: which rivals gave up.
    """

    point: Tensor
    value: Tensor
    gradient: Tensor
    iterations: Tensor
    converged: Tensor
    behind: Tensor


class _Rows(NamedTuple):
    """Rows at work.

    `base`: point, gradient and value where each line search began. `line`: its direction, the slope there, the step to be tried next,
    then step, value and slope of a step too far (infinite where none is known), and how many were tried. `low`: point, gradient, value,
    step and slope of the best that was tried and where it still falls.
    """

    number: npt.NDArray[np.int64]       # (r,): which row of the caller's
    lower: Floats          # (r, n)
    upper: Floats          # (r, n)
    near: Floats           # (r, n): closer than this a variable is at its bound
    base: Floats           # (r, 2 n + 1)
    low: Floats            # (r, 2 n + 3)
    line: Floats           # (r, n + 6)
    iterations: Floats     # (r, 1)
    walls: Floats          # (r, 1): how many points tried were not finite
    pairs: Floats          # (r, 2, m, n): moves, and the changes of the gradient; the newest last, blanks are 0


def minimize(
    function: Function,
    start: Tensor,
    *,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    steps: int = 200,
    history: int = 10,
    tolerance: float = 1e-6,
    promise: float = 0.0,
    walls: int | None = None,
    rivals: bool = False,
) -> Minimum:
    """Minimize `function` from each row of `start` (b, n) float64, which is moved into the bounds (n,) or (b, n) first.

    `function(point (r, n), rows (r,) int64) -> (value (r,), gradient (r, n))`: of the rows still at work, on the device of `start`.
    `steps`: iterations a row may take; `history`: steps it remembers. A row has converged where no entry of its projected
    gradient x - P(x - g) exceeds `tolerance`, where its quasi-Newton step promises a slope along it of no more than `promise` (twice
    what the model gains), or where no step lowers the value and the model promises less than rounding.
    `walls`: a row that met so many points that are not finite begins no line search more, and has not converged; None: however many.
    `rivals`: all rows minimize one function, and only the least of them is wanted (law 5).
    Raises ValueError for other shapes and dtypes, and for bounds that cross.
    """
    floor, ceiling = _bounds(start, lower, upper)
    if steps < 0 or history < 1 or not (tolerance >= 0 and promise >= 0):
        raise ValueError(
            f"steps >= 0, history >= 1, tolerance >= 0 and promise >= 0 must hold, but got ({steps}, {history}, {tolerance}, {promise})."
        )
    device = start.device

    def evaluated(point: Floats, number: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        value, gradient = function(torch.from_numpy(point).to(device), torch.from_numpy(number).to(device))
        if value.shape != point.shape[:1] or gradient.shape != point.shape:
            raise ValueError(
                f"function must answer values {point.shape[:1]} and gradients {point.shape} to points {point.shape}, but it answered "
                f"{tuple(value.shape)} and {tuple(gradient.shape)}."
            )
        return value.detach().cpu().numpy()[:, None], np.ascontiguousarray(gradient.detach().cpu().numpy())

    with np.errstate(all="ignore"):     # what is not finite is an answer
        point, number = within(start.detach().cpu().numpy(), floor, ceiling), np.arange(len(start))
        value, gradient = evaluated(point, number)
        n = point.shape[1]
        base = np.concatenate([point, gradient, value], -1)
        flat = np.abs(_projected(point, gradient, floor, ceiling)).max(-1, keepdims=True, initial=0.0) <= tolerance
        found = np.concatenate([base, np.zeros_like(value), flat, np.zeros_like(flat)], -1)
        works = np.isfinite(base).all(-1) & ~flat[:, 0] & (steps > 0)
        near, none = _NEAR * np.minimum(ceiling - floor, 1.0), np.zeros_like(value)
        rows = _chosen(
            _Rows(number, floor, ceiling, near, base, base, base, none, none, np.zeros((len(point), 2, history, n))), works
        )
        rows = _aimed(rows, 0)[0] if len(rows.number) else rows
        filled, least = 0, np.where(np.isfinite(base).all(-1), value[:, 0], np.inf).min(initial=np.inf)
        while len(rows.number):
            filled = min(filled + 1, history)
            rows, stopped, settled, hoped = _round(evaluated, rows, filled, steps, tolerance, promise, np.inf if walls is None else walls)
            behind = np.zeros_like(settled)
            if rivals:
                least = min(least, rows.base[:, 2 * n].min())
                behind = (hoped > least) & ~stopped[:, None]
                stopped |= behind[:, 0]
            if stopped.any():
                last = np.concatenate([rows.base, rows.iterations, settled, behind], -1)
                found[rows.number[stopped]] = last[stopped]
                rows = _chosen(rows, ~stopped)
    at, slope, *rest = torch.from_numpy(found).to(device).split_with_sizes([n, n, 1, 1, 1, 1], -1)
    height, iterations, *which = (part.squeeze(-1) for part in rest)
    return Minimum(at, height, slope, iterations.long(), *(part.bool() for part in which))


def _round(
    evaluated: Callable[[Floats, npt.NDArray[np.int64]], tuple[Floats, Floats]],
    rows: _Rows,
    filled: int,
    steps: int,
    tolerance: float,
    promise: float,
    walls: float,
) -> tuple[_Rows, Bools, Bools, Floats]:
    """Each row tries one point: rows, which of them stop now (r,), which of these have converged (r, 1), what each hopes for (r, 1).

    `filled`: no row remembers more steps than so many. A row that moved hopes for its value less what is promised, others for any.
    """
    n = rows.lower.shape[1]
    start, start_gradient, start_value = rows.base[:, :n], rows.base[:, n : 2 * n], rows.base[:, 2 * n :]
    direction, start_slope, step, trials = rows.line[:, :n], rows.line[:, n : n + 1], rows.line[:, n + 1 : n + 2], rows.line[:, -1:]
    ahead = start + step * direction
    point = within(ahead, rows.lower, rows.upper)
    value, gradient = evaluated(point, rows.number)
    slope = dot(gradient, direction * (ahead == point))
    tried = np.concatenate([point, gradient, value, step, slope], -1)
    finite = np.isfinite(tried).all(-1, keepdims=True)
    met = rows.walls + ~finite

    # Along a bent path the first-order change may be positive although the direction descends: such a step is too long.
    change = dot(start_gradient, point - start)
    lower_enough = finite & (change < 0) & (value <= start_value + _DECREASE * change)
    accepted = lower_enough & (slope >= _CURVATURE * start_slope)
    falling = lower_enough & ~accepted
    trials = trials + 1
    noise = ~lower_enough & finite & (step * np.abs(start_slope) <= _ROUNDING * np.abs(start_value))
    halted = ~accepted & (noise | (trials >= _TRIALS))

    base, pairs, iterations = rows.base, rows.pairs, rows.iterations
    low = np.where(falling, tried, rows.low)
    moved, begins, settled, ends = accepted, accepted, halted, halted
    if accepted.any():
        base = np.where(accepted, tried[:, : 2 * n + 1], base)
    if halted.any():
        reached = halted & (low[:, -2:-1] > 0)
        base = np.where(reached, low[:, : 2 * n + 1], base)
        moved, stuck = accepted | reached, halted & ~reached
        settled = stuck & (np.abs(start_slope) <= _SETTLED * np.maximum(np.abs(start_value), 1.0))
        # Where a quasi-Newton direction leads nowhere, steepest descent gets its turn before the row gives up.
        again = stuck & ~settled & (met < walls) & (pairs != 0).any((1, 2, 3))[:, None]
        pairs = np.where(again[:, :, None, None], 0.0, pairs)
        begins, ends = moved | again, stuck & ~again
    if moved.any():
        pairs = remembered(pairs, moved[:, 0], (base - rows.base)[:, : 2 * n].reshape(-1, 2, n))
        iterations = iterations + moved
    line = rows.line
    if begins.all():
        rows, size, gain = _aimed(rows._replace(base=base, iterations=iterations, pairs=pairs), filled)
    else:
        high = np.where(lower_enough, line[:, -4:-1], np.concatenate([step, np.where(finite, value, np.inf), slope], -1))
        line = np.concatenate([direction, start_slope, next_step(low, high, rows.low), high, trials], -1)
        rows = rows._replace(base=base, low=low, line=line, iterations=iterations, pairs=pairs)
        size = gain = np.full_like(value, np.inf)
        if begins.any():
            aimed, size, gain = _aimed(rows, filled)
            rows = rows._replace(line=np.where(begins, aimed.line, line), low=np.where(begins, aimed.low, low))
    converged = settled | moved & ((size <= tolerance) | (gain <= promise))
    rows = rows._replace(walls=met)
    stopped = ends | converged | moved & ((iterations >= steps) | (met >= walls))
    return rows, stopped[:, 0], converged, np.where(moved, rows.base[:, 2 * n :] - gain, -np.inf)


def _aimed(rows: _Rows, filled: int) -> tuple[_Rows, Floats, Floats]:
    """Each row at the beginning of a line search from its base; the size (r, 1) of its projected gradient; and what is promised (r, 1)."""
    n = rows.lower.shape[1]
    point, gradient = rows.base[:, :n], rows.base[:, n : 2 * n]
    projected = _projected(point, gradient, rows.lower, rows.upper)
    size = np.abs(projected).max(-1, keepdims=True, initial=0.0)
    pushed = np.abs(point - np.where(gradient > 0, rows.lower, rows.upper)) <= np.minimum(size, rows.near)
    direction, scale = quasi_newton(gradient, ~pushed, rows.pairs[:, :, rows.pairs.shape[2] - filled :])
    direction = np.where(pushed, scale * gradient, direction)
    direction = -direction * (point != np.where(direction > 0, rows.lower, rows.upper))
    slope = dot(gradient, direction)
    descends = (slope < 0) & (slope > -np.inf)
    steepest = gradient * (projected != 0)
    square = dot(steepest, steepest)
    if not descends.all():
        direction, slope = np.where(descends, direction, -steepest), np.where(descends, slope, -square)
    # Without a remembered step nothing is known of the scale: a step of length one at most.
    known = descends & (rows.pairs[:, 0, -1] != 0).any(-1, keepdims=True)
    step = np.where(known, 1.0, np.minimum(1 / np.sqrt(square), 1.0))
    none = np.zeros_like(step)
    far = np.full_like(step, np.inf)
    line = np.concatenate([direction, slope, step, far, far, far, none], -1)
    low = np.concatenate([rows.base, none, slope], -1)
    return rows._replace(low=low, line=line), size, np.where(known, -slope, np.inf)


def _projected(point: Floats, gradient: Floats, lower: Floats, upper: Floats) -> Floats:
    """x - P(x - g): (r, n), zero exactly at a stationary point of the bounded problem."""
    return point - within(point - gradient, lower, upper)


def _chosen(rows: _Rows, which: Bools) -> _Rows:
    return rows if which.all() else _Rows._make(part[which] for part in rows)


def _bounds(start: Tensor, lower: Tensor | None, upper: Tensor | None) -> tuple[Floats, Floats]:
    """Both as (b, n), infinite where none is given."""
    if start.ndim != 2 or start.dtype != torch.float64:
        raise ValueError(f"start must be (b, n) float64, but is {tuple(start.shape)} {start.dtype}: one row for each minimization.")
    both = []
    for name, bound, none in [("lower", lower, -np.inf), ("upper", upper, np.inf)]:
        bound = start.new_full((), none) if bound is None else bound.to(start)
        if bound.ndim and bound.shape not in (start.shape, start.shape[1:]):
            raise ValueError(f"{name} must be (n,) or (b, n) for a start {tuple(start.shape)}, but is {tuple(bound.shape)}.")
        both.append(np.ascontiguousarray(bound.expand_as(start).cpu().numpy()))
    if not (both[0] <= both[1]).all():
        raise ValueError(f"lower <= upper must hold, but got {both[0].tolist()} and {both[1].tolist()}.")
    return both[0], both[1]

"""Many minimizations at once, each with its own L-BFGS: history, line search, bounds and convergence per row.

The direction is that of limited-memory BFGS (J. Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 35
(1980), two-loop recursion) in the variables that are free, and that of steepest descent in those at a bound that they are
pushed against; steps are projected onto the bounds (D. Bertsekas, "Projected Newton methods for optimization problems with
simple constraints", SIAM J. Control Optim. 20 (1982), eqs. 32-38). Steps satisfy the weak Wolfe conditions along the projected
path, by bracketing (A. Lewis and M. Overton, "Nonsmooth optimization via quasi-Newton methods", Math. Program. 141 (2013),
alg. 2.6) with cubic interpolation (Nocedal and Wright, "Numerical Optimization", 2006, eq. 3.59).

Laws:
1. Rows never influence each other: a row's result is the same, bit for bit, alone and in any batch, if `function`'s is. (A
   `function` of batched BLAS may itself differ by rounding, about 1e-15 relative, from batch to batch.)
2. Only rows at work are evaluated, one point each per round. A round costs one host sync, and one more where rows end.
3. Every point evaluated lies within its bounds. The value never grows, and point, value and gradient belong together.
4. A value or gradient that is not finite makes the line search step back. A row that cannot go on stops alone, at its best point.

The state of r rows at work over n variables with m remembered steps is a tuple of tensors (r,), (r, n) and (r, m, n).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Function = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_DECREASE = 1e-4        # c1 of the Wolfe conditions
_CURVATURE = 0.9        # c2
_TRIALS = 20            # points tried in one line search
_BACK = 0.25            # where a value is not finite
_NEAR = 1e-4            # share of the box within which a variable counts as at its bound
_EPSILON = torch.finfo(torch.float64).eps
_ROUNDING = 1e-12       # changes of the value below this share of it are noise
_SETTLED = 1e-8         # and where no step got lower, a promise of at most this share is kept


class Minimum(NamedTuple):
    """What was found for b rows: point (b, n), its value (b,) and gradient (b, n); iterations (b,) int64; converged (b,) bool."""

    point: Tensor
    value: Tensor
    gradient: Tensor
    iterations: Tensor
    converged: Tensor


class _Place(NamedTuple):
    """Points (r, n) with their values (r,) and gradients (r, n), at `step` (r,) of a line search, where the slope is (r,)."""

    point: Tensor
    value: Tensor
    gradient: Tensor
    step: Tensor
    slope: Tensor


class _Rows(NamedTuple):
    """Rows at work. `base`: where each line search began; `low`: its best point yet, still falling; `high`: a step too far
    (value and slope as well; infinite where none is known); `step`: the next to be tried."""

    number: Tensor          # (r,) int64: which row of the caller's
    lower: Tensor           # (r, n)
    upper: Tensor           # (r, n)
    base: _Place
    direction: Tensor       # (r, n)
    low: _Place
    high: Tensor            # (r, 3): step, value, slope
    step: Tensor            # (r,)
    trials: Tensor          # (r,) int64
    iterations: Tensor      # (r,) int64
    moves: Tensor           # (r, m, n), the newest last
    changes: Tensor         # (r, m, n): of the gradient


def minimize(
    function: Function,
    start: Tensor,
    *,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    steps: int = 200,
    history: int = 10,
    tolerance: float = 1e-6,
) -> Minimum:
    """Minimize `function` from each row of `start` (b, n) float64, which is moved into the bounds (n,) or (b, n) first.

    `function(point (r, n), rows (r,) int64) -> (value (r,), gradient (r, n))`: of the rows still at work.
    `steps`: iterations a row may take; `history`: steps it remembers. A row has converged where no entry of its projected
    gradient x - P(x - g) exceeds `tolerance`, or where no step lowers the value and the model promises less than rounding.
    Raises ValueError for other shapes and dtypes, and for bounds that cross.
    """
    lower, upper = _bounds(start, lower, upper)
    if steps < 0 or history < 1 or not tolerance >= 0:
        raise ValueError(f"steps >= 0, history >= 1 and tolerance >= 0 must hold, but got ({steps}, {history}, {tolerance}).")
    point, number = start.detach().clamp(lower, upper), torch.arange(len(start), device=start.device)
    value, gradient = _evaluated(function, point, number)
    found = Minimum(point.clone(), value.clone(), gradient.clone(), number * 0, _flat(point, gradient, lower, upper, tolerance))
    works = value.isfinite() & gradient.isfinite().all(-1) & ~found.converged & (steps > 0)
    if not works.any():
        return found
    memory = point.new_zeros(len(point), history, point.shape[1])
    none = torch.zeros_like(value)
    base = _Place(point, value, gradient, none, none)
    rows = _Rows(number, lower, upper, base, gradient, base, none.unsqueeze(-1).expand(-1, 3), none, number * 0, number * 0, memory, memory)
    rows = _aimed(_chosen(rows, works.nonzero().squeeze(-1)), used=0)
    rounds = 0
    while len(rows.number):
        rounds += 1
        rows, stopped, converged = _round(function, rows, min(rounds, history), steps, tolerance)
        if stopped.any():
            ended = stopped.nonzero().squeeze(-1)
            which = rows.number[ended]
            for whole, part in zip(found, (*rows.base[:3], rows.iterations, converged)):
                whole[which] = part[ended]
            rows = _chosen(rows, (~stopped).nonzero().squeeze(-1))
    return found


def _round(function: Function, rows: _Rows, used: int, steps: int, tolerance: float) -> tuple[_Rows, Tensor, Tensor]:
    """Each row tries one point: rows, which of them stop now (r,) and which of these have converged (r,)."""
    base = rows.base
    ahead = base.point + rows.step.unsqueeze(-1) * rows.direction
    point = ahead.clamp(rows.lower, rows.upper)
    value, gradient = _evaluated(function, point, rows.number)
    finite = value.isfinite() & gradient.isfinite().all(-1)
    tried = _Place(point, value, gradient, rows.step, (gradient * rows.direction * (ahead == point)).sum(-1))

    # Along a bent path the first-order change may be positive although the direction descends: such a step is too long.
    change = (base.gradient * (point - base.point)).sum(-1)
    lower_enough = finite & (change < 0) & (value <= base.value + _DECREASE * change)
    falling = lower_enough & (tried.slope < _CURVATURE * base.slope)
    accepted = lower_enough & ~falling
    low = _where(falling, tried, rows.low)
    beyond = torch.stack([rows.step, torch.where(finite, value, torch.inf), tried.slope], -1)
    high = torch.where(lower_enough.unsqueeze(-1), rows.high, beyond)
    trials = rows.trials + 1
    noise = ~lower_enough & finite & (rows.step * base.slope.abs() <= _ROUNDING * base.value.abs())
    halted = ~accepted & ((trials >= _TRIALS) | noise)
    moved = accepted | halted & (low.step > 0)
    stuck = halted & ~moved

    new = _where(moved, _where(accepted, tried, low), base)
    fresh = moved & _curved(new.point - base.point, new.gradient - base.gradient)
    moves, changes = (
        torch.where(fresh[:, None, None], torch.cat([kept[:, 1:], (after - before).unsqueeze(1)], 1), kept)
        for kept, after, before in [(rows.moves, new.point, base.point), (rows.changes, new.gradient, base.gradient)]
    )
    # Where a quasi-Newton direction leads nowhere, steepest descent gets its turn before the row gives up.
    settled = stuck & (base.slope.abs() <= _SETTLED * base.value.abs().clamp(min=1.0))
    again = stuck & ~settled & (moves != 0).flatten(1).any(-1)
    moves, changes = moves.masked_fill(again[:, None, None], 0.0), changes.masked_fill(again[:, None, None], 0.0)

    iterations = rows.iterations + moved
    converged = settled | moved & _flat(new.point, new.gradient, rows.lower, rows.upper, tolerance)
    stopped = converged | stuck & ~again | moved & (iterations >= steps)
    step = _next_step(low, high, rows.low)
    rows = rows._replace(base=new, low=low, high=high, step=step, trials=trials, iterations=iterations, moves=moves, changes=changes)
    return _merged(moved | again, _aimed(rows, used), rows), stopped, converged


def _aimed(rows: _Rows, used: int) -> _Rows:
    """Each row at the beginning of a line search from its base. `used`: how many remembered steps there may be."""
    point, _, gradient, _, _ = rows.base
    size = _projected(point, gradient, rows.lower, rows.upper).abs().amax(-1, keepdim=True)
    near = torch.minimum(size, _NEAR * (rows.upper - rows.lower).clamp(max=1.0))
    pushed = (point - rows.lower <= near) & (gradient > 0) | (rows.upper - point <= near) & (gradient < 0)
    blank = rows.moves.shape[1] - used
    direction, scale = _two_loops(gradient, ~pushed, rows.moves[:, blank:], rows.changes[:, blank:])
    direction = -torch.where(pushed, scale.unsqueeze(-1) * gradient, direction)
    inside = ~((point <= rows.lower) & (direction < 0) | (point >= rows.upper) & (direction > 0))
    direction = direction * inside
    slope = (gradient * direction).sum(-1)
    descends = (slope < 0) & slope.isfinite() & direction.isfinite().all(-1)
    steepest = -gradient * (_projected(point, gradient, rows.lower, rows.upper) != 0)
    direction = torch.where(descends.unsqueeze(-1), direction, steepest)
    slope = torch.where(descends, slope, -(steepest * steepest).sum(-1))
    # Without a remembered step nothing is known of the scale: a step of length one at most.
    step = torch.where(descends & (rows.moves != 0).flatten(1).any(-1), 1.0, (1 / (steepest * steepest).sum(-1).sqrt()).clamp(max=1.0))
    base = rows.base._replace(step=torch.zeros_like(step), slope=slope)
    high = torch.stack([torch.full_like(step, torch.inf)] * 3, -1)
    return rows._replace(base=base, low=base, direction=direction, high=high, step=step, trials=torch.zeros_like(rows.trials))


def _two_loops(gradient: Tensor, free: Tensor, moves: Tensor, changes: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse Hessian of the free variables times the gradient (r, n), and its first guess, a multiple of one (r,)."""
    count = moves.shape[1]
    moves, changes = moves * free.unsqueeze(1), changes * free.unsqueeze(1)
    curvature, square = (moves * changes).sum(-1), (changes * changes).sum(-1)
    valid = curvature > _EPSILON * square
    rho = torch.where(valid, 1 / curvature, 0.0)
    scale = torch.ones_like(gradient[:, 0])
    for i in range(count):
        scale = torch.where(valid[:, i], curvature[:, i] / square[:, i], scale)
    rest, weights = gradient * free, []
    for i in reversed(range(count)):
        weights.append(rho[:, i] * (moves[:, i] * rest).sum(-1))
        rest = rest - weights[-1].unsqueeze(-1) * changes[:, i]
    rest = scale.unsqueeze(-1) * rest
    for i, weight in enumerate(reversed(weights)):
        rest = rest + (weight - rho[:, i] * (changes[:, i] * rest).sum(-1)).unsqueeze(-1) * moves[:, i]
    return rest, scale


def _next_step(low: _Place, high: Tensor, before: _Place) -> Tensor:
    """The next step to be tried (r,): inside the bracket if there is one, else farther out."""
    far, value, slope = high.unbind(-1)
    width = far - low.step
    d1 = low.slope + slope - 3 * (low.value - value) / (low.step - far)
    d2 = (d1 * d1 - low.slope * slope).sqrt()
    cubic = far - width * (slope + d2 - d1) / (slope - low.slope + 2 * d2)
    cubic = torch.where(cubic.isfinite(), cubic, low.step + 0.5 * width)
    inside = torch.minimum(torch.maximum(cubic, low.step + 0.1 * width), far - 0.1 * width)
    inside = torch.where(value.isfinite(), inside, low.step + _BACK * width)
    # The zero of the slope, were it linear: between twice and ten times as far.
    secant = low.step - low.slope * (low.step - before.step) / (low.slope - before.slope)
    secant = torch.where(secant.isfinite(), secant, 2 * low.step)
    outside = torch.minimum(torch.maximum(secant, 2 * low.step), 10 * low.step)
    return torch.where(far.isfinite(), inside, outside)


def _curved(move: Tensor, change: Tensor) -> Tensor:
    """Where the gradient grew along the move (r,): the pair says something of a positive definite Hessian."""
    return (move * change).sum(-1) > _EPSILON * (change * change).sum(-1)


def _projected(point: Tensor, gradient: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """x - P(x - g): (r, n), zero exactly at a stationary point of the bounded problem."""
    return point - (point - gradient).clamp(lower, upper)


def _flat(point: Tensor, gradient: Tensor, lower: Tensor, upper: Tensor, tolerance: float) -> Tensor:
    return (_projected(point, gradient, lower, upper).abs() <= tolerance).all(-1)


def _where(mask: Tensor, one: _Place, other: _Place) -> _Place:
    return _Place(*(torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(one, other)))


def _merged(mask: Tensor, one: _Rows, other: _Rows) -> _Rows:
    """`one` where the mask (r,) holds: only what `_aimed` sets can differ."""
    return other._replace(
        base=_where(mask, one.base, other.base),
        low=_where(mask, one.low, other.low),
        direction=torch.where(mask.unsqueeze(-1), one.direction, other.direction),
        high=torch.where(mask.unsqueeze(-1), one.high, other.high),
        step=torch.where(mask, one.step, other.step),
        trials=torch.where(mask, one.trials, other.trials),
    )


def _chosen(rows: _Rows, index: Tensor) -> _Rows:
    parts: Any = (_Place(*(a[index] for a in part)) if isinstance(part, _Place) else part[index] for part in rows)
    return _Rows(*parts)


def _evaluated(function: Function, point: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    value, gradient = function(point, number)
    if value.shape != point.shape[:1] or gradient.shape != point.shape:
        raise ValueError(
            f"function must answer values {tuple(point.shape[:1])} and gradients {tuple(point.shape)} to points "
            f"{tuple(point.shape)}, but it answered {tuple(value.shape)} and {tuple(gradient.shape)}."
        )
    return value.detach(), gradient.detach()


def _bounds(start: Tensor, lower: Tensor | None, upper: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both as (b, n) float64, infinite where none is given."""
    if start.ndim != 2 or start.dtype != torch.float64:
        raise ValueError(f"start must be (b, n) float64, but is {tuple(start.shape)} {start.dtype}: one row for each minimization.")
    both = []
    for name, bound, none in [("lower", lower, -torch.inf), ("upper", upper, torch.inf)]:
        bound = start.new_full((), none) if bound is None else bound.to(start)
        if bound.ndim and bound.shape not in (start.shape, start.shape[1:]):
            raise ValueError(f"{name} must be (n,) or (b, n) for a start {tuple(start.shape)}, but is {tuple(bound.shape)}.")
        both.append(bound.expand_as(start).contiguous())
    if not (both[0] <= both[1]).all():
        raise ValueError(f"lower <= upper must hold, but got {both[0].tolist()} and {both[1].tolist()}.")
    return both[0], both[1]

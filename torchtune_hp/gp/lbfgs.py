"""Many minimizations at once, each with its own L-BFGS: history, line search, bounds and convergence per row.

The direction is that of limited-memory BFGS (J. Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 35
(1980)) in the variables that are free, and that of steepest descent in those at a bound that they are
pushed against; steps are projected onto the bounds (D. Bertsekas, "Projected Newton methods for optimization problems with
simple constraints", SIAM J. Control Optim. 20 (1982), eqs. 32-38). Steps satisfy the weak Wolfe conditions along the projected
path, by bracketing (A. Lewis and M. Overton, "Nonsmooth optimization via quasi-Newton methods", Math. Program. 141 (2013),
alg. 2.6) with cubic interpolation (Nocedal and Wright, "Numerical Optimization", 2006, eq. 3.59).

Laws:
1. Rows never influence each other: a row's result is the same, bit for bit, alone and in any batch, if `function`'s is. (A
   `function` of batched BLAS may itself differ by rounding, about 1e-15 relative, from batch to batch.)
2. Only rows at work are evaluated, one point each per round. A round costs two host syncs.
3. Every point evaluated lies within its bounds. The value never grows, and point, value and gradient belong together.
4. A value or gradient that is not finite makes the line search step back. A row that cannot go on stops alone, at its best point.

The state of r rows at work over n variables with m remembered steps is a tuple of tensors (r, ...); what is one number is (r, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Function = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_DECREASE = 1e-4        # c1 of the Wolfe conditions
_CURVATURE = 0.9        # c2
_TRIALS = 20            # points tried in one line search
_BACK = 0.25            # where a value is not finite
_NEAR = 1e-4            # share of the box within which a variable counts as at its bound
_BLOCK = 8              # remembered steps come in so many, blank ones among them: BLAS's last bits depend on how a row's matrix is aligned
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


class _Rows(NamedTuple):
    """Rows at work, as few tensors as can be: on small problems the number of operations is what costs.

    `base`: point, gradient and value where each line search began. `line`: its direction, the slope there, the step to be tried next,
    then step, value and slope of a step too far (infinite where none is known), and how many were tried. `low`: point, gradient, value,
    step and slope of the best that was tried and where it still falls.
    """

    number: Tensor          # (r,) int64: which row of the caller's
    lower: Tensor           # (r, n)
    upper: Tensor           # (r, n)
    near: Tensor            # (r, n): closer than this a variable is at its bound
    base: Tensor            # (r, 2 n + 1)
    low: Tensor             # (r, 2 n + 3)
    line: Tensor            # (r, n + 6)
    iterations: Tensor      # (r, 1)
    pairs: Tensor           # (r, 2, m, n): moves, and the changes of the gradient; the newest last, blanks are 0


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
) -> Minimum:
    """Minimize `function` from each row of `start` (b, n) float64, which is moved into the bounds (n,) or (b, n) first.

    `function(point (r, n), rows (r,) int64) -> (value (r,), gradient (r, n))`: of the rows still at work.
    `steps`: iterations a row may take; `history`: steps it remembers. A row has converged where no entry of its projected
    gradient x - P(x - g) exceeds `tolerance`, where its quasi-Newton step promises a slope along it of no more than `promise` (twice
    what the model gains), or where no step lowers the value and the model promises less than rounding.
    Raises ValueError for other shapes and dtypes, and for bounds that cross.
    """
    lower, upper = _bounds(start, lower, upper)
    if steps < 0 or history < 1 or not (tolerance >= 0 and promise >= 0):
        raise ValueError(
            f"steps >= 0, history >= 1, tolerance >= 0 and promise >= 0 must hold, but got ({steps}, {history}, {tolerance}, {promise})."
        )
    point, number = start.detach().clamp(lower, upper), torch.arange(len(start), device=start.device)
    value, gradient = _evaluated(function, point, number)
    n = point.shape[1]
    base = torch.cat([point, gradient, value], -1)
    flat = (_projected(point, gradient, lower, upper).abs() <= tolerance).all(-1, keepdim=True)
    found = torch.cat([base, torch.zeros_like(value), flat], -1)
    works = (base.isfinite().all(-1, keepdim=True) & ~flat & (steps > 0)).squeeze(-1).nonzero().squeeze(-1)
    near = _NEAR * (upper - lower).clamp(max=1.0)
    pairs = point.new_zeros(len(point), 2, -(-history // _BLOCK) * _BLOCK, n)
    rows = _Rows(number, lower, upper, near, base, base, base, torch.zeros_like(value), pairs)
    if len(works):
        rows = _aimed(_chosen(rows, works))[0]
    while len(works):
        rows, stopped, converged = _round(function, rows, history, steps, tolerance, promise)
        ended = stopped.nonzero().squeeze(-1)
        if len(ended):
            last = torch.cat([rows.base, rows.iterations, converged], -1)
            found[rows.number[ended]] = last[ended]
            works = (~stopped).nonzero().squeeze(-1)
            rows = _chosen(rows, works)
    point, gradient, value, iterations, converged = torch.split_with_sizes(found, [n, n, 1, 1, 1], -1)
    return Minimum(point, value.squeeze(-1), gradient, iterations.squeeze(-1).long(), converged.squeeze(-1).bool())


def _round(
    function: Function, rows: _Rows, history: int, steps: int, tolerance: float, promise: float
) -> tuple[_Rows, Tensor, Tensor]:
    """Each row tries one point: rows, which of them stop now (r,) and which of these have converged (r, 1)."""
    n = rows.lower.shape[1]
    start, start_gradient, start_value = torch.split_with_sizes(rows.base, [n, n, 1], -1)
    direction, start_slope, step, *_, trials = torch.split_with_sizes(rows.line, [n, 1, 1, 1, 1, 1, 1], -1)
    ahead = torch.addcmul(start, step, direction)
    point = ahead.clamp(rows.lower, rows.upper)
    value, gradient = _evaluated(function, point, rows.number)
    slope = (gradient * direction * (ahead == point)).sum(-1, keepdim=True)
    tried = torch.cat([point, gradient, value, step, slope], -1)
    finite = (tried * 0).sum(-1, keepdim=True) == 0

    # Along a bent path the first-order change may be positive although the direction descends: such a step is too long.
    change = (start_gradient * (point - start)).sum(-1, keepdim=True)
    lower_enough = finite & (change < 0) & (value <= start_value + _DECREASE * change)
    falling = lower_enough & (slope < _CURVATURE * start_slope)
    accepted = lower_enough & ~falling
    low = torch.where(falling, tried, rows.low)
    trials = trials + 1
    noise = ~lower_enough & finite & (step * start_slope.abs() <= _ROUNDING * start_value.abs())
    halted = ~accepted & (noise | (trials >= _TRIALS))

    base = torch.where(accepted, tried[:, : 2 * n + 1], rows.base)
    moved, pairs, begins, settled, ends = accepted, rows.pairs, accepted, ~finite & finite, ~finite & finite
    if bool(halted.any()):
        reached = halted & (low[:, -2:-1] > 0)
        base = torch.where(reached, low[:, : 2 * n + 1], base)
        moved, stuck = accepted | reached, halted & ~reached
        settled = stuck & (start_slope.abs() <= _SETTLED * start_value.abs().clamp(min=1.0))
        # Where a quasi-Newton direction leads nowhere, steepest descent gets its turn before the row gives up.
        again = stuck & ~settled & (pairs != 0).flatten(1).any(-1, keepdim=True)
        pairs = pairs.masked_fill(again[:, :, None, None], 0.0)
        begins, ends = moved | again, stuck & ~again

    pair = (base - rows.base)[:, : 2 * n].view(-1, 2, 1, n)
    fresh = moved[:, :, None, None] & _curved(pair[:, :1], pair[:, 1:])
    blank = pairs.shape[2] - history
    pairs = torch.where(fresh, torch.cat([pairs[:, :, :blank], pairs[:, :, blank + 1 :], pair], 2), pairs)
    high = torch.where(lower_enough, rows.line[:, -4:-1], torch.cat([step, torch.where(finite, value, torch.inf), slope], -1))
    goes_on = torch.cat([direction, start_slope, _next_step(low, high, rows.low), high, trials], -1)
    iterations = rows.iterations + moved
    aimed, size, gain = _aimed(rows._replace(base=base, iterations=iterations, pairs=pairs))
    converged = settled | moved & ((size <= tolerance) | (gain <= promise))
    stopped = ends | converged | moved & (iterations >= steps)
    rows = aimed._replace(line=torch.where(begins, aimed.line, goes_on), low=torch.where(begins, aimed.low, low))
    return rows, stopped.squeeze(-1), converged


def _aimed(rows: _Rows) -> tuple[_Rows, Tensor, Tensor]:
    """Each row at the beginning of a line search from its base; the size (r, 1) of its projected gradient; and what is promised (r, 1)."""
    n = rows.lower.shape[1]
    point, gradient, _ = torch.split_with_sizes(rows.base, [n, n, 1], -1)
    projected = _projected(point, gradient, rows.lower, rows.upper)
    size = projected.abs().amax(-1, keepdim=True)
    pushed = (point - torch.where(gradient > 0, rows.lower, rows.upper)).abs() <= torch.minimum(size, rows.near)
    direction, scale = _quasi_newton(gradient, ~pushed, rows.pairs)
    direction = -torch.where(pushed, scale * gradient, direction)
    direction = direction * (point != torch.where(direction < 0, rows.lower, rows.upper))
    slope = (gradient * direction).sum(-1, keepdim=True)
    descends = (slope < 0) & (slope > -torch.inf)
    steepest = gradient * (projected != 0)
    square = (steepest * steepest).sum(-1, keepdim=True)
    direction, slope = torch.where(descends, direction, -steepest), torch.where(descends, slope, -square)
    # Without a remembered step nothing is known of the scale: a step of length one at most.
    known = descends & (rows.pairs[:, 0, -1] != 0).any(-1, keepdim=True)
    step = torch.where(known, 1.0, square.rsqrt().clamp(max=1.0))
    far = torch.full_like(step, torch.inf)
    none = torch.zeros_like(step)
    line = torch.cat([direction, slope, step, far, far, far, none], -1)
    return rows._replace(low=torch.cat([rows.base, none, slope], -1), line=line), size, torch.where(known, -slope, torch.inf)


def _quasi_newton(gradient: Tensor, free: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse Hessian of the free variables times the gradient (r, n), and its first guess, a multiple of one (r, 1).

    The two-loop recursion in closed form (R. Byrd, J. Nocedal and R. Schnabel, "Representations of quasi-Newton matrices and their
    use in limited memory methods", Math. Program. 63 (1994), eq. 3.1): two triangular systems instead of a loop.
    """
    k = pairs.shape[2]
    pairs = pairs * free[:, None, None]
    products = (pairs * pairs[:, 1:]).sum(-1)                           # (r, 2, k): s y and y y
    valid = products[:, 0] > _EPSILON * products[:, 1]
    newest = (valid * torch.arange(1, k + 1, device=valid.device)).argmax(-1, keepdim=True)
    scale = products.gather(2, newest[:, None].expand(-1, 2, -1))
    scale = torch.where(valid.any(-1, keepdim=True), scale[:, 0] / scale[:, 1], 1.0)
    both = (pairs * valid[:, None, :, None]).flatten(1, 2)              # (r, 2 k, n): s, then y
    inner = (both[:, :, None] * both[:, None, k:]).sum(-1)              # (r, 2 k, k): s y, then y y
    along = (both * gradient[:, None]).sum(-1, keepdim=True)
    # A pair that is not valid is zero: one on the diagonal keeps it out.
    upper = inner[:, :k].triu() + torch.diag_embed((~valid).to(inner.dtype))
    p = torch.linalg.solve_triangular(upper, along[:, :k], upper=True)
    scale = scale[:, :, None]
    right = torch.where(valid, products[:, 0], 0.0)[:, :, None] * p + scale * ((inner[:, k:] * p.mT).sum(-1, keepdim=True) - along[:, k:])
    q = torch.linalg.solve_triangular(upper.mT, right, upper=False)
    scale = scale[:, 0]
    return scale * gradient * free + (both * torch.cat([q, -scale[:, None] * p], 1)).sum(1), scale


def _next_step(low: Tensor, high: Tensor, before: Tensor) -> Tensor:
    """The next step to be tried (r, 1): inside the bracket if there is one, else farther out."""
    near_value, near, near_slope = torch.split_with_sizes(low[:, -3:], [1, 1, 1], -1)
    far, value, slope = torch.split_with_sizes(high, [1, 1, 1], -1)
    width = far - near
    d1 = near_slope + slope + 3 * (near_value - value) / width
    d2 = (d1 * d1 - near_slope * slope).sqrt()
    cubic = far - width * (slope + d2 - d1) / (slope - near_slope + 2 * d2)
    cubic = torch.where(cubic == cubic, cubic, near + 0.5 * width)
    inside = torch.where(value < torch.inf, cubic.clamp(near + 0.1 * width, far - 0.1 * width), near + _BACK * width)
    # The zero of the slope, were it linear: between twice and ten times as far.
    secant = near - near_slope * (near - before[:, -2:-1]) / (near_slope - before[:, -1:])
    outside = torch.where(secant == secant, secant, 2 * near).clamp(2 * near, 10 * near)
    return torch.where(far < torch.inf, inside, outside)


def _curved(move: Tensor, change: Tensor) -> Tensor:
    """Where the gradient grew along the move (..., 1): the pair says something of a positive definite Hessian."""
    return (move * change).sum(-1, keepdim=True) > _EPSILON * (change * change).sum(-1, keepdim=True)


def _projected(point: Tensor, gradient: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """x - P(x - g): (r, n), zero exactly at a stationary point of the bounded problem."""
    return point - (point - gradient).clamp(lower, upper)


def _chosen(rows: _Rows, index: Tensor) -> _Rows:
    return _Rows(*(part.index_select(0, index) for part in rows))


def _evaluated(function: Function, point: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    value, gradient = function(point, number)
    if value.shape != point.shape[:1] or gradient.shape != point.shape:
        raise ValueError(
            f"function must answer values {tuple(point.shape[:1])} and gradients {tuple(point.shape)} to points "
            f"{tuple(point.shape)}, but it answered {tuple(value.shape)} and {tuple(gradient.shape)}."
        )
    return value.detach().unsqueeze(-1), gradient.detach()


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

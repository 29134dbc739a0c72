"""The formulas of a step of L-BFGS, for r rows of n variables at once: directions, remembered pairs, the next step of a line search.

Arrays are NumPy's, one number a row is (r, 1). Sums are over the last axis of what is contiguous: their order, and so their last bits,
do not depend on how many rows there are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_BACK = 0.25            # where a value is not finite
_EPSILON = np.finfo(np.float64).eps


def quasi_newton(gradient: Floats, free: Bools, pairs: Floats) -> tuple[Floats, Floats]:
    """The inverse Hessian of the free variables times the gradient (r, n), and its first guess, a multiple of one (r, 1).

    Nocedal's two-loop recursion, all rows at once; a pair that says nothing of the free variables is left out.
    """
    k = pairs.shape[2]
    if k == 0:
        return gradient * free, np.ones((len(gradient), 1))
    pairs = pairs if free.all() else pairs * free[:, None, None]
    moves, changes = pairs[:, 0], pairs[:, 1]
    along, square = (moves * changes).sum(-1), (changes * changes).sum(-1)      # (r, k)
    valid = along > _EPSILON * square
    newest = (valid * np.arange(1, k + 1)).argmax(-1)[:, None]
    scale = np.take_along_axis(along, newest, 1) / np.take_along_axis(square, newest, 1)
    scale = np.where(valid.any(-1, keepdims=True), scale, 1.0)
    rate = np.where(valid, 1 / along, 0.0)[:, :, None]
    direction = gradient * free
    shares: list[Floats] = [rate[:, 0]] * k
    for j in reversed(range(k)):
        shares[j] = rate[:, j] * dot(moves[:, j], direction)
        direction -= shares[j] * changes[:, j]
    direction *= scale
    for j in range(k):
        direction += (shares[j] - rate[:, j] * dot(changes[:, j], direction)) * moves[:, j]
    return direction, scale


def next_step(low: Floats, high: Floats, before: Floats) -> Floats:
    """The next step to be tried (r, 1): inside the bracket if there is one, else farther out."""
    near_value, near, near_slope = low[:, -3:-2], low[:, -2:-1], low[:, -1:]
    far, value, slope = high[:, :1], high[:, 1:2], high[:, 2:]
    width = far - near
    d1 = near_slope + slope + 3 * (near_value - value) / width
    d2 = np.sqrt(d1 * d1 - near_slope * slope)
    cubic = far - width * (slope + d2 - d1) / (slope - near_slope + 2 * d2)
    cubic = np.where(cubic == cubic, cubic, near + 0.5 * width)
    inside = np.where(value < np.inf, within(cubic, near + 0.1 * width, far - 0.1 * width), near + _BACK * width)
    # The zero of the slope, were it linear: between twice and ten times as far.
    secant = near - near_slope * (near - before[:, -2:-1]) / (near_slope - before[:, -1:])
    outside = within(np.where(secant == secant, secant, 2 * near), 2 * near, 10 * near)
    return np.where(far < np.inf, inside, outside)


def remembered(pairs: Floats, moved: Bools, pair: Floats) -> Floats:
    """`pairs` with a new one (r, 2, n) of the rows that moved (r,), where it says something of a positive definite Hessian."""
    move, change = pair[:, 0], pair[:, 1]
    fresh = moved & (dot(move, change) > _EPSILON * dot(change, change))[:, 0]
    if not fresh.all():
        pair, kept = pair[fresh], pairs
        if not len(pair):
            return pairs
        pairs = pairs[fresh]
    shifted = np.concatenate([pairs[:, :, 1:], pair[:, :, None]], 2)
    if fresh.all():
        return shifted
    kept = kept.copy()
    kept[fresh] = shifted
    return kept


def dot(a: Floats, b: Floats) -> Floats:
    """(r, 1) of (r, n) each."""
    product: Floats = (a * b).sum(-1, keepdims=True)
    return product


def within(point: Floats, lower: Floats, upper: Floats) -> Floats:
    clamped: Floats = np.minimum(np.maximum(point, lower), upper)
    return clamped

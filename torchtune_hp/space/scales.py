"""Monotone maps between the unit interval and the real axis, and rounding to decimal digits.

A scale has `value(u)` and `place(v)`, each the inverse of the other up to floating point; the faces 0 and 1 are the bounds
exactly. What floating point leaves over is removed by rounding the *value*: a float that carries 12 digits survives
place and value, so that every round trip is exact bit for bit and a learning rate that is written 0.001 comes back as 0.001.

Elementwise functions here must not depend on where in the array a number stands, or a point would have other bits in
a block of 500 than alone. NumPy's exp and log keep that, and so does the standard library's normal distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""(n,) float64: one coordinate, or one value, of n points."""

TAIL = 5.0
"""Normal values end at this many standard deviations: there, the quantile of a float64 is still good to 9 digits."""

Number = TypeVar("Number", np.float64, np.int64)

_STANDARD = NormalDist()
_FLOOR = 0.5 * math.erfc(TAIL / math.sqrt(2.0))
_POWERS = np.array([float(f"1e{exponent}") for exponent in range(23)])    # the powers of ten that float64 holds exactly


class Scale(Protocol):
    """Law: `place(value(u))` is u and `value(place(v))` is v up to rounding; both are monotone."""

    def value(self, u: Array) -> Array: ...
    def place(self, v: Array) -> Array: ...


@dataclass(frozen=True, slots=True)
class Linear:
    low: float
    high: float

    def value(self, u: Array) -> Array:
        return np.where(u >= 1.0, self.high, self.low + u * (self.high - self.low))

    def place(self, v: Array) -> Array:
        return between((v - self.low) / (self.high - self.low), 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Log:
    low: float
    high: float

    def value(self, u: Array) -> Array:
        low, high = math.log(self.low), math.log(self.high)
        inside = np.exp(low + u * (high - low))
        return np.where(u <= 0.0, self.low, np.where(u >= 1.0, self.high, inside))

    def place(self, v: Array) -> Array:
        low, high = math.log(self.low), math.log(self.high)
        inside = between((np.log(between(v, self.low, self.high)) - low) / (high - low), 0.0, 1.0)
        return np.where(v <= self.low, 0.0, np.where(v >= self.high, 1.0, inside))


@dataclass(frozen=True, slots=True)
class Normal:
    mean: float
    sd: float

    def value(self, u: Array) -> Array:
        inside = between(u, _FLOOR, 1.0 - _FLOOR).tolist()
        return self.mean + self.sd * np.fromiter(map(_STANDARD.inv_cdf, inside), np.float64, len(inside))

    def place(self, v: Array) -> Array:
        scaled = ((self.mean - v) / (self.sd * math.sqrt(2.0))).tolist()
        return between(0.5 * np.fromiter(map(math.erfc, scaled), np.float64, len(scaled)), _FLOOR, 1.0 - _FLOOR)


def between(v: NDArray[Number], low: float, high: float) -> NDArray[Number]:
    """v moved into [low, high], as np.clip does, at less cost for a point that comes alone."""
    inside: NDArray[Number] = np.minimum(np.maximum(v, low), high)
    return inside


def to_decimals(v: Array, decimals: int) -> Array:
    """v rounded to a multiple of 10**-decimals; `decimals` may be negative. Zero is never negative zero."""
    if decimals < 0:
        return np.rint(v / 10.0**-decimals) * 10.0**-decimals + 0.0
    units = np.rint(v * 10.0**decimals) + 0.0
    if decimals >= len(_POWERS):        # no exact power of ten: through the digits
        return np.array([float(f"{unit:.0f}e-{decimals}") for unit in units.tolist()])
    return units / 10.0**decimals


def to_digits(v: Array, digits: int) -> Array:
    """v rounded to this many significant digits: the very float that Python reads from the printed digits."""
    size = np.abs(v)
    exponent = np.floor(np.log10(np.where(size > 0.0, size, 1.0))).astype(np.int64)
    shift = digits - 1 - exponent
    up, down = _POWERS[between(shift, 0, 22)], _POWERS[between(-shift, 0, 22)]
    rounded: Array = np.where(shift >= 0, np.rint(v * up) / up, np.rint(v / down) * down) + 0.0
    far = np.flatnonzero(np.abs(shift) > 22)        # no exact power of ten: tiny and huge numbers, through their digits
    rounded[far] = [float(f"{number:.{digits - 1}e}") for number in v[far].tolist()]
    return rounded

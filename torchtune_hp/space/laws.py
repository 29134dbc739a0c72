"""From a domain, as it was written, to a column, or to an error that says the law, the values and the way out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import SpaceError
from .columns import Column, Continuum, Equal, Integers, Items, Multiples, Rounded, same
from .domains import FUNCTIONS, Domain, own
from .scales import TAIL, Linear, Log, Normal, to_decimals

MOST = 2**40
"""The most cells a coordinate can have; beyond it a float64 cannot tell them apart everywhere."""

_LOG_MOST = 2**45
"""The largest integer, in units of q, on a log scale: from 2**48 on, neighbors have the same logarithm in float64."""

_LABELS = {
    "uniform": ("lower", "upper"), "loguniform": ("lower", "upper"), "randint": ("lower", "upper"), "lograndint": ("lower", "upper"),
    "quniform": ("lower", "upper", "q"), "qloguniform": ("lower", "upper", "q"),
    "qrandint": ("lower", "upper", "q"), "qlograndint": ("lower", "upper", "q"),
    "randn": ("mean", "sd"), "qrandn": ("mean", "sd", "q"),
}  # fmt: skip


def column_of(name: str, domain: Domain, digits: int) -> Column:
    """The column of any domain but sample_from, mapped and branches. `digits`: how many a float of a continuum carries."""
    if domain.word in ("choice", "ordinal", "grid_search"):
        return _items(name, domain)
    if domain.word.endswith("randint"):
        return _integers(name, domain)
    if domain.word.endswith("randn"):
        return _normal(name, domain, digits)
    return _floats(name, domain, digits)


# Numbers -----------------------------------------------------------------------------------------------------------------


def _floats(name: str, domain: Domain, digits: int) -> Column:
    lower, upper, *rest = (_number(name, domain, *pair) for pair in zip(_LABELS[domain.word], domain.arguments))
    log = "log" in domain.word
    _ordered(name, domain, lower, upper, log)
    if rest:
        q = _step(name, domain, rest[0], upper - lower)
        size = max(abs(lower), abs(upper))
        if q < 1e-12 * size:
            raise SpaceError(f"{name}: `q` of {domain!r} is too small beside the bounds for a float64. Use a larger q.")
        dust = max(1e-9, 1e-15 * size / q)      # 0.3 / 0.1 is 2.9999999999999996
        first, last = math.ceil(lower / q - dust), math.floor(upper / q + dust)
        first = max(first, 1) if log else first
        n = _count(name, domain, last - first + 1)
        low, high = max(first * q, lower), min(last * q, upper)
        cells = Rounded(n, Log(low, high) if log else Linear(low, high), low, q, 0.0)
        return Multiples(name, repr(domain), cells, first, q, lower, upper)
    if upper - lower <= (1e-9 if log else 1e-12) * max(abs(lower), abs(upper)):
        raise SpaceError(f"{name}: the bounds of {domain!r} are too close to be searched. Write the value itself: a constant.")
    if log:
        return Continuum(name, repr(domain), Log(lower, upper), lower, upper, digits, None)
    decimals = _decimals(upper - lower, max(abs(lower), abs(upper)), digits)
    return Continuum(name, repr(domain), Linear(lower, upper), lower, upper, digits, decimals)


def _integers(name: str, domain: Domain) -> Column:
    lower, upper, *rest = (_integer(name, domain, *pair) for pair in zip(_LABELS[domain.word], domain.arguments))
    log = "log" in domain.word
    if not rest and upper <= lower:
        raise SpaceError(
            f"{name}: `lower < upper` must hold, but {domain!r} holds no integer: `upper` is excluded. "
            f"Write {domain.word}({min(lower, upper)}, {max(lower, upper) + 1})."
        )
    q = 1
    if rest:
        _ordered(name, domain, lower, upper, log)
        q = int(_step(name, domain, rest[0], upper - lower))
    elif log and lower < 1:
        raise _not_positive(name, domain)
    first, last = -(-lower // q), (upper if rest else upper - 1) // q
    n = last - first + 1
    if rest or n > MOST:
        _count(name, domain, n)
    if log and last > _LOG_MOST:
        linear = domain.word.replace("log", "")
        raise SpaceError(
            f"{name}: `upper <= 2**45{' * q' if rest else ''}` must hold on a log scale, but got {domain!r}; the logarithms of larger ones "
            f"cannot be told apart. Use {linear}: so far up it spaces {n:,} integers alike, to 4 %."
        )
    low, high = float(first * q), float(last * q + 1)
    cells = Equal(n) if q == 1 and not log else Rounded(n, Log(low, high) if log else Linear(low, high), low, float(q), 0.5)
    return Integers(name, repr(domain), cells, first * q, q)


def _normal(name: str, domain: Domain, digits: int) -> Column:
    mean, sd, *rest = (_number(name, domain, *pair) for pair in zip(_LABELS[domain.word], domain.arguments))
    if sd <= 0:
        raise SpaceError(f"{name}: `sd > 0` must hold, but got {domain!r}. For a fixed value write the value itself.")
    if sd < 1e-9 * abs(mean):
        raise SpaceError(f"{name}: `sd` of {domain!r} is too small beside `mean` to be searched. Write the value itself: a constant.")
    if rest:
        q = _step(name, domain, rest[0], 2 * TAIL * sd)
        if q < 1e-6 * sd:
            raise SpaceError(f"{name}: `q >= sd / 1,000,000` must hold, but got {domain!r}. Use randn({mean!r}, {sd!r}).")
        first, last = math.ceil((mean - TAIL * sd) / q - 1e-9), math.floor((mean + TAIL * sd) / q + 1e-9)
        cells = Rounded(_count(name, domain, last - first + 1), Normal(mean, sd), first * q, q, 0.0)
        return Multiples(name, repr(domain), cells, first, q, -math.inf, math.inf)
    # Near 5 standard deviations, neighboring float64 quantiles lie 1e-10 apart: 8 decimals of `sd` are safe there.
    decimals = _decimals(sd, abs(mean) + TAIL * sd, 8)
    low, high = (float(to_decimals(np.array([mean + side * sd]), decimals)[0]) for side in (-TAIL, TAIL))
    return Continuum(name, repr(domain), Normal(mean, sd), low, high, digits, decimals)


def _decimals(width: float, size: float, digits: int) -> int:
    """Decimal places that give `digits` digits of the width, or as many as a float64 of this size can hold for certain."""
    fine = max(width * 10.0**-digits, 16 * math.ulp(size))
    return math.floor(-math.log10(fine) + 1e-9)


def _number(name: str, domain: Domain, label: str, value: Any) -> float:
    if isinstance(value, str):
        raise SpaceError(
            f"{name}: `{label}` of {domain.word} must be a number, but got the string {value!r}. Write it without quotes "
            "(YAML reads 1e-5 as a string: write 1.0e-5)."
        )
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise SpaceError(f"{name}: `{label}` of {domain.word} must be a number, but got {value!r} ({type(value).__name__}). Write a float.")
    if not _finite(value):
        raise SpaceError(f"{name}: `{label}` of {domain.word} must be finite, but got {value!r}. Choose the widest bound that makes sense.")
    if value and not 1e-100 <= abs(float(value)) <= 1e100:
        raise SpaceError(f"{name}: `{label}` of {domain.word} must be 1e-100 to 1e100 in size, but got {value!r}. Change the unit.")
    return float(value)


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:       # an integer beyond the largest float
        return False


def _integer(name: str, domain: Domain, label: str, value: Any) -> int:
    _number(name, domain, label, value)
    if not isinstance(value, (int, np.integer)):
        way_out = f"Write {int(value)}" if float(value).is_integer() else f"Use {domain.word.replace('randint', 'uniform')}"
        raise SpaceError(f"{name}: `{label}` of {domain.word} must be an integer, but got {value!r}. {way_out}.")
    if abs(int(value)) > 2**53:
        raise SpaceError(f"{name}: `{label}` of {domain.word} must be within 2**53, but got {value!r}. Search its logarithm or its parts.")
    return int(value)


def _ordered(name: str, domain: Domain, lower: float, upper: float, log: bool) -> None:
    if lower >= upper:
        way_out = "For a fixed value write the value itself." if lower == upper else "Swap the bounds."
        raise SpaceError(f"{name}: `lower < upper` must hold, but got {domain!r} (lower={lower}, upper={upper}). {way_out}")
    if log and lower <= 0:
        raise _not_positive(name, domain)


def _not_positive(name: str, domain: Domain) -> SpaceError:
    plain = domain.word.replace("log", "")
    return SpaceError(f"{name}: `lower > 0` must hold on a logarithmic scale, but got {domain!r}. Use {plain}, or a positive bound.")


def _step(name: str, domain: Domain, q: float, width: float) -> float:
    if q <= 0:
        raise SpaceError(f"{name}: `q > 0` must hold, but got {domain!r}. Without steps use {domain.word[1:]}.")
    if q > width:
        raise SpaceError(f"{name}: `q` must not exceed the range, but in {domain!r} q={q} and the range is {width}. Use a smaller q.")
    return q


def _count(name: str, domain: Domain, n: int) -> int:
    if n < 2:
        raise SpaceError(f"{name}: {domain!r} must hold at least two multiples of q, but holds {n}. Use a smaller q or wider bounds.")
    if n > MOST:
        raise SpaceError(f"{name}: {domain!r} has {n} values, and at most 2**40 can be told apart. Use a larger q or a float domain.")
    return n


# Listed values -----------------------------------------------------------------------------------------------------------


def _items(name: str, domain: Domain) -> Column:
    (given,) = domain.arguments
    values = listed(name, domain.word, given)
    for position, value in enumerate(values):
        searchable_only_at_the_top(f"{name}[{position}]", value)
        if isinstance(value, float) and math.isnan(value):
            raise SpaceError(f"{name}: {domain.word} must not hold nan, which equals nothing, not even itself. Use None.")
    if domain.word == "ordinal" and len(values) < 2:
        raise SpaceError(f"{name}: ordinal needs at least two values, but got {given!r}. For a fixed value write the value itself.")
    try:
        # Tensors can be hashed, but not by their contents.
        table = None if any(hasattr(value, "__array__") for value in values) else {value: k for k, value in enumerate(values)}
    except TypeError:
        table = None
    _distinct(name, domain.word, values, table)
    items = tuple(values if table is not None else map(own, values))
    return Items(name, repr(domain), "ordinal" if domain.word == "ordinal" else "category", items, table)


def listed(name: str, word: str, given: Any) -> list[Any]:
    if isinstance(given, str):
        raise SpaceError(f"{name}: {word} needs a list, but got the string {given!r}. Did you mean {word}([{given!r}])?")
    if isinstance(given, (set, frozenset)):
        raise SpaceError(f"{name}: {word} needs a list, but got a set, which has no order to repeat. Write {word}([...]).")
    if isinstance(given, Mapping):
        raise SpaceError(f"{name}: {word} needs a list, but got the dict {given!r}. Branches are written choice({{...}}).")
    if isinstance(given, np.ndarray) and given.ndim == 1:
        given = given.tolist()
    if not isinstance(given, (list, tuple, range)):
        raise SpaceError(f"{name}: {word} needs a list, but got {given!r} ({type(given).__name__}). Write {word}([...]) or list(...).")
    if not given:
        raise SpaceError(f"{name}: {word} needs at least one value, but got {given!r}. List the values, or leave the parameter out.")
    return list(given)


def _distinct(name: str, word: str, values: list[Any], table: dict[Any, int] | None) -> None:
    if table is not None and len(table) == len(values):
        return
    for j, value in enumerate(values):
        for i in range(j):
            if same(values[i], value):
                raise SpaceError(
                    f"{name}: the values of {word} must differ, but numbers {i} and {j} are equal: {values[i]!r} and {value!r}. "
                    "Leave one out; to weigh a value, use mapped or sample_from."
                )


# What is no domain -------------------------------------------------------------------------------------------------------

_FOREIGN = {
    "torch.distributions": "torch", "scipy.stats": "SciPy", "numpy.random": "NumPy", "ray.tune": "Ray Tune",
    "optuna.distributions": "Optuna", "hyperopt": "Hyperopt", "ConfigSpace": "ConfigSpace",
}  # fmt: skip


def searchable_only_at_the_top(name: str, value: Any) -> None:
    """A constant, or one of the listed values: nothing in it may have been meant to be searched."""
    if isinstance(value, Domain):
        raise SpaceError(
            f"{name}: {value!r} stands inside a list, where it cannot be searched. Make it a key of its own; "
            'alternatives with hyperparameters are written choice({"name": {...}}).'
        )
    not_a_foreigner(name, value)
    if isinstance(value, (list, tuple, set, frozenset)):
        for part in value:
            searchable_only_at_the_top(name, part)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            searchable_only_at_the_top(f"{name}.{key}", part)


def not_a_foreigner(name: str, value: Any) -> None:
    """A distribution of another library, or a word of this one that was not called."""
    function: Callable[..., Any] | None = next((word for word in FUNCTIONS.values() if word is value), None)
    if function is not None or value is Domain:
        word = function.__name__ if function is not None else "uniform"
        raise SpaceError(f"{name}: got {word} itself, not what it gives. Call it: {word}(...).")
    module = type(getattr(value, "__self__", value)).__module__     # of the object, or of the object whose method it is
    for prefix, library in _FOREIGN.items():
        if module == prefix or module.startswith(prefix + "."):
            raise SpaceError(
                f"{name}: {value!r} is an object of {library} and would be handed to the trial as it is. Use one of "
                f"{', '.join(FUNCTIONS)}; for any other distribution, mapped(uniform(0, 1), quantile, cdf)."
            )

"""The words in which a search space is written: Ray Tune's names, signatures and meaning.

A word only takes down what it was given; `Space` checks it, because only there the parameter's name is known for the error.

    continuous    uniform  loguniform  randn                     values carry 12 significant digits
    in steps      quniform  qloguniform  qrandn                  multiples of q
    integers      randint  lograndint                            upper excluded
                  qrandint  qlograndint                          multiples of q, upper included
    listed        choice  ordinal  grid_search                   the very objects that were given, lists, dicts and sets copied
    computed      sample_from  mapped
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Domain:
    """What a hyperparameter may be: the word it was written with and the arguments it was given."""

    word: str
    arguments: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.word}({', '.join(map(repr, self.arguments))})"


def uniform(lower: float, upper: float) -> Domain:
    """A float between `lower` and `upper`, all equally likely."""
    return Domain("uniform", (lower, upper))


def quniform(lower: float, upper: float, q: float) -> Domain:
    """A multiple of `q` in [lower, upper]: a uniform value rounded to the nearest one.

    As in Ray, the first and the last multiple are therefore half as likely as each of the others.
    """
    return Domain("quniform", (lower, upper, q))


def loguniform(lower: float, upper: float) -> Domain:
    """A float between `lower` > 0 and `upper`, its logarithm uniform: every factor of ten is as likely as the next."""
    return Domain("loguniform", (lower, upper))


def qloguniform(lower: float, upper: float, q: float) -> Domain:
    """A multiple of `q` in [lower, upper]: a log-uniform value rounded to the nearest one."""
    return Domain("qloguniform", (lower, upper, q))


def randn(mean: float = 0.0, sd: float = 1.0) -> Domain:
    """A normally distributed float. The cube has faces, so it ends at 5 standard deviations (6 in 10 million lie beyond)."""
    return Domain("randn", (mean, sd))


def qrandn(mean: float, sd: float, q: float) -> Domain:
    """A normally distributed value rounded to the nearest multiple of `q`, within 5 standard deviations."""
    return Domain("qrandn", (mean, sd, q))


def randint(lower: int, upper: int) -> Domain:
    """An integer from `lower` to `upper - 1`, all equally likely."""
    return Domain("randint", (lower, upper))


def qrandint(lower: int, upper: int, q: int) -> Domain:
    """A multiple of `q` in [lower, upper], **`upper` included**, as in Ray: a uniform integer rounded to the nearest one.

    The ends are less likely than the rest: qrandint(0, 10, 5) gives 0, 5, 10 for 3, 5 and 3 of the integers 0 to 10.
    """
    return Domain("qrandint", (lower, upper, q))


def lograndint(lower: int, upper: int) -> Domain:
    """An integer from `lower` >= 1 to `upper - 1`: a log-uniform float on [lower, upper), rounded down.

    The cube is shared out by likelihood, not by count: integer v covers [log v, log(v + 1)) of the logarithmic axis, and its
    canonical point is the middle of that cell. `levels` counts the integers all the same.
    """
    return Domain("lograndint", (lower, upper))


def qlograndint(lower: int, upper: int, q: int) -> Domain:
    """A multiple of `q` in [lower, upper], **`upper` included**, as in Ray: a log-uniform integer rounded to the nearest one."""
    return Domain("qlograndint", (lower, upper, q))


def choice(values: Sequence[Any] | Mapping[str, Mapping[str, Any]]) -> Domain:
    """One of these values, without an order; or, from a dict of dicts, one of these branches.

    choice({"mlp": {"width": randint(8, 65)}, "cnn": {"filters": randint(4, 33)}}) reads {"name": "cnn", "filters": 16}: the
    hyperparameters of the other branches are absent.
    """
    return Domain("choice", (kept(values),))


def ordinal(values: Sequence[Any]) -> Domain:
    """One of these values, which are in order: a searcher may expect that neighbors perform alike."""
    return Domain("ordinal", (kept(values),))


def grid_search(values: Sequence[Any]) -> Domain:
    """Each of these values, crossed with every other `grid_search`; other searchers than GridSearch read a `choice`."""
    return Domain("grid_search", (kept(values),))


def sample_from(function: Callable[[dict[str, Any]], Any]) -> Domain:
    """What `function(config)` returns, run under the trial's seed. No searcher sees it.

    It reads the config so far, a plain dict: what is searched, constants, and the `sample_from` written before it. It may
    draw from `random`, `numpy.random` and torch; their states are restored afterwards.
    """
    return Domain("sample_from", (function,))


def mapped(domain: Domain | Mapping[str, Any], forward: Callable[[Any], Any], inverse: Callable[[Any], Any]) -> Domain:
    """`forward` of what is drawn from `domain`, or from a dict of domains; `inverse` leads back.

    The pair must be one-to-one to 9 digits, which is checked at 258 points: mapped(loguniform(1e-4, 1e-1), lambda r: 1 - r,
    lambda beta: 1 - beta) searches a momentum close to 1. Inside, values carry 9 significant digits.
    """
    return Domain("mapped", (kept(domain), forward, inverse))


FUNCTIONS: dict[str, Callable[..., Domain]] = {
    function.__name__: function
    for function in (
        uniform, quniform, loguniform, qloguniform, randn, qrandn, randint, qrandint, lograndint, qlograndint,
        choice, ordinal, grid_search, sample_from, mapped,
    )
}  # fmt: skip


def kept(value: Any) -> Any:
    """The containers copied, so that a list changed later does not change the space; what they hold is the same."""
    if isinstance(value, Mapping):
        return {key: kept(part) for key, part in value.items()}
    return list(value) if type(value) is list else value


def own(value: Any) -> Any:
    """A value that its reader may change: its containers copied, what they hold the same, so that it is still found among the items."""
    if type(value) in (list, tuple):
        return type(value)(map(own, value))
    if type(value) is dict:
        return {key: own(part) for key, part in value.items()}
    return copy.copy(value) if isinstance(value, (list, dict, set)) else value

"""Every bad space is a SpaceError at construction that names the parameter and says the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import torchtune_hp.space as hp
from torchtune_hp.errors import SpaceError
from torchtune_hp.space import Domain, Space

NAN, INF = float("nan"), float("inf")
identity: Callable[[Any], Any] = lambda v: v  # noqa: E731


class RayFloat:
    """Stands in for an object of another library."""


RayFloat.__module__ = "ray.tune.search.sample"

BAD: list[tuple[Any, ...]] = [
    # what stands at "p", and the words that the error must hold
    (hp.uniform(1, 0), "p: `lower < upper` must hold", "uniform(1, 0)", "Swap"),
    (hp.uniform(1, 1), "lower < upper", "lower=1.0, upper=1.0", "write the value itself"),
    (hp.uniform(NAN, 1), "`lower` of uniform must be finite", "nan"),
    (hp.uniform(0, INF), "`upper` of uniform must be finite", "inf", "Choose the widest bound"),
    (hp.uniform(0, 10**400), "`upper` of uniform must be finite"),
    (hp.uniform("1e-5", 1), "`lower` of uniform must be a number", "'1e-5'", "1.0e-5"),
    (hp.uniform(False, 1), "`lower` of uniform must be a number", "False (bool)"),
    (hp.uniform(np.bool_(True), 2), "`lower` of uniform must be a number", "(bool)"),
    (hp.uniform(None, 1), "`lower` of uniform must be a number", "None (NoneType)"),
    (hp.uniform(0, 1e101), "`upper` of uniform must be 1e-100 to 1e100 in size", "Change the unit"),
    (hp.uniform(1e-101, 1), "`lower` of uniform must be 1e-100 to 1e100 in size"),
    (hp.uniform(1.0, 1.0 + 9e-13), "too close", "a constant"),
    (hp.loguniform(1.0, 1.0 + 9e-10), "too close", "a constant"),
    (hp.loguniform(0, 1), "`lower > 0` must hold on a logarithmic scale", "loguniform(0, 1)", "Use uniform"),
    (hp.loguniform(-1, 1), "lower > 0", "Use uniform"),
    (hp.loguniform(1e-1, 1e-4), "lower < upper", "Swap"),
    (hp.qloguniform(0, 1, 0.1), "lower > 0", "Use quniform"),
    (hp.quniform(0, 1, 0), "`q > 0` must hold", "quniform(0, 1, 0)", "use uniform"),
    (hp.quniform(0, 1, -0.1), "`q > 0` must hold"),
    (hp.quniform(0, 1, NAN), "`q` of quniform must be finite"),
    (hp.quniform(0, 1, 2), "`q` must not exceed the range", "q=2.0", "Use a smaller q"),
    (hp.quniform(0.6, 1.7, 1), "at least two multiples of q, but holds 1", "smaller q"),
    (hp.quniform(-1e6, 1e6, 1.1e-6), "at most 2**40", "larger q"),
    (hp.quniform(1e15, 1e15 + 1, 1e-6), "too small beside the bounds", "larger q"),
    (hp.randn(0, 0), "`sd > 0` must hold", "randn(0, 0)", "write the value itself"),
    (hp.randn(0, -1), "`sd > 0` must hold"),
    (hp.randn(1e10, 1), "`sd`", "too small beside `mean`"),
    (hp.randn(NAN, 1), "`mean` of randn must be finite"),
    (hp.qrandn(0, 1, 0), "`q > 0` must hold", "use randn"),
    (hp.qrandn(0, 1, 11), "`q` must not exceed the range"),
    (hp.qrandn(2, 1, 9), "at least two multiples of q, but holds 1"),
    (hp.qrandn(0, 1, 1e-7), "sd / 1,000,000", "Use randn(0.0, 1.0)"),
    (hp.randint(1.5, 4), "`lower` of randint must be an integer", "1.5", "Use uniform"),
    (hp.randint(1, 4.0), "`upper` of randint must be an integer", "4.0", "Write 4"),
    (hp.lograndint(1.5, 4), "Use loguniform"),
    (hp.randint(4, 4), "holds no integer", "`upper` is excluded", "Write randint(4, 5)"),
    (hp.randint(9, 4), "holds no integer", "Write randint(4, 10)"),
    (hp.randint(0, 2**53 + 1), "within 2**53"),
    (hp.randint(0, 2**40 + 1), "at most 2**40"),
    (hp.randint("1", 4), "must be a number", "'1'"),
    (hp.lograndint(0, 4), "lower > 0", "Use randint"),
    (hp.qlograndint(0, 4, 2), "lower > 0", "Use qrandint"),
    (hp.lograndint(2**45 - 9, 2**45 + 2), "upper <= 2**45", "Use randint"),
    (hp.qlograndint(2**46, 2**46 + 8, 2), "upper <= 2**45 * q", "Use qrandint"),
    (hp.qrandint(4, 1, 1), "lower < upper", "Swap"),
    (hp.qrandint(0, 4, 5), "`q` must not exceed the range"),
    (hp.qrandint(0, 4, 0), "`q > 0` must hold", "use randint"),
    (hp.qrandint(0, 4, 0.5), "`q` of qrandint must be an integer", "0.5"),
    (hp.qrandint(1, 6, 4), "at least two multiples of q, but holds 1"),
    (hp.choice([]), "choice needs at least one value", "leave the parameter out"),
    (hp.choice({}), "choice needs at least one branch", "leave the parameter out"),
    (hp.choice("abc"), "choice needs a list, but got the string 'abc'", "Did you mean choice(['abc'])?"),
    (hp.choice({16, 32}), "choice needs a list, but got a set", "Write choice([...])"),  # type: ignore[arg-type]
    (hp.choice(5), "choice needs a list, but got 5 (int)", "Write choice([...])"),  # type: ignore[arg-type]
    (hp.choice([1, 2, 1]), "numbers 0 and 2 are equal: 1 and 1", "Leave one out"),
    (hp.choice([0, 1, True]), "numbers 1 and 2 are equal: 1 and True"),
    (hp.choice([[64], [32], [64]]), "numbers 0 and 2 are equal: [64] and [64]"),
    (hp.choice([torch.zeros(2), torch.ones(2), torch.ones(2)]), "numbers 1 and 2 are equal"),
    (hp.choice([1.0, NAN]), "must not hold nan", "Use None"),
    (hp.choice([1, hp.uniform(0, 1)]), "p[1]: uniform(0, 1) stands inside a list", 'choice({"name": {...}})'),
    (hp.choice([{"x": hp.uniform(0, 1)}]), "p[0].x: uniform(0, 1) stands inside a list"),
    (hp.choice({"mlp": 3}), "p.mlp: a branch is a dict", "3", "Write {} for a branch without any"),
    (hp.choice({"relu": None, "tanh": None}), "p.relu: a branch is a dict", "choice(['relu', 'tanh'])"),
    (hp.choice({1: {}}), "p: names must be strings", "1 (int)", "Write '1'"),  # type: ignore[dict-item]
    (hp.choice({"a.b": {}}), "p: names must not hold a"),
    (hp.choice({"mlp": {"name": hp.uniform(0, 1)}}), 'p.mlp: the key "name" of a branch', "Rename"),
    (hp.choice({"mlp": {"width": hp.randint(4, 4)}}), "p.mlp.width: `lower < upper`"),
    (hp.ordinal([1]), "ordinal needs at least two values", "write the value itself"),
    (hp.ordinal([2, 2]), "numbers 0 and 1 are equal"),
    (hp.ordinal({"a": {}}), "ordinal needs a list, but got the dict", "choice({...})"),  # type: ignore[arg-type]
    (hp.grid_search([]), "grid_search needs at least one value"),
    (hp.grid_search("ab"), "Did you mean grid_search(['ab'])?"),
    (hp.sample_from(3), "sample_from needs a function, but got 3", "lambda config"),  # type: ignore[arg-type]
    (hp.mapped(hp.uniform(0, 1), 3, identity), "`forward` of mapped must be a function, but got 3"),  # type: ignore[arg-type]
    (hp.mapped(hp.uniform(0, 1), identity, None), "`inverse` of mapped must be a function, but got None"),  # type: ignore[arg-type]
    (hp.mapped(3, identity, identity), "mapped needs a domain or a dict of domains, but got 3"),  # type: ignore[arg-type]
    (hp.mapped({}, identity, identity), "mapped needs a domain or a dict of domains, but got {}"),
    (hp.mapped({"a": 3}, identity, identity), "mapped holds nothing to search"),
    (hp.mapped({"a": hp.uniform(0, 1), "s": hp.sample_from(identity)}, identity, identity), "mapped cannot hold sample_from"),
    (hp.mapped(hp.sample_from(identity), identity, identity), "mapped cannot hold sample_from"),
    (hp.mapped(hp.uniform(1, 0), identity, identity), "p: `lower < upper` must hold"),
    (hp.mapped(hp.uniform(-1, 1), lambda v: v * v, lambda w: w**0.5), "p: `forward` must be one-to-one, but both", "become", "Narrow"),
    (hp.mapped(hp.randint(0, 4), lambda v: v // 2, lambda w: 2 * w), "p: `forward` must be one-to-one, but both 0 and 1 become 0"),
    (hp.mapped(hp.uniform(0, 1), lambda v: v + 1, identity), "p: `inverse` must undo `forward`", "Correct `inverse`"),
    (hp.mapped(hp.uniform(0, 1), lambda v: v * 2, lambda w: w * 0.4999), "p: `inverse` must undo `forward`", "is"),
    (hp.mapped(hp.uniform(0, 1), lambda v: 1 / v, lambda w: 1 / w), "p: `forward` failed on 0.0: ZeroDivisionError"),
    (hp.mapped(hp.uniform(0, 1), str, lambda w: int(w)), "p: `inverse` must undo `forward`", "`inverse` failed on", "ValueError"),
    (hp.uniform, "p: got uniform itself", "Call it: uniform(...)"),
    (hp.randn, "p: got randn itself", "Call it: randn(...)"),
    (Domain, "p: got uniform itself", "Call it"),
    ([hp.uniform(0, 1)], "p: uniform(0, 1) stands inside a list"),
    ((1, [hp.choice([1, 2])]), "p: choice([1, 2]) stands inside a list"),
    ([hp.uniform], "p: got uniform itself"),
    (torch.distributions.Uniform(0.0, 1.0), "p: Uniform", "an object of torch", "quantile, cdf"),
    (stats.uniform(0, 1), "an object of SciPy", "Use one of uniform, quniform"),
    (stats.norm, "an object of SciPy"),
    (np.random.default_rng(0).normal, "an object of NumPy"),
    (np.random.uniform, "an object of NumPy"),
    (RayFloat(), "an object of Ray Tune"),
    ({"q": hp.uniform(1, 0)}, "p.q: `lower < upper`"),
    ({"": 1}, "p: names must not be empty"),
    ({"a.b": 1}, "p: names must not hold a", "'a.b'", "Nest dicts"),
    ({3: 1}, "p: names must be strings", "3 (int)"),
]  # fmt: skip


@pytest.mark.parametrize("value, words", [(row[0], row[1:]) for row in BAD], ids=[str(i) for i in range(len(BAD))])
def test_a_bad_parameter_is_named_with_the_way_out(value: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(SpaceError) as caught:
        Space({"good": hp.uniform(0, 1), "p": value})
    assert "p" in str(caught.value).split(":")[0].replace("[", ".").split(".")[0]
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Space({}), ("space: nothing in {} can be searched", "loguniform(1e-4, 1e-1)")),
        (lambda: Space({"a": 1, "b": {"c": hp.sample_from(identity)}}), ("space: nothing in",)),
        (lambda: Space([("a", hp.uniform(0, 1))]), ("space: a dict of names and domains is expected", "loguniform")),  # type: ignore[arg-type]
        (lambda: Space(hp.uniform), ("space: got uniform itself",)),  # type: ignore[arg-type]
        (lambda: Space.of(None), ("space: a dict of names and domains is expected, but got None",)),  # type: ignore[arg-type]
        (lambda: Space({1: hp.uniform(0, 1)}), ("space: names must be strings", "1 (int)")),  # type: ignore[dict-item]
        (lambda: Space({"": hp.uniform(0, 1)}), ("space: names must not be empty",)),
        (lambda: Space({"a.b": hp.uniform(0, 1)}), ('space: names must not hold a "."', "'a.b'")),
        (lambda: Space({"a": hp.uniform(0, 1)}, constraints=[3]), ("constraints[0]: a function", "3")),  # type: ignore[list-item]
        (lambda: Space({"a": hp.uniform(0, 1)}, constraints=identity), ("constraints: a list", "constraints=[...]")),  # type: ignore[arg-type]
        (lambda: Space({"a": hp.uniform(0, 1)}, constraints="a < 1"), ("constraints: a list", "'a < 1'")),  # type: ignore[arg-type]
    ],
)
def test_a_bad_space_says_the_way_out(make: Callable[[], Space], words: tuple[str, ...]) -> None:
    with pytest.raises(SpaceError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "domain, values",
    [
        (hp.uniform(1.0, 1.0 + 1e-11), 2),
        (hp.uniform(0, 1e100), 2),
        (hp.uniform(-1e-100, 1e-100), 2),
        (hp.loguniform(1.0, 1.0 + 1e-8), 2),
        (hp.quniform(0, 1, 1), 2),
        (hp.qrandint(0, 4, 4), 2),
        (hp.qrandn(0, 1, 5), 3),
        (hp.qrandn(0, 1, 1e-6), 2),
        (hp.randn(1e9, 1), 2),
        (hp.randint(0, 2**40), 2),
        (hp.randint(2**53 - 3, 2**53), 2),
        (hp.lograndint(1, 3), 2),
        (hp.lograndint(2**45 - 9, 2**45 + 1), 10),
        (hp.qlograndint(10**15, 10**15 + 9000, 1000), 10),
        (hp.choice([1]), 1),
        (hp.choice(range(2)), 2),
        (hp.choice((1, 2)), 2),
        (hp.choice(np.array([1, 2])), 2),  # type: ignore[arg-type]
        (hp.choice([torch.distributions.Normal, torch.nn.ReLU]), 2),
        (hp.uniform(np.float32(0.5), np.int64(2)), 2),
        (hp.randint(np.int64(0), np.int64(2)), 2),
    ],
)
def test_what_is_just_good_enough_is_accepted(domain: Domain, values: int) -> None:
    x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
    assert len({repr(config["p"]) for config in Space({"p": domain}).decode(x)}) >= values

"""The laws of the space, on many spaces and many points: round trips are exact, canonical points stay, the cube is legal."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

import torchtune_hp.space as hp
from torchtune_hp.space import Space
from torchtune_hp.trial import Dim

MIXED: dict[str, Any] = {
    "lr": hp.loguniform(1e-4, 1e-1),
    "wd": hp.uniform(0, 1),
    "width": hp.randint(8, 65),
    "units": hp.lograndint(8, 513),
    "dropout": hp.quniform(0, 0.5, 0.05),
    "epochs": 3,
    "model": hp.choice({"mlp": {"depth": hp.randint(1, 5)}, "cnn": {"kernel": hp.ordinal([3, 5, 7]), "noise": hp.randn()}, "none": {}}),
    "nested": {"beta": hp.mapped(hp.loguniform(1e-4, 1e-1), lambda r: 1 - r, lambda beta: 1 - beta)},
}
SPACE = Space(MIXED)
WORDS = {
    "uniform": hp.uniform(-1, 3),
    "uniform on thirds": hp.uniform(1 / 3, 2 / 3),
    "narrow uniform": hp.uniform(1e6, 1e6 + 1e-3),
    "tiny uniform": hp.uniform(0, 1e-30),
    "huge uniform": hp.uniform(-1e40, 1e40),
    "loguniform": hp.loguniform(1e-4, 1e-1),
    "loguniform on thirds": hp.loguniform(1 / 3, 2 / 3),
    "extreme loguniform": hp.loguniform(1e-100, 1e100),
    "narrow loguniform": hp.loguniform(1, 1.0001),
    "randn": hp.randn(),
    "odd randn": hp.randn(1 / 3, 1 / 7),
    "distant randn": hp.randn(-1e3, 2e-3),
    "quniform": hp.quniform(0, 1, 0.1),
    "quniform on thirds": hp.quniform(1 / 3, 3, 1 / 3),
    "quniform below zero": hp.quniform(-0.7, 0.75, 0.1),
    "qloguniform": hp.qloguniform(1e-4, 1e-1, 5e-5),
    "qloguniform from below q": hp.qloguniform(1e-10, 9, 1),
    "qrandn": hp.qrandn(0, 1, 0.1),
    "fine qrandn": hp.qrandn(5, 2, 1e-5),
    "randint": hp.randint(-3, 4),
    "randint of 49": hp.randint(0, 49),
    "wide randint": hp.randint(0, 2**40),
    "randint of one": hp.randint(3, 4),
    "qrandint": hp.qrandint(8, 256, 8),
    "odd qrandint": hp.qrandint(-7, 11, 3),
    "lograndint": hp.lograndint(1, 1000),
    "wide lograndint": hp.lograndint(1, 2**40),
    "qlograndint": hp.qlograndint(1, 1000, 3),
    "choice": hp.choice(["a", None, 3, (1, 2)]),
    "unhashable choice": hp.choice([[64], [64, 64]]),
    "ordinal": hp.ordinal([1, 2, 4]),
    "grid": hp.grid_search([0.1, 0.2]),
    "branches": hp.choice(
        {"a": {"x": hp.uniform(0, 1), "deep": hp.choice({"p": {"y": hp.randn()}, "q": {}})}, "b": {"x": hp.randint(1, 9)}}
    ),
    "pair": hp.mapped(
        {"a": hp.uniform(0, 1), "gap": hp.uniform(0.1, 1)},
        lambda v: (v["a"], v["a"] + v["gap"]),
        lambda ends: {"a": ends[0], "gap": ends[1] - ends[0]},
    ),
}


def points(space: Space, n: int, seed: int = 0) -> torch.Tensor:
    """Random points, and the places where rounding is hardest: faces, their neighbors, and the edges of cells."""
    d = len(space)
    hard = [0.0, 1.0, 5e-324, math.nextafter(1.0, 0.0), 0.5, math.nextafter(0.5, 0.0), 1 / 49, 1 / 3, 1e-17]
    x = torch.rand(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.cat([x, torch.tensor(hard, dtype=torch.float64)[:, None].expand(-1, d)])


def check_laws(space: Space, x: torch.Tensor) -> None:
    configs, canonical = space.decode(x), space.canonical(x)
    assert canonical.dtype == torch.float64 and canonical.shape == x.shape
    assert torch.equal(space.encode(configs), canonical)
    assert torch.equal(space.canonical(canonical), canonical)
    assert space.decode(canonical) == configs


@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_thousand_points_of_a_mixed_space_go_there_and_back_bit_for_bit(seed: int) -> None:
    check_laws(SPACE, points(SPACE, 20_000, seed))


@pytest.mark.parametrize("word", WORDS)
def test_every_domain_keeps_the_laws(word: str) -> None:
    space = Space({"p": WORDS[word]})
    check_laws(space, points(space, 5_000))


@pytest.mark.parametrize("word", WORDS)
def test_a_point_alone_has_the_bits_it_has_in_a_block(word: str) -> None:
    space = Space({"p": WORDS[word]})
    x = points(space, 60, seed=1)
    for i, (config, canonical) in enumerate(zip(space.decode(x), space.canonical(x))):
        assert space.decode(x[i : i + 1]) == [config]
        assert torch.equal(space.canonical(x[i : i + 1])[0], canonical)
        assert torch.equal(space.encode([config])[0], canonical)


@pytest.mark.parametrize("word", [word for word in WORDS if Space({"p": WORDS[word]}).dims[0].levels is None and word != "pair"])
def test_a_continuous_coordinate_moves_by_rounding_only(word: str) -> None:
    space = Space({"p": WORDS[word]})
    x = points(space, 2_000)
    assert (space.canonical(x) - x).abs().max() < (1e-5 if "randn" in word or "narrow" in word else 1e-10)


unit = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 1.0, 0.5, 5e-324, math.nextafter(1.0, 0.0)]))
bound = st.floats(-1e6, 1e6, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(low=bound, width=st.floats(1e-3, 1e6), u=st.lists(unit, min_size=1, max_size=8))
def test_any_uniform_is_exact_within_its_bounds(low: float, width: float, u: list[float]) -> None:
    space, x = Space({"p": hp.uniform(low, low + width)}), torch.tensor(u, dtype=torch.float64)[:, None]
    check_laws(space, x)
    assert all(low <= config["p"] <= low + width for config in space.decode(x))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(low=st.floats(1e-50, 1e50), factor=st.floats(1.001, 1e40), u=st.lists(unit, min_size=1, max_size=8))
def test_any_loguniform_is_exact_within_its_bounds(low: float, factor: float, u: list[float]) -> None:
    space, x = Space({"p": hp.loguniform(low, low * factor)}), torch.tensor(u, dtype=torch.float64)[:, None]
    check_laws(space, x)
    assert all(low <= config["p"] <= low * factor for config in space.decode(x))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(mean=bound, sd=st.floats(1e-2, 1e3), u=st.lists(unit, min_size=1, max_size=8))
def test_any_randn_is_finite_on_the_faces(mean: float, sd: float, u: list[float]) -> None:
    space, x = Space({"p": hp.randn(mean, sd)}), torch.tensor(u, dtype=torch.float64)[:, None]
    check_laws(space, x)
    assert all(abs(config["p"] - mean) <= 5 * sd * (1 + 1e-6) for config in space.decode(x))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 10**6), st.integers(2, 10**6), st.integers(1, 50), st.sampled_from(["qrandint", "qlograndint"]), st.lists(unit))
def test_any_quantized_integer_is_a_legal_multiple(low: int, n: int, q: int, word: str, u: list[float]) -> None:
    domain = getattr(hp, word)(low, low + n * q, q)
    space, x = Space({"p": domain}), torch.tensor(u, dtype=torch.float64)[:, None]
    check_laws(space, x)
    for config in space.decode(x):
        assert type(config["p"]) is int and config["p"] % q == 0 and low <= config["p"] <= low + n * q


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 45), st.integers(1, 2**20), st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 1000))
def test_any_integer_of_a_narrow_range_on_a_log_scale_comes_back(size: int, width: int, share: list[float], q: int) -> None:
    high = 2**size * q
    low = max(q, high - width * q)
    space = Space({"p": hp.qlograndint(low - (low == high), high, q) if q > 1 else hp.lograndint(low, high + 1)})
    configs = [{"p": low + round(u * ((high - low) // q)) * q} for u in share]
    assert space.decode(space.encode(configs)) == configs


@settings(max_examples=100, deadline=None, derandomize=True)
@given(low=bound, n=st.integers(2, 10**5), q=st.floats(1e-3, 1e3), u=st.lists(unit, min_size=1, max_size=8))
def test_any_quniform_is_a_multiple_within_its_bounds(low: float, n: int, q: float, u: list[float]) -> None:
    high = low + (n + 1) * q
    space, x = Space({"p": hp.quniform(low, high, q)}), torch.tensor(u, dtype=torch.float64)[:, None]
    check_laws(space, x)
    for config in space.decode(x):
        assert low <= config["p"] <= high
        assert abs(config["p"] / q - round(config["p"] / q)) < 1e-6


@settings(max_examples=60, deadline=None, derandomize=True)
@given(x=st.lists(st.lists(unit, min_size=len(SPACE), max_size=len(SPACE)), min_size=1, max_size=5))
def test_every_point_of_the_cube_is_legal(x: list[list[float]]) -> None:
    cube = torch.tensor(x, dtype=torch.float64)
    check_laws(SPACE, cube)
    for config in SPACE.decode(cube):
        assert 1e-4 <= config["lr"] <= 1e-1 and 0 <= config["wd"] <= 1 and config["epochs"] == 3
        assert config["width"] in range(8, 65) and config["units"] in range(8, 513)
        assert config["dropout"] in [round(0.05 * k, 2) for k in range(11)]
        assert 0.9 <= config["nested"]["beta"] <= 0.9999
        keys = {"mlp": {"depth"}, "cnn": {"kernel", "noise"}, "none": set()}
        assert config["model"].keys() - {"name"} == keys[config["model"]["name"]]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(n=st.integers(1, 5000), data=st.data())
def test_level_k_of_n_covers_its_share_and_is_canonical_at_the_middle(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n - 1))
    space = Space({"p": hp.randint(0, n)})
    edges = torch.tensor([[k / n], [math.nextafter((k + 1) / n, 0.0)]], dtype=torch.float64)
    assert space.decode(edges) == [{"p": k}, {"p": k}]
    assert space.canonical(edges).tolist() == [[(k + 0.5) / n]] * 2
    assert space.dims == (Dim("p", "int", n),)

"""A trial's floats in one object: one test per law, and what a frozen value can do besides."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import field
from enum import StrEnum
from typing import Any

import pytest
import torch

import torchtune_hp as hp
from torchtune_hp.packing import Layout, held, layout, packed
from torchtune_hp.searchers import RandomSearch
from torchtune_hp.supply import Supply
from torchtune_hp.trial import Config, Setting, Trial, value

FLOATS = {"lr": 0.1, "wd": -0.0, "tiny": 5e-324, "huge": 1.7976931348623157e308, "inf": math.inf, "x": 1 / 3}
OTHERS: list[Any] = [
    {}, {"a": 1}, {"a": 0.5, "b": True}, {"a": 0.5, "b": {"c": 0.5}}, {1: 0.5}, {"a": "0.5"}, OrderedDict(a=0.5), {"a": None},
]  # fmt: skip


def anew() -> Any:
    """Trial was packed when its module was imported; a class that is packed now, of the same fields, has the same laws."""

    @packed
    @value
    class Trial:
        id: int
        x: tuple[float, ...]
        config: Config = field(compare=False)
        seed: int
        tag: int = 0
        parent: int | None = None

    Trial.__qualname__ = "Trial"
    return Trial


@pytest.fixture(params=[lambda: Trial, anew], ids=["Trial", "anew"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param()


def test_what_is_read_is_what_was_given_bit_for_bit_and_in_its_order(kind: Any) -> None:
    trial = kind(7, (0.25, -0.0, 1.0), FLOATS, 3, 1, 2)
    assert trial.x == (0.25, 0.0, 1.0) and math.copysign(1, trial.x[1]) == -1 and list(map(type, trial.x)) == [float] * 3
    assert list(trial.config.items()) == list(FLOATS.items()) and math.copysign(1, trial.config["wd"]) == -1
    assert (trial.id, trial.seed, trial.tag, trial.parent) == (7, 3, 1, 2)
    assert math.isnan(kind(0, (), {"a": math.nan}, 0).config["a"]) and kind(0, (), {"a": 0.5}, 0).x == ()


def test_a_packed_config_is_read_as_a_new_dict_each_time(kind: Any) -> None:
    trial = kind(0, (0.5,), FLOATS, 0)
    trial.config["lr"] = 9.0
    assert type(trial.config) is dict and trial.config == FLOATS and isinstance(held(trial)[1], Layout)


@pytest.mark.parametrize("config", OTHERS, ids=repr)
def test_any_other_config_is_kept_and_read_as_the_object_it_is(kind: Any, config: Any) -> None:
    trial = kind(0, (0.5, 0.25), config, 0)
    assert trial.config is config is held(trial)[1] and trial.x == (0.5, 0.25)


@pytest.mark.parametrize("config", [FLOATS, *OTHERS], ids=repr)
def test_it_is_a_value_that_is_compared_copied_replaced_and_sent(kind: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[kind.__module__], "Trial", kind)      # pickle looks for the class there
    trial = kind(3, (0.5, 0.25), config, 11, parent=1)
    for other in (copy.copy(trial), copy.deepcopy(trial), pickle.loads(pickle.dumps(trial)), dataclasses.replace(trial)):
        assert other == trial and hash(other) == hash(trial) and other.config == config
    assert repr(trial) == f"Trial(id=3, x=(0.5, 0.25), config={config!r}, seed=11, tag=0, parent=1)"
    assert dataclasses.replace(trial, x=(0.5, 0.5)) != trial == dataclasses.replace(trial, config={"other": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        trial.x = ()


def test_trials_of_one_space_share_their_layout() -> None:
    one, other = Trial(0, (0.5,), {"a": 0.5}, 0), Trial(1, (0.25,), {"a": 0.75}, 0)
    assert held(one)[1] is held(other)[1] and len(held(one)[0]) == 16


class Text(str):
    """Equal to a string, and none by its type."""


@pytest.mark.parametrize("plain_first", [True, False])
@pytest.mark.parametrize("other", [lambda text: StrEnum("Names", {"NAME": text}).NAME, Text], ids=["StrEnum", "subclass"])  # type: ignore[attr-defined]
def test_a_name_that_only_equals_a_string_is_not_packed_and_changes_nothing_for_the_string(
    other: Callable[[str], str], plain_first: bool, request: pytest.FixtureRequest
) -> None:
    text = request.node.name        # nobody else's: there is one layout of a name in a process
    name = other(text)
    assert name == text and hash(name) == hash(text)
    if plain_first:
        assert layout(1, (text,)) is not None
    assert layout(1, (name,)) is None
    form = layout(1, (text,))
    assert form is not None and list(map(type, form.names)) == [str] and layout(1, (name,)) is None and layout(1, (text,)) is form
    config = {name: 0.5}
    assert Trial(0, (0.5,), config, 0).config is config and held(Trial(0, (0.5,), {text: 0.5}, 0))[1] is form


SPACES = {
    "floats": ({"a": hp.loguniform(1e-6, 1.0), "q": hp.quniform(0.0, 1.0, 0.1), "n": hp.randn(0.0, 3.0)}, True),
    "an integer": ({"a": hp.uniform(0.0, 1.0), "n": hp.randint(1, 9)}, False),
    "a constant": ({"a": hp.uniform(0.0, 1.0), "c": 0.5}, False),
    "nested": ({"net": {"a": hp.uniform(0.0, 1.0)}}, False),
    "mapped": ({"a": hp.mapped(hp.uniform(0.0, 1.0), lambda a: 2 * a, lambda a: a / 2)}, False),
    "sampled": ({"a": hp.uniform(0.0, 1.0), "s": hp.sample_from(lambda config: 0.5)}, False),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_space_packs_exactly_what_it_decodes(name: str) -> None:
    spec, packs = SPACES[name]
    space = hp.Space(spec)
    x = space.canonical(torch.rand(64, len(space.dims), dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    found = space.packed(x)
    assert (found is not None) == packs
    if found is not None:
        form, rows = found
        trials: Any = [Trial(id, floats, form, 0) for id, floats in enumerate(rows)]    # type: ignore[arg-type]
        assert [trial.x for trial in trials] == [tuple(row) for row in x.tolist()]
        assert [list(trial.config.items()) for trial in trials] == [list(config.items()) for config in space.decode(x)]
        assert trials == [Trial(trial.id, trial.x, trial.config, 0) for trial in trials]
        assert all(held(trial) == held(Trial(trial.id, trial.x, trial.config, 0)) for trial in trials)


def test_recorded_trials_stand_in_for_packed_points_too() -> None:
    def supply() -> Supply:
        space = hp.Space(SPACES["floats"][0])
        setting = Setting(space.dims, space.feasible)
        searcher = RandomSearch()
        searcher.begin(setting)
        return Supply(space, searcher, setting, [{"a": 0.5, "q": 0.5, "n": 0.0}])

    one, other = supply(), supply()
    trials = [one.trial(id, point, 0, None) for id, point in enumerate(one.points(5, 9, ()))]
    other.recorded = iter(trials)
    again = [other.trial(id, point, 0, None) for id, point in enumerate(other.points(5, 9, ()))]
    assert again == trials and [trial.config for trial in again] == [trial.config for trial in trials]
    assert trials[0].config == {"a": 0.5, "q": 0.5, "n": 0.0}

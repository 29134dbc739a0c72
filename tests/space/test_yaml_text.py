"""A space from YAML text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchtune_hp.space as hp
from torchtune_hp.errors import SpaceError
from torchtune_hp.space import Space
from torchtune_hp.space.yaml_text import read

TEXT = """
lr: {loguniform: [1e-4, 1e-1]}
dropout: {uniform: {lower: 0, upper: 0.5}}
noise: {randn: []}
width: {choice: [16, 32, 64]}
wd: {grid_search: [0, 1e-5, "adam"]}
order: {ordinal: [low, high]}
model: {choice: {mlp: {width: {randint: [8, 65]}}, cnn: {filters: {lograndint: [4, 33]}, act: {choice: [relu, gelu]}}}}
optimizer: {name: adamw, betas: {constant: [0.9, 0.999]}, eps: 1e-8}
epochs: 27
milestones: [10, 20]
only: {momentum: 0.9}
"""


def test_the_text_means_the_same_as_python() -> None:
    spec: dict[str, Any] = {
        "lr": hp.loguniform(1e-4, 1e-1),
        "dropout": hp.uniform(0, 0.5),
        "noise": hp.randn(),
        "width": hp.choice([16, 32, 64]),
        "wd": hp.grid_search([0, 1e-5, "adam"]),
        "order": hp.ordinal(["low", "high"]),
        "model": hp.choice(
            {"mlp": {"width": hp.randint(8, 65)}, "cnn": {"filters": hp.lograndint(4, 33), "act": hp.choice(["relu", "gelu"])}}
        ),
        "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8},
        "epochs": 27,
        "milestones": [10, 20],
        "only": {"momentum": 0.9},
    }
    assert Space.from_yaml(TEXT).describe() == Space(spec).describe()


@pytest.mark.parametrize(
    "text, number",
    [
        ("1e-5", 1e-5), ("-1E+3", -1000.0), (".5e1", 5.0), ("1.e2", 100.0), ("2.5e-3", 2.5e-3),
        ("1e", "1e"), ("e5", "e5"), ("1e5x", "1e5x"), ("7", 7),
    ],  # fmt: skip
)
def test_what_yaml_reads_as_a_string_though_it_is_a_number_is_a_number(text: str, number: Any) -> None:
    assert read(f"a: {text}") == {"a": number} and type(read(f"a: {text}")["a"]) is type(number)


@pytest.mark.parametrize(
    "text, words",
    [
        ("lr: {logunifrm: [1e-4, 1e-1]}", "lr: 'logunifrm' is not a domain. Did you mean 'loguniform'?"),
        ("lr: {log_uniform: [1e-4, 1e-1]}", "Did you mean 'loguniform'?"),
        ("lr: {Uniform: {lower: 0, upper: 1}}", "Did you mean 'uniform'?"),
        ("m: {n: {gaussian: [0, 1]}}", "m.n: 'gaussian' is not a domain. There are uniform, quniform"),
        ("lr: {uniform: [0, 1], log: true}", "lr: a domain is a mapping of one key, but 'uniform' is not alone"),
        ("lr: {uniform: [0]}", "lr: uniform takes (lower, upper), but got [0]. Write uniform: [lower, upper]."),
        ("lr: {uniform: {low: 0, high: 1}}", "lr: uniform takes (lower, upper)"),
        ("lr: {uniform: 3}", "lr: uniform takes (lower, upper), but got 3"),
        ("lr: {sample_from: [x]}", "lr: sample_from holds functions, which YAML cannot write"),
        ("lr: {mapped: [x]}", "lr: mapped holds functions"),
        ("lr: {uniform: [1, 0]}", "lr: `lower < upper` must hold"),
        ("lr: {uniform: [abc, 0]}", "lr: `lower` of uniform must be a number, but got the string 'abc'"),
        ("m: {choice: {mlp: 3}}", "m.mlp: a branch is a dict"),
        ("w: {choice: abc}", "Did you mean choice(['abc'])?"),
        ("lr: {uniform: [0, 1]}\nlr: 3", "yaml: lr: the key stands twice"),
        ("m: [{a: 1, a: 2}]", "yaml: a: the key stands twice"),
        ("1: {uniform: [0, 1]}", "names must be strings, but got 1"),
        ("a: [", "yaml: the text is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "yaml: the text is not valid YAML"),
        ("space.yaml", "yaml: a mapping is expected, but got 'space.yaml'. This looks like a path: read the file first."),
        ("- a\n- b", "yaml: a mapping is expected, but got ['a', 'b']. Write"),
        ("", "yaml: a mapping is expected, but got None. Write"),
    ],
)
def test_bad_text_is_named(text: str, words: str) -> None:
    with pytest.raises(SpaceError) as caught:
        Space.from_yaml(text)
    assert words in str(caught.value)


def test_text_is_expected() -> None:
    with pytest.raises(SpaceError, match="the text of a YAML file is expected, but got dict"):
        Space.from_yaml({})  # type: ignore[arg-type]


def test_the_space_that_was_read_can_be_searched() -> None:
    space = Space.from_yaml(TEXT)
    assert space.decode(torch.zeros(1, len(space)))[0]["model"] == {"name": "mlp", "width": 8}

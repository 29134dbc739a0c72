"""What the constructors of a study's parts take."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest
import torch

import torchtune_hp as hp
from torchtune_hp.parts import as_int
from torchtune_hp.spec import rebuild, spec

PARTS = [
    hp.GPSearch, hp.GridSearch, hp.RandomSearch, hp.SobolSearch, hp.ASHA, hp.FullRuns, hp.Hyperband, hp.MedianStopping,
    hp.SuccessiveHalving, hp.Fused, hp.Processes, hp.Serial, hp.Simulated, hp.Plateau, hp.MaxSteps,
]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (lambda: hp.GPSearch(wrap=True), "GPSearch: `wrap` is not an argument; did you mean warp=?"),
        (lambda: hp.ASHA(max_T=9, factor=3), "ASHA: `max_T` is not an argument; did you mean max_t=? `factor` is not an argument; there"),
        (lambda: hp.Processes(worker=2), "did you mean workers=?"),
        (lambda: hp.Plateau(patiance=2), "Plateau: `patiance` is not an argument; did you mean patience=?"),
        (lambda: hp.FullRuns(zzz=2), "FullRuns: `zzz` is not an argument; there are max_t."),
        (lambda: hp.RandomSearch(seed=2), "RandomSearch: `seed` is not an argument; there is none."),
        (lambda: hp.SobolSearch(2), "SobolSearch: at most 0 arguments are taken, but got 1."),
    ],
)
def test_a_keyword_that_a_part_does_not_have_is_answered_with_the_nearest_one(part: Any, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        part()
    assert words in str(caught.value)


@pytest.mark.parametrize("cls", PARTS)
def test_every_part_answers_so(cls: Any) -> None:
    with pytest.raises(TypeError, match=f"^{cls.__name__}: `no_such_word` is not an argument"):
        cls(no_such_word=1)


def test_who_comes_after_a_part_in_a_subclass_takes_its_own_arguments() -> None:
    class Mixin:
        def __init__(self, factor: int = 2) -> None:
            self.factor = factor

    class Mine(hp.RandomSearch, Mixin):
        """Cooperates."""

    assert Mine().factor == 2 and Mine(factor=3).factor == 3


def test_a_part_has_the_signature_it_was_written_with_and_a_subclass_its_own() -> None:
    assert list(inspect.signature(hp.GPSearch).parameters) == ["startup", "exact", "warp"]
    assert not inspect.signature(hp.RandomSearch).parameters and inspect.signature(hp.ASHA).parameters["max_t"].default == 100

    class Mine(hp.FullRuns):
        def __init__(self, last: int, width: int = 2) -> None:
            super().__init__(max_t=last)
            self.last, self.width = last, width

    assert Mine(last=3, width=4).max_t == 3 and copy.deepcopy(Mine(5)).last == 5
    with pytest.raises(TypeError):
        hp.FullRuns(3, max_t=3)  # type: ignore[misc]


@pytest.mark.parametrize("number", [np.int64(9), np.int8(9), np.uint16(9), 9])
def test_whole_numbers_of_numpy_are_ints(number: Any) -> None:
    asha = hp.ASHA(number, grace_period=number)
    assert type(asha.max_t) is type(asha.grace_period) is int and spec(asha) == spec(hp.ASHA(9, grace_period=9))
    assert rebuild(spec(asha), "scheduler").max_t == 9
    numbers = hp.GPSearch(startup=number).startup, hp.Processes(number).workers, hp.Serial(slots=number).slots, hp.MaxSteps(number).steps
    assert {*map(type, numbers)} == {int}


@pytest.mark.parametrize("value", [True, np.True_, np.float64(9.0), 9.0, "9", np.timedelta64(9), np.array(9), torch.tensor(9)])
def test_nothing_else_is_a_whole_number(value: Any) -> None:
    assert as_int(value) is value
    with pytest.raises(hp.ConfigurationError, match="max_t: must be an integer >= 1"):
        hp.FullRuns(value)

"""The trials that may still be named, in columns by id."""

from __future__ import annotations

import math

import pytest

from torchtune_hp.living import Living
from torchtune_hp.trial import Trial


def living(n: int, objectives: int = 1) -> Living:
    made = Living(objectives)
    assert [made.enter(Trial(id, (0.5,), {}, 0), 3 + id, None if id % 2 else 9) for id in range(n)] == list(range(n)) and made.next == n
    return made


def test_each_trial_stands_where_it_was_entered() -> None:
    made = living(3)
    assert (made.steps, made.granted, made.since) == ([3, 4, 5], [9, None, 9], [0, 0, 0])
    assert [made.named(id).id for id in range(3)] == [trial.id for trial in made] == [0, 1, 2]


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_values_are_those_of_the_last_look_of_that_trial_alone(objectives: int) -> None:
    made = living(3, objectives)
    assert [made.values(id) for id in range(3)] == [None] * 3
    found = tuple(0.5 + k for k in range(objectives))
    made.look(1, found)
    assert [made.values(id) for id in range(3)] == [None, found, None]
    made.look(1, (math.inf,) * objectives)
    made.look(2, (-0.25,) * objectives)
    assert [made.values(id) for id in range(3)] == [None, (math.inf,) * objectives, (-0.25,) * objectives]


def test_a_forgotten_trial_is_named_never_again_and_the_others_stay() -> None:
    made = living(3)
    assert made.forget(1) and not made.forget(1)
    assert [trial.id for trial in made] == [0, 2] and made.next == 3
    with pytest.raises(RuntimeError, match="never named again, but trial 1 was"):
        made.named(1)

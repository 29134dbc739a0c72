"""Virtual time."""

import random

import pytest

from torchtune_hp.executors.clock import VirtualTime
from torchtune_hp.trial import Failed, Reached


def reached(trial: int, step: int) -> Reached:
    return Reached(trial, step, {}, 0.0)


def test_what_is_due_first_is_answered_first_and_together_in_order_of_submission() -> None:
    clock = VirtualTime()
    for trial in (4, 2, 9):
        clock.submit(trial, 0)
    for answer in (reached(9, 3), reached(2, 1), reached(4, 1)):
        clock.finish(answer)
    assert [answer.trial for answer in clock.pop()] == [4, 2]
    assert clock.now == 1
    clock.submit(2, 1)
    clock.finish(reached(2, 3))
    assert [answer.trial for answer in clock.pop()] == [9, 2]
    assert clock.now == 3


def test_an_answer_without_a_step_takes_one_tick_and_a_failure_ends_with_its_step() -> None:
    clock = VirtualTime(10)
    clock.submit(0, 5)
    clock.submit(1, 5)
    clock.finish(Reached(0, 5, {}, 0.0, done=True))
    clock.finish(Failed(1, 7, "error", "", 0.0))
    assert [answer.trial for answer in clock.pop()] == [0] and clock.now == 11
    assert [answer.trial for answer in clock.pop()] == [1] and clock.now == 12


def test_resumed_work_counts_from_when_it_was_submitted() -> None:
    clock = VirtualTime(7)
    clock.submit(0, 2, since=5)
    clock.submit(1, 0)
    clock.finish(reached(0, 5))
    clock.finish(reached(1, 1))
    assert [answer.trial for answer in clock.pop()] == [0, 1] and clock.now == 8


def test_certain_waits_for_whoever_may_still_be_due_as_early() -> None:
    clock = VirtualTime()
    clock.submit(0, 0)
    clock.submit(1, 0)
    assert not clock.certain({})
    clock.finish(reached(0, 3))
    assert not clock.certain({}) and not clock.certain({1: 3})
    assert clock.certain({1: 4})
    clock.finish(reached(1, 5))
    assert clock.certain({})


def test_pop_without_an_answer_says_so() -> None:
    with pytest.raises(RuntimeError, match="nothing is finished"):
        VirtualTime().pop()


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_finishing_does_not_matter(seed: int) -> None:
    chance = random.Random(seed)
    steps = {trial: chance.randint(0, 4) for trial in range(8)}

    def order(finishing: list[int]) -> list[list[int]]:
        clock = VirtualTime()
        for trial in steps:
            clock.submit(trial, 0)
        for trial in finishing:
            clock.finish(reached(trial, steps[trial]))
        batches = []
        while True:
            try:
                batches.append([answer.trial for answer in clock.pop()])
            except RuntimeError:
                return batches

    shuffled = list(steps)
    chance.shuffle(shuffled)
    assert order(list(steps)) == order(shuffled)

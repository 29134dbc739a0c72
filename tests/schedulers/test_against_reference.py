"""Thousands of random studies, in each of which every decision equals that of a slow, independent implementation."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given, settings, strategies as st

from torchtune_hp.schedulers import ASHA, Hyperband, MedianStopping, SuccessiveHalving
from torchtune_hp.trial import Drop, New, Report, Train

from .fuzz import fuzz
from .reference import PromotionReference, StoppingReference, halving_reference, hyperband_reference, median_verdict, rungs
from .simulate import Score, setting, simulate

thousand = settings(max_examples=200, deadline=None, derandomize=True, database=None)     # times FIVE random orders each
studies = {
    "seed": st.integers(0, 2**32),
    "trials": st.integers(0, 16),
    "capacity": st.integers(1, 8),
    "growing": st.booleans(),
}
FIVE = range(5)


@thousand
@given(eta=st.integers(2, 4), max_t=st.integers(1, 40), grace=st.integers(1, 3), brackets=st.integers(1, 3), **studies)
def test_promotion_asha_decides_as_algorithm_2_does(
    eta: int, max_t: int, grace: int, brackets: int, seed: int, trials: int, capacity: int, growing: bool
) -> None:
    grace = min(grace, max_t)
    brackets = min(brackets, len(rungs(grace, max_t, eta)))
    for k in FIVE:
        reference = PromotionReference(max_t, grace, eta, brackets)
        fuzz(lambda: ASHA(max_t, grace, eta, brackets, "promotion"), reference, seed + k, trials, capacity, growing)


@thousand
@given(eta=st.integers(2, 4), max_t=st.integers(1, 40), grace=st.integers(1, 3), brackets=st.integers(1, 3), **studies)
def test_stopping_asha_decides_as_its_reference_does(
    eta: int, max_t: int, grace: int, brackets: int, seed: int, trials: int, capacity: int, growing: bool
) -> None:
    grace = min(grace, max_t)
    brackets = min(brackets, len(rungs(grace, max_t, eta)))
    for k in FIVE:
        reference = StoppingReference(max_t, grace, eta, brackets)
        fuzz(lambda: ASHA(max_t, grace, eta, brackets, "stopping"), reference, seed + k, trials, capacity, growing)


@thousand
@given(
    eta=st.integers(2, 4), max_t=st.integers(1, 40), grace=st.integers(1, 3), size=st.none() | st.integers(1, 12), **studies
)
def test_successive_halving_decides_as_its_reference_does(
    eta: int, max_t: int, grace: int, size: int | None, seed: int, trials: int, capacity: int, growing: bool
) -> None:
    grace = min(grace, max_t)
    for k in FIVE:
        reference = halving_reference(max_t, grace, eta, size)
        fuzz(lambda: SuccessiveHalving(max_t, grace, eta, size), reference, seed + k, trials, capacity, growing)


@thousand
@given(eta=st.integers(2, 4), max_t=st.integers(1, 20), **studies)
def test_hyperband_decides_as_algorithm_1_does(eta: int, max_t: int, seed: int, trials: int, capacity: int, growing: bool) -> None:
    for k in FIVE:
        fuzz(lambda: Hyperband(max_t, eta), hyperband_reference(max_t, eta), seed + k, trials, capacity, growing)


@pytest.mark.parametrize("eta", [2, 3])
def test_long_studies_decide_as_algorithm_2_does(eta: int) -> None:
    for seed in range(4):
        reference = PromotionReference(27, 1, eta)
        fuzz(lambda: ASHA(27, 1, eta), reference, seed, 120, 4 ** (seed % 3), growing=seed > 1)


@thousand
@given(
    seed=st.integers(0, 2**32), trials=st.integers(1, 14), grace=st.integers(1, 4), samples=st.integers(1, 4), every=st.integers(1, 3)
)
def test_median_stopping_judges_as_its_reference_does(seed: int, trials: int, grace: int, samples: int, every: int) -> None:
    for k in FIVE:
        _judge_at_random(random.Random(seed + k), trials, grace, samples, every)


def _judge_at_random(rng: random.Random, trials: int, grace: int, samples: int, every: int) -> None:
    max_t = rng.randint(grace, 8)
    scheduler = MedianStopping(max_t, grace, samples, every)
    scheduler.begin(setting())
    assert scheduler.decide([], trials, trials) == [New(min(every, max_t))] * trials
    # Multiples of 840 = lcm(1, ..., 8), so that averages of up to eight scores are exact, however they are computed.
    heard: dict[int, dict[int, float]] = {trial: {} for trial in range(trials)}
    running = dict.fromkeys(range(trials), min(every, max_t))
    while running:
        reports = []
        for trial in rng.sample(sorted(running), rng.randint(1, len(running))):
            step = running.pop(trial)
            heard[trial][step] = 840.0 * rng.randrange(6)
            reports.append(Report(trial, step, (heard[trial][step],), 0, ()))
        expected: list[Drop | Train] = []
        for report in sorted(reports, key=lambda report: report.trial):
            own = list(heard[report.trial].values())
            others = [
                [score for at, score in scores.items() if at <= report.step]
                for trial, scores in heard.items()
                if trial != report.trial and report.step in scores
            ]
            goes_on = report.step < grace or median_verdict(own, others, samples)
            if goes_on and report.step < max_t:
                running[report.trial] = min(report.step + every, max_t)
                expected.append(Train(report.trial, running[report.trial]))
            else:
                expected.append(Drop(report.trial))
        expected.sort(key=lambda decision: isinstance(decision, Train))
        assert scheduler.decide(reports, trials - len(running) + len(expected), 0) == expected


def constant(scores: list[int]) -> Score:
    return lambda trial, step: float(scores[trial])


def orders(n: int) -> list[list[int]]:
    """For each of n seeds, 64 scores in random order: the final ranking is seen from the first step on."""
    return [random.Random(seed).sample(range(64), 64) for seed in range(n)]


@pytest.mark.parametrize(("capacity", "most"), [(1, 250), (8, 250), (64, 208)])
def test_sixty_four_trials_cost_little_more_than_synchronous_halving(capacity: int, most: int) -> None:
    spent = []
    for scores in orders(101):
        scheduler = ASHA(max_t=64, grace_period=1, reduction_factor=4)
        scheduler.begin(setting())
        story = simulate(scheduler, constant(scores), trials=64, capacity=capacity)
        assert sorted(story.dropped) == list(range(64))
        assert story.steps[scores.index(0)] == 64, "the best trial is trained to the end"
        spent.append(story.epochs)
    assert statistics.median(spent) <= most
    assert min(spent) >= 208


@pytest.mark.parametrize("capacity", [1, 5, 64])
def test_synchronous_halving_costs_208_epochs_on_any_number_of_slots(capacity: int) -> None:
    for scores in orders(11):
        scheduler = SuccessiveHalving(max_t=64, grace_period=1, reduction_factor=4)
        scheduler.begin(setting())
        story = simulate(scheduler, constant(scores), trials=64, capacity=capacity)
        assert [story.at(step) for step in (1, 4, 16, 64)] == [64, 16, 4, 1]
        assert story.epochs == 208

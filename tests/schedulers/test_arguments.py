"""Bad arguments are refused at construction, all of them in one error; several objectives when the study begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.schedulers import ASHA, FullRuns, Hyperband, MedianStopping, Scheduler, SuccessiveHalving

from .simulate import setting

BAD: list[tuple[Callable[[], object], list[str]]] = [
    (lambda: FullRuns(0), ["max_t: must be an integer >= 1, but got 0."]),
    (lambda: FullRuns(2.0), ["max_t: must be an integer >= 1, but got 2.0."]),  # type: ignore[arg-type]
    (lambda: FullRuns(True), ["max_t: must be an integer >= 1, but got True."]),
    (lambda: ASHA(3, 5), ["grace_period: `grace_period <= max_t` must hold, but got (grace_period=5, max_t=3)."]),
    (lambda: ASHA(reduction_factor=1), ["reduction_factor: must be a finite number >= 1.01, but got 1."]),
    (lambda: ASHA(reduction_factor=1.009), ["reduction_factor: must be a finite number >= 1.01, but got 1.009."]),
    (lambda: ASHA(reduction_factor=float("nan")), ["reduction_factor: must be a finite number >= 1.01, but got nan."]),
    (lambda: ASHA(reduction_factor=float("inf")), ["reduction_factor: must be a finite number >= 1.01, but got inf."]),
    (lambda: ASHA(reduction_factor=True), ["reduction_factor: must be a finite number >= 1.01, but got True."]),
    (lambda: ASHA(reduction_factor="3"), ["reduction_factor: must be a finite number >= 1.01, but got '3'."]),  # type: ignore[arg-type]
    (lambda: ASHA(27, 1, 3, 5), ["brackets: must be at most 4, one for each rung to begin at (1, 3, 9, 27), but got 5."]),
    (lambda: ASHA(brackets=0), ["brackets: must be an integer >= 1, but got 0."]),
    (lambda: ASHA(variant="stop"), ['variant: must be "auto", "promotion" or "stopping", but got \'stop\'.']),  # type: ignore[arg-type]
    (
        lambda: ASHA("a", 0, 0, 0, "b"),  # type: ignore[arg-type]
        [
            "max_t: must be an integer >= 1, but got 'a'.",
            "grace_period: must be an integer >= 1, but got 0.",
            "reduction_factor: must be a finite number >= 1.01, but got 0.",
            "brackets: must be an integer >= 1, but got 0.",
            'variant: must be "auto", "promotion" or "stopping", but got \'b\'.',
        ],
    ),
    (
        lambda: SuccessiveHalving(0, 2.5, 0.5, 0),  # type: ignore[arg-type]
        [
            "max_t: must be an integer >= 1, but got 0.",
            "grace_period: must be an integer >= 1, but got 2.5.",
            "reduction_factor: must be a finite number >= 1.01, but got 0.5.",
            "trials: must be an integer >= 1, but got 0.",
        ],
    ),
    (
        lambda: SuccessiveHalving(2, 3),
        ["grace_period: `grace_period <= max_t` must hold, but got (grace_period=3, max_t=2)."],
    ),
    (
        lambda: Hyperband(0, 1),
        ["max_t: must be an integer >= 1, but got 0.", "reduction_factor: must be a finite number >= 1.01, but got 1."],
    ),
    (
        lambda: MedianStopping(0, 0, 0, 0),
        [
            "max_t: must be an integer >= 1, but got 0.",
            "grace_period: must be an integer >= 1, but got 0.",
            "min_samples_required: must be an integer >= 1, but got 0.",
            "every: must be an integer >= 1, but got 0.",
        ],
    ),
    (lambda: MedianStopping(2, 3), ["grace_period: `grace_period <= max_t` must hold, but got (grace_period=3, max_t=2)."]),
]


@pytest.mark.parametrize(("make", "problems"), BAD)
def test_all_problems_are_listed_at_once_each_with_its_argument(make: Callable[[], object], problems: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert str(caught.value).split("\n") == problems


def test_the_smallest_arguments_are_served() -> None:
    for scheduler in (
        FullRuns(1),
        ASHA(1, 1, 1.01, 1),
        ASHA(27, 1, 3, 4),
        SuccessiveHalving(1, 1, 1.01, 1),
        Hyperband(1, 1.5),
        MedianStopping(1, 1, 1, 1),
    ):
        scheduler.begin(setting())
        assert len(scheduler.decide([], 2, 5)) == 2


@pytest.mark.parametrize("scheduler", [ASHA(), SuccessiveHalving(), Hyperband(), MedianStopping()], ids=lambda s: type(s).__name__)
def test_who_ranks_serves_several_objectives(scheduler: Scheduler) -> None:
    scheduler.begin(setting(objectives=2))
    assert len(scheduler.decide([], 2, 5)) == 2


def test_the_defaults_are_rays() -> None:
    asha, hyperband, median = ASHA(), Hyperband(), MedianStopping()
    assert (asha.max_t, asha.grace_period, asha.reduction_factor, asha.brackets, asha.variant) == (100, 1, 4, 1, "auto")
    assert (hyperband.max_t, hyperband.reduction_factor) == (81, 3)
    assert (median.max_t, median.grace_period, median.min_samples_required, median.every) == (100, 1, 3, 1)
    halving = SuccessiveHalving()
    assert (halving.max_t, halving.grace_period, halving.reduction_factor, halving.trials) == (100, 1, 4, None)
    assert FullRuns().max_t is None
    assert not any(scheduler.forks for scheduler in (asha, hyperband, median, halving, FullRuns()))

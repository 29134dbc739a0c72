"""What every scheduler must pass: one test for each law of `schedulers/base.py`.

    class TestMyScheduler(SchedulerSuite):
        def make(self):
            return MyScheduler()

Each test plays random studies (`play`): trials fail, score NaN, end by themselves, tie, and report in any order, while slots come
and go. A `Referee` stands between study and scheduler and follows every decision.
`SCHEDULERS` holds the library's own: the tests run this suite on each of them.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from ..errors import ConfigurationError
from ..schedulers import ASHA, FullRuns, Hyperband, MedianStopping, Scheduler, SuccessiveHalving
from ..trial import Decision, Dim, Drop, Fork, New, Report, Setting, Train

SCHEDULERS: dict[str, Callable[[], Scheduler]] = {
    "ASHA": lambda: ASHA(max_t=9, grace_period=1, reduction_factor=3, brackets=2),
    "FullRuns": lambda: FullRuns(max_t=9),
    "Hyperband": lambda: Hyperband(max_t=9, reduction_factor=3),
    "MedianStopping": lambda: MedianStopping(max_t=5),
    "SuccessiveHalving": lambda: SuccessiveHalving(max_t=9, reduction_factor=3),
}
SEEDS = range(10)
SETTING = Setting(
    dims=(Dim("lr", "float", log=True), Dim("momentum", "float")),
    feasible=lambda x: torch.ones(len(x), dtype=torch.bool),
    max_t=9,
    capacity=4,
)


@dataclass
class Alive:
    """A trial that may be named again. `until`: where it is sent, None while it rests; `own`: the step at which it would end."""

    tag: int
    x: tuple[float, ...]
    own: int
    step: int = 0
    running: bool = True
    until: int | None = None
    over: bool = False


class Referee:
    """Asks a scheduler, checks every answer against laws 1 and 2, and keeps book of the trials."""

    def __init__(self, scheduler: Scheduler, setting: Setting = SETTING) -> None:
        self.scheduler = scheduler
        self.alive: dict[int, Alive] = {}
        self.born = 0
        self.fresh_born = 0
        self.objectives = setting.objectives
        scheduler.begin(setting)

    @property
    def running(self) -> list[int]:
        return [trial for trial, alive in self.alive.items() if alive.running]

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        decisions = self.scheduler.decide(reports, free, fresh)
        new = sum(isinstance(decision, New) for decision in decisions)
        starts = sum(not isinstance(decision, Drop) for decision in decisions)
        assert starts <= free, f"law 1: {starts} starts where {free} slots are free"
        assert new <= fresh, f"law 1: {new} new trials where {fresh} may be made"
        for decision in decisions:
            self._follow(decision)
        return decisions

    def _follow(self, decision: Decision) -> None:
        match decision:
            case New(until, tag):
                self._begin(Alive(tag, (0.5, 0.5), 1 + self.born * 7 % 23, 0, True, until))
                self.fresh_born += 1
            case Fork(parent, x, further, tag):
                start = self._named(parent).step
                self._begin(Alive(tag, x, start + 1 + self.born * 7 % 23, start, True, start + further))
            case Train(trial, until):
                alive = self._named(trial)
                assert not alive.running, f"trial {trial} is running already"
                assert until is None or until > alive.step, f"trial {trial} stands at {alive.step} and is sent to {until}"
                alive.running, alive.until = True, until
            case Drop(trial):
                assert trial in self.alive, f"law 2: trial {trial} was dropped before, or never was"
                assert not self.alive[trial].running, f"trial {trial} is dropped while it runs"
                del self.alive[trial]
        most = self.scheduler.max_t
        sent = [alive.until for alive in self.alive.values() if alive.running]
        assert most is None or all(until is not None and until <= most for until in sent), f"nobody is trained beyond max_t={most}"

    def _begin(self, alive: Alive) -> None:
        self.alive[self.born] = alive
        self.born += 1

    def _named(self, trial: int) -> Alive:
        assert trial in self.alive, f"law 2: trial {trial} was dropped, or never was"
        assert not self.alive[trial].over, f"law 2: trial {trial} is done, failed or scored +inf"
        return self.alive[trial]


Turn = tuple[list[Report], int, int, list[Decision]]


def play(
    referee: Referee, seed: int, trials: int = 20, capacity: int = 4, failing: float = 0.2, ending: bool = True, steady: bool = False
) -> list[Turn]:
    """A random study of at most `trials` New trials, to its end: every turn as (reports, free, fresh, decisions).

    `failing`: how often a look is a failure or a NaN. `ending`: some trials end by themselves. `steady`: all slots, always.
    """
    rng = random.Random(seed)
    turns: list[Turn] = []
    reports: list[Report] = []
    for _ in range(10_000):
        slots = capacity if steady or not referee.running else rng.randint(0, capacity)
        free, fresh = max(0, slots - len(referee.running)), trials - referee.fresh_born
        turns.append((reports, free, fresh, referee.decide(reports, free, fresh)))
        running = referee.running
        assert running or not fresh or not free, "law 5: nothing runs, nothing was started, and there could be more trials"
        if not running and slots == capacity:
            return turns
        came = rng.sample(running, rng.randint(0, len(running)))
        reports = [look(referee.alive[trial], trial, rng, failing, ending, referee.objectives) for trial in came]
    raise AssertionError("the study does not end in 10,000 turns")


def look(alive: Alive, trial: int, rng: random.Random, failing: float, ending: bool, objectives: int = 1) -> Report:
    """The trial has used up its grant, failed, or ended by itself."""
    done = alive.until is None or (ending and alive.until >= alive.own)
    bad = rng.random() < failing
    values = tuple(math.inf if bad else float(rng.randrange(6)) for _ in range(objectives))
    alive.step = alive.own if alive.until is None else alive.until
    alive.running, alive.over = False, done or bad
    return Report(trial, alive.step, values, alive.tag, alive.x, done=done, failed=bad and rng.random() < 0.5)


class SchedulerSuite:
    """Inherit it and say how the scheduler is made."""

    def make(self) -> Scheduler:
        raise NotImplementedError

    @pytest.fixture(params=[(True, 1), (False, 1), (True, 2), (False, 3)], ids=["saved", "unsaved", "saved-two", "unsaved-three"])
    def setting(self, request: pytest.FixtureRequest) -> Setting:
        saves, objectives = request.param
        setting = replace(SETTING, saves=saves, objectives=objectives)
        if objectives > 1:
            try:
                self.make().begin(setting)
            except ConfigurationError as error:
                pytest.skip(str(error))
        return setting

    # The contract itself

    def test_it_is_a_scheduler_and_says_whether_it_forks_and_how_far_it_trains(self) -> None:
        scheduler = self.make()
        assert isinstance(scheduler, Scheduler)
        assert type(scheduler.forks) is bool
        assert scheduler.max_t is None or type(scheduler.max_t) is int

    def test_constructor_arguments_are_kept_as_attributes_of_the_same_names(self) -> None:
        scheduler = self.make()
        for name in inspect.signature(type(scheduler)).parameters:
            assert hasattr(scheduler, name), f"the journal reads the argument {name!r} from an attribute of that name"

    def test_several_objectives_are_served_or_refused_before_anything_runs(self) -> None:
        scheduler = self.make()
        try:
            scheduler.begin(replace(SETTING, objectives=2))
        except ConfigurationError as error:
            assert "FullRuns" in str(error)
        else:
            assert scheduler.decide([], 1, 1)

    def test_a_beginning_forgets_the_study_before(self, setting: Setting) -> None:
        scheduler = self.make()
        first = play(Referee(scheduler, setting), 0)
        assert play(Referee(scheduler, setting), 0) == first

    # Law 1

    def test_at_most_free_are_set_running_and_at_most_fresh_are_new(self, setting: Setting) -> None:
        for seed in SEEDS:
            referee = Referee(self.make(), setting)
            play(referee, seed)
            assert referee.fresh_born == 20

    def test_with_no_slot_free_or_no_fresh_trial_nothing_begins(self, setting: Setting) -> None:
        for free, fresh in ((0, 0), (0, 5), (5, 0)):
            assert Referee(self.make(), setting).decide([], free, fresh) == []

    def test_what_is_planned_shrinks_to_what_can_still_be_started(self, setting: Setting) -> None:
        for trials in range(12):
            referee = Referee(self.make(), setting)
            play(referee, trials, trials=trials, failing=0.0)
            assert referee.fresh_born == trials and not referee.alive

    def test_a_limit_that_is_far_away_costs_nothing(self, setting: Setting) -> None:
        assert len(Referee(self.make(), setting).decide([], 8, 10**9)) == 8

    # Law 2

    def test_a_trial_that_is_over_or_dropped_is_never_named_again(self, setting: Setting) -> None:
        for seed in SEEDS:
            play(Referee(self.make(), setting), seed, failing=0.5)

    # Law 3

    def test_same_calls_same_answers(self, setting: Setting) -> None:
        answers = []
        for noise in (1, 2):
            random.seed(noise)
            torch.manual_seed(noise)
            answers.append([play(Referee(self.make(), setting), seed) for seed in SEEDS])
        assert answers[0] == answers[1]

    def test_no_global_randomness_is_drawn(self, setting: Setting) -> None:
        before = random.getstate(), torch.get_rng_state()
        play(Referee(self.make(), setting), 0)
        assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])

    def test_asked_again_without_news_nothing(self, setting: Setting) -> None:
        for seed in SEEDS:
            scheduler = self.make()
            scheduler.begin(setting)
            for reports, free, fresh, decisions in play(Referee(self.make(), setting), seed):
                assert scheduler.decide(reports, free, fresh) == decisions
                starts = sum(not isinstance(decision, Drop) for decision in decisions)
                new = sum(isinstance(decision, New) for decision in decisions)
                assert scheduler.decide([], free - starts, fresh - new) == []

    # Law 4

    def test_the_order_of_the_reports_in_one_call_does_not_matter(self, setting: Setting) -> None:
        for seed in SEEDS:
            scheduler = self.make()
            scheduler.begin(setting)
            rng = random.Random(seed)
            for reports, free, fresh, decisions in play(Referee(self.make(), setting), seed):
                assert scheduler.decide(rng.sample(reports, len(reports)), free, fresh) == decisions

    # Law 5

    @pytest.mark.parametrize("capacity", [1, 3, 50])
    def test_a_study_comes_to_its_end_on_any_number_of_slots(self, setting: Setting, capacity: int) -> None:
        for seed in SEEDS:
            referee = Referee(self.make(), setting)
            play(referee, seed, capacity=capacity, steady=True)
            assert referee.fresh_born == 20

    def test_a_study_in_which_every_trial_fails_comes_to_its_end(self, setting: Setting) -> None:
        referee = Referee(self.make(), setting)
        play(referee, 0, failing=1.0)
        assert referee.fresh_born == 20 and not referee.alive

    def test_a_finished_scheduler_goes_on_when_there_may_be_more_trials(self, setting: Setting) -> None:
        for seed in SEEDS:
            referee = Referee(self.make(), setting)
            play(referee, seed)
            assert any(isinstance(decision, New) for decision in referee.decide([], 1, 5))
            play(referee, seed, trials=40)
            assert referee.fresh_born == 40 and not referee.alive

    def test_a_study_that_is_stopping_gets_drops_only(self, setting: Setting) -> None:
        referee = Referee(self.make(), setting)
        referee.decide([], 4, 20)
        rng = random.Random(0)
        reports = [look(referee.alive[trial], trial, rng, 0.5, True, setting.objectives) for trial in referee.running]
        assert all(isinstance(decision, Drop) for decision in referee.decide(reports, 0, 0))

    # Law 6

    def test_a_trial_that_will_never_be_named_again_is_dropped(self, setting: Setting) -> None:
        for seed in SEEDS:
            referee = Referee(self.make(), setting)
            play(referee, seed, ending=seed % 2 == 0)
            assert not referee.alive, f"these trials were never dropped: {sorted(referee.alive)}"

"""The decision core: one test per sentence of its docstring, and the laws it owes to executors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from torchtune_hp.errors import ConfigurationError, ReplayError, TrialFinishedError
from torchtune_hp.objective import Objective
from torchtune_hp.schedulers import ASHA, FullRuns
from torchtune_hp.searchers import GridSearch, RandomSearch
from torchtune_hp.seeds import derive
from torchtune_hp.space import Space, choice, grid_search, sample_from, uniform
from torchtune_hp.stopping import MaxSteps, stop_rule
from torchtune_hp.study import BREAKER, Study
from torchtune_hp.trial import (
    ENDLESS,
    Command,
    Decision,
    Drop,
    Event,
    Failed,
    Fork,
    Keep,
    Launch,
    Limits,
    New,
    Note,
    Reached,
    Report,
    Setting,
    Train,
)  # fmt: skip


class Script:
    """A scheduler that answers what it was told to answer, and remembers what it heard."""

    max_t: int | None = None
    forks = True

    def __init__(self, *answers: list[Decision]) -> None:
        self.answers = list(answers)
        self.heard: list[tuple[list[Report], int, int]] = []

    def begin(self, setting: Setting) -> None:
        self.setting = setting

    def decide(self, reports: Sequence[Report], free: int, fresh: int) -> list[Decision]:
        self.heard.append((list(reports), free, fresh))
        return self.answers.pop(0) if self.answers else []


class Learner(RandomSearch):
    """A searcher that learns nothing but remembers what it was told and asked."""

    adaptive = True

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Report] = []
        self.asked: list[tuple[int, int, int]] = []

    def tell(self, reports: Sequence[Report]) -> None:
        self.told += reports

    def ask(self, n: int, *, pending: torch.Tensor, index: int, seed: int) -> torch.Tensor:
        assert seed == derive(self.setting.seed, "searcher")
        self.asked.append((n, len(pending), index))
        return super().ask(n, pending=pending, index=index, seed=seed)


SPACE = Space({"a": uniform(0.0, 1.0), "b": choice([1, 2, 3])})


def make(scheduler: Any, searcher: Any = None, space: Space = SPACE, metric: Any = "loss", capacity: int = 4, **more: Any) -> Study:
    objective = Objective(metric, "min", more.pop("constraints", ()))
    setting = Setting(space.dims, space.feasible, len(objective.metrics), scheduler.max_t, capacity, more.pop("seed", 0), True, space.rows)
    return Study(space, searcher or RandomSearch(), scheduler, objective, setting, **more)


def at(trial: int, step: int, loss: float = 1.0, time: float = 0.0, done: bool = False, **more: float) -> Reached:
    return Reached(trial, step, {"loss": loss, **more}, time, done)


def died(trial: int, step: int = 1, kind: str = "error", error: str = "Traceback: boom") -> Failed:
    return Failed(trial, step, kind, error, 0.0)  # type: ignore[arg-type]


def kinds(commands: Sequence[Command]) -> list[tuple[str, int, int | None]]:
    return [
        ("Launch", c.trial.id, c.until) if isinstance(c, Launch) else (type(c).__name__, c.trial, getattr(c, "until", None))
        for c in commands
    ]


LIMITS = Limits(4)


# Grants and looks -------------------------------------------------------------------------------------------------------


def test_a_grant_is_trained_look_by_look_and_the_scheduler_hears_of_its_end_alone() -> None:
    script = Script([New(3, tag=7)])
    study = make(script)
    (launch,) = study.step((), LIMITS)
    assert isinstance(launch, Launch) and launch.until == 1
    assert kinds(study.step([at(0, 1, 5.0)], LIMITS)) == [("Keep", 0, None), ("Train", 0, 2)]
    assert kinds(study.step([at(0, 2, 6.0)], LIMITS)) == [("Train", 0, 3)]
    assert script.heard[1:] == [([], 3, 10**9 - 1), ([], 3, 10**9 - 1)]
    study.step([at(0, 3, 4.0)], LIMITS)
    assert script.heard[-1] == ([Report(0, 3, (4.0,), 7, launch.trial.x)], 4, 10**9 - 1)
    assert dict(study.running) == {}


@pytest.mark.parametrize(("look_every", "expected"), [(2, [2, 4, 5]), ("grant", [5])])
def test_looks_come_every_so_many_steps_or_once_a_grant(look_every: Any, expected: list[int]) -> None:
    study = make(Script([New(5)]), look_every=look_every)
    study.step((), LIMITS)
    seen = []
    while study.running:
        (until,) = study.running.values()
        seen.append(until)
        study.step([at(0, until)], LIMITS)
    assert seen == expected


def test_a_trial_granted_to_its_own_end_runs_until_it_says_done() -> None:
    script = Script([New(None)])
    study = make(script, look_every="grant")
    study.step((), LIMITS)
    assert dict(study.running) == {0: ENDLESS}
    commands = study.step([at(0, 9, 2.0, done=True)], LIMITS)
    assert kinds(commands) == [("Keep", 0, None), ("Drop", 0, None)]
    assert script.heard[-1][0] == [Report(0, 9, (2.0,), 0, script.heard[-1][0][0].x, done=True)]


def test_a_trial_that_ends_early_is_heard_at_the_step_it_was_granted() -> None:
    script = Script([New(8), New(8)])
    study = make(script)
    study.step((), LIMITS)
    study.step([at(0, 1, 3.0, done=True), died(1, 1)], LIMITS)
    first, second = script.heard[-1][0]
    assert (first.step, first.values, first.done, first.failed) == (8, (3.0,), True, False)
    assert (second.step, second.values, second.done, second.failed) == (8, (math.inf,), False, True)


def test_an_end_without_a_further_report_is_no_second_look() -> None:
    rule = Asked()
    study = make(Script([New(8)]), stop=rule)
    study.step((), LIMITS)
    study.step([at(0, 1, 3.0)], LIMITS)
    assert kinds(study.step([at(0, 1, 3.0, done=True)], LIMITS)) == [("Drop", 0, None)]
    assert rule.asked == [(0, 1)] and rule.forgotten == [0]


class Asked(MaxSteps):
    def __init__(self, steps: int = 99) -> None:
        super().__init__(steps)
        self.asked: list[tuple[int, int]] = []
        self.forgotten: list[int] = []

    def ends(self, trial: int, step: int, metrics: Any) -> bool:
        self.asked.append((trial, step))
        return super().ends(trial, step, metrics)

    def forget(self, trial: int) -> None:
        self.forgotten.append(trial)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_trial_that_is_not_finite_ends_at_that_look_as_the_worst(loss: float) -> None:
    script = Script([New(8)])
    study = make(script)
    study.step((), LIMITS)
    assert kinds(study.step([at(0, 1, loss)], LIMITS)) == [("Drop", 0, None)]
    (report,) = script.heard[-1][0]
    assert report.values == (math.inf,) and report.step == 8 and not report.failed and not report.done


def test_a_stop_rule_ends_a_trial_at_a_look() -> None:
    script = Script([New(8), New(8)])
    study = make(script, stop=stop_rule({"loss": 0.5}))
    study.step((), LIMITS)
    assert kinds(study.step([at(0, 1, 0.4), at(1, 1, 0.6)], LIMITS)) == [("Keep", 0, None), ("Train", 1, 2), ("Drop", 0, None)]
    assert [(report.trial, report.done) for report in script.heard[-1][0]] == [(0, True)]


# Recording before judging -----------------------------------------------------------------------------------------------


def test_the_whole_batch_is_recorded_before_any_of_it_is_judged() -> None:
    script = Script([New(1), New(1), New(1)])
    study = make(script)
    study.step((), LIMITS)
    study.step([at(2, 1, 3.0), Note("n", "t"), at(0, 1, 1.0), died(1)], LIMITS)
    assert [report.trial for report in script.heard[-1][0]] == [2, 0, 1]
    assert script.heard[-1][1] == 4


def test_an_event_of_a_trial_that_does_not_run_is_refused() -> None:
    study = make(Script([New(2)]))
    study.step((), LIMITS)
    study.step([at(0, 1, done=True)], LIMITS)
    with pytest.raises(TrialFinishedError, match="trial 0 is not running: an event at step 2"):
        study.step([at(0, 2)], LIMITS)


def test_a_searcher_that_learns_is_told_every_look_and_asked_beside_what_runs() -> None:
    learner = Learner()
    study = make(Script([New(2), New(2)], [New(1)]), learner)
    study.step((), LIMITS)
    assert learner.asked == [(2, 0, 0)]
    study.step([at(0, 1, 5.0)], LIMITS)
    assert learner.asked[1:] == [(1, 2, 2)]  # both of the first two run on
    assert [(report.trial, report.step, report.values) for report in learner.told] == [(0, 1, (5.0,))]
    study.step([at(0, 2, 4.0), at(1, 1, 6.0)], LIMITS)
    assert [(report.trial, report.step) for report in learner.told] == [(0, 1), (0, 2), (1, 1)]


def test_a_searcher_that_does_not_learn_is_asked_in_blocks_and_told_nothing() -> None:
    learner = Learner()
    learner.adaptive = False  # type: ignore[misc]
    study = make(FullRuns(max_t=1), learner, capacity=1)
    limits = Limits(1, trials=2000)
    commands = study.step((), limits)
    while study.running:
        (trial,) = study.running
        commands += study.step([at(trial, 1)], limits)
    assert learner.asked == [(1024, 0, 0), (976, 0, 1024)] and learner.told == []
    xs = [command.trial.x for command in commands if isinstance(command, Launch)]
    rows = RandomSearch()
    rows.begin(study.setting)
    asked = rows.ask(2000, pending=torch.empty(0, 2, dtype=torch.float64), index=0, seed=derive(0, "searcher"))
    assert xs == [tuple(x) for x in SPACE.canonical(asked).tolist()]


# Trials -----------------------------------------------------------------------------------------------------------------


def test_trials_are_numbered_seeded_and_canonical() -> None:
    study = make(Script([New(1), New(1, tag=2)]), seed=5)
    first, second = (command.trial for command in study.step((), LIMITS) if isinstance(command, Launch))
    assert (first.id, second.id, second.tag) == (0, 1, 2)
    assert (first.seed, second.seed) == (derive(5, "trial", 0), derive(5, "trial", 1))
    x = torch.tensor([first.x, second.x], dtype=torch.float64)
    assert torch.equal(SPACE.canonical(x), x) and SPACE.decode(x) == [first.config, second.config]


def test_points_come_first_then_the_searchers_from_its_first_on() -> None:
    study = make(Script([New(1), New(1), New(1)]), points=[{"a": 0.25, "b": 3}, {"a": 0.75, "b": 1}])
    plain = make(Script([New(1)]))
    launched = [command.trial for command in study.step((), LIMITS) if isinstance(command, Launch)]
    assert [trial.config for trial in launched[:2]] == [{"a": 0.25, "b": 3}, {"a": 0.75, "b": 1}]
    (first,) = (command.trial for command in plain.step((), LIMITS) if isinstance(command, Launch))
    assert launched[2].x == first.x


def test_what_sample_from_draws_depends_on_the_trials_own_seed() -> None:
    import random

    space = Space({"a": uniform(0.0, 1.0), "c": sample_from(lambda config: random.random())})
    one, other = make(Script([New(1), New(1)]), space=space), make(Script([New(1), New(1)]), space=space, capacity=1)
    first = [command.trial.config for command in one.step((), LIMITS) if isinstance(command, Launch)]
    again = [command.trial.config for command in other.step((), LIMITS) if isinstance(command, Launch)]
    assert first == again and first[0]["c"] != first[1]["c"]


@pytest.mark.parametrize(("trials", "made", "fresh"), [(None, 0, 10**9), (5, 0, 5), (5, 2, 3)])
def test_fresh_is_what_the_limit_leaves(trials: int | None, made: int, fresh: int) -> None:
    script = Script([New(1)] * made)
    study = make(script)
    study.step((), Limits(4, trials))
    for trial in list(study.running):
        study.step([at(trial, 1)], Limits(4, trials))
    assert script.heard[-1][2] == fresh
    assert study.trials == made


def test_fresh_is_bounded_by_a_searcher_with_an_end_and_the_users_points_come_on_top() -> None:
    space = Space({"b": grid_search([1, 2, 3])})
    script = Script()
    make(script, GridSearch(), space, points=[{"b": 2}]).step((), Limits(4))
    assert script.heard == [([], 4, 4)]


def test_a_fork_starts_from_its_parents_step_and_counts_against_no_limit() -> None:
    script = Script([New(2)], [], [Fork(0, (0.3, 0.5), 3, tag=4), Drop(0)])
    study = make(script)
    study.step((), Limits(4, trials=1))
    study.step([at(0, 1)], Limits(4, trials=1))
    commands = study.step([at(0, 2, 9.0)], Limits(4, trials=1))
    assert kinds(commands) == [("Launch", 1, 3), ("Drop", 0, None)]
    child = commands[0].trial  # type: ignore[union-attr]
    assert (child.parent, child.tag, child.seed) == (0, 4, derive(0, "trial", 1))
    assert child.x == tuple(SPACE.canonical(torch.tensor([[0.3, 0.5]], dtype=torch.float64))[0].tolist())
    study.step([at(1, 3)], Limits(4, trials=1))
    assert dict(study.running) == {1: 4}


def test_a_scheduler_that_drops_a_training_trial_is_told_the_law() -> None:
    study = make(Script([New(2)], [Drop(0)]))
    study.step((), LIMITS)
    with pytest.raises(RuntimeError, match="Script dropped trial 0 while it trains"):
        study.step([at(0, 1)], LIMITS)


def test_a_dropped_trial_is_dropped_once() -> None:
    rule = Asked()
    study = make(Script([New(1), New(1)], [Drop(0), Drop(1)], [Drop(1)]), stop=rule)
    study.step((), LIMITS)
    assert kinds(study.step([at(0, 1), died(1)], LIMITS)) == [("Keep", 0, None), ("Drop", 0, None), ("Drop", 1, None)]
    assert study.step([Note("n", "t")], LIMITS) == []
    assert rule.forgotten == [0, 1]


# Keep -------------------------------------------------------------------------------------------------------------------


def test_keep_comes_before_the_state_moves_on_and_names_whose_place_it_takes() -> None:
    study = make(Script([New(9), New(9)]))
    study.step((), LIMITS)
    assert study.step([at(0, 1, 2.0), at(1, 1, 1.0)], LIMITS)[0] == Keep(1)  # 0 was never the best of the batch
    assert study.step([at(0, 2, 0.5), at(1, 2, 0.7)], LIMITS)[0] == Keep(0, (1,))
    assert study.best == 0.5


def test_the_best_of_a_batch_breaks_ties_by_trial() -> None:
    study = make(Script([New(9), New(9)]))
    study.step((), LIMITS)
    assert study.step([at(1, 1, 1.0), at(0, 1, 1.0)], LIMITS)[0] == Keep(0)


def test_nothing_is_kept_of_a_report_that_violates_a_constraint() -> None:
    study = make(Script([New(9)]), constraints=["size <= 5"])
    study.step((), LIMITS)
    assert kinds(study.step([at(0, 1, 1.0, size=6)], LIMITS)) == [("Train", 0, 2)]
    assert study.best == math.inf
    assert study.step([at(0, 2, 1.0, size=5)], LIMITS)[0] == Keep(0)


def test_the_front_of_several_objectives_is_kept() -> None:
    study = make(Script([New(9), New(9)]), metric=["loss", "size"])
    study.step((), LIMITS)
    assert study.step([at(0, 1, 1.0, size=5), at(1, 1, 2.0, size=3)], LIMITS)[:2] == [Keep(0), Keep(1)]
    assert study.step([at(0, 2, 1.0, size=2), at(1, 2, 9.0, size=9)], LIMITS)[0] == Keep(0, (1,))


# Limits and stopping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "stops"),
    [
        (Limits(4, seconds=5.0), True), (Limits(4, seconds=5.1), False), (Limits(4, target=1.0), True),
        (Limits(4, target=0.9), False), (Limits(4, target=1.1), True),
    ],
)  # fmt: skip
def test_a_study_that_is_stopping_holds_its_trials_and_asks_for_nothing(limits: Limits, stops: bool) -> None:
    script = Script([New(9), New(9)])
    study = make(script)
    study.step((), limits)
    commands = study.step([at(0, 1, 1.0, time=5.0)], limits)
    assert kinds(commands) == [("Keep", 0, None)] + ([] if stops else [("Train", 0, 2)])
    assert script.heard[-1] == (([], 0, 0) if stops else ([], 2, 10**9 - 2))
    assert dict(study.running) == ({1: 1} if stops else {1: 1, 0: 2})


def test_held_trials_go_on_where_they_stood_once_the_limits_allow() -> None:
    study = make(Script([New(9), New(9)]))
    study.step((), Limits(4))
    study.step([at(1, 1, time=6.0), at(0, 1, time=6.0)], Limits(4, seconds=5.0))
    assert dict(study.running) == {}
    assert kinds(study.step((), Limits(4, seconds=50.0))) == [("Train", 1, 2), ("Train", 0, 2)]


def test_decisions_of_a_stopping_study_are_still_carried_out() -> None:
    study = make(Script([New(1)], [Drop(0)]))
    study.step((), LIMITS)
    assert kinds(study.step([at(0, 1, time=9.0)], Limits(4, seconds=5.0))) == [("Keep", 0, None), ("Drop", 0, None)]


def test_five_counted_failures_in_a_row_break_a_study_with_the_first_error() -> None:
    script = Script([New(9)] * 8)
    study = make(script, capacity=8)
    study.step((), Limits(8))
    study.step([died(0, error="first"), died(1, kind="diverged"), died(2, kind="bad_metric"), died(3, kind="lost")], Limits(8))
    assert study.broken is None
    study.step([died(4), died(5, kind="oom")], Limits(8))
    assert study.broken is None
    study.step([died(6, error="last")], Limits(8))
    assert BREAKER == 5 and study.broken == "first" and script.heard[-1][1:] == (0, 0)
    study.step((), Limits(8))
    assert study.broken is None and script.heard[-1][1] == 7


def test_a_report_between_failures_keeps_a_study_going() -> None:
    study = make(Script([New(9)] * 12), capacity=12)
    study.step((), Limits(12))
    study.step([died(trial) for trial in range(4)], Limits(12))
    study.step([at(4, 1)], Limits(12))
    study.step([died(trial, error=f"{trial}") for trial in range(5, 9)], Limits(12))
    assert study.broken is None
    study.step([died(9)], Limits(12))
    assert study.broken == "5"


def test_study_time_is_the_newest_events() -> None:
    study = make(Script([New(9), New(9)]))
    study.step((), LIMITS)
    study.step([at(0, 1, time=3.0), at(1, 1, time=2.0)], LIMITS)
    assert study.seconds == 3.0


# Replay and standing ----------------------------------------------------------------------------------------------------


def turns(make_study: Callable[[], Study], limits: Limits, rounds: int) -> list[tuple[list[Event], Limits, list[Command]]]:
    study, log = make_study(), []
    events: list[Event] = []
    for turn in range(rounds):
        log.append((events, limits, study.step(events, limits)))
        events = [
            died(trial, until) if (trial + turn) % 7 == 6 else at(trial, until, ((trial * 37) % 11) / until)
            for trial, until in study.running.items()
        ]
    return log


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_replayed_study_is_where_the_first_one_was_and_goes_on_alike(adaptive: bool) -> None:
    def study() -> Study:
        return make(ASHA(max_t=9, reduction_factor=3), Learner() if adaptive else None, points=[{"a": 0.5, "b": 1}])

    limits = Limits(4, trials=30)
    log = turns(study, limits, 40)
    for cut in (1, 2, 7, 20):
        again = study()
        for turn in log[:cut]:
            again.replay(*turn)
        for events, _, commands in log[cut:]:
            assert again.step(events, limits) == commands


def test_replay_trains_nothing_anew_and_takes_recorded_trials_as_they_are() -> None:
    study = make(Script([New(1)]), seed=1)
    (launch,) = make(Script([New(1)]), seed=2).step((), LIMITS)
    study.replay((), LIMITS, [launch])
    assert study.standing().live == ((launch.trial, 0),)  # type: ignore[union-attr]


@pytest.mark.parametrize("recorded", [[Train(0, 5)], [], [Keep(0), Train(0, 2), Drop(0)]])
def test_a_decision_that_is_not_the_recorded_one_is_an_error(recorded: list[Command]) -> None:
    study = make(Script([New(9)]))
    study.step((), LIMITS)
    with pytest.raises(ReplayError, match="recorded"):
        study.replay([at(0, 1)], LIMITS, recorded)


@pytest.mark.parametrize("decision", [New(1), Fork(0, (0.5, 0.5), 1)])
def test_a_trial_that_was_not_recorded_is_an_error(decision: Decision) -> None:
    study = make(Script([New(1)], [decision]))
    study.step((), LIMITS)
    with pytest.raises(ReplayError, match="more trials are launched than the recorded turn of 0 commands"):
        study.replay([at(0, 1)], LIMITS, [])


def test_standing_says_who_runs_since_when_in_order_of_submission() -> None:
    study = make(Script([New(3), New(1), New(9)]), capacity=3)
    study.step((), Limits(3))
    study.step([at(1, 1)], Limits(3))
    study.step([at(0, 1, time=4.0), at(2, 1)], Limits(3))
    standing = study.standing()
    assert (standing.tick, standing.since, standing.seconds) == (1, {0: 1, 2: 1}, 4.0)
    assert [(trial.id, step) for trial, step in standing.live] == [(0, 1), (1, 1), (2, 1)]
    study.step([at(0, 2)], Limits(3))
    assert study.outstanding() == [Train(2, 2), Train(0, 3)]
    assert study.standing().since == {2: 1, 0: 2} and study.standing().tick == 2


def test_an_end_without_a_step_takes_a_tick() -> None:
    study = make(Script([New(3)]))
    study.step((), LIMITS)
    study.step([at(0, 1)], LIMITS)
    study.step([at(0, 1, done=True)], LIMITS)
    assert study.standing().tick == 2


def test_reconfigure_gives_live_trials_other_configs() -> None:
    study = make(Script([New(2)]))
    study.step((), LIMITS)
    study.reconfigure(lambda trial: {"instead": trial.id})
    ((trial, _),) = study.standing().live
    assert trial.config == {"instead": 0}
    assert dataclasses.replace(trial, config={}) == trial  # configs are not compared


# Rows, reasons and searchers that err ------------------------------------------------------------------------------------


def test_rows_that_the_user_tries_first_are_not_tried_again_by_the_searcher() -> None:
    rows = [{"a": float(i), "b": i} for i in range(6)]
    space = Space.from_rows(rows)
    script = Script([New(1)] * 4, [], [New(1)] * 2, [New(1)])
    study = make(script, space=space, points=[rows[4], rows[2]])
    limits = Limits(9)
    launched = [command.trial.config for command in study.step((), limits) if isinstance(command, Launch)]
    assert launched[:2] == [rows[4], rows[2]] and script.heard[0][2] == 6
    study.step([at(0, 1)], limits)
    launched += [command.trial.config for command in study.step([at(1, 1)], limits) if isinstance(command, Launch)]
    assert sorted(config["b"] for config in launched) == list(range(6))
    assert script.heard[-1][2] == 2
    plain = make(Script([New(1)] * 6), space=space)
    order = [command.trial.config for command in plain.step((), limits) if isinstance(command, Launch)]
    assert launched[2:] == [config for config in order if config not in (rows[4], rows[2])]


def test_rows_go_on_after_a_replay_where_they_were() -> None:
    rows = [{"a": float(i), "b": i} for i in range(6)]
    space = Space.from_rows(rows)

    def study() -> Study:
        return make(Script([New(1)] * 3, [New(1)] * 3), space=space, points=[rows[0]])

    one, other = study(), study()
    first = one.step((), LIMITS)
    other.replay((), LIMITS, first)
    assert other.step([at(0, 1)], LIMITS) == one.step([at(0, 1)], LIMITS)


def test_a_study_says_why_nothing_is_started_any_more() -> None:
    study = make(Script([New(9)] * 8), capacity=8)
    study.step((), Limits(8))
    study.step([at(7, 1, 0.5, time=61.0)], Limits(8))
    assert study.over(Limits(8)) is None and study.over(Limits(8, seconds=61.5, target=0.4)) is None
    assert study.over(Limits(8, seconds=61.0)) == 'the time budget of 61 s is spent; time_budget="+60" gives a minute more'
    assert study.over(Limits(8, target=0.5)) == "the target 0.5 is reached; another target= goes on"
    study.step([died(trial) for trial in range(5)], Limits(8))
    assert study.over(Limits(8)) == "5 trials failed in a row"


def test_a_trial_is_looked_at_where_it_ends_by_itself() -> None:
    class Bounded(Script):
        max_t = 4

    study = make(Bounded([New(None)]), look_every="grant")
    study.step((), LIMITS)
    assert dict(study.running) == {0: 4}
    study.step([at(0, 4)], LIMITS)
    assert dict(study.running) == {0: ENDLESS}


def test_a_searcher_that_gives_too_few_points_is_named() -> None:
    class Few(RandomSearch):
        def ask(self, n: int, *, pending: torch.Tensor, index: int, seed: int) -> torch.Tensor:
            return super().ask(n, pending=pending, index=index, seed=seed)[1:]

    with pytest.raises(ConfigurationError, match=r"Few.ask must give points \(1024, 2\), but gave \(1023, 2\)"):
        make(Script([New(1)]), Few()).step((), LIMITS)


def test_only_a_broken_study_is_given_another_chance() -> None:
    study = make(Script([New(9)] * 8), capacity=8)
    study.step((), Limits(8))
    study.step([died(trial) for trial in range(3)], Limits(8))
    study.step((), Limits(8))
    study.step([died(3), died(4)], Limits(8))
    assert study.broken is not None


def test_a_searcher_that_learns_is_asked_beside_all_that_runs_after_the_turn() -> None:
    class Beside(Learner):
        def ask(self, n: int, *, pending: torch.Tensor, index: int, seed: int) -> torch.Tensor:
            self.beside = pending.tolist()
            return super().ask(n, pending=pending, index=index, seed=seed)

    searcher = Beside()
    script = Script([New(1), New(1)], [Train(0, 2), Fork(1, (0.25, 0.5), 1), New(1)])
    study = make(script, searcher)
    first, second = (command.trial for command in study.step((), LIMITS) if isinstance(command, Launch))
    assert searcher.beside == []
    study.step([at(0, 1), at(1, 1)], LIMITS)
    assert searcher.beside == [list(first.x), [0.25, 0.5]] and second.id == 1, "the promoted one and the fork; trial 1 rests"

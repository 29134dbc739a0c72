"""A Tuner as its users meet it: what runs, what ends it, what is refused, what goes on."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import torchtune_hp as hp
from torchtune_hp.lock import DriverLock
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.trial import Note, Reached
from torchtune_hp.tuner import defaults_of

from .faults.studies import story
from .interpreters import Interpreter

SPACE = {"x": hp.uniform(-1.0, 1.0), "width": hp.choice([1, 2, 4])}


@hp.trainable(space=SPACE, metric="loss", mode="min", storage=None, verbose=0, executor=hp.Serial(), trials=4)
def train(config: dict[str, Any]) -> None:
    for step in range(1, 6):
        hp.report(loss=config["x"] ** 2 + 1 / step, size=config["width"])


class Counter(hp.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.steps = 0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        return {"loss": self.config["x"] ** 2 + 1 / self.steps, "steps": self.steps}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps = checkpoint["steps"]


def counting(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    given = {
        "trainable": Counter,
        "space": SPACE,
        "metric": "loss",
        "mode": "min",
        "executor": hp.Serial(),
        "storage": tmp_path,
        "verbose": 0,
    }
    return given | {"scheduler": hp.FullRuns(max_t=3), "trials": 5, "name": "counting"} | changes


# Running ------------------------------------------------------------------------------------------------------------------


def test_a_decorated_function_is_tuned_with_its_own_defaults_and_whatever_is_passed() -> None:
    results = train.tune()
    assert len(results) == 4 and results.counts() == {"completed": 4}
    assert results.best.metrics["loss"] == min(0.2 + result.config["x"] ** 2 for result in results)
    assert len(hp.Tuner(train, trials=7).fit()) == 7
    assert len(hp.tune(train, {"x": hp.grid_search([0.1, 0.2, 0.3]), "width": 1}, trials=None)) == 3


@hp.trainable(space=SPACE, metric="loss", mode="min", storage=None, verbose=0, seed=5, trials=4, scheduler=hp.FullRuns(max_t=2))
def seeded(config: dict[str, Any]) -> None:
    hp.report(loss=config["x"])


@pytest.mark.parametrize(
    "given", [{"seed": 0}, {"verbose": 1}, {"storage": "runs"}, {"trials": None, "time_budget": 9.0}, {"seed": 0, "metric": None}]
)
def test_an_argument_that_is_passed_goes_before_the_decorators_though_it_is_the_default(given: dict[str, Any]) -> None:
    arguments = hp.Tuner(seeded, **given)._given
    assert {name: arguments[name] for name in given} == given | ({"metric": "loss"} if "metric" in given else {})      # no study without
    assert arguments["keep"] == 1 and (arguments["seed"] == 5 or "seed" in given)
    assert hp.Tuner(seeded, SPACE, scheduler=None)._given["scheduler"] is None


def test_a_tuners_signature_shows_its_defaults() -> None:
    parameters = inspect.signature(hp.Tuner).parameters
    assert [str(parameters[name]) for name in ("seed", "mode")] == ["seed: 'int' = 0", "mode: 'str | Sequence[str] | None' = None"]
    with pytest.raises(TypeError, match="trainable"):
        hp.Tuner()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        hp.Tuner(seeded, SPACE, "loss")  # type: ignore[misc]


def test_a_list_in_a_space_is_a_constant_and_the_log_says_how_to_search_among_its_items() -> None:
    results = hp.tune(train, {"x": hp.uniform(0.0, 1.0), "width": [1, 2]}, trials=1)
    assert results[0].config["width"] == [1, 2]
    assert [note.text for note in results.log if note.kind == "space"] == [
        "width is a constant: every trial gets the whole list [1, 2]. To search among its items: hp.choice([...])"
    ]


def test_a_misspelt_metric_of_a_stop_rule_ends_the_study_at_its_first_report() -> None:
    with pytest.raises(hp.ConfigurationError, match=r"stop: .* first report holds .*'loss'.* and not \['los'\]"):
        train.tune(stop={"los": 10.0})


def test_a_study_has_a_name_and_a_folder_of_its_own(tmp_path: Path) -> None:
    for expected in ("Counter-1", "Counter-2"):
        results = hp.Tuner(**counting(tmp_path, name=None)).fit()
        assert results.header["name"] == expected and (tmp_path / expected / "study.db").is_file()


def test_studies_without_names_that_begin_in_one_instant_have_folders_of_their_own(tmp_path: Path) -> None:
    together, found = threading.Barrier(6), []

    def fit(tuner: hp.Tuner) -> None:
        together.wait()
        found.append(tuner.fit().header["name"])

    threads = [threading.Thread(target=fit, args=(hp.Tuner(**counting(tmp_path, name=None, trials=1)),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"Counter-{n}" for n in range(1, 7)] == sorted(folder.name for folder in tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(hp.TorchtuneError, match="A study must be writable.*Choose another storage"):
        hp.Tuner(**counting(tmp_path / "file", name=None)).fit()


def test_an_existing_name_is_an_error_that_says_how_to_go_on(tmp_path: Path) -> None:
    hp.Tuner(**counting(tmp_path)).fit()
    with pytest.raises(hp.StudyExistsError, match=f"torchtune-hp resume {tmp_path}/counting, or Tuner"):
        hp.Tuner(**counting(tmp_path)).fit()


def test_points_are_tried_first() -> None:
    results = train.tune(points=[{"x": 0.25, "width": 4}, {"x": -0.5, "width": 1}])
    assert [results[0].config, results[1].config] == [{"x": 0.25, "width": 4}, {"x": -0.5, "width": 1}]
    assert len(results) == 4


def test_the_best_state_is_loaded_as_of_its_best_report(tmp_path: Path) -> None:
    class Bumpy(Counter):
        def step(self) -> dict[str, Any]:
            super().step()
            return {"loss": abs(self.steps - 3) + self.config["x"] ** 2}

    results = hp.Tuner(**counting(tmp_path, trainable=Bumpy, scheduler=hp.FullRuns(max_t=5), keep=2)).fit()
    assert results.best.step == 3 and results.best.load().steps == 3
    assert [result.load().steps for result in results.top(2)] == [3, 3]
    with pytest.raises(hp.CheckpointError, match="keep"):
        results.top(3)[2].load()


def test_a_models_best_weights_evaluate_to_its_best_metrics(tmp_path: Path) -> None:
    space = {"lr": hp.loguniform(1e-3, 1e-1), "width": hp.choice([4, 8]), "dropout": 0.1, "momentum": 0.9}
    results = hp.Tuner(**counting(tmp_path, trainable=ToyModel, space=space, scheduler=hp.ASHA(max_t=4, reduction_factor=2))).fit()
    best = results.best
    assert sum(parameter.numel() for parameter in best.load().parameters()) > 0
    trial = results.launched(best.trial)
    again = results.recipe.evaluate(trial, results.place, results.vault.kept(best.trial), best.step)  # type: ignore[attr-defined]
    assert again["loss"] == best.metrics["loss"]


def test_several_objectives_have_a_front_and_no_single_best(tmp_path: Path) -> None:
    results = hp.Tuner(**counting(tmp_path, metric=["loss", "steps"], mode=["min", "min"])).fit()
    with pytest.raises(hp.SeveralObjectivesError, match="pareto"):
        _ = results.best
    front = results.pareto
    assert front and all(result.load().steps == result.step for result in front)


TRADES = {0.1: [(1.0, 5.0), (5.0, 1.0), (6.0, 6.0)], 0.7: [(4.0, 0.5), (0.5, 9.0), (7.0, 0.4)], 0.9: [(9.0, 9.0), (1.0, 4.0), (1.0, 4.0)]}


class Trading(Counter):
    def step(self) -> dict[str, Any]:
        self.steps += 1
        p, q = TRADES[self.config["x"]][self.steps - 1]
        return {"p": p, "q": q}


def trading(tmp_path: Path) -> dict[str, Any]:
    points = [{"x": x, "width": 1} for x in TRADES]
    return counting(tmp_path, trainable=Trading, metric=["p", "q"], mode="min", trials=3, points=points, resume="auto")


def whole_front_kept(results: hp.Results, trials: int = 3) -> None:
    """What is on disk is the front of all reports, and every trial of the front can be loaded as it is shown."""
    reports = [(p, q, trial, step) for trial, x in enumerate([*TRADES][:trials]) for step, (p, q) in enumerate(TRADES[x], 1)]
    best = {report[:2] for report in reports if not any(a <= report[0] and b <= report[1] for a, b, *_ in reports if (a, b) != report[:2])}
    first = sorted((trial, step) for p, q, trial, step in reports if (p, q) in best and TRADES[[*TRADES][trial]].index((p, q)) + 1 == step)
    assert sorted((row.trial, row.step) for row in results.journal.checkpoints(purpose="keep")) == first
    assert {result.trial for result in results.pareto} == {trial for trial, _ in first}
    assert all(result.load().steps == result.step for result in results.pareto)


@pytest.mark.parametrize("trials", [1, 2, 3])
@pytest.mark.parametrize("executor", [hp.Serial(), hp.Serial(3)], ids=["one-slot", "three-slots"])
def test_with_several_objectives_the_whole_front_is_kept_and_can_be_loaded(tmp_path: Path, executor: hp.Serial, trials: int) -> None:
    results = hp.Tuner(**trading(tmp_path) | {"executor": executor, "trials": trials}).fit()
    whole_front_kept(results, trials)
    files = [path for path in (tmp_path / "counting" / "checkpoints").rglob("*") if path.is_file()]
    assert len(files) == len(results.journal.checkpoints())


@pytest.mark.parametrize("turn", range(1, 10))
def test_a_front_whose_weights_were_not_on_disk_when_the_process_died_is_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    from torchtune_hp.journal import Journal

    append, turns = Journal.append, [0]

    def dying(self: Journal, *what: Any) -> None:
        append(self, *what)
        turns[0] += 1
        if turns[0] == turn:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", dying)
        with pytest.raises(KeyboardInterrupt):
            hp.Tuner(**trading(tmp_path)).fit()
    whole_front_kept(hp.Tuner(**trading(tmp_path)).fit())


# What ends it -------------------------------------------------------------------------------------------------------------


def test_a_target_ends_the_study() -> None:
    results = train.tune(trials=500, target=0.3)
    assert results.best.metrics["loss"] <= 0.3 and len(results) < 100


def test_a_time_budget_ends_the_study_within_a_step() -> None:
    began = time.monotonic()
    results = hp.tune(train.function, SPACE, metric="loss", mode="min", time_budget=0.3, storage=None, verbose=0, executor=hp.Serial())
    assert results.seconds >= 0.3 and time.monotonic() - began < 5 and len(results) > 4


def test_a_stop_rule_ends_trials() -> None:
    results = train.tune(stop=hp.MaxSteps(2))
    assert all(len(curve) == 2 for curve in results.curves().values())
    results = train.tune(stop={"loss": 10.0})
    assert all(len(curve) == 1 for curve in results.curves().values())


@pytest.mark.parametrize("stop", [hp.MaxSteps(20), {"training_iteration": 20, "loss": -1.0}, [hp.Plateau(50), hp.MaxSteps(20)]])
@pytest.mark.parametrize("look_every", [7, "grant"])
def test_steps_among_other_stop_rules_are_a_trials_largest_budget(tmp_path: Path, stop: Any, look_every: Any) -> None:
    given = counting(tmp_path, stop=stop, scheduler=None, trials=2, storage=None, look_every=look_every)
    results = hp.Tuner(**given).fit()
    assert results.header["max_t"] == 20 and [result.step for result in results] == [20, 20]


def test_an_outcome_constraint_keeps_a_violator_from_being_best() -> None:
    results = train.tune(trials=30, outcome_constraints=["size <= 1"])
    assert results.best.config["width"] == 1
    assert any(result.config["width"] > 1 for result in results)


# Failures -----------------------------------------------------------------------------------------------------------------


def test_an_exception_fails_its_trial_alone() -> None:
    def sometimes(config: dict[str, Any]) -> None:
        hp.report(loss=config["x"])
        if config["width"] == 4:
            raise ValueError("too wide")
        hp.report(loss=config["x"])

    results = hp.tune(sometimes, SPACE, metric="loss", mode="min", trials=12, storage=None, verbose=0, executor=hp.Serial())
    wide = sum(result.config["width"] == 4 for result in results)
    assert results.counts() == {"completed": 12 - wide, "failed": wide} and 0 < wide < 12
    assert {error.kind for error in results.errors} == {"error"} and "too wide" in results.errors[0].traceback


@pytest.mark.parametrize(
    ("metrics", "words"),
    [({"lossy": 1.0}, "Did you mean 'lossy'?"), ({"loss": "low"}, "str"), ({"loss": True}, "bool"), ({"loss": [1.0]}, "list")],
)
def test_a_study_whose_trials_all_fail_stops_after_five_with_the_first_traceback(metrics: dict[str, Any], words: str) -> None:
    made = []

    def wrong(config: dict[str, Any]) -> None:
        made.append(1)
        hp.report(metrics)

    with pytest.raises(hp.StudyFailedError, match="5 trials failed in a row") as caught:
        hp.tune(wrong, SPACE, metric="loss", mode="min", trials=50, storage=None, verbose=0, executor=hp.Serial())
    assert words in str(caught.value) and "loss" in str(caught.value) and len(made) == 5


def test_a_nan_trial_ends_at_its_first_look_and_is_not_the_best() -> None:
    def nan(config: dict[str, Any]) -> None:
        for _ in range(9):
            hp.report(loss=float("nan") if config["x"] < 0 else config["x"])

    results = hp.tune(
        nan,
        SPACE,
        metric="loss",
        mode="min",
        trials=20,
        storage=None,
        verbose=0,
        executor=hp.Serial(2),
        scheduler=hp.ASHA(max_t=9, reduction_factor=3, variant="promotion"),
    )
    for trial, curve in results.curves().items():
        assert results[trial].config["x"] > 0 or len(curve) == 1
    assert results.best.metrics["loss"] > 0


# What is refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("num_samples", "trials="),
        ("n_trials", "trials="),
        ("max_evals", "trials="),
        ("param_space", "space="),
        ("direction", "mode="),
        ("resources_per_trial", "executor="),
        ("search_alg", "searcher="),
        ("pruner", "scheduler="),
        ("metrics", "did you mean metric="),
    ],
)
def test_a_word_of_another_library_is_answered_with_ours(word: str, ours: str) -> None:
    with pytest.raises(TypeError, match=ours):
        hp.Tuner(train, **{word: 3})
    with pytest.raises(TypeError, match=f"trainable: `{word}`.* {ours}"):
        hp.Tuner(hp.trainable(**{word: 3})(train.function))


def test_an_attribute_of_a_class_that_is_called_defaults_is_its_own() -> None:
    class Defaulting(Counter):
        defaults = {"lr": 0.1, "seed": 7}

    for trainable in (Defaulting, hp.with_parameters(Defaulting)):
        tuner = hp.Tuner(trainable, SPACE, metric="loss", mode="min", trials=1, scheduler=hp.FullRuns(1))
        assert tuner._given["seed"] == 0 and dict(defaults_of(trainable)) == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 0}, "`trials >= 1`"),
        ({"trials": 1.5}, "`trials >= 1`"),
        ({"trials": None}, "when does the study end"),
        ({"time_budget": -1}, "`time_budget > 0`"),
        ({"target": float("nan")}, "target: a finite value"),
        ({"keep": -1}, "`keep >= 0`"),
        ({"seed": -1}, "`seed >= 0`"),
        ({"look_every": 0}, "look_every"),
        ({"checkpoint_every": -1}, "checkpoint_every"),
        ({"verbose": 7}, "verbose"),
        ({"name": "../x"}, "name: letters"),
        ({"name": "a" * 101}, "name: letters"),
        ({"name": ""}, "name: letters"),
        ({"resume": "maybe"}, 'resume: must be "never" or "auto"'),
        ({"resume": "auto"}, 'resume: "auto" needs name='),
        ({"metric": None}, "what is to be optimized"),
        ({"mode": "up"}, 'must be "min" or "max"'),
        ({"searcher": hp.RandomSearch}, "write RandomSearch"),
        ({"scheduler": 3}, "expected an object such as hp.ASHA"),
        ({"executor": "fast"}, 'expected "auto" or an object'),
        ({"stop": 3}, "stop: expected"),
        ({"points": [{"x": 5}]}, "points"),
        ({"points": "x"}, "points: a list of configs"),
        ({"outcome_constraints": ["size"]}, "outcome_constraints"),
        ({"space": {}}, "space"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_before_anything_runs(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((hp.ConfigurationError, hp.SpaceError), match=words):
        hp.Tuner(
            train.function,
            **{"space": SPACE, "metric": "loss", "mode": "min", "storage": None, "trials": 2, "executor": hp.Serial()} | changes,
        )


def _refusing(config: dict[str, Any]) -> float:
    raise KeyError("no such key")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"executor": hp.Fused(devices="cuda:99")}, "devices: must be some that are there"),
        ({"executor": hp.Processes(1, gpus=1024)}, "gpus: "),
        ({"trainable": hp.with_parameters(lambda config, lock: None, lock=threading.Lock()), "executor": hp.Processes(1)}, "picklable"),
        ({"space": {"x": hp.uniform(0.0, 1.0), "y": hp.sample_from(_refusing)}}, "y: sample_from failed"),
        ({"executor": hp.Simulated(2, seconds=lambda config: 0)}, None),            # after the first turn: it is a study
    ],
)
@pytest.mark.parametrize("named", ["refused", None])
def test_what_is_refused_before_the_first_turn_leaves_nothing_on_disk(
    tmp_path: Path, changes: dict[str, Any], words: str | None, named: str | None
) -> None:
    given = counting(tmp_path, trainable=train.function, name=named, searcher=hp.RandomSearch())
    with pytest.raises((hp.ConfigurationError, hp.SpaceError), match=words):
        hp.Tuner(**given | changes).fit()
    assert (list(tmp_path.rglob("*")) == []) == (words is not None)


def test_what_was_there_before_a_refused_study_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(hp.ConfigurationError):
        train.tune(executor=hp.Fused(devices="cuda:99"), storage=tmp_path, name="mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert len(train.tune(storage=tmp_path, name="mine")) == 4


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(hp.ConfigurationError) as caught:
        hp.Tuner(3, trials=0, seed=-1, name="a b")
    assert len(str(caught.value).splitlines()) >= 6


def test_without_a_searcher_it_is_gp_search_or_the_grid(tmp_path: Path) -> None:
    axis = {"space": {"lr": hp.grid_search([0.1, 0.2])}}
    for changes, kind in (({}, hp.GPSearch), (axis, hp.GridSearch), ({"searcher": hp.RandomSearch()}, hp.RandomSearch)):
        assert isinstance(hp.Tuner(**counting(tmp_path, **changes))._plan.searcher, kind)


def test_a_class_without_an_end_needs_one(tmp_path: Path) -> None:
    with pytest.raises(hp.ConfigurationError, match=r"max_t.*stop=hp.MaxSteps"):
        hp.Tuner(**counting(tmp_path, scheduler=None))
    assert len(hp.Tuner(**counting(tmp_path, scheduler=None, stop=hp.MaxSteps(2))).fit()) == 5


def test_a_scheduler_that_ranks_serves_several_objectives_and_keeps_a_front_going(tmp_path: Path) -> None:
    scheduler = hp.ASHA(max_t=3, reduction_factor=3)
    changes = {"metric": ["loss", "steps"], "scheduler": scheduler, "searcher": hp.RandomSearch(), "trials": 9}
    results = hp.Tuner(**counting(tmp_path, **changes)).fit()
    assert len(results) == 9 and results.pareto
    went_on = {trial for trial, curve in results.curves().items() if curve[-1]["step"] == 3}
    first = {trial: curve[0]["loss"] for trial, curve in results.curves().items()}      # after one step they differ in the loss alone
    assert went_on == set(sorted(first, key=first.__getitem__)[:3])


# Going on -----------------------------------------------------------------------------------------------------------------


def test_a_finished_study_is_extended_and_is_the_longer_study_it_would_have_been(tmp_path: Path) -> None:
    hp.Tuner(**counting(tmp_path / "a")).fit()
    more = hp.Tuner.resume(tmp_path / "a" / "counting", Counter, trials="+4", verbose=0).fit()
    whole = hp.Tuner(**counting(tmp_path / "b", trials=9)).fit()
    assert [result.config for result in more] == [result.config for result in whole] and len(more) == 9
    assert hp.Tuner.resume(tmp_path / "a" / "counting", Counter, trials=10, verbose=0).fit().counts() == {"completed": 10}


def test_fewer_trials_than_there_are_is_an_error(tmp_path: Path) -> None:
    hp.Tuner(**counting(tmp_path)).fit()
    with pytest.raises(hp.ConfigurationError, match="there are 5 already"):
        hp.Tuner.resume(tmp_path / "counting", Counter, trials=3)
    with pytest.raises(hp.ConfigurationError, match=r'"\+100"'):
        hp.Tuner.resume(tmp_path / "counting", Counter, trials="more")


def test_one_script_starts_and_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        assert len(hp.Tuner(**counting(tmp_path, resume="auto")).fit()) == 5
    assert len(hp.Tuner(**counting(tmp_path, resume="auto", trials=7)).fit()) == 7


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"metric": "steps"}, "metric: ['loss'] -> ['steps']"),
        ({"mode": "max"}, "mode: ['min'] -> ['max']"),
        ({"space": {"x": hp.uniform(-1.0, 2.0), "width": hp.choice([1, 2, 4])}}, "x: uniform"),
        ({"scheduler": hp.FullRuns(max_t=4)}, "scheduler.max_t: 3 -> 4"),
        ({"keep": 3}, "keep: 1 -> 3"),
        ({"stop": hp.MaxSteps(2)}, "stop: None -> MaxSteps(steps=2)"),
        ({"searcher": hp.SobolSearch()}, "SobolSearch"),
    ],
)
def test_a_changed_study_is_refused_with_a_diff_unless_allowed(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    hp.Tuner(**counting(tmp_path)).fit()
    with pytest.raises(hp.StudyChangedError) as caught:
        hp.Tuner.resume(tmp_path / "counting", Counter, **change)
    assert line in str(caught.value)


def test_another_trainable_is_refused(tmp_path: Path) -> None:
    hp.Tuner(**counting(tmp_path)).fit()
    with pytest.raises(hp.StudyChangedError, match="trainable: 'Counter' -> 'train'"):
        hp.Tuner.resume(tmp_path / "counting", train)


def test_a_change_on_purpose_is_allowed_by_name(tmp_path: Path) -> None:
    hp.Tuner(**counting(tmp_path)).fit()
    results = hp.Tuner.resume(tmp_path / "counting", Counter, seed=9, trials="+2", allow=("seed",), verbose=0).fit()
    assert len(results) == 7 and results.header["seed"] == 9
    again = hp.Tuner.resume(tmp_path / "counting", Counter, trials="+1", verbose=0).fit()
    assert len(again) == 8
    with pytest.raises(hp.ConfigurationError, match="allow: "):
        hp.Tuner.resume(tmp_path / "counting", Counter, allow=("sede",))


def test_parts_that_the_journal_cannot_hold_are_asked_for_by_name(tmp_path: Path) -> None:
    hp.Tuner(**counting(tmp_path, stop=lambda trial, metrics: metrics["steps"] >= 2)).fit()
    with pytest.raises(hp.ConfigurationError, match="pass stop= again"):
        hp.Tuner.resume(tmp_path / "counting", Counter)


def test_no_study_no_resume(tmp_path: Path) -> None:
    with pytest.raises(hp.StudyNotFoundError):
        hp.Tuner.resume(tmp_path / "nothing", Counter)


def test_a_study_that_was_killed_before_its_first_turn_is_resumed_with_the_limits_it_was_given(tmp_path: Path) -> None:
    from torchtune_hp.journal import Journal

    header = hp.Tuner(**counting(tmp_path, trials=4, target=-1.0, time_budget=600.0))._plan.header()
    Journal.create(tmp_path / "counting", header | {"name": "counting"}).close()
    results = hp.Tuner.resume(tmp_path / "counting", Counter, verbose=0).fit()
    limits = results.journal.last_limits()
    assert limits is not None and (limits.trials, limits.seconds, limits.target) == (4, 600.0, -1.0) and len(results) == 4
    Journal.create(tmp_path / "other", header | {"name": "other"}).close()
    assert len(hp.Tuner.resume(tmp_path / "other", Counter, trials="+1", verbose=0).fit()) == 5
    older = {key: value for key, value in header.items() if key != "limits"}
    Journal.create(tmp_path / "older", older | {"name": "older"}).close()
    with pytest.raises(hp.ConfigurationError, match="when does the study end"):
        hp.Tuner.resume(tmp_path / "older", Counter)
    assert len(hp.Tuner.resume(tmp_path / "older", Counter, trials=3, verbose=0).fit()) == 3


def test_a_second_driver_is_told_of_the_first(tmp_path: Path) -> None:
    hp.Tuner(**counting(tmp_path)).fit()
    with DriverLock(tmp_path / "counting"), pytest.raises(hp.StudyLockedError, match=str(os.getpid())):
        hp.Tuner.resume(tmp_path / "counting", Counter, trials="+1", verbose=0).fit()


def test_choices_that_json_cannot_hold_come_back_as_objects(tmp_path: Path) -> None:
    import torch

    class Active(Counter):
        def step(self) -> dict[str, Any]:
            assert callable(self.config["activation"])
            return super().step()

    space = {"activation": hp.choice([torch.relu, torch.tanh]), "x": hp.uniform(0.0, 1.0)}
    given = counting(tmp_path, trainable=Active, space=space, scheduler=hp.ASHA(max_t=3, reduction_factor=3))
    hp.Tuner(**given).fit()
    assert len(hp.Tuner(**given | {"trials": 9, "resume": "auto"}).fit()) == 9


@pytest.mark.parametrize("stored", [True, False], ids=["on-disk", "in-memory"])
def test_choices_of_ones_own_classes_are_loaded_with_the_space_that_the_tuner_was_given(tmp_path: Path, stored: bool) -> None:
    class Own:
        def __init__(self, size: int) -> None:
            self.size = size

        def __repr__(self) -> str:
            return f"Own({self.size})"

    class Sized(Counter):
        def step(self) -> dict[str, Any]:
            return {"loss": self.config["own"].size - super().step()["steps"]}

    space = {"own": hp.choice([Own(1), Own(2)]), "x": hp.uniform(0.0, 1.0)}
    given = counting(tmp_path, trainable=Sized, space=space, resume="auto") if stored else counting(
        tmp_path, trainable=Sized, space=space, storage=None)     # fmt: skip
    assert hp.Tuner(**given).fit().best.load().config["own"].size == 1
    if stored:
        assert hp.Tuner(**given).fit().best.load().config["own"].size == 1


def test_a_study_stays_where_it_began_though_a_trial_changes_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    class Wandering(Counter):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config)
            os.chdir(elsewhere)

    monkeypatch.chdir(tmp_path)
    given = counting(Path("runs"), trainable=Wandering, checkpoint_every=0)
    tuner = hp.Tuner(**given)
    results = tuner.fit()
    assert results.best.load().steps == 3 and results.path == tmp_path / "runs" / "counting"
    with pytest.raises(hp.StudyExistsError, match="a study at runs/counting already.*resume runs/counting"):
        tuner.fit()
    monkeypatch.chdir(tmp_path)
    assert len(hp.Tuner.resume("runs/counting", Wandering, trials="+2", verbose=0).fit()) == 7
    monkeypatch.chdir(tmp_path)
    tuner = hp.Tuner(**given | {"trials": 8, "resume": "auto"})
    for _ in range(2):
        assert len(tuner.fit()) == 8
        os.chdir(elsewhere)
    assert not list(elsewhere.iterdir()) and [path.name for path in (tmp_path / "runs").iterdir()] == ["counting"]


def test_a_home_folder_is_written_as_in_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hp.Tuner(**counting(tmp_path, storage="~/studies")).fit().path == tmp_path / "studies" / "counting"
    assert len(hp.Tuner.resume("~/studies/counting", Counter, trials="+1", verbose=0).fit()) == 6


# Signals ------------------------------------------------------------------------------------------------------------------

SLEEPER = """
import sys, time
import torchtune_hp as hp

class Sleeper(hp.Trainable):
    def setup(self, config): self.n = 0
    def step(self):
        time.sleep(float(sys.argv[2])); self.n += 1
        return {"loss": config_loss(self.config, self.n)}
    def save_checkpoint(self, folder): return {"n": self.n}
    def load_checkpoint(self, state): self.n = state["n"]

def config_loss(config, n): return config["x"] + 1 / n

try:
    print("started", flush=True)
    results = hp.Tuner(Sleeper, {"x": hp.uniform(0.0, 1.0)}, metric="loss", mode="min", trials=6, scheduler=hp.FullRuns(max_t=10),
        executor=hp.Serial(2), storage=sys.argv[1], name="sleeper", resume="auto", verbose=0).fit()
    print("best", results.best.metrics["loss"], len(results))
except hp.StudyInterrupted as stopped:
    print(stopped); sys.exit(128 + stopped.signum)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_session_and_a_resumed_study_is_the_uninterrupted_one(tmp_path: Path, signum: int) -> None:
    """Slow: three sessions, each an interpreter of its own."""
    script = tmp_path / "script.py"
    script.write_text(SLEEPER)

    def session(storage: Path, pause: float, *, interrupt: bool) -> tuple[int, str]:
        child, until = Interpreter(script, str(storage), str(pause), folder=tmp_path), time.monotonic() + 60
        while interrupt and not (tmp_path / "sleeper" / "study.db").exists():
            assert time.monotonic() < until, child.said()
            time.sleep(0.02)
        if interrupt:
            time.sleep(0.4)
            child.send_signal(signum)
        return child.wait(), child.said()[0]

    code, said = session(tmp_path, 0.05, interrupt=True)
    assert code == 128 + signum and f"torchtune-hp resume {tmp_path}/sleeper" in said
    assert 0 < len(hp.Results.open(tmp_path / "sleeper")) < 6
    code, said = session(tmp_path, 0.0, interrupt=False)
    assert code == 0 and said.endswith(" 6\n")
    assert (code, said) == session(tmp_path / "whole", 0.0, interrupt=False)
    assert story(tmp_path / "sleeper") == story(tmp_path / "whole" / "sleeper")
    ends = [hp.Results.open(storage / "sleeper") for storage in (tmp_path, tmp_path / "whole")]
    kept = [[(row.trial, row.step, row.sha256) for row in results.journal.checkpoints()] for results in ends]
    assert kept[0] == kept[1] and len(kept[0]) == 1


def test_a_study_that_is_refused_takes_nothing_away_that_was_there_before(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    (folder / "study.db.old").mkdir(parents=True)
    (folder / "trials").mkdir()
    (folder / "study.db.bak").write_text("a copy")
    for _ in range(2):
        with pytest.raises(hp.ConfigurationError):
            hp.Tuner(
                lambda config: 1.0, {"x": hp.uniform(0.0, 1.0)}, metric="y", mode="min", trials=1, executor=hp.Fused(devices="cuda:99"),
                storage=tmp_path, name="x", verbose=0,
            ).fit()  # fmt: skip
        assert sorted(path.name for path in folder.iterdir()) == ["study.db.bak", "study.db.old", "trials"]


def test_an_interrupt_whose_word_nobody_reads_fails_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pressed(Counter):
        def step(self) -> dict[str, Any]:
            if self.steps == 2:
                signal.raise_signal(signal.SIGINT)
            return super().step()

    reader, writer = os.pipe()
    os.close(reader)                # as behind `| tee`, which the same Ctrl-C ended
    with suppress(BrokenPipeError), os.fdopen(writer, "w") as unread:
        monkeypatch.setattr(sys, "stderr", unread)
        with pytest.raises(hp.StudyInterrupted):
            hp.Tuner(**counting(tmp_path, trainable=Pressed, trials=2, scheduler=hp.FullRuns(max_t=5))).fit()
        monkeypatch.undo()
    results = hp.Results.open(tmp_path / "counting")
    assert [result.state for result in results] == ["running"] and results[0].step == 3


@pytest.mark.parametrize("step", [3, 5], ids=["in-the-middle", "in-the-last-turn"])
def test_the_best_of_an_interrupted_turn_is_kept(tmp_path: Path, step: int) -> None:
    class Pressed(Counter):
        def step(self) -> dict[str, Any]:
            if self.steps + 1 == step and self.config["x"] == 0.0:
                signal.raise_signal(signal.SIGINT)
            return super().step()

    points = [{"x": 0.5, "width": 1}, {"x": 0.0, "width": 1}]
    given = counting(tmp_path, trainable=Pressed, trials=2, points=points, scheduler=hp.FullRuns(max_t=5))
    if step == 5:
        results = hp.Tuner(**given).fit()       # nothing was left to be done
    else:
        with pytest.raises(hp.StudyInterrupted):
            hp.Tuner(**given).fit()
        results = hp.Results.open(tmp_path / "counting", trainable=Pressed)
    assert results.best.trial == 1 and results.best.step == results.best.load().steps == step
    assert [row.trial for row in results.journal.checkpoints(purpose="keep")] == [1]
    live = [result.trial for result in results if result.state not in ("completed", "stopped", "failed")]
    assert [row.trial for row in results.journal.checkpoints(purpose="resume")] == live, "what ended is forgotten"


def test_a_study_runs_off_the_main_thread() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(len(train.tune())))
    thread.start()
    thread.join(60)
    assert found == [4]


def test_the_old_signal_handlers_are_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    train.tune()
    assert signal.getsignal(signal.SIGINT) is before


# Observers ----------------------------------------------------------------------------------------------------------------


def test_observers_are_told_each_turn_and_an_exception_costs_nothing() -> None:
    class Watcher:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def begin(self, info: hp.StudyInfo) -> None:
            self.calls.append(f"begin {info.name}")

        def told(self, events: Any, commands: Any) -> None:
            self.calls.append("told")

        def end(self, results: hp.Results) -> None:
            self.calls.append(f"end {len(results)}")

    class Clumsy(Watcher):
        def told(self, events: Any, commands: Any) -> None:
            super().told(events, commands)
            raise ValueError("oops")

    watcher, clumsy = Watcher(), Clumsy()
    results = train.tune(observers=[clumsy, watcher], name="watched")
    assert watcher.calls[0] == "begin watched" and watcher.calls[-1] == "end 4" and watcher.calls.count("told") == 1 + 4 * 6
    assert clumsy.calls == ["begin watched", "told", "told", "told"]
    assert [note.text for note in results.log if note.kind == "observer"][
        -1
    ] == "Clumsy.told raised ValueError('oops'); it is not told any more."


# AskTell ------------------------------------------------------------------------------------------------------------------


def test_ask_and_tell_in_a_loop_of_ones_own() -> None:
    study = hp.AskTell(SPACE, metric="loss", mode="min", trials=20)
    asked = 0
    while (trial := study.ask()) is not None:
        asked += 1
        assert study.tell(trial, trial.config["x"] ** 2) is False
    best, metrics = study.best
    assert asked == 20 and metrics["loss"] == best.config["x"] ** 2
    with pytest.raises(hp.TrialFinishedError):
        study.tell(best, 0.0)


def test_ask_and_tell_with_a_scheduler_says_when_to_go_on() -> None:
    study = hp.AskTell(SPACE, scheduler=hp.ASHA(max_t=9, reduction_factor=3), metric="loss", mode="min", trials=9)
    steps = 0
    while (trial := study.ask()) is not None:
        step = study.steps(trial)
        while True:
            step += 1
            steps += 1
            if not study.tell(trial, {"loss": trial.config["x"] ** 2}, step=step):
                break
    assert 9 < steps < 81
    assert study.best[0].id in range(9)


def test_several_workers_may_hold_trials_and_fail_them() -> None:
    study = hp.AskTell(SPACE, metric="loss", mode="min", trials=3)
    first, second, third = study.ask(), study.ask(), study.ask()
    assert study.ask() is None and first and second and third
    study.fail(second, "out of luck")
    assert study.tell(third, 1.0) is False and study.tell(first, 2.0) is False
    assert study.best[0] is third
    with pytest.raises(hp.ConfigurationError, match="needed"):
        hp_study = hp.AskTell(SPACE, metric="loss", mode="min")
        trial = hp_study.ask()
        assert trial is not None
        hp_study.tell(trial, {"lose": 1.0})


def test_a_grid_over_unequal_cells_tries_each_value_once() -> None:
    space = {"n": hp.lograndint(1, 33), "q": hp.quniform(0.0, 1.0, 0.5)}
    results = hp.tune(
        lambda config: {"loss": config["n"]},
        space,
        metric="loss",
        mode="min",
        searcher=hp.GridSearch(),
        storage=None,
        verbose=0,
        executor=hp.Serial(),
    )
    assert sorted((result.config["n"], result.config["q"]) for result in results) == [(n, q) for n in range(1, 33) for q in (0.0, 0.5, 1.0)]


# What was once wrong ------------------------------------------------------------------------------------------------------


def test_a_failed_change_leaves_a_study_that_can_be_resumed(tmp_path: Path) -> None:
    hp.Tuner(**counting(tmp_path)).fit()
    for name in ("scheduler", "stop", "keep", "look_every", "metric"):
        with pytest.raises(hp.ConfigurationError, match="may be changed on purpose"):
            hp.Tuner.resume(tmp_path / "counting", Counter, allow=name)
    assert len(hp.Tuner.resume(tmp_path / "counting", Counter, trials="+1", verbose=0).fit()) == 6
    with pytest.raises(TypeError, match="storage"):
        hp.Tuner.resume(tmp_path / "counting", Counter, storage="elsewhere")


def test_one_mode_for_several_metrics_is_no_change(tmp_path: Path) -> None:
    given = counting(tmp_path, metric=["loss", "steps"], mode="min", resume="auto")
    assert len(hp.Tuner(**given).fit()) == len(hp.Tuner(**given).fit()) == 5


def test_a_stop_rule_is_asked_where_whole_grants_are_trained() -> None:
    def endless(config: dict[str, Any]) -> Any:
        while True:
            yield {"loss": config["x"]}

    given = {"metric": "loss", "mode": "min", "trials": 2, "storage": None, "verbose": 0, "executor": hp.Serial(2), "look_every": "grant"}
    results = hp.tune(endless, SPACE, stop=hp.MaxSteps(3), **given)
    assert [curve[-1]["step"] for curve in results.curves().values()] == [3, 3]
    with pytest.raises(hp.ConfigurationError, match='look_every="grant"'):
        hp.tune(Counter, SPACE, stop=hp.Plateau(2), **given)


def test_a_resumed_study_whose_slots_were_full_can_be_resumed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchtune_hp.journal import Journal

    class Failing(Counter):
        def step(self) -> dict[str, Any]:
            if self.trial_id in ("000001", "000002", "000003", "000004", "000005", "000006"):
                raise ValueError("on purpose")
            return super().step()

    given = counting(
        tmp_path, trainable=Failing, trials=9, look_every=5, scheduler=hp.FullRuns(max_t=10), executor=hp.Serial(3), resume="auto"
    )
    for turns in range(1, 6):
        name = f"after-{turns}"
        with monkeypatch.context() as patch:
            append, count = Journal.append, [0]

            def dying(self: Journal, *what: Any, append: Any = append, count: list[int] = count, turns: int = turns) -> None:
                append(self, *what)
                count[0] += 1
                if count[0] == turns:
                    raise KeyboardInterrupt

            patch.setattr(Journal, "append", dying)
            with pytest.raises(KeyboardInterrupt):
                hp.Tuner(**given | {"name": name}).fit()
        for more in ("+2", "+1"):
            try:
                hp.Tuner.resume(tmp_path / name, Failing, trials=more, verbose=0).fit()
            except hp.StudyFailedError:
                pass  # the breaker; what matters is that every turn is there to be replayed


def test_a_second_interrupt_saves_no_half_trained_state(tmp_path: Path) -> None:
    class Half(Counter):
        slow = True

        def step(self) -> dict[str, Any]:
            self.steps += 1
            if self.slow and self.iteration == 3:
                raise KeyboardInterrupt
            self.steps += 1
            return {"loss": 1.0 * self.steps, "steps": self.steps}

    given = counting(tmp_path, trainable=Half, trials=1, scheduler=hp.FullRuns(max_t=6), resume="auto", checkpoint_every=0)
    with pytest.raises(KeyboardInterrupt):
        hp.Tuner(**given).fit()
    Half.slow = False
    (curve,) = hp.Tuner(**given).fit().curves().values()
    assert [look["loss"] for look in curve] == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]


def test_an_exit_in_a_trial_fails_it_alone() -> None:
    def leaving(config: dict[str, Any]) -> None:
        if config["width"] == 4:
            sys.exit("no more")
        hp.report(loss=config["x"])

    results = hp.tune(leaving, SPACE, metric="loss", mode="min", trials=12, storage=None, verbose=0, executor=hp.Serial())
    assert results.counts()["failed"] == sum(result.config["width"] == 4 for result in results) > 0


def test_a_functions_best_checkpoint_is_made_again_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchtune_hp.vault import Vault

    def saving(config: dict[str, Any]) -> None:
        for step in range(1, 4):
            hp.report(loss=config["x"] ** 2 + step, checkpoint={"step": step})

    given = {
        "metric": "loss",
        "mode": "min",
        "trials": 3,
        "storage": tmp_path,
        "name": "saving",
        "verbose": 0,
        "executor": hp.Serial(),
        "resume": "auto",
    }
    with monkeypatch.context() as patch:
        patch.setattr(Vault, "put", lambda *args, **more: None)
        hp.tune(saving, SPACE, **given)
    results = hp.tune(saving, SPACE, **given)
    assert results.best.load()["step"] == results.best.step == 1
    assert any("trained to step 1 again" in note.text for note in results.log)


@pytest.mark.parametrize("kind", ["class", "function"])
def test_what_gives_no_checkpoints_is_not_trained_again_at_every_resume(tmp_path: Path, kind: str) -> None:
    trained: list[float] = []

    class Stateless(hp.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.loss = 9.0

        def step(self) -> dict[str, Any]:
            self.loss -= 1.0
            trained.append(self.loss)
            return {"loss": self.loss}

    def plain(config: dict[str, Any]) -> Any:
        for loss in (3.0, 2.0, 1.0):
            trained.append(loss)
            yield {"loss": loss}

    given = counting(tmp_path, trainable=Stateless if kind == "class" else plain, trials=2, resume="auto")
    hp.Tuner(**given).fit()
    assert len(trained) == 2 * 3
    for _ in range(3):
        log = hp.Tuner(**given).fit().log
    assert len(trained) == 2 * 3 + (0 if kind == "class" else 3), "of a function it is found out once, and said"
    again = [note.trial for note in log if note.kind == "keep" and "there are no weights to keep" in note.text]
    assert again == ([] if kind == "class" else [0])
    hp.Tuner(**given | {"trials": 3}).fit()
    assert len(trained) == 3 * 3 + (0 if kind == "class" else 3)


@pytest.mark.parametrize("keep", [0, 1])
def test_the_log_says_what_is_kept_of_what_cannot_be_saved(keep: int) -> None:
    class Unsaving(hp.Trainable):
        max_t = 1

        def step(self) -> dict[str, float]:
            return {"loss": self.config["x"]}

    function = "train is a function: what is kept of a trial is the checkpoint that its best report gives, report(..., checkpoint=...)"
    no_saving = "Unsaving has no save_checkpoint, so no weights are kept; write it and load_checkpoint, or pass keep=0"
    given = {"space": SPACE, "metric": "loss", "mode": "min", "trials": 1, "storage": None, "verbose": 0, "executor": hp.Serial()}
    for trainable, words in ((train.function, [function]), (Unsaving, [no_saving]), (Counter, [])):
        log = hp.Tuner(trainable, keep=keep, scheduler=hp.FullRuns(1), **given).fit().log
        assert [note.text for note in log if note.kind == "keep"] == (words if keep else [])


def test_a_report_without_a_checkpoint_is_trained_again_once_and_displaces_nothing(tmp_path: Path) -> None:
    trained: list[int] = []

    def sometimes(config: dict[str, Any]) -> None:
        begun = hp.get_checkpoint() or {"step": 0}
        assert isinstance(begun, dict)
        for step in range(begun["step"] + 1, 5):
            trained.append(step)
            hp.report(loss=1.0 / step, checkpoint={"step": step} if step % 2 else None)

    given = counting(tmp_path, trainable=sometimes, trials=1, resume="auto", scheduler=hp.FullRuns(max_t=4))
    for _ in range(4):
        results = hp.Tuner(**given).fit()
    assert results.best.step == 4 and [row.step for row in results.journal.checkpoints(purpose="keep")] == [3]
    assert trained == [1, 2, 3, 4, 4]
    assert len([note for note in results.log if "trained to step 4 again, it gave no checkpoint" in note.text]) == 1


def test_what_was_to_be_displaced_when_the_process_died_is_forgotten_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchtune_hp.journal import Journal

    class Killed(BaseException):
        pass

    points = [{"x": x, "width": 1} for x in (0.9, 0.5, 0.3, 0.1)]
    given = counting(tmp_path, trials=4, points=points, scheduler=hp.FullRuns(max_t=1), resume="auto")
    append, turns = Journal.append, [0]

    def dying(self: Journal, *what: Any) -> None:
        append(self, *what)
        turns[0] += 1
        if turns[0] == 3:       # trial 1 displaces trial 0
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", dying)
        with pytest.raises(Killed):
            hp.Tuner(**given).fit()
    assert [row.trial for row in hp.Results.open(tmp_path / "counting").journal.checkpoints(purpose="keep")] == [0]
    results = hp.Tuner(**given).fit()
    assert [row.trial for row in results.journal.checkpoints(purpose="keep")] == [results.best.trial] == [3]
    assert [path.name for path in (tmp_path / "counting" / "checkpoints").iterdir()] == ["000003"]


def test_rows_are_tried_once_though_some_are_tried_first() -> None:
    rows = [{"x": 0.1 * i, "width": i} for i in range(6)]
    space = hp.Space.from_rows(rows)
    results = train.tune(space=space, points=[rows[3], rows[1]], trials=20)
    assert [result.config for result in results][:2] == [rows[3], rows[1]]
    assert sorted(result.config["width"] for result in results) == list(range(6))


def test_a_study_that_is_over_says_why() -> None:
    results = train.tune(trials=9, target=50.0)
    assert [note.text for note in results.log if note.kind == "end"] == ["the target 50 is reached; another target= goes on"]


def test_a_study_that_is_over_says_so_once_however_often_it_is_run(tmp_path: Path) -> None:
    def ends(**changes: Any) -> list[str]:
        results = hp.Tuner(**counting(tmp_path, resume="auto", trials=9, **changes)).fit()
        return [note.text for note in results.log if note.kind == "end"]

    first, second = (f"the target {target} is reached; another target= goes on" for target in (1, 0.5))
    assert [ends(target=1.0), ends(target=1.0), ends(target=1.0)] == [[first]] * 3
    assert [ends(target=0.5), ends(target=0.5)] == [[first, second]] * 2
    with hp.Results.open(tmp_path / "counting").journal as journal:
        before = len(journal)
    assert ends(target=1.0) == [first, second, first], "it is bound by another target again, in a turn of its own"
    with hp.Results.open(tmp_path / "counting").journal as journal:
        assert len(journal) > before


def test_what_was_there_before_the_first_study_is_not_looked_through_for_garbage_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchtune_hp.session._first", iter([True]))        # as in a new process
    seen: list[int] = []

    def frozen(config: dict[str, Any]) -> dict[str, Any]:
        seen.append(gc.get_freeze_count())
        return {"loss": 1.0}

    before = gc.get_freeze_count()
    arguments: dict[str, Any] = {"metric": "loss", "mode": "min", "executor": hp.Serial(), "storage": None, "verbose": 0, "trials": 2}
    hp.tune(frozen, SPACE, **arguments)
    assert before == 0 and min(seen) > 0 and gc.get_freeze_count() == 0
    seen.clear()
    hp.tune(frozen, SPACE, **arguments)
    assert max(seen) == 0, "what a study left may be garbage"
    monkeypatch.setattr("torchtune_hp.session._first", iter([True]))
    gc.freeze()         # the caller's own stays as it is
    try:
        own = gc.get_freeze_count()
        hp.tune(frozen, SPACE, **arguments)
        assert gc.get_freeze_count() > 0 and seen[-1] <= own
    finally:
        gc.unfreeze()


def test_a_stop_function_that_raises_is_named() -> None:
    with pytest.raises(hp.ConfigurationError, match="stop: .* raised ZeroDivisionError.* for trial 0 at step 1"):
        train.tune(stop=lambda trial, metrics: 1 / 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"stop": hp.Plateau}, "write Plateau"), ({"stop": {"training_iteration": float("nan")}}, "stop: "), ({"observers": 5}, "observers: "),
     ({"observers": [5]}, "observers: "), ({"storage": 5}, "storage: "), ({"trials": 10**30}, "below 2")],
)  # fmt: skip
def test_odd_arguments_are_refused_in_words(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(hp.ConfigurationError, match=words):
        train.tune(**changes)


class _Unsaved(hp.Trainable):
    """Of a full disk."""

    def step(self) -> dict[str, float]:
        return {"loss": 1.0 / (1 + self.iteration)}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Never."""


class _Interrupting:
    """Ctrl-C at step 2."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.interrupted = False

    def begin(self, info: Any) -> None:
        """Nothing."""

    def told(self, events: Any, commands: Any) -> None:
        if self.interrupted:
            self.notes += events
        elif any(isinstance(event, Reached) and event.step == 2 for event in events):
            self.interrupted = True
            signal.raise_signal(signal.SIGINT)

    def end(self, results: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize("executor", [hp.Serial(2), hp.Processes(2, ordered=True), hp.Simulated(2)])
def test_what_could_not_be_saved_at_an_interrupt_is_said_and_not_denied(executor: Any, tmp_path: Path) -> None:
    watching = _Interrupting()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(hp.StudyInterrupted) as stopped:
            hp.tune(
                _Unsaved, {"x": hp.uniform(0.0, 1.0)}, metric="loss", mode="min", trials=2, keep=0, scheduler=hp.FullRuns(9),
                executor=executor, storage=tmp_path, name="full", verbose=0, observers=[watching], searcher=hp.RandomSearch(),
            )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted((note.trial, note.kind) for note in watching.notes) == [(0, "checkpoint"), (1, "checkpoint")]
    for note in watching.notes:
        assert note.text.startswith("not saved at step 2: ") and note.text.endswith("[Errno 28] No space left on device") and note.time > 0
    with hp.Results.open(tmp_path / "full") as results:
        assert results.log[-2:] == watching.notes
    lost = "interrupted; the states of 2 trials could not be saved, so they are trained again from earlier ones, or from the start ("
    assert str(stopped.value).startswith(lost) and "OSError: [Errno 28] No space left on device). To go on: " in str(stopped.value)

"""Tuner(warm_start=[...]): what is read of earlier studies, what is refused, and that it is read once."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import torchtune_hp as hp
from tests.faults.studies import story
from tests.faults.test_kill_at_every_turn import run_and_kill
from torchtune_hp.cli import main
from torchtune_hp.errors import ConfigurationError, StudyChangedError
from torchtune_hp.journal import Journal
from torchtune_hp.objective import Objective
from torchtune_hp.space import Space
from torchtune_hp.warm_start import MOST, PER_SOURCE, SOURCES, described, read, rebuilt

SPACE = {"a": hp.uniform(0.0, 1.0), "b": hp.uniform(0.0, 1.0)}
LOSS = Objective("loss", "min")


class Bowl(hp.Trainable):
    """Its loss falls with every step; at a > 0.9 it is NaN from the second on."""

    def setup(self, config: dict[str, Any]) -> None:
        self.steps = 0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        loss = (self.config["a"] - 0.3) ** 2 + (self.config.get("b", 0.5) - 0.6) ** 2 + 1 / self.steps
        return {"loss": float("nan") if self.config["a"] > 0.9 and self.steps > 1 else loss, "size": 1.0}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps = checkpoint["steps"]


def arguments(storage: Path, **changes: Any) -> dict[str, Any]:
    return {
        "trainable": Bowl, "space": SPACE, "metric": "loss", "mode": "min", "trials": 12, "scheduler": hp.ASHA(max_t=4, reduction_factor=2),
        "executor": hp.Serial(), "storage": storage, "verbose": 0, "name": "source",
    } | changes  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> str:
    """An earlier study's folder."""
    hp.Tuner(**arguments(tmp_path / "earlier")).fit()
    return str(tmp_path / "earlier" / "source")


def warm(storage: Path, *sources: str, **changes: Any) -> dict[str, Any]:
    given = {"searcher": hp.GPSearch(startup=4, exact=16), "warm_start": list(sources), "name": "walk", "resume": "auto", "trials": 8}
    return arguments(storage, **given) | changes


def one(path: str, space: Any = SPACE, objective: Objective = LOSS, fidelity: bool = True) -> tuple[Any, str]:
    [found] = read([path], Space.of(space), objective, fidelity=fidelity)
    return found


# What is read


def test_each_trial_counts_as_of_its_last_finite_look_with_the_best_until_there(source: str) -> None:
    found, said = one(source)
    with hp.Results.open(source) as results:
        curves, trials = results.curves(), {trial.trial: trial for trial in results}
    assert len(found.x) == len(trials) == 12 and found.shared == (0, 1)
    space = Space(SPACE)
    for id, (x, budget, values) in enumerate(zip(found.x, found.budget, found.values)):
        finite = [look for look in curves[id] if look["loss"] == look["loss"]]
        assert x == tuple(space.encode([trials[id].config])[0].tolist())
        assert budget == finite[-1]["step"] / 4 and values == (min(look["loss"] for look in finite),)
    assert said == f"{source}: 12 of its 12 trials are learned from, by a, b"


def test_where_trials_have_one_step_only_the_furthest_of_a_source_count(source: str) -> None:
    found, said = one(source, fidelity=False)
    assert set(found.budget) == {1.0} and 1 <= len(found.x) < 12 and "not trained as far" in said


def test_other_names_and_other_bounds_are_left_out_and_the_log_says_so(source: str) -> None:
    found, said = one(source, {"b": hp.uniform(0.25, 1.0), "c": hp.choice(["x", "y"]), "a": hp.uniform(0.0, 1.0)})
    assert found.shared == (0, 2) and {x[1] for x in found.x} == {0.5} and len(found.x) < 12
    assert "by b, a" in said and "it says nothing of c" in said and "values that are not legal here" in said
    found, said = one(source, {"a": hp.uniform(0.0, 1.0)})
    assert found.shared == (0,) and "its b are not used" in said


def test_a_metric_that_is_to_be_maximized_is_turned_round(tmp_path: Path, source: str) -> None:
    hp.Tuner(**arguments(tmp_path, mode="max", name="up")).fit()
    found, _ = one(str(tmp_path / "up"), objective=Objective("loss", "max"))
    assert all(value < 0 for (value,) in found.values)


def test_a_metric_among_those_of_an_earlier_study_is_enough(tmp_path: Path) -> None:
    hp.Tuner(**arguments(tmp_path, metric=["size", "loss"], mode="min", name="two", scheduler=hp.FullRuns(max_t=2))).fit()
    assert len(one(str(tmp_path / "two"))[0].values[0]) == 1
    both = one(str(tmp_path / "two"), objective=Objective(["loss", "size"], "min"))[0]
    assert {value[1] for value in both.values} == {1.0}


def test_of_several_objectives_a_trial_is_worth_a_report_of_its_own(tmp_path: Path) -> None:
    def curve(config: Any, step: int) -> dict[str, float]:
        return {"loss": config["a"] + step, "size": config["b"] - step}

    given = {"trainable": None, "executor": hp.Simulated(2, curve=curve), "scheduler": hp.FullRuns(max_t=3), "metric": ["loss", "size"]}
    hp.Tuner(**arguments(tmp_path, **given, trials=5)).fit()
    found, _ = one(str(tmp_path / "source"), objective=Objective(["loss", "size"], "min"))
    assert sum(found.values, ()) == pytest.approx(sum(((a + 3, b - 3) for a, b in found.x), ()))


def test_no_more_trials_than_stated_are_taken(tmp_path: Path) -> None:
    def curve(config: Any, step: int) -> dict[str, float]:
        return {"loss": (config["a"] - 0.3) ** 2}

    given = {"trainable": None, "executor": hp.Simulated(50, curve=curve), "scheduler": hp.FullRuns(max_t=1), "trials": 300}
    hp.Tuner(**arguments(tmp_path, **given, searcher=hp.RandomSearch())).fit()
    path = str(tmp_path / "source")
    found, said = one(path)
    assert len(found.x) == PER_SOURCE and "left out are 172 beyond the 128 that are taken of one study" in said
    assert min(found.values)[0] == min(trial.metrics["loss"] for trial in hp.Results.open(path))
    several = read([path] * 8, Space(SPACE), LOSS, fidelity=False)
    assert sum(len(part.x) for part, _ in several) <= MOST


def test_what_is_read_survives_json_bit_for_bit(source: str) -> None:
    found, _ = one(source)
    assert rebuilt(described([found])) == (found,)


CALLED: list[Any] = []


def noted(value: Any) -> Any:
    CALLED.append(value)
    return value


def there(config: dict[str, Any]) -> bool:
    return bool(noted(True))


@pytest.mark.parametrize("where", ["mapped", "sample_from", "constraints", "imported"])
def test_reading_an_earlier_study_neither_calls_nor_imports_what_its_journal_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, where: str
) -> None:
    """Its space may be anybody's; what a hyperparameter was is in the configs."""
    (tmp_path / "a_module_of_theirs.py").write_text(f"import {__name__}\n{__name__}.noted('imported')\nclass Thing: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = {"callable": f"{__name__}:noted"}
    b = {
        "mapped": {"mapped": [{"uniform": [0.0, 1.0]}, path, path]}, "sample_from": {"sample_from": [path]},
        "constraints": {"uniform": [0.0, 1.0]}, "imported": {"choice": [1, {"callable": "a_module_of_theirs:Thing"}]},
    }[where]  # fmt: skip
    constraints = [{"callable": f"{__name__}:there"}] if where == "constraints" else []
    foreign = {"space": {"group": [["a", {"uniform": [0.0, 1.0]}], ["b", b]]}, "constraints": constraints}
    with Journal.open(source) as journal, Journal.create(tmp_path / "foreign", journal.header | {"space": foreign}) as theirs:
        for events, limits, commands in journal.turns():
            theirs.append(events, limits, commands)
    CALLED.clear()
    path_of_theirs, (ours, said) = str(tmp_path / "foreign"), one(source)
    assert one(path_of_theirs) == (replace(ours, name=path_of_theirs), said.replace(source, path_of_theirs))
    with hp.Results.open(tmp_path / "foreign") as results:
        assert results.launched(0).config.keys() == {"a", "b"}
    assert CALLED == []


def test_objects_that_an_earlier_study_chose_among_are_those_of_this_one(tmp_path: Path) -> None:
    space = {"a": hp.uniform(0.0, 1.0), "act": hp.choice([math.sin, math.cos])}
    hp.Tuner(**arguments(tmp_path, space=space)).fit()
    assert one(str(tmp_path / "source"), space)[0].shared == (0, 1)


def test_a_trial_without_a_value_that_it_would_have_here_is_left_out(tmp_path: Path) -> None:
    """A momentum of 0.5 would be made up for those of adam, and here the best."""

    def curve(config: Any, step: int) -> dict[str, float]:
        return {"loss": 0.1 if config["opt"]["name"] == "adam" else 1 + config["opt"]["momentum"]}

    branches = {"opt": hp.choice({"sgd": {"momentum": hp.uniform(0.0, 1.0)}, "adam": {}}), "b": hp.uniform(0.0, 1.0)}
    simulated = {"trainable": None, "executor": hp.Simulated(4, curve=curve), "scheduler": hp.FullRuns(max_t=1)}
    hp.Tuner(**arguments(tmp_path, space=branches, **simulated)).fit()
    path = str(tmp_path / "source")
    plain, said = one(path, {"opt": {"momentum": hp.uniform(0.0, 1.0)}})
    assert min(plain.values)[0] >= 1 and {x for (x,) in plain.x} != {0.5} and f"left out are {12 - len(plain.x)} with values" in said
    elsewhere, _ = one(path, {"opt": hp.choice({"adam": {"momentum": hp.uniform(0.0, 1.0)}, "sgd": {}}), "b": hp.uniform(0.0, 1.0)})
    assert min(elsewhere.values)[0] == 0.1 and len(elsewhere.x) == 12, "neither has a momentum there that is one here"
    same, _ = one(path, branches)
    assert len(same.x) == 12


def test_what_most_trials_have_no_value_of_is_not_shared_rather_than_all_of_them_left_out(tmp_path: Path) -> None:
    def curve(config: Any, step: int) -> dict[str, float]:
        return {"loss": abs(config["lr"] - 0.5)}

    half = {"momentum": hp.uniform(0.0, 1.0)}
    branches = {"lr": hp.uniform(0.0, 1.0), "opt": hp.choice({"sgd": half, "adam": {"beta": hp.uniform(0.0, 1.0)}})}
    simulated = {"trainable": None, "executor": hp.Simulated(4, curve=curve), "scheduler": hp.FullRuns(max_t=1)}
    hp.Tuner(**arguments(tmp_path, space=branches, searcher=hp.RandomSearch(), **simulated)).fit()
    both = {"lr": hp.uniform(0.0, 1.0), "opt": {**half, "beta": hp.uniform(0.0, 1.0)}}
    found, said = one(str(tmp_path / "source"), both)
    assert found.shared[0] == 0 and len(found.x) > 6 and "lr" in said


# What is refused


@pytest.mark.parametrize(
    "space, objective, words",
    [
        ({"z": hp.uniform(0.0, 1.0)}, LOSS, ["has a, b", "has z", "same name"]),
        ({"a": hp.uniform(5.0, 6.0), "b": hp.uniform(0.0, 1.0)}, LOSS, ["values of a", "Widen"]),
        (SPACE, Objective("loss", "max"), ["was after loss (min)", "after loss (max)"]),
        (SPACE, Objective(["loss", "size"], "min"), ["loss (min) and size (min)"]),
    ],
)   # fmt: skip
def test_a_study_that_says_nothing_of_this_one_is_an_error(source: str, space: Any, objective: Objective, words: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="warm_start: ") as error:
        one(source, space, objective)
    assert all(word in str(error.value) for word in [*words, source])


def test_a_study_that_never_reported_the_metric_of_a_constraint_is_an_error(source: str) -> None:
    """All of its trials would be violators, alike but for noise."""
    with pytest.raises(ConfigurationError, match="finite report of loss and params is needed, but none of the 12 trials"):
        one(source, objective=Objective("loss", "min", ["params <= 100"]))
    assert len(one(source, objective=Objective("loss", "min", ["size <= 2"]))[0].x) == 12


def test_an_empty_study_and_none_at_all_are_errors(tmp_path: Path, source: str) -> None:
    with Journal.open(source) as journal:
        Journal.create(tmp_path / "empty", journal.header).close()
    with pytest.raises(ConfigurationError, match="none of the 0 trials"):
        one(str(tmp_path / "empty"))
    with pytest.raises(ConfigurationError, match="warm_start"):
        hp.Tuner(**warm(tmp_path, str(tmp_path / "nowhere")))


@pytest.mark.parametrize("paths", ["runs/a", [3], {"runs/a": 1}])
def test_a_list_of_folders_is_needed(paths: Any) -> None:
    with pytest.raises(ConfigurationError, match="a list of study folders"):
        read(paths, Space(SPACE), LOSS, fidelity=True)


def test_there_is_a_largest_number_of_studies() -> None:
    with pytest.raises(ConfigurationError, match=f"at most {SOURCES} studies"):
        read(["runs/a"] * (SOURCES + 1), Space(SPACE), LOSS, fidelity=True)


@pytest.mark.parametrize("searcher", [hp.RandomSearch(), hp.SobolSearch(), hp.GridSearch()])
def test_a_searcher_that_does_not_learn_is_an_error_that_names_one_that_does(tmp_path: Path, source: str, searcher: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{type(searcher).__name__} learns nothing from earlier studies.*GPSearch"):
        hp.Tuner(**warm(tmp_path, source, searcher=searcher))


# Whole studies


def test_with_a_grid_axis_and_no_searcher_given_the_way_out_is_not_to_give_none(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigurationError, match="GridSearch, the default for a grid_search axis, learns nothing") as error:
        hp.Tuner(**warm(tmp_path, source, searcher=None, space=SPACE | {"b": hp.grid_search([0.2, 0.5])}))
    assert "Leave searcher=" not in str(error.value) and "Pass searcher=hp.GPSearch()" in str(error.value)


def test_none_is_no_study(tmp_path: Path) -> None:
    assert hp.Tuner(**warm(tmp_path, warm_start=None))._plan.sources == ()


def test_sources_are_read_when_the_study_that_had_them_is_gone_before_it_goes_on(tmp_path: Path, source: str) -> None:
    hp.Tuner(**warm(tmp_path, source, trials=1)).fit()
    tuner = hp.Tuner(**warm(tmp_path, source, trials=2))
    shutil.rmtree(tmp_path / "walk")
    results = tuner.fit()
    assert len(results) == 2 and [note.kind for note in results.log].count("warm_start") == 1
    with Journal.open(tmp_path / "walk") as journal:
        assert [one["name"] for one in journal.header["warm_start"]] == [source]


def test_a_study_begins_where_its_source_was_best_and_says_what_it_learned_from(tmp_path: Path, source: str) -> None:
    results = hp.tune(**warm(tmp_path, source, trials=2, resume="never"))
    best = min(hp.Results.open(source), key=lambda trial: trial.metrics["loss"])
    assert results[0].config == best.config
    assert [note.text for note in results.log if note.kind == "warm_start"] == [f"{source}: 12 of its 12 trials are learned from, by a, b"]


def test_a_killed_study_resumes_to_the_same_story_though_its_source_is_gone(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hp.Tuner(**warm(tmp_path / "whole", source)).fit()
    whole = story(tmp_path / "whole" / "walk")
    run_and_kill(len(whole) // 2, False, warm(tmp_path / "cut", source), monkeypatch)
    shutil.rmtree(source)
    results = hp.Tuner(**warm(tmp_path / "cut", source)).fit()
    assert story(tmp_path / "cut" / "walk") == whole
    again = hp.Tuner.resume(tmp_path / "cut" / "walk", Bowl, trials="+1", verbose=0, executor=hp.Serial()).fit()
    assert len(again) == 9 and [sum(note.kind == "warm_start" for note in part.log) for part in (results, again)] == [1, 1]


def test_other_sources_or_another_space_are_another_study(tmp_path: Path, source: str) -> None:
    hp.Tuner(**warm(tmp_path, source, trials=1)).fit()
    with pytest.raises(StudyChangedError, match="warm_start: "):
        hp.Tuner(**warm(tmp_path, "elsewhere", trials=1)).fit()
    with pytest.raises(ConfigurationError, match="a list of study folders"):
        hp.Tuner.resume(tmp_path / "walk", Bowl, warm_start=Path(source))
    with pytest.raises(ConfigurationError, match="recorded in its coordinates"):
        hp.Tuner.resume(tmp_path / "walk", Bowl, space=SPACE | {"c": hp.uniform(0.0, 1.0)}, allow=("space",))


def test_a_study_from_before_there_were_sources_goes_on(tmp_path: Path) -> None:
    import sqlite3

    hp.Tuner(**arguments(tmp_path, trials=1)).fit()
    with sqlite3.connect(tmp_path / "source" / "study.db") as db:
        db.execute("DELETE FROM header WHERE key = 'warm_start'")
    assert len(hp.Tuner.resume(tmp_path / "source", Bowl, trials="+1", verbose=0, executor=hp.Serial()).fit()) == 2


def test_the_command_line_takes_sources(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "warm_script.py"
    script.write_text(
        "import torchtune_hp as hp\n"
        "@hp.trainable(space={'a': hp.uniform(0.0, 1.0), 'b': hp.uniform(0.0, 1.0)}, metric='loss', mode='min')\n"
        "def train(config):\n    hp.report(loss=config['a'])\n"
    )
    typed = ["run", f"{script}:train", "--trials", "1", "--executor", "serial", "--quiet", "--storage", str(tmp_path), "--name", "typed"]
    assert main([*typed, "--warm-start", source]) == 0
    with Journal.open(tmp_path / "typed") as journal:
        assert [one["name"] for one in journal.header["warm_start"]] == [source]

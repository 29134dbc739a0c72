"""What a train function gives as a checkpoint, and is restarted from."""


import threading

import pytest
import torch

import torchtune_hp.training.function as hp
from torchtune_hp.errors import ConfigurationError, ReportError
from torchtune_hp.training.recipe import recipe_of
from torchtune_hp.training.runner import Look, Place
from torchtune_hp.trial import Trial


@hp.trainable(space={"lr": 0.1}, metric="loss", mode="min", trials=3)
def decorated(config):
    """What it does."""
    hp.report(loss=config["lr"])
    return config["lr"]


@hp.trainable
def bare(config):
    yield {"loss": 1.0}


def test_a_checkpoint_counts_only_with_the_last_report(start):
    def train(config):
        hp.report(loss=1.0)
        hp.report(loss=1.0, checkpoint={"step": 2})
        hp.report(loss=1.0)

    runner = start(train)
    saved = []
    for _ in range(3):
        runner.advance()
        saved.append(runner.save())
    assert saved == [None, {"step": 2}, None]


def test_a_checkpoint_is_as_it_was_given_also_where_the_function_goes_on_and_returns(start):
    def train(config):
        weights, counts = torch.zeros(2), [0]
        for step in range(1, 3):
            weights += 1
            counts[0] = step
            hp.report(loss=1.0, checkpoint={"weights": weights, "counts": counts})
        weights += 100
        counts.append(100)

    runner = start(train)
    looks = [runner.advance() for _ in range(3)]
    assert looks[-1].done and looks[-1].step == 2
    assert torch.equal(runner.save()["weights"], torch.full((2,), 2.0)) and runner.save()["counts"] == [2]


def test_a_checkpoint_that_cannot_be_copied_costs_the_function_nothing_until_it_is_saved(start):
    def train(config):
        hp.report(loss=1.0, checkpoint={"lock": threading.Lock()})
        hp.report(loss=1.0, checkpoint={"step": 2})
        hp.report(loss=1.0, checkpoint={"lock": threading.Lock()})

    runner = start(train)
    runner.advance()
    runner.advance()
    assert runner.save() == {"step": 2}
    runner.advance()
    assert runner.advance().done
    with pytest.raises(TypeError, match="lock"):
        runner.save()


def test_a_folder_is_copied_away_at_once(start, tmp_path):
    source = tmp_path / "mine"

    def train(config):
        for step in range(1, 4):
            source.mkdir()
            (source / "weights").write_text(str(step))
            hp.report(loss=1.0, checkpoint=str(source) if step == 1 else source)
            (source / "weights").unlink()
            source.rmdir()

    runner = start(train)
    kept = []
    for step in (1, 2):
        runner.advance()
        kept.append(runner.save())
        (source / "weights").write_text("overwritten")
        assert (kept[-1] / "weights").read_text() == str(step)
        assert kept[-1].parent == tmp_path / "000007" and kept[-1].name.startswith(f"reported-{step:06d}-")
    assert (kept[0] / "weights").read_text() == "1", "what was handed out is the caller's"
    runner.advance()
    assert len(list((tmp_path / "000007").iterdir())) == 3
    runner.close()
    assert sorted((tmp_path / "000007").iterdir()) == sorted(kept), "what nobody asked for is removed"


def test_a_folder_that_nobody_asked_for_is_removed_by_the_next_report(start, tmp_path):
    (tmp_path / "mine").mkdir()

    def train(config):
        while True:
            hp.report(loss=1.0, checkpoint=tmp_path / "mine")

    runner = start(train)
    for _ in range(3):
        runner.advance()
    assert len(list((tmp_path / "000007").iterdir())) == 1
    taken = runner.save()
    taken.rmdir()
    assert runner.save() is None


def test_in_memory_a_folder_is_kept_among_the_temporary_ones(start, tmp_path):
    (tmp_path / "mine").mkdir()
    runner = start(lambda config: hp.report(loss=1.0, checkpoint=tmp_path / "mine"), folder=None)
    runner.advance()
    kept = next(iter([runner._kept]))
    assert kept.is_dir() and tmp_path not in kept.parents
    runner.close()
    assert not kept.exists()


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        (3, "must be a dict or the path of a folder, but report\\(\\) gave a value of type int"),
        ("/no/such", "must be a dict or the path of a folder that exists, but report\\(\\) gave '/no/such'"),
        (__file__, "Give the folder that a file lies in, not the file"),
    ],
)
def test_what_is_no_checkpoint_is_refused(start, checkpoint, says):
    with pytest.raises(ReportError, match=says):
        start(lambda config: hp.report(loss=1.0, checkpoint=checkpoint)).advance()


def test_a_yield_may_hold_a_checkpoint(start, tmp_path):
    def train(config):
        yield {"loss": 1.0}, {"step": 1}
        yield {"loss": 1.0}, None
        yield {"loss": 1.0}, 3

    runner = start(train)
    runner.advance()
    assert runner.save() == {"step": 1}
    runner.advance()
    assert runner.save() is None
    with pytest.raises(ReportError, match="train\\(\\)'s yield gave a value of type int"):
        runner.advance()


@pytest.mark.parametrize("kind", ["function", "generator"])
def test_a_restarted_function_is_given_its_checkpoint_and_counts_on(start, kind, tmp_path):
    def function(config):
        hp.report(loss=1.0, got=str(hp.get_checkpoint()))

    def generator(config):
        yield {"loss": 1.0, "got": str(hp.get_checkpoint())}

    train = function if kind == "function" else generator
    assert start(train, state={"a": 1}, step=4).advance() == Look(5, {"loss": 1.0, "got": "{'a': 1}"})
    assert start(train, state=tmp_path, step=4).advance() == Look(5, {"loss": 1.0, "got": str(tmp_path)})
    assert start(train).advance() == Look(1, {"loss": 1.0, "got": "None"})


def test_a_restarted_function_that_does_not_ask_for_its_checkpoint_is_noted_once(start):
    def train(config):
        while True:
            yield {"loss": 1.0}

    runner = start(train, state={"a": 1}, step=4)
    assert runner.advance().notes == (
        "Trial 7: train() was started with a checkpoint of step 4, but did not call get_checkpoint() before its first report: "
        "it began anew.",
    )
    assert runner.advance().notes == ()


def test_a_function_restarted_at_its_end_is_done_without_metrics(start):
    assert start(lambda config: {"loss": 1.0}, state={"a": 1}, step=4).advance() == Look(4, {}, done=True)


def test_a_checkpoint_may_be_changed_by_the_one_it_is_given_to(start):
    state = {"weight": torch.ones(2)}

    def train(config):
        hp.get_checkpoint()["weight"].add_(1)
        yield {"loss": hp.get_checkpoint()["weight"].sum()}

    assert start(train, state=state, step=1).advance().metrics == {"loss": 2.0}


def test_a_function_s_recipe_says_it_ends_and_is_not_saved(start):
    recipe = recipe_of(decorated)
    assert (recipe.name, recipe.saves, recipe.max_t, recipe.ends) == ("decorated", False, None, True)
    place, trial = Place(), Trial(7, (), {}, 11)
    state = {"weight": torch.ones(2)}
    restored = recipe.restore(trial, place, state, 3)
    assert restored["weight"].tolist() == [1, 1] and restored["weight"] is not state["weight"]
    with pytest.raises(ConfigurationError, match=r"best.test\(\) needs a test set, but decorated is a train function"):
        recipe.test(trial, place, state, 3)


def test_a_generator_behind_a_wrapper_may_mend_a_refused_yield_and_cleans_up(start):
    said = []

    def steps(config):
        try:
            try:
                yield {"los": 1.0}
            except ReportError:
                yield {"loss": 2.0}, {"a": 1}
            yield {"loss": 3.0}
        finally:
            said.append("cleaned")

    def train(config):
        return steps(config)

    runner = start(train)
    assert runner.advance() == Look(1, {"loss": 2.0}) and runner.save() == {"a": 1}
    runner.close()
    assert said == ["cleaned"]
    runner = start(train)
    assert [look.done for look in (runner.advance(), runner.advance(), runner.advance())] == [False, False, True]

"""Trainable and its Runner: Ray's methods, attributes, ends, checkpoints."""

import math
import os
import random
from pathlib import Path

import pytest
import torch

from torchtune_hp.errors import CheckpointError, ConfigurationError, ReportError, TrialFinishedError
from torchtune_hp.seeds import derive
from torchtune_hp.training.context import _open, context
from torchtune_hp.training.function import report
from torchtune_hp.training.recipe import recipe_of
from torchtune_hp.training.runner import Look, Place
from torchtune_hp.training.seeding import seeded
from torchtune_hp.training.trainable import Trainable
from torchtune_hp.trial import Trial


class Counting(Trainable):
    """Reports what it can read of itself."""

    def setup(self, config):
        self.in_setup = (self.iteration, self.trial_id, self.max_t, context().trial_id)
        self.said = config.get("said", [])

    def step(self):
        return {"loss": 1.0, "iteration": self.iteration, "training_iteration": self.training_iteration}

    def save_checkpoint(self, checkpoint_dir):
        return {"said": self.said}

    def load_checkpoint(self, checkpoint):
        self.loaded = checkpoint, self.iteration

    def cleanup(self):
        self.said.append("cleaned")


def saying(result):
    """A Trainable whose step gives `result`."""
    return type("Saying", (Trainable,), {"step": lambda self: result})


def test_it_can_be_tried_alone():
    alone = Counting({"a": 1})
    assert alone.config == {"a": 1} and alone.in_setup == (0, "alone", None, None)
    assert alone.step()["loss"] == 1.0
    assert (alone.trial_id, alone.trial_name, alone.iteration) == ("alone", "Counting_alone", 0)
    assert Path(alone.logdir).is_dir() and alone.logdir == alone.logdir and isinstance(alone.logdir, str)
    os.rmdir(alone.logdir)
    assert Counting().config == {}


def test_what_is_not_written_says_so():
    class Nothing(Trainable):
        pass

    nothing = Nothing({})
    with pytest.raises(NotImplementedError, match=r"Nothing must have step\(self\) -> dict"):
        nothing.step()
    with pytest.raises(NotImplementedError, match=r"Nothing has no save_checkpoint\(\)"):
        nothing.save_checkpoint("")
    with pytest.raises(NotImplementedError, match=r"no load_checkpoint\(\)"):
        nothing.load_checkpoint({})
    assert nothing.reset_config({}) is False
    assert nothing.cleanup() is None


def test_its_attributes_are_the_trial_s(start, tmp_path):
    runner = start(Counting, {"a": 1}, max_t=27)
    trainable = runner.trainable
    assert trainable.in_setup == (0, "000007", 27, 7)
    assert (trainable.trial_id, trainable.trial_name, trainable.config) == ("000007", "Counting_000007", {"a": 1})
    assert trainable.logdir == str(tmp_path / "000007") and (tmp_path / "000007").is_dir()
    assert runner.advance() == Look(1, {"loss": 1.0, "iteration": 0.0, "training_iteration": 0.0})
    assert runner.advance().metrics["iteration"] == 1.0
    assert trainable.iteration == trainable.training_iteration == runner.step == 2
    runner.close()
    assert (tmp_path / "000007").is_dir()


def test_in_memory_the_logdir_is_removed_at_the_end(start):
    runner = start(Counting, folder=None)
    folder = Path(runner.trainable.logdir)
    (folder / "log").write_text("1")
    runner.close()
    assert not folder.exists()


def test_outside_a_study_the_logdir_is_removed_with_the_object(start):
    runner = start(Counting)
    runner.advance()
    alone, loaded = Counting(), recipe_of(Counting).restore(Trial(7, (), {}, 11), Place(), runner.save(), 1)
    folders = [Path(each.logdir) for each in (alone, loaded)]
    (folders[0] / "log").write_text("1")
    del alone, loaded
    assert not any(folder.exists() for folder in folders)


def test_the_config_is_its_own(start):
    class Popping(Trainable):
        def setup(self, config):
            config["layers"].append(config.pop("lr"))

        def step(self):
            return {"loss": 1.0}

    config = {"lr": 0.1, "layers": []}
    assert start(Popping, config).trainable.config == {"layers": [0.1]}
    assert config == {"lr": 0.1, "layers": []}


def test_done_ends_the_trial_and_is_not_reported(start):
    runner = start(saying({"loss": 1.0, "done": False}))
    assert runner.advance() == Look(1, {"loss": 1.0})
    runner = start(saying({"loss": 1.0, "done": torch.tensor(True)}))
    assert runner.advance() == Look(1, {"loss": 1.0}, done=True)
    with pytest.raises(TrialFinishedError, match="Trial 7 has ended"):
        runner.advance()


@pytest.mark.parametrize(("own", "study", "seen"), [(2, None, 2), (2, 9, 2), (2, 1, 1)])
def test_a_class_may_state_its_own_end(start, own, study, seen):
    class Bounded(Counting):
        max_t = own

    recipe = recipe_of(Bounded)
    assert (recipe.max_t, recipe.ends) == (2, True)
    runner = start(Bounded, max_t=study)
    assert runner.trainable.max_t == seen
    assert [runner.advance().done, runner.advance().done] == [False, True]


@pytest.mark.parametrize("value", [0, 2.0, True, "27"])
def test_an_end_that_is_no_count_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"Saying.max_t: `max_t >= 1` must hold"):
        recipe_of(type("Saying", (Counting,), {"max_t": value}))


@pytest.mark.parametrize(("result", "kind"), [(None, "None"), (0.5, "a value of type float"), ([1], "a value of type list")])
def test_a_step_that_gives_no_dict_is_named(start, result, kind):
    runner = start(saying(result))
    with pytest.raises(ReportError) as caught:
        runner.advance()
    assert str(caught.value) == f"Trial 7: Saying.step() must give a dict of metrics such as {{'loss': ...}}, but gave {kind}."
    assert runner.step == 0


def test_a_missing_metric_is_named_and_nan_passes(start):
    with pytest.raises(ReportError, match=r"Saying.step\(\) gave only \['Loss'\]. Did you mean 'Loss'\?"):
        start(saying({"Loss": 1.0})).advance()
    assert math.isnan(start(saying({"loss": math.nan})).advance().metrics["loss"])


def test_a_dropped_key_is_noted_once(start):
    runner = start(saying({"loss": 1.0, "curve": []}))
    assert "'curve'" in runner.advance().notes[0]
    assert runner.advance().notes == ()


def test_an_exception_leaves_the_step_and_the_others_alone(start):
    class Raising(Counting):
        def step(self):
            if self.config["at"] == self.iteration:
                raise KeyError("on purpose")
            return super().step()

    bad, good = start(Raising, {"at": 1}), start(Raising, {"at": 9}, id=8)
    bad.advance(), good.advance()
    with pytest.raises(KeyError, match="on purpose"):
        bad.advance()
    assert bad.step == 1 and good.advance().step == 2
    bad.close()
    assert bad.trainable.said == ["cleaned"]


def test_an_exception_in_setup_leaves_nothing_open(start):
    class Unbuilt(Counting):
        def setup(self, config):
            raise KeyError("in setup")

    with pytest.raises(KeyError, match="in setup"):
        start(Unbuilt)
    assert not _open


def test_report_in_a_step_is_an_error(start):
    class Reporting(Trainable):
        def step(self):
            report(loss=1.0)

    with pytest.raises(ConfigurationError, match="returning its metrics"):
        start(Reporting).advance()


def test_setup_is_under_its_own_seed_and_steps_under_theirs(start):
    class Drawing(Trainable):
        def setup(self, config):
            self.built = random.random()

        def step(self):
            return {"loss": random.random()}

    runner = start(Drawing, seed=5)
    with seeded(derive(5, "setup")):
        assert runner.trainable.built == random.random()
    for step in (1, 2):
        look = runner.advance()
        with seeded(derive(5, "step", step)):
            assert look.metrics == {"loss": random.random()}


def test_cleanup_is_called_once_and_what_it_raises_comes_out(start):
    runner = start(Counting)
    runner.close()
    runner.close()
    assert runner.trainable.said == ["cleaned"]
    with pytest.raises(TrialFinishedError):
        runner.advance()

    class Unclean(Counting):
        def cleanup(self):
            raise KeyError("in cleanup")

    runner = start(Unclean)
    with pytest.raises(KeyError, match="in cleanup"):
        runner.close()
    runner.close()
    assert not _open


# Checkpoints


def test_a_dict_is_copied_and_no_folder_stays(start, tmp_path):
    runner = start(Counting, {"said": [torch.ones(1)]})
    state = runner.save()
    runner.trainable.said[0] += 1
    assert state == {"said": [torch.ones(1)]}
    assert not list((tmp_path / "000007").iterdir())


def test_loading_knows_where_it_stands_and_may_change_what_it_is_given(start):
    state = {"said": [1]}
    runner = start(Counting, state=state, step=4)
    assert runner.trainable.loaded == (state, 4) and runner.step == 4
    runner.trainable.loaded[0]["said"].append(2)
    assert state == {"said": [1]}
    assert runner.advance().step == 5


class Filing(Counting):
    """`config["gives"]` says what save_checkpoint returns after writing a file."""

    def save_checkpoint(self, checkpoint_dir):
        assert isinstance(checkpoint_dir, str)
        (Path(checkpoint_dir) / "weights").write_text("1")
        gives = self.config["gives"]
        if gives in ("folder", "path"):
            return checkpoint_dir if gives == "folder" else Path(checkpoint_dir)
        return None if gives == "none" else gives


@pytest.mark.parametrize("gives", ["none", "folder", "path"])
def test_written_files_are_the_state(start, tmp_path, gives):
    runner = start(Filing, {"gives": gives})
    runner.advance()
    one, two = runner.save(), runner.save()
    assert one != two and one.parent == tmp_path / "000007" and one.name.startswith("saved-000001-")
    assert (one / "weights").read_text() == (two / "weights").read_text() == "1"
    assert start(Filing, {"gives": gives}, state=one, step=1).trainable.loaded == (str(one), 1)
    runner.close()
    assert one.is_dir(), "a saved folder belongs to the caller"


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        ({"a": 1}, "must either return a dict or write files, but did both"),
        (3, "must return a dict, or None or checkpoint_dir .* but returned 3"),
        ("/elsewhere", "must return .* but returned '/elsewhere'"),
    ],
)
def test_another_answer_is_refused_and_leaves_no_folder(start, tmp_path, gives, says):
    with pytest.raises(CheckpointError, match=f"Trial 7: Filing.save_checkpoint.. {says}"):
        start(Filing, {"gives": gives}).save()
    assert not list((tmp_path / "000007").iterdir())


def test_saving_nothing_at_all_is_said_with_none(start, tmp_path):
    class Stub(Counting):
        def save_checkpoint(self, checkpoint_dir):
            pass

    assert start(Stub).save() is None
    assert not list((tmp_path / "000007").iterdir())


def test_a_class_without_save_checkpoint_cannot_be_saved(start, tmp_path):
    recipe = recipe_of(saying({"loss": 1.0}))
    assert (recipe.name, recipe.saves, recipe.max_t, recipe.ends) == ("Saying", False, None, False)
    assert start(saying({"loss": 1.0})).save() is None
    assert not (tmp_path / "000007").exists()
    assert recipe_of(Counting).saves is True


def test_a_class_that_saves_must_load():
    with pytest.raises(ConfigurationError, match=r"Half has save_checkpoint\(\) but no load_checkpoint\(\)"):
        recipe_of(type("Half", (Trainable,), {"step": Counting.step, "save_checkpoint": Counting.save_checkpoint}))


def test_restore_gives_the_object_with_its_state_and_nothing_open():
    recipe = recipe_of(Counting)
    trial, place = Trial(7, (), {"a": 1}, 5), Place()
    restored = recipe.restore(trial, place, {"said": [3]}, 4)
    assert restored.loaded == ({"said": [3]}, 4) and restored.in_setup[3] == 7 and restored.iteration == 4
    assert not _open
    with pytest.raises(ConfigurationError, match=r"best.test\(\) needs a test set, but Counting is an hp.Trainable"):
        recipe.test(trial, place, {}, 4)

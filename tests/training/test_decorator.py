"""The decorator: a train function stays one, and says what it is tuned with."""

import pickle
from pathlib import Path

import cloudpickle
import pytest

import torchtune_hp.training.function as hp
from torchtune_hp.errors import ConfigurationError


@hp.trainable(space={"lr": 0.1}, metric="loss", mode="min", trials=3)
def decorated(config):
    """What it does."""
    hp.report(loss=config["lr"])
    return config["lr"]


@hp.trainable
def bare(config):
    yield {"loss": 1.0}


# The decorator --------------------------------------------------------------------------------------------------------------


def test_a_decorated_function_stays_an_ordinary_function():
    assert decorated({"lr": 0.5}) == 0.5
    assert decorated(config={"lr": 0.5}) == 0.5
    assert (decorated.__name__, decorated.__doc__, decorated.__module__) == ("decorated", "What it does.", __name__)
    assert repr(decorated) == "<train function decorated>"


def test_a_generator_called_alone_stays_a_generator():
    assert list(bare({})) == [{"loss": 1.0}]


def test_the_decorator_s_words_are_kept_for_the_tuner():
    assert (decorated.space, decorated.metric, decorated.mode) == ({"lr": 0.1}, "loss", "min")
    assert decorated.defaults == {"space": {"lr": 0.1}, "metric": "loss", "mode": "min", "trials": 3}
    assert bare.defaults == {} and bare.space is bare.metric is bare.mode is None


def test_decorating_twice_adds_to_the_words():
    again = hp.trainable(metric="accuracy", seed=1)(decorated)
    assert again.defaults == {"space": {"lr": 0.1}, "metric": "accuracy", "mode": "min", "trials": 3, "seed": 1}
    assert again.function is decorated.function and decorated.metric == "loss"


def test_tune_runs_a_study_in_which_what_is_given_last_wins(monkeypatch):
    import sys
    import types

    class Tuner:
        def __init__(self, trainable, **keywords):
            self.said = trainable, keywords

        def fit(self):
            return self.said

    monkeypatch.setitem(sys.modules, "torchtune_hp.tuner", types.SimpleNamespace(Tuner=Tuner))
    trainable, keywords = decorated.tune(trials=50, seed=2)
    assert trainable is decorated
    assert keywords == {"space": {"lr": 0.1}, "metric": "loss", "mode": "min", "trials": 50, "seed": 2}


def test_a_module_s_function_travels_by_name_and_a_closure_by_value():
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    assert cloudpickle.loads(cloudpickle.dumps(decorated)) is decorated

    @hp.trainable(metric="loss")
    def local(config):
        return len(config)

    there = cloudpickle.loads(cloudpickle.dumps(local))
    assert there({"a": 1}) == 1 and there.defaults == {"metric": "loss"}
    main = hp.TrainFunction(decorated.function, {})
    main.__module__ = "__main__"
    assert isinstance(main.__reduce__(), tuple)


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        (lambda: None, r"takes the config as its first argument, def <lambda>\(config\): ..., but the signature is <lambda>\(\)"),
        ({"lr": 0.1}, r"but got \{'lr': 0.1\}. Give the rest by name"),
        (Path, "but got the class Path. Give a class to hp.Tuner itself"),
    ],
)
def test_what_is_no_train_function_is_refused(thing, says):
    with pytest.raises(ConfigurationError, match=says):
        hp.trainable(thing)


def test_an_async_function_is_refused():
    async def train(config):
        pass

    async def steps(config):
        yield {}

    for function in (train, steps):
        with pytest.raises(ConfigurationError, match="is async. Wrap it"):
            hp.trainable(function)


def test_keyword_only_arguments_are_no_config():
    def train(*, config):
        pass

    with pytest.raises(ConfigurationError, match="first argument"):
        hp.trainable(train)


# Outside a study ------------------------------------------------------------------------------------------------------------


def test_outside_a_study_report_does_nothing_and_there_is_no_checkpoint():
    assert hp.report({"loss": object()}, loss=1) is None
    assert hp.report() is None
    assert hp.get_checkpoint() is None

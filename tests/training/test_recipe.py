"""What a trainable may be, what it may not, and keyword arguments for it."""

import functools
import pickle

import cloudpickle
import pytest
import torch

import torchtune_hp.training.function as hp
from torchtune_hp.errors import ConfigurationError
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.training.function import FunctionRecipe
from torchtune_hp.training.model import ModelRecipe, ModelTrainable
from torchtune_hp.training.recipe import WithParameters, recipe_of, with_parameters
from torchtune_hp.training.trainable import Trainable, TrainableRecipe


@hp.trainable(metric="loss", mode="min")
def train(config, data, scale=1.0):
    hp.report(loss=sum(data) * scale)
    return sum(data) * scale


def plain(config):
    yield {"loss": 1.0}


class Net(Trainable):
    def setup(self, config, data, scale=1.0):
        self.loss = sum(data) * scale

    def step(self):
        return {"loss": self.loss}


class Open(Trainable):
    def setup(self, config, **kwargs):
        self.given = kwargs

    def step(self):
        return {"loss": 1.0}


class Methods:
    def train(self, config):
        return {"loss": 1.0}


@pytest.mark.parametrize(
    ("target", "kind", "name"),
    [(plain, FunctionRecipe, "plain"), (hp.trainable(plain), FunctionRecipe, "plain"), (Methods().train, FunctionRecipe, "train"),
     (functools.partial(train.function, data=[1]), FunctionRecipe, "train"), (with_parameters(train, data=[1]), FunctionRecipe, "train"),
     (Open, TrainableRecipe, "Open"), (with_parameters(Net, data=[1]), TrainableRecipe, "Net"), (ToyModel, ModelRecipe, "ToyModel")],
)  # fmt: skip
def test_everything_a_trial_can_be_has_a_recipe(target, kind, name):
    recipe = recipe_of(target)
    assert type(recipe) is kind and recipe.name == name


def test_a_decorated_function_s_recipe_holds_the_function_itself():
    assert recipe_of(with_parameters(train, data=[1])).function is train.function


class Callable:
    def __call__(self, config):
        pass


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (torch.nn.Linear(1, 1), "but got a Linear, a torch module. Build it in a train function or in ModelTrainable.setup: each trial"),
        (torch.nn.Linear, "but got Linear, a class of torch modules. Build it in"),
        (Open({}), "but got an instance of Open. Give the class: each trial builds its own"),
        (dict, "but got the class dict, which derives neither hp.Trainable nor hp.ModelTrainable"),
        ("train", "but got the text 'train'. Give the function or the class itself"),
        (Callable(), "of type Callable"),
        (None, "but got None of type NoneType"),
        (Trainable, "hp.Trainable is a base: subclass it"),
        (ModelTrainable, "hp.ModelTrainable is a base: subclass it"),
        (type("Idle", (Trainable,), {}), r"Idle must have step\(self\) -> dict"),
        (lambda: None, "takes the config as its first argument"),
        (train, r"train needs \['data'\] besides the config. Give them: hp.with_parameters\(train, data=...\)"),
        (Net, r"Net.setup needs \['data'\] besides the config. Give them: hp.with_parameters\(Net, data=...\)"),
    ],
)
def test_anything_else_is_refused_with_the_way_out(target, says):
    with pytest.raises(ConfigurationError, match=says):
        recipe_of(target)


def test_the_refusal_says_what_is_accepted():
    with pytest.raises(ConfigurationError, match=r"Expected a train function def train\(config\), .* subclass of hp.Trainable or hp.Model"):
        recipe_of(3)


def test_parameters_are_handed_over_by_reference(start):
    data = [1, 2]
    assert with_parameters(train, data=data)({}) == 3
    assert start(with_parameters(train, data=data)).advance().metrics == {"loss": 3.0}
    assert with_parameters(Net, data=data, scale=2.0)({}).loss == 6
    assert start(with_parameters(Net, data=data, scale=2.0)).advance().metrics == {"loss": 6.0}
    assert start(with_parameters(Open, data=data)).trainable.given["data"] is data
    assert recipe_of(with_parameters(train, data=data)).keywords["data"] is data


def test_parameters_add_up_and_the_last_goes_first():
    first = with_parameters(train, data=[1], scale=2.0)
    second = with_parameters(first, data=[5])
    assert second.target is train and second.keywords == {"data": [5], "scale": 2.0} and first.keywords["data"] == [1]


@pytest.mark.parametrize(
    ("target", "says"),
    [(train, r"train must name each keyword, but \['x', 'y'\] are not among \['data', 'scale'\]"),
     (Net, r"Net.setup must name each keyword, but \['x', 'y'\] are not among \['data', 'scale'\]"),
     (plain, r"\['x', 'y', 'data'\] are not among its arguments besides the config")],
)  # fmt: skip
def test_keywords_that_nothing_names_are_listed(target, says):
    with pytest.raises(ConfigurationError, match=says):
        with_parameters(target, x=1, y=2, data=[1])


def test_a_model_s_keywords_are_its_recipe_s_affair():
    with pytest.raises(ConfigurationError, match="'nonsense'"):
        with_parameters(ToyModel, nonsense=1)


def test_the_config_cannot_be_given_as_a_parameter():
    with pytest.raises(ConfigurationError, match=r"\['config'\] are not"):
        with_parameters(plain, config={})


def test_it_knows_the_function_s_defaults_and_its_name():
    made = with_parameters(train, data=[1])
    assert made.defaults == {"metric": "loss", "mode": "min"} and made.__name__ == "train"
    assert with_parameters(Net, data=[1]).defaults == {}
    assert repr(made) == "with_parameters(train, data)"


def test_tune_runs_a_study_with_the_function_s_defaults(monkeypatch):
    import sys
    import types

    class Tuner:
        def __init__(self, trainable, **keywords):
            self.said = trainable, keywords

        def fit(self):
            return self.said

    monkeypatch.setitem(sys.modules, "torchtune_hp.tuner", types.SimpleNamespace(Tuner=Tuner))
    made = with_parameters(train, data=[1])
    assert made.tune(mode="max", trials=5) == (made, {"metric": "loss", "mode": "max", "trials": 5})


def test_parameters_travel():
    made = with_parameters(plain_with_data, data=3)
    for thing in (made, recipe_of(made)):
        assert cloudpickle.loads(cloudpickle.dumps(thing)).keywords == {"data": 3}
    there = pickle.loads(pickle.dumps(made))
    assert type(there) is WithParameters and there({}) == 3


def plain_with_data(config, data):
    return data


def test_a_lambda_among_the_parameters_travels():
    there = cloudpickle.loads(cloudpickle.dumps(recipe_of(with_parameters(plain_with_data, data=lambda: 5))))
    assert there.keywords["data"]() == 5

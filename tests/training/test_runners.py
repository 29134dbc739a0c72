"""The laws of Runner, run over every kind of trainable that is not a ModelTrainable."""

import functools
import os
import random

import numpy as np
import torch

import torchtune_hp.training.function as hp
from torchtune_hp.testing import toys
from torchtune_hp.testing.runner_suite import RunnerSuite
from torchtune_hp.training.recipe import recipe_of, with_parameters
from torchtune_hp.training.trainable import Trainable


def broken(config):
    raise toys.ToyError("at once")


def broken_generator(config):
    raise toys.ToyError("at once")
    yield


class BrokenStep(Trainable):
    def step(self):
        self.broken()

    def broken(self):
        raise toys.ToyError("at once")


class TestTrainable(RunnerSuite):
    def make(self):
        return recipe_of(toys.Quadratic)

    def broken(self):
        return recipe_of(BrokenStep), toys.ToyError


class Bounded(toys.Quadratic):
    max_t = 6


class TestTrainableWithAnEnd(RunnerSuite):
    def make(self):
        return recipe_of(Bounded)


class TestFunction(RunnerSuite):
    def make(self):
        return recipe_of(toys.quadratic)

    def broken(self):
        return recipe_of(broken), toys.ToyError


class TestSavedFunction(TestFunction):
    config = {"x": 0.25, "y": 0.5, "saves": True}


class TestGenerator(RunnerSuite):
    def make(self):
        return recipe_of(toys.quadratics)

    def broken(self):
        return recipe_of(broken_generator), toys.ToyError


class TestSavedGenerator(TestGenerator):
    config = {"x": 0.25, "y": 0.5, "saves": True}


def wrapped(config):
    return toys.quadratics(config)


class TestGeneratorBehindAFunction(RunnerSuite):
    config = {"x": 0.25, "y": 0.5, "saves": True}

    def make(self):
        return recipe_of(wrapped)


class TestDiverging(RunnerSuite):
    config = {"x": 0.9, "y": 0.5}

    def make(self):
        return recipe_of(toys.Diverging)


@hp.trainable(metric="loss", mode="min")
def drawing(config, offset):
    """Builds with random numbers before it loads, and draws from all three generators in every step."""
    weight = torch.randn(3)
    checkpoint = hp.get_checkpoint()
    if checkpoint is not None:
        weight = checkpoint["weight"]
    for _ in range(9):
        weight += torch.randn(3)
        noise = {"noise": np.random.random(), "normal": np.random.randn(), "draw": random.random()}
        hp.report(noise, loss=weight.sum() + offset, checkpoint={"weight": weight})


class TestDrawingFunctionWithParameters(RunnerSuite):
    def make(self):
        return recipe_of(with_parameters(drawing, offset=2.0))


class Filed(Trainable):
    """Draws from all three generators, keeps its state in files, and its weight in place."""

    def setup(self, config, scale):
        self.weight = torch.randn(3) * scale

    def step(self):
        self.weight += torch.randn(3)
        return {"loss": self.weight.sum(), "noise": np.random.random(), "draw": random.random(), "n": self.iteration}

    def save_checkpoint(self, checkpoint_dir):
        torch.save(self.weight, os.path.join(checkpoint_dir, "weight.pt"))

    def load_checkpoint(self, checkpoint):
        assert isinstance(checkpoint, str)
        self.weight = torch.load(os.path.join(checkpoint, "weight.pt"), weights_only=True)


class TestFiledTrainable(RunnerSuite):
    def make(self):
        return recipe_of(with_parameters(Filed, scale=2.0))


class Live(Filed):
    """Hands out and takes in its live tensor."""

    def save_checkpoint(self, checkpoint_dir):
        return {"weight": self.weight}

    def load_checkpoint(self, checkpoint):
        self.weight = checkpoint["weight"]


class TestLiveTrainable(RunnerSuite):
    def make(self):
        return recipe_of(with_parameters(Live, scale=2.0))


class TestPartial(RunnerSuite):
    def make(self):
        return recipe_of(functools.partial(drawing.function, offset=1.0))

"""What the tests of `training` share: places, trials, and runners that are closed afterwards."""

import pytest

from torchtune_hp.training.recipe import recipe_of
from torchtune_hp.training.runner import Place
from torchtune_hp.trial import Trial


@pytest.fixture
def start(tmp_path):
    """start(trainable, config, ...) -> Runner, closed at the end of the test."""
    begun = []

    def begin(trainable, config=None, *, metrics=("loss",), seed=11, id=7, state=None, step=0, folder=tmp_path / "000007", **place):
        runner = recipe_of(trainable).start(Trial(id, (), config or {}, seed), Place(folder=folder, metrics=metrics, **place), state, step)
        begun.append(runner)
        return runner

    yield begin
    for runner in begun:
        runner.close()

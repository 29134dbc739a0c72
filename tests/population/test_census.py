"""How many trials share a stack, where that is said, and what is said where they are few."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from torch import nn

import torchtune_hp as hp
from torchtune_hp.population.census import Census, advice, one_by_one, splits_most
from torchtune_hp.population.engine import Engine
from torchtune_hp.testing.toy_models import ToyModel

from .test_engine import Toy, runners


def counted(rounds: int, sizes: list[int], alone: int = 0) -> Census:
    census = Census()
    for _ in range(rounds):
        census.add(sizes, alone)
    return census


def test_the_figure_is_trials_by_kinds_over_all_rounds() -> None:
    census = counted(2, [6, 2], 2)
    assert census.mean == 4 and census.news() == "4 trials per stack (last 8 in 2, 2 one by one)"
    census.add([16], 0)
    assert census.mean == pytest.approx(6.4) and counted(1, [30]).news() == "30 trials per stack (last 30 in 1)"


def test_news_come_ever_more_rarely_and_only_if_they_are_new() -> None:
    census, said = Census(), []
    for number in range(1, 1001):
        census.add([number, 1], 0)
        if census.news() is not None:
            said.append(number)
    assert said[:6] == [1, 2, 4, 7, 11, 17] and len(said) < 20
    steady = counted(5, [8])
    assert steady.news() is not None
    steady.add([8], 0)
    assert steady.news() is None


@pytest.mark.parametrize(
    ("census", "small"),
    [
        (counted(3, [3, 3, 3]), True), (counted(2, [3, 3, 3]), False), (counted(3, [4, 4]), False), (counted(3, [1] * 8), True),
        (counted(3, [1] * 7), False), (Census(), False),
    ],
)  # fmt: skip
def test_stacks_are_small_where_more_could_share_one(census: Census, small: bool) -> None:
    assert census.small is small


def test_where_two_make_a_shape_together_neither_a_float_nor_what_does_not_matter_is_named() -> None:
    trials = [
        ({"dropout": 0.05 * k, "filters": k % 3, "units": k % 4, "seed": k}, {"shape of 9.weight": (k % 3, k % 4)}) for k in range(18)
    ]      # 12 shapes; every trial has a dropout and a seed of its own
    for config, _ in trials[12:]:
        config["seed"] = 0
    found = splits_most(trials)
    assert found == ("units", "shape of 9.weight", 12)
    assert splits_most(trials[:8]) is not None and splits_most(trials[:8])[0] != "dropout"      # type: ignore[index]


def test_the_parameter_that_splits_most_is_the_one_that_determines_what_differs_most() -> None:
    trials = [
        ({"lr": 0.1 * k, "net": {"width": 4 + k % 3, "act": k % 2}}, {"shape of 0.weight": (8 + 2 * (k % 3), 2), "1": "ab"[k % 2], "2": 0})
        for k in range(12)
    ]
    assert splits_most(trials) == ("net.width", "shape of 0.weight", 3)
    assert splits_most([({"a": 1}, {"x": k}) for k in range(3)]) == ("", "x", 3)
    assert splits_most([({"a": k}, {"x": 1}) for k in range(3)]) is None and splits_most([]) is None


CONFIGS = [{"lr": 0.001 * (1 + k), "width": 320 * 2 ** (k % 5), "p": 0.1} for k in range(10)]


def test_where_few_share_a_stack_it_is_said_once_with_the_parameter_and_the_way_out() -> None:
    said: list[str] = []
    engine, members = Engine(lambda kind, text: said.append(text), "vmap"), runners(Toy, CONFIGS)
    with pytest.warns(UserWarning, match="'width' splits most") as caught:
        for _ in range(5):
            engine.advance(members)
    assert len([each for each in caught if each.category is UserWarning and "splits most" in str(each.message)]) == 1
    (text,) = [text for text in said if "splits most" in text]
    assert text.startswith("Toy: only 2 trials share a stack")
    assert "'width' splits most: 0.out_features has 5 values among those that run now." in text
    assert "hp.choice([...])" in text and "self.hparams[...]" in text and "torchtune_hp.functional" in text


@pytest.mark.parametrize(("configs", "strategy"), [(CONFIGS[:6], "vmap"), ([{"lr": 0.01}] * 10, "vmap"), (CONFIGS, "loop")])
def test_it_is_not_said_where_there_are_few_trials_or_one_architecture_or_loops_were_asked_for(configs: Any, strategy: Any) -> None:
    engine, members = Engine(strategy=strategy), runners(Toy, configs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            engine.advance(members)


def test_a_study_tells_it_in_its_results_and_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    results = hp.tune(
        ToyModel, {"lr": hp.loguniform(1e-3, 0.1), "width": hp.choice([4, 800])}, metric="loss", mode="min", trials=12, seed=3,
        searcher=hp.RandomSearch(), scheduler=hp.FullRuns(max_t=3), executor=hp.Fused(12, strategy="vmap"), storage=None,
    )  # fmt: skip
    assert results.members_per_stack == "6 trials per stack (last 12 in 2)" == results.stacks[-1]
    assert any("it differs from stack 1 in " in text for text in results.stacks)
    err = capsys.readouterr().err
    assert "stacks: 6 trials per stack (last 12 in 2)\n" in err and "stacks," not in err.split("notes:")[-1]
    serial = hp.tune(
        ToyModel, {"lr": hp.loguniform(1e-3, 0.1)}, metric="loss", mode="min", trials=2, executor=hp.Serial(), storage=None, verbose=0,
        scheduler=hp.FullRuns(max_t=1), searcher=hp.RandomSearch(),
    )  # fmt: skip
    assert serial.members_per_stack is None and serial.stacks == []


def test_a_class_that_each_trial_makes_for_itself_is_named_as_what_splits() -> None:
    def made() -> type:
        class Net:
            pass

        return Net

    found = splits_most([({"lr": 0.1 * k}, {"the model": made()}) for k in range(8)])
    assert found == ("<locals>", "the model", 8)
    assert "the model is of 8 classes of one name, for one is made whenever the function" in advice("Net", Census(), found)


class OfSetup(Toy):
    """Its model's class is made by each trial's setup."""

    def build(self, config: Any) -> nn.Module:
        class Net(nn.Sequential):
            pass

        return Net(nn.Linear(6, 3))


class Hooked(Toy):
    """A forward hook closes over the trial."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.kept: dict[str, Any] = {}
        self.model[0].register_forward_hook(lambda module, given, found: self.kept.update(found=found))     # type: ignore[index]


class Kept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.hidden = nn.Linear(6, 3), None

    def forward(self, x: Any) -> Any:
        self.hidden = self.layer(x)
        return self.hidden


class WayOut(Toy):
    def build(self, config: Any) -> nn.Module:
        return Kept()

    def training_step(self, model: Any, batch: Any) -> Any:
        return super().training_step(model, batch) + model.hidden.square().mean()


def said_of(cls: type[Toy], n: int) -> list[str]:
    said: list[str] = []
    engine = Engine(lambda kind, text: said.append(text), "vmap")
    members = runners(cls, [{"lr": 0.01 * (k + 1), "width": 8} for k in range(n)])
    for _ in range(3):
        engine.advance(members)
    return said


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize(
    ("cls", "why"), [(OfSetup, "the model is of {} classes of one name"), (Hooked, "a forward hook on model.0 is another one for each")]
)
def test_where_few_are_all_trained_one_by_one_it_is_said_once_what_keeps_them_apart(cls: type[Toy], why: str, n: int) -> None:
    (text,) = said_of(cls, n)
    assert text.startswith(f"{cls.__name__}: the {n} trials that run now are trained one by one, for too few of them are alike: ")
    assert why.format(n) in text


def test_what_a_module_keeps_in_its_forward_keeps_nobody_apart() -> None:
    assert said_of(WayOut, 4) == ["WayOut: stack 1 begins with 4 trials."]


def test_a_parameter_that_keeps_few_apart_is_named() -> None:
    assert "'depth' splits most: layers has 3 values" in one_by_one("Net", Census(), 3, ("depth", "layers", 3))

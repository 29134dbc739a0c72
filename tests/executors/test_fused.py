"""Fused equals eight simulated slots, trial by trial and turn by turn; resting, keeping, resuming and failing as anywhere."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchtune_hp as hp
from tests.population.test_room import Budget, Moves
from torchtune_hp.errors import ConfigurationError
from torchtune_hp.executors import devices as devices_module, slots as slots_module
from torchtune_hp.journal import Journal
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.group import Group
from torchtune_hp.population.sizes import Size
from torchtune_hp.testing.play import Play
from torchtune_hp.testing.toy_models import ToyDivergingModel, ToyModel
from torchtune_hp.trial import Failed, Launch, Reached, Setting, Standing, Train, Trial

from .telling import answers

SPACE = {"lr": hp.loguniform(1e-3, 0.1), "dropout": hp.uniform(0.0, 0.6), "width": hp.choice([4, 8]), "momentum": hp.uniform(0.0, 0.95)}
SCHEDULERS: dict[str, Any] = {
    "promotion": lambda: hp.ASHA(max_t=9, reduction_factor=3, variant="promotion"),
    "stopping": lambda: hp.ASHA(max_t=9, reduction_factor=3, variant="stopping"),
    "hyperband": lambda: hp.Hyperband(max_t=9, reduction_factor=3),
    "full": lambda: hp.FullRuns(max_t=3),
}
HALVING = {"halving": lambda: hp.SuccessiveHalving(max_t=9, reduction_factor=3)}


def study(executor: Any, scheduler: str = "promotion", trainable: Any = ToyModel, **more: Any) -> hp.Results:
    options: dict[str, Any] = {"trials": 20, "searcher": hp.RandomSearch(), "seed": 3, "storage": None, "verbose": 0, **more}
    return hp.tune(trainable, SPACE, metric="loss", mode="min", executor=executor, scheduler=(SCHEDULERS | HALVING)[scheduler](), **options)


@cache
def simulated(scheduler: str) -> hp.Results:
    """What several tests expect."""
    return study(hp.Simulated(8), scheduler)


def story(results: hp.Results) -> list[Any]:
    """Turns without their times: who stood where with which metrics, and what was commanded."""
    told = []
    for events, _, commands in results.journal.turns():
        looks = [(event.trial, event.step, event.done, sorted(event.metrics)) for event in events if isinstance(event, Reached)]
        told.append((looks, commands))
    return told


def close(one: hp.Results, other: hp.Results) -> None:
    assert story(one) == story(other)
    for mine, theirs in zip(one, other, strict=True):
        assert (mine.trial, mine.state, mine.config) == (theirs.trial, theirs.state, theirs.config)
        assert numbers(mine) == pytest.approx(numbers(theirs), rel=1e-4, abs=1e-5)


def numbers(result: hp.Result) -> dict[str, float]:
    return {name: value for name, value in result.metrics.items() if name not in ("config", "time_total_s")}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_eight_fused_slots_equal_eight_simulated_workers(scheduler: str) -> None:
    close(study(hp.Fused(8, strategy="vmap"), scheduler), simulated(scheduler))


def test_eight_serial_slots_equal_eight_simulated_workers() -> None:
    close(study(hp.Serial(8)), simulated("promotion"))


def test_whole_grants_of_different_lengths_equal_as_well() -> None:
    close(study(hp.Fused(8, strategy="vmap"), look_every="grant"), study(hp.Simulated(8), look_every="grant"))


def test_it_is_what_auto_means_for_a_model_and_the_same_seed_gives_the_same_bits() -> None:
    first, second = (study("auto", storage=None) for _ in range(2))
    assert any("as Fused offers" in note.text for note in first.log)
    fused = [study(hp.Fused(8, strategy="vmap")) for _ in range(2)]
    assert story(fused[0]) == story(fused[1]) and [r.metrics["loss"] for r in fused[0]] == [r.metrics["loss"] for r in fused[1]]
    first.close(), second.close()


def test_the_best_weights_are_kept_and_give_the_best_metrics_again(tmp_path: Path) -> None:
    results = study(hp.Fused(8, strategy="vmap"), storage=tmp_path, name="kept")
    model = results.best.load()
    assert isinstance(model, nn.Module)
    data = ToyModel.data()
    x, y = data.val[""].tree  # type: ignore[union-attr]
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(x), y).item()
    assert loss == pytest.approx(results.best.metrics["loss"], rel=1e-4)
    assert results.best.test()["accuracy"] > 0.75


def test_an_interrupted_study_resumes_to_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = study(hp.Fused(8, strategy="vmap"), storage=tmp_path, name="whole")
    study(hp.Fused(8, strategy="vmap"), storage=tmp_path, name="parts", trials=7)
    parts = hp.Tuner.resume(tmp_path / "parts", ToyModel, trials=20, executor=hp.Fused(8, strategy="vmap"), verbose=0).fit()
    assert [result.config for result in parts] == [result.config for result in whole]
    assert parts.best.metrics["loss"] <= 1.5 * whole.best.metrics["loss"]


def test_stopped_at_once_in_the_middle_of_a_turn_nothing_half_done_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Ctrl-C: the stacks had moved on when the second came."""
    advance, turns = Engine.advance, iter(range(10_000))

    def interrupted(self: Engine, runners: Any) -> Any:
        found = advance(self, runners)
        if next(turns) == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            study(hp.Fused(8, strategy="vmap"), storage=tmp_path, name="toy")
    resumed = hp.Tuner.resume(tmp_path / "toy", ToyModel, executor=hp.Fused(8, strategy="vmap"), verbose=0).fit()
    close(resumed, study(hp.Fused(8, strategy="vmap")))


def test_trials_that_diverge_fail_by_themselves() -> None:
    results = hp.tune(
        ToyDivergingModel, {"at": hp.choice([2, 99]), "lr": hp.loguniform(1e-3, 0.1)}, metric="loss", mode="min", trials=12, seed=1,
        scheduler=hp.FullRuns(max_t=4), searcher=hp.RandomSearch(), executor=hp.Fused(6, strategy="vmap"), storage=None, verbose=0,
    )  # fmt: skip
    for result in results:
        assert result.state == ("failed" if result.config["at"] == 2 else "completed")
        if result.state == "failed":
            assert "must be finite, but was nan in iteration 2" in str(result.error)


def test_what_is_no_model_and_calls_no_trainer_is_trained_one_by_one_with_the_way_out() -> None:
    def train(config: Any) -> None:
        hp.report(loss=config["lr"])

    said = "train: trained one by one: it called no Trainer.train. hp.Processes() trains its trials side by side."
    assert study(hp.Fused(4), trainable=train).stacks == [said]


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"slots": "many"}, {"devices": 3}, {"strategy": "quick"}])
def test_wrong_arguments_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        hp.Fused(**wrong)


@pytest.mark.parametrize(
    ("device", "words"),
    [("gpu", 'devices: must be names of devices of torch, such as "cuda", but got "gpu"'),
     ("cuda:99", 'devices: must be some that are there, but "cuda:99" is not: there is '), ("mps:9", '"mps:9" is not: there is ')],
)  # fmt: skip
@pytest.mark.parametrize("slots", [2, "auto"])
def test_a_device_that_is_not_there_is_told_before_anything_runs(device: str, words: str, slots: Any) -> None:
    with pytest.raises(ConfigurationError, match=words):
        study(hp.Fused(slots, devices=device))


def test_a_device_is_told_among_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert devices_module.device_of("cuda") == devices_module.device_of("cuda") and devices_module.device_of("cuda:1").index == 1
    assert devices_module.device_of("cpu").type == "cpu"
    with pytest.raises(ConfigurationError, match='"cuda:2" is not: there is cpu, cuda:0, cuda:1. Take'):
        devices_module.device_of("cuda:2")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    with pytest.raises(ConfigurationError, match='"cuda" is not: there is cpu. Take of these'):
        devices_module.device_of("cuda")


# Slots ------------------------------------------------------------------------------------------------------------------------


def said(results: hp.Results, kind: str = "slots") -> list[str]:
    return [note.text for note in results.log if note.kind == kind]


def test_the_slots_are_measured_and_said_and_a_resumed_study_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = study("auto", storage=tmp_path, name="measured")
    (text,) = said(results)
    slots = int(text.split(":")[0])
    assert slots in (1, 8, 16, 20) and "members updated a second" in text and text.endswith(f"Fused(slots={slots}) fixes it.")
    assert results.journal.header["capacity"] == slots
    results.close()
    monkeypatch.setattr(slots_module, "best_size", None)         # nobody measures again
    more = hp.Tuner.resume(tmp_path / "measured", ToyModel, trials="+3", verbose=0).fit()
    assert len(more) == 23 and said(more) == [text] and more.journal.header["capacity"] == slots


def test_it_is_the_first_trial_of_the_study_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []

    def watched(runner: Any, trials: int | None, strategy: str) -> Size:
        measured.append((runner.member.trial_id, runner.member.config, trials, strategy))
        return Size(4, "I say so")

    monkeypatch.setattr(slots_module, "best_size", watched)
    results = study(hp.Fused(strategy="vmap"), points=[{"lr": 0.02, "dropout": 0.1, "width": 4, "momentum": 0.5}])
    assert measured == [(0, results[0].config, 20, "vmap")]
    assert said(results) == [
        "4: I say so. Results depend on this number, and another run may measure another: Fused(slots=4) fixes it."
    ]
    named = study(hp.Fused(4, strategy="vmap"), points=[results[0].config])
    assert story(named) == story(results) and len(measured) == 1


class Fragile(ToyModel):
    """Its first trial cannot be set up."""

    def setup(self, config: Any) -> None:
        if self.trial_id == 0:
            raise OSError("no such file")
        super().setup(config)


def test_where_it_cannot_be_measured_the_number_is_fixed_and_the_reason_said() -> None:
    results = study(hp.Fused(strategy="vmap"), trainable=Fragile)
    assert said(results) == [
        "32: as ever on a cpu, for it could not be measured: OSError: no such file. Results depend on this number, and another run may "
        "measure another: Fused(slots=32) fixes it."
    ]
    assert [result.state for result in results][0] == "failed" and len(results) == 20


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, *HALVING])
def test_where_memory_runs_out_trials_wait_none_fails_and_the_study_is_the_same(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = simulated(scheduler)
    moves = Moves(monkeypatch)
    Budget(monkeypatch, 3, "gradients", 6)
    results = study(hp.Fused(8, strategy="vmap"), scheduler)
    close(results, expected)
    texts = said(results)
    assert texts and all("From now on" in text and "the others wait in host memory" in text for text in texts)
    assert not results.errors and {"host", "device"} <= set(moves.moved)


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, *HALVING])
def test_resting_trials_lie_in_host_memory_and_are_promoted_from_there(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = simulated(scheduler)
    moves = Moves(monkeypatch)
    close(study(hp.Fused(8, strategy="vmap"), scheduler), expected)
    assert ("host" in moves.moved) == (scheduler not in ("full", "stopping"))       # those go on or end, and never rest


def test_a_fork_of_a_resting_trial_goes_on_from_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(executor: Any) -> list[Any]:
        play = Play(executor, ToyModel)
        executor.begin(Setting((), lambda x: x), Standing())
        parents = [Trial(k, (), {"lr": 0.01 * (1 + k), "dropout": 0.1 * k}, k) for k in range(4)]
        first = answers(executor, *(Launch(parent, 2) for parent in parents))
        answers(executor, Train(3, 3))          # the others rest
        forks = [Trial(4 + k, (), {"lr": 0.03, "dropout": 0.2 * k}, 40 + k, parent=k) for k in range(3)]
        second = answers(executor, *(Launch(fork, 4) for fork in forks), Train(0, 4))
        executor.close()
        del play
        assert all(isinstance(event, Reached) for event in (*first, *second))
        return [{"trial": event.trial, "step": event.step, **event.metrics} for event in (*first, *second)]

    expected = told(hp.Serial(8))
    moves = Moves(monkeypatch)
    for ours, theirs in zip(told(hp.Fused(8, strategy="vmap")), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert "host" in moves.moved


# Choices ----------------------------------------------------------------------------------------------------------------------


def test_what_a_clock_chose_is_in_the_journal_and_a_resumed_study_keeps_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = hp.tune(
        ToyModel, {"lr": SPACE["lr"], "dropout": SPACE["dropout"]}, metric="loss", mode="min", trials=20, seed=3, storage=tmp_path,
        name="timed", scheduler=SCHEDULERS["full"](), searcher=hp.RandomSearch(), executor=hp.Fused(8), verbose=0,
    )  # fmt: skip
    choices = results.journal.header["choices"]
    assert choices and all(key.startswith("ToyModel ") for key in choices) and set(choices.values()) <= {"vmap", "loop"}
    assert sum("chosen by timing" in text for text in said(results, "choice")) == 1
    results.close()
    stacked: list[int] = []
    advance = Group.advance

    def watched(self: Group, runners: Any, attributes: Any) -> Any:
        stacked.append(len(runners))
        return advance(self, runners, attributes)

    monkeypatch.setattr(Group, "advance", watched)
    for n, given in ((28, "vmap"), (36, "loop")):       # one of them is not what the clock said, nor would say
        with Journal.open(tmp_path / "timed", write=True) as journal:
            journal.update_header(choices=dict.fromkeys(choices, given))
        more = hp.Tuner.resume(tmp_path / "timed", ToyModel, trials="+8", verbose=0).fit()
        assert len(more) == n and more.journal.header["choices"] == dict.fromkeys(choices, given)
        assert stacked == ([8, 8, 8] if given == "vmap" else [])
        assert sum("chosen by timing" in text for text in said(more, "choice")) == 1
        more.close()
        stacked.clear()


def test_of_a_choice_whose_turn_was_never_journaled_the_log_tells_when_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    append = Journal.append

    def killed(journal: Journal, *turn: Any) -> None:
        if journal.header.get("choices"):
            raise Killed
        append(journal, *turn)

    options: dict[str, Any] = {"storage": tmp_path, "name": "timed", "resume": "auto", "scheduler": "full", "trials": 8}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Journal, "append", killed)
        study(hp.Fused(8), **options)
    with Journal.open(tmp_path / "timed") as journal:
        chosen = journal.header["choices"]
        assert chosen and not any("timing" in note.text for note in journal.notes("choice"))
    for trials in (8, 16):
        results = study(hp.Fused(8), **options | {"trials": trials})
        assert chosen.items() <= results.journal.header["choices"].items()
        assert sum("ToyModel: how trials are trained at once is chosen by timing" in text for text in said(results, "choice")) == 1
        results.close()


def test_where_the_strategy_is_named_nothing_is_chosen() -> None:
    results = study(hp.Fused(8, strategy="vmap"))
    assert "choices" not in results.journal.header and not any("timing" in text for text in said(results, "choice"))


def test_what_a_study_held_is_freed_when_it_is_let_go_of_and_not_by_the_collector_of_cyclic_garbage() -> None:
    """Tensors above all, but also the vault with the states in it: one collection looks through all of torch, and comes when it comes."""

    def alive() -> Counter[str]:
        kinds = [type(each) for each in gc.get_objects()]
        ours = [kind for kind in kinds if issubclass(kind, torch.Tensor) or str(kind.__module__).startswith("torchtune_hp")]
        return Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in ours)

    def run() -> hp.Results:
        """Some of its trials diverge: an error holds the frames that it was raised through, and they hold the trials."""
        return hp.tune(
            ToyDivergingModel, {"at": hp.choice([2, 99]), "lr": hp.loguniform(1e-3, 0.1)}, metric="loss", mode="min", trials=9, seed=1,
            scheduler=hp.FullRuns(max_t=4), searcher=hp.RandomSearch(), executor=hp.Fused(8, strategy="vmap"), storage=None, verbose=0,
        )  # fmt: skip

    assert {result.state for result in run()} == {"failed", "completed"}        # what is kept for good, the data above all, is there now
    gc.collect()
    gc.disable()
    try:
        before = alive()
        results = run()
        assert (alive() - before)["torchtune_hp.vault.Vault"] == 1
        del results
        assert alive() - before == Counter()
    finally:
        gc.enable()


def test_a_trial_that_ends_earlier_when_it_is_trained_again_fails_and_says_why() -> None:
    class Short(ToyModel):
        max_t = 2       # shorter than when its trial stood at 3

    config = {"lr": 0.1, "dropout": 0.0, "width": 4, "momentum": 0.0}
    with Play(hp.Fused(1), Short) as play:
        play.executor.begin(Setting((), lambda x: x, capacity=1), Standing(tick=3, live=((Trial(0, (), config, 1), 3),)))
        play.executor.submit(Train(0, 5))
        failure = next(event for event in play.executor.wait() if isinstance(event, Failed))
        assert failure.step == 4 and "Trial 0 ended at step 2 when it was trained again" in failure.error


class Loaded(ToyModel):
    @classmethod
    def data(cls) -> hp.Data:
        plain = ToyModel.data()
        sets = (TensorDataset(*each.tree) for each in (plain.train, plain.val[""]))  # type: ignore[union-attr]
        train, val = (DataLoader(each, batch_size=16, shuffle=True) for each in sets)
        return hp.Data(train=train, val=val, order="shared")


def test_a_loader_s_own_draws_are_nobody_s() -> None:
    found = study(hp.Fused(4, strategy="vmap"), "full", Loaded, trials=4)
    assert found.stacks[0].startswith("Loaded: stack 1 begins") and not any("one by one" in text for text in found.stacks)
    alone = study(hp.Serial(4), "full", Loaded, trials=4)
    for mine, theirs in zip(found, alone, strict=True):
        assert numbers(mine) == pytest.approx(numbers(theirs), rel=1e-4, abs=1e-5)

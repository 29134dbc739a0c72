"""Several devices: what they decide together is what one decides, wherever each trial is trained, and whatever its process dies of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchtune_hp as hp
from torchtune_hp.errors import ConfigurationError
from torchtune_hp.executors.children import Children
from torchtune_hp.executors.crew import Crew
from torchtune_hp.executors.devices import devices_of, labels
from torchtune_hp.executors.messages import Save, Work
from torchtune_hp.executors.shares import one_device
from torchtune_hp.testing.executor_suite import ExecutorSuite
from torchtune_hp.testing.toy_models import ToyModel
from torchtune_hp.trial import Drop, Failed, Keep, Launch, Reached, Train, Trial

from .nursery import warm  # noqa: F401  (a fixture for all of them)
from .telling import answers, begun, gone
from .test_fused import SCHEDULERS, close, numbers, said, simulated, story, study

TWO = ["cpu", "cpu"]


def two(slots: Any = 4, **more: Any) -> hp.Fused:
    return hp.Fused(slots, devices=TWO, **{"strategy": "vmap", **more})


class TestTwoDevices(ExecutorSuite):
    """With fewer trials at once than there are places."""

    def make(self, slots: int) -> Any:
        class Fewer(hp.Fused):
            def prepare(self, job: Any) -> int:
                return super().prepare(job) // 2

        return Fewer(slots, devices=TWO)


# Which devices --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [3, None, [], ["cpu", 1], [""], "", ("cpu", None), {"cpu"}])
def test_what_names_no_devices_is_told_with_the_way_out(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'devices: must be "auto", the name of a device such as "cuda", or several names such'):
        hp.Fused(devices=wrong)


@pytest.mark.parametrize(
    ("devices", "words"),
    [(["cpu", "gpu"], 'names of devices of torch, such as "cuda", but got "gpu"'), (["cpu", "cuda:99"], '"cuda:99" is not: there is cpu'),
     (["cpu", "meta"], '"meta" is not: there is cpu')],
)  # fmt: skip
def test_each_of_several_must_be_there(devices: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        study(hp.Fused(2, devices=devices))


def test_auto_is_all_gpus_or_the_cpu_and_devices_are_of_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpus(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda") if count else None)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    for count, expected in ((0, ["cpu"]), (1, ["cuda"]), (3, ["cuda:0", "cuda:1", "cuda:2"])):
        gpus(count)
        assert list(map(str, devices_of("auto"))) == expected
    assert list(map(str, devices_of("cuda:1"))) == ["cuda:1"] and list(map(str, devices_of(("cuda:1", "cuda:0")))) == ["cuda:1", "cuda:0"]
    with pytest.raises(ConfigurationError, match=r"devices: must be of one kind, .* but \['cpu', 'cuda:0'\] are of cpu and cuda. Name"):
        devices_of(["cpu", "cuda:0"])


def test_each_process_sees_its_own_gpu_and_has_a_name_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    cuda = [torch.device("cuda:0"), torch.device("cuda:1")]
    assert [one_device(device) for device in cuda] == [("cuda", {"CUDA_VISIBLE_DEVICES": name}) for name in ("5", "3")]
    assert one_device(torch.device("cpu")) == ("cpu", {})
    assert labels(cuda) == ["cuda:0", "cuda:1"] and labels([torch.device("cpu")] * 2) == ["cpu #1", "cpu #2"]


def test_one_device_named_in_a_list_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Children, "prepare", None)
    assert len(study(hp.Fused(8, devices=["cpu"], strategy="vmap"), "full", trials=3)) == 3


# The same decisions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_four_slots_on_each_of_two_devices_equal_eight_simulated_workers(scheduler: str) -> None:
    results = study(two(), scheduler)
    close(results, simulated(scheduler))
    assert results.journal.header["capacity"] == 8
    assert said(results) == ["4 on each of cpu #1 and cpu #2: 8 trials at once."]


def test_whole_grants_of_different_lengths_equal_as_well() -> None:
    close(study(two(), "hyperband", look_every="grant"), study(hp.Simulated(8), "hyperband", look_every="grant"))


class Exact(ToyModel):
    """In double precision, so that only what is wrong differs."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.model.double()

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        return super().training_step(model, (batch[0].double(), batch[1]))

    def validation_step(self, model: nn.Module, batch: Any) -> Any:
        return super().validation_step(model, (batch[0].double(), batch[1]))


def test_curves_are_those_of_one_device_to_the_last_digits() -> None:
    ours, theirs = study(two(), trainable=Exact), study(hp.Fused(8, strategy="vmap"), trainable=Exact)
    assert story(ours) == story(theirs)
    for trial, curve in theirs.curves().items():
        for mine, other in zip(ours.curves()[trial], curve, strict=True):
            assert mine == pytest.approx(other, rel=1e-10, abs=1e-12)


class Watched:
    """Which works each process was sent together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[tuple[int, list[Work]]] = []
        self.saves: list[Save] = []
        send = Crew._send

        def watched(crew: Crew, member: Any, message: Any) -> None:
            if isinstance(message, list):
                works = [request for request in message if isinstance(request, Work)]
                self.batches += [(member.number, works)] if works else []
                self.saves += [request for request in message if isinstance(request, Save)]
            send(crew, member, message)

        monkeypatch.setattr(Crew, "_send", watched)


def test_a_turn_is_dealt_evenly_and_who_is_live_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    study(two(), "full")
    homes: dict[int, int] = {}
    for number, works in watched.batches:
        assert len(works) <= 4
        for work in works:
            assert homes.setdefault(work.trial, number) == number and (work.origin is None) == (work.until > 1)
    assert Counter(homes.values()) == {0: 10, 1: 10}
    assert [len(works) for _, works in watched.batches[:6]] == [4] * 6


def all_saved(executor: Any) -> None:
    """The states of those that rest have come home."""
    trials = executor._does._trials
    while trials.saving(patient=True):
        trials.listen()


def test_who_rests_wakes_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    with begun(two(), ToyModel) as play:
        trials = [Trial(k, (), {"lr": 0.01 * (1 + k)}, k) for k in range(8)]
        answers(play.executor, *(Launch(each, 2) for each in trials))
        first = {work.trial: number for number, works in watched.batches for work in works}
        here = [trial for trial, number in first.items() if number == 0]
        others = [trial for trial in first if trial not in here]
        answers(play.executor, Train(others[0], 3))         # all others rest
        all_saved(play.executor)
        watched.batches.clear()
        woken = answers(play.executor, *(Train(trial, 3) for trial in here), *map(Drop, others))
        assert sorted((number, len(works)) for number, works in watched.batches) == [(0, 2), (1, 2)]
        assert all(work.origin is not None and work.origin.saved is not None and work.origin.saved[0] == 2
                   for _, works in watched.batches for work in works)
    with begun(hp.Serial(8), ToyModel) as play:
        answers(play.executor, *(Launch(each, 2) for each in trials))
        alone = answers(play.executor, *(Train(trial, 3) for trial in here))
    for ours, theirs in zip(woken, alone, strict=True):
        assert isinstance(ours, Reached) and ours.metrics == pytest.approx(theirs.metrics, rel=1e-4, abs=1e-5)


class Interrupting:
    """Ctrl-C, after so many turns."""

    def __init__(self, turns: int) -> None:
        self.left = turns

    def begin(self, info: Any) -> None:
        pass

    def told(self, events: Any, commands: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def end(self, results: Any) -> None:
        pass


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 3)])
def test_a_resumed_study_keeps_its_capacity_and_its_decisions_on_any_number_of_devices(tmp_path: Path, first: int, second: int) -> None:
    def on(count: int, slots: int) -> hp.Fused:
        return hp.Fused(slots, devices=["cpu"] * count, strategy="vmap")

    with pytest.raises(hp.StudyInterrupted):
        study(on(first, 8 // first), storage=tmp_path, name="toy", observers=[Interrupting(5)])
    resumed = hp.Tuner.resume(tmp_path / "toy", ToyModel, executor=on(second, 2), verbose=0).fit()
    close(resumed, simulated("promotion"))
    assert resumed.journal.header["capacity"] == 8


# What is kept, and said -------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_the_best_report_and_each_note_says_of_which_device_it_is(tmp_path: Path) -> None:
    results = study(two(), storage=tmp_path, name="kept")
    x, y = ToyModel.data().val[""].tree  # type: ignore[union-attr]
    with torch.no_grad():
        loss = nn.functional.cross_entropy(results.best.load()(x), y).item()
    assert loss == pytest.approx(results.best.metrics["loss"], rel=1e-4)
    for device in ("cpu #1", "cpu #2"):
        assert f"{device}: ToyModel: stack 1 begins with 4 trials." in results.stacks
    assert "trials per stack" in str(results.members_per_stack)


class Apart(ToyModel):
    """Tells in `folder` where its data is made, each time, and prints."""

    @classmethod
    def data(cls, folder: Path) -> hp.Data:
        with open(folder / str(os.getpid()), "a") as file:
            print(torch.get_num_threads(), file=file)
        return super().data()

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        print("says", self.trial_id)


def apart(folder: Path) -> Any:
    folder.mkdir()
    return hp.with_parameters(Apart, folder=folder)


def told(folder: Path) -> dict[int, str]:
    """By process: what it told."""
    return {int(path.name): path.read_text() for path in folder.iterdir()}


def test_the_data_is_made_once_in_each_process_and_what_is_printed_is_in_its_folder(tmp_path: Path) -> None:
    results = study(two(), "full", apart(tmp_path / "told"), storage=tmp_path, name="apart")
    assert list(told(tmp_path / "told").values()) == ["1\n", "1\n"] and os.getpid() not in told(tmp_path / "told")
    texts = [(tmp_path / "apart" / "devices" / str(number) / "output.txt").read_text() for number in range(2)]
    assert {line for text in texts for line in text.splitlines()} == {f"says {result.trial}" for result in results}


def test_the_slots_are_measured_by_the_first_device_and_taken_for_each(tmp_path: Path) -> None:
    results = study(two("auto"), storage=tmp_path, name="measured")
    (text,) = said(results)
    slots = int(text.split()[0])
    assert text.startswith(f"{slots} on each of cpu #1 and cpu #2, {2 * slots} trials at once. Of cpu #1, members updated a second: ")
    assert slots in (1, 8, 10) and text.endswith(f"Fused(slots={slots}) fixes it.")
    assert results.journal.header["capacity"] == 2 * slots and results.journal.header["executor"]["args"]["devices"] == TWO
    results.close()
    more = hp.Tuner.resume(tmp_path / "measured", ToyModel, trials="+3", verbose=0).fit()
    assert len(more) == 23 and said(more) == [text] and more.journal.header["capacity"] == 2 * slots


class Unmeasurable(ToyModel):
    def setup(self, config: Any) -> None:
        if self.trial_id == 0:
            os._exit(3)
        super().setup(config)


def test_where_measuring_kills_its_process_the_number_is_fixed_and_the_reason_said() -> None:
    results = study(two("auto"), "full", Unmeasurable)
    assert said(results)[0].startswith(
        "32 on each of cpu #1 and cpu #2, 64 trials at once. Of cpu #1, as ever on a cpu, for it could not be measured: the process died "
        "(exit status 3)."
    )
    assert [result.state for result in results] == ["failed"] + ["completed"] * 19


def test_what_a_clock_chooses_is_chosen_once_for_all_devices_and_said_once(tmp_path: Path) -> None:
    results = hp.tune(
        ToyModel, {"lr": hp.loguniform(1e-3, 0.1)}, metric="loss", mode="min", trials=16, seed=3, storage=tmp_path, name="timed", verbose=0,
        scheduler=SCHEDULERS["full"](), searcher=hp.RandomSearch(), executor=hp.Fused(8, devices=TWO),
    )  # fmt: skip
    choices = results.journal.header["choices"]
    assert len(choices) == 1 and set(choices.values()) <= {"vmap", "loop"}
    assert sum("chosen by timing" in text for text in said(results, "choice")) == 1


@pytest.mark.parametrize("more", [{"seeds": 2}, {"folds": 2}])
def test_replicas_are_trained_as_on_one_device(more: dict[str, int]) -> None:
    class Whole(ToyModel):
        @classmethod
        def data(cls) -> hp.Data:
            return hp.Data(ToyModel.data().train.tree, batch_size=16, val_fraction=None if "folds" in more else 0.25)  # type: ignore[union-attr]

    close(study(two(2), trainable=Whole, trials=8, **more), study(hp.Fused(4, strategy="vmap"), trainable=Whole, trials=8, **more))


def loss_fn(model: Any, batch: Any) -> Any:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def plain(config: Any) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
    made = hp.Trainer(model, optimizer, loss_fn, ToyModel.data, lambda model, batch: {"loss": loss_fn(model, batch)})
    for _ in range(3):
        made.train()
        hp.report(made.evaluate())


def test_functions_that_call_a_trainer_are_trained_together_on_each_device() -> None:
    ours, theirs = study(two(), "full", plain, trials=12), study(hp.Fused(8, strategy="vmap"), "full", plain, trials=12)
    close(ours, theirs)
    assert "cpu #2: plain: stack 1 begins with 4 trials." in ours.stacks


# Deaths -----------------------------------------------------------------------------------------------------------------------


class Deadly(ToyModel):
    """Does in its second step what its config says; once, where there is a marker."""

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        if self.config["do"] and self.ended == 1:
            self.die()
        return super().training_step(model, batch)

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.ended = 0

    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        self.ended += 1

    def die(self) -> None:
        marker = self.config.get("marker")
        if marker is not None:
            try:
                Path(marker).touch(exist_ok=False)      # two processes may come here at once
            except FileExistsError:
                return
        {"exit": lambda: os._exit(7), "kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "crash": lambda: os.kill(os.getpid(), 11)}[
            self.config["do"]
        ]()


def deadly(number: int, do: str = "", **more: Any) -> Trial:
    return Trial(number, (), {"lr": 0.01 * (1 + number), "do": do, **more}, number)


def alone(trials: list[Trial], until: int) -> dict[int, Any]:
    """What they report without anybody's death."""
    with begun(hp.Serial(8), ToyModel) as play:
        return {event.trial: event.metrics for event in answers(play.executor, *(Launch(each, until) for each in trials))}


@pytest.mark.parametrize(("do", "why"), [("exit", "exit status 7"), ("kill", "signal 9"), ("crash", "signal 11")])
def test_a_trial_that_kills_its_process_again_and_again_is_lost_alone(tmp_path: Path, do: str, why: str) -> None:
    trials = [deadly(k, do if k == 2 else "") for k in range(6)]
    with begun(two(3), Deadly, folder=tmp_path) as play:
        executor = play.executor
        answers(executor, *(Launch(each, 1) for each in trials))
        found = {event.trial: event for event in answers(executor, *(Train(k, 2) for k in range(6)))}
        lost = found.pop(2)
        assert isinstance(lost, Failed) and (lost.step, lost.kind) == (2, "lost")
        assert lost.error == (
            f"The worker process that trained this trial died ({why}), and so did the one before it. What it wrote, a crash's stack "
            "included, is in trials/000002/output.txt."
        )
        notes = [(note.text, note.trial) for note in executor.heard if note.kind == "lost"]
        assert notes == [(f"cpu #1: worker died ({why}), restarting 1/3", None), (f"cpu #1: worker died ({why}), restarting 1/3", 2)]
        others = [each for each in trials if each.id != 2]
        expected = alone(others, 2)
        assert all(isinstance(event, Reached) and event.metrics == pytest.approx(expected[event.trial], rel=1e-4, abs=1e-5)
                   for event in found.values())
        later = answers(executor, Drop(2), *(Train(each.id, 3) for each in others))
        assert all(event.metrics == pytest.approx(alone(others, 3)[event.trial], rel=1e-4, abs=1e-5) for event in later)


def test_who_dies_once_is_brought_to_where_all_stood_and_nobody_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    results = hp.tune(
        Deadly, {"lr": hp.loguniform(1e-3, 0.1), "do": hp.choice(["", "kill"]), "marker": str(tmp_path / "marker")}, metric="loss",
        mode="min", trials=8, seed=3, scheduler=hp.FullRuns(max_t=4), searcher=hp.RandomSearch(), executor=two(), storage=None, verbose=0,
    )  # fmt: skip
    assert [result.state for result in results] == ["completed"] * 8 and (tmp_path / "marker").exists()
    (lost,) = said(results, "lost")
    assert lost in [f"{name}: worker died (signal 9), restarting 1/3" for name in ("cpu #1", "cpu #2")]
    again = [works for _, works in watched.batches if works[0].alone]
    assert [len(works) for works in again] == [1] * 4 and {works[0].until for works in again} == {2}
    brought = [save.trial for save in watched.saves if save.stays and save.origin.step == 1]       # all but the best, if it was there
    assert len(brought) >= 3 and brought == [works[0].trial for works in again if works[0].origin is None]
    truth = alone(trials_of(results), 4)
    for trial, curve in results.curves().items():
        assert curve[-1]["loss"] == pytest.approx(truth[trial]["loss"], rel=1e-4)


def trials_of(results: hp.Results) -> list[Trial]:
    return [results.launched(result.trial) for result in results]


def test_who_dies_on_the_way_back_to_where_it_stood_goes_there_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(Deadly):
        def training_step(self, model: nn.Module, batch: Any) -> Any:
            deaths = list(tmp_path.glob("death*"))
            if self.ended == 1 - len(deaths):       # in its second step, then in its first
                (tmp_path / f"death{len(deaths)}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return ToyModel.training_step(self, model, batch)

    watched, trials = Watched(monkeypatch), [deadly(k) for k in range(4)]
    with begun(two(2), Twice) as play:
        answers(play.executor, *(Launch(each, 1) for each in trials))
        found = answers(play.executor, *(Train(k, 2) for k in range(4)))
        expected = alone(trials, 2)
        for event in found:
            assert isinstance(event, Reached) and event.metrics == pytest.approx(expected[event.trial], rel=1e-4, abs=1e-5)
        assert sum(note.kind == "lost" for note in play.executor.heard) == 2
        last = [works[0] for _, works in watched.batches if works[0].alone]
        assert len(last) == 2 and all(work.origin is not None and work.origin.begins == 0 for work in last)


def test_who_is_killed_from_outside_between_two_turns_goes_on_from_what_is_durable(tmp_path: Path) -> None:
    trials = [Trial(k, (), {"lr": 0.01 * (1 + k), "width": 8}, k) for k in range(4)]
    with begun(two(2), apart(tmp_path / "told"), folder=tmp_path / "study", checkpoint_every=0.0) as play:
        executor = play.executor
        answers(executor, *(Launch(each, 2) for each in trials))
        answers(executor, *(Train(k, 3) for k in range(4)))
        assert play.vault.newest(0)[0] == 2
        pids = set(told(tmp_path / "told"))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert all(gone(pid) for pid in pids)
        found = answers(executor, *(Train(k, 4) for k in range(4)))
        expected = alone(trials, 4)
        for event in found:
            assert isinstance(event, Reached) and event.metrics["loss"] == pytest.approx(expected[event.trial]["loss"], rel=1e-4)
        assert Counter(note.text for note in executor.heard if note.kind == "lost") == {
            f"{name}: worker died (signal 9), restarting 1/3": 1 for name in ("cpu #1", "cpu #2")
        }


def test_a_trial_that_fails_fails_alone_and_what_it_is_told_is_what_it_raised() -> None:
    class Raising(ToyModel):
        def setup(self, config: Any) -> None:
            if config["lr"] > 0.025:
                raise OSError("no such file")
            super().setup(config)

    with begun(two(2), Raising) as play:
        found = answers(play.executor, *(Launch(deadly(k), 1) for k in range(4)))
        assert [type(event) for event in found] == [Reached, Reached, Failed, Failed]
        assert "OSError: no such file" in found[2].error and found[2].kind == "error"


def test_what_is_kept_survives_the_next_turn(tmp_path: Path) -> None:
    with begun(two(2), ToyModel, folder=tmp_path) as play:
        answers(play.executor, *(Launch(deadly(k), 1) for k in range(4)))
        answers(play.executor, Keep(1), Keep(3), *(Train(k, 2) for k in range(4)))
        play.close()
        assert [play.vault.kept_step(k) for k in range(4)] == [None, 1, None, 1]


def test_what_cannot_be_sent_is_refused_before_the_study_begins(tmp_path: Path) -> None:
    import threading

    class Held(ToyModel):
        lock = threading.Lock()

    with pytest.raises(ConfigurationError, match="must be picklable"):
        study(two(), trainable=Held, storage=tmp_path, name="held")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_a_study_that_can_be_resumed_and_no_process(tmp_path: Path) -> None:
    trainable = apart(tmp_path / "told")
    with pytest.raises(hp.StudyInterrupted):
        study(two(), "full", trainable, storage=tmp_path, name="toy", observers=[Interrupting(3)])
    pids = told(tmp_path / "told")
    assert len(pids) == 2 and all(gone(pid) for pid in pids)
    with hp.Results.open(tmp_path / "toy", trainable=trainable) as partial:
        assert 0 < len(partial) < 20 and partial.best.load() is not None
    resumed = hp.Tuner.resume(tmp_path / "toy", trainable, executor=two(), verbose=0).fit()
    assert [result.config for result in resumed] == [result.config for result in simulated("full")]
    for ours, theirs in zip(resumed, simulated("full"), strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-4, abs=1e-5)


SCRIPT = """
    import os, time
    import torch
    import torchtune_hp as hp
    from torchtune_hp.testing.toy_models import ToyModel

    class Mine(ToyModel):
        def on_iteration_end(self, metrics):
            folder = os.environ["PIDS"]
            open(os.path.join(folder, str(os.getpid())), "w").close()
            if "WAIT" in os.environ:
                time.sleep(60)

    results = hp.tune(
        Mine, {"lr": hp.loguniform(1e-3, 0.1)}, metric="loss", mode="min", trials=8, scheduler=hp.FullRuns(max_t=2),
        searcher=hp.RandomSearch(), executor=hp.Fused(4, devices=["cpu", "cpu"], strategy="vmap"), storage=os.environ["RUNS"],
        verbose=0,
    )
    print(len(results), len(results.errors))
"""


def script(tmp_path: Path, **more: str) -> subprocess.Popen[str]:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "pids").mkdir()
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PIDS": str(tmp_path / "pids"), "RUNS": str(tmp_path / "runs"), **more}
    return subprocess.Popen(
        [sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | environment,
    )  # fmt: skip


def test_a_class_of_a_script_without_a_guard_is_trained_and_nothing_outlives_it(tmp_path: Path) -> None:
    process = script(tmp_path)
    assert process.communicate(timeout=60)[0] == "8 0\n"
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert len(pids) == 2 and all(gone(pid) for pid in pids)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_nothing_outlives_a_driver_that_is_killed_or_stopped_by_its_terminal(tmp_path: Path, how: str) -> None:
    process = script(tmp_path, WAIT="yes")
    until = time.monotonic() + 60
    while len(list((tmp_path / "pids").iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    if how == "killed":
        process.kill()
    else:
        assert process.stderr is not None
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr.readline() == "stopping after this step; again: stop now\n"
        os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert len(pids) == 2 and all(gone(pid) for pid in pids)
    assert process.returncode == (-signal.SIGKILL if how == "killed" else -signal.SIGINT)


# One device, in a process of its own -------------------------------------------------------------------------------------------


def test_an_isolated_device_survives_a_segmentation_fault_and_needs_no_name() -> None:
    trials = [deadly(k, "crash" if k == 1 else "") for k in range(3)]
    with begun(hp.Fused(3, isolate=True), Deadly) as play:
        found = answers(play.executor, *(Launch(each, 2) for each in trials))
        assert [type(event) for event in found] == [Reached, Failed, Reached] and found[1].kind == "lost"
        assert [note.text for note in play.executor.heard if note.kind == "lost"] == ["worker died (signal 11), restarting 1/3"] * 2
    with pytest.raises(ConfigurationError, match="isolate: must be True or False, but got 'yes'"):
        hp.Fused(isolate="yes")  # type: ignore[arg-type]


def test_an_isolated_study_is_the_one_of_this_process() -> None:
    results = study(hp.Fused(8, strategy="vmap", isolate=True))
    close(results, simulated("promotion"))
    assert not said(results) and results.stacks[0].startswith("ToyModel: stack 1 begins with 8 trials.")

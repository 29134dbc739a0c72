"""One after another in this process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import torchtune_hp as hp
from torchtune_hp.executors.base import Job, failed, kind_of
from torchtune_hp.executors.local import RESTING_LIVE, LocalTrials
from torchtune_hp.executors.serial import threads
from torchtune_hp.journal import Journal
from torchtune_hp.testing.executor_suite import ExecutorSuite
from torchtune_hp.testing.play import HEADER, Play
from torchtune_hp.testing.toys import Quadratic
from torchtune_hp.training.recipe import recipe_of
from torchtune_hp.training.runner import Place
from torchtune_hp.trial import Drop, Failed, Keep, Launch, Note, Reached, Setting, Standing, Train, Trial
from torchtune_hp.vault import Vault


class TestSerial(ExecutorSuite):
    def make(self, slots: int) -> hp.Serial:
        return hp.Serial(slots)


def job_of(trainable: Any, folder: Path | None = None, every: float = 60.0) -> Job:
    return Job(recipe_of(trainable), Place(folder, metrics=("loss",)), Vault(folder, Journal.create(folder, HEADER)), every)


def trial(id: int, **config: Any) -> Trial:
    return Trial(id, (0.5,), {"x": 0.1, "y": 0.2, **config}, seed=id)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"slots": 0}, "slots: must be an int of at least 1, but got 0"), ({"slots": True}, "slots"), ({"cpus": 1.5}, "cpus: .* got 1.5")],
)
def test_wrong_arguments_are_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(hp.ConfigurationError, match=words):
        hp.Serial(**given)


def test_threads_are_what_was_asked_for_and_then_as_before() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with threads(before):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_it_must_begin_and_a_train_needs_a_step() -> None:
    serial = hp.Serial()
    serial.close()
    serial.prepare(job_of(Quadratic))
    with pytest.raises(RuntimeError, match="prepare and begin come first"):
        serial.wait()
    serial.begin(Setting((), lambda x: x), Standing())
    with pytest.raises(hp.ConfigurationError, match="needs a step to train to"):
        serial.submit(Train(0, None))
    serial.close()


def test_resting_trials_beyond_a_few_are_saved_and_wake_where_they_stood() -> None:
    job = job_of(Quadratic)
    trials = LocalTrials(job)
    many = RESTING_LIVE + 5
    for id in range(many):
        trials.launch(Launch(trial(id), 2))
        assert isinstance(trials.train(id, 2), Reached)
    trials.tidy(set())
    assert len(trials._runners) == RESTING_LIVE and list(trials._runners)[0] == 5
    again = trials.train(0, 3)
    whole = LocalTrials(job_of(Quadratic))
    whole.launch(Launch(trial(0), 3))
    assert again == whole.train(0, 3)
    trials.close()
    assert not trials._runners


def test_states_become_durable_once_a_crash_would_cost_enough_and_go_with_their_trial() -> None:
    job = job_of(Quadratic, every=0.0)
    trials = LocalTrials(job)
    trials.launch(Launch(trial(0), 1))
    trials.train(0, 1)
    trials.tidy({0})
    found = job.vault.newest(0)
    assert found is not None and found[0] == 1
    trials.keep(Keep(0))
    trials.drop(Drop(0))
    assert job.vault.kept_step(0) == 1 and [row.purpose for row in job.vault._journal.checkpoints()] == ["keep"]
    trials.launch(Launch(trial(1), 1))
    trials.train(1, 1)
    trials.keep(Keep(1, (0,)))
    assert job.vault.kept_step(0) is None and job.vault.kept_step(1) == 1


def test_a_state_from_the_future_is_not_gone_on_from() -> None:
    job = job_of(Quadratic)
    first = LocalTrials(job)
    first.launch(Launch(trial(0), 3))
    first.train(0, 3)
    first.save()  # durable at step 3, but the journal knows of step 2 alone
    again = LocalTrials(job, [(trial(0), 2)])
    answer = again.train(0, 3)
    assert isinstance(answer, Reached) and answer.step == 3


def test_folders_that_a_trial_saved_are_removed_with_it(tmp_path: Path) -> None:
    class Files(Quadratic):
        def save_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
            (Path(checkpoint_dir) / "steps").write_text(str(self.steps))

        def load_checkpoint(self, checkpoint: Any) -> None:
            self.steps = int((Path(checkpoint) / "steps").read_text())

    job = job_of(Files, tmp_path)
    trials = LocalTrials(job)
    trials.launch(Launch(trial(0), 2))
    trials.train(0, 2)
    trials.keep(Keep(0))
    saved = set().union(*trials._folders.values())
    assert saved and all(folder.is_dir() for folder in saved)
    trials.drop(Drop(0))
    assert not any(folder.exists() for folder in saved)
    state = job.vault.kept(0)
    assert isinstance(state, Path) and (state / "steps").read_text() == "2"
    shutil.rmtree(tmp_path)


def test_what_cleanup_raises_is_a_note_and_a_failure_closes_its_trial() -> None:
    class Untidy(Quadratic):
        def step(self) -> dict[str, Any]:
            if self.config.get("bad"):
                raise ValueError("bad step")
            return super().step()

        def cleanup(self) -> None:
            raise OSError("untidy")

    trials = LocalTrials(job_of(Untidy))
    trials.launch(Launch(trial(0), 1))
    trials.train(0, 1)
    trials.drop(Drop(0))
    trials.launch(Launch(trial(1, bad=True), 1))
    answer = trials.train(1, 1)
    assert isinstance(answer, Failed) and (answer.step, answer.kind) == (1, "error") and "bad step" in answer.error
    assert [note.text for note in trials.notes] == [f"the cleanup of trial {id} raised OSError('untidy')" for id in (0, 1)]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(hp.DivergedError(), "diverged"), (hp.ReportError(), "bad_metric"), (MemoryError(), "oom"), (torch.OutOfMemoryError(), "oom"),
     (TimeoutError(), "timeout"), (ValueError(), "error")],
)  # fmt: skip
def test_the_kind_of_a_failure_is_that_of_its_exception(error: BaseException, kind: str) -> None:
    assert kind_of(error) == kind and failed(3, 2, error, 1.0).kind == kind


def test_a_state_that_cannot_be_saved_is_a_note_and_the_trial_goes_on() -> None:
    class Unsaved(Quadratic):
        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            raise RuntimeError("no disk")

    space = {"x": hp.uniform(0.0, 1.0), "y": hp.uniform(0.0, 1.0)}
    results = hp.tune(
        Unsaved, space, metric="loss", mode="min", trials=RESTING_LIVE + 9, storage=None, verbose=0, checkpoint_every=0,
        scheduler=hp.ASHA(max_t=9, reduction_factor=3, variant="promotion"), executor=hp.Serial(4),
    )  # fmt: skip
    assert "failed" not in results.counts()
    notes = [note for note in results.log if note.kind == "checkpoint"]
    assert notes and notes[0].text.startswith("not saved at step 1: RuntimeError: no disk")
    with pytest.raises(hp.CheckpointError, match="not kept"):
        results.best.load()


class Lossy(Quadratic):
    """Cannot be saved, reports what is dropped, and ends where it is told."""

    save_checkpoint = hp.Trainable.save_checkpoint

    def step(self) -> dict[str, Any]:
        return {**super().step(), f"junk {self.steps}": [1], "done": self.steps == self.config.get("end")}


@pytest.mark.parametrize("make", [hp.Serial, hp.Simulated])
def test_what_is_trained_again_is_not_said_again(make: Any) -> None:
    with Play(make(), Lossy) as play:
        play.executor.begin(Setting((), lambda x: x, capacity=1), Standing(tick=3, live=((trial(0), 3),)))
        play.executor.submit(Train(0, 4))
        notes, answer = [], None
        while answer is None:
            for event in play.executor.wait():
                notes, answer = (notes + [event.text], answer) if isinstance(event, Note) else (notes, event)
        assert isinstance(answer, Reached) and answer.step == 4
        assert [note.split("'")[1] for note in notes] == ["junk 4"]


@pytest.mark.parametrize("make", [hp.Serial, hp.Simulated])
def test_a_trial_that_ends_earlier_when_it_is_trained_again_fails_and_says_why(make: Any) -> None:
    with Play(make(), Lossy) as play:
        play.executor.begin(Setting((), lambda x: x, capacity=1), Standing(tick=3, live=((trial(0, end=2), 3), (trial(1, end=3), 3))))
        play.executor.submit(Train(0, 5))
        failure = [event for event in play.executor.wait() if isinstance(event, Failed)][0]
        assert (failure.step, failure.kind) == (4, "error")
        assert "Trial 0 ended at step 2 when it was trained again after its state was lost, but had reached step 3 before" in failure.error
        play.executor.submit(Train(1, 5))
        answer = [event for event in play.executor.wait() if isinstance(event, Reached)][0]
        assert (answer.step, answer.done) == (3, True)

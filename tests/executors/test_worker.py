"""A worker's trials without a process around them: what it does, request by request."""

from __future__ import annotations

from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch

from torchtune_hp.executors.messages import Close, Hello, Mark, Said, Save, Saved, Step, Work, receive
from torchtune_hp.executors.origins import Origin, from_saved
from torchtune_hp.executors.restoring import Stopped, on_host
from torchtune_hp.executors.travel import packed
from torchtune_hp.executors.worker import _Trials
from torchtune_hp.testing.executor_suite import Summing
from torchtune_hp.training.recipe import recipe_of
from torchtune_hp.training.runner import Place

from .telling import Telling, counting, trial


class Nowhere:
    """Where output goes; remembers whose it was."""

    def __init__(self):
        self.trials = []

    def to(self, trial):
        self.trials.append(trial)


class Desk:
    """A worker's trials, and the driver's end of their pipe."""

    def __init__(self, trainable=Summing, save_every=60.0, steps=False, folder=None):
        self.driver, theirs = Pipe()
        self.outputs = Nowhere()
        hello = Hello(b"", Place(folder), 1, {}, save_every, steps)
        self.trials = _Trials(theirs, recipe_of(trainable), hello, self.outputs)

    def ask(self, request):
        self.trials.do(request)
        heard = []
        while self.driver.poll():
            heard.append(receive(self.driver))
        return heard


def origin(number=0, step=0, saved=None, parent=None, **config):
    return Origin(number, packed(trial(number, **config)), step, saved, parent)


def sums(number, steps):
    """The sum that Summing shows after so many steps."""
    desk = Desk()
    (said,) = desk.ask(Work(number, steps, False, origin(number)))
    return said.metrics["sum"]


def test_a_trial_is_begun_goes_on_and_is_closed():
    desk = Desk(Telling)
    (said,) = desk.ask(Work(0, 2, False, origin(cleanup="write", marker="/dev/null")))
    assert (said.trial, said.step, said.done, said.kind, said.notes) == (0, 2, False, None, ())
    assert said.seconds > 0
    (said,) = desk.ask(Work(0, 3))
    assert said.step == 3
    assert desk.ask(Close(0)) == [] and desk.ask(Close(0)) == []
    assert not desk.trials.live
    assert desk.outputs.trials == [0, 0, 0, 0]


def test_steps_and_states_are_said_on_the_way_if_asked_for():
    said = Desk(steps=True, save_every=0.0).ask(Work(0, 3, False, origin()))
    assert [type(word) for word in said] == [Step, Mark, Step, Mark, Said]
    assert said[0] == Step(0, 1) and said[2] == Step(0, 2)
    assert [(word.trial, word.step) for word in (said[1], said[3])] == [(0, 1), (0, 2)]
    assert [type(word) for word in Desk(save_every=60.0).ask(Work(0, 3, False, origin()))] == [Said]
    assert [type(word) for word in Desk(counting, save_every=0.0).ask(Work(0, 3, False, origin()))] == [Said]


def test_a_state_that_cannot_be_saved_on_the_way_is_a_note():
    (said,) = Desk(Telling, save_every=0.0).ask(Work(0, 2, False, origin(save=ValueError)))
    assert said.kind is None
    ((kind, text),) = said.notes
    assert kind == "checkpoint" and text.startswith("not saved at step 1: ") and text.endswith("ValueError: on purpose")


def test_the_state_of_the_last_look_is_had_before_and_while_and_after_it_goes_on():
    desk = Desk()
    desk.ask(Work(0, 2, True, origin()))
    (now,) = desk.ask(Save(origin(step=2), frozenset({"keep"})))
    assert isinstance(now, Saved) and not now.error
    desk.ask(Work(0, 4, True))
    assert desk.trials.live[0].before[0] == 2
    (before,) = desk.ask(Save(origin(step=2), frozenset()))
    (repeated,) = desk.ask(Save(origin(step=3), frozenset()))       # neither: trained to there again
    (elsewhere,) = Desk().ask(Save(origin(step=2), frozenset()))    # by another worker
    assert now.state == before.state == elsewhere.state
    assert repeated.state != before.state
    assert desk.trials.live[0].runner.step == 4
    (said,) = desk.ask(Work(0, 5))
    assert said.metrics["sum"] == sums(0, 5)


def test_a_trial_is_brought_to_where_it_stood_from_a_state_or_its_parent_or_from_nothing():
    state = Desk().ask(Save(origin(step=3), frozenset()))[0].state
    for start in (origin(step=4), origin(step=4, saved=(3, state)), origin(step=3, saved=(3, state)), origin()):
        (said,) = Desk(steps=True).ask(Work(0, 5, False, start))[-1:]
        assert (said.step, said.metrics["sum"]) == (5, sums(0, 5))
    # What is repeated is not said.
    assert Desk(steps=True).ask(Work(0, 5, False, origin(step=4)))[0].step == 5
    (heir,) = Desk().ask(Work(1, 5, False, origin(1, 3, parent=origin(step=3))))
    (same,) = Desk().ask(Work(1, 5, False, origin(1, 3, saved=(3, state))))
    assert heir.metrics == same.metrics and heir.metrics["sum"] not in (sums(0, 5), sums(1, 5))


def test_a_fork_of_what_cannot_be_saved_fails():
    (said,) = Desk(counting).ask(Work(1, 5, False, origin(1, 3, parent=origin(step=3))))
    assert (said.kind, said.step) == ("error", 4)
    assert said.error.endswith("Trial 1 is to go on from trial 0, which cannot be saved.")


def test_a_failure_counts_for_the_step_that_was_worked_on():
    for start, step in ((origin(step=0), 2), (origin(step=1), 2)):
        (said,) = Desk(Telling).ask(Work(0, 4, False, start._replace(packed=origin(step=0, do=1).packed)))
        assert (said.kind, said.step) == (None, 4)
        desk = Desk(Telling)
        (said,) = desk.ask(Work(0, 4, False, start._replace(packed=packed(trial(0, step=ValueError)))))
        assert (said.kind, said.step) == ("error", step)
        assert not desk.trials.live
    # While it repeats what was said before, it fails in the step that is new.
    (said,) = Desk(Telling).ask(Work(0, 9, False, origin(step=5)._replace(packed=packed(trial(0, step=ValueError)))))
    assert (said.kind, said.step) == ("error", 6)


def test_a_trial_that_ends_sooner_when_it_is_repeated_says_what_is_wrong():
    (said,) = Desk(counting).ask(Work(0, 8, False, origin(step=7)))
    assert (said.kind, said.step) == ("error", 8)
    assert "ended at step 5 when it was trained again after its state was lost, but had reached step 7 before" in said.error


def test_saving_that_fails_says_so():
    (saved,) = Desk(Telling).ask(Save(origin(step=1, saved=None)._replace(packed=packed(trial(0, save=SystemExit))), frozenset()))
    assert saved.state is None and saved.error.endswith("SystemExit: on purpose")


def test_a_closed_pipe_ends_it_between_two_steps():
    desk = Desk()
    desk.driver.close()
    with pytest.raises(Stopped):
        desk.trials.train(Work(0, 5, False, origin()))
    assert desk.trials.live[0].runner.step == 1
    with pytest.raises(Stopped):
        desk.trials.do(Save(origin(1, step=4), frozenset()))
    desk.trials.close()
    assert not desk.trials.live


def test_each_trial_has_a_folder_of_its_own(tmp_path):
    assert Desk(folder=tmp_path).trials.place(7).folder == tmp_path / "trials" / "000007"
    assert Desk().trials.place(7).folder is None


def test_states_travel_on_the_host():
    weight = torch.nn.Parameter(torch.ones(2))
    state = on_host({"a": [weight, 1], "b": (torch.zeros(1), "x"), "c": Path("p")})
    assert not state["a"][0].requires_grad and torch.equal(state["a"][0], torch.ones(2))
    assert state["a"][1] == 1 and state["b"] == (torch.zeros(1), "x") and state["c"] == Path("p")


def test_what_is_not_durable_of_a_fork_may_be_of_its_parent():
    class Vault:
        def newest(self, number, upto):
            return (2, {"s": 2}) if number == 5 and upto >= 2 else None

    grandparent = origin(5, 3)
    heir = origin(7, 9, parent=origin(6, 4, parent=grandparent))
    found = from_saved(heir, 8, Vault())
    assert (found.saved, found.parent.saved, found.parent.parent.saved) == (None, None, (2, {"s": 2}))
    assert from_saved(origin(5, 3), 1, Vault()).saved is None

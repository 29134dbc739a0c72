"""The toys do what they say, as classes and as functions."""

import math
import signal
import subprocess
import sys

import pytest

from torchtune_hp.testing import toys
from torchtune_hp.testing.toys import AT, ToyError, curve

GOOD, BAD = {"x": 0.25, "y": 0.5}, {"x": 0.9, "y": 0.5}


def metrics_of(look):
    return {key: value for key, value in look.metrics.items() if key != "draw"}


def test_the_curve_falls_from_one_to_its_floor():
    assert curve(GOOD, 0) == {"loss": 1.0, "accuracy": 0.5}
    assert curve({"x": 0.3, "y": 0.7}, 1000) == {"loss": 0.0, "accuracy": 1.0}
    assert curve(GOOD, 1)["loss"] == pytest.approx(0.0425 + 0.9575 * math.exp(-0.6))
    losses = [curve(GOOD, step)["loss"] for step in range(30)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    "toy",
    [toys.Quadratic, toys.Diverging, toys.Raising, toys.Stalling, toys.Crashing, toys.quadratic, toys.quadratics, toys.diverging,
     toys.raising, toys.stalling, toys.crashing],
)  # fmt: skip
def test_an_untroubled_toy_follows_the_curve(start, toy):
    runner = start(toy, GOOD)
    for step in range(1, 10):
        look = runner.advance()
        assert (look.step, look.done) == (step, False) and metrics_of(look) == curve(GOOD, step)
    if isinstance(toy, type):
        assert runner.advance().step == 10
    else:
        assert runner.advance().done


def test_a_fifth_of_the_square_is_troubled():
    assert not toys.troubled({"x": 0.8}) and toys.troubled({"x": 0.81})


@pytest.mark.parametrize("toy", [toys.Diverging, toys.diverging])
def test_a_diverging_toy_reports_nan_from_its_step_on(start, toy):
    runner = start(toy, BAD)
    looks = [runner.advance() for _ in range(AT + 1)]
    assert [math.isnan(look.metrics["loss"]) for look in looks] == [False] * (AT - 1) + [True, True]
    assert math.isnan(looks[-1].metrics["accuracy"])


@pytest.mark.parametrize("toy", [toys.Raising, toys.raising])
def test_a_raising_toy_raises_in_its_step(start, toy):
    runner = start(toy, BAD)
    for _ in range(AT - 1):
        runner.advance()
    with pytest.raises(ToyError, match=f"on purpose in step {AT}"):
        runner.advance()


@pytest.mark.parametrize("toy", [toys.Stalling, toys.stalling])
def test_a_stalling_toy_sleeps_in_its_step(start, toy, monkeypatch):
    slept = []
    monkeypatch.setattr(toys.time, "sleep", slept.append)
    runner = start(toy, BAD)
    for _ in range(AT - 1):
        runner.advance()
    assert slept == []
    assert metrics_of(runner.advance()) == curve(BAD, AT) and slept == [toys.STALL]


@pytest.mark.parametrize("toy", [toys.Crashing, toys.crashing])
def test_a_crashing_toy_kills_its_process_in_its_step(start, toy, monkeypatch):
    killed = []
    monkeypatch.setattr(toys.os, "kill", lambda pid, how: killed.append((pid, how)))
    runner = start(toy, BAD)
    for _ in range(AT - 1):
        runner.advance()
    assert killed == []
    runner.advance()
    assert killed == [(toys.os.getpid(), signal.SIGSEGV)]


def test_the_signal_is_deadly():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGSEGV


@pytest.mark.parametrize("toy", [toys.quadratic, toys.quadratics])
def test_a_toy_function_goes_on_from_its_checkpoint(start, toy):
    first = start(toy, {**GOOD, "saves": True, "steps": 4})
    for _ in range(2):
        first.advance()
    second = start(toy, {**GOOD, "steps": 4}, state=first.save(), step=2)
    assert metrics_of(second.advance()) == curve(GOOD, 3)
    assert second.advance().step == 4 and second.save() is None
    assert second.advance().done

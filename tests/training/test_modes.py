"""What torch and asyncio keep per thread: carried with a function that stands still, and out of everyone else's way."""

import asyncio
import contextlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import torchtune_hp.training.function as hp
from torchtune_hp.training.modes import change, standing


class Seeing(torch.overrides.TorchFunctionMode):
    """A function mode that lets nothing pass: what is set behind its back must not go through it."""


CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast without cache": lambda: torch.autocast("cpu", torch.float16, cache_enabled=False),
    "no autocast": lambda: torch.autocast("cpu", enabled=False),
    "device": lambda: torch.device("meta"),
    "function mode": Seeing,
    "dispatch mode": lambda: FlopCounterMode(display=False),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_what_stands_can_be_taken_away_and_put_back(name):
    before = standing()
    with CONTEXTS[name]():
        inside = standing()
        assert inside != before
        change(inside, before)
        assert standing() == before
        change(before, inside)
        assert standing() == inside
    assert standing() == before


def test_all_at_once():
    before = standing()
    with contextlib.ExitStack() as stack:
        for make in CONTEXTS.values():
            stack.enter_context(make())
        inside = standing()
        change(inside, before)
        assert standing() == before
        weight = torch.ones(2, requires_grad=True)
        (weight * 2).sum().backward()
        assert weight.grad.tolist() == [2.0, 2.0]
        change(before, inside)
        assert standing() == inside
    assert standing() == before


@pytest.mark.parametrize("kind", ["function", "generator"])
@pytest.mark.parametrize("name", [name for name in CONTEXTS if name not in ("function mode", "dispatch mode")])
def test_a_report_inside_a_context_touches_nobody_else(start, name, kind):
    seen = []

    def function(config):
        for _ in range(2):
            outside = standing()
            with CONTEXTS[name]():
                inside = standing()
                hp.report(loss=1.0)
                seen.append(standing() == inside)
            seen.append(standing() == outside)

    def generator(config):
        for _ in range(2):
            outside = standing()
            with CONTEXTS[name]():
                inside = standing()
                yield {"loss": 1.0}
                seen.append(standing() == inside)
            seen.append(standing() == outside)

    before = standing()
    one, other = (start(function if kind == "function" else generator, id=id) for id in (7, 8))
    for runner in (one, other, other, one, other, one):
        runner.advance()
        assert standing() == before
    assert seen == [True] * 8


def test_a_function_that_is_closed_inside_a_context_leaves_none(start):
    def train(config):
        with torch.inference_mode(), torch.autocast("cpu"):
            hp.report(loss=1.0)

    before = standing()
    runner = start(train)
    runner.advance()
    runner.close()
    assert standing() == before


def test_no_trial_sees_the_weights_that_autocast_cast_for_another(start):
    """Casts of weights are cached until the outermost autocast of the thread is left; a function that stands still in one must
    not keep that from happening to others."""

    def train(config):
        weight = torch.ones(4, 4, requires_grad=True)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                out = (torch.ones(1, 4) @ weight).float().sum()
                hp.report(loss=out.item())
            with torch.no_grad():
                weight += 1.0

    one, other = start(train, id=7), start(train, id=8)
    for step in range(3):
        for runner in (one, other):
            assert runner.advance().metrics["loss"] == 16.0 * (step + 1)


def test_reports_inside_running_event_loops(start):
    async def work():
        for value in range(2):
            await asyncio.sleep(0)
            hp.report(loss=float(value))

    def train(config):
        asyncio.run(work())

    one, other = start(train, id=7), start(train, id=8)
    assert [runner.advance().metrics["loss"] for runner in (one, other, one, other)] == [0.0, 0.0, 1.0, 1.0]
    assert one.advance().done and other.advance().done

"""A step from its graphs is the step, bit for bit.

What captures is a stand-in that runs the function again where a GPU would replay it; all else is real: tensors of a graph's own,
what is copied into them, what is done in place, when a graph is captured and when it is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import torchtune_hp as hp
from torchtune_hp.errors import ConfigurationError
from torchtune_hp.population.engine import Engine
from torchtune_hp.population.graphed import CAPTURES, FORMS
from torchtune_hp.population.speeds import TRIES, Speeds
from torchtune_hp.population.stack import Stack
from torchtune_hp.training.runner import Look

from .models import Counting
from .test_compiled import data, loss, members, study
from .test_engine import Bf16, Drawing, Grouped, Hooked, Norm, Scheduled, Toy, WithHparams, alone, runners, same, together

K = 9


class Recorder:
    """What a CUDA graph does, by running the function again. `captured`: how often, of all stacks."""

    captured: list[Any] = []
    replayed = 0
    fails: str | None = None

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, dry: Callable[[], Any], run: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        if Recorder.fails:
            raise RuntimeError(Recorder.fails)
        found = dry()
        outs = [leaf for leaf in tree_flatten(found)[0] if isinstance(leaf, Tensor)]
        Recorder.captured.append(found)

        def replay() -> None:
            Recorder.replayed += 1
            with torch.no_grad():
                for out in outs:        # a replay leaves nothing there of what was
                    out.fill_(float("nan") if out.is_floating_point() else -1)
            with torch.enable_grad():
                new = [leaf for leaf in tree_flatten(run())[0] if isinstance(leaf, Tensor)]
            with torch.no_grad():
                for out, each in zip(outs, new, strict=True):
                    out.copy_(each)

        return found, replay


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CAPTURES, "cpu", Recorder)
    monkeypatch.setattr(Recorder, "captured", [])
    monkeypatch.setattr(Recorder, "replayed", 0)


def pair(k: int = K, **options: Any) -> list[hp.Population]:
    return [hp.Population(*members(k), strategy=strategy, **options) for strategy in ("graph", "vmap")]


def batches(k: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(k, 6, 4, generator=generator), torch.randint(3, (k, 6), generator=generator)


def equal(one: hp.Population, other: hp.Population) -> None:
    for mine, its in zip(one.unstack(), other.unstack(), strict=True):
        for (name, tensor), theirs in zip(mine.state_dict().items(), its.state_dict().values(), strict=True):
            assert torch.equal(tensor, theirs), name


def test_twenty_steps_from_graphs_are_twenty_steps() -> None:
    """Batches, learning rates and members change; dropout is on, and BatchNorm's statistics move."""
    one, other = pair(max_grad_norm=0.5)
    assert one.reason == "9 at once, from a graph"
    seen = []
    for step in range(20):
        if step in (6, 11):
            for population in (one, other):
                population.take_out(1, 3)
        if step == 15:
            for population in (one, other):
                model, optimizer = members(12)
                population.add(model[11], optimizer[11], seed=77, max_grad_norm=0.1)
        for population in (one, other):
            for _, optimizer in population._rows.members:
                optimizer.param_groups[0]["lr"] *= 0.9
        batch = batches(len(one), step)
        mine, its = one.step(loss, batch, in_dims=0), other.step(loss, batch, in_dims=0)
        assert torch.equal(mine, its), step
        seen.append(mine.clone()), equal(one, other)
    assert Recorder.replayed >= 2 * 8
    assert all(not torch.equal(a[:4], b[:4]) for a, b in zip(seen, seen[1:]))


def test_what_is_handed_out_is_the_caller_s() -> None:
    one, _ = pair()
    batch = data()
    kept = [one.step(loss, batch, in_dims=0) for _ in range(6)]
    copies = [each.clone() for each in kept]
    one.step(loss, batch, in_dims=0)
    assert all(torch.equal(mine, its) for mine, its in zip(kept, copies))
    assert len({each.sum().item() for each in kept}) == 6


def test_dropout_s_masks_change_from_step_to_step() -> None:
    """The same batch and weights that do not move: all that differs is the key, which is given."""
    models, optimizers = members()
    for optimizer in optimizers:
        optimizer.param_groups[0].update(lr=0.0, weight_decay=0.0)
    population = hp.Population(models, optimizers, strategy="graph")
    found = [population.step(loss, data(), in_dims=0) for _ in range(8)]
    assert Recorder.replayed
    assert len({each[0].item() for each in found}) == 8


def test_a_nan_in_one_row_changes_no_bit_of_the_others() -> None:
    one, other = pair()
    for step in range(8):
        batch = batches(K, step)
        ill = (batch[0].clone(), batch[1])
        if step >= 4:
            ill[0][2] = float("nan")
        mine, its = one.step(loss, ill, in_dims=0), other.step(loss, batch, in_dims=0)
        rows = [row for row in range(K) if row != 2]
        assert torch.equal(mine[rows], its[rows])
        assert bool(mine[2].isnan()) == (step >= 4)


def test_buffers_that_are_replaced_and_those_changed_in_place_move_on() -> None:
    pairs = []
    for strategy in ("graph", "vmap"):
        torch.manual_seed(0)
        models: list[nn.Module] = [Counting() for _ in range(4)]
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
        pairs.append(hp.Population(models, optimizers, strategy=strategy))  # type: ignore[arg-type]
    for step in range(6):
        x = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(step))
        mine, its = (population.step(lambda model, batch: model(batch).square().mean(), x, in_dims=0) for population in pairs)
        assert torch.equal(mine, its)
        equal(*pairs)
    assert Recorder.replayed
    assert pairs[0].unstack()[0].calls == 6  # type: ignore[comparison-overlap]


def test_a_form_is_captured_when_it_comes_again_and_anew_where_rows_moved() -> None:
    one, _ = pair()
    one.step(loss, data(), in_dims=0)
    assert not Recorder.captured
    one.step(loss, data(), in_dims=0)       # the gradients; what the update gets from them is new
    assert len(Recorder.captured) == 1
    one.step(loss, data(), in_dims=0)
    assert len(Recorder.captured) == 2
    one.step(loss, data(), in_dims=0)
    assert (len(Recorder.captured), Recorder.replayed) == (2, 2 + 1 + 2)
    one.take_out(0)
    one.step(loss, data(K - 1), in_dims=0)
    assert len(Recorder.captured) == 2
    for _ in range(3):
        one.step(loss, data(K - 1), in_dims=0)
    assert len(Recorder.captured) == 4


def test_batches_of_two_sizes_have_a_graph_each() -> None:
    one, other = pair()
    for step in range(9):
        x, y = batches(K, step)
        n = 6 if step % 3 else 4
        mine, its = (each.step(loss, (x[:, :n], y[:, :n]), in_dims=0) for each in (one, other))
        assert torch.equal(mine, its)
    assert len(Recorder.captured) == 5      # gradients of two sizes, an update after each, and one after those that no graph gave


def test_hooks_that_never_come_again_are_run_as_they_are_and_not_remembered() -> None:
    one, other = pair()
    for step in range(2 * FORMS):
        x = torch.full((), float(step))
        mine, its = (each.step(lambda model, batch, x=x: loss(model, batch)[0] * x, data(), in_dims=0) for each in (one, other))
        assert torch.equal(mine, its)
    assert isinstance(one._rows, Stack) and one._rows.graphs is not None
    assert len(one._rows.graphs._gradients._known) <= FORMS


def test_what_cannot_be_captured_is_done_all_the_same_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "fails", "operation not permitted when stream is capturing")
    one, other = pair()
    for step in range(4):
        batch = batches(K, step)
        assert torch.equal(one.step(loss, batch, in_dims=0), other.step(loss, batch, in_dims=0))
    equal(one, other)
    assert one.reason == "9 at once, not from a graph: RuntimeError: operation not permitted when stream is capturing"


def test_a_hook_s_own_error_is_its_own_and_changes_nothing() -> None:
    one, other = pair()
    calls = []

    def sometimes(model: nn.Module, batch: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:      # what its loss depends on is looked at before it is captured
            raise KeyError("the hook's own")
        return loss(model, batch)

    one.step(sometimes, data(), in_dims=0), other.step(loss, data(), in_dims=0)
    with pytest.raises(KeyError, match="the hook's own"):
        one.step(sometimes, data(), in_dims=0)
    equal(one, other)


def test_a_tensor_on_a_device_is_told_apart_by_what_it_is_and_not_read() -> None:
    from torchtune_hp.population.values import frozen, placed

    meta = [torch.ones(2, device="meta") for _ in range(2)]
    assert placed(meta[0]) == placed(meta[0]) != placed(meta[1])
    host = [torch.ones(2) for _ in range(2)]
    assert placed(host[0]) == placed(host[1]) == frozen(host[0])


def test_without_a_gpu_it_is_an_error_that_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(CAPTURES, "cpu")
    with pytest.raises(ConfigurationError, match=r'strategy="graph" cannot be kept: .* lie on the cpu. Let it be "auto"'):
        hp.Population(*members(), strategy="graph")
    with pytest.raises(ConfigurationError, match=r'strategy="graph": .* the device is "cpu"\. Take strategy="auto"'):
        study("graph")


# In a study ------------------------------------------------------------------------------------------------------------------


def test_a_study_from_graphs_is_the_study() -> None:
    one, other = study("graph"), study("vmap")
    assert Recorder.replayed
    for mine, its in zip(one, other, strict=True):
        assert mine.config == its.config and mine.metrics["loss"] == its.metrics["loss"]


def assert_alike(curves: list[list[Any]], others: list[list[Any]]) -> None:
    """To the bit, which is more than can be said of bfloat16 alone."""
    assert [[look.metrics for look in curve] for curve in curves] == [[look.metrics for look in curve] for curve in others]


class Accumulating(Scheduled):
    accumulate = 2
    max_grad_norm = 0.3


@pytest.mark.parametrize("kind", [Toy, Accumulating, Bf16, Drawing, Grouped, Hooked, Norm, Scheduled, WithHparams])
def test_members_have_the_curves_that_they_have_alone(kind: Any) -> None:
    configs = [{"lr": 0.003 * (1 + k), "p": 0.1 * (k % 5), "alpha": 0.1 * k, "steps": 1 + k % 2} for k in range(6)]
    engine, here = Engine(strategy="graph"), runners(kind, configs)
    curves: list[list[Any]] = [[] for _ in here]
    for _ in range(3):
        looks = engine.advance(here)
        for curve, runner in zip(curves, here):
            look = looks[runner]
            assert isinstance(look, Look), look
            curve.append(look)
    assert Recorder.replayed
    if kind is Bf16:
        return assert_alike(curves, together(kind, configs, 3)[0])
    same(curves, alone(kind, configs, 3))


def test_where_nothing_can_be_captured_the_log_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "fails", "operation not permitted when stream is capturing")
    one, other = study("graph"), study("vmap")
    assert [mine.metrics["loss"] for mine in one] == [its.metrics["loss"] for its in other]
    assert [note.text for note in one.log if "graph" in note.text] == [
        "Digits: steps are not replayed from a CUDA graph: RuntimeError: operation not permitted when stream is capturing."
    ]


def test_auto_tries_graphs_and_says_what_it_found() -> None:
    notes: list[str] = []
    engine = Engine(lambda kind, text: notes.append(text), "auto")
    here = runners(Toy, [{"lr": 0.01 * (1 + k), "p": 0.0, "alpha": 0.0, "steps": 1} for k in range(6)])
    for _ in range(1 + TRIES):
        engine.advance(here)
    assert Recorder.replayed
    (said,) = [text for text in notes if "CUDA graph" in text]
    assert "replayed from a CUDA graph: 6 at once take" in said and "one after another" in said


def test_of_three_the_fastest_is_taken_once_all_were_timed() -> None:
    speeds = Speeds(graphs=True)
    assert not speeds.replays(8)
    speeds.alone = 0.001
    speeds.note(8, 0.010, 0.0)
    assert speeds.replays(8) and speeds.loses(8) is None and speeds.graph(8) is None
    speeds.note(8, 0.200, 0.0, replayed=True)
    assert speeds.replays(8) and speeds.loses(8) is None
    speeds.note(8, 0.002, 0.0, replayed=True)
    assert speeds.replays(8) and speeds.loses(8) is None
    assert speeds.graph(8) == "8 at once take 10 ms an update, from a CUDA graph 2 ms, one after another 8 ms"
    assert not speeds.replays(16)
    speeds.graphs = False                       # it turned out that there are none
    assert not speeds.replays(8) and speeds.graph(8) is None
    assert speeds.loses(8) == "8 at once take 10 ms an update, one after another 8 ms"


def test_a_graph_that_is_slower_is_not_taken() -> None:
    speeds = Speeds(graphs=True)
    speeds.note(8, 0.010, 0.0)
    for _ in range(TRIES):
        speeds.note(8, 0.020, 0.0, replayed=True)
    assert not speeds.replays(8)


def test_what_is_not_replayed_any_more_holds_no_graph() -> None:
    stack = Stack(list(zip(*members())), graphed=True)
    keys = torch.arange(K)
    for _ in range(3):
        stack.step(loss, data(), 0, keys)
    assert stack.replayed and stack.graphs is not None and stack.graphs._gradients._known
    stack.replay(False)
    assert not stack.replayed and not stack.graphs._gradients._known

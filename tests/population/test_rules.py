"""The step of stacked rows: each row is what torch.optim makes of it alone, whatever the other rows are."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import optim

from torchtune_hp.population.rule import square_root

from .rows import EXTREMES, PROGRAMS, Run

COMPILED = [each for each in EXTREMES if each.id.endswith("all") and each.id != "AdamW-all" or each.id in ("SGD-none", "Adam-none")]
"""Every rule with all of its flags, which for AdamW is Adam with all of them, and two without any."""


@pytest.mark.parametrize("kind, flags", PROGRAMS)
def test_each_row_is_what_torch_makes_of_it_alone(kind, flags):
    run = Run(kind, flags, seed=1)
    for step in range(50):
        run.step()
        if step in (0, 1, 49):
            run.check()
    assert len({tuple(own.tolist()) for own in torch.stack(list(run.numbers.values()), 1)}) == len(run.p), "each has options of its own"


@pytest.mark.parametrize("kind, flags", EXTREMES)
def test_in_float32_too(kind, flags):
    run = Run(kind, flags, seed=15, dtype=torch.float32)
    for _ in range(50):
        run.step()
    run.check()


@settings(max_examples=30, deadline=None)
@given(program=st.sampled_from([each.values for each in PROGRAMS]), seed=st.integers(0, 2**32), k=st.integers(1, 9))
def test_whatever_the_options_are(program, seed, k):
    run = Run(*program, seed=seed, k=k)
    for _ in range(8):
        run.step()
        run.check()


@pytest.mark.parametrize("kind, flags", EXTREMES)
def test_options_may_move_at_every_step(kind, flags):
    run = Run(kind, flags, seed=2)
    for _ in range(20):
        for optimizer in run.optimizers:
            group = optimizer.param_groups[0]
            for name in set(run.rule.numbers) & set(group) - {"initial_accumulator_value", "momentum"}:
                group[name] = run.number(name)
            if "betas" in group:
                group["betas"] = (run.number("beta1"), run.number("beta2"))
            if "momentum" in group and (kind is optim.SGD or group["momentum"] > 0):
                group["momentum"] = run.number("momentum")
        run.step()
    run.check()


@pytest.mark.parametrize("kind", [optim.SGD, optim.RMSprop])
def test_a_momentum_buffer_rests_while_momentum_is_zero(kind):
    """As in torch, where a cyclic schedule may pass through 0: the buffer that stood there is taken up again."""
    run = Run(kind, {}, seed=3, k=3)
    for step in range(9):
        for row, optimizer in enumerate(run.optimizers):
            optimizer.param_groups[0]["momentum"] = 0.0 if row == 1 and 3 <= step < 6 else 0.9
        run.step()
        run.check()


def test_sgd_begins_a_buffer_at_the_first_step_with_momentum():
    """Late momentum begins as at a first step: with the gradient itself, whatever the dampening."""
    run = Run(optim.SGD, {}, seed=4, k=2)
    for step in range(6):
        for row, optimizer in enumerate(run.optimizers):
            optimizer.param_groups[0].update(momentum=0.9 if step >= 2 * row else 0.0, dampening=0.7)
        run.step()
        run.check()
        assert run.state["buffered"].tolist() == [1.0, float(step >= 2)]


def test_radam_takes_each_member_s_own_branch():
    run = Run(optim.RAdam, {}, seed=5, k=3)
    for optimizer, beta2 in zip(run.optimizers, (0.5, 0.9, 0.999)):
        optimizer.param_groups[0]["betas"] = (0.9, beta2)
    for _ in range(12):
        run.step()
        run.check()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind, flags", EXTREMES)
def test_what_is_not_finite_stays_in_its_row(kind, flags, bad):
    healthy, ill = (Run(kind, flags, seed=11) for _ in range(2))
    others = [row for row in range(len(ill.p)) if row not in (1, 3)]
    for step in range(5):
        each = [ill.gradients() for _ in ill.optimizers]
        healthy.step_stack(each)
        if step == 2:
            each[1][0].view(-1)[2] = bad
            ill.p[3, 4] = bad
        ill.step_stack(each)
    assert not torch.isfinite(ill.p[1]).all() and not torch.isfinite(ill.p[3]).all()
    assert torch.equal(ill.p[others], healthy.p[others])
    for name in ill.state:
        assert torch.equal(ill.state[name][others], healthy.state[name][others]), name
    untouched = torch.arange(ill.p.shape[1]) != 2
    assert torch.equal(ill.p[1, untouched], healthy.p[1, untouched])


@pytest.mark.parametrize("kind, flags", COMPILED)
def test_a_step_compiles_whole(kind, flags):
    """With fullgraph a value read on the host, or a branch on one, is an error."""
    torch._dynamo.reset()
    run = Run(kind, flags, seed=13, alone=[0, 2, 1, 5])
    graphs = []

    def count(graph, example):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(run.rule.update, fullgraph=True, backend=count)
    for _ in range(3):
        run.step(compiled)
    run.check()
    assert len(graphs) == 1, "other numbers are not another program"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_square_root_is_torchs_to_rounding_at_zero_and_at_both_ends_too(dtype):
    values = torch.tensor([0.0, torch.finfo(dtype).tiny, 1e-12, 1.0, 3.0, 1e30, torch.inf], dtype=dtype)
    torch.testing.assert_close(square_root(values), values.sqrt(), rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert square_root(-values[1:]).isnan().all() and square_root(values, out=values) is values

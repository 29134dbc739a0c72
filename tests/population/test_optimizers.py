"""Between torch.optim and rows: a member's state in and out, its options, and what is refused."""

import copy
import re

import pytest
import torch
from torch import optim

from torchtune_hp.population.optimizers import dump_row, flags_of, fresh, load_row, numbers_of, rule_of, why_not
from torchtune_hp.population.rules import RULES

from .rows import EXTREMES, OWN_FLAGS, Run, described


@pytest.mark.parametrize("kind, flags", EXTREMES)
def test_members_may_join_with_steps_behind_them(kind, flags):
    run = Run(kind, flags, seed=6, k=5, alone=[0, 7, 0, 1, 12])
    run.check()
    for _ in range(10):
        run.step()
    run.check()
    if kind is not optim.SGD:
        assert run.state["step"].tolist() == [10, 17, 10, 11, 22]


@pytest.mark.parametrize("kind, flags", EXTREMES)
@pytest.mark.parametrize("steps", [0, 5])
def test_a_dumped_member_goes_on_alone(kind, flags, steps):
    """Also from a state_dict loaded into another optimizer; and it has what torch itself holds: keys, shapes, dtypes, devices."""
    run, twin = (Run(kind, flags, seed=7) for _ in range(2))
    for _ in range(steps):
        run.step()
        twin.step()
    for row, (own, optimizer) in enumerate(zip(run.parameters, run.optimizers)):
        optimizer.state.clear()
        run.dump(row)
        expected = twin.optimizers[row].state
        for parameter, other in zip(own, twin.parameters[row]):
            assert (parameter in optimizer.state) == (other in expected)
            assert described(optimizer.state.get(parameter, {})) == described(expected.get(other, {}))
    loaded = []
    for own, optimizer in zip(run.parameters, run.optimizers):
        copies = [torch.nn.Parameter(p.detach().clone()) for p in own]
        other = kind(copies)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))        # torch's load shares the tensors
        loaded.append((copies, other))
    for _ in range(5):
        each = [run.gradients() for _ in run.optimizers]
        run.step_stack(each)
        for own, optimizer, (copies, other), gradients in zip(run.parameters, run.optimizers, loaded, each):
            run.step_alone(own, optimizer, gradients)
            run.step_alone(copies, other, gradients)
    run.check()
    for row, (own, (copies, _)) in enumerate(zip(run.parameters, loaded)):
        flat = torch.cat([p.detach().reshape(-1) for p in copies])
        bound = 1e-6 if kind is optim.NAdam else 1e-12          # loading casts NAdam's mu_product to the parameters' dtype
        assert torch.allclose(flat, torch.cat([p.detach().reshape(-1) for p in own]), rtol=bound, atol=bound), row


@pytest.mark.parametrize("kind, flags", EXTREMES)
def test_loading_and_dumping_changes_nothing(kind, flags):
    run = Run(kind, flags, seed=8, k=4, alone=[0, 1, 3, 7])
    for row, (own, optimizer) in enumerate(zip(run.parameters, run.optimizers)):
        before = {p: {name: value.clone() for name, value in optimizer.state[p].items()} for p in own if p in optimizer.state}
        run.load(row)
        run.dump(row)
        after = {p: optimizer.state[p] for p in own if p in optimizer.state}
        assert before.keys() == after.keys()
        for p in before:
            assert described(before[p]) == described(after[p])
            assert all(torch.equal(before[p][name], after[p][name]) for name in before[p])


def test_what_is_loaded_does_not_share_memory_with_the_stack():
    run = Run(optim.Adam, {}, seed=8, k=1, alone=[3])
    run.dump(0)
    kept = {name: value.clone() for name, value in run.optimizers[0].state[run.parameters[0][0]].items()}
    run.step_stack([run.gradients()])
    assert all(torch.equal(run.optimizers[0].state[run.parameters[0][0]][name], kept[name]) for name in kept)


def test_nadam_from_a_state_dict_goes_on_in_its_precision():
    """Loading casts mu_product to the dtype of the parameters: from there on torch no longer rounds it to float32."""
    run = Run(optim.NAdam, {}, seed=9, k=3, alone=[4, 4, 4])
    for own, optimizer in zip(run.parameters[:2], run.optimizers):
        optimizer.load_state_dict(optimizer.state_dict())
        assert optimizer.state[own[0]]["mu_product"].dtype == torch.float64
    run.stack(optim.NAdam)
    assert run.state["mu_single"].tolist() == [0, 0, 1]
    for _ in range(20):
        run.step()
    run.check()
    run.dump(0)
    assert run.optimizers[0].state[run.parameters[0][0]]["mu_product"].dtype == torch.float64


def test_with_a_default_dtype_of_float64():
    torch.set_default_dtype(torch.float64)
    try:
        run = Run(optim.NAdam, {}, seed=10, k=3)
        for _ in range(20):
            run.step()
        run.check()
        expected = described(run.optimizers[0].state[run.parameters[0][0]])
        run.dump(0)
        assert described(run.optimizers[0].state[run.parameters[0][0]]) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_fused_torch_optimizers_keep_their_step_in_float32_on_the_device():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = optim.Adam([parameter], fused=True)
    parameter.grad = torch.ones(3)
    optimizer.step()
    expected = described(optimizer.state[parameter])
    rule, flags = rule_of(optimizer), flags_of(optimizer.param_groups[0])
    numbers = {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers_of(optimizer.param_groups[0]).items()}
    state = fresh(rule, flags, parameter.detach().reshape(1, -1), numbers)
    load_row(rule, flags, state, 0, optimizer, [parameter])
    dump_row(rule, flags, state, 0, optimizer, [parameter])
    assert described(optimizer.state[parameter]) == expected
    optimizer.step()


@pytest.mark.parametrize("kind, flags", EXTREMES)
def test_a_row_is_as_good_as_new_after_it_is_loaded_again(kind, flags):
    run = Run(kind, flags, seed=12, k=2)
    expected = {name: tensor.clone() for name, tensor in run.state.items()}
    for _ in range(3):
        run.step_stack([[torch.full_like(g, float("nan")) for g in run.gradients()] for _ in run.optimizers])
    run.load(1)
    for name in run.state:
        assert torch.equal(run.state[name][1], expected[name][1]), name


def test_fresh_state_has_its_names_shapes_and_values():
    numbers = {name: torch.tensor([0.1, 0.2], dtype=torch.float64) for name in RULES[optim.Adagrad].numbers}
    numbers["initial_accumulator_value"] = torch.tensor([0.5, 3.0], dtype=torch.float64)
    for kind, rule in RULES.items():
        for flags in ((), (("amsgrad", True), ("centered", True))):
            p = torch.ones(2, 3, requires_grad=True)
            state = fresh(rule, flags, p, numbers)
            assert set(state) == {*rule.scalars(flags), *rule.tensors(flags)} and rule.scalars(flags)[0] == "step"
            assert all(state[name].shape == (2,) and state[name].dtype == torch.float64 for name in rule.scalars(flags))
            assert all(state[name].shape == (2, 3) and state[name].dtype == p.dtype for name in rule.tensors(flags))
            assert not any(tensor.requires_grad for tensor in state.values())
            assert state["step"].tolist() == [0, 0]
            if kind is optim.Adagrad:
                assert state["sum"].tolist() == [[0.5] * 3, [3.0] * 3]
    assert RULES[optim.Adam].tensors((("amsgrad", True),))[-1] == "max_exp_avg_sq"
    assert RULES[optim.RMSprop].tensors((("centered", True),))[-1] == "grad_avg"


def test_adagrad_begins_at_the_accumulator_it_was_made_with():
    """Torch takes it from the optimizer, also where a param group names another one."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = optim.Adagrad([{"params": [parameter], "initial_accumulator_value": 5.0}], initial_accumulator_value=2.0)
    rule = rule_of(optimizer)
    numbers = {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers_of(optimizer.param_groups[0]).items()}
    for _ in range(2):
        state = fresh(rule, (), torch.ones(1, 3), numbers)
        load_row(rule, (), state, 0, optimizer, [parameter])
        assert state["sum"].tolist() == [[2.0] * 3]
        optimizer.state.clear()


# What is refused ---------------------------------------------------------------------------------------------------------


def test_parameters_with_other_steps_are_refused():
    run = Run(optim.Adam, {}, seed=14, k=1, alone=[2])
    run.optimizers[0].state[run.parameters[0][1]]["step"] += 1
    with pytest.raises(ValueError, match=r"same steps, but 'step' is \[2.0, 3.0\].*a param group of their own"):
        run.load(0)
    del run.optimizers[0].state[run.parameters[0][1]]
    with pytest.raises(ValueError, match="same steps, but 3 of 4 have a 'step'"):
        run.load(0)


def test_a_momentum_buffer_of_some_parameters_only_is_refused():
    run = Run(optim.SGD, {}, seed=14, k=1)
    run.optimizers[0].param_groups[0]["momentum"] = 0.9
    run.step()
    run.optimizers[0].state[run.parameters[0][2]]["momentum_buffer"] = None
    with pytest.raises(ValueError, match="3 of 4 have a 'momentum_buffer'"):
        run.load(0)


def test_missing_state_is_refused():
    run = Run(optim.Adam, {}, seed=14, k=1, alone=[2])
    with pytest.raises(ValueError, match="no 'max_exp_avg_sq'"):
        flags = (("amsgrad", True),)
        load_row(run.rule, flags, fresh(run.rule, flags, run.p, run.numbers), 0, run.optimizers[0], run.parameters[0])


def test_a_momentum_buffer_of_none_is_one_that_has_not_begun():
    run = Run(optim.SGD, {}, seed=14, k=1)
    for parameter in run.parameters[0]:
        run.optimizers[0].state[parameter] = {"momentum_buffer": None}
    run.load(0)
    assert run.state["buffered"].tolist() == [0]


class MyAdam(optim.Adam):
    pass


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda p: MyAdam(p), r"MyAdam is a subclass of torch.optim.Adam"),
        (lambda p: optim.Rprop(p), r"Rprop is none of torch.optim's SGD, Adam, AdamW"),
        (lambda p: optim.Adam(p, capturable=True), r"torch.optim.Adam, param_groups\[0\] has capturable=True"),
        (lambda p: optim.SGD(p, differentiable=True), r"has differentiable=True"),
        (lambda p: changed(optim.SGD(p), nonsense=0.5), r"has nonsense=0.5"),
        (lambda p: optim.SGD([{"params": p, "rho": 0.5}]), r"has rho, no option of this class"),
        (lambda p: without(optim.SGD(p), "dampening"), r"lacks dampening"),
        (lambda p: optim.SGD([torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))]), r"torch.bfloat16, and only float32 and float64"),
        (lambda p: hooked(optim.SGD(p)), r"with a hook on its step"),
        (lambda p: patched(optim.SGD(p)), r"with a `step` of its own"),
    ],
)
def test_what_a_rule_would_not_do_is_named(make, reason):
    optimizer = make([torch.nn.Parameter(torch.ones(2))])
    assert rule_of(optimizer) is None
    assert re.search(reason, why_not(optimizer)) and why_not(optimizer).endswith("trained one by one.")


def changed(optimizer, **options):
    optimizer.defaults.update(options)
    optimizer.param_groups[0].update(options)
    return optimizer


def without(optimizer, name):
    del optimizer.param_groups[0][name]
    return optimizer


def hooked(optimizer):
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def patched(optimizer):
    optimizer.step = lambda: None
    return optimizer


def test_what_does_no_harm_is_not_named():
    """Frozen parameters of another dtype, a scheduler and what it leaves in param_groups, a name, a tensor for an lr, foreach."""
    frozen = torch.nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    group = {"params": [torch.nn.Parameter(torch.ones(2)), frozen], "name": "head"}
    optimizer = optim.SGD([group], lr=torch.tensor(0.25), momentum=0.5, foreach=True)
    optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=9)
    assert rule_of(optimizer) is RULES[optim.SGD] and why_not(optimizer) == ""
    found = numbers_of(optimizer.param_groups[0])
    assert set(found) == set(RULES[optim.SGD].numbers) and all(type(value) is float for value in found.values())
    assert flags_of(optimizer.param_groups[0]) == (("maximize", False), ("nesterov", False))


@pytest.mark.parametrize("kind", list(OWN_FLAGS))
def test_options_are_read_by_their_names(kind):
    group = kind([torch.nn.Parameter(torch.ones(2))], lr=0.125).param_groups[0]
    found = numbers_of(group)
    assert set(found) == set(RULES[kind].numbers) and found["lr"] == 0.125
    if "betas" in group:
        assert (found["beta1"], found["beta2"]) == group["betas"]
    assert {name for name, _ in flags_of(group)} == set(RULES[kind].flags)

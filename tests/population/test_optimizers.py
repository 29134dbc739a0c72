"""Optimizers on stacked rows: each row is what torch.optim makes of it alone, whatever the other rows are."""

import copy
import itertools
import re

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import optim

from torchtune_hp.population.optimizers import dump_row, flags_of, fresh, load_row, numbers_of, rule_of, why_not
from torchtune_hp.population.rules import RULES

SHAPES = ((3, 4), (5,), (), (2, 1, 3))
SIZES = (12, 5, 1, 6)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
OWN_FLAGS = {
    optim.SGD: ("maximize", "nesterov"),
    optim.Adam: ("amsgrad", "decoupled_weight_decay", "maximize"),
    optim.AdamW: ("amsgrad", "maximize"),
    optim.NAdam: ("decoupled_weight_decay", "maximize"),
    optim.RAdam: ("decoupled_weight_decay", "maximize"),
    optim.Adamax: ("maximize",),
    optim.Adagrad: ("maximize",),
    optim.Adadelta: ("maximize",),
    optim.RMSprop: ("centered", "maximize"),
}
PROGRAMS = [
    pytest.param(kind, dict(zip(names, values)), id="-".join([kind.__name__, *(n for n, v in zip(names, values) if v)]))
    for kind, names in OWN_FLAGS.items()
    for values in itertools.product((False, True), repeat=len(names))
]
EXTREMES = [
    pytest.param(kind, dict.fromkeys(names, value), id=f"{kind.__name__}-{'all' if value else 'none'}")
    for kind, names in OWN_FLAGS.items()
    for value in (False, True)
]
"""Every class with all of its flags and with none of them."""

RANGES = {
    "momentum": (0.1, 0.99), "dampening": (0.1, 0.9), "weight_decay": (1e-3, 0.3), "lr_decay": (1e-3, 0.5), "momentum_decay": (1e-3, 0.5),
    "beta1": (0.1, 0.98), "beta2": (0.4, 0.9995), "alpha": (0.4, 0.995), "rho": (0.1, 0.99), "initial_accumulator_value": (0.1, 2.0),
    "lr": (1e-3, 0.1), "eps": (1e-8, 1e-2),
}   # fmt: skip
OFTEN_ZERO = ("momentum", "dampening", "weight_decay", "lr_decay", "momentum_decay", "beta1", "initial_accumulator_value")


class Run:
    """k members, each with its own torch optimizer, and the same members in a stack, fed the same gradients."""

    def __init__(self, kind, flags, seed, k=4, dtype=torch.float64, alone=None):
        self.random = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        self.parameters = [[torch.nn.Parameter(self.draw(shape)) for shape in SHAPES] for _ in range(k)]
        options = [self.options(kind) for _ in range(k)]
        if k > 3:
            options[1]["lr"] = 0.0
        self.optimizers = [self.made(kind, own, {**option, **flags}) for own, option in zip(self.parameters, options)]
        for own, optimizer, steps in zip(self.parameters, self.optimizers, alone or [0] * k):
            for _ in range(steps):
                self.step_alone(own, optimizer, self.gradients())
        self.stack(kind)

    def stack(self, kind):
        self.rule = rule_of(self.optimizers[0])
        assert self.rule is RULES[kind]
        self.flags = flags_of(self.optimizers[0].param_groups[0])
        self.p = torch.stack([torch.cat([p.detach().reshape(-1) for p in own]) for own in self.parameters])
        self.numbers = self.read()
        self.state = fresh(self.rule, self.flags, self.p, self.numbers)
        for row in range(len(self.p)):
            self.load(row)

    def draw(self, shape):
        return torch.randn(shape, generator=self.random, dtype=torch.float64).to(self.dtype)

    def uniform(self, low, high):
        return low + (high - low) * torch.rand((), generator=self.random, dtype=torch.float64).item()

    def number(self, name):
        if name in OFTEN_ZERO and self.uniform(0, 1) < 0.4:
            return 0.0
        return self.uniform(*RANGES[name])

    def options(self, kind):
        found = {name: self.number(name) for name in RULES[kind].numbers}
        if "beta1" in found:
            found["betas"] = (found.pop("beta1"), found.pop("beta2"))
        return found

    def made(self, kind, parameters, options):
        later = {name: options.pop(name) for name in ("momentum", "dampening") if options.get("nesterov")}
        start = {"momentum": 0.5} if later else {}      # what torch refuses to be made with, a schedule can still set
        optimizer = kind(parameters, **options, **start, foreach=False)
        optimizer.param_groups[0].update(later)
        return optimizer

    def gradients(self):
        return [part.view(shape) for part, shape in zip(self.draw((sum(SIZES),)).split(SIZES), SHAPES)]

    def step_alone(self, own, optimizer, gradients):
        for parameter, gradient in zip(own, gradients):
            parameter.grad = gradient.clone()
        optimizer.step()

    def read(self):
        found = [numbers_of(optimizer.param_groups[0]) for optimizer in self.optimizers]
        return {name: torch.tensor([each[name] for each in found], dtype=torch.float64) for name in self.rule.numbers}

    def load(self, row):
        load_row(self.rule, self.flags, self.state, row, self.optimizers[row], self.parameters[row])

    def dump(self, row):
        dump_row(self.rule, self.flags, self.state, row, self.optimizers[row], self.parameters[row])

    def step(self, update=None):
        each = [self.gradients() for _ in self.optimizers]
        for own, optimizer, gradients in zip(self.parameters, self.optimizers, each):
            self.step_alone(own, optimizer, gradients)
        self.step_stack(each, update)

    def step_stack(self, each, update=None):
        self.numbers = self.read()
        before = torch.stack(list(self.numbers.values()))
        g = torch.stack([torch.cat([gradient.reshape(-1) for gradient in gradients]) for gradients in each])
        kept = g.clone()
        (update or self.rule.update)(self.p, g, self.state, self.numbers, self.flags)
        assert torch.allclose(g, kept, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(torch.stack(list(self.numbers.values())), before)

    def check(self):
        for row, (own, optimizer) in enumerate(zip(self.parameters, self.optimizers)):
            self.close(self.p[row], [p.detach() for p in own], f"parameters of member {row}")
            held = [optimizer.state.get(p, {}) for p in own]
            for name in self.rule.tensors(self.flags):
                if name in held[0]:
                    self.close(self.state[name][row], [each[name] for each in held], f"{name} of member {row}")
            for name in self.rule.scalars(self.flags):
                if name in held[0]:
                    assert self.state[name][row].item() == pytest.approx(held[0][name].item(), rel=1e-12), f"{name} of member {row}"

    def close(self, row, parts, what):
        flat = torch.cat([part.reshape(-1) for part in parts])
        assert row.dtype == flat.dtype == self.dtype and torch.isfinite(flat).all(), what
        worst = (row - flat).abs().max().item()
        assert worst <= TOLERANCE[self.dtype] * flat.abs().max().item(), f"{what}: off by {worst}"


@pytest.mark.parametrize("kind, flags", PROGRAMS)
def test_each_row_is_what_torch_makes_of_it_alone(kind, flags):
    run = Run(kind, flags, seed=1)
    for _ in range(50):
        run.step()
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
    for _ in range(10):
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


def described(state):
    return {name: (type(value), value.shape, value.stride(), value.dtype, value.device) for name, value in state.items()}


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


@pytest.mark.parametrize("kind, flags", EXTREMES)
def test_a_row_is_as_good_as_new_after_it_is_loaded_again(kind, flags):
    run = Run(kind, flags, seed=12, k=2)
    expected = {name: tensor.clone() for name, tensor in run.state.items()}
    for _ in range(3):
        run.step_stack([[torch.full_like(g, float("nan")) for g in run.gradients()] for _ in run.optimizers])
    run.load(1)
    for name in run.state:
        assert torch.equal(run.state[name][1], expected[name][1]), name


@pytest.mark.parametrize("kind, flags", [each for each in EXTREMES if each.id.endswith("all") or each.id in ("SGD-none", "Adam-none")])
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
    with pytest.raises(ValueError, match=r"same steps, but 'step' is \[2.0, 3.0\].*one by one"):
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

"""Members with optimizers of their own and the same members as rows of a stack, fed the same gradients; all classes and flags."""

import itertools

import pytest
import torch
from torch import optim

from torchtune_hp.population.optimizers import dump_row, flags_of, fresh, load_row, numbers_of, rule_of
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


def described(state):
    return {name: (type(value), value.shape, value.stride(), value.dtype, value.device) for name, value in state.items()}

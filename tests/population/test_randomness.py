"""Draws that belong to a member: the same alone and in any slot, counted within a step, and never from a global generator."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import distributions as D, nn
from torch.func import vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from torchtune_hp.population.randomness import REPLACED, OwnRandomnessError, key_of, own_randomness

from .drawing import FLOAT64, KEY, drawn, global_generator_stands_still, under  # noqa: F401  (a fixture for all of them)

# Law 1: the key's, not the slot's.

ones, half = torch.ones(4, 3, 5), torch.full((6,), 0.5)
DRAWS = {
    "rand": lambda: torch.rand(3, 2),
    "rand of a tuple": lambda: torch.rand((3, 2)),
    "rand of size=": lambda: torch.rand(size=(3,), dtype=FLOAT64),
    "rand of no dimension": lambda: torch.rand(()),
    "rand in half precision": lambda: torch.rand(9, dtype=torch.bfloat16),
    "rand_like": lambda: torch.rand_like(ones),
    "randn": lambda: torch.randn(7),
    "randn in float64": lambda: torch.randn(7, dtype=FLOAT64),
    "randn_like": lambda: torch.randn_like(ones),
    "randint": lambda: torch.randint(50, (6,)),
    "randint from": lambda: torch.randint(-5, 10**9, (6,)),
    "randint by name": lambda: torch.randint(low=3, high=100, size=(6,)),
    "randint_like": lambda: torch.randint_like(ones, 3, 90),
    "randperm": lambda: torch.randperm(30),
    "bernoulli": lambda: torch.bernoulli(torch.full((40,), 0.5)),
    "Tensor.bernoulli": lambda: torch.zeros(40).bernoulli(0.5),
    "multinomial": lambda: torch.multinomial(torch.ones(2, 9), 6),
    "multinomial with replacement": lambda: torch.multinomial(torch.ones(9), 12, replacement=True),
    "normal of tensors": lambda: torch.normal(ones, 2 * ones),
    "normal of numbers": lambda: torch.normal(1.0, 2.0, (5,)),
    "uniform_": lambda: torch.empty(4).uniform_(-1, 1),
    "normal_": lambda: torch.empty(5, dtype=FLOAT64).normal_(1, 2),
    "bernoulli_": lambda: torch.empty(40).bernoulli_(0.3),
    "exponential_": lambda: torch.empty(4).exponential_(2.0),
    "random_": lambda: torch.empty(4, dtype=torch.int64).random_(),
    "random_ to": lambda: torch.empty(9).random_(100),
    "log_normal_": lambda: torch.empty(4).log_normal_(),
    "cauchy_": lambda: torch.empty(4).cauchy_(),
    "geometric_": lambda: torch.empty(20).geometric_(0.1),
    "dropout": lambda: F.dropout(ones),
    "dropout1d": lambda: F.dropout1d(torch.ones(20, 9, 2)),
    "dropout2d": lambda: F.dropout2d(torch.ones(9, 9, 2, 2)),
    "dropout3d": lambda: F.dropout3d(torch.ones(40, 2, 2, 2)),
    "alpha_dropout": lambda: F.alpha_dropout(ones, training=True),
    "feature_alpha_dropout": lambda: F.feature_alpha_dropout(torch.ones(9, 9, 2), training=True),
    "torch.dropout": lambda: torch.dropout(ones, 0.5, True),
    "gumbel_softmax": lambda: F.gumbel_softmax(torch.zeros(9)),
    "rrelu": lambda: F.rrelu(-ones, training=True),
    "attention": lambda: F.scaled_dot_product_attention(torch.eye(5), torch.eye(5), torch.eye(5), dropout_p=0.5),
    "Normal": lambda: D.Normal(torch.zeros(3), 1.0).rsample(),
    "Categorical": lambda: D.Categorical(logits=torch.zeros(99)).sample((5,)),
    "Beta": lambda: D.Beta(0.2, 0.2).sample((3,)),
    "Gamma": lambda: D.Gamma(0.5, 1.0).rsample((3,)),
    "Exponential": lambda: D.Exponential(torch.ones(3)).sample(),
    "StudentT": lambda: D.StudentT(3.0).rsample((3,)),
    "Gumbel": lambda: D.Gumbel(0.0, 1.0).sample((2,)),
    "stochastic depth": lambda: torchvision.ops.stochastic_depth(torch.ones(64, 2), 0.5, "row", True),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_is_the_same_alone_and_in_any_slot(name):
    draw = under(DRAWS[name])
    alone = draw(KEY)
    others = torch.tensor([11, -(2**63), 2**63 - 1])
    stack = torch.stack([*others[:2], KEY, others[2], KEY + 1])
    fused = vmap(draw, randomness="error")(stack)
    torch.testing.assert_close(fused[2], alone, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(vmap(draw, randomness="error")(KEY[None])[0], alone, rtol=2e-6, atol=1e-6)
    assert not torch.equal(fused[4], alone) and not torch.equal(fused[0], fused[1])
    assert torch.equal(draw(KEY), alone)


def test_integers_masks_and_uniform_numbers_are_the_same_to_the_bit():
    def draw():
        return torch.rand(99), torch.randint(9, (99,)), torch.randperm(99), F.dropout(torch.ones(99), 0.1), torch.rand(99, dtype=FLOAT64)

    alone, fused = drawn(draw), vmap(under(draw), randomness="error")(torch.stack([KEY ^ 1, KEY]))
    assert all(torch.equal(one, many[1]) for one, many in zip(alone, fused))


def test_every_call_draws_anew_and_every_key_too():
    first, second = drawn(lambda: (torch.rand(1000), torch.rand(1000)))
    other = drawn(lambda: torch.rand(1000), KEY + 1)
    seen = torch.cat([first, second, other])
    assert len(seen.unique()) > 2998
    assert key_of(1, "step", 2) != key_of(1, "step", 3) != key_of(2, "step", 3)
    assert 0 <= key_of(1) < 2**63


def test_an_element_does_not_depend_on_how_many_there_are():
    for draw in (torch.rand, torch.randn):
        assert torch.equal(drawn(lambda draw=draw: draw(101))[:40], drawn(lambda draw=draw: draw(4, 10)).flatten())


def test_one_step_counts_on_through_nested_blocks_and_exceptions():
    own = own_randomness(KEY)
    with own:
        first = torch.rand(3)
        with pytest.raises(KeyError), own_randomness(KEY + 1):
            torch.rand(3)
            raise KeyError
        second = torch.rand(3)
    assert own.calls == 2
    pair = drawn(lambda: (torch.rand(3), torch.rand(3)))
    assert torch.equal(first, pair[0]) and torch.equal(second, pair[1])
    assert not torch.overrides._get_current_function_mode_stack()


# Options, refusals, compilation.


def test_options_of_factories_are_kept():
    def draw():
        whole = torch.randint(5, (2,), dtype=torch.int8), torch.randperm(3, dtype=torch.int32)
        like = torch.rand_like(torch.zeros(2), dtype=FLOAT64)
        return (torch.rand(2, dtype=FLOAT64, requires_grad=True), torch.randn(2, device="cpu"), *whole, like,
                torch.randn(0, 3), torch.rand(3, device="meta"))  # fmt: skip

    one, two, three, four, five, six, seven = drawn(draw)
    assert one.requires_grad and one.dtype is FLOAT64 is five.dtype and two.dtype is torch.float32
    assert three.dtype is torch.int8 and four.dtype is torch.int32 and six.shape == (0, 3) and seven.device.type == "meta"
    with torch.device("meta"):
        assert drawn(lambda: torch.rand(3)).device.type == "meta"


@pytest.mark.parametrize(("draw", "named"), [
    (lambda: torch.rand(3, generator=torch.Generator()), "rand"),
    (lambda: torch.empty(3).normal_(generator=torch.Generator()), "normal_"),
    (lambda: torch.randn(3, out=torch.empty(3)), "randn"),
    (lambda: torch.poisson(torch.ones(3)), "poisson"),
    (lambda: torch.binomial(torch.ones(3), half[:3]), "binomial"),
    (lambda: nn.FractionalMaxPool2d(2, output_size=2)(torch.ones(1, 1, 6, 6)), "fractional_max_pool2d"),
    (lambda: nn.init.kaiming_uniform_(torch.ones(3, 3)), "kaiming_uniform_"),
    (lambda: torch.native_dropout(ones, 0.5, True), "native_dropout"),
    (lambda: torch.rand(3, dtype=torch.complex64), "complex64"),
    (lambda: vmap(lambda x: x * torch.rand(3), randomness="different")(ones), "vmap"),
])  # fmt: skip
def test_what_cannot_be_the_member_s_own_raises_and_says_so(draw, named):
    with pytest.raises(OwnRandomnessError, match=named):
        drawn(draw)
    with pytest.raises(RuntimeError):
        vmap(under(draw), randomness="error")(KEY[None])


def test_a_tensor_of_all_members_cannot_be_filled_by_one():
    common = torch.zeros(3)
    with pytest.raises(OwnRandomnessError, match="all members share"):
        vmap(under(lambda: common.uniform_()), randomness="error")(KEY[None])


def test_a_draw_past_the_mode_is_found_out_at_the_end_of_the_block():
    state = torch.get_rng_state()
    with pytest.raises(OwnRandomnessError, match="global generator"), own_randomness(KEY), torch._C.DisableTorchFunction():
        torch.rand(3)
    torch.set_rng_state(state)


def test_every_draw_that_torch_knows_of_is_replaced_or_refused():
    """By the tag that torch gives its random operators, for those that a program can call by name."""
    missing = []
    for schema in torch._C._jit_get_all_schemas():
        name = schema.name.removeprefix("aten::")
        operator = getattr(getattr(torch.ops.aten, name, None), schema.overload_name or "default", None) if "::" in schema.name else None
        if operator is None or torch.Tag.nondeterministic_seeded not in operator.tags:
            continue
        for place in (torch, torch.Tensor):
            function = getattr(place, name, None)
            if callable(function) and function not in REPLACED and not name.startswith("_"):
                missing.append(name)
    assert missing == []


def test_dirichlet_outside_of_a_block_is_torch_s_own():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        concentration = torch.tensor([0.5, 2.0], requires_grad=True)
        sample = D.Dirichlet(concentration).rsample()
        sample[0].backward()
        torch.manual_seed(0)
        assert torch.equal(sample, torch._sample_dirichlet(concentration.detach())) and concentration.grad is not None


@pytest.mark.parametrize("fused", [False, True])
def test_what_is_compiled_draws_the_same(fused):
    def draw(key):
        with own_randomness(key):
            return F.dropout(torch.ones(3, 5), 0.3), torch.rand(3, dtype=FLOAT64), torch.randn(4), torch.randperm(5)

    function = (lambda keys: vmap(draw, randomness="error")(keys)) if fused else draw
    key = torch.stack([KEY, KEY + 1]) if fused else KEY
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    for one, other in zip(compiled(key), function(key)):
        assert torch.equal(one, other)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_checkpointed_draws_the_same_in_the_backward_pass(reentrant):
    """Where weights are ones, the gradient of a weight after the mask is what was kept of its input."""
    weight = torch.ones(40, dtype=FLOAT64, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with own_randomness(KEY, strict=False):
            out = checkpoint(lambda x: F.dropout(x * weight) * weight, weight.detach().clone().requires_grad_(), use_reentrant=reentrant)
        out.sum().backward()
        assert torch.equal(weight.grad, 2 * out.detach()) and 0 < out.count_nonzero() < 40
        torch.manual_seed(0)
        assert torch.equal(F.dropout(weight), out)


def test_a_draw_that_is_checkpointed_is_refused_in_a_stack_and_what_draws_nothing_is_not():
    def member(key, p):
        with own_randomness(key):
            return checkpoint(lambda x: F.dropout(x, p, training=p > 0) + torch.empty(3).fill_(1), torch.ones(3), use_reentrant=False)

    keys = torch.stack([KEY, KEY + 1])
    assert vmap(lambda key: member(key, 0.0), randomness="error")(keys).tolist() == [[2.0] * 3] * 2
    with pytest.raises(OwnRandomnessError, match=r"dropout is made again .* torch\.utils\.checkpoint"):
        vmap(lambda key: member(key, 0.5), randomness="error")(keys)

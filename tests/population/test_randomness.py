"""Draws that belong to a member: the same alone and in any slot, of the right law, and never from a global generator."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torchvision
from scipy import stats
from torch import distributions as D, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from torchtune_hp.population import counter
from torchtune_hp.population.randomness import _REPLACED, OwnRandomnessError, key_of, own_randomness

N = 100_000
LEAST_P = 1e-5
"""Of a test of a law; the keys are fixed, so that what passes once passes always."""

KEY, FLOAT64 = torch.tensor(key_of(7, "step", 3)), torch.float64


@pytest.fixture(autouse=True)
def global_generator_stands_still():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")     # attention and recurrent layers, under vmap
        before = torch.get_rng_state()
        yield
    assert torch.equal(torch.get_rng_state(), before)


def under(draw):
    def drawn(key, *args):
        with own_randomness(key):
            return draw(*args)

    return drawn


def drawn(draw, key=KEY):
    return under(draw)(key)


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


# The laws of distribution.


@pytest.mark.parametrize(("name", "draw", "law"), [
    ("rand", lambda: torch.rand(N), stats.uniform),
    ("rand in float64", lambda: torch.rand(N, dtype=FLOAT64), stats.uniform),
    ("randn", lambda: torch.randn(N), stats.norm),
    ("randn in float64", lambda: torch.randn(N, dtype=FLOAT64), stats.norm),
    ("normal_", lambda: torch.empty(N).normal_(3, 2), stats.norm(3, 2)),
    ("uniform_", lambda: torch.empty(N).uniform_(-2, 1), stats.uniform(-2, 3)),
    ("exponential_", lambda: torch.empty(N).exponential_(2), stats.expon(scale=0.5)),
    ("log_normal_", lambda: torch.empty(N).log_normal_(0, 0.5), stats.lognorm(0.5)),
    ("cauchy_", lambda: torch.empty(N).cauchy_(1, 2), stats.cauchy(1, 2)),
    ("Gamma(0.3)", lambda: D.Gamma(0.3, 1.0).sample((N,)), stats.gamma(0.3)),
    ("Gamma(4)", lambda: D.Gamma(4.0, 1.0).sample((N,)), stats.gamma(4)),
    ("Beta", lambda: D.Beta(0.4, 2.0).sample((N,)), stats.beta(0.4, 2)),
])  # fmt: skip
def test_kolmogorov_smirnov(name, draw, law):
    values = drawn(draw).double().numpy()
    assert stats.kstest(values, law.cdf).pvalue > LEAST_P, name


def counts_fit(values, shares):
    seen = torch.bincount(values.long(), minlength=len(shares)).double().numpy()
    return stats.chisquare(seen, [float(share) * seen.sum() for share in shares]).pvalue > LEAST_P


def test_chi_square_of_whole_numbers():
    assert counts_fit(drawn(lambda: torch.randint(3, 20, (N,))) - 3, [1 / 17] * 17)
    assert counts_fit(drawn(lambda: torch.randint(10**12, (N,))) * 16 // 10**12, [1 / 16] * 16)
    geometric = drawn(lambda: torch.empty(N).geometric_(0.4)).clamp(max=8) - 1
    assert counts_fit(geometric, [*(0.4 * 0.6**i for i in range(7)), 0.6**7])
    shares = torch.tensor([0.1, 0.0, 0.6, 0.3])
    chosen = drawn(lambda: torch.multinomial(shares, N, True))
    assert counts_fit((chosen - 1).clamp(min=0), [0.1, 0.6, 0.3]) and not (chosen == 1).any()
    assert (drawn(lambda: torch.multinomial(shares.expand(N, 4), 1)) == 1).sum() == 0


def test_multinomial_without_replacement_takes_pairs_with_the_right_frequency():
    w = [0.5, 0.3, 0.2]
    pairs = drawn(lambda: torch.multinomial(torch.tensor(w).expand(N, 3), 2))
    expected = {(i, j): w[i] * w[j] / (1 - w[i]) for i in range(3) for j in range(3) if i != j}
    codes = {pair: number for number, pair in enumerate(expected)}
    assert counts_fit(torch.tensor([codes[pair] for pair in map(tuple, pairs.tolist())]), list(expected.values()))


def test_every_permutation_is_equally_likely():
    keys = torch.arange(12_000)
    orders = vmap(under(lambda: torch.randperm(4)), randomness="error")(keys)
    assert torch.equal(orders.sort().values, torch.arange(4).expand(12_000, 4))
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_inverse=True)[1]
    assert codes.max() == 23 and counts_fit(codes, [1 / 24] * 24)


def test_all_32_bits_are_fair_and_change_with_each_bit_of_the_key():
    """A fair bit's share over N draws lies within 5 standard deviations, 5 / (2 sqrt N) = 0.008, of 1/2."""
    hashed = counter.bits(KEY, 0, (N,))
    for bit in range(32):
        assert abs((hashed >> bit & 1).double().mean() - 0.5) < 2.5 / math.sqrt(N)
    for place in range(63):
        flipped = hashed[:2000] ^ counter.bits(KEY ^ (1 << place), 0, (2000,))
        shares = torch.stack([(flipped >> bit & 1).double().mean() for bit in range(32)])
        assert (shares - 0.5).abs().max() < 2.5 / math.sqrt(2000), place


@pytest.mark.parametrize("wide", [False, True])
def test_neighbouring_elements_calls_and_keys_are_uncorrelated(wide):
    """Correlations of 300 x 300 numbers, all within 5 standard deviations, 5 / 300."""
    dtype = FLOAT64 if wide else torch.float32
    by_key = vmap(lambda key: counter.uniform(key, 0, (300,), dtype))(torch.arange(300)).double()
    by_call = torch.stack([counter.uniform(KEY, call, (300,), dtype) for call in range(300)]).double()
    for table in (by_key, by_call):
        table = (table - 0.5) * math.sqrt(12)
        for lag in (1, 2, 3, 7, 16, 64, 128):
            for neighbour in (table.roll(lag, 0), table.roll(lag, 1), table.roll((lag, lag), (0, 1))):
                assert abs((table * neighbour).mean()) < 5 / 300
        assert stats.kstest(stats.norm.sf(table.sum(1).numpy() / math.sqrt(300)), "uniform").pvalue > LEAST_P
        assert stats.kstest(stats.norm.sf(table.sum(0).numpy() / math.sqrt(300)), "uniform").pvalue > LEAST_P


def test_tails_and_ends():
    uniform = drawn(lambda: torch.rand(1_000_000))
    assert uniform.min() >= 0 and uniform.max() < 1 and uniform.min() < 1e-5 and uniform.max() > 1 - 1e-5
    normal = drawn(lambda: torch.randn(1_000_000)).abs()
    assert (normal > 3).sum() == pytest.approx(2700, abs=5 * math.sqrt(2700))
    assert 4.5 < normal.max() < 6.7
    assert drawn(lambda: torch.rand(N, dtype=torch.float16)).max() < 1 and drawn(lambda: torch.rand(N, dtype=torch.bfloat16)).max() < 1
    assert drawn(lambda: torch.empty(N).exponential_()).min() > 0
    assert drawn(lambda: torch.empty(N, dtype=torch.float16).exponential_()).min() > 0


# Dropout.


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("own", [False, True])
def test_dropout_drops_a_share_p_and_keeps_the_mean(p, own):
    rate = torch.tensor(p, dtype=FLOAT64) if own else p
    result = drawn(lambda: F.dropout(torch.ones(N), rate))
    assert (result == 0).double().mean() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / N))
    torch.testing.assert_close(result[result != 0].unique(), torch.tensor([1 / (1 - p)]))
    values = drawn(lambda: F.alpha_dropout(torch.randn(N), rate, True))
    assert abs(values.mean()) < 0.02 and values.std() == pytest.approx(1, abs=0.02)


def test_members_have_rates_of_their_own_0_and_1_among_them():
    rates = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=FLOAT64)
    keys = torch.arange(4)

    def draw(key, p):
        with own_randomness(key):
            units, maps = torch.ones(50), torch.ones(9, 9, 2, 2)
            return F.dropout(units, p), F.dropout2d(maps, p), F.alpha_dropout(units, p, True), torch.rand(3)

    fused = vmap(draw, randomness="error")(keys, rates)
    for row, p in enumerate(rates.tolist()):
        for one, many in zip(draw(keys[row], p), fused):
            torch.testing.assert_close(many[row], one)
    assert torch.equal(fused[0][0], torch.ones(50)) and torch.equal(fused[0][3], torch.zeros(50))


def test_evaluation_mode_and_p_0_give_the_input_back():
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    with own_randomness(KEY) as own:
        for layer in (nn.Dropout(), nn.Dropout1d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()):
            assert layer.eval()(x) is x
        assert own.calls == 0
        assert F.dropout(x, 0.0) is x and own.calls == 1
        with pytest.raises(ValueError, match="0 <= p <= 1"):
            F.dropout(x, 1.5)


def test_channels_are_dropped_whole_and_in_place_means_in_place():
    images = drawn(lambda: F.dropout2d(torch.ones(50, 20, 3, 3)))
    assert set(images.sum((2, 3)).unique().tolist()) == {0.0, 18.0}
    one = drawn(lambda: F.dropout3d(torch.ones(400, 2, 2, 2)))
    assert set(one.sum((1, 2, 3)).unique().tolist()) == {0.0, 16.0}
    x = torch.ones(100)
    assert drawn(lambda: F.dropout(x, inplace=True)) is x and set(x.tolist()) == {0.0, 2.0}


def test_gradients_go_where_the_kept_units_are():
    x = torch.ones(200, requires_grad=True)
    result = drawn(lambda: F.dropout(x, 0.25))
    result.sum().backward()
    assert torch.equal(x.grad, result.detach())
    alpha = torch.tensor([0.5, 2.0], dtype=FLOAT64)
    slopes = vmap(grad(lambda a: drawn(lambda: D.Gamma(a, 1.0, validate_args=False).rsample().sum())))(alpha.expand(3, 2))
    assert (slopes > 0).all()


# Modules.


class Attention(nn.Module):
    def __init__(self, need_weights):
        super().__init__()
        self.attention, self.need_weights = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True), need_weights

    def forward(self, x):
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


class Recurrent(nn.Module):
    def __init__(self, kind, packed=False, **options):
        super().__init__()
        self.layer, self.packed = kind(8, 5, dropout=0.3, **options), packed

    def forward(self, x):
        if self.packed:
            return self.layer(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 4, 3, 2, 2, 1])))[0].data
        values, last = self.layer(x)
        return values.sum() + sum(state.sum() for state in (last if isinstance(last, tuple) else (last,)))


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 6), nn.Linear(3, 8)

    def forward(self, x):
        mean, log_variance = self.encode(x).chunk(2, -1)
        return self.decode(mean + torch.randn_like(mean) * (0.5 * log_variance).exp())


class Mixup(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        weight = D.Beta(0.4, 0.4).sample()
        partner = D.Categorical(torch.ones(len(x))).sample((len(x),))
        return self.layer(weight * x + (1 - weight) * x[partner])


MODULES = {
    "Dropout": lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 8)),
    "Dropout in place": lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2, inplace=True)),
    "Dropout1d": lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout1d()),
    "AlphaDropout": lambda: nn.Sequential(nn.Linear(8, 8), nn.AlphaDropout()),
    "FeatureAlphaDropout": lambda: nn.Sequential(nn.Linear(8, 8), nn.FeatureAlphaDropout()),
    "RReLU": lambda: nn.Sequential(nn.Linear(8, 8), nn.RReLU()),
    "MultiheadAttention": lambda: Attention(False),
    "MultiheadAttention with weights": lambda: Attention(True),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True),
    "LSTM": lambda: Recurrent(nn.LSTM, num_layers=2),
    "LSTM both ways, projected": lambda: Recurrent(nn.LSTM, num_layers=3, bidirectional=True, proj_size=3, batch_first=True),
    "packed LSTM": lambda: Recurrent(nn.LSTM, packed=True, num_layers=2),
    "GRU": lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True),
    "RNN": lambda: Recurrent(nn.RNN, num_layers=2, nonlinearity="relu"),
    "VAE": VAE,
    "mixup": Mixup,
}  # fmt: skip


def members(make, k=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [make().double() for _ in range(k)], torch.randn(4, 6, 8, dtype=FLOAT64)


@pytest.mark.parametrize("name", MODULES)
def test_modules_in_a_stack_draw_as_they_do_alone(name):
    models, x = members(MODULES[name])
    base = models[0]
    keys = torch.tensor([3, 4, 5])

    def loss(parameters, key):
        with own_randomness(key):
            return functional_call(base, parameters, (x,)).square().sum()

    trees = [{name: tensor.detach() for name, tensor in model.named_parameters()} for model in models]
    stacked = {name: torch.stack([tree[name] for tree in trees]) for name in trees[0]}
    for function in (loss, grad(loss)):
        alone = [function(tree, key) for tree, key in zip(trees, keys)]
        fused = vmap(function, randomness="error")(stacked, keys)
        for row in range(3):
            torch.testing.assert_close(torch.utils._pytree.tree_map(lambda part, row=row: part[row], fused), alone[row])
    assert loss(trees[0], keys[0]) != loss(trees[0], keys[1])
    if name not in ("VAE", "mixup"):
        torch.testing.assert_close(drawn(lambda: base.eval()(x)), base(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_layers_between_which_nothing_is_dropped_are_torch_s_own(kind):
    models, x = members(lambda: kind(8, 5, num_layers=3, bidirectional=True))
    layers = models[0]
    own = layers(x)
    torch.testing.assert_close(drawn(lambda: layers(x)), own, rtol=0, atol=0)
    layers.dropout = 1e-9       # so that it is written out layer by layer, and nothing dropped
    torch.testing.assert_close(drawn(lambda: layers(x)), own)


@pytest.mark.parametrize("options", [
    {}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": True}, {"attn_mask": False}, {"enable_gqa": True},
])  # fmt: skip
def test_attention_written_out_is_torch_s_own_where_nothing_is_dropped(options):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 5, 3, generator=generator, dtype=FLOAT64)
                         for heads in (4, *[2 if options.get("enable_gqa") else 4] * 2))  # fmt: skip
    if "attn_mask" in options:
        mask = torch.randn(5, 5, generator=generator, dtype=FLOAT64)
        options = {"attn_mask": (mask > 0).index_fill(0, torch.tensor([1]), False) if options["attn_mask"] else mask}
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(drawn(lambda: F.scaled_dot_product_attention(query, key, value, dropout_p=1e-9, **options)), expected)
    torch.testing.assert_close(drawn(lambda: F.scaled_dot_product_attention(query, key, value, **options)), expected)


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
            if callable(function) and function not in _REPLACED and not name.startswith("_"):
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

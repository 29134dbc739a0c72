"""Modules that draw, attention and recurrent layers among them: in a stack as alone, and torch's own where nothing is dropped."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as D, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from torchtune_hp.population.randomness import own_randomness

from .drawing import FLOAT64, drawn, global_generator_stands_still  # noqa: F401  (a fixture for all of them)


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

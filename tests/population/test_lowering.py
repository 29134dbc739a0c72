"""Lowered layers are torch's own, up to rounding, in values and gradients; what they do not know is torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F

from torchtune_hp.population import lowering
from torchtune_hp.population.lowering import lowered

K, N, IN, OUT = 3, 5, 4, 6


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def both(step: Callable[..., Tensor], in_dims: Any, *args: Tensor, rule: bool = True) -> None:
    """Values and gradients of the sum of sines, with and without; `rule`: whether vmap has one of its own, else it is a loop without."""
    found = []
    for on in (True, False):
        own = [arg.clone().requires_grad_(arg.is_floating_point()) for arg in args]

        def member(*parts: Tensor, on: bool = on) -> Tensor:
            if not on:
                return step(*parts)
            with lowered():
                return step(*parts)

        if on or rule:
            out = vmap(member, in_dims=in_dims)(*own)
        else:
            dims = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(own)
            out = torch.stack([member(*(part if dim is None else part[k] for part, dim in zip(own, dims))) for k in range(K)])
        given = [arg for arg in own if arg.requires_grad]
        found.append((out, *torch.autograd.grad(out.sin().sum(), given, allow_unused=True)))
    for mine, torchs in zip(*found, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-12, atol=1e-12)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was lowered; the others were handed back to torch."""
    names: list[str] = []
    for func, lowering_of in list(lowering._LOWERED.items()):

        def noted(*args: Any, of: Any = lowering_of, **keywords: Any) -> Any:
            found = of(*args, **keywords)
            if found is not None:
                names.append(of.__name__)
            return found

        monkeypatch.setitem(lowering._LOWERED, func, noted)
    return names


@pytest.mark.parametrize("shape", [(IN,), (N, IN), (2, N, IN)])
@pytest.mark.parametrize("shared", [False, True], ids=["own input", "shared input"])
@pytest.mark.parametrize("shared_bias", [False, True], ids=["own bias", "shared bias"])
def test_linear(shape: tuple[int, ...], shared: bool, shared_bias: bool, used: list[str]) -> None:
    x = rows(*shape) if shared else rows(K, *shape)
    b = rows(OUT, seed=2) if shared_bias else rows(K, OUT, seed=2)
    both(F.linear, (None if shared else 0, 0, None if shared_bias else 0), x, rows(K, OUT, IN, seed=1), b)
    assert used


@pytest.mark.parametrize("out", [1, 10, 11])
@pytest.mark.parametrize("shared", [False, True], ids=["own input", "shared input"])
def test_a_narrow_linear_of_many_samples(out: int, shared: bool, used: list[str]) -> None:
    x = rows(40, IN) if shared else rows(K, 40, IN)
    both(F.linear, (None if shared else 0, 0, 0), x, rows(K, out, IN, seed=1), rows(K, out, seed=2))
    assert used
    with lowered():
        found = vmap(F.linear, in_dims=(None if shared else 0, 0, 0))(x, rows(K, out, IN, seed=1), rows(K, out, seed=2))
    assert found.is_contiguous()        # as torch's own is


def test_members_along_another_dimension(used: list[str]) -> None:
    both(F.linear, (1, 2, 1), rows(N, K, IN), rows(OUT, IN, K, seed=1), rows(OUT, K, seed=2))
    assert used


@pytest.mark.parametrize("case", ["no bias", "a shared weight", "a vmap in the hook", "a gradient in the hook", "many dimensions"])
def test_what_linear_leaves_to_torch(case: str, used: list[str]) -> None:
    x, w, b = rows(K, N, IN), rows(K, OUT, IN, seed=1), rows(K, OUT, seed=2)
    if case == "no bias":
        both(F.linear, 0, x, w)
    elif case == "a shared weight":
        both(F.linear, (0, None, 0), x, w[0], b)
    elif case == "a vmap in the hook":
        both(lambda x, w, b: vmap(lambda one: F.linear(one, w, b))(x), 0, x, w, b)
    elif case == "a gradient in the hook":
        both(lambda x, w, b: grad(lambda x: F.linear(x, w, b).square().sum())(x), 0, x, w, b)
    else:
        both(F.linear, 0, rows(K, 2, 2, N, IN), w, b)
    assert not used


def test_autocast(used: list[str]) -> None:
    x, w, b = rows(K, N, IN).float(), rows(K, OUT, IN, seed=1).float().requires_grad_(), rows(K, OUT, seed=2).float()

    def member(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16), lowered():
            return F.linear(x, w, b)

    out = vmap(member)(x, w, b)
    (gradient,) = torch.autograd.grad(out.float().sum(), w)
    assert used and out.dtype == torch.bfloat16 and gradient.dtype == torch.float32
    torch.testing.assert_close(out.float(), torch.baddbmm(b.unsqueeze(1), x, w.transpose(1, 2)), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("options", [{}, {"padding": 1}, {"stride": 2, "padding": "valid"}, {"dilation": 2}])
@pytest.mark.parametrize("bias", ["own", "shared", "none"])
def test_conv2d(options: dict[str, Any], bias: str, used: list[str]) -> None:
    x, w = rows(K, 2, 3, 7, 7), rows(K, 4, 3, 3, 3, seed=1)
    if bias == "none":
        both(lambda x, w: F.conv2d(x, w, **options), 0, x, w)
    else:
        b = rows(4, seed=2) if bias == "shared" else rows(K, 4, seed=2)
        both(lambda x, w, b: F.conv2d(x, w, b, **options), (0, 0, None if bias == "shared" else 0), x, w, b)
    assert used == ["conv2d"]


@pytest.mark.parametrize("case", ["a shared image", "a shared weight", "eight channels", "one channel", "groups", "no batch"])
def test_what_conv2d_leaves_to_torch(case: str, used: list[str]) -> None:
    channels = {"eight channels": 8, "one channel": 1, "groups": 6}.get(case, 3)
    x, w = rows(K, 2, channels, 6, 6), rows(K, 4, channels, 3, 3, seed=1)
    if case == "groups":
        both(lambda x, w: F.conv2d(x, w, groups=2), 0, x, w[:, :, :3])
    elif case == "a shared image":
        both(F.conv2d, (None, 0), x[0], w)
    elif case == "a shared weight":
        both(F.conv2d, (0, None), x, w[0])
    else:
        both(F.conv2d, 0, x[:, 0] if case == "no batch" else x, w)
    assert not used


NORMS = {
    "batch norm": lambda: nn.BatchNorm1d(OUT),
    "without parameters": lambda: nn.BatchNorm1d(OUT, affine=False),
    "without statistics": lambda: nn.BatchNorm1d(OUT, track_running_stats=False),
    "instance norm": lambda: nn.Sequential(nn.Unflatten(1, (2, OUT // 2)), nn.InstanceNorm1d(2, affine=True, track_running_stats=True)),
    "prelu": lambda: nn.PReLU(OUT),
}


@pytest.mark.parametrize("layer", NORMS)
def test_layers_between_linear_ones_under_autocast_give_what_they_give_alone(layer: str) -> None:
    models = []
    for k in range(K):
        torch.manual_seed(k)
        models.append(nn.Sequential(nn.Linear(IN, OUT), NORMS[layer](), nn.Flatten()))
    parameters, buffers = torch.func.stack_module_state(models)
    x = rows(N, IN).float()

    def member(own: dict[str, Tensor], held: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        held = dict(held)
        with torch.autocast("cpu", torch.bfloat16), lowered():
            return torch.func.functional_call(models[0], (own, held), x), held

    found, moved = vmap(member)(parameters, buffers)
    for row, model in enumerate(models):
        with torch.autocast("cpu", torch.bfloat16):
            alone = model(x)
        assert found.dtype == alone.dtype == torch.bfloat16
        torch.testing.assert_close(found[row], alone, rtol=0.02, atol=0.02)
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(moved[name][row], buffer, rtol=1e-3, atol=1e-3)


IMAGES, FILTERS, BIASES = rows(K, 2, 8, 6, 6).float(), rows(K, 8, 8, 3, 3, seed=1).float(), rows(K, 8, seed=2).float()
UNDER_AUTOCAST: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "conv1d": (F.conv1d, [IMAGES[..., 0], FILTERS[..., 0], BIASES]),
    "conv2d": (F.conv2d, [IMAGES, FILTERS, BIASES]),
    "conv2d of few channels": (F.conv2d, [IMAGES[:, :, :3], FILTERS[:, :, :3], BIASES]),
    "conv2d without bias": (F.conv2d, [IMAGES, FILTERS]),
    "conv_transpose2d": (F.conv_transpose2d, [IMAGES, FILTERS, BIASES]),
    "attention": (F.scaled_dot_product_attention, [IMAGES, IMAGES, IMAGES]),
}


@pytest.mark.parametrize("name", UNDER_AUTOCAST)
@pytest.mark.parametrize("smaller", [False, True], ids=["float32", "bf16 before"])
def test_under_autocast_layers_are_in_bf16_as_alone(name: str, smaller: bool) -> None:
    layer, (x, *others) = UNDER_AUTOCAST[name]
    x = x.bfloat16() if smaller else x
    with torch.autocast("cpu", torch.bfloat16):
        with lowered():
            found = vmap(layer)(x, *others)
        alone = torch.stack([layer(*own) for own in zip(x, *others)])
    assert found.dtype == alone.dtype == torch.bfloat16
    torch.testing.assert_close(found, alone, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("shared", [False, True], ids=["own classes", "shared classes"])
@pytest.mark.parametrize("weighted", [False, True], ids=["all alike", "weighted"])
@pytest.mark.parametrize("number", [1, 2, 15, 16, 100], ids=lambda number: f"of {number}")
def test_cross_entropy(number: int, reduction: str, label_smoothing: float, shared: bool, weighted: bool, used: list[str]) -> None:
    classes = torch.randint(number, (N,) if shared else (K, N), generator=torch.Generator().manual_seed(3))
    classes[..., 1] = -100

    def loss(logits: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(logits, classes, weights, reduction=reduction, label_smoothing=label_smoothing)

    weights = rows(number, seed=5).exp() if weighted else None
    both(loss, (0, None if shared else 0), rows(K, N, number), classes, rule=not weighted)
    assert used


@pytest.mark.parametrize("number", [3, 20])
def test_cross_entropy_of_classes_in_a_byte(number: int, used: list[str]) -> None:
    classes = torch.randint(number, (K, N), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    logits = rows(K, N, number)
    with lowered():
        found = vmap(F.cross_entropy)(logits, classes)
    torch.testing.assert_close(found, torch.stack(list(map(F.cross_entropy, logits, classes))))
    assert used


def test_cross_entropy_of_no_class_at_all_is_torchs_nan() -> None:
    with lowered():
        found = vmap(F.cross_entropy)(torch.zeros(K, N, 0), torch.full((K, N), -100))
    assert found.isnan().all()


def test_cross_entropy_of_samples_that_are_all_ignored_is_torchs_nan() -> None:
    classes = torch.tensor([[7, 7], [1, 7]])
    with lowered():
        found = vmap(lambda logits, classes: F.cross_entropy(logits, classes, ignore_index=7))(rows(2, 2, OUT), classes)
    assert found[0].isnan() and found[1].isfinite()


@pytest.mark.parametrize("case", ["probabilities", "own weights", "images", "one sample"])
def test_what_cross_entropy_leaves_to_torch(case: str, used: list[str]) -> None:
    generator = torch.Generator().manual_seed(3)
    logits, classes = rows(K, N, OUT), torch.randint(OUT, (K, N), generator=generator)
    if case == "probabilities":
        both(F.cross_entropy, 0, logits, rows(K, N, OUT, seed=4).softmax(-1))
    elif case == "own weights":
        both(lambda *args: F.cross_entropy(args[0], args[1], args[2]), 0, logits, classes, rows(K, OUT, seed=5).exp())
    elif case == "images":
        both(F.cross_entropy, 0, rows(K, 2, OUT, N), torch.randint(OUT, (K, 2, N), generator=generator))
    else:
        both(F.cross_entropy, 0, logits[:, 0], classes[:, 0])
    assert not used


def test_outside_of_vmap_nothing_is_lowered(used: list[str]) -> None:
    with lowered():
        F.cross_entropy(F.linear(rows(N, IN), rows(OUT, IN), rows(OUT)), torch.zeros(N, dtype=torch.int64))
    assert not used


def test_a_bias_without_dimensions_is_torchs(used: list[str]) -> None:
    """With as many outputs as members it would fit in a wrong way."""
    both(F.linear, 0, rows(K, N, IN), rows(K, K, IN, seed=1), rows(K, seed=2))
    assert not used


LENGTH, HEADS, WIDTH = 4, 2, 6


@pytest.mark.parametrize("shape", [(N, HEADS), (N,), (2, N, HEADS)], ids=["heads", "no heads", "two dimensions of samples"])
@pytest.mark.parametrize("mask", ["none", "causal", "of all", "of each sample", "of each member", "of all, bool"])
@pytest.mark.parametrize("shared", [(), (0,), (1, 2)], ids=["own", "shared query", "shared key and value"])
def test_attention(shape: tuple[int, ...], mask: str, shared: tuple[int, ...], used: list[str]) -> None:
    parts = [rows(*(() if place in shared else (K,)), *shape, LENGTH, WIDTH, seed=place) for place in range(3)]
    own: dict[str, tuple[Tensor, ...]] = {
        "of all": (rows(LENGTH, LENGTH),), "of each sample": (rows(shape[0], *[1] * (len(shape) - 1), LENGTH, LENGTH),),
        "of each member": (rows(K, LENGTH, LENGTH),), "of all, bool": (torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(),),
    }  # fmt: skip
    dims = tuple(None if place in shared else 0 for place in range(3))

    def step(query: Tensor, key: Tensor, value: Tensor, *masks: Tensor) -> Tensor:
        with lowered():
            return F.scaled_dot_product_attention(query, key, value, *masks, is_causal=mask == "causal", scale=0.7)

    every = (*dims, *(0 if mask == "of each member" else None for _ in own.get(mask, ())))
    given = [part.clone().requires_grad_(part.is_floating_point()) for part in (*parts, *own.get(mask, ()))]
    one_by_one = torch.stack([step(*(part if dim is None else part[k] for part, dim in zip(given, every))) for k in range(K)])
    at_once = vmap(step, in_dims=every)(*given)
    assert used == ["scaled_dot_product_attention"]
    learned = [part for part in given if part.requires_grad]
    for mine, alone in zip(*([found, *torch.autograd.grad(found.sin().sum(), learned)] for found in (at_once, one_by_one)), strict=True):
        torch.testing.assert_close(mine, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_attention_of_fewer_heads_to_keys_than_to_queries(used: list[str]) -> None:
    parts = [rows(K, N, heads, LENGTH, WIDTH, seed=heads) for heads in (4, 2, 2)]
    both(lambda *parts: F.scaled_dot_product_attention(*parts, enable_gqa=True), 0, *parts)
    assert used == ["scaled_dot_product_attention"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_layer_has_a_rule_for_all_that_it_calls(training: bool) -> None:
    layers = [nn.TransformerEncoderLayer(WIDTH, HEADS, 8, dropout=0.0, batch_first=True).train(training) for _ in range(K)]
    parameters, _ = torch.func.stack_module_state(layers)  # type: ignore[arg-type]
    x = torch.randn(K, N, LENGTH, WIDTH)
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)

    def member(own: dict[str, Tensor], x: Tensor) -> Tensor:
        with lowered():
            return torch.func.functional_call(layers[0], own, (x,), {"src_mask": mask})

    found = vmap(member)(parameters, x)
    found.sum().backward()
    torch.testing.assert_close(found, torch.stack([layer(part, src_mask=mask) for layer, part in zip(layers, x)]), rtol=1e-5, atol=1e-5)

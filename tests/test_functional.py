"""torchtune_hp.functional: torch's functions, whose numbers may be tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from torchtune_hp import functional
from torchtune_hp.population.randomness import own_randomness

D = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
X = 3 * torch.randn(6, 4, 5, generator=GENERATOR, dtype=D)
X[0, 0, :3] = torch.tensor([0.0, 40.0, -40.0])
TARGET = torch.where(torch.arange(120).view(6, 4, 5) % 7 == 0, X, torch.randn(6, 4, 5, generator=GENERATOR, dtype=D))
CLASSES = torch.tensor([[0, 1, 2, 3, -100]] * 6)
SHARES = torch.randn(6, 4, 5, generator=GENERATOR, dtype=D).softmax(1)
W = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=D)
ROW = torch.rand(5, generator=GENERATOR, dtype=D) + 0.5

Call = Callable[[Any, Tensor, Any], Any]
"""(functions, x, number): `functions` is ours or torch's."""

CASES: dict[str, tuple[str, Call, list[float]]] = {
    "leaky_relu": ("negative_slope", lambda f, x, n: f.leaky_relu(x, n), [0.0, 0.01, 0.5, 1.0]),
    "elu": ("alpha", lambda f, x, n: f.elu(x, n), [0.1, 1.0, 2.0]),
    "celu": ("alpha", lambda f, x, n: f.celu(x, n), [0.25, 1.0, 2.0]),     # torch rounds 1 / alpha to single precision
    "softplus": ("beta", lambda f, x, n: f.softplus(x, n), [0.5, 1.0, 3.0]),
    "softplus threshold": ("beta", lambda f, x, n: f.softplus(x, n, 2.0), [0.5, 1.0, 3.0]),
    "huber": ("delta", lambda f, x, n: f.huber_loss(x, TARGET, delta=n), [0.1, 1.0, 5.0]),
    "huber weighted": ("delta", lambda f, x, n: f.huber_loss(x, TARGET, "sum", n, weight=TARGET.abs()), [0.1, 1.0]),
    "smooth l1": ("beta", lambda f, x, n: f.smooth_l1_loss(x, TARGET, reduction="none", beta=n), [0.0, 0.1, 1.0, 5.0]),
    "cross entropy": ("label_smoothing", lambda f, x, n: f.cross_entropy(x, CLASSES, label_smoothing=n), [0.0, 0.1, 0.7, 1.0]),
    "cross entropy weighted": (
        "label_smoothing", lambda f, x, n: f.cross_entropy(x, CLASSES.clamp(min=0), W, ignore_index=3, label_smoothing=n), [0.0, 0.3]
    ),
    "cross entropy none": (
        "label_smoothing", lambda f, x, n: f.cross_entropy(x, CLASSES, W, reduction="none", label_smoothing=n), [0.0, 0.3]
    ),
    "cross entropy shares": ("label_smoothing", lambda f, x, n: f.cross_entropy(x, SHARES, W, label_smoothing=n), [0.0, 0.3]),
    "layer norm": ("eps", lambda f, x, n: f.layer_norm(x, [5], ROW, ROW, n), [1e-5, 0.1]),
    "layer norm plain": ("eps", lambda f, x, n: f.layer_norm(x, [4, 5], eps=n), [1e-5, 0.1]),
    "batch norm": ("eps", lambda f, x, n: f.batch_norm(x, None, None, W, W, True, 0.1, n), [1e-5, 0.1]),
    "batch norm eval": ("eps", lambda f, x, n: f.batch_norm(x, W, W + 1, training=False, eps=n), [1e-5, 0.1]),
}   # fmt: skip


def of_floats(call: Call, x: Tensor, number: float) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = call(F, x, number)
    (gradient,) = torch.autograd.grad((value * value.detach().cos()).sum(), x)
    return value.detach(), gradient


@pytest.mark.parametrize("case", CASES)
def test_a_tensor_gives_what_the_float_in_it_would_for_each_member(case: str) -> None:
    _, call, numbers = CASES[case]
    x = X.expand(len(numbers), *X.shape).clone().requires_grad_()
    values = vmap(lambda x, n: call(functional, x, n))(x, torch.tensor(numbers, dtype=D))
    (gradients,) = torch.autograd.grad((values * values.detach().cos()).sum(), x)
    for value, gradient, number in zip(values, gradients, numbers):
        expected, slope = of_floats(call, X, number)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_float_is_torch_s_own_to_the_bit(case: str) -> None:
    _, call, numbers = CASES[case]
    for number in numbers:
        assert torch.equal(call(functional, X, number), call(F, X, number))


@pytest.mark.parametrize("case", CASES)
def test_in_a_hook_torch_s_own_functions_take_the_tensor_too(case: str) -> None:
    _, call, numbers = CASES[case]
    with own_randomness(torch.tensor(3), strict=True):
        assert torch.equal(call(F, X, numbers[0]), of_floats(call, X, numbers[0])[0])
        tensors = [call(F, X, torch.tensor(number, dtype=D)) for number in numbers]
    for value, number in zip(tensors, numbers):
        assert torch.equal(value, call(functional, X, torch.tensor(number, dtype=D)))


def test_single_precision_stays_single() -> None:
    x, number = X.float(), torch.tensor(0.3, dtype=D)
    for name in ("leaky_relu", "elu", "celu", "softplus"):
        assert getattr(functional, name)(x, number).dtype is torch.float32
    assert functional.huber_loss(x, TARGET.float(), delta=number).dtype is torch.float32
    assert functional.smooth_l1_loss(x, TARGET.float(), beta=number).dtype is torch.float32
    assert functional.layer_norm(x, [5], eps=number).dtype is torch.float32
    assert functional.batch_norm(x, None, None, training=True, eps=number).dtype is torch.float32
    assert functional.cross_entropy(x, SHARES.float(), label_smoothing=number).dtype is torch.float32


def test_running_statistics_move_by_a_momentum_of_the_member_s_own() -> None:
    ours, theirs = [(torch.full((2, 4), 0.5, dtype=D), torch.full((2, 4), 2.0, dtype=D)) for _ in range(2)]
    momenta = torch.tensor([0.1, 0.6], dtype=D)

    def normed(mean: Tensor, var: Tensor, momentum: Tensor) -> Tensor:
        return functional.batch_norm(X, mean, var, training=True, momentum=momentum)

    value = vmap(normed)(*ours, momenta)
    for k in range(2):
        expected = F.batch_norm(X, theirs[0][k], theirs[1][k], training=True, momentum=float(momenta[k]))
        torch.testing.assert_close(value[k], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_in_place_is_in_place() -> None:
    for name in ("leaky_relu", "elu", "celu"):
        x = X.clone()
        result = getattr(functional, name)(x, torch.tensor(0.5, dtype=D), inplace=True)
        assert result is x
        torch.testing.assert_close(x, getattr(F, name)(X, 0.5), rtol=1e-12, atol=1e-12)


def test_a_class_that_was_masked_out_costs_those_that_do_not_smooth_nothing() -> None:
    x = torch.tensor([[1.0, 2.0, -torch.inf]], dtype=D, requires_grad=True)
    loss = functional.cross_entropy(x, torch.tensor([0]), label_smoothing=torch.tensor(0.0, dtype=D))
    (gradient,) = torch.autograd.grad(loss, x)
    other = x.detach().clone().requires_grad_()
    expected = F.cross_entropy(other, torch.tensor([0]))
    assert torch.equal(loss, expected) and torch.equal(gradient, torch.autograd.grad(expected, other)[0])


def test_gradients_flow_into_the_number() -> None:
    for name, (_, call, numbers) in CASES.items():
        number = torch.tensor(numbers[-1] * 0.9, dtype=D, requires_grad=True)
        (gradient,) = torch.autograd.grad(call(functional, X, number).sum(), number)
        assert bool(gradient.isfinite()), name


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda n: functional.huber_loss(X, TARGET, "most", n), 'reduction must be "mean", "sum" or "none", but got \'most\''),
        (lambda n: functional.layer_norm(X, [4], eps=n), r"the last dimensions must be \(4,\), but the input is \(6, 4, 5\)"),
        (lambda n: functional.batch_norm(X[:1, :, 0], None, None, training=True, eps=n), "more than one value per channel"),
    ],
)
def test_bad_input_is_told(call: Callable[[Tensor], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(torch.tensor(0.5))


def test_the_arguments_are_torch_s_by_torch_s_names() -> None:
    for name in functional.__all__:
        if inspect.isbuiltin(getattr(F, name)):
            continue
        theirs = [each for each in inspect.signature(getattr(F, name)).parameters if each not in ("size_average", "reduce")]
        assert list(inspect.signature(getattr(functional, name)).parameters) == theirs

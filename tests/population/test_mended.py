"""What torch's vmap gets wrong is in a stack what it is for each member alone: values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

from torchtune_hp.population.lowering import lowered

K = 3
FIRST, NONE = torch.tensor([0]), torch.tensor([], dtype=torch.int64)
A, B = torch.randn(K, 4, 5, dtype=torch.float64), torch.randn(K, dtype=torch.float64)
CASES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "roll": (lambda b: torch.roll(b, 1) * b, (B,)),
    "roll by dims": (lambda b: b.roll(1, ()) * b, (B,)),
    "roll of more": (lambda a: a.roll((1, 2), (0, 1)) + a.roll(1), (A,)),
    "index_fill of what is shared": (lambda b: torch.zeros((), dtype=b.dtype).index_fill(0, FIRST, b), (B,)),
    "index_fill of more that is shared": (lambda b: torch.zeros(2, 3, dtype=b.dtype).index_fill(-1, FIRST, b), (B,)),
    "index_fill": (lambda b, v: torch.index_fill(b, 0, FIRST, v) + b.index_fill(-1, NONE, 2.0), (B, B + 7)),
    "index_fill of more": (lambda a, v: a.index_fill(1, FIRST, v), (A, B)),
    "select_scatter": (lambda a: torch.select_scatter(a, a[:, 0] * 2, 1, -1), (A,)),
    "select_scatter of rows": (lambda a, s: a.select_scatter(s, -2, 1), (A, A[:, 0])),
    "select_scatter into what is shared": (lambda s: torch.select_scatter(torch.zeros(4, 5, dtype=s.dtype), s, 0, 1), (A[:, 1],)),
}


@pytest.mark.parametrize("case", list(CASES))
def test_it_is_what_it_is_alone(case: str) -> None:
    step, given = CASES[case]
    mine, own = ([part.clone().requires_grad_() for part in given] for _ in range(2))
    with lowered():
        found = vmap(step)(*mine)
    expected = torch.stack([step(*(part[row] for part in own)) for row in range(K)])
    weights = torch.linspace(0.3, 1.7, expected.numel(), dtype=expected.dtype).view_as(expected)
    for one, other in zip((found, *_gradients(found * weights, mine)), (expected, *_gradients(expected * weights, own)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def _gradients(out: Tensor, given: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out.sum(), given)


@pytest.mark.parametrize("step", [lambda b: b.roll(1, 0), lambda b: torch.select_scatter(b, b, 0, 0)])
def test_what_raises_alone_raises(step: Callable[[Tensor], Tensor]) -> None:
    with lowered(), pytest.raises((IndexError, RuntimeError)):
        vmap(step)(B)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="not in this version of torch")
def test_linear_cross_entropy_with_options() -> None:
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=2)
    target = torch.tensor([0, 3, 1, 2])
    found = []
    for given in (options, None):
        weight = torch.randn(K, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with lowered():
            losses = vmap(lambda a, w, given=given: F.linear_cross_entropy(a, w, target, options=given))(A, weight)
        found.append((losses, *_gradients(losses, [weight])))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)

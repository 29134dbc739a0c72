"""Samples of laws whose parameters are tensors: Bernoulli, multinomial, Gamma and Dirichlet, and by these torch.distributions.

Laws:
1. Parameters may differ from element to element and from member to member.
2. No loop runs until a draw is accepted: under vmap all members take the same steps. A sample without replacement is a ranking, and
   a Gamma draw chooses among counter.TRIES candidates.
3. Gamma and Dirichlet draws have pathwise gradients, as torch's have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import dirichlet

from . import counter
from .mode import known, own_randomness, replaces


@replaces(torch.bernoulli, Tensor.bernoulli)
def _bernoulli(own: own_randomness, input: Tensor, p: float | None = None, **_: Any) -> Tensor:
    return own.hits(input if p is None else p, input.shape, input.device).to(input.dtype)


@replaces(torch.multinomial, Tensor.multinomial)
def _multinomial(own: own_randomness, input: Tensor, num_samples: int, replacement: bool = False, **_: Any) -> Tensor:
    weights = input.detach().to(torch.float64)
    if not replacement:     # the smallest of Exp(1) / w are a sample without replacement (Efraimidis and Spirakis 2006)
        times = counter.exponential(own.words, own.next(), input.shape, torch.float64, input.device)
        return (weights / times).topk(num_samples, -1).indices
    rising = weights.cumsum(-1)
    drawn = own.uniform((*input.shape[:-1], num_samples), torch.float64, input.device) * rising[..., -1:]
    return torch.searchsorted(rising, drawn, right=True).clamp(max=input.shape[-1] - 1)


class _Pathwise(torch.autograd.Function):
    """Logarithms of Gamma(alpha, 1) draws, and how they move with alpha (Figurnov et al. 2018)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(alpha: Tensor, drawn: Tensor) -> Tensor:
        return drawn.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        alpha, drawn = ctx.saved_tensors
        value = drawn.exp().clamp(min=torch.finfo(drawn.dtype).tiny)
        return grads[0] * torch._standard_gamma_grad(alpha, value) / value, None


def _log_gamma(own: own_randomness, alpha: Tensor) -> Tensor:
    work = alpha.to(torch.float64 if known("gamma", alpha.dtype) is torch.float64 else torch.float32)
    drawn = counter.log_gamma(own.words, own.next(2), alpha.shape, work.detach())
    return _Pathwise.apply(work, drawn)  # type: ignore[no-any-return]


@replaces(torch._standard_gamma)
def _standard_gamma(own: own_randomness, input: Tensor, **_: Any) -> Tensor:
    return _log_gamma(own, input).exp().to(input.dtype).clamp(min=torch.finfo(input.dtype).tiny)


@replaces(torch._sample_dirichlet)
def _sample_dirichlet(own: own_randomness, input: Tensor, **_: Any) -> Tensor:
    return _log_gamma(own, input).softmax(-1).to(input.dtype).clamp(min=torch.finfo(input.dtype).tiny)


class _Dirichlet:
    """Stands before torch's function of this name, which neither vmap nor a mode can enter; changes nothing outside of a block."""

    original: Any = dirichlet._Dirichlet

    @staticmethod
    def apply(concentration: Tensor) -> Tensor:
        if isinstance(torch.overrides._get_current_function_mode(), own_randomness):  # type: ignore[no-untyped-call]
            return torch._sample_dirichlet(concentration)
        return _Dirichlet.original.apply(concentration)  # type: ignore[no-any-return]


dirichlet._Dirichlet = _Dirichlet  # type: ignore[misc, assignment]

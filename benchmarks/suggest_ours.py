"""One suggestion, or a batch, by torchtune_hp: from nothing by the functions of `torchtune_hp.gp`, and as a study uses `GPSearch`.

Observations are x (n, d) of the unit cube and y (n,), float64, standardised.
"""

from __future__ import annotations

import torch
from common import timed
from torch import Tensor

from torchtune_hp.gp.acquisition import deviation, log_expected_improvement
from torchtune_hp.gp.climb import Column, Cube
from torchtune_hp.gp.fantasies import Fantasies, fantasize, incumbents, log_noisy_expected_improvement
from torchtune_hp.gp.fit import fit
from torchtune_hp.gp.kernel import Kernel
from torchtune_hp.gp.maximize import batch, pool, starts
from torchtune_hp.gp.regression import Fitted, condition, predict
from torchtune_hp.gp.slopes import scales
from torchtune_hp.gp.threads import bounded
from torchtune_hp.searchers import GPSearch
from torchtune_hp.searchers.gp_history import further
from torchtune_hp.trial import Dim, Report, Setting

SAMPLES, INCUMBENTS, RAW = 16, 16, 512       # RAW: as many points as BoTorch scores


def kernel_of(x: Tensor) -> Kernel:
    return Kernel(tuple(range(x.shape[1])), shape="rbf")        # BoTorch's own default


def cube_of(x: Tensor) -> Cube:
    return Cube([Column()] * x.shape[1], lambda points: points)


def widths(fitted: Fitted) -> Tensor:
    return scales(fitted.kernel, fitted.hyper, fitted.x.shape[1])


def conditioned(x: Tensor, y: Tensor) -> Fitted:
    kernel = kernel_of(x)
    return condition(kernel, x, y, fit(kernel, x, y).hyper)


def one_given(fitted: Fitted, seed: int) -> Tensor:
    """(1, d): where log EI is largest."""
    x, best, cube = fitted.x, fitted.y.amin(), cube_of(fitted.x)
    around = x[fitted.y.argsort(stable=True)[:8]]
    return pool(lambda at: log_ei(fitted, at, best), cube, starts(cube, RAW, around, seed), x, scale=widths(fitted)).x[:1]


def many_given(fitted: Fitted, q: int, seed: int) -> Tensor:
    """(q, d): a batch by log NEI."""
    x, cube = fitted.x, cube_of(fitted.x)
    generator = torch.Generator().manual_seed(seed)
    believed = incumbents(fitted, x, INCUMBENTS)
    normals = torch.randn(SAMPLES, len(believed), dtype=torch.float64, generator=generator)
    imagined: Fantasies = fantasize(fitted, believed, normals)
    begun = starts(cube, max(RAW, 4 * q), believed, seed)
    found = pool(lambda at: log_noisy_expected_improvement(imagined, at), cube, begun, x, scale=widths(fitted))
    return batch(imagined, cube, found, x, torch.randn(SAMPLES, q, dtype=torch.float64, generator=generator))


def ours(x: Tensor, y: Tensor, q: int, seed: int) -> Tensor:
    with bounded(len(x)):       # as GPSearch does
        fitted = conditioned(x, y)
        return one_given(fitted, seed) if q == 1 else many_given(fitted, q, seed)


def as_used(x: Tensor, y: Tensor) -> float:
    """Seconds of one suggestion of GPSearch at the last milestone within n, its share of the fit included."""
    n, d = 2, x.shape[1]
    while n + further(n) <= len(x):
        n += further(n)
    searcher = GPSearch()
    everywhere = Setting(tuple(Dim(f"x{k}", "float") for k in range(d)), lambda at: torch.ones(len(at), dtype=torch.bool), max_t=1)
    searcher.begin(everywhere)
    reports = [Report(k, 1, (value,), 0, tuple(point), done=True) for k, (value, point) in enumerate(zip(y.tolist(), x.tolist()))]
    nobody = x[:0]
    searcher.tell(reports[: n - 1])
    searcher.ask(1, pending=nobody, index=n - 1, seed=0)             # the fits before
    searcher.tell(reports[n - 1 : n])
    fitting = timed(searcher.ask, 1, pending=nobody, index=n, seed=0)()
    asking = timed(searcher.ask, 1, pending=nobody, index=n, seed=1)()
    return asking + max(0.0, fitting - asking) / further(n)


def log_ei(fitted: Fitted, at: Tensor, best: Tensor) -> Tensor:
    mean, square = predict(fitted, at)
    return log_expected_improvement(mean, deviation(square), best)

"""The hyperparameters a Gaussian process most likely has: the maximum of the log posterior, from several starts at once.

    log posterior(raw) = log p(y | x, raw) + log prior(raw)

All elements of the batch (objectives, tasks) and all their starts are rows of one L-BFGS; what is computed for a row does not
depend on the others. The gradient is closed-form (`regression.log_marginal`).

Laws, each a test: a fit is at least as good as each of its starts; more starts never make it worse; same arguments, same bits;
an element of the batch is fitted as it would be alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .kernel import Hyper, Kernel, unpack
from .lbfgs import minimize
from .priors import Prior, default, draw, log_prior, mode
from .regression import log_marginal, refuse
from .threads import bounded

ENTRIES = {"cpu": 2**18, "cuda": 2**26}
"""How many numbers of covariance matrices are in work at once: rows are evaluated in blocks of this size. On a CPU they stay in
its cache (500 points, 4 rows: one by one took 0.6 of the time of all at once); on a GPU this bounds memory, at 4 GiB or so."""


class Fit(NamedTuple):
    """The best row of each element of the batch. `raw` is a warm start for the next fit."""

    raw: Tensor         # (..., p)
    hyper: Hyper        # unpack(kernel, raw)
    value: Tensor       # (...): log posterior; -inf where no start has a finite one, and raw is a start
    converged: Tensor   # (...) bool: whether the gradient vanished there, up to bounds, or no more than `gain` was to be expected


def fit(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    prior: Prior | None = None,
    *,
    start: Tensor | None = None,
    restarts: int = 4,
    seed: int = 0,
    noise: Tensor | None = None,
    steps: int = 200,
    gain: float = 0.0,
) -> Fit:
    """Maximizes the log posterior of y (..., n), standardised, at x (..., n, d). float64; n = 0 gives the prior's mode.

    Rows climb from `start` (..., s, p), if given (a warm start: (..., p).unsqueeze(-2)), and from `restarts` points more: the
    prior's mode, then draws from the prior by `seed`. `noise` (..., n): as in `condition`. `steps`: of L-BFGS, at most. `gain`: a row
    ends where its model promises no more of the log posterior; 0: where the gradient vanishes.
    Raises ValueError for what `condition` refuses, and for no start at all.
    """
    refuse(kernel, x, y)
    prior = default(kernel) if prior is None else prior
    prior = Prior(*(column.to(y.device) for column in prior))
    batch, n = y.shape[:-1], y.shape[-1]
    if len(x.shape[:-2]) > len(batch):
        raise ValueError(f"x may not have batch dimensions that y lacks, but they are {tuple(x.shape)} and {tuple(y.shape)}; expand y")
    starts = _starts(prior, y, start, restarts, seed)
    rows = starts.shape[-2]
    starts = starts.reshape(-1, starts.shape[-1])
    elements = math.prod(batch)
    data = y.reshape(elements, n)
    points = x.expand(*batch, *x.shape[-2:]).reshape(elements, *x.shape[-2:]) if x.ndim > 2 else x
    extra = None if noise is None else noise.expand(*batch, n).reshape(elements, n)
    free = prior.lower < prior.upper

    def objective(point: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """minus the log posterior over n, so that tolerances mean the same for any n."""
        values, gradients = [], []
        for begin in range(0, len(row), size):
            which = row[begin : begin + size]
            r = len(which)
            raw = starts[which]
            raw[:, free] = point[begin : begin + size]
            owner = which // rows
            here, known = points[owner] if points.ndim > 2 else points, None if extra is None else extra[owner]
            told = log_marginal(kernel, here, data[owner], raw, known, (one[:r], two[:r], three[:r], four[:r]))
            believed = log_prior(prior, raw)
            values.append(told[0] + believed[0])
            gradients.append((told[1] + believed[1])[:, free])
        return torch.cat(values) / -max(n, 1), torch.cat(gradients) / -max(n, 1)

    size = max(1, ENTRIES.get(y.device.type, ENTRIES["cpu"]) // max(n * n, 1))
    one, two, three, four = y.new_empty(4, min(size, len(starts)), n, n)
    lower, upper = prior.lower[free], prior.upper[free]
    with bounded(n):
        found = minimize(objective, starts[:, free], lower=lower, upper=upper, steps=steps, promise=2 * gain / max(n, 1))
    raw = starts.clone()
    raw[:, free] = found.point
    value = -found.value * max(n, 1)
    ranked = torch.where(value.isnan(), -math.inf, value).reshape(elements, rows)
    best = ranked.argmax(-1) + rows * torch.arange(elements, device=ranked.device)
    raw = raw[best].reshape(*batch, -1)
    return Fit(raw, unpack(kernel, raw), value[best].reshape(batch), (found.converged & value.isfinite())[best].reshape(batch))


def _starts(prior: Prior, y: Tensor, given: Tensor | None, restarts: int, seed: int) -> Tensor:
    """(..., s, p): where the rows of each element of the batch start."""
    batch, p = y.shape[:-1], len(prior.loc)
    if given is not None and given.shape[-1] != p:
        raise ValueError(f"start must be (..., s, {p}) for this kernel, but is {tuple(given.shape)}")
    drawn = draw(prior, max(restarts - 1, 0), torch.Generator().manual_seed(seed))
    starts = torch.cat([mode(prior)[None], drawn])[:restarts].expand(*batch, restarts, p)
    if given is not None:
        starts = torch.cat([given.clamp(prior.lower, prior.upper).expand(*batch, -1, p), starts], -2)
    if starts.shape[-2] == 0:
        raise ValueError(f"a fit starts somewhere, but there is no start and restarts is {restarts}; give at least one")
    return starts

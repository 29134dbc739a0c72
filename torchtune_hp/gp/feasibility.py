"""Where trials fail: learned from those that did, without a fit of its own.

The probability of success is a beta process whose counts are weighed by the kernel (R. Goetschalckx, P. Poupart and J. Hoey,
"Continuous correlated beta processes", IJCAI 2011):

    p(x) = (r + sum_i k(x, x_i) [i succeeded]) / (1 + sum_i k(x, x_i)),      k(x, x) = 1

Far from all that was tried it is r = (successes + 1) / (tried + 1), as if one trial had been seen everywhere; beside many failures
it goes to 0, and never reaches it. Its lengthscales are those of the objective, the only ones known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kernel import Hyper, Kernel, covariance


def log_success(kernel: Kernel, hyper: Hyper, tried: Tensor, failed: Tensor, x: Tensor) -> Tensor:
    """log of the probability that a trial at x (q, d) does not fail, (q,) float64, where `failed` (n,) bool of those tried (n, d) did.

    Of one process (no batch); differentiable in x. Raises ValueError for other shapes.
    """
    if failed.dtype != torch.bool or tried.ndim != 2 or failed.shape != tried.shape[:1]:
        raise ValueError(
            f"failed must be (n,) bool for tried (n, d), but they are {tuple(failed.shape)} {failed.dtype} and {tuple(tried.shape)}."
        )
    alike = covariance(kernel, hyper._replace(outputscale=torch.ones_like(hyper.outputscale)), x, tried)
    well = (~failed).to(x.dtype)
    everywhere = (well.sum() + 1) / (len(tried) + 1)
    return torch.log((everywhere + alike @ well) / (1 + alike.sum(-1)))

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
    return torch.log((_everywhere(failed) + alike @ well) / (1 + alike.sum(-1)))


def deterrence(kernel: Kernel, hyper: Hyper, tried: Tensor, failed: Tensor, x: Tensor) -> Tensor:
    """What an acquisition's logarithm gains at x (q, d): log_success, and beside failures more, (q,) <= 0.

    With F(x) = sum_i k(x, x_i) [i failed], the failures seen there: log p + F min(0, log p - log r). A failed trial says nothing of the
    objective, so the improvement that was expected there still is, and p falls only as 1 / F: where that improvement is e**6 times what
    is left elsewhere, hundreds of trials would fail one after the other. Where trials fail as often as anywhere, nothing is added.
    """
    probability = log_success(kernel, hyper, tried, failed, x)
    alike = covariance(kernel, hyper._replace(outputscale=torch.ones_like(hyper.outputscale)), x, tried[failed])
    return probability + alike.sum(-1) * (probability - _everywhere(failed).log()).clamp_max(0)


def _everywhere(failed: Tensor) -> Tensor:
    return ((~failed).sum() + 1).double() / (len(failed) + 1)

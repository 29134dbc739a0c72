"""Writes acquisition.json: what BoTorch answers for the acquisitions of torchtune_hp.gp.acquisition and .fantasies.

    python tests/gp/reference/make_acquisition.py        (with botorch installed beside torch)

BoTorch maximizes, so it is given -f. `log_nei` is qLogNoisyExpectedImprovement with 2**16 samples and almost no smoothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botorch
import gpytorch
import torch
from botorch.acquisition import analytic
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.models import SingleTaskGP
from botorch.sampling import SobolQMCNormalSampler


def model(x: torch.Tensor, y: torch.Tensor, hyper: dict[str, Any]) -> SingleTaskGP:
    """A GP of -y with hyperparameters as ours: Matern-5/2, ARD."""
    covariance = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=x.shape[1]))
    made = SingleTaskGP(x, -y[:, None], covar_module=covariance, outcome_transform=None)
    made.covar_module.base_kernel.lengthscale = torch.tensor(hyper["lengthscale"])
    made.covar_module.outputscale = hyper["outputscale"]
    made.likelihood.noise_covar.register_constraint("raw_noise", gpytorch.constraints.Positive())
    made.likelihood.noise = hyper["noise"]
    made.mean_module.constant = -hyper["mean"]
    return made.eval()


def answers() -> dict[str, Any]:
    """In float64 throughout; the default dtype is put back."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return _answers()
    finally:
        torch.set_default_dtype(before)


def _answers() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 2, generator=generator)
    y = torch.sin(6 * x[:, 0]) + x[:, 1] ** 2 + 0.2 * torch.randn(12, generator=generator)
    hyper = {"lengthscale": [0.4, 0.9], "outputscale": 1.3, "noise": 0.04, "mean": 0.1}
    points = torch.rand(40, 2, generator=generator)
    gp, best = model(x, y, hyper), y.min().item()
    each = points[:, None, :]
    common = {"model": gp, "best_f": -best}
    noisy = qLogNoisyExpectedImprovement(
        gp, X_baseline=x, sampler=SobolQMCNormalSampler(torch.Size([2**16]), seed=1), prune_baseline=False, tau_max=1e-6, fat=False
    )
    with torch.no_grad():
        return {
            "versions": {"botorch": botorch.__version__, "gpytorch": gpytorch.__version__, "torch": torch.__version__},
            "x": x.tolist(), "y": y.tolist(), "hyper": hyper, "points": points.tolist(), "best": best,
            "ei": analytic.ExpectedImprovement(**common)(each).tolist(),
            "log_ei": analytic.LogExpectedImprovement(**common)(each).tolist(),
            "pi": analytic.ProbabilityOfImprovement(**common)(each).tolist(),
            "log_pi": analytic.LogProbabilityOfImprovement(**common)(each).tolist(),
            "ucb": analytic.UpperConfidenceBound(gp, beta=2.5)(each).tolist(),
            "log_nei": noisy(each).tolist(),
            "z": [-100.0, -40.0, -39.0, -10.0, -3.0, -1.0, -0.9, 0.0, 1.0, 5.0],
            "log_h": analytic._log_ei_helper(torch.tensor([-100.0, -40.0, -39.0, -10.0, -3.0, -1.0, -0.9, 0.0, 1.0, 5.0])).tolist(),
        }  # fmt: skip


if __name__ == "__main__":
    Path(__file__).with_name("acquisition.json").write_text(json.dumps(answers(), indent=1) + "\n")

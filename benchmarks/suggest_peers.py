"""One suggestion by BoTorch and by Optuna, through their public interfaces, from observations x (n, d) of the unit cube and y (n,)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RAW = 512


def botorch_model(x: Tensor, y: Tensor) -> Any:
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    model = SingleTaskGP(x, -y[:, None], outcome_transform=None)        # it maximizes
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


def botorch_given(model: Any, y: Tensor, q: int) -> Tensor:
    from botorch.acquisition import LogExpectedImprovement
    from botorch.acquisition.logei import qLogExpectedImprovement
    from botorch.optim import optimize_acqf

    worth = LogExpectedImprovement if q == 1 else qLogExpectedImprovement
    bounds = y.new_tensor([0.0, 1.0])[:, None].expand(2, model.train_inputs[0].shape[-1])
    found, _ = optimize_acqf(worth(model, best_f=-y.amin()), bounds, q=q, num_restarts=10, raw_samples=RAW, sequential=q > 1)
    return found.detach()


def botorch(x: Tensor, y: Tensor, q: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return botorch_given(botorch_model(x, y), y, q)


def optuna_study(x: Tensor, y: Tensor) -> Any:
    """A study that holds the observations as finished trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {f"x{k}": optuna.distributions.FloatDistribution(0.0, 1.0) for k in range(x.shape[1])}
    study = optuna.create_study(sampler=optuna.samplers.GPSampler(seed=0))
    study.add_trials([
        optuna.trial.create_trial(params=dict(zip(space, point.tolist())), distributions=space, value=float(value))
        for point, value in zip(x, y)
    ])  # fmt: skip
    return study


def optuna_asked(study: Any, d: int) -> None:
    import optuna

    study.ask({f"x{k}": optuna.distributions.FloatDistribution(0.0, 1.0) for k in range(d)})

"""What BoTorch and GPyTorch say of the same process: posterior and log marginal likelihood, for given hyperparameters.

    python -m tests.gp.reference.regression        writes regression.json beside this file, with the versions

Their kernels are put together to ours: `ScaleKernel` around `MaternKernel(2.5)` or `RBFKernel`, times BoTorch's `CategoricalKernel`
(it takes the mean over its columns where ours takes the sum: its lengthscales are ours over their number), times BoTorch's
`ExponentialDecayKernel` over its value at (1, 1) (its lengthscale is our b, its power our p, its offset our w). Warped numbers go
through BoTorch's `Warp` first (its concentration1 is our a, its concentration0 our b), which by default keeps 1e-7 away from the ends.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

CASES: dict[str, dict[str, Any]] = {
    "rbf, 1 number": {"n": 6, "numbers": [0], "shape": "rbf"},
    "rbf, 5 numbers": {"n": 20, "numbers": [0, 1, 2, 3, 4], "shape": "rbf"},
    "matern52, 1 number": {"n": 1, "numbers": [0], "shape": "matern52"},
    "matern52, 5 numbers": {"n": 25, "numbers": [0, 1, 2, 3, 4], "shape": "matern52"},
    "numbers and categories": {"n": 30, "numbers": [0, 2], "categories": [[1, 3], [3, 2]], "shape": "matern52"},
    "numbers and fidelity": {"n": 30, "numbers": [0, 1], "fidelity": 2, "shape": "matern52"},
    "numbers, categories, fidelity": {"n": 40, "numbers": [0, 3], "categories": [[1, 4]], "fidelity": 2, "shape": "rbf"},
    "warped numbers": {"n": 25, "numbers": [0, 1, 2], "warped": [0, 1, 2], "shape": "matern52"},
    "numbers warped in part, a category": {"n": 30, "numbers": [0, 2, 3], "warped": [3, 0], "categories": [[1, 3]], "shape": "rbf"},
}


def problem(name: str, seed: int) -> dict[str, Any]:
    """A case with x, y, the points asked for, and hyperparameters, as lists."""
    case = {"categories": [], "fidelity": None, "warped": [], **CASES[name]}
    d = len(case["numbers"]) + len(case["categories"]) + (case["fidelity"] is not None)
    rng = np.random.default_rng([11, seed, *name.encode()])
    x, new = rng.random((case["n"], d)), rng.random((7, d))
    for column, levels in case["categories"]:
        x[:, column], new[:, column] = ((np.floor(z * levels) + 0.5) / levels for z in (x[:, column], new[:, column]))
    k = len(case["numbers"]) + len(case["categories"])
    hyper = {
        "lengthscale": np.exp(rng.normal(-0.7, 0.6, k)).tolist(), "outputscale": float(np.exp(rng.normal())),
        "noise": float(np.exp(rng.normal(-4, 1))), "mean": float(rng.normal()),
        "decay": np.exp(rng.normal(-0.5, 0.5, 3)).tolist() if case["fidelity"] is not None else [],
    }  # fmt: skip
    y = rng.normal(size=case["n"]).tolist()
    hyper["warp"] = np.exp(rng.normal(0, 0.7, (2, len(case["warped"])))).tolist() if case["warped"] else None
    return {**case, "x": x.tolist(), "y": y, "new": new.tolist(), "hyper": hyper}


def botorchs(given: dict[str, Any]) -> dict[str, Any]:
    """Its mean, variance and joint covariance at `new`, and its log marginal likelihood."""
    import torch
    from botorch.models import SingleTaskGP
    from botorch.models.kernels import CategoricalKernel
    from botorch.models.kernels.exponential_decay import ExponentialDecayKernel
    from botorch.models.transforms.input import Warp
    from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.mlls import ExactMarginalLogLikelihood

    def tensor(values: Any) -> Any:
        return torch.tensor(values, dtype=torch.float64)

    hyper, numbers, categories = given["hyper"], given["numbers"], given["categories"]
    columns = {"ard_num_dims": len(numbers), "active_dims": numbers}
    kernel: Any = RBFKernel(**columns) if given["shape"] == "rbf" else MaternKernel(nu=2.5, **columns)
    kernel.double().lengthscale = tensor(hyper["lengthscale"][: len(numbers)])
    outputscale = hyper["outputscale"]
    if categories:
        unlike = CategoricalKernel(ard_num_dims=len(categories), active_dims=[column for column, _ in categories]).double()
        unlike.lengthscale = tensor(hyper["lengthscale"][len(numbers) :]) / len(categories)
        kernel = kernel * unlike
    if given["fidelity"] is not None:
        stays, scale, power = hyper["decay"]
        fade = ExponentialDecayKernel(active_dims=[given["fidelity"]]).double()
        fade.lengthscale, fade.power, fade.offset = tensor(scale), tensor(power), tensor(stays)
        kernel = kernel * fade
        outputscale /= stays + (scale / (scale + 2)) ** power
    kernel = ScaleKernel(kernel).double()
    kernel.outputscale = tensor(outputscale)
    x, y = tensor(given["x"]), tensor(given["y"])
    bent = None
    if given["warped"]:
        cube = tensor([[0.0], [1.0]]).expand(2, x.shape[1])
        bent = Warp(d=x.shape[1], indices=given["warped"], eps=1e-15, bounds=cube).double()
        bent._set_concentration(1, tensor(hyper["warp"][0]))
        bent._set_concentration(0, tensor(hyper["warp"][1]))
    model = SingleTaskGP(
        x, y[:, None], likelihood=GaussianLikelihood().double(), covar_module=kernel, input_transform=bent, outcome_transform=None
    )
    model.likelihood.noise = tensor(hyper["noise"])
    model.mean_module.constant.data.fill_(hyper["mean"])
    with torch.no_grad():
        marginal = ExactMarginalLogLikelihood(model.likelihood, model.train())(model(x), y) * len(y)
        posterior = model.eval().posterior(tensor(given["new"]))
        return {
            "mean": posterior.mean[:, 0].tolist(), "variance": posterior.variance[:, 0].tolist(),
            "covariance": posterior.distribution.covariance_matrix.tolist(), "log_marginal": float(marginal),
        }  # fmt: skip


def main() -> None:
    found = [{"name": name, **(given := problem(name, 0)), "botorch": botorchs(given)} for name in CASES]
    said = {name: version(name) for name in ("botorch", "gpytorch", "torch")} | {"cases": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(said, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

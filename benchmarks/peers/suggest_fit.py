"""Fits BoTorch's own model to the problems of suggest_fit.py, once, and keeps what came of it in suggest_fit.json beside this file.

The model is `SingleTaskGP` without transforms (x is in the unit cube and y standardised already), for every other problem with
the Matern-5/2 kernel of the same priors; the fit is `fit_gpytorch_mll` with its defaults. Kept: hyperparameters as our raw, and the
log posterior of all n points (BoTorch's objective is that over n).

    python benchmarks/peers/suggest_fit.py [--to DIR]
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
from botorch.fit import fit_gpytorch_mll  # noqa: E402
from botorch.models import SingleTaskGP  # noqa: E402
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior  # noqa: E402
from gpytorch.mlls import ExactMarginalLogLikelihood  # noqa: E402
from suggest_fit import Problem, problems  # noqa: E402


def fitted(problem: Problem) -> dict[str, Any]:
    kernel = get_covar_module_with_dim_scaled_prior(problem.x.shape[1], use_rbf_kernel=problem.shape == "rbf")
    model = SingleTaskGP(problem.x, problem.y[:, None], covar_module=kernel, outcome_transform=None)
    objective = ExactMarginalLogLikelihood(model.likelihood, model)
    fit_gpytorch_mll(objective)
    objective.train()
    with torch.no_grad():
        value = objective(model(*model.train_inputs), model.train_targets) * len(problem.y)
        raw = torch.cat([
            model.covar_module.lengthscale[0].log(), torch.zeros(1, dtype=torch.float64),
            model.likelihood.noise.log(), model.mean_module.constant[None],
        ])  # fmt: skip
    return {"log_posterior": float(value), "raw": [float(number) for number in raw]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", default=str(HERE), help="folder of the file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for problem in problems():
        torch.manual_seed(problem.number)
        rows.append(fitted(problem))
        print(problem.number, problem.shape, tuple(problem.x.shape), rows[-1]["log_posterior"], flush=True)
    said = {name: version(name) for name in ("botorch", "gpytorch", "torch")} | {"problems": rows}
    (Path(options.to) / "suggest_fit.json").write_text(json.dumps(said, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

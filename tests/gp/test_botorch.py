"""Ours against BoTorch and GPyTorch: the same posterior and the same likelihood for the same hyperparameters.

That the fit finds hyperparameters at least as likely as BoTorch's is shown by benchmarks/suggest_fit.py, and in
small by tests/test_benchmarks.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchtune_hp.gp.kernel import Hyper, Kernel, pack
from torchtune_hp.gp.regression import condition, joint, log_marginal, predict

from .reference.regression import CASES, botorchs, problem

KEPT = json.loads((Path(__file__).parent / "reference" / "regression.json").read_text())


def agree(given: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Posterior and marginal likelihood to 1e-8."""
    x, y, new = (torch.tensor(given[name], dtype=torch.float64) for name in ("x", "y", "new"))
    said = [given["hyper"][name] for name in Hyper._fields]
    hyper = Hyper._make(None if part is None else torch.tensor(part, dtype=torch.float64) for part in said)
    categories = tuple((column, levels) for column, levels in given["categories"])
    kernel = Kernel(tuple(given["numbers"]), categories, (), given["fidelity"], given["shape"], tuple(given["warped"]))
    fitted = condition(kernel, x, y, hyper)
    mean, variance = predict(fitted, new)
    np.testing.assert_allclose(mean, theirs["mean"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(variance, theirs["variance"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(joint(fitted, new)[1], theirs["covariance"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(log_marginal(kernel, x, y, pack(hyper))[0], theirs["log_marginal"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("case", KEPT["cases"], ids=lambda case: case["name"])
def test_posterior_and_likelihood_are_those_botorch_said_when_it_was_asked(case: dict[str, Any]) -> None:
    agree(case, case["botorch"])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_posterior_and_likelihood_are_botorchs(name: str, seed: int) -> None:
    pytest.importorskip("botorch")
    given = problem(name, seed)
    agree(given, botorchs(given))

"""What docs/gp.md says in scikit-learn's words: with the same hyperparameters, the same posterior."""

from __future__ import annotations

import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

from torchtune_hp.gp.fit import fit
from torchtune_hp.gp.kernel import Kernel
from torchtune_hp.gp.regression import condition, predict


def test_the_posterior_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    x, new = (torch.rand(n, 2, dtype=torch.float64, generator=generator) for n in (20, 5))
    y = torch.sin(6 * x[:, 0]) + x[:, 1] + 0.1 * torch.randn(20, dtype=torch.float64, generator=generator)
    y = (y - y.mean()) / y.std()
    kernel = Kernel(numbers=(0, 1))
    hyper = fit(kernel, x, y).hyper
    mean, variance = predict(condition(kernel, x, y, hyper), new)
    theirs = GaussianProcessRegressor(Matern(hyper.lengthscale.tolist(), nu=2.5) + WhiteKernel(hyper.noise.item()), optimizer=None)
    theirs.fit(x.numpy(), (y - hyper.mean).numpy())
    told, deviation = map(torch.as_tensor, theirs.predict(new.numpy(), return_std=True))
    # scikit-learn adds 1e-10 to the noise, and says the variance of an observation.
    assert torch.allclose(mean, told + hyper.mean, atol=1e-7)
    assert torch.allclose(variance + hyper.noise, deviation**2, atol=1e-7)

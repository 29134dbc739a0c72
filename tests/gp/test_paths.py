"""Paths drawn from the posterior: against its mean and covariance, and the kernel for the prior."""

from __future__ import annotations

import pytest
import torch

from torchtune_hp.gp.kernel import Kernel, covariance
from torchtune_hp.gp.paths import draw, evaluate, evaluate_all
from torchtune_hp.gp.regression import condition, joint

from .problems import hyper, process, uniform

KERNELS = {
    "matern": (Kernel((0, 1)), hyper([0.4, 0.8], outputscale=2.0, mean=0.5)),
    "rbf": (Kernel((0, 1), shape="rbf"), hyper([0.4, 0.8], mean=-1.0)),
    "categories": (Kernel((0,), ((1, 3),)), hyper([0.5, 0.7], outputscale=0.5)),
    "conditions": (Kernel((0, 2), ((1, 2),), ((2, 1, 1),)), hyper([0.5, 0.3, 1.2])),
    "fidelity": (Kernel((0,), fidelity=1), hyper([0.5], outputscale=1.5, decay=(0.7, 0.3, 1.2))),
    "warped": (Kernel((0, 1), warped=(1,)), hyper([0.4, 0.8])._replace(warp=torch.tensor([[0.3], [1.4]], dtype=torch.float64))),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", KERNELS)
def test_without_observations_paths_have_the_kernels_covariance(name: str) -> None:
    kernel, parameters = KERNELS[name]
    d = 1 + max([*kernel.numbers, *(column for column, _ in kernel.categories), kernel.fidelity or 0])
    x = uniform(8, d, seed=3)
    empty = condition(kernel, x[:0], x[:0, 0], parameters)
    # Features are shared by the paths of one draw: 40 draws of 500 paths average over 40 * 2048 features.
    drawn = torch.cat([evaluate_all(draw(empty, 500, generator=generator(i), features=2048), x) for i in range(40)])
    expected = covariance(kernel, parameters, x)
    error = 6 * parameters.outputscale.item() * 1.5 / 20_000**0.5
    torch.testing.assert_close(drawn.mT.cov(), expected, rtol=0, atol=error)
    torch.testing.assert_close(drawn.mean(0), parameters.mean.expand(8), rtol=0, atol=error)


def test_paths_have_the_posteriors_mean_and_covariance() -> None:
    fitted, x = process(noise=0.1), uniform(10, 3, seed=5)
    drawn = torch.cat([evaluate_all(draw(fitted, 500, generator=generator(i)), x) for i in range(40)])
    mean, expected = joint(fitted, x)
    error = 6 * expected.diagonal().max().item() * 1.5 / 20_000**0.5
    torch.testing.assert_close(drawn.mT.cov(), expected, rtol=0, atol=error)
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=6 * expected.diagonal().max().sqrt().item() / 20_000**0.5)


def test_paths_go_through_observations_without_noise_and_are_functions() -> None:
    fitted = process(noise=1e-10)
    paths = draw(fitted, 7, generator=generator())
    torch.testing.assert_close(evaluate_all(paths, fitted.x), fitted.y.expand(7, 20), rtol=0, atol=1e-3)
    x = uniform(5, 3, seed=2)
    assert torch.equal(evaluate_all(paths, x), evaluate_all(paths, x))
    torch.testing.assert_close(evaluate_all(paths, x)[3, 2:3], evaluate(paths, x[2:3], torch.tensor([3])), rtol=1e-12, atol=1e-12)
    moved = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: evaluate(paths, x, torch.tensor([0, 1, 2, 3, 6])), moved)


def test_the_same_generator_gives_the_same_paths() -> None:
    fitted, x = process(), uniform(5, 3, seed=2)
    one, same, other = (evaluate_all(draw(fitted, 3, generator=generator(seed)), x) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="features >= 1"):
        draw(process(), 3, generator=generator(), features=0)

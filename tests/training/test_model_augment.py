"""Augmentation: what moves where, how often, and that it stacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.training.augment import cutout, mixup, normalize, random_crop, random_flip
from torchtune_hp.training.seeding import seeded


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with seeded(1):
        yield


def numbered(n: int = 6, channels: int = 2, height: int = 5, width: int = 4) -> torch.Tensor:
    return torch.arange(1.0, n * channels * height * width + 1).reshape(n, channels, height, width)


def test_normalize_is_per_channel_and_scales_whole_numbers() -> None:
    images = torch.full((1, 2, 1, 1), 255, dtype=torch.uint8)
    assert normalize(images, (0.5, 0.0), (0.5, 2.0)).flatten().tolist() == [1.0, 0.5]
    assert normalize(torch.full((1, 2, 1, 1), 3.0), 1.0, 4.0).flatten().tolist() == [0.5, 0.5]


@pytest.mark.parametrize("form", [tuple, list, np.array, lambda each: torch.tensor(each), lambda each: [np.float32(each[0]), each[1]]])
def test_normalize_takes_its_numbers_in_any_form_and_rounds_them_once(form: Any) -> None:
    images, mean, std = torch.rand(2, 2, 3, 3), (0.485, 0.456), (0.229, 0.224)
    right = (images - torch.tensor(mean).reshape(-1, 1, 1)) / torch.tensor(std).reshape(-1, 1, 1)
    assert torch.equal(normalize(images, form(mean), form(std)), right)


def test_a_flip_mirrors_whole_images_about_as_often_as_asked() -> None:
    images = numbered(1000, 1, 2, 3)
    flipped = random_flip(images, 0.3)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ kept).all() and abs(mirrored.float().mean().item() - 0.3) < 0.1      # 7 standard deviations
    assert torch.equal(random_flip(images, 0.0), images) and torch.equal(random_flip(images, 1.0), images.flip(-1))


def test_a_crop_shifts_each_image_by_up_to_the_padding() -> None:
    images = numbered(300)
    cropped = random_crop(images, 1)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    shifts = []
    for i in range(300):
        found = [(a, b) for a in range(3) for b in range(3) if torch.equal(cropped[i], padded[i, :, a : a + 5, b : b + 4])]
        assert len(found) == 1
        shifts += found
    assert len(set(shifts)) == 9        # each of 9 is absent with probability 5e-16
    assert torch.equal(random_crop(images, 0), images)


def test_cutout_blanks_a_square_that_ends_at_the_border() -> None:
    images = torch.ones(400, 2, 6, 6)
    holes = (cutout(images, 3) == 0)
    assert torch.equal(holes[:, 0], holes[:, 1])
    rows, columns = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, holes[:, 0].flatten(1).sum(1))
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3} and holes[:, 0].any(0).all()
    assert cutout(images[:1], 13).sum() == 0 and cutout(images.byte(), 1).dtype == torch.uint8


def test_mixup_combines_each_sample_with_the_one_before_it() -> None:
    x, y = torch.eye(4), torch.tensor([0, 1, 2, 1])
    mixed, targets = mixup(x, y, 0.5, classes=3)
    weight = mixed.diagonal()
    assert torch.allclose(mixed, weight[:, None] * x + (1 - weight[:, None]) * x.roll(1, 0))
    assert torch.allclose(targets[2], torch.tensor([0.0, 1 - weight[2], weight[2]])) and targets.shape == (4, 3)
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with seeded(1):
        again, mixed_values = mixup(x, values, 0.5)
    assert torch.allclose(mixed_values, again.diagonal() * values + (1 - again.diagonal()) * values.roll(1, 0))


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_weights_of_mixup_are_beta_distributed(alpha: float) -> None:
    weight = mixup(torch.ones(20000, 1), torch.arange(20000.0), alpha)[1]
    pairs = torch.arange(20000.0)[1:]
    drawn = (weight[1:] - (pairs - 1)).double()         # w * i + (1 - w) * (i - 1) = i - 1 + w
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(drawn.mean().item() - 0.5) < 7 * (variance / 20000) ** 0.5 and abs(drawn.var().item() - variance) < 0.01


@pytest.mark.parametrize(
    "function",
    [lambda x: random_flip(x), lambda x: random_crop(x, 2), lambda x: cutout(x, 2), lambda x: mixup(x, x[:, 0, 0, 0], 0.3)[0],
     lambda x: normalize(x, (0.1, 0.2), (1.0, 2.0))],
)  # fmt: skip
def test_each_function_stacks(function: Any) -> None:
    images = torch.stack([numbered(), numbered()])
    stacked = torch.vmap(function, randomness="different")(images)
    assert stacked.shape == images.shape and stacked.dtype == images.dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: random_flip(x, 1.5), "`0 <= p <= 1` must hold, but got p=1.5"),
        (lambda x: random_flip(x, -0.1), "got p=-0.1"),
        (lambda x: random_crop(x, -1), "`padding >= 0` must hold, but got -1"),
        (lambda x: cutout(x, 0), "`size >= 1` must hold, but got 0"),
        (lambda x: mixup(x, x, 0.0), "`0 < alpha <= 1` must hold, but got alpha=0.0"),
        (lambda x: mixup(x, x, 1.5), "alpha=1.5"),
        (lambda x: mixup(x, torch.zeros(6).long()), "pass classes=n"),
    ],
)
def test_a_wrong_argument_says_the_law(call: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        call(numbered())


def test_mixup_takes_inputs_that_can_be_mixed_only() -> None:
    images = torch.randint(0, 255, (4, 1, 2, 2), dtype=torch.uint8)
    with pytest.raises(ConfigurationError, match=r"mixup: inputs must be floating point, .* but got torch.uint8. .*hp.normalize"):
        mixup(images, torch.rand(4, 3))
    with pytest.raises(ConfigurationError, match="torch.uint8"):
        mixup(images, torch.arange(4), classes=4)


def test_a_strength_may_be_each_member_s_own() -> None:
    images, targets = torch.rand(4, 1, 6, 6), torch.eye(4)

    def augmented(p: torch.Tensor, alpha: torch.Tensor, size: torch.Tensor) -> Any:
        return random_flip(images, p), cutout(images, size), mixup(images, targets, alpha)

    strengths = torch.tensor([[0.0, 0.01, 1.0], [1.0, 1.0, 4.0]])
    flipped, cut, (mixed, _) = torch.func.vmap(augmented, randomness="different")(*strengths.T)
    assert torch.equal(flipped[0], images) and torch.equal(flipped[1], images.flip(-1))
    assert ((cut[0] == 0).flatten(1).sum(1) == 1).all() and ((cut[1] == 0).flatten(1).sum(1) >= 4).all()
    assert mixed.shape == (2, 4, 1, 6, 6)

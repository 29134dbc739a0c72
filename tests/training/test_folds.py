"""Folds are those of scikit-learn, and no sample is lost."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.training.folds import classes_of, held_out, parts

CPU = torch.device("cpu")


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize(("n", "count", "classes"), [(20, 5, 2), (103, 4, 3), (569, 5, 2), (50, 10, 7), (11, 2, 5)])
def test_folds_of_classes_are_those_of_a_stratified_k_fold(n: int, count: int, classes: int, seed: int) -> None:
    model_selection = pytest.importorskip("sklearn.model_selection")
    y = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed)) * 3 - 4
    found, _ = held_out(n, y, count, seed)
    folds = model_selection.StratifiedKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # a class with fewer samples than folds
        theirs = list(folds.split(np.zeros(n), y.numpy()))
    for fold, (train, test) in enumerate(theirs):
        ours = parts(found, fold, CPU)
        assert ours[0].tolist() == sorted(train.tolist()) and ours[1].tolist() == sorted(test.tolist())


@pytest.mark.parametrize(("n", "count"), [(20, 5), (103, 4), (7, 7), (11, 2)])
def test_folds_without_classes_are_those_of_a_k_fold(n: int, count: int) -> None:
    model_selection = pytest.importorskip("sklearn.model_selection")
    found, how = held_out(n, None, count, 3)
    for fold, (_, test) in enumerate(model_selection.KFold(count, shuffle=True, random_state=3).split(np.zeros(n))):
        assert np.flatnonzero(found == fold).tolist() == test.tolist()
    assert how.startswith("not stratified, for there is no whole number for each sample, last in a tuple or under y, target, ")


def test_each_sample_is_held_out_once_and_each_class_is_spread() -> None:
    y = torch.tensor([0] * 33 + [5] * 17 + [2] * 4)
    found, how = held_out(54, y, 5, 0)
    assert sorted(np.bincount(found)) == [10, 11, 11, 11, 11]
    for label in (0, 5, 2):
        each = np.bincount(found[(y == label).numpy()], minlength=5)
        assert each.max() - each.min() <= 1
    assert how == "stratified by 3 classes; the smallest of them has 4 samples, too few for each fold to have one"
    taken = [set(parts(found, fold, CPU)[1].tolist()) for fold in range(5)]
    assert set.union(*taken) == set(range(54)) and sum(map(len, taken)) == 54
    train, val = parts(found, 2, CPU)
    assert set(train.tolist()) == set(range(54)) - set(val.tolist()) and train.dtype == torch.int64


def test_numbers_of_which_none_comes_often_enough_are_no_classes() -> None:
    found, how = held_out(30, torch.arange(30), 3, 0)
    assert how == "not stratified, for no class has 3 samples" and sorted(np.bincount(found)) == [10, 10, 10]


X, Y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        ((X, Y), Y), ([X, X, Y], Y), ({"x": X, "label": Y}, Y), ({"targets": Y, "x": X}, Y), ((X, Y.bool()), Y.bool()),
        ((X, Y.to(torch.uint8)), Y), (X, None), ((Y,), None), ((Y, X), None), ((X, Y.float()), Y.float()), ((X, Y + 0.5), None),
        ({"x": X, "z": Y}, None), ((X, Y[:, None]), Y), ((X, torch.stack([Y, 1 - Y], 1)), None), ((X, {"y": Y}), None),
    ],
)  # fmt: skip
def test_targets_that_are_integers_are_classes(tree: Any, found: Any) -> None:
    classes = classes_of(tree)
    assert classes is None if found is None else bool((classes == found).all())


def test_more_folds_than_samples_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="folds: each fold holds out a sample at least, but there are 7 folds and 6 samples"):
        held_out(6, Y, 7, 0)

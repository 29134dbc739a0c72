"""A generator is a train function too: it yields its metrics once per unit of budget, and is simply not asked again if stopped.

Here it is scikit-learn that learns. `@hp.trainable` is optional: a plain generator function and a space are enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import torchtune_hp as hp

inputs, labels = load_breast_cancer(return_X_y=True)
x, x_val, y, y_val = train_test_split(StandardScaler().fit_transform(inputs), labels, stratify=labels, random_state=0)


def classify(config: dict[str, Any]) -> Iterator[dict[str, float]]:
    learner = SGDClassifier(loss=config["loss"], alpha=config["alpha"], learning_rate="constant", eta0=config["eta0"])
    for _ in range(9):
        order = np.random.permutation(len(x))       # under the trial's own seed, as all that is drawn in a trial
        learner.partial_fit(x[order], y[order], classes=[0, 1])
        yield {"accuracy": learner.score(x_val, y_val)}


space = {
    "loss": hp.choice(["hinge", "log_loss", "modified_huber"]),
    "alpha": hp.loguniform(1e-6, 1e-1),
    "eta0": hp.loguniform(1e-4, 1e-1),
}
results = hp.tune(classify, space, metric="accuracy", mode="max", trials=30, scheduler=hp.MedianStopping(max_t=9, grace_period=2))
print(f"best of {len(results)}: {results.best.config}, accuracy {results.best.metrics['accuracy']:.3f}; trials: {results.counts()}")

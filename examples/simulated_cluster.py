"""A cluster of 500 workers on a laptop: the scheduler, the searcher and the journal are the real ones, the clock is not.

Nothing is trained. `curve(config, step)` answers for a training: here a formula, for a benchmark a table of recorded learning
curves. So a scheduler can be tried on thousands of trials before a machine is rented. The searcher is named: the default one thinks
about each trial for longer than a formula takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torchtune_hp as hp


def curve(config: Mapping[str, Any], epoch: int) -> dict[str, float]:
    """The error falls to a floor that depends on both hyperparameters; a large learning rate is fast, and comes less far."""
    exponent = math.log10(config["lr"])
    floor = 0.05 + 0.05 * (exponent + 2.5) ** 2 + 0.02 * abs(config["depth"] - 4)
    return {"error": floor + (0.9 - floor) * math.exp(-epoch / (3.0 - exponent))}


def seconds(config: Mapping[str, Any]) -> float:
    """Virtual seconds an epoch takes: two minutes for each layer."""
    return 120.0 * config["depth"]


space = {"lr": hp.loguniform(1e-5, 1.0), "depth": hp.randint(1, 9)}

for scheduler in (hp.FullRuns(max_t=81), hp.ASHA(max_t=81, reduction_factor=3)):
    began = time.monotonic()
    results = hp.Tuner(
        None, space, metric="error", mode="min", trials=5_000, searcher=hp.RandomSearch(), scheduler=scheduler, look_every="grant",
        executor=hp.Simulated(workers=500, curve=curve, seconds=seconds), storage=None, verbose=0,
    ).fit()  # fmt: skip
    real = time.monotonic() - began
    print(f"{type(scheduler).__name__:8} best error {results.best.metrics['error']:.4f} of {len(results)} trials, "
          f"{results.seconds / 3600:.1f} virtual hours, {real:.1f} real seconds")

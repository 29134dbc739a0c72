"""A cluster of 500 workers on a laptop: the scheduler, the searcher and the journal are the real ones, the clock is not.

Nothing is trained. `curve(config, step)` answers for a training: here a formula, for a benchmark a table of recorded learning
curves. So a scheduler can be tried on thousands of trials before a machine is rented.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torchtune_hp as hp


def curve(config: dict[str, Any], epoch: int) -> dict[str, float]:
    """The error falls to a floor that depends on learning rate and depth; deep networks take longer."""
    floor = 0.05 + 0.02 * (math.log10(config["lr"]) + 2.5) ** 2 + 0.3 / config["depth"] ** 2
    return {"error": floor + (0.9 - floor) * math.exp(-epoch / (4 + config["depth"]))}


def seconds(config: dict[str, Any]) -> float:
    """Virtual seconds an epoch takes: two minutes for each layer."""
    return 120.0 * config["depth"]


space = {"lr": hp.loguniform(1e-5, 1.0), "depth": hp.randint(1, 9)}

for scheduler in (hp.FullRuns(max_t=81), hp.ASHA(max_t=81, reduction_factor=3)):
    began = time.monotonic()
    results = hp.Tuner(
        None, space, metric="error", mode="min", time_budget=10 * 3600, scheduler=scheduler, look_every="grant",
        executor=hp.Simulated(workers=500, curve=curve, seconds=seconds), storage=None, verbose=0,
    ).fit()  # fmt: skip
    real = time.monotonic() - began
    print(f"{type(scheduler).__name__:8} {len(results):5} trials, best error {results.best.metrics['error']:.4f}: "
          f"{results.seconds / 3600:.1f} virtual hours, {real:.1f} real seconds")

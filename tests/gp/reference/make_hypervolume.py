"""Writes hypervolume.json: what BoTorch answers for torchtune_hp.pareto and torchtune_hp.gp.hypervolume.

    python tests/gp/reference/make_hypervolume.py        (with botorch installed beside torch)

BoTorch maximizes, so it is given minus everything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botorch
import torch
from botorch.acquisition.multi_objective import ExpectedHypervolumeImprovement, qExpectedHypervolumeImprovement
from botorch.sampling import SobolQMCNormalSampler
from botorch.utils.multi_objective.box_decompositions import NondominatedPartitioning
from botorch.utils.multi_objective.hypervolume import Hypervolume
from botorch.utils.multi_objective.pareto import is_non_dominated
from botorch.utils.testing import MockModel, MockPosterior

torch.set_default_dtype(torch.float64)


def answers() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    volumes, expected, together = [], [], []
    for m in (2, 3, 4):
        for n in (1, 7, 20):
            points, reference = torch.rand(n, m, generator=generator), torch.full((m,), 0.9)
            front = -points[is_non_dominated(-points)]
            volume = Hypervolume(ref_point=-reference).compute(front)
            volumes.append({"points": points.tolist(), "reference": reference.tolist(), "hypervolume": volume})
    for m in (2, 3):
        points, reference = torch.rand(12, m, generator=generator), torch.full((m,), 1.1)
        partitioning = NondominatedPartitioning(ref_point=-reference, Y=-points)
        mean, deviation = torch.rand(20, 1, m, generator=generator), 0.05 + torch.rand(20, 1, m, generator=generator)
        ehvi = ExpectedHypervolumeImprovement(MockModel(MockPosterior(mean=-mean, variance=deviation**2)), -reference, partitioning)
        value = ehvi(torch.zeros(20, 1, 1))
        expected.append({
            "front": points.tolist(), "reference": reference.tolist(), "mean": mean[:, 0].tolist(), "deviation": deviation[:, 0].tolist(),
            "ehvi": value.tolist(),
        })  # fmt: skip
        values = torch.rand(32, 3, m, generator=generator)
        sampler = SobolQMCNormalSampler(torch.Size([1]), seed=0)
        model = MockModel(MockPosterior(samples=-values))
        qehvi = qExpectedHypervolumeImprovement(model, -reference, partitioning, sampler=sampler)
        together.append({
            "front": points.tolist(), "reference": reference.tolist(), "values": values.tolist(),
            "improvement": qehvi(torch.zeros(32, 3, 1)).tolist(),
        })  # fmt: skip
    versions = {"botorch": botorch.__version__, "torch": torch.__version__}
    return {"versions": versions, "volumes": volumes, "expected": expected, "together": together}


if __name__ == "__main__":
    Path(__file__).with_name("hypervolume.json").write_text(json.dumps(answers()) + "\n")

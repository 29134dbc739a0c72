"""64 trials on one frozen backbone: how much memory and time do they take beside one trial, and beside 64 that are trained one by one?

    heads    a linear head on torchvision's ResNet-18, whose weights are frozen and which stays in eval mode: 11.2 million parameters,
             heads of 5,130; images of 64 x 64, batches of 16 that all trials share, so that the backbone's pass is one for all
    LoRA     matrices of rank 4 beside the query and value projections of a frozen transformer (6 layers of width 256, 4.8 million
             parameters, 24,576 of each trial's own); sequences of 32 tokens, batches of 4

Weights are random: what is learnt does not matter. Each case is a process of its own, whose peak of resident memory is taken from before
the study to its end; "one" is the same study with one trial, "copies" one whose trials each have a copy of the backbone. Time is that of
the study, of two passes over 64 samples. "auto" is what `Fused` does by itself: it stacks where that is faster, and the activations of a
stack are each trial's own. The best trial's weights are kept, as by default, in memory.

The claims would be false if trials were trained otherwise than alone (tests/population/test_common.py compares them), or if memory were
left out: the peak holds weights, gradients, optimizer state and activations.

    python benchmarks/frozen.py [--quick] [--results DIR]
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import common
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchtune_hp as hp

TRIALS, SAMPLES = 64, 64
WIDTH, LAYERS, RANK, TOKENS = 256, 6, 4, 32


class Headed(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(512, 10)

    def train(self, mode: bool = True) -> Headed:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def resnet() -> nn.Module:
    from torchvision.models import resnet18

    made = resnet18(weights=None)
    made.fc = nn.Identity()
    return made


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, own: Lora) -> Tensor:
        h = self.norm_1(x)
        parts = self.q(h) + h @ own.q_a @ own.q_b, self.k(h), self.v(h) + h @ own.v_a @ own.v_b
        q, k, v = (part.unflatten(-1, (8, -1)).transpose(-3, -2) for part in parts)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))  # type: ignore[no-any-return]


class Lora(nn.Module):
    """What a trial has of its own in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.q_a, self.v_a = (nn.Parameter(torch.randn(WIDTH, RANK) * 0.02) for _ in range(2))
        self.q_b, self.v_b = (nn.Parameter(torch.zeros(RANK, WIDTH)) for _ in range(2))


class Adapted(nn.Module):
    def __init__(self, backbone: nn.ModuleList) -> None:
        super().__init__()
        self.backbone, self.own = backbone, nn.ModuleList([Lora() for _ in backbone])

    def forward(self, x: Tensor) -> Tensor:
        for block, own in zip(self.backbone, self.own):
            x = block(x, own)
        return x.mean(-2)[..., :10]


def transformer() -> nn.Module:
    return nn.ModuleList([Block() for _ in range(LAYERS)])


KINDS: dict[str, tuple[Any, Any, tuple[int, ...], int]] = {
    "heads": (resnet, Headed, (3, 64, 64), 16), "LoRA": (transformer, Adapted, (TOKENS, WIDTH), 4)
}  # fmt: skip


class Search(hp.ModelTrainable):
    def setup(self, config: Any, kind: str, backbone: nn.Module, copies: bool) -> None:
        self.model = KINDS[kind][1](copy.deepcopy(backbone) if copies else backbone)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=config["lr"])

    @classmethod
    def data(cls, kind: str) -> hp.Data:
        _, _, shape, batch = KINDS[kind]
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(SAMPLES, *shape, generator=generator), torch.randint(0, 10, (SAMPLES,), generator=generator)
        return hp.Data(train=(x, y), batch_size=batch, order="shared")

    def training_step(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])


STRATEGIES: dict[str, Any] = {"auto": "auto", "loop": "loop"}


def case(kind: str, trials: int, how: str) -> dict[str, float]:
    """Runs in a process of its own. `how`: "auto", "one stack", "loop", or "copies"."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = KINDS[kind][0]().requires_grad_(False).eval()
    own = sum(p.numel() for p in KINDS[kind][1](backbone).parameters() if p.requires_grad)
    held = sum(tensor.nbytes for tensor in (*backbone.parameters(), *backbone.buffers()))
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])      # the first optimizer of a process imports what it needs
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")       # the peak begins anew
    before, began = resident("VmRSS"), time.perf_counter()
    hp.tune(
        hp.with_parameters(Search, kind=kind, backbone=backbone, copies=how == "copies"), {"lr": hp.loguniform(1e-5, 1e-2)},
        metric="train_loss", mode="min", trials=trials, scheduler=hp.FullRuns(max_t=2), searcher=hp.RandomSearch(), seed=0,
        executor=hp.Fused(trials, strategy=STRATEGIES.get(how, "vmap")), storage=None, verbose=0,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    return {"peak_MB": (resident("VmHWM") - before + held) / 1e6, "seconds": seconds, "backbone_MB": held / 1e6, "own_MB": 4e-6 * own}


def resident(name: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measured(kind: str, trials: int, copies: bool) -> dict[str, Any]:
    cases = {"one": (1, "loop"), "auto": (trials, "auto"), "one stack": (trials, "one stack"), "loop": (trials, "loop")}
    cases |= {"copies": (trials, "copies")} if copies else {}
    found = {}
    for name, (count, how) in cases.items():
        ran = subprocess.run([sys.executable, __file__, "--case", kind, str(count), how], check=True, capture_output=True, text=True)
        found[name] = json.loads(ran.stdout.splitlines()[-1])
        print(f"{kind}, {name}: {found[name]['peak_MB']:.0f} MB, {found[name]['seconds']:.2f} s", flush=True)
    one = found["one"]
    # AdamW holds two numbers for each of a trial's own, beside it and its gradient
    least = one["peak_MB"] + 4 * trials * one["own_MB"]
    return {"kind": kind, "cases": found, "memory": {how: found[how]["peak_MB"] / least for how in ("auto", "one stack")}}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="8 trials of heads, without copies")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, help="folder for the result; the full form's default is benchmarks/results")
    options = parser.parse_args(arguments)
    if options.case:
        kind, trials, how = options.case
        print(json.dumps(case(kind, int(trials), how)))
        return {}
    trials, kinds = (8, ["heads"]) if options.quick else (TRIALS, list(KINDS))
    where, probed = common.environment("torchvision"), common.probes()
    common.heading(where, probed)
    results = [measured(kind, trials, not options.quick) for kind in kinds]
    rows = [
        [f"{each['kind']}, {name}", found["peak_MB"], found["seconds"]] for each in results for name, found in each["cases"].items()
    ]  # fmt: skip
    common.table(f"{trials} trials", ["", "peak, MB", "seconds"], rows)
    goals = [
        common.Goal(f"{each['kind']}, {how}: memory over that of one and all trials' own", memory, "<=", 2.0)
        for each in results for how, memory in each["memory"].items()
    ]  # fmt: skip
    common.show_goals(goals)
    result = {"environment": where, "probes": probed, "quick": options.quick, "trials": trials, "results": results}
    result["goals"] = common.goals_json(goals)
    common.save("frozen", options.results or (None if options.quick else common.HERE / "results"), result)
    return result


if __name__ == "__main__":
    main()

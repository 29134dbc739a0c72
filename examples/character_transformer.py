"""A transformer that learns to spell: next characters of English text, with a warm-up and a cosine of each trial's own.

The text is what Python says of itself (`pydoc` topics), the model two layers of torch's own TransformerEncoderLayer under a causal
mask. A unit of budget is 50 updates (`iteration = 50`): a pass over the data would be too long a time before the first look. The
schedule is stepped after each update; clipping is per trial.
"""

from __future__ import annotations

import math
from pydoc_data.topics import topics
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchtune_hp as hp

CONTEXT, WIDTH, HEADS, UPDATES = 32, 32, 2, 50

text = "\n".join(topics[name] for name in sorted(topics))[:200_000]
letters = sorted(set(text))
codes = torch.tensor([letters.index(letter) for letter in text])
lines = codes[: len(codes) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)      # each gives 32 letters and what follows each


class Speller(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(len(letters), WIDTH), nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        layer = [nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout, batch_first=True, norm_first=True) for _ in range(2)]
        self.layers, self.norm, self.head = nn.ModuleList(layer), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(letters))
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -math.inf).triu(1))

    def forward(self, codes: Tensor) -> Tensor:
        """(n, t) letters -> (n, t, letters) logits of what comes next."""
        t = codes.shape[1]
        x = self.letter(codes) + self.place[:t]
        for layer in self.layers:
            x = layer(x, src_mask=self.mask[:t, :t])
        return self.head(self.norm(x))


class Spelling(hp.ModelTrainable):
    iteration, lr_step, max_grad_norm = UPDATES, "update", 1.0

    def setup(self, config: dict[str, Any]) -> None:
        self.model = Speller(config["dropout"])
        betas, decay = (0.9, config["beta2"]), config["wd"]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config["lr"], betas=betas, weight_decay=decay)
        self.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config["lr"], total_steps=(self.max_t or 1) * UPDATES, pct_start=config["warmup"]
        )

    @classmethod
    def data(cls) -> hp.Data:
        return hp.Data(train=lines[:-500], val=lines[-500:], batch_size=16)

    def training_step(self, model: nn.Module, batch: Tensor) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def validation_step(self, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        return {"bits": F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()) / math.log(2)}


results = hp.Tuner(
    Spelling,
    {
        "lr": hp.loguniform(1e-3, 3e-2), "warmup": hp.uniform(0.05, 0.5), "beta2": hp.uniform(0.9, 0.999), "wd": hp.loguniform(1e-3, 1.0),
        "dropout": hp.uniform(0.0, 0.3),
    },
    metric="bits", mode="min", trials=16, scheduler=hp.ASHA(max_t=9, reduction_factor=3), executor=hp.Fused(16, strategy="vmap"), seed=0,
).fit()  # fmt: skip

print(f"trained as {results.members_per_stack}")
print(f"the best of {len(results)}: {results.best.metrics['bits']:.3f} bits a letter, with {results.best.config}")
model, said = results.best.load(), [letters.index(letter) for letter in "The "]
torch.manual_seed(0)
with torch.no_grad():
    for _ in range(76):
        chances = (model(torch.tensor([said[-CONTEXT:]]))[0, -1] / 0.7).softmax(-1)
        said.append(int(torch.multinomial(chances, 1)))
print("it says:", repr("".join(letters[code] for code in said)))

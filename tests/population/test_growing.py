"""A buffer that grows in forward, as a memory bank does, is each member's own in its whole size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchtune_hp.population.engine import Engine

from .test_engine import Toy, runners, same


class Bank(nn.Module):
    """Its last outputs are kept in a buffer, which grows; a table that no checkpoint needs is read alone."""

    def __init__(self, rows: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("bank", torch.empty(rows, 3))
        self.register_buffer("table", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x) * self.table
        if self.training:
            self.bank = torch.cat([found.detach(), self.bank])
        return found


class Banked(Toy):
    def build(self, config: Any) -> nn.Module:
        return Bank()

    def training_step(self, model: Any, batch: Any) -> Any:
        found = model(batch[0])
        return nn.functional.cross_entropy(found, batch[1]) + 0.1 * (found @ model.bank.T).square().mean()


class BankedAndHooked(Banked):
    def on_iteration_end(self, metrics: dict[str, float]) -> None:
        self.model.bank = self.model.bank[: 100 * self.config["steps"]]


@pytest.mark.parametrize("cls", [Banked, BankedAndHooked])
def test_a_buffer_that_grows_is_written_back_whole(cls: type[Banked]) -> None:
    engine = Engine(strategy="vmap")
    ours, theirs = runners(cls), runners(cls)
    for _ in range(3):
        looks = engine.advance(ours)
        same([[looks[each]] for each in ours], [[each.advance()] for each in theirs])
    for one, other in zip(ours, theirs):
        version = one.member.model.table._version
        engine.settle(one)
        torch.testing.assert_close(one.member.model.bank, other.member.model.bank)
        assert one.member.model.table._version == version


def test_members_whose_buffers_grew_to_another_size_share_no_stack() -> None:
    said: list[str] = []
    engine = Engine(lambda kind, text: said.append(text), strategy="vmap")
    ours, theirs = runners(Banked), runners(Banked)
    for members in (slice(4), slice(1, 5), slice(5)):
        looks = engine.advance(ours[members])
        same([[looks[each]] for each in ours[members]], [[each.advance()] for each in theirs[members]])
    assert any("one that grows must grow in all that share a stack alike" in text for text in said)

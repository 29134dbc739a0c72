"""The contract of a searcher: where to look.

A searcher lives in the unit cube. It never sees a config, a clock or a device. An author writes `ask`, and `tell` if the
searcher learns; `Base` does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..trial import Report, Setting

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Searcher(Protocol):
    """Where to look.

    Laws:
    1. `ask` changes nothing, bits included: same setting, told reports, pending, index and seed, same points.
    2. Points lie in [0, 1] and are feasible; where the setting has rows, each point is one of them, and no row comes twice.
    3. Not adaptive: row i depends on (seed, i) alone, whatever `n` it was asked with. The study then takes large blocks.
    4. `left` is how many points there are in all, from index 0 on (a grid of 12 has 12); None: no end. Never asked beyond.
    """

    adaptive: bool

    def begin(self, setting: Setting) -> None:
        """Once, before anything else."""
        ...

    def ask(self, n: int, *, pending: Tensor, index: int, seed: int) -> Tensor:
        """Points number `index` to `index + n - 1`: (n, d) float64.

        `pending` (p, d) float64: where trials run after this turn, p may be 0 (always 0 rows if not adaptive).
        """
        ...

    def tell(self, reports: Sequence[Report]) -> None:
        """Every look of every trial, not only the last: the fidelity is `report.step`."""
        ...

    def left(self) -> int | None:
        """How many points there are in all; None: no end."""
        ...


class Base:
    """What searchers have in common. Constructor arguments are kept as attributes of the same names: the journal reads them."""

    adaptive = False
    learns_from_sources = False
    """Whether `Setting.sources`, earlier studies, are learned from. No part of the contract: may be missing."""
    setting: Setting

    def begin(self, setting: Setting) -> None:
        self.setting = setting

    def tell(self, reports: Sequence[Report]) -> None:
        """Learns nothing."""

    def notes(self) -> list[str]:
        """What the study's log should say of how points are chosen, since it was last asked. No part of the contract: may be missing.

        Said of what was told, in `begin` and `tell`; never of an `ask`, which changes nothing.
        """
        return []

    def left(self) -> int | None:
        return None if self.setting.rows is None else len(self.setting.rows)

"""Earlier studies, as GPSearch learns from them: where their trials were best, and what their processes say of this study's points.

Laws:
1. All of this is a function of the setting and of what is asked about: whether and when it was asked before changes no bit.
2. A source knows the hyperparameters that it shares with this study; what it says is the same wherever the others stand.
3. Where no source has weight, the process is the one that there would be without sources, bit for bit. Of two trials, one of them a
   source's best, the order already says much: a source that has it wrong is not asked for another point.
4. Trials are ranked, to weigh sources by: of one objective all, by their standings; of several those that were trained as far, each as of
   its newest look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..gp.ensemble import element, line, padded, ranking
from ..gp.fit import fit
from ..gp.kernel import REST, Hyper, Kernel
from ..gp.regression import Fitted, condition, means
from ..gp.threads import bounded
from ..seeds import derive
from ..trial import Setting
from .gp_history import Row
from .gp_space import kernel_of

FEWEST = 3
"""So many trials of this study can be ranked; with fewer, sources are only asked where they were best."""

_RANKED = 128       # trials of this study that sources are ranked by, at most
_DRAWS = 128        # from each process
_APART = 0.1        # times the root of d: two points that a study begins with are no nearer

Outcomes = Callable[[Sequence[Row]], Tensor]
"""A source's trials -> what its k processes are told of them, (k, n)."""


class Sources:
    """What `setting.sources` say, to processes of `kernel`. Theirs have a fidelity too, are warped if it is, and are told `outcomes`."""

    def __init__(self, setting: Setting, kernel: Kernel, outcomes: Outcomes) -> None:
        self._setting, self._kernel, self._outcomes = setting, kernel, outcomes
        self._theirs = kernel_of(setting, looks=True, warp=bool(kernel.warped))

    def champions(self, turn: int, count: int, taken: Tensor, other: Tensor, told: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Up to `count` of the sources' best points (m, d), the sources in turns, none near another or near what is `taken`.

        A hyperparameter that a source does not share is as in `other` (count, d). Point j is the best by outcome `turn` + j, modulo k.
        `told`: this study's points (n, d + 1) and outcomes (k, n). Sources that order a pair of them the other way round are left out.
        """
        near = _APART * len(self._setting.dims) ** 0.5
        x = torch.cat(self._points)[:, :-1]
        shared = torch.cat([known.expand(len(points), -1) for known, points in zip(self._shared, self._points)])
        places = torch.cat([told.argsort(stable=True).argsort() for told in self._told], 1)
        order = places.argsort(stable=True)     # (k, n): the best of every source, then the second best, ...
        left = torch.ones(len(x), dtype=torch.bool)
        trusted = torch.ones_like(order, dtype=torch.bool)
        if told is not None:
            trusted = ~self._contradicted(*told).repeat_interleave(torch.tensor([len(points) for points in self._points]), 1)
        found = other[:0]
        for j in range(count):
            at = torch.where(shared, x, other[j])
            far = left & ~(torch.cdist(at, torch.cat([taken, found])) < near).any(1)
            which = (turn + j) % len(order)
            best = order[which]
            best = best[(far & trusted[which])[best]][:1]
            if not len(best):
                break
            found, left[best] = torch.cat([found, at[best]]), False
        return found

    def condition(self, which: int, x: Tensor, y: Tensor, hyper: Hyper) -> Fitted:
        """This study's process number `which` given x (n, d + 1) and y (n,), its mean what sources say, as far as they rank its trials."""
        newest = list({tuple(row[:-1]): k for k, row in enumerate(x.tolist())}.values())[-_RANKED:]
        alone = condition(self._kernel, x, y, hyper)
        if len(newest) < FEWEST:
            return alone
        weight = self._weights(which, condition(self._kernel, x[newest], y[newest], hyper))
        heard = weight.nonzero()[:, 0]
        if not len(heard):
            return alone
        sources, knows = element(self._fitted, (heard, which)), self._knows[heard]

        def said(at: Tensor) -> Tensor:
            return means(sources, torch.where(knows, at, REST))

        found = line(said(x), y, weight[heard])
        hyper = hyper._replace(outputscale=hyper.outputscale * found.unexplained)
        return condition(self._kernel, x, y, hyper, trend=lambda at: found.slope @ (said(at) - found.center[:, None]))

    def _contradicted(self, x: Tensor, y: Tensor) -> Tensor:
        """(k, m) bool: by outcome, the sources whose mean orders two points of x (n, d + 1), trained as far, other than y (k, n) does."""
        seen, alike, told = torch.where(self._knows, x, REST), x[:, -1, None] == x[:, -1], y[:, None]
        with bounded(len(x)):
            said = torch.stack([means(element(self._fitted, (slice(None), which)), seen) for which in range(len(y))])   # (k, m, n)
        wrong = (said[..., :, None] - said[..., None, :]) * (told[..., :, None] - told[..., None, :]) < 0
        return (wrong & alike).flatten(2).any(2)

    def _weights(self, which: int, target: Fitted) -> Tensor:
        """(m,): of the sources."""
        m, n = len(self._points), len(target.y)
        generator = torch.Generator().manual_seed(derive(self._setting.seed, "ranking", which))
        normals = torch.randn(m + 1, _DRAWS, n, dtype=torch.float64, generator=generator)
        budget = target.x[:, -1]
        seen = torch.where(self._knows, target.x, REST)
        return ranking(element(self._fitted, (slice(None), which)), target, seen, budget[:, None] == budget, normals)[:-1]

    @cached_property
    def _shared(self) -> Tensor:
        """(m, d) bool."""
        return torch.tensor([[k in source.shared for k in range(len(self._setting.dims))] for source in self._setting.sources])

    @cached_property
    def _knows(self) -> Tensor:
        """(m, 1, d + 1) bool: the budget too."""
        return torch.cat([self._shared, torch.ones_like(self._shared[:, :1])], 1)[:, None]

    @cached_property
    def _points(self) -> list[Tensor]:
        """Of each source (n, d + 1)."""
        return [torch.tensor([(*x, t) for x, t in zip(source.x, source.budget)], dtype=torch.float64) for source in self._setting.sources]

    @cached_property
    def _told(self) -> list[Tensor]:
        """Of each source (k, n)."""
        return [
            self._outcomes([Row(x, 1, True, values) for x, values in zip(source.x, source.values)]) for source in self._setting.sources
        ]

    @cached_property
    def _fitted(self) -> Fitted:
        """All sources' processes, fitted as one batch (m, k)."""
        n = max(map(len, self._points))
        with bounded(n):        # it is fitted when it is first asked for, wherever that is
            x, y, noise = map(torch.stack, zip(*(padded(points, told, n) for points, told in zip(self._points, self._told))))
            x = x[:, None].expand(*y.shape[:2], *x.shape[1:])
            return condition(self._theirs, x, y, fit(self._theirs, x, y, noise=noise).hyper, noise)

"""Where new trials lie: the user's own points, then the searcher's.

Laws:
1. The user's own points come first, in order, as they are; then the searcher's, in order, from its first (index 0) on.
2. Own points are extra, except in a space of rows: there they are rows too, and no row comes twice.
3. A searcher that learns is asked for what is needed now, beside all that runs after this turn, own points included. One that does not
   is asked for blocks, which changes no point: its points depend on (seed, index) alone.
4. Every point is canonical before a trial lies there: it is what its own config is encoded as.
5. A trial's seed depends on the study's and on its id alone, and `sample_from` draws under it.
6. In a replay the recorded trials stand in for all of this, and the searcher is not asked. After it the points go on as if it
   had been.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, SpaceError
from .packing import Layout, held
from .searchers.base import Searcher
from .seeds import derive
from .trial import Config, Setting, Trial
from .tried import Tried, watched

if TYPE_CHECKING:
    from torch import Tensor

    from .space import Space

BLOCK = 1024
"""Points taken at a time from a searcher that does not learn."""
UNLIMITED = 10**9

X = tuple[float, ...]
Point = tuple[Any, Any, int | None]
"""Where a new trial lies: x and its config (or both as a trial holds them, see `packing`), and its seed where that is recorded already."""


class Supply:
    """The points of one study. `searcher` has begun with `setting`; `own`: configs that the user wants tried first."""

    def __init__(self, space: Space, searcher: Searcher, setting: Setting, own: Sequence[Config]) -> None:
        self.made = 0
        """How many points were given out; forks have places of their own, and do not count."""
        self.recorded: Iterator[Trial] | None = None
        """While a turn is replayed: the trials it launched, in order."""
        self._space = space
        self._searcher = searcher
        self._setting = setting
        self._own = own
        self._block: Iterator[Point] = iter(())
        self._tried = Tried(space) if searcher.left() is None and watched(space) else None
        self._notes: list[str] = []

    def left(self, trials: int | None) -> int:
        """How many points there still are, where `trials` bounds them all (None: it does not)."""
        there = self._searcher.left()
        total = UNLIMITED if there is None else there + (len(self._own) if self._setting.rows is None else 0)
        if trials is not None:
            total = min(total, trials)
        return max(0, total - self.made)

    def points(self, n: int, left: int, running: Iterable[X]) -> Iterator[Point]:
        """The next `n` of the `left` points there still are. `running`: where trials run."""
        made = self.made
        self.made = made + n
        if self.recorded is not None:
            self._block = iter(())
            return map(_recorded_point, self.recorded)
        own = self._own[made : made + n]
        points: list[Point] = []
        mine: list[X] = []
        if own:
            x = self._space.encode(own)
            points, mine = self._points_at(x), list(map(tuple, self._space.canonical(x).tolist()))
        missing = n - len(points)
        after = max(0, made - len(self._own))       # points the searcher gave before
        if missing and self._searcher.adaptive:
            points += self._points_at(self._ask(missing, after, (*running, *mine)))
        elif missing:
            points += self._from_block(missing, left, after)
        return iter(points)

    def fork(self, x: X) -> Point:
        """The canonical point where a scheduler wants a fork."""
        if self.recorded is not None:
            return _recorded_point(next(self.recorded))
        import torch

        return self._points_at(torch.tensor([x], dtype=torch.float64))[0]

    def trial(self, id: int, point: Point, tag: int, parent: int | None) -> Trial:
        """Trial number `id` at this point, under its own seed."""
        x, config, seed = point
        if self._tried is not None and parent is None:
            self._watch(self._tried, id, config.x(x) if type(config) is Layout else x)
        if seed is None:
            seed = derive(self._setting.seed, "trial", id)
            if self._space.sampled:
                config = self._sampled(x, seed)
        return Trial(id, x, config, seed, tag, parent)

    def notes(self) -> list[str]:
        """What the log should say of the points, since it was last asked."""
        said, self._notes = self._notes, []
        return said

    def _watch(self, tried: Tried, id: int, x: X) -> None:
        said = tried.add(id, x)
        if said is not None:
            self._notes.append(said)
            self._tried = None

    def _from_block(self, n: int, left: int, after: int) -> list[Point]:
        """From a searcher that does not learn: taken in blocks, handed out in order."""
        points = list(islice(self._block, n))
        if len(points) < n and self._own and self._setting.rows is not None:
            self._block = self._untried_rows(after)
            points = list(islice(self._block, n))
        elif len(points) < n:
            x = self._ask(max(n - len(points), min(BLOCK, left)), after + len(points))
            self._block = iter(self._points_at(x))
            points += islice(self._block, n - len(points))
        return points

    def _untried_rows(self, after: int) -> Iterator[Point]:
        """Of a space of rows, those that are none of the user's own points, from where the study stands; each comes once."""
        own = {tuple(row) for row in self._space.encode(self._own).tolist()}
        rest = (point for point in self._points_at(self._ask(self._searcher.left() or 0, 0)) if point[0] not in own)
        return islice(rest, after, None)

    def _ask(self, n: int, index: int, running: Sequence[X] = ()) -> Tensor:
        """The searcher's points from number `index` on: (n, d) float64, or fewer where one that does not learn has no more."""
        import torch

        there = None if self._searcher.adaptive else self._searcher.left()
        n = n if there is None else min(n, there - index)
        pending = torch.tensor(running, dtype=torch.float64).reshape(len(running), len(self._setting.dims))
        x = self._searcher.ask(n, pending=pending, index=index, seed=derive(self._setting.seed, "searcher"))
        if x.shape != (n, len(self._setting.dims)):
            law = f"{type(self._searcher).__name__}.ask must give points {(n, len(self._setting.dims))}"
            raise ConfigurationError(f"{law}, but gave {tuple(x.shape)}.")
        return x

    def _points_at(self, x: Tensor) -> list[Point]:
        x = self._space.canonical(x)
        packed = self._space.packed(x)
        if packed is not None:
            form, rows = packed
            return [(floats, form, None) for floats in rows]
        return [(tuple(row), config, None) for row, config in zip(x.tolist(), self._space.decode(x))]

    def _sampled(self, x: X, seed: int) -> Config:
        """The config with what `sample_from` draws under the trial's own seed."""
        import torch

        configs: Sequence[Config] = self._space.decode(torch.tensor([x], dtype=torch.float64), [seed])
        return configs[0]


def check_own(space: Space, points: Sequence[Config]) -> None:
    """SpaceError, which names the point, unless the user's own points can be tried as they are, and rows once: laws 1 and 2."""
    try:
        x = space.encode(points)
    except SpaceError:
        _name_point(space, points)
        raise
    seen: dict[X, int] = {}
    for i, (point, place, feasible) in enumerate(zip(points, map(tuple, x.tolist()), space.feasible(x).tolist())):
        if not feasible:
            law = "a config satisfies the space's constraints"
            raise SpaceError(f"points[{i}]: {law}, but {point!r} does not. Correct it, or leave it out.")
        if drawn := space.drawn_in(point):
            law = "what sample_from draws is each trial's own"
            raise SpaceError(f"points[{i}]: {law}, but it holds {drawn}: {point!r}. Leave them out of it.")
        first = seen.setdefault(place, i)
        if first != i and space.rows is not None:
            raise SpaceError(f"points[{i}]: each row is tried once, but points[{first}] is that row, {point!r}. Leave one of them out.")


def _name_point(space: Space, points: Sequence[Config]) -> None:
    """SpaceError with the number of the first point that is no config of the space."""
    for i, point in enumerate(points):
        try:
            space.encode([point])
        except SpaceError as error:
            raise SpaceError(f"points[{i}]: {error}") from None


def _recorded_point(trial: Trial) -> Point:
    x, form = held(trial)
    return (x, form, trial.seed) if type(form) is Layout else (trial.x, form, trial.seed)

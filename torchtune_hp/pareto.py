"""Several objectives at once: which values dominate, how all are ranked, and how much of the space they dominate.

    p dominates q       p is nowhere worse and somewhere better; smaller is better throughout
    front 0             who is dominated by nobody; front k: who is dominated by nobody but fronts 0 to k - 1
    hypervolume         the volume of all that some point is at least as good as, down to a reference point r

Every value is finite; points equal in all values dominate each other neither way, and share a front.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from operator import le, lt

Values = tuple[float, ...]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """`a` is nowhere worse than `b`, and somewhere better (smaller is better)."""
    return all(map(le, a, b)) and any(map(lt, a, b))


def beaten(front: Sequence[Values], values: Values) -> bool:
    """Whether one of a front dominates `values`, which come after all of it in lexicographic order.

    Of two objectives only the last one need be looked at: in that order the second value falls along a front.
    """
    if front and front[-1] == values:
        return False
    return any(all(map(le, other, values)) for other in (front if len(values) > 2 else front[-1:]))


def fronts(points: Sequence[Values]) -> list[list[int]]:
    """The indices of the points by front, ascending in each (efficient non-dominated sort: Zhang et al., IEEE TEVC 19 (2015), ENS-BS).

    O(n log n) for two objectives, O(n**2) comparisons at most for more.
    """
    found: list[list[int]] = []
    kept: list[list[Values]] = []
    for i in sorted(range(len(points)), key=points.__getitem__):
        values = points[i]
        # Who is dominated by somebody of front k is so by somebody of every front before it.
        k = bisect_left(kept, True, key=lambda front: not beaten(front, values))
        if k == len(kept):
            found.append([])
            kept.append([])
        found[k].append(i)
        kept[k].append(values)
    return [sorted(front) for front in found]


def ranked(points: Sequence[Values]) -> Iterator[int]:
    """The indices of the points, best first: front by front, each in the order of `spread`. Ties go to the smaller index."""
    for front in fronts(points):
        yield from (front[i] for i in spread([points[i] for i in front]))


def spread(front: Sequence[Values]) -> Iterator[int]:
    """The indices of the points of a front, in such an order that any beginning covers it; at least one point.

    It begins with the best in the first objective and goes on with whoever is furthest from all before it, distances taken in units
    of the front's extent (the epsilon-net of Schmucker et al., "Multi-objective asynchronous successive halving", 2021). Ties go to
    the smaller index. O(f**2) for f points.
    """
    low, high = _extent(front)
    scaled = [[(x - a) / (b - a) if b > a else 0.0 for x, a, b in zip(values, low, high)] for values in front]
    away = dict.fromkeys(range(len(front)), math.inf)
    chosen = min(away, key=front.__getitem__)
    while True:
        yield chosen
        del away[chosen]
        if not away:
            return
        for i in away:
            away[i] = min(away[i], math.dist(scaled[i], scaled[chosen]))
        chosen = max(away, key=away.__getitem__)      # the first of equals


def hypervolume(points: Iterable[Values], reference: Values) -> float:
    """The volume between `reference` and the points that are better than it in every objective; 0.0 if none is.

    Exact, by slices along the first objective (Zitzler 2001; While et al., IEEE TEVC 10 (2006), HSO): O(n log n) for two objectives,
    O(n**2 log n) for three. Dominated points are welcome and count for nothing.
    """
    inside = sorted({point for point in points if _inside(point, reference)})
    if len(reference) == 1:
        return reference[0] - inside[0][0] if inside else 0.0
    total = area = 0.0
    rest: list[Values] = []     # the front of what is left of the points before this slice
    for here, after in pairwise([*inside, reference]):
        tail = here[1:]
        if not any(all(map(le, other, tail)) for other in rest):
            rest = [other for other in rest if not dominates(tail, other)]
            rest.append(tail)
            area = hypervolume(rest, reference[1:])
        total += (after[0] - here[0]) * area
    return total


def gain(point: Values, front: Iterable[Values], reference: Values) -> float:
    """By how much `point` enlarges the hypervolume of `front` (While et al., IEEE TEVC 16 (2012), WFG: the exclusive hypervolume)."""
    if not _inside(point, reference):
        return 0.0
    box = math.prod(r - x for x, r in zip(point, reference))
    return box - hypervolume((tuple(map(max, point, other)) for other in front), reference)


def reference_point(front: Sequence[Values]) -> Values:
    """A reference point for a front: its worst value in each objective, and a tenth of its extent beyond.

    So the ends of the front count too, but not more than the middle (Ishibuchi et al., GECCO 2011). An extent of 0 is taken to be
    the size of the value, or 1. Raises ValueError for no points.
    """
    if not front:
        raise ValueError("a reference point is found from a front of at least one point, but there is none; give one")
    return tuple(b + 0.1 * (b - a if b > a else abs(b) or 1.0) for a, b in zip(*_extent(front)))


def _extent(points: Sequence[Values]) -> tuple[list[float], list[float]]:
    """The least and the greatest value in each objective."""
    return [min(column) for column in zip(*points)], [max(column) for column in zip(*points)]


def _inside(point: Values, reference: Values) -> bool:
    return all(map(lt, point, reference))

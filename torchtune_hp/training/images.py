"""Data sets of images that are known, taken faster than item by item.

    CIFAR10 and CIFAR100 without transforms      their arrays, at once
    ImageFolder and DatasetFolder                decoded in threads where that is faster, and kept on disk decoded (cache.py)
    a Subset of one of these                     the same, of its samples alone
    every other map-style Dataset                item by item (drain.py)

An image is uint8 (channels, height, width), unless a transform makes something else of it.

What is kept must be a function of the files alone. So nothing is kept of a set that draws random numbers: it is read item by item
under the seed of hp.Data, whatever threads there are. And nothing is kept of a transform that is not torchvision's own, for
nothing would tell that it had changed. Both are said.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Subset

from ..errors import ConfigurationError
from . import cache
from .drain import OFTEN, Rows, Tree, drain
from .loading import loading
from .seeding import generators, seeded

THREADS = 8
GAIN = 0.8
"""Threads are taken where they need at most this share of the time: for tiny images they can double it."""


def read(dataset: Any, where: str, seed: int) -> Tree:
    """Everything a map-style Dataset holds, as one tree of tensors. What it draws comes from `seed`."""
    base, index = _unwrapped(dataset)
    torchvision = sys.modules.get("torchvision.datasets")       # a data set of torchvision has imported it
    if torchvision is not None and len(index):
        if _is(base, torchvision.CIFAR10) and base.transform is base.target_transform is None:
            rows = torch.as_tensor(index)
            return torch.from_numpy(base.data)[rows].permute(0, 3, 1, 2).contiguous(), torch.tensor(base.targets)[rows]
        if _is(base, torchvision.DatasetFolder):
            origin = _origin(base, index, where)
            tree = None if origin is None else cache.find(origin, where)
            if tree is not None:
                return tree
            with seeded(seed):
                tree = _decoded(base, index, where)
            if tree is not None:
                if origin is not None:
                    cache.keep(origin, where, tree)
                return tree
    with seeded(seed):
        return drain(dataset, where)


def _unwrapped(dataset: Any) -> tuple[Any, Sequence[int]]:
    """The data set beneath Subsets, and which of its samples, in order."""
    index: Sequence[int] | None = None
    while type(dataset) is Subset:
        own = dataset.indices
        index = [int(i) for i in own] if index is None else [int(own[i]) for i in index]
        dataset = dataset.dataset
    return dataset, range(len(dataset)) if index is None else index


def _is(dataset: Any, cls: Any) -> bool:
    """Of this class, and its items are those of this class."""
    return isinstance(dataset, cls) and type(dataset).__getitem__ is cls.__getitem__


# Files ----------------------------------------------------------------------------------------------------------------------


def _decoded(dataset: Any, index: Sequence[int], where: str) -> Tree | None:
    """None: it draws random numbers, which threads would do in no order."""
    n, before = len(index), generators()
    rows = Rows(n, where)

    def decode(part: range) -> None:
        for row in part:
            path = dataset.samples[index[row]][0]
            try:
                item = dataset[index[row]]
            except (OSError, SyntaxError) as error:     # what Pillow says of files that are damaged
                raise ConfigurationError(f"{where}: every file must be an image, but {path} is not: {error}. Remove it.") from error
            rows.put(row, item, path)

    with loading(where, n) as told:
        for part in _all(decode, [range(at, min(at + OFTEN, n)) for at in range(0, n, OFTEN)]):
            told(part.stop)
            if generators() != before:
                return None
    return rows.whole


def _all(work: Callable[[range], None], parts: Sequence[range]) -> Iterator[range]:
    """Does all parts in order, and yields each when it is done: one after another at first, then in threads where those are faster.

    They are for images of some size: Pillow decodes without the interpreter's lock, but everything around it holds that.
    """
    threads = min(THREADS, os.cpu_count() or 1)
    coming = iter(parts)
    for part in islice(coming, 1):
        work(part)
        yield part
    with ThreadPoolExecutor(threads) as pool:

        def alone(some: Sequence[range]) -> Iterator[range]:
            for part in some:
                work(part)
                yield part

        def together(some: Sequence[range]) -> Iterator[range]:
            for part, _ in zip(some, pool.map(work, some)):
                yield part

        took = []
        for way in (alone, together):
            some = list(islice(coming, threads))
            began = time.perf_counter()
            yield from way(some)
            took.append(time.perf_counter() - began)
        yield from (together if took[1] < GAIN * took[0] else alone)(list(coming))


def _origin(dataset: Any, index: Sequence[int], where: str) -> cache.Origin | None:
    """What the decoded images depend on; None, with a warning, where that cannot be told."""
    if cache.folder() is None:
        return None
    import PIL
    import torchvision

    try:
        transforms = [_described(part) for part in (dataset.transform, dataset.target_transform)]
        if dataset.loader is not torchvision.datasets.folder.default_loader:
            _described(dataset.loader)
    except _Unknown as unknown:
        warnings.warn(
            f"{where}: the decoded images are not kept for the next process, for they depend on {unknown}, which may change unnoticed. "
            f"Those that transforms of torchvision alone make are kept. To be silent about it, set {cache.VARIABLE} to nothing.",
            RuntimeWarning,
            stacklevel=5,       # where hp.Data was called
        )
        return None
    samples = [dataset.samples[i] for i in index]
    stats = [os.stat(path) for path, _ in samples]
    state = [(os.path.abspath(path), label, stat.st_size, stat.st_mtime_ns) for (path, label), stat in zip(samples, stats)]
    versions = [PIL.__version__, torchvision.__version__, torchvision.get_image_backend()]
    part = None if isinstance(index, range) else list(index)
    return cache.Origin([os.path.abspath(dataset.root), part, transforms, versions], state)


class _Unknown(Exception):
    """Names what cannot be described."""


def _described(part: Any) -> Any:
    """A transform of torchvision as JSON, down to its values: its repr leaves some of them out."""
    if part is None or isinstance(part, (bool, int, float, str)):
        return part
    if isinstance(part, (list, tuple)):
        return [_described(item) for item in part]
    if isinstance(part, Mapping):
        return [[_described(key), _described(value)] for key, value in part.items()]
    if isinstance(part, (set, frozenset)):
        return sorted(map(str, map(_described, part)))
    if isinstance(part, (Enum, torch.dtype)):
        return str(part)
    kind = part if isinstance(part, type) else type(part)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(part, type):
        return name
    if kind.__module__.startswith("torchvision.transforms."):
        return [name, _described(vars(part))]
    raise _Unknown(getattr(part, "__qualname__", name))

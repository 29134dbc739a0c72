"""`hp.Data`: what a ModelTrainable trains on, is validated on, and is tested on.

Laws:
1. The same data for every trial: the split of `val_fraction` depends on the number of samples alone, and what `data()` draws
   comes from a fixed seed. Made once per (class, keywords, device) and process, shared by every trial (made.py).
2. What fits is drained once into tensors on the device. A DataLoader is read as it comes. With `order="member"` each trial has an
   order of its own; with `order="shared"`, as every DataLoader has it, pass e of every trial is seeded by (study seed, e).
3. The test set is seen by no search.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import ConfigurationError
from ..parts import as_int
from ..seeds import derive
from .drain import Tree, leaves, size_of
from .feed import SHARED, Feed, Table
from .images import read
from .stream import Stream

Order = Literal["member", "shared"]
Source = Table | Stream


class Data:
    """Training, validation and test set.

    A set is a tensor, a tuple or dict of tensors (leading dimension: the sample), a map-style Dataset, or a DataLoader with
    `order="shared"`. A batch has the structure of the set. A Dataset is read once; what its transforms draw is drawn once, with a
    warning. Images become uint8 (channels, height, width) and stay so on the device: `hp.normalize` in a step makes floats of them.
    Those of a torchvision ImageFolder are decoded once and kept on disk (training/cache.py says where).

    `val`: one set, or {name: set}: then metrics are called "<name>/<metric>". `val_fraction`: a part of `train` instead.
    `test`: as `val`. `batch_size`: of updates, where `setup` sets no other, and of every evaluation. `order`: "member", each
    trial has its own, or "shared", a trial's pass e is that of every other trial of the study: trials that stand in the same pass
    are then given one batch together, made once. `drop_last`: the remainder of a pass is left out, so that all
    updates are of the same size. Raises ConfigurationError.
    """

    def __init__(
        self,
        train: Any,
        val: Any = None,
        test: Any = None,
        val_fraction: float | None = None,
        batch_size: int = 128,
        order: Order = "member",
        drop_last: bool = True,
    ) -> None:
        problems = []
        batch_size = as_int(batch_size)
        if val is not None and val_fraction is not None:
            problems.append("hp.Data: only one of val and val_fraction may be given, but got both. Leave one out.")
        if val_fraction is not None:
            if isinstance(val_fraction, bool) or not isinstance(val_fraction, (int, float)) or not 0 < val_fraction < 1:
                problems.append(f"hp.Data: `0 < val_fraction < 1` must hold, but got {val_fraction!r}.")
            if isinstance(train, DataLoader):
                problems.append(
                    "hp.Data: val_fraction needs a set that can be indexed, but train is a DataLoader. Pass train=loader.dataset, or val."
                )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            problems.append(f"hp.Data: `batch_size >= 1` must hold, but got {batch_size!r}.")
        if order not in ("member", "shared"):
            problems.append(f'hp.Data: order must be "member" or "shared", but got {order!r}.')
        elif isinstance(train, DataLoader) and order != "shared":
            problems.append(
                'hp.Data: a DataLoader gives its batches in one order for all trials, but got order="member". Pass order="shared", '
                "or train=loader.dataset, which is read once and then gives each trial its own order."
            )
        if problems:
            raise ConfigurationError("\n".join(problems))
        self.batch_size, self.order, self.drop_last, self.val_fraction = batch_size, order, drop_last, val_fraction
        self.made: dict[torch.device, Any] = {}     # for trainers, on each device
        self.train = source(train, "train")
        like = self.train.tree if isinstance(self.train, Table) else None
        self.val = sets(val, "val", like)
        self.test = sets(test, "test", like)

    def on(self, device: torch.device, whole: bool = False) -> Loaded:
        """The sets on this device, split; `whole`: the training set in one piece."""
        train, val = self.train, self.val
        if not whole and self.val_fraction is not None and isinstance(train, Table):
            train, held_out = split(train, self.val_fraction)
            val = {"": held_out}
        return Loaded(
            train.to(device),
            {name: part.to(device) for name, part in val.items()},
            {name: part.to(device) for name, part in self.test.items()},
            self.batch_size,
            self.order,
            self.drop_last,
        )


@dataclass(frozen=True)
class Loaded:
    """Data where it is used. The name of a set is "" where it is the only one and unnamed. `cut`: what it is a fold of, and how."""

    train: Source
    val: Mapping[str, Source]
    test: Mapping[str, Source]
    batch_size: int
    order: Order
    drop_last: bool
    cut: tuple[Loaded, str] | None = None

    @property
    def tensors(self) -> Hashable:
        """Those that agree in it may be trained in one stack: samples of the same tensors, and as many."""
        if self.cut is None:
            return id(self)
        return id(self.cut[0]), *(part.size for part in (self.train, *self.val.values()) if isinstance(part, Table))

    def feed(self, seed: int, study: int = SHARED) -> Feed:
        """The training batches of a trial with this seed, in a study with that one."""
        return self.train.feed(seed if self.order == "member" else study, self.drop_last)


def source(given: Any, where: str) -> Source:
    """One set, as tensors or a stream."""
    where = f"hp.Data({where}=...)"
    if isinstance(given, DataLoader):
        if given.persistent_workers:
            raise ConfigurationError(f"{where}: a DataLoader that trials share must not keep its workers. Pass persistent_workers=False.")
        try:
            batches = len(given)
        except TypeError:
            raise ConfigurationError(
                f"{where}: a DataLoader must know its length, but its data set is iterable only. Give the data set a __len__, "
                "or a map-style Dataset."
            ) from None
        if batches == 0:
            raise ConfigurationError(f"{where}: at least one batch is needed, but the DataLoader is empty.")
        return Stream(given, torch.device("cpu"))
    tree: Tree = given
    samples = isinstance(given, list) and not all(isinstance(part, Tensor) for part in given)       # [(x, y), (x, y), ...]
    if samples or not isinstance(given, (Tensor, tuple, list, Mapping)):
        if not (hasattr(given, "__getitem__") and hasattr(given, "__len__")) or hasattr(given, "__array__"):
            raise ConfigurationError(
                f"{where}: expected tensors, a tuple or dict of tensors, a map-style Dataset or a DataLoader, but got "
                f"{type(given).__name__}. Arrays become tensors by torch.as_tensor(array, dtype=...)."
            )
        tree = read(given, where, derive(SHARED, "drain"))
    return Table(tree, size_of(tree, where))


def sets(given: Any, where: str, train: Tree) -> dict[str, Source]:
    """No set, one ("": set), or {name: set}. A dict is one set if the training set is a dict of the same keys."""
    if given is None:
        return {}
    if isinstance(given, Mapping) and not (isinstance(train, Mapping) and set(given) == set(train)):
        wrong = [name for name in given if not isinstance(name, str) or not name]
        if wrong or not given:
            raise ConfigurationError(f"hp.Data({where}=...): each set needs a name, but got {list(given)!r}.")
        return {name: source(part, f"{where}[{name!r}]") for name, part in given.items()}
    return {"": source(given, where)}


def split(table: Table, fraction: float) -> tuple[Table, Table]:
    """(what is trained on, what is held out). The held-out part is the same for every trial, at least one sample."""
    held_out = max(1, round(table.size * fraction))
    if held_out >= table.size:
        raise ConfigurationError(
            f"hp.Data: something must be left to train on, but val_fraction={fraction} of {table.size} samples leaves none. "
            "Take a smaller one, or pass val."
        )
    generator = torch.Generator().manual_seed(derive(SHARED, "split", table.size))
    order = torch.randperm(table.size, generator=generator)
    kept, out = (part.sort().values.to(next(leaves(table.tree)).device) for part in (order[held_out:], order[:held_out]))
    return Table(table.rows(kept), len(kept)), Table(table.rows(out), len(out))

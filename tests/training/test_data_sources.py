"""Data sets and loaders as hp.Data; what is said of wrong ones; made once."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Subset, TensorDataset

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.training.data import Data
from torchtune_hp.training.drain import drain
from torchtune_hp.training.feed import Table
from torchtune_hp.training.made import made_of
from torchtune_hp.training.stream import Stream

CPU = torch.device("cpu")


def data_of(cls: Any, keywords: Any, device: torch.device) -> Any:
    return made_of(cls, keywords, device).whole("")
X, Y = torch.arange(20.0)[:, None], torch.arange(20)


class Items(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


class Noisy(Dataset[Any]):
    """A transform that draws."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> Any:
        return torch.tensor([float(i)]) + torch.rand(1) / 2, i


class Picture:
    """What PIL's images are to numpy: height x width x channels."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.__array_interface__ = array.__array_interface__
        self._held = array


# Data sets of other kinds --------------------------------------------------------------------------------------------------


def test_a_data_set_is_drained_into_tensors_of_fitting_kinds() -> None:
    items = [(torch.tensor([float(i)]), i, 0.5 * i, i % 2 == 0, np.arange(2), np.int32(i), np.float64(i)) for i in range(3)]
    tree = drain(Items(items), "train")
    assert [leaf.dtype for leaf in tree] == [
        torch.float32, torch.int64, torch.float32, torch.bool, torch.int64, torch.int32, torch.float32,
    ]  # fmt: skip
    assert [tuple(leaf.shape) for leaf in tree] == [(3, 1), (3,), (3,), (3,), (3, 2), (3,), (3,)]
    assert tree[1].tolist() == [0, 1, 2] and tree[2].tolist() == [0.0, 0.5, 1.0] and tree[3].tolist() == [True, False, True]
    assert set(drain(Items([{"x": X[0], "y": 1}]), "train")) == {"x", "y"}


def test_the_parts_of_a_dict_are_told_apart_by_their_keys_in_whatever_order_they_come() -> None:
    items = [{"x": 0.0, "y": {"a": 1, "b": 2}}, {"y": {"b": 4, "a": 3}, "x": 0.5}]
    tree = drain(items, "train")
    assert tree["x"].tolist() == [0.0, 0.5] and tree["y"]["a"].tolist() == [1, 3] and tree["y"]["b"].tolist() == [2, 4]


@pytest.mark.parametrize(
    ("second", "words"),
    [({"z": 1.0}, r"the same keys, but item 1 has \['z'\], item 0 \['x'\]"), ({"x": 1.0, "y": 1.0}, r"has \['x', 'y'\], item 0 \['x'\]"),
     ({"x": {"x": 1.0}}, "the same parts, but item 1 has a dict where item 0 has a tensor"),
     ({"x": (1.0,)}, "a tuple where item 0 has a tensor"),
     (1.0, "a tensor where item 0 has a dict")],
)  # fmt: skip
def test_items_of_other_parts_are_refused(second: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        drain([{"x": 0.0}, second], "train")


def test_images_become_whole_number_tensors_with_the_channels_first() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    color, gray = drain(Items([(Picture(array), Picture(array[..., 0].copy()))]), "train")
    assert color.dtype == gray.dtype == torch.uint8
    assert color.shape == (1, 3, 2, 4) and gray.shape == (1, 1, 2, 4)
    assert torch.equal(color[0, 1], torch.as_tensor(array[..., 1]))


def test_tensor_data_sets_and_subsets_of_them_are_taken_whole() -> None:
    dataset = TensorDataset(X, Y)
    assert drain(dataset, "train")[0] is X
    nested = Subset(Subset(dataset, [5, 6, 7]), [2, 0])
    assert drain(nested, "train")[1].tolist() == [7, 5]
    assert drain(Subset(Items([1, 2, 3]), [2]), "train").tolist() == [3]
    assert Data(dataset).on(CPU).feed(0).take(4, 1)[0][0][0].shape == (4, 1)


class Scaled(TensorDataset):
    def __getitem__(self, index):
        return tuple(part * 2 for part in super().__getitem__(index))


class Shifted(Subset):
    def __getitem__(self, index):
        return tuple(part + 100 for part in super().__getitem__(index))

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def test_items_of_a_data_set_s_own_class_are_its_own() -> None:
    plain, own = TensorDataset(X, Y), Scaled(X, Y)
    assert drain(own, "train")[1].tolist() == (2 * Y).tolist()
    assert drain(Subset(own, [5, 6]), "train")[1].tolist() == [10, 12]
    assert drain(Shifted(plain, [5, 6]), "train")[1].tolist() == [105, 106]
    assert drain(Subset(Shifted(plain, [5, 6]), [1]), "train")[1].tolist() == [106]
    assert drain(Subset(Subset(own, [5, 6]), [1]), "train")[1].tolist() == [12]


def test_a_list_of_samples_is_a_data_set_and_a_list_of_tensors_a_structure() -> None:
    assert Data([(X[i], i) for i in range(20)]).train.size == 20      # type: ignore[union-attr]
    assert isinstance(Data([X, Y]).train.tree, list)      # type: ignore[union-attr]


def test_what_a_transform_draws_is_the_same_each_time() -> None:
    first, second = Data(Noisy()).train, Data(Noisy()).train
    assert isinstance(first, Table) and isinstance(second, Table)
    assert torch.equal(first.tree[0], second.tree[0])


def test_a_loader_gives_its_batches_as_they_come_in_an_order_of_the_pass() -> None:
    data = Data(DataLoader(Noisy(), batch_size=4, shuffle=True), order="shared").on(CPU)

    def two_passes(seed: int) -> list[list[float]]:
        feed = data.feed(seed)
        return [feed.take(99, 1)[0][0][0].flatten().tolist() for _ in range(6)]

    first = two_passes(1)
    torch.rand(3)
    assert two_passes(2) == first and first[:3] != first[3:]
    assert sorted(int(value) for batch in first[:3] for value in batch) == list(range(12))


def test_a_loader_resumed_in_the_middle_of_a_pass_goes_on_as_it_would_have() -> None:
    sampler = RandomSampler(Noisy(), generator=torch.Generator())
    for loader in (DataLoader(Noisy(), 2, shuffle=True, generator=torch.Generator()), DataLoader(Noisy(), 2, sampler=sampler)):
        data = Data(loader, order="shared").on(CPU)
        feed, other = data.feed(1), data.feed(1)
        for _ in range(4):
            feed.take(1, 2)
        assert (feed.epoch, feed.offset) == (1, 2)
        other.epoch, other.offset = 1, 2
        following = [[batch[0].tolist() for batch, _ in feed.take(1, 2)] for _ in range(3)]
        assert [[batch[0].tolist() for batch, _ in other.take(1, 2)] for _ in range(3)] == following


def test_accumulation_over_a_loader_counts_batches() -> None:
    loader = DataLoader(Noisy(), batch_size=5)
    feed = Data(loader, order="shared").on(CPU).feed(0)
    assert [n for _, n in feed.take(0, 2)] == [5, 5] and feed.epoch == 1 and feed.updates(0, 2) == 1
    whole = Data(loader, order="shared", drop_last=False).on(CPU).feed(0)
    assert [[n for _, n in whole.take(0, 2)] for _ in range(2)] == [[5, 5], [2]] and whole.updates(0, 2) == 2 and whole.epoch == 1
    with pytest.raises(ConfigurationError, match="accumulate=4 and a DataLoader of 3 batches"):
        feed.updates(0, 4)
    feed.take(0, 1)
    assert len(feed.take(0, 3)) == 3 and feed.epoch == 3


def test_evaluation_over_a_loader_is_the_same_each_time() -> None:
    part = Data((X, Y), val=DataLoader(Noisy(), 5, shuffle=True)).on(CPU).val[""]
    once, again = ([batch[0].tolist() for batch, _ in part.batches(3)] for _ in range(2))
    assert once == again and [len(batch) for batch in once] == [5, 5, 2]


# Errors -------------------------------------------------------------------------------------------------------------------


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([1, 2])


class Short(IterableDataset[Any]):
    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter([torch.zeros(1)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"val": (X, Y), "val_fraction": 0.2}, "only one of val and val_fraction"),
        ({"val_fraction": 0}, r"`0 < val_fraction < 1` must hold, but got 0\."),
        ({"val_fraction": 1.0}, "must hold, but got 1.0"),
        ({"val_fraction": True}, "got True"),
        ({"val_fraction": "a"}, "got 'a'"),
        ({"batch_size": 0}, "`batch_size >= 1` must hold, but got 0"),
        ({"batch_size": 2.0}, "got 2.0"),
        ({"batch_size": True}, "got True"),
        ({"order": "random"}, "\"member\" or \"shared\", but got 'random'"),
        ({"train": (X, Y[:19])}, "same length, but got 20 and 19 samples"),
        ({"train": X[:0]}, r"train=\.\.\..: at least one sample"),
        ({"train": ()}, "at least one sample"),
        ({"train": Items([])}, "the data set is empty"),
        ({"train": torch.tensor(1.0)}, "0-dim tensor"),
        ({"train": (X, np.arange(20))}, "must be a torch.Tensor, but got ndarray"),
        ({"train": np.arange(20)}, "but got ndarray. Arrays become tensors"),
        ({"train": 3}, "but got int"),
        ({"train": Items(["a"])}, "images, but got str"),
        ({"train": Items([X[0], X])}, r"item 1 has \(20, 1\) torch.float32 and item 0 \(1,\)"),
        ({"train": Items([1, 1.5])}, "float32 and item 0 .* torch.int64"),
        ({"train": Items([(1, 2), (1,)])}, "item 1 has 1, item 0 2"),
        ({"val": {}}, "each set needs a name"),
        ({"val": {"": (X, Y)}}, "each set needs a name"),
        ({"test": {3: (X, Y)}}, r"test=\.\.\..: each set needs a name, but got \[3\]"),
        ({"val": {"a": 3}}, r"val\['a'\]"),
        ({"train": DataLoader(TensorDataset(X))}, 'order="member". Pass order="shared"'),
        ({"train": DataLoader(TensorDataset(X)), "order": "shared", "val_fraction": 0.5}, "val_fraction needs a set that can be indexed"),
        ({"val": DataLoader(Endless())}, "must know its length"),
        ({"val": DataLoader(TensorDataset(X[:3]), batch_size=4, drop_last=True)}, "the DataLoader is empty"),
        ({"val": DataLoader(TensorDataset(X), num_workers=1, persistent_workers=True)}, "persistent_workers=False"),
    ],
)
def test_a_wrong_data_says_the_law_and_the_way_out(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Data(**{"train": (X, Y), **words})


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(ConfigurationError) as error:
        Data((X, Y), val_fraction=2, batch_size=0)
    assert len(str(error.value).splitlines()) == 2


def test_a_loader_that_ends_early_is_an_error() -> None:
    feed = Data(DataLoader(Short(), batch_size=None), order="shared").on(CPU).feed(0)
    feed.take(1, 1)
    with pytest.raises(ConfigurationError, match="it ended after 1 of 3"):
        feed.take(1, 1)


# Made once ----------------------------------------------------------------------------------------------------------------


def counting() -> Any:
    class Counting:
        made = 0

        @classmethod
        def data(cls, size: int = 3, source: Any = None) -> Any:
            cls.made += 1
            return Data(torch.rand(size, 1)) if size else None

    return Counting


def test_data_is_made_once_for_a_class_its_keywords_and_a_device() -> None:
    cls, table = counting(), [1]
    first = data_of(cls, {}, CPU)
    assert data_of(cls, {}, CPU) is first and cls.made == 1
    sized = data_of(cls, {"size": 4}, CPU)
    assert sized is not first and data_of(cls, {"size": 4}, CPU) is sized and cls.made == 2
    assert data_of(cls, {"source": table}, CPU) is data_of(cls, {"source": table}, CPU) and cls.made == 3
    assert data_of(cls, {"source": [1]}, CPU) is not data_of(cls, {"source": table}, CPU)
    before = data_of(cls, {"source": table}, CPU)
    table.append(2)
    assert data_of(cls, {"source": table}, CPU) is not before
    assert data_of(cls, {}, torch.device("meta")) is not first
    assert data_of(counting(), {}, CPU) is not first


def test_what_data_draws_is_the_same_in_every_process() -> None:
    torch.manual_seed(1)
    first = data_of(counting(), {}, CPU).train
    torch.manual_seed(2)
    second = data_of(counting(), {}, CPU).train
    assert isinstance(first, Table) and isinstance(second, Table) and torch.equal(first.tree, second.tree)


def test_data_must_return_a_data() -> None:
    with pytest.raises(ConfigurationError, match="Counting.data must return an hp.Data, or a dict of several by name, but .* NoneType"):
        data_of(counting(), {"size": 0}, CPU)


def test_a_class_that_is_gone_takes_its_data_with_it() -> None:
    cls = counting()
    data_of(cls, {}, CPU)
    known = weakref.ref(cls)
    del cls
    gc.collect()
    assert known() is None


class Named(Dataset[Any]):
    """File names come first, as they do in many data sets."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {"file": f"a name of some length, {place}.png", "x": torch.full((2,), float(place)), "place": torch.tensor(place)}


def test_a_batch_is_as_large_as_its_first_tensor_says() -> None:
    stream = Stream(DataLoader(Named(), batch_size=4), torch.device("cpu"))
    assert [n for _, n in stream.batches(4)] == [4, 3]
    with pytest.raises(ConfigurationError, match="must hold a tensor whose leading dimension is the sample"):
        list(Stream(DataLoader([{"file": "a"}, {"file": "b"}]), torch.device("cpu")).batches(1))

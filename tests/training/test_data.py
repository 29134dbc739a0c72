"""hp.Data, its feeds, and how other data sets become tensors."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.seeds import derive
from torchtune_hp.training.data import Data, Loaded
from torchtune_hp.training.drain import leaves, tree_map
from torchtune_hp.training.feed import SHARED, Feed, Table, TableFeed

CPU = torch.device("cpu")
X, Y = torch.arange(20.0)[:, None], torch.arange(20)


def pass_of(feed: Feed, size: int, accumulate: int = 1) -> list[list[int]]:
    """The labels of the batches of one pass, one list per update's batch."""
    epoch, found = feed.epoch, []
    while feed.epoch == epoch:
        for batch, n in feed.take(size, accumulate):
            assert n == len(batch[1])
            assert torch.equal(batch[0][:, 0].long(), batch[1])
            found.append(batch[1].tolist())
    return found


def loaded(**words: Any) -> Loaded:
    return Data((X, Y), **words).on(CPU)


# Order --------------------------------------------------------------------------------------------------------------------


def test_a_pass_gives_equal_batches_and_drops_the_remainder() -> None:
    feed = loaded(batch_size=6).feed(1)
    batches = pass_of(feed, 6)
    assert [len(batch) for batch in batches] == [6, 6, 6] and feed.updates(6, 1) == 3
    assert len({label for batch in batches for label in batch}) == 18
    assert (feed.epoch, feed.offset) == (1, 0)


def test_without_drop_last_every_sample_comes_once_a_pass() -> None:
    feed = loaded(drop_last=False).feed(1)
    batches = pass_of(feed, 6)
    assert [len(batch) for batch in batches] == [6, 6, 6, 2] and feed.updates(6, 1) == 4
    assert sorted(label for batch in batches for label in batch) == list(range(20))
    assert feed.updates(20, 1) == feed.updates(25, 1) == 1 and feed.updates(5, 1) == 4


def test_the_order_of_a_pass_is_a_function_of_seed_and_pass() -> None:
    generator = torch.Generator().manual_seed(derive(5, "order", 1))
    expected = torch.randperm(20, generator=generator).tolist()
    feed = loaded().feed(5)
    first, second = pass_of(feed, 10), pass_of(feed, 10)
    assert [*second[0], *second[1]] == expected
    assert first != second
    assert pass_of(loaded().feed(5), 10) == first != pass_of(loaded().feed(6), 10)


def test_a_shared_order_is_the_same_for_every_seed() -> None:
    assert pass_of(loaded(order="shared").feed(5), 10) == pass_of(loaded(order="shared").feed(6), 10) == pass_of(loaded().feed(SHARED), 10)


def test_a_feed_put_back_in_the_middle_of_a_pass_goes_on_as_it_would_have() -> None:
    feed, other = loaded().feed(5), loaded().feed(5)
    for _ in range(4):
        feed.take(6, 1)
    assert (feed.epoch, feed.offset) == (1, 6)
    other.epoch, other.offset = feed.epoch, feed.offset
    assert pass_of(other, 6) == pass_of(feed, 6)


def test_accumulation_takes_several_batches_for_an_update_and_drops_what_makes_no_whole_one() -> None:
    feed = loaded().feed(5)
    assert [n for _, n in feed.take(4, 2)] == [4, 4]
    assert feed.updates(4, 2) == 2 and [n for _, n in feed.take(4, 2)] == [4, 4] and feed.epoch == 1
    whole = loaded(drop_last=False).feed(5)
    assert whole.updates(4, 3) == 2
    assert [[n for _, n in whole.take(4, 3)] for _ in range(2)] == [[4, 4, 4], [4, 4]] and whole.epoch == 1


def test_a_batch_that_grew_beyond_what_is_left_begins_the_next_pass() -> None:
    feed = loaded().feed(5)
    feed.take(6, 1)
    feed.take(6, 1)
    assert [n for _, n in feed.take(10, 1)] == [10] and (feed.epoch, feed.offset) == (1, 10)


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(1, 30), size=st.integers(1, 9), accumulate=st.integers(1, 3), drop_last=st.booleans(),
    iterations=st.lists(st.one_of(st.just("epoch"), st.integers(1, 12)), min_size=1, max_size=4), before=st.integers(0, 4),
)  # fmt: skip
def test_a_plan_is_what_take_would_give(
    n: int, size: int, accumulate: int, drop_last: bool, iterations: list[Any], before: int
) -> None:
    """Iterations one after another, after some updates with another batch size."""
    if drop_last:
        n += size * accumulate
    feed, other = [Data((X[:1].repeat(n, 1), torch.arange(n)), drop_last=drop_last, batch_size=1).on(CPU).feed(3) for _ in range(2)]
    for each in (feed, other):
        for _ in range(before):
            each.take(max(1, size - 1), 1)
    assert isinstance(feed, TableFeed)
    for iteration in iterations:
        plan = feed.plan(size, accumulate, iteration)
        begun, taken, passes = other.epoch, [], []
        while other.epoch == begun if iteration == "epoch" else len(taken) < iteration:
            at = other.epoch
            taken.append(other.take(size, accumulate))
            passes.append(other.epoch - at)
        assert plan.course.sizes == tuple(tuple(k for _, k in batches) for batches in taken)
        assert plan.course.passes == tuple(passes)
        assert torch.equal(plan.index, torch.cat([batch[1] for batches in taken for batch, _ in batches]))
        assert (feed.epoch, feed.offset) == (other.epoch, other.offset)


def test_a_plan_without_an_update_names_the_way_out() -> None:
    feed = loaded().feed(1)
    assert isinstance(feed, TableFeed)
    with pytest.raises(ConfigurationError, match="Take a smaller batch_size"):
        feed.plan(21, 1, "epoch")


def test_a_batch_that_does_not_fit_the_set_names_the_way_out() -> None:
    assert loaded().feed(1).updates(20, 1) == 1
    with pytest.raises(ConfigurationError, match=r"batch_size=21 and 20 samples.*drop_last=False"):
        loaded().feed(1).updates(21, 1)
    with pytest.raises(ConfigurationError, match="batch_size=7 x accumulate=3 and 20"):
        loaded().feed(1).take(7, 3)


# Structures ---------------------------------------------------------------------------------------------------------------


def test_batches_keep_the_structure_of_the_set() -> None:
    Pair = namedtuple("Pair", "x y")
    assert Data(X).on(CPU).feed(0).take(4, 1)[0][0].shape == (4, 1)
    batch = Data({"x": X, "more": (Y, [X])}).on(CPU).feed(0).take(4, 1)[0][0]
    assert set(batch) == {"x", "more"} and isinstance(batch["more"], tuple) and batch["more"][1][0].shape == (4, 1)
    assert type(Data(Pair(X, Y)).on(CPU).feed(0).take(4, 1)[0][0]) is Pair
    assert tree_map(str, {"a": 1}) == {"a": "1"} and list(leaves({"a": (1, [2])})) == [1, 2]


def test_evaluation_goes_through_a_set_in_order_with_its_remainder() -> None:
    table = Table((X, Y), 20)
    expected = [(list(range(8)), 8), (list(range(8, 16)), 8), ([16, 17, 18, 19], 4)]
    assert [(batch[1].tolist(), n) for batch, n in table.batches(8)] == expected
    assert len(list(table.batches(20))) == 1


def test_one_set_has_no_name_and_several_have_theirs() -> None:
    assert list(Data((X, Y), val=(X, Y)).val) == [""]
    assert list(Data((X, Y), val={"clean": (X, Y), "noisy": (X, Y)}, test={"a": (X, Y)}).val) == ["clean", "noisy"]
    assert Data((X, Y)).val == {} and Data((X, Y)).test == {}


def test_a_dict_is_one_set_where_the_training_set_has_the_same_keys() -> None:
    train = {"x": X, "y": Y}
    assert list(Data(train, val={"x": X, "y": Y}).val) == [""]
    assert list(Data(train, val={"clean": train}).val) == ["clean"]


def test_the_split_is_the_same_for_all_and_parts_the_samples() -> None:
    one, two = loaded(val_fraction=0.3), loaded(val_fraction=0.3, batch_size=2)
    kept, held = one.train, one.val[""]
    assert isinstance(kept, Table) and isinstance(held, Table) and isinstance(two.val[""], Table)
    assert (kept.size, held.size) == (14, 6)
    assert sorted([*kept.tree[1].tolist(), *held.tree[1].tolist()]) == list(range(20))
    assert held.tree[1].tolist() == sorted(held.tree[1].tolist()) != list(range(6))
    assert torch.equal(held.tree[1], two.val[""].tree[1])
    assert loaded(val_fraction=0.01).val[""].size == 1      # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="something must be left to train on, but val_fraction=0.99 of 20"):
        loaded(val_fraction=0.99)
    assert loaded(val_fraction=0.95).train.size == 1      # type: ignore[union-attr]

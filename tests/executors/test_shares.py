"""What each worker gets of the machine, what travels to it, and what is kept meanwhile."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from torchtune_hp.errors import ConfigurationError
from torchtune_hp.executors import shares
from torchtune_hp.executors.keeps import Keeps
from torchtune_hp.executors.travel import packed
from torchtune_hp.trial import Keep

from .telling import trial


def test_workers_are_as_many_as_the_cores_allow(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)))
    assert shares.workers_for("auto", 1, 0) == (7, ())
    assert shares.workers_for("auto", 2, 0) == (3, ())
    assert shares.workers_for("auto", 8, 0) == (1, ())
    assert shares.workers_for(20, 1, 0) == (20, ())


def test_gpus_go_round_among_the_workers(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    size, devices = shares.workers_for("auto", 1, 0.5)
    assert (size, devices) == (6, ("4", "5", "7"))
    assert [shares.share_of(number, 0.5, devices)["CUDA_VISIBLE_DEVICES"] for number in range(4)] == ["4", "5", "7", "4"]
    assert shares.workers_for("auto", 16, 1) == (3, devices)
    assert shares.workers_for("auto", 1, 2)[0] == 1
    assert shares.share_of(0, 2, devices) == {"CUDA_VISIBLE_DEVICES": "4,5"}
    assert shares.share_of(1, 1.0, devices) == {"CUDA_VISIBLE_DEVICES": "5"}
    assert shares.share_of(1, 0, ()) == {}
    assert shares.workers_for(3, 1, 1) == (3, devices)
    with pytest.raises(ConfigurationError, match="4 workers with 1 GPUs each need 4 GPUs, but this machine shows 3; use workers=3"):
        shares.workers_for(4, 1, 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert shares.visible_gpus() == ("0", "1", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigurationError, match="this machine shows 0; use gpus=0"):
        shares.workers_for("auto", 1, 1)


def test_what_cannot_travel_is_named_with_the_way_out():
    lock = threading.Lock()

    class Recipe:
        def __init__(self, held):
            self.name, self.held = "train", held

    def closure(config):
        return lock

    for held, path in (
        ({"a": [1, lock]}, "train.held['a'][1]"),
        (closure, "train.held: lock"),
        (Recipe(lock), "train.held.held"),
        (Recipe(lock).__init__.__get__(Recipe(lock)), "train.held.__self__.held"),
    ):
        with pytest.raises(ConfigurationError) as error:
            packed(Recipe(held))
        assert f"`{path}` (lock) is not" in str(error.value)
        assert "executor=hp.Serial()" in str(error.value)
    with pytest.raises(ConfigurationError, match=r"`Trial.config\['act'\]` \(lock\)"):
        packed(trial(0, act=lock))


def test_the_newest_word_on_what_is_kept_counts():
    keeps = Keeps()
    keeps.ask(Keep(1))
    keeps.ask(Keep(2, (1,)))            # before 1 arrived
    assert keeps.arrived(1) is None
    assert keeps.arrived(2) == {1}
    assert keeps.arrived(2) is None
    keeps.ask(Keep(3, (2,)))
    keeps.ask(Keep(2, ()))              # back again before 3 arrived: it is not to be forgotten
    assert keeps.arrived(3) == set()
    keeps.ask(Keep(4, (5,)))
    keeps.ask(Keep(4, (6,)))
    assert keeps.arrived(4) == {5, 6}


def test_a_gpu_has_as_many_workers_as_whole_shares_of_it_fit(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(shares, "visible_gpus", lambda: ("0", "1"))
    for gpus, workers in ((0.6, 2), (0.9, 2), (0.5, 4), (0.4, 4), (1 / 3, 6), (0.1, 20), (0.01, 200), (1 - 0.9, 20), ((0.1 + 0.2) / 3, 20)):
        size, devices = shares.workers_for(workers, 1, gpus)
        held = [shares.share_of(number, gpus, devices)["CUDA_VISIBLE_DEVICES"] for number in range(size)]
        assert {held.count(device) for device in devices} == {workers // 2}
        with pytest.raises(ConfigurationError, match=f"a GPU has room for {workers // 2} of them.* use workers={workers}"):
            shares.workers_for(workers + 1, 1, gpus)

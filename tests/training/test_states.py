"""Checkpoints in hand share nothing with what goes on."""

from collections import OrderedDict, defaultdict, namedtuple

import numpy as np
import torch

from torchtune_hp.training.states import copied_folder, fresh_folder, handed, own_config, snapshot

Pair = namedtuple("Pair", "a b")


def test_a_snapshot_shares_no_tensor_or_array():
    tensor, array = torch.ones(2, requires_grad=True), np.ones(2)
    live = {"loss": tensor * 2, "list": [tensor, (array,)], "text": "x", "none": None, "other": {1, 2}}
    copied = snapshot(live)
    with torch.no_grad():
        tensor.add_(1)
    array += 1
    live["other"].add(3)
    assert copied["loss"].tolist() == [2, 2] and not copied["loss"].requires_grad
    assert copied["list"][0].tolist() == [1, 1] and copied["list"][1][0].tolist() == [1, 1]
    assert copied["other"] == {1, 2} and copied["text"] == "x" and copied["none"] is None


def test_a_snapshot_keeps_the_kinds_of_containers():
    state = torch.nn.BatchNorm1d(2).state_dict()
    copied = snapshot({"model": state, "count": defaultdict(int, a=1), "pair": Pair(1, [2]), "size": torch.Size([1, 2])})
    assert type(copied["model"]) is OrderedDict and copied["model"]._metadata == state._metadata
    assert copied["count"]["new"] == 0 and copied["pair"] == Pair(1, [2]) and copied["pair"].b == [2]
    assert type(copied["size"]) is torch.Size


def test_a_config_s_containers_are_the_trial_s_own_and_its_objects_are_not():
    shared = object()
    config = {"a": {"b": [1, (2, {"c": shared})]}}
    own = own_config(config)
    assert own == config and own["a"]["b"][1][1]["c"] is shared
    own["a"]["b"][1][1]["d"] = own["a"]["b"].append(3)
    assert config == {"a": {"b": [1, (2, {"c": shared})]}}


def test_what_is_handed_over_may_be_changed(tmp_path):
    state = {"weight": torch.ones(2)}
    handed(state)["weight"].add_(1)
    assert state["weight"].tolist() == [1, 1]
    assert handed(tmp_path) is tmp_path


def test_folders_are_made_where_the_trial_lives_and_never_twice(tmp_path):
    home = tmp_path / "a" / "b"
    one, two = fresh_folder(home, "saved"), fresh_folder(home, "saved")
    assert one != two and one.parent == two.parent == home and one.name.startswith("saved-")


def test_a_copied_folder_outlives_its_source(tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "x").write_text("1")
    kept = copied_folder(source, tmp_path / "home", "reported")
    (source / "deep" / "x").unlink()
    assert (kept / "deep" / "x").read_text() == "1" and kept.parent == tmp_path / "home"

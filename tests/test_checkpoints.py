"""Checkpoint files: what is read back, what is refused, and what damage or an attacker may do to them."""

from __future__ import annotations

import enum
import os
from collections import Counter, OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from tests.spoiled import DAMAGES, Malicious, a_folder
from torchtune_hp.checkpoints import Stamp, normalized, pack, read_state, unpack, write_state
from torchtune_hp.errors import CheckpointError, UnsafeCheckpointError

# States -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adam() -> type[torch.optim.AdamW]:
    """The first optimizer of a process takes torch seconds of imports."""
    torch.optim.AdamW([torch.zeros(1)])
    return torch.optim.AdamW


def test_a_training_state_comes_back_as_it_was(tmp_path: Path, adam: type[torch.optim.AdamW]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = adam(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "step": 3}
    back = read_state(write_state(tmp_path / "a", state), tmp_path)
    assert isinstance(back, dict)
    assert vars(back["model"])["_metadata"] == vars(model.state_dict())["_metadata"]
    other = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    other.load_state_dict(back["model"])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    adam(other.parameters()).load_state_dict(back["optimizer"])
    assert type(back["schedule"]["milestones"]) is Counter and back["step"] == 3


NUMBERS = st.booleans() | st.integers() | st.floats() | st.complex_numbers(allow_nan=False)
PLAIN = st.none() | NUMBERS | st.text(max_size=5) | st.binary(max_size=5)
KEYS = st.text(max_size=4) | st.integers() | st.booleans() | st.floats(allow_nan=False) | st.tuples(st.integers(), st.text(max_size=2))
STATES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(KEYS, STATES, max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_plain_state_comes_back_as_it_was(state: dict[Any, Any]) -> None:
    assert repr(unpack(pack(state))) == repr(state)


@pytest.mark.parametrize("name", "float32 float64 bfloat16 float16 int64 uint8 bool complex64".split())
def test_tensors_of_every_kind_come_back(name: str) -> None:
    dtype: torch.dtype = getattr(torch, name)
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    back = unpack(pack({"a": tensor, "b": tensor.t(), "c": tensor[0, 1], "d": torch.empty(0, dtype=dtype)}))
    assert torch.equal(back["a"], tensor) and torch.equal(back["b"], tensor.t()) and torch.equal(back["c"], tensor[0, 1])
    assert {value.dtype for value in back.values()} == {dtype}
    assert (back["c"].shape, back["d"].shape) == ((), (0,))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_values_of_torch_and_collections_come_back() -> None:
    class Pair(NamedTuple):
        a: int
        b: Any

    state = {
        "dtype": torch.float16, "device": torch.device("cpu"), "size": torch.Size([2, 3]), "sparse": torch.eye(2).to_sparse(),
        "ordered": OrderedDict(b=1, a=2), "counter": Counter("aab"), "pair": Pair(1, [2]), "bytes": bytearray(b"x"),
    }   # fmt: skip
    back = unpack(pack(state))
    assert torch.equal(back.pop("sparse").to_dense(), torch.eye(2))
    del state["sparse"]
    assert back == {**state, "pair": (1, [2]), "bytes": b"x"}
    assert list(back["ordered"]) == ["b", "a"]
    assert (type(back["ordered"]), type(back["counter"]), type(back["size"])) == (OrderedDict, Counter, torch.Size)


def test_numpy_becomes_tensors_and_numbers() -> None:
    state = {
        "array": np.arange(6.0).reshape(2, 3).T, "swapped": np.array([1, 2], dtype=">i4"), "flag": np.bool_(True), "int": np.int64(2**62),
        "float": np.float64(0.1), "half": np.float32(0.5), "complex": np.complex128(1j), "text": np.str_("é"), "bytes": np.bytes_(b"b"),
        "empty": np.zeros((0, 2), dtype=np.uint8), "scalar": np.array(3),
    }   # fmt: skip
    back = unpack(pack(state))
    assert torch.equal(back["array"], torch.arange(6.0, dtype=torch.float64).reshape(2, 3).t())
    assert (back["swapped"].tolist(), back["swapped"].dtype, back["empty"].shape, back["scalar"].item()) == ([1, 2], torch.int32, (0, 2), 3)
    plain = {name: back[name] for name in ("flag", "int", "float", "half", "complex", "text", "bytes")}
    assert plain == {"flag": True, "int": 2**62, "float": 0.1, "half": 0.5, "complex": 1j, "text": "é", "bytes": b"b"}
    assert [type(value) for value in plain.values()] == [bool, int, float, float, complex, str, bytes]


def test_one_members_view_does_not_write_the_whole_stack() -> None:
    stack = torch.zeros(512, 1000)
    assert len(pack({"a": stack[3]})) < 10_000
    tied = torch.zeros(50_000)
    assert len(pack({"a": tied, "b": tied})) < 210_000
    parameter = torch.nn.Parameter(torch.ones(2))
    assert type(unpack(pack({"a": parameter}))["a"]) is torch.Tensor
    assert not normalized({"a": parameter})["a"].requires_grad


class Color(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "value, where",
    [
        ({"fn": len}, r"state\['fn'\] is a builtins\.builtin_function_or_method"),
        ({"a": [0, {"b": {1}}]}, r"state\['a'\]\[1\]\['b'\] is a builtins\.set"),
        ({"a": (Color.RED,)}, r"state\['a'\]\[0\] is a .*Color"),
        ({"a": Path("x")}, r"state\['a'\] is a pathlib"),
        ({"a": torch.nn.Linear(1, 1)}, r"state\['a'\] is a torch\.nn\.modules\.linear\.Linear"),
        ({("a", Color.RED): 1}, r"the key \('a', .*\) of state\[1\] is a .*Color"),
        ({"a": np.array([object()])}, r"state\['a'\] is a numpy object"),
        ({"a": np.array(["x"])}, r"state\['a'\] is a numpy <U1"),
        ({"a": np.datetime64("2020-01-01")}, r"state\['a'\] is a numpy datetime64"),
        ({"a": np.longdouble(1)}, r"state\['a'\] is a numpy"),
        ({"a": np.zeros(2, dtype=np.longdouble)}, r"state\['a'\] is a numpy"),
        ([1], "A state is a dict or a folder"),
    ],
)
def test_what_could_not_be_read_back_is_refused_with_its_key(tmp_path: Path, value: Any, where: str) -> None:
    with pytest.raises(UnsafeCheckpointError, match=where):
        write_state(tmp_path / "new" / "a", value)
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_contains_itself_is_refused() -> None:
    state: dict[str, Any] = {}
    state["self"] = state
    with pytest.raises(UnsafeCheckpointError, match="must not contain itself"):
        pack(state)


def test_a_folder_comes_back_file_by_file(tmp_path: Path) -> None:
    source = a_folder(tmp_path / "source")
    (source / "link").symlink_to(source / "model.bin")
    stamp = write_state(tmp_path / "a" / "b", source)
    assert (stamp.kind, stamp.size, stamp.path) == ("folder", 7 + 8 + 7, str(tmp_path / "a" / "b"))
    back = read_state(stamp, tmp_path)
    assert isinstance(back, Path) and back == tmp_path / "a" / "b" / "files"
    assert {path.relative_to(back).as_posix(): path.read_text() for path in back.rglob("*") if path.is_file()} == {
        "model.bin": "weights", "sub/model.bin": "weights!", "link": "weights",
    }   # fmt: skip
    assert not (back / "link").is_symlink()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_an_empty_folder_is_a_state(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    back = read_state(write_state(tmp_path / "a", tmp_path / "source"), tmp_path)
    assert isinstance(back, Path) and back.is_dir()


@pytest.mark.parametrize("kind", ["file", "folder", "broken", "device"])
def test_no_link_is_followed_out_of_a_folder(tmp_path: Path, kind: str) -> None:
    source = a_folder(tmp_path / "source")
    secret = a_folder(tmp_path / "secret")
    if kind == "device":
        os.mkfifo(source / "pipe")
    else:
        (source / "link").symlink_to({"file": secret / "model.bin", "folder": secret, "broken": tmp_path / "nothing"}[kind])
    with pytest.raises(UnsafeCheckpointError, match="source/(link|pipe) is a link out of it, or no file"):
        write_state(tmp_path / "a", source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "source"]


def test_a_path_that_is_no_folder_is_no_state(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder, but"):
        write_state(tmp_path / "a", tmp_path / "nothing")


# Damage -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_an_error(tmp_path: Path, damage: str) -> None:
    stamp = write_state(tmp_path / "a", {"w": torch.ones(5)})
    spoil, message = DAMAGES[damage]
    spoil(tmp_path / "a")
    with pytest.raises(CheckpointError, match=message):
        read_state(stamp, tmp_path)


@pytest.mark.parametrize("name", ["files/model.bin", "files/sub/model.bin", "manifest.json"])
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_file_of_a_folder_is_an_error(tmp_path: Path, name: str, damage: str) -> None:
    stamp = write_state(tmp_path / "a", a_folder(tmp_path / "source", "longer than nine"))
    spoil, message = DAMAGES[damage]
    spoil(tmp_path / "a" / name)
    with pytest.raises(CheckpointError, match=message):
        read_state(stamp, tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_checkpoint_is_refused_and_runs_nothing(tmp_path: Path, legacy: bool) -> None:
    torch.save({"w": Malicious(tmp_path / "marker")}, tmp_path / "a", _use_new_zipfile_serialization=not legacy)
    content = (tmp_path / "a").read_bytes()
    stamp = Stamp("a", len(content), sha256(content).hexdigest(), "state")
    with pytest.raises(CheckpointError, match="is not a checkpoint" if legacy else "more than data and would run code"):
        read_state(stamp, tmp_path)
    assert not (tmp_path / "marker").exists()


def test_content_that_is_no_checkpoint_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="it does not begin as one"):
        unpack(b"text")
    with pytest.raises(CheckpointError, match="cannot be read"):
        unpack(b"PK\x03\x04garbage")


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "link", "/etc/passwd"])
def test_nothing_outside_the_study_is_read(tmp_path: Path, path: str) -> None:
    root = tmp_path / "study"
    (root / "a").mkdir(parents=True)
    stamp = write_state(tmp_path / "outside", {"a": 1})
    (root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeCheckpointError, match="lies in the folder of its study"):
        read_state(Stamp(path, stamp.size, stamp.sha256, "state"), root)

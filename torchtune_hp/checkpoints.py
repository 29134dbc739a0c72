"""Checkpoint files: pure functions that write and read one state, usable in any process.

A state is a dict of tensors, numbers, strings and dicts, lists and tuples of them, or a folder of files. A file appears
under its name complete or not at all (temporary name, flush, fsync, rename, fsync of the folder), and its Stamp holds size
and SHA-256. Reading checks both and lets torch load data only (`weights_only=True`): nothing in a checkpoint is ever run,
and there is no second, laxer attempt.

What is written is normalized first: tensors are detached, on the CPU, and without the rest of a larger tensor they are a
view of; numpy arrays become tensors and numpy numbers numbers. What could not be read back is refused when it is written,
with the key it stands at.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import uuid
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from .errors import CheckpointError, UnsafeCheckpointError
from .journal_file import sync

if TYPE_CHECKING:
    from .training.runner import State

MANIFEST, FILES = "manifest.json", "files"
TEMPORARY = ".tmp-"
_ALLOWED = "tensors, numbers, strings, bytes, None, and dicts, lists and tuples of them"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is known of a written state. `kind` "state": one file; "folder": `files/` and a manifest, whose SHA-256 this is."""

    path: str
    size: int
    sha256: str
    kind: Literal["state", "folder"]


def write_state(target: Path, state: State) -> Stamp:
    """Writes `state` to `target`, which must not exist. The stamp's path is `target` as given.

    UnsafeCheckpointError if it could not be read back; CheckpointError if the disk is full or not writable. Either way
    nothing is left behind, and other files are untouched.
    """
    if isinstance(state, Path):
        return _write_folder(target, state)
    content = pack(state)
    draft = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        _make_folder(target.parent)
        _write(draft, content)
        os.replace(draft, target)
        sync(target.parent)
    except OSError as error:
        raise _unwritten(target, len(content), error) from error
    finally:
        with suppress(OSError):
            draft.unlink()
    return Stamp(str(target), len(content), hashlib.sha256(content).hexdigest(), "state")


def read_state(stamp: Stamp, root: Path) -> State:
    """The state of a stamp whose path is relative to `root`. A folder is given as it lies: copy it before changing it.

    CheckpointError if it is missing, truncated or changed; UnsafeCheckpointError if it holds anything but data.
    """
    content = _verified(stamp, root)
    return content if isinstance(content, Path) else unpack(content, str(root / stamp.path))


def check_state(stamp: Stamp, root: Path) -> None:
    """CheckpointError unless the bytes are those that were written; loads nothing, and no torch."""
    _verified(stamp, root)


def _verified(stamp: Stamp, root: Path) -> bytes | Path:
    """The content of a file, or where the files of a folder lie, once size and SHA-256 were found to be right."""
    path = root / stamp.path
    if not path.resolve().is_relative_to(root.resolve()):
        raise UnsafeCheckpointError(f"A checkpoint lies in the folder of its study, but {stamp.path!r} is outside of {root}.")
    if stamp.kind == "folder":
        content = _read(path / MANIFEST)
        _verify(path / MANIFEST, content, len(content), stamp.sha256)
        for name, size, sha256 in json.loads(content):
            file = path / FILES / name
            _verify(file, _read(file), size, sha256)
        return path / FILES
    content = _read(path)
    _verify(path, content, stamp.size, stamp.sha256)
    return content


def pack(state: Mapping[str, Any]) -> bytes:
    """A dict as the bytes of its file."""
    import torch

    if not isinstance(state, Mapping):
        raise UnsafeCheckpointError(f"A state is a dict or a folder (a pathlib.Path), but got a {type(state).__name__}.")
    buffer = io.BytesIO()
    try:
        torch.save(normalized(state), buffer)
    except RecursionError:
        raise UnsafeCheckpointError("A state must not contain itself, but this one does, or is nested too deep.") from None
    return buffer.getvalue()


def unpack(content: bytes, name: str = "the checkpoint") -> dict[str, Any]:
    """The dict back, on the CPU."""
    import torch

    if not content.startswith(b"PK"):
        raise CheckpointError(f"{name} is not a checkpoint: it does not begin as one.")
    try:
        with torch.serialization.safe_globals([bytes]):         # how pickle spells b""
            return cast(dict[str, Any], torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].partition(" Please use")[0].strip()
        raise UnsafeCheckpointError(f"{name} holds more than data and would run code; it was not loaded. ({reason})") from error
    except Exception as error:
        raise CheckpointError(f"{name} cannot be read: {error}") from error


def normalized(value: Any, where: str = "state") -> Any:
    """A copy made of what is loaded without running code. UnsafeCheckpointError names the key of what cannot be."""
    import torch

    if value is None or isinstance(value, (bool, torch.dtype, torch.device, torch.Size)):
        return value
    plain: Any = next((kind for kind in (int, float, complex, str, bytes) if isinstance(value, kind)), None)
    if plain is not None and (type(value) is plain or type(value).__module__ == "numpy"):       # an Enum would need its class
        return plain(value)
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, Mapping):
        return _mapping(value, where)
    if type(value) is list or isinstance(value, tuple):
        items = [normalized(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if type(value) is list else tuple(items)
    if isinstance(value, bytearray):
        return bytes(value)
    numpy = sys.modules.get("numpy")        # what was never imported made no value
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return _from_numpy(value, where)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise UnsafeCheckpointError(f"A checkpoint holds {_ALLOWED}, but {where} is a {kind}. Save what it is made of, or write files.")


def _mapping(value: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    items: dict[Any, Any] = {}
    for key, item in value.items():
        items[normalized(key, f"the key {key!r} of {where}")] = normalized(item, f"{where}[{key!r}]")
    if isinstance(value, Counter):
        return Counter(items)
    if isinstance(value, OrderedDict):
        ordered = OrderedDict(items)
        if hasattr(value, "_metadata"):      # of a state_dict: the versions by which modules read older ones
            ordered._metadata = normalized(value._metadata, f"{where}._metadata")  # type: ignore[attr-defined]
        return ordered
    return items


def _tensor(value: Any) -> Any:
    import torch

    tensor = value.detach().cpu()
    if type(tensor) is not torch.Tensor:
        tensor = tensor.as_subclass(torch.Tensor)
    if tensor.layout is torch.strided and tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
        return tensor.clone()       # one member's view would write the whole stack
    return tensor


def _from_numpy(value: Any, where: str) -> Any:
    import numpy
    import torch

    if isinstance(value, numpy.generic):
        plain = value.item()
        if isinstance(plain, (bool, int, float, complex, str, bytes)):
            return plain
    elif value.dtype.kind in "biufc":
        try:
            return torch.from_numpy(numpy.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
        except TypeError:
            pass
    raise UnsafeCheckpointError(f"A checkpoint holds {_ALLOWED}, but {where} is a numpy {value.dtype}. Convert it to numbers.")


# Folders ------------------------------------------------------------------------------------------------------------------


def _write_folder(target: Path, source: Path) -> Stamp:
    draft = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{target.name}")
    size = 0
    try:
        _make_folder(target.parent)
        draft.mkdir()
        listed: list[list[Any]] = []
        for name, file in files_of(source):
            content = file.read_bytes()
            size += len(content)
            copy = draft / FILES / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            _write(copy, content)
            listed.append([name, len(content), hashlib.sha256(content).hexdigest()])
        (draft / FILES).mkdir(exist_ok=True)
        manifest = json.dumps(listed).encode()
        _write(draft / MANIFEST, manifest)
        for folder, _, _ in os.walk(draft):
            sync(Path(folder))
        os.rename(draft, target)
        sync(target.parent)
    except OSError as error:
        raise _unwritten(target, size, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Stamp(str(target), size, hashlib.sha256(manifest).hexdigest(), "folder")


def files_of(source: Path) -> list[tuple[str, Path]]:
    """Names (with "/") and paths of the files in a folder. UnsafeCheckpointError for links that lead out of it, and devices."""
    if not source.is_dir():
        raise CheckpointError(f"A state that is a path is a folder, but {source} is none.")
    root, found = source.resolve(), []
    for folder, folders, names in os.walk(source):
        for name in [*names, *(name for name in folders if (Path(folder) / name).is_symlink())]:
            path = Path(folder) / name
            if not path.is_file() or not path.resolve().is_relative_to(root):
                raise UnsafeCheckpointError(f"A checkpoint is made of its own files, but {path} is a link out of it, or no file.")
            found.append((path.relative_to(source).as_posix(), path))
    return sorted(found)


# Bytes --------------------------------------------------------------------------------------------------------------------


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read: {error.strerror or error}.") from error


def _verify(path: Path, content: bytes, size: int, sha256: str) -> None:
    if len(content) != size:
        raise CheckpointError(f"The checkpoint {path} is damaged: it was written with {size} bytes, and has {len(content)}.")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"The checkpoint {path} is damaged: its SHA-256 is not that of what was written.")


def _unwritten(target: Path, size: int, error: OSError) -> CheckpointError:
    reason = error.strerror or error
    return CheckpointError(f"The checkpoint {target} needs {size:,} bytes and cannot be written: {reason}. Earlier ones are as they were.")

"""The vault: the states of trials that do not run, in memory where they fit, and as checkpoint files where they must last.

    put, record     a state becomes durable: the file first, then its row in the journal, then older files go
    newest          the latest state a trial can go on from
    kept            the weights of a best report
    rest, wake      a resting trial's state, held in host memory up to a budget and on the disk beyond it
    sweep           at the start: what a crash left between file and row

Files lie in `checkpoints/000123/` under names made of numbers alone. Of a trial there are two checkpoints to resume from
(should the newer be damaged) and one kept; of several objectives, one for each report on the front. A damaged one is passed
over with a Note; an unsafe one is an error.
Without a folder everything is in memory, as the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .checkpoints import Stamp, files_of, pack, read_state, unpack, write_state
from .errors import CheckpointError, UnsafeCheckpointError
from .journal import CheckpointRow, Journal
from .journal_text import from_json
from .pareto import dominates
from .trial import Note

if TYPE_CHECKING:
    from .training.runner import State

Purpose = Literal["resume", "keep"]
FOLDER = "checkpoints"
BUDGET = 256 * 2**20
_COPIES = {"resume": 2, "keep": 1}
_KEPT = """SELECT r.trial, r.step, r.metrics FROM report r
    WHERE (r.trial, r.step) IN (SELECT trial, step FROM checkpoint WHERE purpose = 'keep') ORDER BY r.id"""


class Vault:
    """Driver side. `folder`: the study's (None: in memory); `budget`: bytes of resting states held in host memory."""

    def __init__(self, folder: Path | None, journal: Journal, *, budget: int = BUDGET) -> None:
        self.folder = None if folder is None else Path(folder)
        self._journal = journal
        self._budget = budget
        self._used = 0
        self._resting: dict[int, tuple[int, _Held]] = {}
        self._spilled: set[int] = set()
        self._held: dict[str, _Held] = {}       # without a folder: what would be files
        self._unpacked: list[tempfile.TemporaryDirectory[str]] = []         # in the hands of whoever asked, until the vault goes
        self._woken: dict[int, list[tempfile.TemporaryDirectory[str]]] = {}     # in those of trials, until they rest again or end

    # Durable states -------------------------------------------------------------------------------------------------------

    def target(self, trial: int, step: int, purpose: Purpose) -> Path:
        """A new name for a file that a worker may write with `write_state`, to be recorded afterwards."""
        if self.folder is None:
            raise CheckpointError("A study in memory has no files. Give it a storage.")
        return self.folder / _path(trial, step, purpose)

    def put(self, trial: int, step: int, state: State, purpose: Purpose = "resume") -> None:
        """Makes a state durable. CheckpointError if it cannot be: then what was there before is there still."""
        if self.folder is not None:
            self.record(trial, step, write_state(self.target(trial, step, purpose), state), purpose)
            return
        held, path = _Held.of(state), _path(trial, step, purpose)
        self._held[path] = held
        self.record(trial, step, Stamp(path, held.size, held.sha256, held.kind), purpose)

    def record(self, trial: int, step: int, stamp: Stamp, purpose: Purpose = "resume") -> None:
        """A file that `write_state` wrote below this study's folder becomes the newest of its trial; older ones go."""
        path = Path(stamp.path)
        if self.folder is not None and path.is_absolute():
            path = path.relative_to(self.folder.absolute())
        elif self.folder is not None and path.is_relative_to(self.folder):
            path = path.relative_to(self.folder)
        self._journal.add_checkpoint(trial, step, purpose, path.as_posix(), stamp.size, stamp.sha256, stamp.kind)
        self._forget_older(trial, purpose)

    def newest(self, trial: int, upto: int | None = None) -> tuple[int, State] | None:
        """The sound checkpoint with the highest step (at most `upto`), whatever it was written for; None if there is none."""
        rows = [row for row in self._journal.checkpoints(trial) if upto is None or row.step <= upto]
        for row in sorted(rows, key=lambda row: (row.step, row.id), reverse=True):
            try:
                return row.step, self._read(row)
            except UnsafeCheckpointError:
                raise
            except CheckpointError as error:
                self._note(f"{error} The one before it is used instead, or none.", trial)
        return None

    def kept(self, trial: int, step: int | None = None) -> State:
        """The kept weights (of `step`, if given). CheckpointError if there are none."""
        rows = [row for row in self._journal.checkpoints(trial, "keep") if step is None or row.step == step]
        if not rows:
            at = "" if step is None else f" at step {step}"
            raise CheckpointError(
                f"The weights of trial {trial}{at} were not kept. `keep=k` keeps those of the k best trials: of a ModelTrainable, a "
                "Trainable with save_checkpoint, or a function that hands them over: hp.report(..., checkpoint=model.state_dict())."
            )
        try:
            return self._read(rows[-1])
        except CheckpointError as error:
            if self.folder is None or isinstance(error, UnsafeCheckpointError):
                raise
            way = f"To have trial {trial} trained to step {rows[-1].step} again, remove {self.folder / rows[-1].path} and resume the study."
            raise CheckpointError(f"{error} {way}") from error

    def kept_step(self, trial: int) -> int | None:
        """The step whose weights are kept; None if there are none."""
        rows = self._journal.checkpoints(trial, "keep")
        return rows[-1].step if rows else None

    def forget(self, trial: int, purpose: Purpose = "resume") -> None:
        """"resume": the trial's resting and resumable states; what is kept of it stays. "keep": what is kept."""
        if purpose == "resume":
            self._take(trial)
            self._spilled.discard(trial)
            self._let_go(trial)
        self._remove(self._journal.checkpoints(trial, purpose))

    def _forget_older(self, trial: int, purpose: Purpose) -> None:
        """Removes all but the newest two to resume from, or all but the newest kept; of several objectives, what is off the front."""
        rows = self._journal.checkpoints(trial, purpose)
        if purpose == "keep" and len(self._journal.objective.metrics) > 1:
            self._remove([row for row in rows[:-1] if row.step == rows[-1].step] + self._off_the_front(rows[-1]))
        else:
            self._remove(rows[: -_COPIES[purpose]])

    def _off_the_front(self, new: CheckpointRow) -> list[CheckpointRow]:
        """The kept states whose reports that of `new` dominates, of whichever trials; itself if a kept one dominates it."""
        rows = {(row.trial, row.step): row for row in self._journal.checkpoints(purpose="keep")}
        values = {(trial, step): self._journal.objective.values(from_json(metrics)) for trial, step, metrics in self._journal.rows(_KEPT)}
        own = values.pop((new.trial, new.step))
        beaten = [rows[at] for at, other in values.items() if dominates(own, other)]
        return beaten + [new] * any(dominates(other, own) for other in values.values())

    def sweep(self) -> int:
        """Removes files without rows and rows without files, with a Note if there were any. Returns how many."""
        rows = self._journal.checkpoints()
        lost = [row for row in rows if not self._exists(row)]
        if lost:
            self._journal.remove_checkpoints([row.id for row in lost])
        orphans = 0
        if self.folder is not None:
            known = {row.path for row in rows}
            for path in _entries(self.folder / FOLDER):
                if path.relative_to(self.folder).as_posix() not in known:
                    _delete(path)
                    orphans += 1
        if lost or orphans:
            text = f"{orphans} unrecorded checkpoint files were removed, and {len(lost)} records of files that are gone."
            self._note(text)
        return orphans + len(lost)

    def _note(self, text: str, trial: int | None = None) -> None:
        if self._journal.write:
            self._journal.note(Note("checkpoint", text, trial, self._journal.seconds))

    # Resting states -------------------------------------------------------------------------------------------------------

    def rest(self, trial: int, step: int, state: State) -> None:
        """Holds the state of a resting trial until `wake` or `forget`. Beyond the budget it is put on the disk."""
        self._take(trial)
        self._spilled.discard(trial)
        held = _Held.of(state)
        self._let_go(trial, state)
        if self.folder is not None and self._used + held.size > self._budget:
            self.put(trial, step, state)
            self._spilled.add(trial)
            return
        self._resting[trial] = (step, held)
        self._used += held.size

    def wake(self, trial: int) -> tuple[int, State] | None:
        """What `rest` was given, and lets go of it; None if the trial does not rest here."""
        found = self._take(trial)
        if found is not None:
            return found[0], self._unpack(found[1], self._woken.setdefault(trial, []))
        if trial in self._spilled:
            self._spilled.discard(trial)
            return self.newest(trial)
        return None

    def _take(self, trial: int) -> tuple[int, _Held] | None:
        found = self._resting.pop(trial, None)
        if found is not None:
            self._used -= found[1].size
        return found

    def _let_go(self, trial: int, state: State | None = None) -> None:
        """Removes the folders that this trial was woken with, but for `state`: who looks at a resting trial puts it back and reads on."""
        for folder in self._woken.pop(trial, []):
            if Path(folder.name) == state:
                self._woken[trial] = [folder]
            else:
                folder.cleanup()

    # Files and what stands for them ---------------------------------------------------------------------------------------

    def _read(self, row: CheckpointRow) -> State:
        if self.folder is not None:
            kind: Literal["state", "folder"] = "folder" if row.kind == "folder" else "state"
            return read_state(Stamp(row.path, row.size, row.sha256, kind), self.folder)
        if row.path not in self._held:
            raise CheckpointError(f"The state of trial {row.trial} at step {row.step} was in memory, and is gone.")
        return self._unpack(self._held[row.path], self._unpacked)

    def _unpack(self, held: _Held, folders: list[tempfile.TemporaryDirectory[str]]) -> State:
        """`folders`: where a temporary folder is held, if that is what the state is."""
        if held.content is not None:
            return unpack(held.content)
        folder = tempfile.TemporaryDirectory(prefix="state-", ignore_cleanup_errors=True)
        folders.append(folder)
        for name, content in held.files.items():
            path = Path(folder.name) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return Path(folder.name)

    def _exists(self, row: CheckpointRow) -> bool:
        return row.path in self._held if self.folder is None else (self.folder / row.path).exists()

    def _remove(self, rows: list[CheckpointRow]) -> None:
        """Rows first: a file without a row is swept up at the next start, a row without a file would be a promise."""
        if not rows:
            return
        self._journal.remove_checkpoints([row.id for row in rows])
        for row in rows:
            if self.folder is None:
                self._held.pop(row.path, None)
            else:
                path = self.folder / row.path
                _delete(path)
                with suppress(OSError):
                    path.parent.rmdir()     # once the trial's last file is gone


@dataclass(frozen=True, slots=True)
class _Held:
    """A state in memory: the bytes of its file, or the files of its folder."""

    content: bytes | None
    files: dict[str, bytes]
    size: int

    @classmethod
    def of(cls, state: State) -> _Held:
        if isinstance(state, Path):
            files = {name: path.read_bytes() for name, path in files_of(state)}
            return cls(None, files, sum(map(len, files.values())))
        content = pack(state)
        return cls(content, {}, len(content))

    @property
    def kind(self) -> Literal["state", "folder"]:
        return "folder" if self.content is None else "state"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content or b"".join(self.files.values())).hexdigest()


def _path(trial: int, step: int, purpose: Purpose) -> str:
    return f"{FOLDER}/{trial:06d}/{step:09d}-{purpose}-{uuid.uuid4().hex[:8]}"


def _entries(folder: Path) -> Iterator[Path]:
    """What lies in the trials' folders; links are named, not followed."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for trial in sorted(folder.iterdir()):
            if trial.is_symlink() or not trial.is_dir():
                yield trial
            else:
                yield from sorted(trial.iterdir())


def _delete(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)

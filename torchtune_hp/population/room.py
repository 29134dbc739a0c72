"""No room on the device: which errors say so, and how what they hold is let go of.

An error keeps its traceback, the traceback its frames, and the frames every tensor they had made: before a smaller attempt, all
of that has to go, and the allocator has to give back what it kept in pieces.
"""

from __future__ import annotations

import gc
import re
import traceback

import torch

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)


def limited(device: torch.device) -> bool:
    """Whether it is a device whose memory is its own, so that members can make room by lying in the host's."""
    return device.type != "cpu"


def let_go(error: BaseException) -> str:
    """Clears the frames of the error and of those before it: only their lines stay. Returns what it says, in a line."""
    at: BaseException | None = error
    while at is not None:
        traceback.clear_frames(at.__traceback__)
        at = at.__cause__ or at.__context__
    return said(error)


def free() -> None:
    """What nobody holds any more is the device's again, in one piece."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def said(error: BaseException) -> str:
    """Class and first sentences: torch's go on with advice about its allocator."""
    sentences = re.split(r"(?<=\.)\s+", str(error).strip())
    return f"{type(error).__name__}: {' '.join(sentences[:2])}".rstrip(": ")

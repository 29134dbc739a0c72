"""How much of this machine each worker process gets: cores, threads, GPUs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import ConfigurationError

if TYPE_CHECKING:
    import torch

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def workers_for(workers: int | str, cpus: int, gpus: float) -> tuple[int, tuple[str, ...]]:
    """How many workers there are to be, and the GPUs they share, as CUDA_VISIBLE_DEVICES names them."""
    devices = visible_gpus() if gpus else ()
    room = _room(gpus, len(devices)) if gpus else None
    if room == 0:
        raise ConfigurationError(f"gpus: each worker is to have {gpus} GPUs, but this machine shows {len(devices)}; use gpus=0.")
    if isinstance(workers, str):
        size = max(1, cores() // cpus)
        return (size if room is None else min(size, room)), devices
    if room is not None and workers > room:
        need = f"need {workers * gpus:g} GPUs" if gpus >= 1 else f"do not fit: a GPU has room for {_room(gpus, 1)} of them"
        raise ConfigurationError(
            f"workers: {workers} workers with {gpus} GPUs each {need}, but this machine shows {len(devices)}; "
            f"use workers={room}, or a smaller share."
        )
    return workers, devices


def _room(gpus: float, devices: int) -> int:
    """Workers with `gpus` each that so many GPUs have room for. A share lies on one GPU: two of 0.6 need two."""
    if gpus >= 1:
        return devices // int(gpus)
    return devices * int(1 / gpus * (1 + 1e-9))     # a tenth may be written a rounding error above it


def share_of(number: int, gpus: float, devices: tuple[str, ...]) -> dict[str, str]:
    """What the environment of worker `number` says about its GPUs. Shares of a GPU go round, so that none is fuller."""
    if not gpus:
        return {}
    if gpus < 1:
        mine = [devices[number % len(devices)]]
    else:
        count = int(gpus)
        mine = list(devices[number * count : (number + 1) * count])
    return {"CUDA_VISIBLE_DEVICES": ",".join(mine)}


def one_device(device: torch.device) -> tuple[str, dict[str, str]]:
    """What a process that is to have this device alone calls it, and what its environment says of GPUs: the one GPU that it sees is the
    current one, wherever code says "cuda"."""
    if device.type != "cuda":
        return str(device), {}
    return "cuda", {"CUDA_VISIBLE_DEVICES": visible_gpus()[device.index or 0]}


def environment(cpus: int) -> dict[str, str]:
    """What must be set before torch and numpy are imported, so that workers do not crowd each other out."""
    return dict.fromkeys(THREADS, str(cpus))


def cores() -> int:
    """The cores this process may use, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """The names of this process's GPUs. Counting them does not begin to use them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = [name.strip() for name in named.split(",")] if named else [str(number) for number in range(count)]
    return tuple(names[:count])

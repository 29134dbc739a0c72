"""Which devices trials are trained on, by their names."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import ConfigurationError

Devices = str | Sequence[str]
"""As an executor is given them: "auto", a name, or several."""


def check_devices(given: object) -> None:
    """Whether these are names at all; whether there are such devices is asked where the study runs."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            'devices: must be "auto", the name of a device such as "cuda", or several names such as ["cuda:0", "cuda:1"], but got '
            f"{given!r}."
        )


def devices_of(given: Devices) -> list[torch.device]:
    """The devices that are meant; "auto": all GPUs there are, or the CPU. ConfigurationError where one is not there, or they are of several
    kinds: all get equally many trials, and go by what one of them was measured to."""
    if given == "auto":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        given = [f"cuda:{number}" for number in range(count)] if count > 1 else "cuda" if count else "cpu"
    found = [device_of(name) for name in ([given] if isinstance(given, str) else given)]
    kinds = sorted({device.type for device in found})
    if len(kinds) > 1:
        raise ConfigurationError(
            f"devices: must be of one kind, for each gets as many trials, but {list(given)!r} are of {' and '.join(kinds)}. Name "
            "those of one kind."
        )
    return found


def device_of(name: str) -> torch.device:
    """The device of this name. ConfigurationError where torch knows none, or where this machine has none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigurationError(
            f'devices: must be names of devices of torch, such as "cuda", but got "{name}". "auto" is all GPUs there are, or the CPU.'
        ) from None
    there, found = ["cpu"], torch.accelerator.current_accelerator(check_available=True)
    if found is not None:
        there += [f"{found.type}:{number}" for number in range(torch.accelerator.device_count())]
    if device.type != "cpu" and f"{device.type}:{device.index or 0}" not in there:
        raise ConfigurationError(
            f'devices: must be some that are there, but "{name}" is not: there is {", ".join(there)}. Take of these.'
        )
    return device


def labels(devices: Sequence[torch.device]) -> list[str]:
    """What each is called where there are several: by its name, and by its place among those of that name."""
    names = [str(device) for device in devices]
    return [name if names.count(name) == 1 else f"{name} #{1 + names[:at].count(name)}" for at, name in enumerate(names)]

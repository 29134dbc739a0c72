"""`self.hparams`: the numbers of a trial's config as 0-dim tensors, so that a scalar enters a loss and members still fuse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class Hparams(Mapping[str, Any]):
    """The numeric leaves of a config: `hparams["alpha"]` is a 0-dim tensor on the device, floats in the default dtype, whole
    numbers int64. Nested ones are read as `hparams["loss.alpha"]` or `hparams["loss"]["alpha"]`.

    >>> Hparams({"alpha": 0.5, "loss": {"beta": 2}})["loss.beta"]
    tensor(2)
    """

    def __init__(self, config: Mapping[str, Any], device: torch.device | str = "cpu", path: str = "") -> None:
        self._config, self._device, self._path = config, device, path
        self._made: dict[str, Tensor | Hparams] = {}

    def __getitem__(self, name: str) -> Any:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._make(name)
        return made

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in self._config.items() if _is_number(value) or isinstance(value, Mapping))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def tensors(self) -> dict[str, Tensor]:
        """Every leaf by its dotted name."""
        found: dict[str, Tensor] = {}
        for name in self:
            part = self[name]
            if isinstance(part, Hparams):
                found.update({f"{name}.{inner}": leaf for inner, leaf in part.tensors().items()})
            else:
                found[name] = part
        return found

    def _make(self, name: str) -> Tensor | Hparams:
        if name in self._config:
            value = self._config[name]
            if isinstance(value, Mapping):
                return Hparams(value, self._device, f"{self._path}{name}.")
            if _is_number(value):
                dtype = torch.get_default_dtype() if isinstance(value, float) else torch.int64
                return torch.tensor(value, dtype=dtype, device=self._device)
            raise KeyError(f"hparams holds numbers, but {self._path + name!r} is {value!r}. Read self.config[{name!r}].")
        head, dot, rest = name.partition(".")
        if dot and isinstance(self._config.get(head), Mapping):
            found: Tensor | Hparams = self[head][rest]
            return found
        raise KeyError(f"{self._path + name!r} is not in the config, which holds {', '.join(map(repr, self._config)) or 'nothing'}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

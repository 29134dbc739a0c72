"""A member's tensors from one device to another: its model, and what its optimizer holds of each parameter.

Parameters stay the objects they are, so the optimizer and its schedulers notice nothing. A count of steps lies where torch wants
it: on the host, unless the optimizer's step is fused or captured.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

HOST = torch.device("cpu")


def move(model: nn.Module, optimizer: Optimizer, device: torch.device) -> None:
    """In place. An error in the middle leaves each tensor on one device or the other, whole: it can be moved again, either way."""
    if device != HOST or any(tensor.device != HOST for tensor in (*model.parameters(), *model.buffers())):
        model.to(device)    # nothing to be done takes as long as to make a layer
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            held = optimizer.state.get(parameter, {})
            for name, value in held.items():
                if isinstance(value, Tensor) and _follows(name, value, parameter, group):
                    held[name] = value.to(device)


def _follows(name: str, value: Tensor, parameter: Parameter, group: dict[str, Any]) -> bool:
    """Whether this part of the optimizer's state lies where its parameter does."""
    if value.dim() > 0 or group.get("fused") or group.get("capturable"):
        return True
    return parameter.dim() == 0 and name not in ("step", "mu_product")

"""What a step of one member writes: two members, and two trials, may not have it in common.

A backbone that all share is no such thing where it is frozen, and its running statistics are not where its `train` leaves them in eval
mode. In a stack each member would have a row of its own, and the last one that is written back would be everybody's; one after
another, each would go on with what the one before it has trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer


def written(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor): parameters that are trained, and running statistics that move on in training mode."""
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) in trained:
            yield name, parameter
    norms = [(path, module) for path, module in model.named_modules() if isinstance(module, _NormBase)]
    if not norms:
        return
    before = [(module, module.training) for module in model.modules()]
    model.train()
    moving = [
        (f"{path}.running_mean".lstrip("."), module.running_mean)
        for path, module in norms if module.training and module.running_mean is not None
    ]   # fmt: skip
    for module, training in before:
        module.training = training
    yield from moving


def in_common(members: Sequence[tuple[nn.Module, Optimizer]]) -> dict[str, Tensor]:
    """name -> the frozen parameters and the buffers that all of several members hold as one and the same tensor, and no step writes."""
    (model, optimizer), *others = members
    found = {name: tensor for name, tensor in _held(model).items() if not tensor.requires_grad} if others else {}
    for other, _ in others:
        if not found:
            return {}
        own = _held(other)
        found = {name: tensor for name, tensor in found.items() if own.get(name) is tensor}
    moving = {id(tensor) for _, tensor in written(model, optimizer)} if found else set()
    return {name: tensor for name, tensor in found.items() if id(tensor) not in moving}


def _held(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}

"""What is handed to `hp.Population`, checked before anything of it is stacked; each error names the law, the values and the way out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import LBFGS, SGD, Optimizer

from ..errors import ConfigurationError
from ..parts import as_int
from .held import Member
from .signature import Signature, difference, signature
from .written import written


def members_of(models: Sequence[nn.Module], optimizers: Sequence[Optimizer] | None) -> list[Member]:
    """`optimizers` None: of members that nothing trains; theirs have none of the model's parameters."""
    models, trained = list(models), optimizers is not None
    optimizers = [SGD([torch.empty(0)]) for _ in models] if optimizers is None else list(optimizers)
    problems = []
    if len(models) != len(optimizers):
        problems.append(f"an optimizer for each model is needed, but got {len(models)} models and {len(optimizers)} optimizers.")
    for what, given, kind in (("models", models, nn.Module), ("optimizers", optimizers, Optimizer)):
        wrong = next((each for each in given if not isinstance(each, kind)), None)
        if wrong is not None:
            problems.append(f"{what} must be of {kind.__module__}.{kind.__name__}, but one is a {type(wrong).__name__}.")
    lazy = [place for place, model in enumerate(models) if isinstance(model, nn.Module) and any(map(is_lazy, model.parameters()))]
    if lazy:
        problems.append(f"lazy layers must have seen a batch, but model {lazy[0]} has some without shapes. Call each model once before.")
    if any(isinstance(optimizer, LBFGS) for optimizer in optimizers):
        problems.append("LBFGS evaluates the loss several times in a step, which `step` does not. Take another optimizer.")
    if problems:
        raise ConfigurationError("\n".join(f"Population: {problem}" for problem in problems))
    for place, (model, optimizer) in enumerate(zip(models, optimizers)):
        own = {id(parameter) for parameter in model.parameters()}
        if trained and any(id(parameter) not in own for group in optimizer.param_groups for parameter in group["params"]):
            raise ConfigurationError(f"Population: optimizer {place} must train parameters of model {place}, but some of its are not.")
    return list(zip(models, optimizers))


def agree(first: Signature, members: Sequence[Member]) -> None:
    for place, (model, optimizer) in enumerate(members):
        found = difference(first, signature(model, optimizer))
        if found is not None:
            raise ConfigurationError(
                f"Population: members must agree in all but the values of tensors and the numbers of param_groups, but member {place} and "
                f"the first differ in {found}. Make a Population for each kind."
            )


def no_tensor_of_two(members: Sequence[Member]) -> None:
    owners: dict[int, int] = {}
    for place, (model, optimizer) in enumerate(members):
        for name, tensor in written(model, optimizer):
            if owners.setdefault(id(tensor), place) != place:
                raise ConfigurationError(
                    f"Population: each member must have the tensors that its steps write for itself, but {name} of member {place} is also "
                    f"member {owners[id(tensor)]}'s. Give each a copy.deepcopy; what all have in common must be frozen."
                )


def seeds_of(given: Sequence[int] | None, k: int, start: int) -> list[int]:
    if given is None:
        return list(range(start, start + k))
    if isinstance(given, Sequence):
        given = [as_int(seed) for seed in given]
    if not isinstance(given, Sequence) or not all(isinstance(seed, int) for seed in given):
        raise ConfigurationError(f"Population: seeds must be a list with an int for each model, but got {given!r:.60}.")
    if len(given) != k:
        raise ConfigurationError(f"Population: a seed for each model is needed, but got {len(given)} for {k}.")
    return list(given)


def clips_of(given: float | Sequence[float] | None, k: int) -> list[float] | None:
    if given is None:
        return None
    clips = list(given) if isinstance(given, Sequence) else [given] * k
    if len(clips) != k or not all(isinstance(clip, (int, float)) and not isinstance(clip, bool) and clip > 0 for clip in clips):
        raise ConfigurationError(f"Population: max_grad_norm must be positive, one number or one for each of {k}, but got {given!r}.")
    return [float(clip) for clip in clips]

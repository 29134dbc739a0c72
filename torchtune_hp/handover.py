"""A trained model as a file that needs neither this library nor the study: what `Result.export` writes.

    .pt            its state_dict, by torch.save: load with torch.load(file, weights_only=True)
    .safetensors   the same, by safetensors: load with safetensors.torch.load_model(model, file)
    .onnx          the model itself, by torch.onnx: it runs where there is no PyTorch

A file is there whole or not at all: it is written beside its place and moved there.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .errors import ConfigurationError

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]
"""What a model is called with: model(*args, **kwargs)."""


def write(models: Sequence[Any], path: Path | str, inputs: Callable[[], Inputs]) -> list[Path]:
    """The files, one for each model: `path`, or with a number in its name where there are several.

    `inputs`: asked for .onnx alone. ConfigurationError for another ending, and for what has no tensors by name;
    ModuleNotFoundError says what to install.
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix)
    if writer is None:
        raise ConfigurationError(f"export: a file's ending says what is written, one of {', '.join(_WRITERS)}, but got {str(path)!r}.")
    files = [path] if len(models) == 1 else [path.with_stem(f"{path.stem}-{number}") for number in range(len(models))]
    path.parent.mkdir(parents=True, exist_ok=True)
    for model, file in zip(models, files):
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            writer(model, beside, inputs)
            os.replace(beside, file)
        finally:
            beside.unlink(missing_ok=True)
    return files


def _pt(model: Any, file: Path, inputs: Callable[[], Inputs]) -> None:
    torch.save(_tensors(model), file)


def _safetensors(model: Any, file: Path, inputs: Callable[[], Inputs]) -> None:
    safetensors = _installed("safetensors.torch", "safetensors")
    if isinstance(model, nn.Module):
        safetensors.save_model(model, str(file))       # tensors that several names share are written once
    else:
        safetensors.save_file({name: part.contiguous() for name, part in _tensors(model).items()}, str(file))


def _onnx(model: Any, file: Path, inputs: Callable[[], Inputs]) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"export: .onnx needs an nn.Module, but the trial's is a {type(model).__name__}. Its weights fit in .pt.")
    _installed("onnxscript", "onnx onnxscript")
    args, kwargs = inputs()
    with torch.no_grad():
        model(*args, **kwargs)      # a mistake in them is raised as it is, and not as the exporter's
    leading = [part.shape[0] for part in [*args, *kwargs.values()] if isinstance(part, Tensor) and part.dim()]
    size = leading[0] if leading else None      # the batch, whose size is left open in the file

    def free(part: Any) -> Any:
        return {0: torch.export.Dim.DYNAMIC} if isinstance(part, Tensor) and part.dim() and part.shape[0] == size else None

    shapes = tree_map(free, dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments))
    torch.onnx.export(
        model, tuple(args), str(file), kwargs=dict(kwargs), dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
    )


_WRITERS: dict[str, Callable[[Any, Path, Callable[[], Inputs]], None]] = {".pt": _pt, ".safetensors": _safetensors, ".onnx": _onnx}


def _tensors(model: Any) -> dict[str, Tensor]:
    state = model.state_dict() if isinstance(model, nn.Module) else model
    wrong = [str(name) for name, part in state.items() if not isinstance(part, Tensor)] if isinstance(state, Mapping) else []
    if not isinstance(state, Mapping) or wrong:
        found = f"holds {wrong[0]!r}, which is none" if wrong else f"is a {type(state).__name__}"
        raise ConfigurationError(f"export: tensors by name are written, but the trial's checkpoint {found}. Take what `load()` gives.")
    return dict(state)


def _installed(module: str, packages: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"export: this file needs {packages}: pip install 'torchtune-hp[export]'.") from error
